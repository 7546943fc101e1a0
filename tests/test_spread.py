"""The spread: a log-linear size of the error where there is one, and one number a feature where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from secondgram.imputation.default.spread import CANDIDATES, Spread, fit_spread, spread_as
from secondgram.imputation.default.spread import _fit as _fit_as
from secondgram.imputation.folds import unit_folds
from secondgram.imputation.scores import normal_crps

FEATURES, COVARIATES = 6, 2
INPUTS = FEATURES + COVARIATES + 1
SIZES = np.linspace(0.3, 2.0, FEATURES)


def _inputs(pairs: int = 500, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pairs, INPUTS)), rng


def _fit(X: np.ndarray, residual: np.ndarray, weight: np.ndarray | None = None) -> Spread:
    unit = np.array([f"person-{number}" for number in range(len(X))])
    return fit_spread(X, residual, np.ones(len(X)) if weight is None else weight, unit, unit_folds(unit, 0))


# -- what is found ----------------------------------------------------------------------------------------------------


def test_one_spread_a_feature_is_chosen_where_nothing_varies() -> None:
    X, rng = _inputs()
    residual = SIZES * rng.normal(size=(500, FEATURES))
    spread = _fit(X, residual)
    assert spread.candidate == "constant"
    assert not spread.slopes.any()
    np.testing.assert_allclose(spread.scale(X), np.broadcast_to(SIZES, (500, FEATURES)), rtol=0.1)
    # Of everybody whom it was fitted on, and of nothing else.
    plain = spread_as("constant", X, residual, np.ones(500))
    np.testing.assert_array_equal(plain.scale(X), spread.scale(X))


def test_a_spread_that_grows_with_the_gap_is_recovered() -> None:
    X, rng = _inputs(1000)
    truth = SIZES * np.exp(0.4 * X[:, -1:])
    spread = _fit(X, truth * rng.normal(size=(1000, FEATURES)))
    assert spread.candidate == "gap"
    # One slope for all features, and nothing else.
    np.testing.assert_allclose(spread.slopes[COVARIATES], 0.4, atol=0.04)
    assert not np.delete(spread.slopes, COVARIATES, axis=0).any()
    np.testing.assert_allclose(np.exp(spread.level), SIZES * np.exp(0.4 * X[:, -1].mean()), rtol=0.1)
    assert spread.gain["gap"][0] > spread.gain["gap"][1] > 0


def test_slopes_that_features_share_are_recovered() -> None:
    X, rng = _inputs(1000)
    baseline, shown = X[:, :FEATURES], X[:, FEATURES:]
    log = shown @ np.array([0.3, -0.2, 0.1])[:, None] + 0.15 * np.clip(baseline, -4, 4)
    spread = _fit(X, SIZES * np.exp(log) * rng.normal(size=(1000, FEATURES)))
    assert spread.candidate == "common"
    for row, slope in zip(spread.slopes, [0.3, -0.2, 0.1, 0.15, 0.0], strict=True):
        np.testing.assert_allclose(row, slope, atol=0.05)


def test_slopes_of_their_own_are_recovered() -> None:
    X, rng = _inputs(3000)
    slopes = np.array([0.6, -0.6, 0.3, -0.3, 0.0, 0.0])
    truth = SIZES * np.exp(X[:, FEATURES : FEATURES + 1] * slopes)
    spread = _fit(X, truth * rng.normal(size=(3000, FEATURES)))
    assert spread.candidate == "own"
    # Drawn to the common one, which is about 0.
    np.testing.assert_allclose(spread.slopes[0], slopes, atol=0.08)
    assert (np.abs(spread.slopes[0, :4]) < np.abs(slopes[:4]) + 0.03).all()
    assert np.corrcoef(np.log(spread.scale(X)).ravel(), np.log(truth).ravel())[0, 1] > 0.99
    assert set(spread.gain) == set(CANDIDATES)
    assert spread.gain["constant"] == [0.0, 0.0]
    assert spread.gain["own"][0] > spread.gain["common"][0] + spread.gain["own"][1]


def test_where_pairs_are_few_own_slopes_are_near_the_common_one() -> None:
    X, rng = _inputs(100)
    slopes = np.linspace(0.2, 0.8, FEATURES)
    residual = np.exp(X[:, -1:] * slopes) * rng.normal(size=(100, FEATURES))
    common, own = (_fit_as(name, X, residual, np.ones(100)).slopes[COVARIATES] for name in ("common", "own"))
    assert len(set(common)) == 1
    assert own.mean() == pytest.approx(common[0], abs=0.06)
    # On the way to their own, and less than half of it.
    assert 0.0 < np.polyfit(slopes - slopes.mean(), own, 1)[0] < 0.5


def test_a_feature_that_errs_more_where_it_is_large_is_found() -> None:
    X, rng = _inputs(1500)
    size = 0.3 + np.abs(X[:, :FEATURES])
    spread = _fit(X, size**0.5 * rng.normal(size=(1500, FEATURES)))
    assert spread.candidate == "common"
    np.testing.assert_allclose(spread.slopes[-1], 0.5, atol=0.05)
    np.testing.assert_allclose(spread.slopes[:-1], 0.0, atol=0.05)


def test_without_gaps_there_is_no_slope_on_them() -> None:
    X, rng = _inputs()
    X[:, -1] = 0.0
    spread = _fit(X, np.exp(0.4 * X[:, FEATURES : FEATURES + 1]) * rng.normal(size=(500, FEATURES)))
    assert spread.candidate == "common"
    assert "gap" not in spread.gain
    np.testing.assert_allclose(spread.slopes[COVARIATES], 0.0, atol=1e-12)


def test_a_few_wild_errors_move_little() -> None:
    X, rng = _inputs(1000)
    residual = rng.normal(size=(1000, FEATURES))
    before = _fit(X, residual).scale(X)
    residual[:10] *= 10.0
    assert np.abs(_fit(X, residual).scale(X) / before - 1.0).mean() < 0.15


# -- unknown cells, weights, order ------------------------------------------------------------------------------------


def test_unknown_cells_count_for_nothing() -> None:
    X, rng = _inputs(1000)
    residual = SIZES * np.exp(0.4 * X[:, -1:]) * rng.normal(size=(1000, FEATURES))
    gone = rng.random(residual.shape) < 0.3
    spread = _fit(X, np.where(gone, np.nan, residual))
    assert spread.candidate == "gap"
    np.testing.assert_allclose(spread.slopes[COVARIATES], 0.4, atol=0.05)
    np.testing.assert_allclose(np.exp(spread.level), SIZES * np.exp(0.4 * X[:, -1].mean()), rtol=0.12)
    # Whatever stands beside them.
    moved = X.copy()
    moved[:, :FEATURES][gone] = 3.0
    np.testing.assert_array_equal(_fit(moved, np.where(gone, np.nan, residual)).slopes, spread.slopes)


def test_pairs_of_which_nothing_is_known_count_for_nothing() -> None:
    X, rng = _inputs(600)
    residual = np.exp(0.4 * X[:, -1:]) * rng.normal(size=(600, FEATURES))
    residual[500:] = np.nan
    unit = np.arange(600).astype(str)
    fold, weight = unit_folds(unit, 0), np.ones(600)
    whole = fit_spread(X, residual, weight, unit, fold)
    fewer = fit_spread(X[:500], residual[:500], weight[:500], unit[:500], fold[:500])
    assert whole.candidate == fewer.candidate == "gap"
    np.testing.assert_allclose(whole.slopes[COVARIATES], 0.4, atol=0.06)
    # But for how much the priors count, which is by the number of pairs.
    np.testing.assert_allclose(whole.gain["gap"], fewer.gain["gap"], rtol=0.02)


def test_a_feature_that_is_never_known_stays_finite() -> None:
    X, rng = _inputs()
    residual = np.exp(0.5 * X[:, -1:]) * rng.normal(size=(500, FEATURES))
    residual[:, 5] = np.nan
    spread = _fit(X, residual)
    assert np.isfinite(spread.scale(X)).all()
    np.testing.assert_allclose(spread.slopes[COVARIATES], 0.5, atol=0.06)


def test_for_one_spread_a_feature_a_weight_counts_as_repeating_the_row() -> None:
    X, rng = _inputs()
    residual, times = SIZES * rng.normal(size=(500, FEATURES)), rng.integers(1, 4, 500)
    unit = np.arange(500).astype(str)
    fold = unit_folds(unit, 0)
    weighted = fit_spread(X, residual, times.astype(float), unit, fold)
    rows = np.repeat(np.arange(500), times)
    repeated = fit_spread(X[rows], residual[rows], np.ones(len(rows)), unit[rows], fold[rows])
    assert weighted.candidate == repeated.candidate == "constant"
    np.testing.assert_allclose(weighted.level, repeated.level, rtol=1e-12, atol=1e-12)


def test_where_slopes_are_drawn_only_the_proportions_of_weights_count() -> None:
    X, rng = _inputs()
    residual = np.exp(0.4 * X[:, -1:]) * rng.normal(size=(500, FEATURES))
    weight = rng.uniform(0.2, 1.0, 500)
    one, other = _fit(X, residual, weight), _fit(X, residual, 7.0 * weight)
    np.testing.assert_allclose(one.scale(X), other.scale(X), rtol=1e-9)
    # A pair without weight is as good as absent.
    cut = np.where(np.arange(500) < 400, 1.0, 0.0)
    some, fewer = _fit(X, residual, cut), _fit(X[:400], residual[:400])
    assert some.candidate == fewer.candidate == "gap"
    np.testing.assert_allclose(some.level, fewer.level, atol=1e-6)
    np.testing.assert_allclose(some.slopes, fewer.slopes, atol=1e-6)


def test_the_order_of_rows_does_not_matter() -> None:
    X, rng = _inputs()
    residual = np.exp(0.4 * X[:, -1:]) * rng.normal(size=(500, FEATURES))
    unit, order = np.arange(500).astype(str), rng.permutation(500)
    fold, weight = unit_folds(unit, 0), rng.uniform(0.2, 1.0, 500)
    one = fit_spread(X, residual, weight, unit, fold)
    other = fit_spread(X[order], residual[order], weight[order], unit[order], fold[order])
    assert one.candidate == other.candidate
    np.testing.assert_allclose(one.scale(X), other.scale(X), rtol=1e-9)
    np.testing.assert_allclose(list(one.gain.values()), list(other.gain.values()), rtol=1e-9, atol=1e-12)


# -- what is kept -----------------------------------------------------------------------------------------------------


def _fitted() -> tuple[Spread, np.ndarray]:
    X, rng = _inputs(1500)
    own = np.linspace(-0.6, 0.6, FEATURES)
    residual = np.exp(own * X[:, -1:] + 0.3 * X[:, :FEATURES]) * rng.normal(size=(1500, FEATURES))
    spread = _fit(X, residual)
    assert spread.candidate == "own"
    return spread, X


def test_nothing_is_extrapolated_beyond_the_training_pairs() -> None:
    spread, X = _fitted()
    seen = spread.fitted(X)
    np.testing.assert_allclose(seen.min(axis=0), np.exp(spread.reach[0]), rtol=1e-12)
    np.testing.assert_allclose(seen.max(axis=0), np.exp(spread.reach[1]), rtol=1e-12)
    far = spread.fitted(50.0 * X)
    assert (far >= seen.min(axis=0) * (1 - 1e-12)).all()
    assert (far <= seen.max(axis=0) * (1 + 1e-12)).all()


def test_each_row_is_scaled_on_its_own_and_the_state_comes_back() -> None:
    spread, X = _fitted()
    whole = spread.scale(X)
    np.testing.assert_array_equal(spread.scale(X[[700, 3]]), whole[[700, 3]])
    again = Spread.from_state(dict(spread.state()))
    np.testing.assert_array_equal(again.scale(X), whole)
    assert (again.scale(X) > again.fitted(X)).all()
    assert (again.candidate, again.gain) == (spread.candidate, spread.gain)


@pytest.mark.parametrize("pairs", [10, 16, 40, 120])
def test_intervals_cover_however_few_pairs_a_spread_is_learned_from(pairs: int) -> None:
    """Many features of one spread: of a new error each, nine in ten lie within 1.645."""
    rng, many = np.random.default_rng(pairs), 40000
    X = np.zeros((pairs, many + 1))
    spread = spread_as("constant", X, rng.standard_normal((pairs, many)), np.ones(pairs))
    error = rng.standard_normal(many)
    within = (np.abs(error) < 1.6449 * spread.scale(X[:1])[0]).mean()
    assert within == pytest.approx(0.9, abs=0.01)
    assert (np.abs(error) < 1.6449 * spread.fitted(X[:1])[0]).mean() < within


# -- pairs like those that are imputed --------------------------------------------------------------------------------


def _mixed(people: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standard (P, D) errors that are half as large again for one pair of three, which is the one that is wanted."""
    rng = np.random.default_rng(seed)
    wanted = np.arange(3 * people) % 3 == 0
    standard = rng.normal(size=(3 * people, FEATURES)) * np.where(wanted, 1.5, 1.0)[:, None]
    return standard, np.full(3 * people, 1 / 3), np.repeat(np.arange(people).astype(str), 3), wanted


def _factor(*given: np.ndarray) -> float:
    plain = _fitted()[0]
    found = np.exp(np.asarray(plain.for_wanted(*given).doubt) - plain.doubt)
    assert np.ptp(found) == pytest.approx(0.0, abs=1e-12)
    return float(found[0])


def test_a_prediction_is_as_wide_as_the_pairs_that_are_wanted_scatter() -> None:
    standard, weight, unit, wanted = _mixed()
    # All pairs together have a mean size of (1.5 + 1 + 1) / 3.
    assert _factor(standard, weight, unit, wanted) == pytest.approx(1.5 / (3.5 / 3), rel=0.02)
    gone = standard.copy()
    gone[np.random.default_rng(1).random(gone.shape) < 0.4] = np.nan
    assert _factor(gone, weight, unit, wanted) == pytest.approx(1.5 / (3.5 / 3), rel=0.03)
    heavier = np.where(wanted, 1e6, 1.0)
    assert _factor(standard, heavier, unit, wanted) == pytest.approx(1.0, abs=1e-4)


def test_few_people_of_the_wanted_kind_tell_little() -> None:
    standard, weight, unit, wanted = _mixed()
    few = wanted & (np.arange(len(wanted)) < 3 * 20)
    whole = (weight[:, None] * np.abs(standard)).sum() / (weight.sum() * FEATURES)
    ratio = np.abs(standard[few]).mean() / whole
    assert _factor(standard, weight, unit, few) == pytest.approx(np.sqrt(ratio), rel=1e-9)
    # The same rows of one unit are one.
    one = np.where(few, "family", unit)
    assert _factor(standard, weight, one, few) == pytest.approx(ratio ** (1 / 21), rel=1e-9)


def test_where_all_pairs_are_wanted_or_none_a_spread_stays_as_it_is() -> None:
    standard, weight, unit, wanted = _mixed(50)
    spread = _fitted()[0]
    for every in (np.ones_like(wanted), np.zeros_like(wanted)):
        assert spread.for_wanted(standard, weight, unit, every) is spread
    assert spread.for_wanted(np.full_like(standard, np.nan), weight, unit, wanted) is spread
    assert spread.for_wanted(np.where(wanted[:, None], np.nan, standard), weight, unit, wanted) is spread


# -- scores -----------------------------------------------------------------------------------------------------------


def test_gains_are_of_people_that_were_not_fitted_on() -> None:
    X, rng = _inputs(200)
    residual = np.exp(0.5 * X[:, -1:]) * rng.normal(size=(200, FEATURES))
    unit = np.arange(200).astype(str)
    fold, weight = unit_folds(unit, 0), rng.uniform(0.5, 1.0, 200)
    spread = fit_spread(X, residual, weight, unit, fold)
    fall = np.empty(200)
    for k in range(fold.max() + 1):
        held = fold == k
        plain, rich = (
            normal_crps(residual[held], _fit_as(name, X[~held], residual[~held], weight[~held]).scale(X[held]))
            for name in ("constant", "gap")
        )
        fall[held] = (plain - rich).mean(axis=1)
    assert spread.gain["gap"][0] == pytest.approx(weight @ fall / weight.sum())
    assert spread.gain["constant"] == [0.0, 0.0]


def test_a_spread_as_is_the_mean_size_of_what_is_known() -> None:
    X, rng = _inputs(200)
    residual, weight = SIZES * rng.normal(size=(200, FEATURES)), rng.uniform(0.2, 1.0, 200)
    residual[rng.random(residual.shape) < 0.3] = np.nan
    seen = np.isfinite(residual) * weight[:, None]
    size = (seen * np.abs(np.nan_to_num(residual))).sum(axis=0) / seen.sum(axis=0) / np.sqrt(2.0 / np.pi)
    scale = spread_as("constant", X, residual, weight).fitted(X)
    np.testing.assert_allclose(scale, np.broadcast_to(size, scale.shape), rtol=1e-10)


@pytest.mark.parametrize("error", [-3.0, 0.0, 0.4, 12.0])
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_the_crps_of_a_normal_is_its_integral(error: float, spread: float) -> None:
    def below(x: float) -> float:
        return float(stats.norm.cdf(x, 0.0, spread) ** 2)

    def above(x: float) -> float:
        return float(stats.norm.sf(x, 0.0, spread) ** 2)

    reach = 12.0 * spread + abs(error)
    expected = integrate.quad(below, -reach, error, limit=200)[0] + integrate.quad(above, error, reach, limit=200)[0]
    assert normal_crps(np.array(error), np.array(spread)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_crps_of_an_unknown_error_is_unknown() -> None:
    got = normal_crps(np.array([np.nan, 0.0]), np.ones(2))
    assert np.isnan(got[0])
    assert got[1] == pytest.approx((np.sqrt(2.0) - 1.0) / np.sqrt(np.pi))
