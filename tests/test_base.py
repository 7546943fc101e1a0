"""The mean of the follow-up: ridge regressions that are exact, and a choice that never sees whom it predicts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from secondgram.imputation import base
from secondgram.imputation.base import CANDIDATES, FOLDS, MeanPredictor, RidgePath, fit_mean

FEATURES, COVARIATES = 6, 2
INPUTS = FEATURES + COVARIATES + 1


def _inputs(pairs: int = 200, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pairs, INPUTS)), rng


def _units(pairs: int) -> np.ndarray:
    return np.array([f"person-{number}" for number in range(pairs)])


def _fit(X: np.ndarray, change: np.ndarray, unit: np.ndarray | None = None) -> tuple[MeanPredictor, np.ndarray]:
    return fit_mean(X, change, np.ones(len(X)), _units(len(X)) if unit is None else unit, seed=0)


# -- ridge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(40, 7), (7, 40), (12, 12), (5, 1), (2, 3)])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 300.0])
def test_ridge_equals_scikit_learn_with_weights(rows: int, columns: int, penalty: float) -> None:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, columns)) * rng.uniform(0.1, 50, columns) + rng.normal(size=columns) * 10
    Y, weight = rng.normal(size=(rows, 3)) + 5.0, rng.uniform(0.2, 2.0, rows)
    W, intercept = RidgePath(X, Y, weight).coefficients(penalty)

    share = weight / weight.sum()
    mean = share @ X
    spread = np.sqrt(share @ (X - mean) ** 2)
    model = Ridge(alpha=penalty, tol=1e-12).fit((X - mean) / spread, Y, sample_weight=share)
    np.testing.assert_allclose(X @ W + intercept, model.predict((X - mean) / spread), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(W, model.coef_.T / spread[:, None], rtol=1e-6, atol=1e-9)


def test_a_weight_counts_as_repeating_the_row() -> None:
    X, rng = _inputs(30)
    Y, times = rng.normal(size=(30, 2)), rng.integers(1, 4, 30)
    weighted = RidgePath(X, Y, times.astype(float)).coefficients(0.5)
    repeated = RidgePath(X.repeat(times, axis=0), Y.repeat(times, axis=0), np.ones(times.sum())).coefficients(0.5)
    for one, other in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_constant_column_has_no_coefficient() -> None:
    X, rng = _inputs(30)
    X[:, 2] = 0.1
    W, intercept = RidgePath(X, rng.normal(size=(30, 2)), np.ones(30)).coefficients(0.01)
    assert not W[2].any()
    assert np.isfinite(W).all()
    assert np.isfinite(intercept).all()


# -- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_carry_forward_is_chosen_where_nothing_changes(noise: float) -> None:
    X, rng = _inputs()
    change = noise * rng.normal(size=(200, FEATURES))
    predictor, residual = _fit(X, change)
    assert predictor.winner == "carry_forward"
    assert predictor.chosen == ["carry_forward"] * FEATURES
    assert not predictor.change(X).any()
    np.testing.assert_array_equal(residual, change)


def test_mean_change_is_chosen_where_covariates_and_gap_decide() -> None:
    X, rng = _inputs()
    change = 0.5 + X[:, -1:] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, _ = _fit(X, change)
    assert predictor.winner == "mean_change"
    np.testing.assert_allclose(predictor.change(X).mean(axis=0), change.mean(axis=0), atol=1e-9)


def test_own_is_chosen_where_features_regress_to_their_mean() -> None:
    X, rng = _inputs(400)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    predictor, _ = _fit(X, change)
    assert predictor.winner == "own"
    np.testing.assert_allclose(np.diag(predictor.W[:FEATURES]), -0.5, atol=0.06)


def test_ridge_is_chosen_where_features_tell_about_each_other() -> None:
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, residual = _fit(X, change)
    assert predictor.winner == "ridge"
    assert np.sqrt((residual**2).mean()) < 0.4
    assert predictor.gain["ridge"][0] > predictor.gain["own"][0] > 5 * predictor.gain["own"][1] - 1


def test_a_feature_may_go_its_own_way() -> None:
    X, rng = _inputs(600)
    change = 0.3 * rng.normal(size=(600, FEATURES))
    change[:, :4] += X[:, -1:]
    change[:, 4] -= 2.0 * X[:, 5]
    predictor, _ = _fit(X, change)
    assert predictor.chosen[:4] == ["mean_change"] * 4 or predictor.winner == "ridge"
    assert predictor.chosen[4] == "ridge"
    assert abs(predictor.W[5, 4] + 2.0) < 0.1


def test_gains_are_those_of_the_out_of_fold_errors() -> None:
    X, rng = _inputs()
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, residual = _fit(X, change)
    assert set(predictor.gain) == set(CANDIDATES)
    assert predictor.gain["carry_forward"] == [0.0, 0.0]
    fall = (change**2 - residual**2).mean(axis=1)
    expected = [fall.mean(), fall.std(ddof=1) / np.sqrt(200)]
    if set(predictor.chosen) == {predictor.winner}:
        np.testing.assert_allclose(predictor.gain[predictor.winner], expected, rtol=1e-9)


# -- out of fold ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with unknown cells"])
@pytest.mark.parametrize("kind", ["mean_change", "own", "ridge"])
def test_an_out_of_fold_prediction_never_uses_its_own_unit(
    kind: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The choice of candidate and penalty is made on everybody; what is chosen must be fitted without the unit.
    monkeypatch.setattr(base, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(base, "_per_feature", lambda error, *_: [kind] * FEATURES)
    X, rng = _inputs(60)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(60, FEATURES))
    if missing:
        change[rng.random(change.shape) < 0.3] = np.nan
    family = np.repeat([f"family-{number}" for number in range(20)], 3)
    _, residual = _fit(X, change, family)
    for name in family[::15]:
        own = family == name
        moved = np.where(own[:, None], change + rng.normal(size=change.shape) * 100, change)
        _, again = _fit(X, moved, family)
        np.testing.assert_allclose((moved - again)[own], (change - residual)[own], rtol=1e-12, atol=1e-12)
        assert not np.allclose((moved - again)[~own], (change - residual)[~own], equal_nan=True)


@pytest.mark.parametrize("units", [1, 2, 4, 5, 6, 23])
def test_folds_keep_units_together_and_are_of_about_one_size(units: int) -> None:
    unit = np.random.default_rng(0).permutation(np.repeat([f"u{number}" for number in range(units)], 3))
    fold = base._unit_folds(unit, seed=1)
    assert set(fold) == set(range(min(FOLDS, units)))
    for name in set(unit):
        assert len(set(fold[unit == name])) == 1
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 3
    np.testing.assert_array_equal(fold, base._unit_folds(unit, seed=1))


def test_sums_over_units() -> None:
    values, unit = np.arange(12.0).reshape(6, 2), np.array(["b", "a", "b", "c", "a", "b"])
    expected = [values[unit == name].sum(axis=0) for name in "abc"]
    np.testing.assert_array_equal(base._unit_sums(values, unit), expected)
    np.testing.assert_array_equal(base._unit_sums(values[:, 0], unit), np.array(expected)[:, 0])


# -- unknown targets --------------------------------------------------------------------------------------------------


def test_unknown_targets_have_no_residual_and_spoil_nothing() -> None:
    X, rng = _inputs(300)
    change = -0.5 * X[:, :FEATURES] + 0.2 * rng.normal(size=(300, FEATURES))
    gone = rng.random(change.shape) < 0.2
    gone[:, 5] = True
    predictor, residual = _fit(X, np.where(gone, np.nan, change))
    np.testing.assert_array_equal(np.isnan(residual), gone)
    assert np.isfinite(predictor.W).all()
    assert np.isfinite(predictor.intercept).all()
    known = np.where(gone, 0.0, residual)[:, :5]
    assert np.sqrt((known**2).sum() / (~gone[:, :5]).sum()) < 0.32
    # Nothing is known about the last feature, so nothing is said to change.
    assert np.abs(predictor.change(X)[:, 5]).max() < 1e-9


def test_each_row_is_predicted_on_its_own_and_the_state_comes_back() -> None:
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, _ = _fit(X, change)
    whole = predictor.change(X)
    np.testing.assert_allclose(whole, X @ predictor.W + predictor.intercept, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(predictor.change(X[[7, 3]]), whole[[7, 3]])
    again = MeanPredictor.from_state(predictor.state())
    np.testing.assert_array_equal(again.change(X), whole)
    assert again.chosen == predictor.chosen


def test_a_fit_is_decided_by_its_seed() -> None:
    X, rng = _inputs(100)
    change = rng.normal(size=(100, FEATURES)) - 2.0 * X[:, :FEATURES]
    first, again = (_fit(X, change) for _ in range(2))
    np.testing.assert_array_equal(first[1], again[1])
    other = fit_mean(X, change, np.ones(100), _units(100), seed=1)[1]
    assert not np.array_equal(first[1], other)
