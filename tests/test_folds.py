"""Folds that keep units together, sums over units, and the rule of one standard error."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.folds import FOLDS, one_error_better, standard_error, unit_folds, unit_sums


@pytest.mark.parametrize("folds", [2, FOLDS])
@pytest.mark.parametrize("units", [1, 2, 4, 5, 6, 23])
def test_folds_keep_units_together_and_are_of_about_one_size(units: int, folds: int) -> None:
    unit = np.random.default_rng(0).permutation(np.repeat([f"u{number}" for number in range(units)], 3))
    fold = unit_folds(unit, 1, folds)
    assert set(fold) == set(range(min(folds, units)))
    for name in set(unit):
        assert len(set(fold[unit == name])) == 1
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 3
    np.testing.assert_array_equal(fold, unit_folds(unit, 1, folds))


def test_folds_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    unit = np.array([f"u{number}" for number in range(40)])
    assert not np.array_equal(unit_folds(unit, 0), unit_folds(unit, 1))
    np.testing.assert_array_equal(unit_folds(unit[::-1], 0), unit_folds(unit, 0)[::-1])


def test_sums_over_units() -> None:
    values, unit = np.arange(12.0).reshape(6, 2), np.array(["b", "a", "b", "c", "a", "b"])
    expected = [values[unit == name].sum(axis=0) for name in "abc"]
    np.testing.assert_array_equal(unit_sums(values, unit), expected)
    np.testing.assert_array_equal(unit_sums(values[:, 0], unit), np.array(expected)[:, 0])


def test_the_standard_error_is_that_of_a_mean_and_unknown_for_one_unit() -> None:
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(1.0)
    assert standard_error(np.array([1.0])) == np.inf


@pytest.mark.parametrize(
    ("gain", "better"),
    [([1.5, 3.5], True), ([0.5, 2.5], True), ([0.0, 2.0], False), ([-3.0, -2.0], False), ([5.0], False)],
)
def test_better_by_more_than_one_standard_error(gain: list[float], better: bool) -> None:
    assert one_error_better(np.array(gain)) is better


def test_no_gain_at_all_is_not_better() -> None:
    assert not one_error_better(np.zeros(10))
