"""Ridge regressions that are exact for any penalty, and linear maps that add up."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from secondgram.imputation.regression import PATTERNS, LinearMap, RidgePaths, patterns, ridge, with_gap

INPUTS, WIDTH = 5, 3


def _inputs(rows: int = 30, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, INPUTS)), rng


def _map(seed: int, by_gap: bool) -> LinearMap:
    rng = np.random.default_rng(seed)
    moved = rng.normal(size=(INPUTS - 1, WIDTH)) if by_gap else None
    return LinearMap(rng.normal(size=(INPUTS, WIDTH)), rng.normal(size=WIDTH), moved)


# -- ridge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(40, 7), (7, 40), (12, 12), (5, 1), (2, 3)])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 300.0])
def test_ridge_equals_scikit_learn_with_weights(rows: int, columns: int, penalty: float) -> None:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, columns)) * rng.uniform(0.1, 50, columns) + rng.normal(size=columns) * 10
    Y, weight = rng.normal(size=(rows, 3)) + 5.0, rng.uniform(0.2, 2.0, rows)
    W, intercept = ridge(X, Y, weight, penalty)

    share = weight / weight.sum()
    mean = share @ X
    spread = np.sqrt(share @ (X - mean) ** 2)
    model = Ridge(alpha=penalty, tol=1e-12).fit((X - mean) / spread, Y, sample_weight=share)
    np.testing.assert_allclose(X @ W + intercept, model.predict((X - mean) / spread), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(W, model.coef_.T / spread[:, None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [4, 30])
def test_predictions_are_those_of_the_map_at_every_penalty(rows: int) -> None:
    X, rng = _inputs(rows)
    paths = RidgePaths(X, rng.normal(size=(rows, WIDTH)), rng.uniform(0.2, 2.0, rows))
    fresh, penalties = rng.normal(size=(7, INPUTS)), np.array([0.01, 1.0, 100.0])
    for penalty, predicted in zip(penalties, paths.predictions(fresh, penalties), strict=True):
        np.testing.assert_allclose(predicted, paths.map(float(penalty), INPUTS)(fresh), rtol=1e-10, atol=1e-10)


def test_a_weight_counts_as_repeating_the_row() -> None:
    X, rng = _inputs()
    Y, times = rng.normal(size=(30, 2)), rng.integers(1, 4, 30)
    weighted = ridge(X, Y, times.astype(float), 0.5)
    repeated = ridge(X.repeat(times, axis=0), Y.repeat(times, axis=0), np.ones(times.sum()), 0.5)
    for one, other in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_constant_column_has_no_coefficient() -> None:
    X, rng = _inputs()
    X[:, 2] = 0.1
    W, intercept = ridge(X, rng.normal(size=(30, 2)), np.ones(30), 0.01)
    assert not W[2].any()
    assert np.isfinite(W).all()
    assert np.isfinite(intercept).all()


def test_without_columns_the_mean_is_what_is_left() -> None:
    Y, weight = np.random.default_rng(0).normal(size=(9, 2)), np.arange(1.0, 10.0)
    W, intercept = ridge(np.empty((9, 0)), Y, weight, 0.1)
    assert W.shape == (0, 2)
    np.testing.assert_allclose(intercept, weight @ Y / weight.sum(), rtol=1e-12)


# -- linear maps ------------------------------------------------------------------------------------------------------


def test_a_map_is_its_formula() -> None:
    X, _ = _inputs()
    plain, moved = _map(1, False), _map(1, True)
    np.testing.assert_allclose(plain(X), X @ plain.W + plain.intercept, rtol=1e-12, atol=1e-12)
    assert moved.by_gap is not None
    expected = np.empty((30, WIDTH))
    for row, x in enumerate(X):
        expected[row] = x @ moved.W + moved.intercept + x[-1] * (x[:-1] @ moved.by_gap)
    np.testing.assert_allclose(moved(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("one", [False, True], ids=["plain", "by gap"])
@pytest.mark.parametrize("other", [False, True], ids=["plain", "by gap"])
def test_maps_add_up(one: bool, other: bool) -> None:
    X, _ = _inputs()
    first, second = _map(1, one), _map(2, other)
    total = first + second
    np.testing.assert_allclose(total(X), first(X) + second(X), rtol=1e-12, atol=1e-12)
    assert (total.by_gap is None) == (not one and not other)


@pytest.mark.parametrize("by_gap", [False, True], ids=["plain", "by gap"])
@pytest.mark.parametrize("factor", [0.0, -2.5, np.array([1.0, 0.0, 3.0])], ids=["nothing", "number", "one an output"])
def test_a_map_is_scaled_output_by_output(by_gap: bool, factor: float | np.ndarray) -> None:
    X, _ = _inputs()
    np.testing.assert_allclose(_map(1, by_gap).scaled(factor)(X), _map(1, by_gap)(X) * factor, rtol=1e-12, atol=1e-12)


def test_adding_and_scaling_leave_the_parts_as_they_are() -> None:
    first, before = _map(1, True), _map(1, True)
    first.scaled(3.0) + first
    np.testing.assert_array_equal(first.W, before.W)
    np.testing.assert_array_equal(first.intercept, before.intercept)
    np.testing.assert_array_equal(first.by_gap, before.by_gap)


def test_zero_is_the_neutral_map() -> None:
    X, _ = _inputs()
    zero = LinearMap.zero(INPUTS, WIDTH)
    np.testing.assert_array_equal(zero(X), np.zeros((30, WIDTH)))
    np.testing.assert_array_equal((zero + _map(1, True))(X), _map(1, True)(X))


@pytest.mark.parametrize("by_gap", [False, True], ids=["plain", "by gap"])
def test_each_row_is_mapped_on_its_own(by_gap: bool) -> None:
    X, _ = _inputs(130)
    np.testing.assert_array_equal(_map(1, by_gap)(X[[100, 3]]), _map(1, by_gap)(X)[[100, 3]])


# -- with the gap -----------------------------------------------------------------------------------------------------


def test_with_gap_appends_every_other_column_times_the_gap() -> None:
    X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -1.0]])
    np.testing.assert_array_equal(with_gap(X), [[1, 2, 3, 3, 6], [4, 5, -1, -4, -5]])
    # The gap alone has no partner.
    np.testing.assert_array_equal(with_gap(np.array([[2.0], [3.0]])), [[2.0], [3.0]])


@pytest.mark.parametrize("interacting", [False, True])
def test_a_ridge_becomes_a_map_of_the_plain_columns(interacting: bool) -> None:
    X, rng = _inputs()
    columns = with_gap(X) if interacting else X
    left = rng.normal(size=(30, WIDTH))
    left[:9, 0] = np.nan
    paths = RidgePaths(columns, left, rng.uniform(0.5, 2.0, 30))
    found = paths.map(0.3, INPUTS)
    np.testing.assert_allclose(found(X), next(paths.predictions(columns, np.array([0.3]))), rtol=1e-10, atol=1e-10)
    assert (found.by_gap is not None) == interacting


def test_a_light_ridge_recovers_a_map_that_depends_on_the_gap() -> None:
    X, truth = _inputs(200)[0], _map(4, True)
    change = truth(X)
    columns = with_gap(X)
    # What simple predictors leave is about nothing where the columns are at their means.
    middle = truth.intercept + columns.mean(axis=0) @ np.concatenate([truth.W, _by_gap(truth)])
    found = RidgePaths(columns, change - middle, np.ones(200)).map(1e-9, INPUTS)
    np.testing.assert_allclose(found.W, truth.W, atol=1e-6)
    np.testing.assert_allclose(_by_gap(found), _by_gap(truth), atol=1e-6)


def _by_gap(linear: LinearMap) -> np.ndarray:
    assert linear.by_gap is not None
    return linear.by_gap


# -- each feature on the rows where it is known -----------------------------------------------------------------------


def _ridge(X: np.ndarray, left: np.ndarray, weight: np.ndarray, penalty: float, fresh: np.ndarray) -> np.ndarray:
    """Predictions (n, D) of a ridge without intercept, feature by feature, on known rows alone, by normal equations."""
    share = weight / weight.sum()
    mean = share @ X
    spread = np.sqrt(share @ (X - mean) ** 2)
    scaled = (X - mean) / spread
    found = []
    for column in left.T:
        rows = np.isfinite(column)
        own = weight[rows] / weight[rows].sum()
        gram = (scaled[rows].T * own) @ scaled[rows] + penalty * np.eye(X.shape[1])
        found.append(np.linalg.solve(gram, scaled[rows].T @ (own * column[rows])))
    return (fresh - mean) / spread @ np.stack(found, axis=1)


@pytest.mark.parametrize("rows", [12, 60])
@pytest.mark.parametrize("penalty", [0.03, 10.0])
def test_each_pattern_of_known_rows_is_the_ridge_on_those_rows(rows: int, penalty: float) -> None:
    rng = np.random.default_rng(rows)
    X, weight = rng.normal(size=(rows, 14)) * rng.uniform(0.1, 9.0, 14) + 3.0, rng.uniform(0.2, 1.0, rows)
    left = rng.normal(size=(rows, 2 * PATTERNS))
    # As many patterns as are fitted exactly, of which one is no row and one all of them.
    for pattern in range(1, PATTERNS):
        left[rng.random(rows) < 0.17 * pattern, 2 * pattern : 2 * pattern + 2] = np.nan
    left[:, -1] = left[:, -2] = np.nan
    paths, fresh = RidgePaths(X, left, weight), rng.normal(size=(5, 14))
    known = slice(0, 2 * PATTERNS - 2)
    expected = _ridge(X, left[:, known], weight, penalty, fresh)
    predicted = next(paths.predictions(fresh, np.array([penalty])))
    np.testing.assert_allclose(predicted[:, known], expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(predicted[:, -2:], 0.0)
    np.testing.assert_allclose(paths.map(penalty, 14)(fresh), predicted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("share", [0.03, 0.08])
def test_scattered_unknown_cells_shrink_no_slope(share: float) -> None:
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(600, 10)), rng.normal(size=(10, 20))
    left = X @ W + 0.5 * rng.normal(size=(600, 20))
    left[rng.random(left.shape) < share] = np.nan
    assert len(np.unique(np.isfinite(left), axis=1).T) > PATTERNS
    fresh = rng.normal(size=(400, 10))
    predicted = next(RidgePaths(X, left, np.ones(600)).predictions(fresh, np.array([1e-3])))
    slope = (predicted * (fresh @ W)).sum(axis=0) / (predicted**2).sum(axis=0)
    np.testing.assert_allclose(slope, 1.0, atol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("width", [1, 5, 40])
def test_patterns_cover_every_feature_once(share: float, width: int) -> None:
    rng = np.random.default_rng(width)
    seen = rng.random((60, width)) >= share
    seen[:30, : width // 2] = False
    found = patterns(seen)
    features = np.concatenate([each for each, _ in found])
    assert len(found) <= PATTERNS
    assert len(set(features)) == len(features)
    # What is left out is known too rarely for any row to have half of its group.
    missing = np.setdiff1d(np.arange(width), features)
    assert (seen[:, missing].mean(axis=0) < 0.5).all()
    if share <= 0.02:
        assert not len(missing)
    for columns, rows in found:
        np.testing.assert_array_equal(rows, np.flatnonzero(seen[:, columns].mean(axis=1) >= 0.5))


def test_features_without_a_known_row_or_a_constant_column_have_no_slope() -> None:
    X, rng = _inputs()
    X[:, 2] = 0.1
    left = rng.normal(size=(30, WIDTH))
    left[:, 1] = np.nan
    found = RidgePaths(X, left, np.ones(30)).map(0.01, INPUTS)
    assert not found.W[2].any()
    assert not found.W[:, 1].any()
    assert np.isfinite(found.W).all()
