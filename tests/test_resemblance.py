"""Whether imputed visits look like real ones: floors are reached by right draws, and wrong ones are found."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from secondgram.evaluation.metrics import (
    Cells,
    classifier_auc,
    conditional_mmd,
    correlation_distances,
    resemblance_table,
    retest_reliability,
)
from secondgram.evaluation.metrics.resemblance import correlation, correlation_distance

MIX = np.array([[1.0, 0.0, 0.0], [0.9, 0.44, 0.0], [0.9, 0.2, 0.39]])


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def visits(people: int, seed: int, wrong: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Baseline, real and imputed follow-up (N, 3); the imputed one is right, or wrong in one way."""
    rng = np.random.default_rng(seed)
    baseline = rng.normal(size=(people, 3)) @ MIX.T
    real = baseline + 0.5 * rng.normal(size=(people, 3)) @ MIX.T
    z = rng.normal(size=(people, 3))
    residual = z * np.linalg.norm(MIX, axis=1) if wrong == "loose" else z @ MIX.T
    # Crossed: right over everyone together, and wrong given the baseline.
    middle = baseline[rng.permutation(people)] if wrong == "crossed" else baseline
    shift, factor = (0.5 if wrong == "shifted" else 0.0), (1.0 if wrong == "stretched" else 0.5)
    return baseline, real, middle + factor * residual + shift


def cells(people: int = 400, seed: int = 0, wrong: str = "") -> Cells:
    baseline, real, imputed = visits(people, seed, wrong)
    return Cells.of(real, baseline, imputed, imputed[None], np.arange(people))


# -- correlations -----------------------------------------------------------------------------------------------------


def test_correlations_with_whole_weights_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(50, 3)) @ MIX.T, rng.integers(0, 3, 50)
    expected = np.asarray(np.corrcoef(values.repeat(weights, axis=0), rowvar=False))
    np.testing.assert_allclose(correlation(values, weights.astype(float)), expected, rtol=1e-10)
    assert correlation_distance(expected, np.eye(3)) == pytest.approx(np.abs(expected[np.triu_indices(3, 1)]).mean())


def test_unknown_cells_count_in_no_correlation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2))
    values[:, 1] += values[:, 0]
    gone = rng.random(300) < 0.3
    values[gone, 0] = np.nan
    got = correlation(values, np.ones(300))[0, 1]
    assert got == pytest.approx(stats.pearsonr(*values[~gone].T).statistic, abs=0.05)
    values[:, 0] = np.nan
    assert np.isnan(correlation(values, np.ones(300))[0, 1])


def test_right_draws_reach_the_floor_of_real_visits_and_loose_ones_do_not() -> None:
    for what, values in correlation_distances(cells()).items():
        assert values[0, 0] == pytest.approx(values[0, 1], rel=0.2), what
    wrong = correlation_distances(cells(wrong="loose"))["changes"]
    assert np.quantile(wrong[1:, 0] - wrong[1:, 1], 0.025) > 0.2
    again = correlation_distances(cells(wrong="loose"))["changes"]
    np.testing.assert_array_equal(wrong, again)
    assert correlation_distances(cells(people=3)) == {}


# -- two samples ------------------------------------------------------------------------------------------------------


def test_mmd_is_its_definition_as_a_double_loop() -> None:
    baseline, real, imputed = visits(20, 1)
    unit = np.array([str(number // 2) for number in range(20)])

    def width(values: np.ndarray) -> float:
        return float(np.median(cdist(values, values, "sqeuclidean")[np.triu_indices(20, 1)]))

    def kernel(one: np.ndarray, other: np.ndarray, scale: float) -> float:
        return math.exp(-float(((one - other) ** 2).sum()) / scale)

    given, change = width(baseline), width(real)
    total, count = 0.0, 0
    for i in range(20):
        for j in range(20):
            if unit[i] == unit[j]:
                continue
            together = kernel(real[i], real[j], change) + kernel(imputed[i], imputed[j], change)
            apart = kernel(real[i], imputed[j], change) + kernel(imputed[i], real[j], change)
            total += kernel(baseline[i], baseline[j], given) * (together - apart)
            count += 1
    assert conditional_mmd(real, imputed, baseline, unit)[0] == pytest.approx(total / count, rel=1e-10)


def test_mmd_is_zero_on_average_for_right_draws() -> None:
    values = []
    for seed in range(60):
        baseline, real, imputed = visits(60, seed)
        values.append(conditional_mmd(real - baseline, imputed - baseline, baseline, np.arange(60).astype(str))[0])
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(60)


@pytest.mark.parametrize("wrong", ["shifted", "stretched", "crossed", "loose"])
def test_wrong_draws_are_told_from_real_ones(wrong: str) -> None:
    table = resemblance_table(cells(people=500, wrong=wrong))
    assert table.loc["mmd", "low"] > 0.0
    assert table.loc["classifier_auc", "low"] > 0.55


def test_right_draws_are_not_told_from_real_ones() -> None:
    table = resemblance_table(cells(people=500))
    assert list(table.columns) == ["value", "low", "high", "floor", "meaning"]
    assert 0.42 < table.loc["classifier_auc", "value"] < 0.58
    assert abs(table.loc["mmd", "value"]) < 0.005
    few = resemblance_table(cells(people=8))
    assert "classifier_auc" not in few.index
    baseline, real, imputed = visits(100, 0)
    unit = np.arange(100).astype(str)
    one, other = (classifier_auc(real, imputed, baseline, unit, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, other)


# -- scanning twice ---------------------------------------------------------------------------------------------------


def test_reliability_is_read_off_visits_close_together() -> None:
    import secondgram as sg

    rng = np.random.default_rng(0)
    people, r = 2000, np.array([0.6, 0.9])
    true = rng.normal(size=(people, 1, 2)) * [10.0, 0.1]
    noise = np.sqrt(1 / r - 1) * rng.normal(size=(people, 3, 2)) * [10.0, 0.1]
    later = np.array([0.0, 0.0, 1.0])[None, :, None] * rng.normal(size=(people, 1, 2)) * [20.0, 0.2]
    times = np.tile([0.0, 0.1, 3.0], (people, 1))
    cohort = sg.Cohort(
        ids=np.arange(people),
        visits=true + noise + later,
        features=("a", "b"),
        visit_labels=("0", "1", "2"),
        times=times,
    )
    found = retest_reliability(cohort)
    assert found.people == people
    np.testing.assert_allclose(found.value, r, atol=0.05)
    with pytest.raises(sg.InputError, match=r"only 0 people were scanned twice within 0\.01 years"):
        retest_reliability(cohort, longest=0.01)
