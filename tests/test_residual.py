"""What mean and spread leave: correlation, whitening components, and Gaussian conditioning on known cells."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.default.correlation import ResidualComponents, condition_on_known


def _covariance(width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(width, width + 1)) * rng.uniform(0.2, 3.0, width)[:, None]
    return root @ root.T


def _correlation(width: int) -> np.ndarray:
    covariance = _covariance(width)
    sd = np.sqrt(np.diag(covariance))
    return covariance / np.outer(sd, sd)


def _sample(width: int, rows: int, seed: int = 0) -> np.ndarray:
    """Standardised residuals (rows, width)."""
    return np.random.default_rng(seed + 1).multivariate_normal(np.zeros(width), _correlation(width), rows)


def _fitted(width: int = 5, rows: int = 400) -> ResidualComponents:
    return ResidualComponents.fit(_sample(width, rows), np.ones(rows))


# -- components -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_correlation_is_that_of_the_residuals(width: int) -> None:
    fitted = _fitted(width, 20_000)
    assert fitted.width == width
    np.testing.assert_allclose(fitted.loading.T @ fitted.loading, fitted.correlation(), rtol=1e-12)
    # Unit variances are kept exactly; the correlations are shrunk a little.
    np.testing.assert_allclose(np.diag(fitted.correlation()), 1.0, rtol=1e-10)
    np.testing.assert_allclose(fitted.correlation(), _correlation(width), atol=0.03)


def test_the_size_of_a_residual_does_not_matter() -> None:
    residual = _sample(4, 500)
    one, other = (ResidualComponents.fit(residual * size, np.ones(500)) for size in (1.0, np.array([2.0, 0.1, 1, 30])))
    np.testing.assert_allclose(one.correlation(), other.correlation(), rtol=1e-8, atol=1e-10)


def test_correlations_of_few_people_are_shrunk() -> None:
    def off_diagonal(rows: int) -> float:
        return float(np.abs(_fitted(30, rows).correlation() - np.eye(30)).sum())

    sample = np.corrcoef(_sample(30, 12).T)
    assert off_diagonal(12) < 0.9 * np.abs(sample - np.eye(30)).sum()
    assert np.linalg.eigvalsh(_fitted(30, 12).correlation()).min() > 0.01


@pytest.mark.parametrize(("width", "rows"), [(1, 10), (5, 400), (30, 12)])
def test_components_are_orthonormal_ordered_and_of_one_sign(width: int, rows: int) -> None:
    fitted = _fitted(width, rows)
    np.testing.assert_allclose(fitted.vectors.T @ fitted.vectors, np.eye(width), atol=1e-10)
    assert (np.diff(fitted.variances) <= 1e-12).all()
    assert (fitted.variances > 0).all()
    assert fitted.variances.sum() == pytest.approx(width)
    largest = fitted.vectors[np.abs(fitted.vectors).argmax(axis=0), np.arange(width)]
    assert (largest > 0).all()


@pytest.mark.parametrize(("width", "rows"), [(1, 10), (5, 400), (30, 12)])
def test_components_undo_the_loading(width: int, rows: int) -> None:
    fitted = _fitted(width, rows)
    c = np.random.default_rng(0).normal(size=(7, width))
    np.testing.assert_allclose(fitted.components(c @ fitted.loading), c, rtol=1e-8, atol=1e-8)


def test_components_whiten_residuals_like_those_they_were_fitted_on() -> None:
    c = _fitted(rows=20_000).components(_sample(5, 20_000, seed=5))
    np.testing.assert_allclose(c.T @ c / len(c), np.eye(5), atol=0.05)


def test_a_weight_counts_as_repeating_the_row() -> None:
    residual, times = _sample(3, 3000), np.random.default_rng(0).integers(1, 4, 3000)
    weighted = ResidualComponents.fit(residual, times.astype(float))
    repeated = ResidualComponents.fit(residual.repeat(times, axis=0), np.ones(times.sum()))
    # The shrinkage counts rows, so it is a little stronger without the repeats.
    np.testing.assert_allclose(weighted.correlation(), repeated.correlation(), atol=0.02)


def test_heavy_rows_decide_the_correlation() -> None:
    rng = np.random.default_rng(0)
    shared, rest = rng.normal(size=(2, 2000, 1))
    sign = np.where(np.arange(2000) < 500, 1.0, -1.0)[:, None]
    residual = np.concatenate([shared, 0.8 * sign * shared + 0.6 * rest], axis=1)
    fitted = ResidualComponents.fit(residual, np.where(sign[:, 0] > 0, 9.0, 1.0))
    # 500 rows of weight 9 against 1,500 of weight 1.
    assert fitted.correlation()[0, 1] == pytest.approx(0.8 * (4500 - 1500) / 6000, abs=0.06)


def test_only_the_proportions_of_weights_count() -> None:
    residual, weight = _sample(3, 300), np.random.default_rng(0).uniform(0.2, 1.0, 300)
    one, other = (ResidualComponents.fit(residual, weight * factor) for factor in (1.0, 7.0))
    np.testing.assert_allclose(one.correlation(), other.correlation(), rtol=1e-10)


def test_unknown_cells_leave_the_correlation_as_it_is() -> None:
    residual = _sample(5, 20_000)
    gone = np.random.default_rng(0).random(residual.shape) < 0.3
    holed = ResidualComponents.fit(np.where(gone, np.nan, residual), np.ones(len(residual)))
    whole = ResidualComponents.fit(residual, np.ones(len(residual)))
    np.testing.assert_allclose(holed.correlation(), whole.correlation(), atol=0.03)


def test_pairs_of_features_that_do_not_fit_together_become_a_correlation() -> None:
    # Three features of which no two pairs are known in the same people: each pair says something else.
    rng = np.random.default_rng(0)
    residual = np.full((300, 3), np.nan)
    for place, (one, other, sign) in enumerate(((0, 1, 1.0), (1, 2, 1.0), (0, 2, -1.0))):
        rows = slice(100 * place, 100 * (place + 1))
        residual[rows, one] = rng.normal(size=100)
        residual[rows, other] = sign * residual[rows, one]
    fitted = ResidualComponents.fit(residual, np.ones(300))
    assert (fitted.variances > 0).all()
    np.testing.assert_allclose(np.diag(fitted.correlation()), 1.0)
    assert np.isfinite(fitted.components(fitted.filled(residual, 0))).all()


def test_a_feature_that_is_never_known_stays_finite() -> None:
    residual = _sample(4, 50)
    residual[:, 2] = np.nan
    fitted = ResidualComponents.fit(residual, np.ones(50))
    assert np.isfinite(fitted.loading).all()
    assert np.isfinite(fitted.components(fitted.filled(residual, 0))).all()
    # It goes with no other.
    np.testing.assert_allclose(fitted.correlation()[2], np.eye(4)[2], atol=1e-10)


# -- unknown cells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_components_of_filled_residuals_vary_as_those_of_complete_ones(share: float) -> None:
    fitted, residual = _fitted(rows=20_000), _sample(5, 20_000, seed=5)
    gone = np.random.default_rng(0).random(residual.shape) < share
    holed = np.where(gone, np.nan, residual)
    filled = fitted.filled(holed, 0)
    np.testing.assert_array_equal(filled[~gone], residual[~gone])
    np.testing.assert_array_equal(np.isnan(holed), gone)
    c = fitted.components(filled)
    np.testing.assert_allclose(c.T @ c / len(c), np.eye(5), atol=0.06)
    # No residual in their place would vary too little, and pass for a distribution of its own.
    nothing = fitted.components(np.where(gone, 0.0, residual))
    assert (nothing**2).mean(axis=0).min() < 1.0 - 0.5 * share


def test_an_unknown_residual_is_drawn_given_the_rest_of_its_row() -> None:
    fitted = _fitted()
    known = np.array([1.5, np.nan, np.nan, -0.5, np.nan])
    filled = fitted.filled(np.tile(known, (20_000, 1)), 0)
    mean, spread = _posterior(known, fitted.correlation())
    np.testing.assert_allclose(filled.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(filled.T), spread, atol=0.03)


def test_what_is_filled_in_is_decided_by_the_seed() -> None:
    fitted, residual = _fitted(), _sample(5, 50)
    assert fitted.filled(residual, 0) is residual
    residual[3, 1] = np.nan
    one, again, other = (fitted.filled(residual, seed)[3, 1] for seed in (0, 0, 1))
    assert one == again != other


def test_the_state_comes_back() -> None:
    fitted = _fitted()
    np.testing.assert_array_equal(ResidualComponents.from_state(dict(fitted.state())).loading, fitted.loading)


# -- known cells ------------------------------------------------------------------------------------------------------


def _posterior(known: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a zero-mean Gaussian given some of its cells, from the covariance's blocks."""
    o = np.isfinite(known)
    inverse = np.linalg.inv(covariance[np.ix_(o, o)])
    mean, spread = known.copy(), np.zeros_like(covariance)
    mean[~o] = covariance[np.ix_(~o, o)] @ inverse @ known[o]
    left = covariance[np.ix_(~o, ~o)] - covariance[np.ix_(~o, o)] @ inverse @ covariance[np.ix_(o, ~o)]
    spread[np.ix_(~o, ~o)] = left
    return mean, spread


KNOWN = [
    np.array([np.nan, 0.7, np.nan, np.nan, -2.0]),
    np.array([1.0, np.nan, np.nan, np.nan, np.nan]),
    np.array([1.0, 2.0, np.nan, -1.0, 0.0]),
    np.array([1.0, 2.0, 0.5, -1.0, 0.0]),
    np.full(5, np.nan),
]


@pytest.mark.parametrize("known", KNOWN, ids=["two", "one", "four", "all", "none"])
def test_conditioning_has_exactly_the_mean_and_covariance_of_the_posterior(known: np.ndarray) -> None:
    covariance = _covariance(5)
    mean, spread = _posterior(known, covariance)
    # The draw is linear in the unconditional one: its value at zero is the mean, its slope carries the covariance.
    np.testing.assert_allclose(
        condition_on_known(np.zeros((1, 5)), known, np.linalg.inv(covariance))[0], mean, atol=1e-10
    )
    slope = condition_on_known(np.eye(5), known, np.linalg.inv(covariance)) - mean
    np.testing.assert_allclose(slope.T @ covariance @ slope, spread, atol=1e-9)


def test_conditioned_draws_follow_the_posterior() -> None:
    covariance, known, count = _covariance(5), KNOWN[0], 40_000
    draws = np.random.default_rng(3).multivariate_normal(np.zeros(5), covariance, count)
    got = condition_on_known(draws, known, np.linalg.inv(covariance))
    mean, spread = _posterior(known, covariance)
    error = np.sqrt(np.diag(spread) / count)
    assert (np.abs(got.mean(axis=0) - mean) <= 4.5 * error + 1e-12).all()
    np.testing.assert_allclose(np.cov(got.T), spread, atol=0.03 * spread.max())


@pytest.mark.parametrize("known", KNOWN, ids=["two", "one", "four", "all", "none"])
def test_known_cells_come_back_exactly_and_the_draws_stay_as_they_are(known: np.ndarray) -> None:
    draws = np.random.default_rng(0).normal(size=(6, 5))
    before = draws.copy()
    got = condition_on_known(draws, known, np.linalg.inv(_covariance(5)))
    seen = np.isfinite(known)
    np.testing.assert_array_equal(got[:, seen], np.broadcast_to(known[seen], (6, int(seen.sum()))))
    np.testing.assert_array_equal(draws, before)
    if not seen.any():
        np.testing.assert_array_equal(got, draws)
