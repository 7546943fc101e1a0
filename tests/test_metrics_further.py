"""Further metrics against scipy, scikit-learn, scoringrules and Gaussian closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score

from secondgram.errors import InputError
from secondgram.evaluation.metrics import (
    BETTER,
    FURTHER,
    LARGE_LOSS,
    METRICS,
    Cells,
    Yardstick,
    coverage_table,
    downstream,
    energy_score,
    further_per_feature,
    further_scores,
    joint_scores,
    noise_ceilings,
    nominal_coverage,
    per_feature,
    pit_histogram,
    pit_table,
    projected_crps,
    resamples,
    variogram_score,
    weighted_rank_correlation,
)
from secondgram.evaluation.metrics.downstream import average_precision, binary_outcome
from secondgram.evaluation.metrics.reliability import intraclass_correlation
from secondgram.evaluation.metrics.resemblance import weighted_auc

pytestmark = pytest.mark.filterwarnings("error")

PEOPLE, FEATURES = 60, 4


@pytest.fixture
def scoringrules() -> Any:
    return pytest.importorskip("scoringrules", reason="scoringrules is not installed")


def _cells(draws: int = 39, seed: int = 0, people: int = PEOPLE, joint: bool = True) -> Cells:
    rng = np.random.default_rng(seed)
    baseline = rng.normal(size=(people, FEATURES))
    middle = baseline - 0.2 + 0.1 * rng.normal(size=baseline.shape)
    truth = middle + 0.5 * rng.normal(size=baseline.shape)
    drawn = middle + 0.5 * rng.normal(size=(draws, *baseline.shape))
    unit = np.array([f"family-{number // 2}" for number in range(people)])
    yardstick = Yardstick.fit(truth, baseline) if joint else None
    gap = rng.uniform(1, 5, people)
    return Cells.of(truth, baseline, drawn.mean(axis=0), drawn, unit, gap=gap, yardstick=yardstick)


def ones(people: int = PEOPLE) -> np.ndarray:
    return np.ones((1, people))


# -- ranks, explained variance, change --------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_that_of_scipy_and_whole_weights_are_repeated_rows(ties: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(PEOPLE, FEATURES))
    y = x + rng.normal(size=x.shape)
    if ties:
        x, y = np.round(x), np.round(y)
    weights = np.stack([np.ones(PEOPLE), rng.integers(0, 4, PEOPLE)])
    got = weighted_rank_correlation(x, y, weights)
    for row, weight in enumerate(weights.astype(int)):
        for j in range(FEATURES):
            expected = stats.spearmanr(x[:, j].repeat(weight), y[:, j].repeat(weight)).statistic
            assert got[row, j] == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_leaves_unknown_cells_out_and_is_undefined_where_nothing_varies() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, PEOPLE, 3))
    x[::5, 0] = np.nan
    x[:, 1] = 2.0
    y[:, 2] = np.nan
    got = weighted_rank_correlation(x, y, ones())[0]
    seen = np.isfinite(x[:, 0])
    assert got[0] == pytest.approx(stats.spearmanr(x[seen, 0], y[seen, 0]).statistic)
    assert np.isnan(got[1:]).all()


def test_every_further_metric_is_its_definition() -> None:
    cells = _cells()
    got = further_per_feature(cells, ones())
    for j in range(FEATURES):
        truth, mean, draw, base = (getattr(cells, name)[:, j] for name in ("truth", "mean", "draw", "baseline"))
        assert got["spearman_mean"][0, j] == pytest.approx(stats.spearmanr(mean, truth).statistic)
        assert got["spearman_draw"][0, j] == pytest.approx(stats.spearmanr(draw, truth).statistic)
        assert got["r2_mean"][0, j] == pytest.approx(r2_score(truth, mean))
        assert got["r2_draw"][0, j] == pytest.approx(r2_score(truth, draw))
        assert got["mae_mean"][0, j] == pytest.approx(mean_absolute_error(truth, mean))
        assert got["mae_draw"][0, j] == pytest.approx(mean_absolute_error(truth, draw))
        assert got["delta_r_draw"][0, j] == pytest.approx(stats.pearsonr(draw - base, truth - base).statistic)
        assert got["delta_spearman"][0, j] == pytest.approx(stats.spearmanr(mean - base, truth - base).statistic)
        assert got["delta_r2"][0, j] == pytest.approx(r2_score(truth - base, mean - base))
        assert got["change_slope"][0, j] == pytest.approx(stats.linregress(mean - base, truth - base).slope)
        assert cells.gap is not None
        assert got["annual_bias"][0, j] == pytest.approx(np.mean((mean - truth) / cells.gap))


def test_overall_scores_have_every_name_and_a_direction() -> None:
    cells = _cells()
    found = further_scores(cells, resamples(cells.unit, 5, 0))
    assert set(found) == set(FURTHER)
    assert set(BETTER) == set(METRICS) | set(FURTHER)
    assert all(values.shape == (6,) and np.isfinite(values).all() for values in found.values())
    # The slope of all features together: every feature centred, then one regression through zero.
    true, predicted = (
        (v - v.mean(axis=0)).ravel() for v in (cells.truth - cells.baseline, cells.mean - cells.baseline)
    )
    assert found["change_slope"][0] == pytest.approx(true @ predicted / (predicted @ predicted))


def test_whole_weights_are_repeated_people() -> None:
    cells = _cells()
    weight = np.random.default_rng(0).integers(0, 3, PEOPLE)
    rows = np.arange(PEOPLE).repeat(weight)
    again = Cells.joined([cells])
    for name in ("truth", "baseline", "mean", "draw", "crps", "covered", "unit", "below", "upto", "spread", "miss"):
        setattr(again, name, getattr(cells, name)[rows])
    again.tail, again.gap = cells.tail[rows], cells.gap[rows]  # type: ignore[index]
    again.joint = {name: values[rows] for name, values in cells.joint.items()}
    got, expected = further_scores(cells, weight[None].astype(float)), further_scores(again, ones(len(rows)))
    for name in FURTHER:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, err_msg=name)


def test_a_point_prediction_has_no_spread_and_no_gap_no_annual_bias() -> None:
    found = further_scores(_cells(draws=1, joint=False), ones())
    gone = {name for name, values in found.items() if np.isnan(values[0])}
    joint = {"energy", "variogram", "crps_sliced", "crps_components"}
    assert gone == {"spread_ratio", "coverage_50", "coverage_80", "coverage_95"} | joint
    cells = _cells()
    cells.gap = None
    assert np.isnan(further_scores(cells, ones())["annual_bias"]).all()


# -- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("draws", "seed"), [(2, 0), (19, 1), (119, 2)])
def test_right_draws_are_found_right(draws: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = 20_000
    truth, zeros = rng.normal(size=(people, 1)), np.zeros((people, 1))
    drawn = rng.normal(size=(draws, people, 1))
    cells = Cells.of(truth, zeros, zeros, drawn, np.arange(people))
    got = further_per_feature(cells, ones(people))
    assert got["spread_ratio"][0, 0] == pytest.approx(1.0, abs=0.03)
    for level in (50, 80, 95):
        covered = got[f"coverage_{level}"][0, 0]
        if {50: 3, 80: 9, 95: 39}[level] > draws:
            assert np.isnan(covered)
            continue
        nominal = nominal_coverage(draws, level)
        assert nominal == pytest.approx(level / 100, abs=0.01)
        assert abs(covered - nominal) < 4 * math.sqrt(nominal * (1 - nominal) / people)
    shares = pit_histogram(cells, ones(people))[0]
    assert shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(shares, 0.1, atol=4 * math.sqrt(0.09 / people))
    # The fair Brier score of N(0, 1) draws: what the true chance would score, however few they are.
    p = stats.norm.cdf(-LARGE_LOSS)
    assert got["tail_brier"][0, 0] == pytest.approx(p * (1 - p), abs=0.01)


def test_the_interval_of_ninety_percent_is_the_one_of_order_statistics() -> None:
    cells = _cells(draws=39)
    by_rank = np.where(np.isnan(cells.below), np.nan, (cells.upto >= 2) & (cells.below <= 37))
    np.testing.assert_array_equal(by_rank, cells.covered)


def test_tail_brier_is_the_brier_score_less_what_few_draws_add(scoringrules: Any) -> None:
    rng = np.random.default_rng(0)
    draws, truth, base = rng.normal(size=(7, 50, 2)), rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    cells = Cells.of(truth, base, draws[0], draws, np.arange(50))
    chance = (draws - base <= -LARGE_LOSS).mean(axis=0)
    plain = scoringrules.brier_score((truth - base <= -LARGE_LOSS).astype(float), chance)
    np.testing.assert_allclose(cells.tail, plain - chance * (1 - chance) / 6, rtol=1e-12)


def test_narrow_draws_make_the_histogram_a_valley_and_the_ratio_small() -> None:
    rng = np.random.default_rng(0)
    truth, zeros = rng.normal(size=(3000, 2)), np.zeros((3000, 2))
    cells = Cells.of(truth, zeros, zeros, 0.5 * rng.normal(size=(19, 3000, 2)), np.arange(3000))
    table = pit_table(cells, resamples(cells.unit, 20, 0))
    assert list(table.columns) == ["from", "to", "value", "low", "high"]
    assert table["value"].iloc[[0, -1]].min() > 0.15 > 0.09 > table["value"].iloc[4:6].max()
    assert further_scores(cells, ones(3000))["spread_ratio"][0] == pytest.approx(0.5, abs=0.03)


def test_equal_draws_spread_the_pit_over_what_they_leave_open() -> None:
    zeros = np.zeros((5, 1))
    cells = Cells.of(zeros, zeros, zeros, np.zeros((9, 5, 1)), np.arange(5))
    np.testing.assert_allclose(pit_histogram(cells, ones(5))[0], 0.1)
    one = Cells.of(zeros, zeros, zeros, np.zeros((1, 5, 1)), np.arange(5))
    assert np.isnan(pit_histogram(one, ones(5))).all()
    assert pit_table(one, ones(5)).empty


def test_coverage_by_gap_finds_where_the_draws_are_too_narrow() -> None:
    rng = np.random.default_rng(0)
    people = 3000
    gap = rng.uniform(2, 7, people)
    truth, zeros = gap[:, None] * rng.normal(size=(people, 3)), np.zeros((people, 3))
    drawn = 4.5 * rng.normal(size=(39, people, 3))
    cells = Cells.of(truth, zeros, zeros, drawn, np.arange(people), gap=gap)
    table = coverage_table(cells, resamples(cells.unit, 20, 0), {"gap": gap})
    assert set(table["level"]) == {50, 80, 90, 95}
    assert (table["low"] <= table["value"]).all()
    for level, rows in table[table["by"] == "gap"].groupby("level"):
        short, _, long = rows["value"]
        assert short > rows["nominal"].iloc[0] + 0.02 > rows["nominal"].iloc[0] - 0.02 > long, level
        assert rows["people"].sum() == people
    unknown = coverage_table(cells, resamples(cells.unit, 5, 0), {"age": np.full(people, np.nan)})
    assert set(unknown["by"]) == {"everyone"}


# -- whole visits -----------------------------------------------------------------------------------------------------


def test_energy_and_variogram_scores_are_those_of_scoringrules(scoringrules: Any) -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(9, 20, 5)), rng.normal(size=(20, 5))
    by_person = draws.transpose(1, 0, 2)
    expected = scoringrules.es_ensemble(truth, by_person, estimator="fair")
    np.testing.assert_allclose(energy_score(draws, truth), expected / math.sqrt(5), rtol=1e-10)
    plain = scoringrules.vs_ensemble(truth, by_person, p=0.5, estimator="nrg")
    one, other = np.triu_indices(5, 1)
    spread = np.sqrt(np.abs(draws[..., one] - draws[..., other])).var(axis=0, ddof=1).sum(axis=-1) / 9
    # scoringrules counts every pair twice.
    np.testing.assert_allclose(variogram_score(draws, truth), (plain / 2 - spread) / 10, rtol=1e-10)


def test_energy_score_of_gaussians_is_the_closed_form() -> None:
    # |N(0, s^2 I)| in two dimensions is Rayleigh, of mean s sqrt(pi / 2); two draws differ by N(0, 2 I).
    rng = np.random.default_rng(0)
    score = energy_score(rng.normal(size=(10, 20_000, 2)), rng.normal(size=(20_000, 2)))
    expected = (math.sqrt(2) - 0.5 * math.sqrt(2)) * math.sqrt(math.pi / 2) / math.sqrt(2)
    assert abs(score.mean() - expected) < 4 * score.std() / math.sqrt(20_000)


@pytest.mark.parametrize("score", [energy_score, variogram_score])
def test_joint_scores_are_fair_for_few_draws_and_find_wrong_correlation(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    rng = np.random.default_rng(0)
    people, mix = 40_000, np.array([[1.0, 0.0, 0.0], [0.9, 0.44, 0.0], [0.9, 0.2, 0.39]])
    truth = rng.normal(size=(people, 3)) @ mix.T
    drawn = [rng.normal(size=(draws, people, 3)) @ mix.T for draws in (2, 12)]
    few, many = (score(each, truth) for each in drawn)
    apart = few - many
    assert abs(apart.mean()) < 4 * apart.std() / math.sqrt(people)
    loose = score(rng.normal(size=(12, people, 3)) * np.linalg.norm(mix, axis=1), truth) - many
    assert loose.mean() > 4 * loose.std() / math.sqrt(people)


def test_unknown_cells_are_left_out_of_joint_scores() -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(6, 8, 5)), rng.normal(size=(8, 5))
    truth[:, 3:] = np.nan
    for score in (energy_score, variogram_score):
        np.testing.assert_allclose(score(draws, truth), score(draws[..., :3], truth[:, :3]), rtol=1e-12)
    truth[0] = np.nan
    assert np.isnan(energy_score(draws, truth)[0])
    assert np.isnan(variogram_score(draws, truth)[0])
    assert np.isnan(variogram_score(draws[..., :1], truth[:, :1])).all()


def test_scores_along_directions_are_the_crps_of_projections(scoringrules: Any) -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(11, 30, 5)), rng.normal(size=(30, 5))
    directions = rng.normal(size=(5, 3))
    got = projected_crps(draws, truth, directions)
    for k in range(3):
        projected = (draws @ directions[:, k]).T
        expected = scoringrules.crps_ensemble(truth @ directions[:, k], projected, estimator="fair")
        np.testing.assert_allclose(got[:, k], expected, rtol=1e-10)
    truth[0, 1:] = np.nan
    got = projected_crps(draws, truth, np.eye(5)[:, :2] + 0.0)
    assert np.isnan(got[0, 1])
    assert got[0, 0] == pytest.approx(float(scoringrules.crps_ensemble(truth[0, 0], draws[:, 0, 0], estimator="fair")))


def test_sliced_crps_of_gaussians_is_the_closed_form() -> None:
    # Along any unit direction N(0, I) is N(0, 1), whose expected CRPS against itself is 1 / sqrt(pi).
    rng = np.random.default_rng(0)
    truth, baseline = rng.normal(size=(2, 4000, 6))
    yardstick = Yardstick.fit(truth, baseline)
    np.testing.assert_allclose(np.linalg.norm(yardstick.slices, axis=0), 1.0)
    found = joint_scores(rng.normal(size=(10, 4000, 6)), truth, yardstick)
    assert found["sliced"].mean() == pytest.approx(1 / math.sqrt(math.pi), rel=0.03)


def test_components_are_of_the_residual_and_have_its_spread() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(5000, 6))
    axis = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    truth = baseline @ np.diag([0.2, 0.5, 1, 1, 1, 1]) + rng.normal(size=(5000, 1)) * axis
    truth += 0.3 * rng.normal(size=truth.shape)
    yardstick = Yardstick.fit(truth, baseline)
    leading = yardstick.components[:, 0]
    assert np.abs(leading[:3]).min() > 3 * np.abs(leading[3:]).max()
    W = np.linalg.lstsq(baseline, truth, rcond=None)[0]
    np.testing.assert_allclose(((truth - baseline @ W) @ yardstick.components).std(axis=0), 1.0, rtol=0.1)
    again = Yardstick.fit(truth, baseline)
    np.testing.assert_array_equal(again.components, yardstick.components)
    np.testing.assert_array_equal(again.slices, yardstick.slices)


def test_joint_scores_do_not_depend_on_how_people_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(5, 17, 4)), rng.normal(size=(17, 4))
    yardstick = Yardstick.fit(truth, rng.normal(size=(17, 4)))
    whole = joint_scores(draws, truth, yardstick)
    monkeypatch.setattr("secondgram.evaluation.metrics.multivariate.CHUNK_CELLS", 60)
    for name, values in joint_scores(draws, truth, yardstick).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


# -- curves, reliability, downstream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties: bool) -> None:
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=200), rng.random(200) < 0.3
    score = np.round(score + label, 0 if ties else 12)
    weights = np.stack([np.ones(200), rng.integers(0, 3, 200)]).astype(float)
    for got, expected in ((weighted_auc, roc_auc_score), (average_precision, average_precision_score)):
        values = got(score, label, weights)
        for value, weight in zip(values, weights, strict=True):
            assert value == pytest.approx(expected(label, score, sample_weight=weight), rel=1e-10)
        assert np.isnan(got(score, np.zeros(200, dtype=bool), weights)).all()


def test_intraclass_correlation_is_the_reliability_of_a_measurement() -> None:
    rng = np.random.default_rng(0)
    true, wanted = rng.normal(size=(40_000, 3)), np.array([0.5, 0.75, 0.97])
    error = np.sqrt(1 / wanted - 1)
    one, other = (true + error * rng.normal(size=true.shape) for _ in range(2))
    got = intraclass_correlation(one, other)
    np.testing.assert_allclose(got, wanted, atol=0.02)
    # By analysis of variance, feature by feature (Shrout and Fleiss 1979).
    for j in range(3):
        rows = np.stack([one[:50, j], other[:50, j]], axis=1)
        between = 2 * rows.mean(axis=1).var(ddof=1)
        within = rows.var(axis=1, ddof=1).mean()
        expected = (between - within) / (between + within)
        assert intraclass_correlation(one[:50], other[:50])[j] == pytest.approx(expected)


def test_ceilings_are_what_perfect_knowledge_of_the_true_value_reaches() -> None:
    rng = np.random.default_rng(0)
    people, r = 40_000, np.array([0.6, 0.9])
    true = np.sqrt(r) * rng.normal(size=(people, 2))
    change = 0.5 * rng.normal(size=true.shape)
    measured = [value + np.sqrt(1 - r) * rng.normal(size=true.shape) for value in (true - change, true)]
    draws = true + np.sqrt(1 - r) * rng.normal(size=(8, people, 2))
    cells = Cells.of(measured[1], measured[0], true, draws, np.arange(people))
    table = noise_ceilings(r, (measured[1] - measured[0]).var(axis=0))
    got = per_feature(cells, ones(people)) | further_per_feature(cells, ones(people))
    for name in ("pearson_mean", "pearson_draw", "r2_mean", "rmse", "mae_mean", "crps", "delta_r"):
        np.testing.assert_allclose(got[name][0], table[name], rtol=0.03, err_msg=name)


def test_an_outcome_that_follows_the_change_is_predicted_better_with_it() -> None:
    rng = np.random.default_rng(0)
    people = 600
    baseline, change = rng.normal(size=(people, 5)), rng.normal(size=(people, 5))
    outcome = pd.Series(np.where(2 * change[:, 0] + rng.normal(size=people) > 1, "yes", "no"), name="diagnosis")
    unit = np.arange(people) // 2
    table = downstream(outcome, np.zeros((people, 0)), baseline, baseline + change, unit, bootstraps=100)
    assert list(table.index) == ["auc", "pr_auc", "brier"]
    assert table.loc["auc", "with"] > 0.8 > 0.6 > table.loc["auc", "without"]
    assert table.loc["auc", "low"] > 0 > table.loc["brier", "high"]
    again = downstream(outcome, np.zeros((people, 0)), baseline, baseline + change, unit, bootstraps=100)
    pd.testing.assert_frame_equal(table, again)
    nothing = downstream(outcome, np.zeros((people, 0)), baseline, baseline, unit, bootstraps=100)
    assert abs(nothing.loc["auc", "difference"]) < 0.01


def test_too_few_cases_are_refused() -> None:
    outcome = pd.Series([1.0] * 29 + [0.0] * 200 + [np.nan] * 5, name="dementia")
    with pytest.raises(InputError, match="only 29 people have the rarer outcome"):
        binary_outcome(outcome)
    outcome[40] = 1.0
    asked = binary_outcome(outcome)
    assert (asked.positive.sum(), asked.known.sum(), asked.meaning) == (30, 229, "1.0")
    with pytest.raises(InputError, match="has 3 values"):
        binary_outcome(pd.Series([1, 2, 3] * 40, name="stage"))
    with pytest.raises(InputError, match="4 groups do not go into 5 folds"):
        downstream(outcome, np.zeros((234, 1)), np.zeros((234, 2)), np.ones((234, 2)), np.arange(234) % 4)
