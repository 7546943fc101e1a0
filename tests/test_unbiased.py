"""The average change of a feature: not shrunk where many people tell it, and as before where few do."""

from __future__ import annotations

import numpy as np
import pytest

import secondgram as sg
from secondgram.imputation.default.design import Design, fit_folds
from secondgram.imputation.default.mean import fit_means
from secondgram.imputation.default.unbiased import averages, shown_by_many

SHIFT = 0.15


def _means(people: int, monkeypatch: pytest.MonkeyPatch, least: int) -> tuple[Design, dict, list]:
    """Means by choice, their errors out of fold, and folds, of features that change by a little on average."""
    monkeypatch.setattr("secondgram.imputation.default.unbiased.UNBIASED", least)
    made = sg.simulate(2 * people, 5, 0.5, seed=3, mode="gaussian")
    visits = made.visits.copy()
    visits[:, 1] += SHIFT * made.baseline.std(axis=0) * np.array([1, -1, 1, -1, 1])
    cohort = sg.Cohort(made.ids, visits, made.features, times=made.times, covariate_table=made.covariate_table)
    whole = Design.of(cohort, every=True)
    folds, _ = fit_folds(cohort, whole, every=True, seed=0)
    return whole, fit_means(whole, folds, ("carry_forward", "own", "blend"), self_conditioning=True), folds


@pytest.mark.parametrize("choice", ["own", "blend"])
def test_many_people_have_the_average_change_that_they_had(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, means, _ = _means(150, monkeypatch, least=100)
    predicted = means[choice][0].change(whole.X)
    error = whole.change.std(axis=0) / np.sqrt(len(whole.change))
    # Far errors count less, which a mean of all does not know.
    assert np.abs((whole.change - predicted).mean(axis=0) / error).max() < 0.1
    plain = _means(150, monkeypatch, least=10**9)[1][choice][0].change(whole.X)
    assert np.abs((whole.change - plain).mean(axis=0) / error).mean() > 0.1
    np.testing.assert_allclose((predicted - plain).std(axis=0), 0.0, atol=1e-9)


def test_few_people_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    _, few, _ = _means(90, monkeypatch, least=100)
    _, plain, _ = _means(90, monkeypatch, least=10**9)
    for choice, (mean, left) in few.items():
        np.testing.assert_array_equal(mean.map.intercept, plain[choice][0].map.intercept)
        np.testing.assert_array_equal(left, plain[choice][1])


def test_errors_out_of_fold_are_less_an_average_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain, _ = _means(150, monkeypatch, least=10**9)
    whole, means, folds = _means(150, monkeypatch, least=100)
    pairs = whole.pairs
    np.testing.assert_array_equal(means["carry_forward"][1], plain["carry_forward"][1])
    for fold in folds:
        others = np.setdiff1d(np.arange(len(pairs)), fold.rows)
        before = plain["blend"][1]
        lacks = averages(before[others], pairs.weight[others], pairs.wanted[others], np.ones(5, dtype=bool))
        assert np.abs(lacks).max() > 0
        np.testing.assert_allclose(means["blend"][1][fold.rows], before[fold.rows] - lacks, rtol=1e-12, atol=1e-12)


def test_averages_are_of_people_with_pairs_that_are_imputed() -> None:
    rng = np.random.default_rng(0)
    left = 0.5 + rng.standard_normal((240, 3))
    left[0, 0], left[60:, 1] = 1e6, np.nan
    unit, wanted = np.array([f"F{row // 2}" for row in range(240)]), np.arange(240) < 220
    left[220:] += 50.0
    # Thirty families say nothing, nor do a hundred and twenty people of sixty.
    many = shown_by_many(left, unit, wanted)
    assert many.tolist() == [True, False, True]
    assert not shown_by_many(left, np.array([f"F{row // 4}" for row in range(240)]), wanted).any()
    assert not shown_by_many(left, unit, np.arange(240) < 190).any()
    found = averages(left, np.ones(240), wanted, many)
    # One far cell decides little.
    assert found[0] == pytest.approx(np.mean(left[1:220, 0]), abs=0.05)
    assert found[1] == 0.0
    assert found[2] == pytest.approx(np.mean(left[:220, 2]), abs=0.05)
    heavy = np.where(np.arange(240) < 110, 1.0, 1e-9)
    assert averages(left, heavy, wanted, many)[2] == pytest.approx(np.mean(left[:110, 2]), abs=0.05)
