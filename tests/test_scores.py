"""The CRPS: its definition, its closed form, and its fairness for few draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secondgram.imputation.scores import crps


@pytest.mark.parametrize("draws", [2, 3, 10, 51])
def test_crps_equals_its_definition_as_a_double_loop(draws: int) -> None:
    rng = np.random.default_rng(draws)
    sample, truth = rng.normal(size=(draws, 4, 3)), rng.normal(size=(4, 3))
    pairs = [np.abs(sample[i] - sample[j]) for i in range(draws) for j in range(draws) if i != j]
    expected = np.abs(sample - truth).mean(axis=0) - np.mean(pairs, axis=0) / 2
    np.testing.assert_allclose(crps(sample, truth), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("truth", [-2.0, 0.0, 0.3, 5.0])
@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (1.5, 0.2)])
def test_crps_of_many_gaussian_draws_is_the_closed_form(mean: float, sd: float, truth: float) -> None:
    z = (truth - mean) / sd
    expected = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    # Draws at the quantiles leave next to no sampling error.
    count = 20_000
    draws = stats.norm.ppf((np.arange(count) + 0.5) / count, mean, sd)
    assert crps(draws, np.array(truth)) == pytest.approx(expected, abs=2e-3 * sd)


@pytest.mark.parametrize("draws", [2, 5, 20])
def test_crps_is_fair_for_any_number_of_draws(draws: int) -> None:
    rng = np.random.default_rng(draws)
    scores = crps(rng.normal(size=(draws, 100_000)), np.zeros(100_000))
    expected = 2 * stats.norm.pdf(0) - 1 / np.sqrt(np.pi)
    assert abs(scores.mean() - expected) < 4.5 * scores.std() / np.sqrt(scores.size)


def test_one_draw_is_the_absolute_error() -> None:
    draws, truth = np.array([[1.0, -2.0]]), np.array([3.0, -2.5])
    np.testing.assert_array_equal(crps(draws, truth), [2.0, 0.5])


@pytest.mark.parametrize("draws", [1, 4])
def test_an_unknown_truth_has_no_score(draws: int) -> None:
    got = crps(np.ones((draws, 3)), np.array([np.nan, 1.0, 2.0]))
    np.testing.assert_array_equal(got, [np.nan, 0.0, 1.0])


def test_crps_shifts_and_scales_with_the_data_and_ignores_the_order_of_draws() -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(9, 5)), rng.normal(size=5)
    np.testing.assert_allclose(crps(3 * draws + 7, 3 * truth + 7), 3 * crps(draws, truth), rtol=1e-10)
    np.testing.assert_allclose(crps(draws[::-1], truth), crps(draws, truth), rtol=1e-12)
    before = draws.copy()
    crps(draws, truth)
    np.testing.assert_array_equal(draws, before)
