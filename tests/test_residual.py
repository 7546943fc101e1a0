"""What the mean leaves: spreads, whitening components, and Gaussian conditioning on known cells."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.residual import ResidualComponents, condition_on_known


def _covariance(width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(width, width + 1)) * rng.uniform(0.2, 3.0, width)[:, None]
    return root @ root.T


def _sample(width: int, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 1).multivariate_normal(np.zeros(width), _covariance(width, seed), rows)


def _fitted(width: int = 5, rows: int = 400) -> ResidualComponents:
    return ResidualComponents.fit(_sample(width, rows), np.ones(rows))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_covariance_is_that_of_the_residuals(width: int) -> None:
    residual = _sample(width, 20_000)
    fitted = ResidualComponents.fit(residual, np.ones(len(residual)))
    np.testing.assert_allclose(fitted.spread, np.sqrt((residual**2).mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(fitted.loading.T @ fitted.loading, fitted.covariance(), rtol=1e-12)
    # A spread per feature is kept exactly; the correlations are shrunk a little.
    np.testing.assert_allclose(np.diag(fitted.covariance()), fitted.spread**2, rtol=1e-10)
    expected, scale = residual.T @ residual / len(residual), np.outer(fitted.spread, fitted.spread)
    np.testing.assert_allclose(fitted.covariance() / scale, expected / scale, atol=0.01)


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
    z = np.random.default_rng(0).normal(size=(7, width))
    np.testing.assert_allclose(fitted.components(z @ fitted.loading), z, rtol=1e-8, atol=1e-8)


def test_components_whiten_residuals_like_those_they_were_fitted_on() -> None:
    fitted, fresh = _fitted(rows=20_000), _sample(5, 20_000)
    z = fitted.components(fresh)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(5), atol=0.05)


def test_a_weight_counts_as_repeating_the_row() -> None:
    residual, times = _sample(3, 3000), np.random.default_rng(0).integers(1, 4, 3000)
    weighted = ResidualComponents.fit(residual, times.astype(float))
    repeated = ResidualComponents.fit(residual.repeat(times, axis=0), np.ones(times.sum()))
    np.testing.assert_allclose(weighted.spread, repeated.spread, rtol=1e-12)
    # The shrinkage counts rows, so it is a little stronger without the repeats.
    np.testing.assert_allclose(weighted.variances, repeated.variances, atol=0.02)


def test_unknown_cells_count_for_nothing() -> None:
    residual = _sample(4, 5000)
    gone = np.random.default_rng(0).random(residual.shape) < 0.2
    fitted = ResidualComponents.fit(np.where(gone, np.nan, residual), np.ones(len(residual)))
    expected = np.sqrt(np.where(gone, 0.0, residual**2).sum(axis=0) / (~gone).sum(axis=0))
    np.testing.assert_allclose(fitted.spread, expected, rtol=1e-12)
    one = np.where(gone, np.nan, residual)[:3]
    np.testing.assert_array_equal(fitted.components(one), fitted.components(np.where(gone, 0.0, residual)[:3]))


def test_a_feature_that_is_never_known_stays_finite() -> None:
    residual = _sample(4, 50)
    residual[:, 2] = np.nan
    fitted = ResidualComponents.fit(residual, np.ones(50))
    assert np.isfinite(fitted.loading).all()
    assert np.isfinite(fitted.components(residual)).all()
    assert fitted.spread[2] < 1e-3


def test_the_state_comes_back() -> None:
    fitted = _fitted()
    np.testing.assert_array_equal(ResidualComponents.from_state(fitted.state()).loading, fitted.loading)


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
    np.testing.assert_allclose(condition_on_known(np.zeros((1, 5)), known, covariance)[0], mean, atol=1e-10)
    slope = condition_on_known(np.eye(5), known, covariance) - mean
    np.testing.assert_allclose(slope.T @ covariance @ slope, spread, atol=1e-9)


def test_conditioned_draws_follow_the_posterior() -> None:
    covariance, known, count = _covariance(5), KNOWN[0], 40_000
    draws = np.random.default_rng(3).multivariate_normal(np.zeros(5), covariance, count)
    got = condition_on_known(draws, known, covariance)
    mean, spread = _posterior(known, covariance)
    error = np.sqrt(np.diag(spread) / count)
    assert (np.abs(got.mean(axis=0) - mean) <= 4.5 * error + 1e-12).all()
    np.testing.assert_allclose(np.cov(got.T), spread, atol=0.03 * spread.max())


@pytest.mark.parametrize("known", KNOWN, ids=["two", "one", "four", "all", "none"])
def test_known_cells_come_back_exactly_and_the_draws_stay_as_they_are(known: np.ndarray) -> None:
    draws = np.random.default_rng(0).normal(size=(6, 5))
    before = draws.copy()
    got = condition_on_known(draws, known, _covariance(5))
    seen = np.isfinite(known)
    np.testing.assert_array_equal(got[:, seen], np.broadcast_to(known[seen], (6, int(seen.sum()))))
    np.testing.assert_array_equal(draws, before)
    if not seen.any():
        np.testing.assert_array_equal(got, draws)
