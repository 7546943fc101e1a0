"""Metrics against scipy and closed forms, and intervals that resample whole units."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from secondgram.errors import InputError
from secondgram.evaluation.metrics import (
    METRICS,
    UNKNOWN,
    Cells,
    Estimate,
    central_interval,
    interval,
    interval_rank,
    nominal_coverage,
    per_feature,
    resamples,
    scores,
    weighted_correlation,
    win_tie_loss,
)

pytestmark = pytest.mark.filterwarnings("error")

PEOPLE, FEATURES = 40, 3


def _pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(PEOPLE, FEATURES))
    return x, 0.6 * x + rng.normal(size=(PEOPLE, FEATURES))


def _cells(draws: int = 20, seed: int = 0, people: int = PEOPLE) -> Cells:
    rng = np.random.default_rng(seed)
    baseline = rng.normal(size=(people, FEATURES))
    truth = baseline + 0.5 * rng.normal(size=baseline.shape)
    drawn = baseline + 0.5 * rng.normal(size=(draws, *baseline.shape))
    unit = np.array([f"family-{number // 2}" for number in range(people)])
    return Cells.of(truth, baseline, drawn.mean(axis=0), drawn, unit)


# -- correlation ------------------------------------------------------------------------------------------------------


def test_correlation_with_unit_weights_is_pearson() -> None:
    x, y = _pair()
    got = weighted_correlation(x, y, np.ones((1, PEOPLE)))
    expected = [stats.pearsonr(x[:, j], y[:, j]).statistic for j in range(FEATURES)]
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_whole_weights_are_repeated_rows(seed: int) -> None:
    x, y = _pair()
    weights = np.random.default_rng(seed).integers(0, 4, PEOPLE)
    got = weighted_correlation(x, y, weights[None].astype(float))
    left, right = x.repeat(weights, axis=0), y.repeat(weights, axis=0)
    expected = [stats.pearsonr(left[:, j], right[:, j]).statistic for j in range(FEATURES)]
    np.testing.assert_allclose(got[0], expected, rtol=1e-11)


def test_unknown_cells_of_either_side_are_left_out() -> None:
    x, y = _pair()
    rng = np.random.default_rng(1)
    x[rng.random(x.shape) < 0.2] = np.nan
    y[rng.random(x.shape) < 0.2] = np.nan
    weights = rng.integers(0, 3, PEOPLE)
    got = weighted_correlation(x, y, weights[None].astype(float))[0]
    for j in range(FEATURES):
        seen = np.isfinite(x[:, j] + y[:, j])
        left, right = (values[seen, j].repeat(weights[seen]) for values in (x, y))
        assert got[j] == pytest.approx(stats.pearsonr(left, right).statistic, rel=1e-11)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_correlation_does_not_lose_precision_far_from_zero(offset: float) -> None:
    x, y = _pair()
    expected = weighted_correlation(x, y, np.ones((1, PEOPLE)))
    np.testing.assert_allclose(weighted_correlation(x + offset, y - offset, np.ones((1, PEOPLE))), expected, atol=1e-8)


def test_correlation_is_undefined_where_nothing_varies_or_nothing_is_known() -> None:
    x, y = _pair()
    x[:, 0], y[:, 1], x[:, 2] = 0.1, -3.0, np.nan
    assert np.isnan(weighted_correlation(x, y, np.ones((2, PEOPLE)))).all()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_correlation_of_a_resample_of_one_person_is_undefined(count: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 500)), rng.normal(size=(10, 500))
    weights = np.zeros((2, 10))
    weights[0, 3] = count
    weights[1, [3, 4]] = count
    got = weighted_correlation(x, y, weights)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(np.abs(got[1]), 1.0, rtol=1e-6)


# -- per feature and overall ------------------------------------------------------------------------------------------


def test_every_metric_is_its_definition() -> None:
    cells, ones = _cells(), np.ones((1, PEOPLE))
    got = per_feature(cells, ones)
    assert set(got) == set(METRICS) == set(scores(cells, ones))
    for j in range(FEATURES):
        truth, mean, base = cells.truth[:, j], cells.mean[:, j], cells.baseline[:, j]
        assert got["pearson_mean"][0, j] == pytest.approx(stats.pearsonr(mean, truth).statistic)
        assert got["pearson_draw"][0, j] == pytest.approx(stats.pearsonr(cells.draw[:, j], truth).statistic)
        assert got["delta_r"][0, j] == pytest.approx(stats.pearsonr(mean - base, truth - base).statistic)
        assert got["rmse"][0, j] == pytest.approx(math.sqrt(((mean - truth) ** 2).mean()))
        assert got["crps"][0, j] == pytest.approx(cells.crps[:, j].mean())
        assert got["coverage_90"][0, j] == pytest.approx(cells.covered[:, j].mean())


def test_overall_scores_average_features_and_rmse_averages_squares() -> None:
    cells, weights = _cells(), resamples(np.arange(PEOPLE), 3, seed=0)
    by_feature, overall = per_feature(cells, weights), scores(cells, weights)
    for name in METRICS:
        values = by_feature[name] ** 2 if name == "rmse" else by_feature[name]
        expected = np.sqrt(values.mean(axis=1)) if name == "rmse" else values.mean(axis=1)
        np.testing.assert_allclose(overall[name], expected, rtol=1e-12)
    assert overall["rmse"][0] == pytest.approx(math.sqrt(((cells.mean - cells.truth) ** 2).mean()))


def test_cells_without_truth_count_nowhere() -> None:
    cells = _cells()
    truth = cells.truth.copy()
    truth[::3] = np.nan
    truth[:, 2] = np.nan
    drawn = np.random.default_rng(5).normal(size=(4, PEOPLE, FEATURES))
    gone = Cells.of(truth, cells.baseline, cells.mean, drawn, cells.unit)
    kept = np.isfinite(truth[:, 0])
    some = Cells.of(truth[kept], cells.baseline[kept], cells.mean[kept], drawn[:, kept], cells.unit[kept])
    got = per_feature(gone, np.ones((1, PEOPLE)))
    expected = per_feature(some, np.ones((1, int(kept.sum()))))
    for name in METRICS:
        np.testing.assert_allclose(got[name][0, :2], expected[name][0, :2], rtol=1e-12)
        assert np.isnan(got[name][0, 2])
        assert np.isfinite(scores(gone, np.ones((1, PEOPLE)))[name]).all()


def test_a_single_draw_has_no_coverage_and_its_error_as_crps() -> None:
    cells = _cells(draws=1)
    got = scores(cells, np.ones((1, PEOPLE)))
    assert np.isnan(got["coverage_90"]).all()
    assert got["crps"][0] == pytest.approx(np.abs(cells.draw - cells.truth).mean())


@pytest.mark.parametrize("which", ["draws", "mean"])
def test_an_imputation_with_gaps_is_refused(which: str) -> None:
    arrays = {"draws": np.zeros((2, 3, 1)), "mean": np.zeros((3, 1))}
    arrays[which][..., 1, 0] = np.nan
    with pytest.raises(InputError, match="hold NaN"):
        Cells.of(np.zeros((3, 1)), np.zeros((3, 1)), arrays["mean"], arrays["draws"], np.arange(3))


def test_cells_are_joined_person_after_person() -> None:
    first, second = _cells(seed=1), _cells(seed=2, people=6)
    joined = Cells.joined([first, second])
    assert joined.draws == 20
    np.testing.assert_array_equal(joined.crps, np.concatenate([first.crps, second.crps]))
    np.testing.assert_array_equal(joined.unit, np.concatenate([first.unit, second.unit]))
    one, other = (per_feature(cells, np.ones((1, len(cells.truth))))["crps"][0] for cells in (first, second))
    got = per_feature(joined, np.ones((1, PEOPLE + 6)))["crps"][0]
    np.testing.assert_allclose(got, (PEOPLE * one + 6 * other) / (PEOPLE + 6))


# -- intervals of draws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draws", "rank", "nominal"), [(99, 5, 0.9), (20, 1, 19 / 21), (2, 1, 1 / 3), (50, 3, 45 / 51), (999, 50, 0.9)]
)
def test_rank_and_nominal_coverage(draws: int, rank: int, nominal: float) -> None:
    assert interval_rank(draws) == rank
    assert nominal_coverage(draws) == pytest.approx(nominal)


def test_the_central_interval_is_made_of_order_statistics() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))[:, None]
    low, high = central_interval(draws)
    assert (low[0], high[0]) == (5.0, 95.0)
    truth, zeros = np.array([[5.0], [95.0], [4.9], [95.1]]), np.zeros((4, 1))
    cells = Cells.of(truth, zeros, zeros, draws[:, None].repeat(4, axis=1), np.arange(4))
    np.testing.assert_array_equal(cells.covered[:, 0], [1, 1, 0, 0])


@pytest.mark.parametrize("draws", [2, 20, 99])
def test_right_draws_cover_as_often_as_is_nominal(draws: int) -> None:
    people = 20_000
    rng = np.random.default_rng(draws)
    low, high = central_interval(rng.normal(size=(draws, people)))
    truth, expected = rng.normal(size=people), nominal_coverage(draws)
    covered = ((truth >= low) & (truth <= high)).mean()
    assert abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / people)


# -- bootstrap --------------------------------------------------------------------------------------------------------


def test_the_bootstrap_draws_whole_units() -> None:
    unit = np.array(["b", "a", "b", "c", "a", "b"])
    weights = resamples(unit, 500, seed=0)
    assert weights.shape == (501, 6)
    assert (weights[0] == 1).all()
    for name in "abc":
        own = weights[:, unit == name]
        assert (own == own[:, :1]).all()
    units = weights[1:][:, [1, 0, 3]]
    assert (units.sum(axis=1) == 3).all()
    np.testing.assert_allclose(units.mean(axis=0), 1.0, atol=4 * math.sqrt(2 / 3 / 500))
    np.testing.assert_array_equal(weights, resamples(unit, 500, seed=0))
    assert not np.array_equal(weights, resamples(unit, 500, seed=1))


def test_the_interval_is_the_estimate_and_the_percentiles_of_the_resamples() -> None:
    values = np.append(0.3, np.linspace(0, 1, 1001))
    assert interval(values) == pytest.approx((0.3, 0.025, 0.975))
    values[5:9] = np.nan
    assert np.isfinite(interval(values)).all()
    assert np.isnan(interval(np.array([np.nan, 1.0, 2.0]))).all()


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    rng, people, tries = np.random.default_rng(0), 60, 1000
    weights, hits = resamples(np.arange(people), 1000, seed=1), 0
    for _ in range(tries):
        values = rng.normal(size=people)
        _, low, high = interval(weights @ values / people)
        hits += low <= 0.0 <= high
    # The percentile interval of 60 people is a little narrow: about .94.
    assert 0.91 < hits / tries < 0.97


def test_families_widen_the_interval() -> None:
    # Twins with one value are one observation, not two.
    values = np.random.default_rng(0).normal(size=50).repeat(2)
    family, alone = np.arange(50).repeat(2), np.arange(100)
    widths = []
    for unit in (family, alone):
        _, low, high = interval(resamples(unit, 2000, seed=0) @ values / 100)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(2), rel=0.1)


def test_an_estimate_is_read_from_json_and_is_the_three_numbers_it_was() -> None:
    assert Estimate.of([1, -2.5, None])[:2] == (1.0, -2.5)
    assert math.isnan(Estimate.of([1, 2, None]).high)
    value = interval(np.array([1.0, *np.linspace(0.0, 2.0, 41)]))
    assert isinstance(value, Estimate)
    assert value == pytest.approx((1.0, 0.05, 1.95))
    assert json.dumps(value) == json.dumps(list(value))
    assert not UNKNOWN.known
    assert not Estimate.of([None] * 3).bounded
    cases = {"better": (-1, -2, -0.5), "worse": (1, 0.5, 2), "tie": (1, -1, 2)}
    assert [win_tie_loss(Estimate(*each)) for each in cases.values()] == list(cases)
    assert win_tie_loss(Estimate.of([-1, None, -0.5])) == win_tie_loss(UNKNOWN) == "tie"
