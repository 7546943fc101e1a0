"""Regressions of many features whose coefficients are drawn towards what they share."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.default.design import FARTHEST
from secondgram.imputation.default.hierarchy import Hierarchy, fit_hierarchy

COMMON, DEVIATION = np.array([0.2, 0.1, -0.5]), np.array([0.2, 0.05, 0.1])


def _problem(
    rows: int, width: int, seed: int = 0, noise: float = 1.0
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """An intercept and a shared column, a column of each feature's own, y, and the coefficients (3, D) behind it."""
    rng = np.random.default_rng(seed)
    shared = np.stack([np.ones(rows), rng.normal(size=rows)], axis=1)
    own = [rng.normal(size=(rows, width))]
    beta = COMMON[:, None] + DEVIATION[:, None] * rng.normal(size=(3, width))
    y = shared @ beta[:2] + own[0] * beta[2] + noise * rng.normal(size=(rows, width))
    return shared, own, y, beta


def _separately(shared: np.ndarray, own: list[np.ndarray], y: np.ndarray) -> np.ndarray:
    """(3, D) by least squares, feature by feature."""
    found = []
    for feature in range(y.shape[1]):
        columns = np.column_stack([shared, *(each[:, feature] for each in own)])
        found.append(np.linalg.lstsq(columns, y[:, feature], rcond=None)[0])
    return np.stack(found, axis=1)


def _same(one: Hierarchy, other: Hierarchy, tolerance: float = 1e-9) -> None:
    for name in ("coefficients", "common", "deviation", "error"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance)


# -- what is found ----------------------------------------------------------------------------------------------------


def test_with_many_rows_the_coefficients_come_back() -> None:
    shared, own, y, beta = _problem(20_000, 12, noise=0.5)
    found = fit_hierarchy(shared, own, y, np.ones(20_000))
    np.testing.assert_allclose(found.coefficients, beta, atol=0.02)
    np.testing.assert_allclose(found.common, beta.mean(axis=1), atol=0.01)
    # A little below, because far errors count less.
    np.testing.assert_allclose(found.error, 0.25, rtol=0.05)


def test_what_features_share_and_how_far_they_are_from_it_is_learned() -> None:
    shared, own, y, beta = _problem(400, 200)
    found = fit_hierarchy(shared, own, y, np.ones(400))
    np.testing.assert_allclose(found.common, COMMON, atol=0.04)
    # One feature alone tells the second to no better than it differs.
    np.testing.assert_allclose(found.deviation, beta.std(axis=1), rtol=0.25)


@pytest.mark.parametrize("rows", [8, 16, 30])
def test_with_few_rows_it_is_nearer_the_truth_than_separate_regressions(rows: int) -> None:
    drawn, alone, plain = [], [], []
    for seed in range(40):
        shared, own, y, beta = _problem(rows, 15, seed)
        drawn.append(((fit_hierarchy(shared, own, y, np.ones(rows)).coefficients - beta) ** 2).mean())
        alone.append(((_separately(shared, own, y) - beta) ** 2).mean())
        plain.append((beta**2).mean())
    assert np.mean(drawn) < 0.6 * np.mean(alone)
    # And than no regression at all.
    assert np.mean(drawn) < 0.7 * np.mean(plain)
    assert np.mean(np.array(drawn) < np.array(alone)) > 0.9


def test_one_feature_alone_is_drawn_to_nothing_far_away() -> None:
    shared, own, y, _ = _problem(2000, 1)
    found = fit_hierarchy(shared, own, y, np.ones(2000))
    np.testing.assert_allclose(found.coefficients, _separately(shared, own, y), atol=0.03)


def test_how_far_features_differ_a_priori_is_heard() -> None:
    shared, own, y, _ = _problem(12, 3)
    loose, tight = (
        fit_hierarchy(shared, own, y, np.ones(12), np.array([0.1, 0.1, usual])).coefficients[2] for usual in (2.0, 1e-3)
    )
    assert np.ptp(tight) < 0.02
    assert np.ptp(loose) > 5 * np.ptp(tight)


# -- unknown cells ----------------------------------------------------------------------------------------------------


def test_unknown_cells_say_nothing_whatever_stands_beside_them() -> None:
    shared, own, y, _ = _problem(60, 8)
    gone = np.random.default_rng(1).random(y.shape) < 0.3
    gone[:, 5] = True
    holed = np.where(gone, np.nan, y)
    before = fit_hierarchy(shared, own, holed, np.ones(60))
    _same(fit_hierarchy(shared, [np.where(gone, 1e3, own[0])], holed, np.ones(60)), before, 1e-7)
    assert np.isfinite(before.coefficients).all()
    # Of a feature that is never known there is what the others share.
    np.testing.assert_allclose(before.coefficients[:, 5], before.common, atol=0.02)


def test_rows_of_which_nothing_is_known_are_as_good_as_absent() -> None:
    shared, own, y, _ = _problem(60, 8)
    y[40:] = np.nan
    whole = fit_hierarchy(shared, own, y, np.ones(60))
    _same(whole, fit_hierarchy(shared[:40], [own[0][:40]], y[:40], np.ones(40)))


# -- far cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [1e6, -1e4, 30.0])
def test_one_far_cell_moves_its_own_coefficients_by_little_and_others_hardly(far: float) -> None:
    shared, own, y, _ = _problem(60, 8)
    before = fit_hierarchy(shared, own, y, np.ones(60))
    y[7, 3] = far
    moved = np.abs(fit_hierarchy(shared, own, y, np.ones(60)).coefficients - before.coefficients)
    assert moved[:, 3].max() < 0.25
    assert np.delete(moved, 3, axis=1).max() < 0.05


# No further than a design lets cells be.
@pytest.mark.parametrize("far", [FARTHEST, -FARTHEST, 2 * FARTHEST])
def test_one_far_column_and_what_follows_from_it_move_little(far: float) -> None:
    # A measurement gone wrong, with a change that undoes it; within reach and beyond there are slopes of their own.
    shared, own, y, _ = _problem(60, 8)
    column = own[0].copy()
    before = fit_hierarchy(shared, [own[0], np.zeros_like(column)], y, np.ones(60))
    column[7, 3], y[7, 3] = far, -far
    beyond = column - np.clip(column, -4.0, 4.0)
    after = fit_hierarchy(shared, [column, beyond], y, np.ones(60))
    moved = np.abs(after.coefficients - before.coefficients)
    # Up to what is beyond, of which there was nothing before.
    assert moved[:3, 3].max() < 0.25
    assert np.delete(moved[:3], 3, axis=1).max() < 0.06


# -- weights ----------------------------------------------------------------------------------------------------------


def test_rows_that_are_repeated_with_weights_that_are_divided_give_the_same() -> None:
    shared, own, y, _ = _problem(60, 8)
    y[np.random.default_rng(1).random(y.shape) < 0.1] = np.nan
    weight = np.random.default_rng(2).uniform(0.3, 1.0, 60)
    rows = np.repeat(np.arange(60), 3)
    repeated = fit_hierarchy(shared[rows], [own[0][rows]], y[rows], weight[rows] / 3.0)
    _same(repeated, fit_hierarchy(shared, own, y, weight))


def test_the_order_of_rows_and_of_features_does_not_matter() -> None:
    shared, own, y, _ = _problem(60, 8)
    rows, features = np.random.default_rng(1).permutation(60), np.random.default_rng(2).permutation(8)
    before = fit_hierarchy(shared, own, y, np.ones(60))
    after = fit_hierarchy(shared[rows], [own[0][np.ix_(rows, features)]], y[np.ix_(rows, features)], np.ones(60))
    np.testing.assert_allclose(after.coefficients, before.coefficients[:, features], rtol=1e-8, atol=1e-8)


def test_fewer_pairs_are_drawn_further() -> None:
    shared, own, y, _ = _problem(40, 8)
    spread = [np.ptp(fit_hierarchy(shared, own, y, np.full(40, weight)).coefficients[2]) for weight in (1.0, 0.3, 0.05)]
    assert spread[0] > spread[1] > spread[2]
