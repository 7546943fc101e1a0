"""The mean of the follow-up: a choice and a blend that never see whom they predict."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from secondgram.imputation import base
from secondgram.imputation.base import CANDIDATES, CHOICES, MeanPredictor, fit_mean
from secondgram.imputation.folds import unit_folds
from secondgram.imputation.population import Population

FEATURES, COVARIATES = 6, 2
INPUTS = FEATURES + COVARIATES + 1


def _inputs(pairs: int = 200, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pairs, INPUTS)), rng


def _units(pairs: int) -> np.ndarray:
    return np.array([f"person-{number}" for number in range(pairs)])


def _fit(
    X: np.ndarray,
    change: np.ndarray,
    unit: np.ndarray | None = None,
    everyone: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[MeanPredictor, np.ndarray]:
    unit = _units(len(X)) if unit is None else unit
    weight = np.ones(len(X)) if weight is None else weight
    return fit_mean(X, change, weight, unit, unit_folds(unit, seed), X if everyone is None else everyone)


def _measured_again(people: int, pairs: int, seed: int = 0, width: int = 20) -> tuple[np.ndarray, np.ndarray, float]:
    """A truth of three factors, measured twice with noise.

    Inputs of everyone, changes of the first pairs, and the mean squared error of the exact posterior mean.
    """
    rng = np.random.default_rng(seed)
    loading = rng.normal(size=(3, width))
    truth = rng.normal(size=(people, 3)) @ loading + 0.3 * rng.normal(size=(people, width))
    noise = rng.uniform(0.4, 1.0, width)
    baseline, later = (truth + noise * rng.normal(size=(people, width)) for _ in range(2))
    sd = baseline.std(axis=0)
    context = rng.normal(size=(people, 2))
    T, N = loading.T @ loading + 0.09 * np.eye(width), np.diag(noise**2)
    left = N + T - T @ np.linalg.solve(T + N, T)
    best = float((np.diag(left) / sd**2).mean())
    return np.concatenate([baseline / sd, context], axis=1), ((later - baseline) / sd)[:pairs], best


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
    np.testing.assert_allclose(np.diag(predictor.map.W[:FEATURES]), -0.5, atol=0.06)


def test_the_blend_is_chosen_where_features_tell_about_each_other() -> None:
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, residual = _fit(X, change)
    assert predictor.winner == "blend"
    assert np.sqrt((residual**2).mean()) < 0.4
    assert predictor.gain["ridge"][0] > predictor.gain["own"][0] + 5 * predictor.gain["own"][1]


def test_a_feature_may_go_its_own_way() -> None:
    X, rng = _inputs(600)
    change = 0.3 * rng.normal(size=(600, FEATURES))
    change[:, :4] += X[:, -1:]
    change[:, 4] -= 2.0 * X[:, 5]
    predictor, _ = _fit(X, change)
    assert predictor.winner == "blend"
    # What only gap decides needs no ridge, and what another feature decides needs nothing else.
    assert predictor.chosen.count("mean_change") >= 3
    assert predictor.chosen[4] == "ridge"
    assert abs(predictor.map.W[5, 4] + 2.0) < 0.1


def test_the_map_of_a_feature_is_that_of_its_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    X, rng = _inputs()
    change = -0.5 * X[:, :FEATURES] + X[:, -1:] * X[:, :1] + 0.3 * rng.normal(size=(200, FEATURES))
    whole, errors = {}, {}
    for name in CANDIDATES:
        monkeypatch.setattr(base, "_per_feature", lambda *_, name=name: [name] * FEATURES)
        predictor, errors[name] = _fit(X, change)
        whole[name] = predictor.change(X)
    mixed = ["gap_ridge", "carry_forward", "own", "blend", "self_conditioned", "ridge"]
    monkeypatch.setattr(base, "_per_feature", lambda *_: mixed)
    predictor, residual = _fit(X, change)
    assert predictor.chosen == mixed
    for column, name in enumerate(mixed):
        np.testing.assert_allclose(predictor.change(X)[:, column], whole[name][:, column], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(residual[:, column], errors[name][:, column])


def test_gains_are_those_of_the_out_of_fold_errors() -> None:
    X, rng = _inputs(400)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    predictor, residual = _fit(X, change)
    assert set(predictor.gain) == set(CANDIDATES)
    assert predictor.gain["carry_forward"] == [0.0, 0.0]
    assert set(predictor.chosen) == {predictor.winner}
    fall = (change**2 - residual**2).mean(axis=1)
    expected = [fall.mean(), fall.std(ddof=1) / np.sqrt(400)]
    np.testing.assert_allclose(predictor.gain[predictor.winner], expected, rtol=1e-9)


# -- what self-conditioning earns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_self_conditioning_pays_where_the_follow_up_is_the_truth_measured_again(seed: int) -> None:
    everyone, change, best = _measured_again(4000, 120, seed)
    predictor, residual = _fit(everyone[:120], change, everyone=everyone)
    error = {name: (change**2).mean() - gain for name, (gain, _) in predictor.gain.items()}
    assert predictor.winner == "blend"
    assert error["own"] > error["ridge"] > 1.1 * error["self_conditioned"]
    for name in ("self_conditioned", "blend"):
        assert error[name] == pytest.approx(best, rel=0.1)
    assert (residual**2).mean() == pytest.approx(best, rel=0.1)


def test_people_without_a_follow_up_pay() -> None:
    everyone, change, _ = _measured_again(4000, 60, width=40)
    many, alone = (_fit(everyone[:60], change, everyone=others)[0] for others in (everyone, everyone[:60]))
    assert many.gain["self_conditioned"][0] > 1.05 * alone.gain["self_conditioned"][0]
    # A covariance that few people show is shrunk more.
    assert many.shrinkage < alone.shrinkage


# -- the gap ----------------------------------------------------------------------------------------------------------


def test_a_coefficient_that_changes_with_the_gap_is_found() -> None:
    X, rng = _inputs(400)
    change = 0.5 * X[:, -1:] * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    predictor, residual = _fit(X, change)
    assert predictor.winner == "blend"
    assert predictor.weights["gap_ridge"] > 0.9
    assert predictor.gain["gap_ridge"][0] > predictor.gain["ridge"][0] + 5 * predictor.gain["ridge"][1]
    assert np.sqrt((residual**2).mean()) < 0.33
    assert predictor.map.by_gap is not None
    np.testing.assert_allclose(np.diag(predictor.map.by_gap[:FEATURES]), 0.5, atol=0.06)


def test_where_all_gaps_are_one_nothing_changes_with_the_gap() -> None:
    X, rng = _inputs()
    X[:, -1] = 0.0
    predictor, _ = _fit(X, X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES)))
    assert predictor.winner == "blend"
    assert "gap_ridge" not in predictor.gain
    assert "gap_ridge" not in predictor.weights
    assert predictor.map.by_gap is None


# -- the blend --------------------------------------------------------------------------------------------------------


def _pairs(seed: int = 0, pairs: int = 80) -> tuple[base._Pairs, base.Errors]:
    """Pairs, some cells of them unknown, and errors of candidates that see a part of the change."""
    X, rng = _inputs(pairs, seed)
    change = rng.normal(size=(pairs, FEATURES))
    change[rng.random(change.shape) < 0.2] = np.nan
    made = base._Pairs(X, change, rng.uniform(0.2, 2.0, pairs), np.arange(pairs) % 4)
    parts = {"mean_change": 0.2, "own": 0.5, "ridge": -0.4}
    predicted = {name: part * made.known + rng.normal(size=change.shape) for name, part in parts.items()}
    return made, {"carry_forward": made.known} | {name: made.known - value for name, value in predicted.items()}


def test_the_blend_is_least_squares_with_weights_of_zero_or_more() -> None:
    pairs, error = _pairs()
    root = np.sqrt(np.broadcast_to(pairs.weight[:, None], pairs.seen.shape))[pairs.seen]
    names = ("mean_change", "own", "ridge")
    columns = np.stack([(pairs.known - error[name])[pairs.seen] * root for name in names], axis=1)
    expected = nnls(columns, pairs.known[pairs.seen] * root)[0]
    weights = base._blend(error, pairs)
    # Carry-forward predicts no change: it takes no weight but what the others leave.
    assert tuple(weights) == names
    np.testing.assert_allclose(list(weights.values()), expected, atol=1e-4)
    # A candidate that points away from the truth is left out, not turned round.
    assert weights["ridge"] == 0.0 < weights["mean_change"] < weights["own"]


def test_candidates_that_coincide_share_their_weight() -> None:
    pairs, error = _pairs()
    one = base._blend(error, pairs)["own"]
    weights = base._blend(error | {"self_conditioned": error["own"]}, pairs)
    assert weights["own"] + weights["self_conditioned"] == pytest.approx(one, rel=1e-3)


def test_the_weights_of_a_fold_come_from_the_others() -> None:
    pairs, error = _pairs()
    blended = base._cross_blended(error, pairs)
    rng = np.random.default_rng(5)
    for k in range(4):
        own = (pairs.fold == k)[:, None]
        # The truth of one fold moves; what every candidate predicts for it stays.
        shift = np.where(own, 100.0 * rng.normal(size=pairs.known.shape), 0.0)
        moved = base._Pairs(pairs.X, pairs.change, pairs.weight, pairs.fold)
        moved.known = pairs.known + shift
        again = base._cross_blended({name: values + shift for name, values in error.items()}, moved)
        rows = own[:, 0]
        np.testing.assert_allclose((again - shift)[rows], blended[rows], rtol=1e-9, atol=1e-9)
        assert not np.allclose(again[~rows], blended[~rows])


def test_weights_of_a_fitted_blend_are_zero_or_more_and_add_up_to_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] - 0.3 * X[:, :FEATURES] + 0.5 * rng.normal(size=(200, FEATURES))
    maps = {}
    for name in CANDIDATES:
        monkeypatch.setattr(base, "_per_feature", lambda *_, name=name: [name] * FEATURES)
        predictor = _fit(X, change)[0]
        maps[name] = predictor.change(X)
    assert set(predictor.weights) == set(CANDIDATES) - {"carry_forward", "blend"}
    assert min(predictor.weights.values()) >= 0.0
    expected = sum(weight * maps[name] for name, weight in predictor.weights.items())
    np.testing.assert_allclose(maps["blend"], expected, rtol=1e-9, atol=1e-9)


# -- out of fold ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with unknown cells"])
@pytest.mark.parametrize("kind", CANDIDATES[1:-1])
def test_an_out_of_fold_prediction_never_uses_its_own_unit(
    kind: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The choice of candidate, penalty and shrinkage is made on everybody; what is chosen must be fitted without the
    # unit. That the blend's weights are, too, is another test's.
    monkeypatch.setattr(base, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(base, "SHRINKAGES", (0.3,))
    monkeypatch.setattr(base, "_per_feature", lambda *_: [kind] * FEATURES)
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
        np.testing.assert_allclose((moved - again)[own], (change - residual)[own], rtol=1e-11, atol=1e-11)
        assert not np.allclose((moved - again)[~own], (change - residual)[~own], equal_nan=True)


@pytest.mark.parametrize("kind", ["own", "self_conditioned", "gap_ridge"])
def test_out_of_fold_errors_are_those_of_fits_to_the_other_folds(kind: str) -> None:
    X, rng = _inputs(60)
    change = X[:, :FEATURES][:, ::-1] + rng.normal(size=(60, FEATURES))
    pairs = base._Pairs(X, change, rng.uniform(0.5, 2.0, 60), np.arange(60) % 3)
    surprise = Population.fit(X, FEATURES).surprise(0.3)
    error, penalty = pairs.out_of_fold(kind, surprise)
    assert (penalty is None) == (kind not in base.RICH)
    for k in range(3):
        held = pairs.fold == k
        fitted = base._Rows(X[~held], change[~held], pairs.weight[~held]).map(kind, surprise, penalty)
        np.testing.assert_allclose(error[held], change[held] - fitted(X[held]), rtol=1e-9, atol=1e-9)


# -- unknown targets --------------------------------------------------------------------------------------------------


def test_unknown_targets_have_no_residual_and_spoil_nothing() -> None:
    X, rng = _inputs(300)
    change = -0.5 * X[:, :FEATURES] + 0.2 * rng.normal(size=(300, FEATURES))
    gone = rng.random(change.shape) < 0.2
    gone[:, 5] = True
    predictor, residual = _fit(X, np.where(gone, np.nan, change))
    np.testing.assert_array_equal(np.isnan(residual), gone)
    assert np.isfinite(predictor.map.W).all()
    assert np.isfinite(predictor.map.intercept).all()
    known = np.where(gone, 0.0, residual)[:, :5]
    assert np.sqrt((known**2).sum() / (~gone[:, :5]).sum()) < 0.32
    # Nothing is known about the last feature, so nothing is said to change.
    assert np.abs(predictor.change(X)[:, 5]).max() < 1e-9


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_each_row_is_predicted_on_its_own_and_the_state_comes_back() -> None:
    X, rng = _inputs()
    change = (1.0 + X[:, -1:]) * X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, _ = _fit(X, change)
    linear = predictor.map
    assert linear.by_gap is not None
    whole = predictor.change(X)
    expected = X @ linear.W + linear.intercept + X[:, -1:] * (X[:, :-1] @ linear.by_gap)
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(predictor.change(X[[7, 3]]), whole[[7, 3]])
    again = MeanPredictor.from_state(predictor.state())
    np.testing.assert_array_equal(again.change(X), whole)
    assert again.state() | {"map": None} == predictor.state() | {"map": None}


def test_a_fit_is_decided_by_its_folds() -> None:
    X, rng = _inputs(100)
    change = rng.normal(size=(100, FEATURES)) - 2.0 * X[:, :FEATURES]
    first, again = (_fit(X, change) for _ in range(2))
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], _fit(X, change, seed=1)[1])


def test_only_the_proportions_of_weights_count() -> None:
    X, rng = _inputs(100)
    change, weight = rng.normal(size=(100, FEATURES)) - X[:, :FEATURES][:, ::-1], rng.uniform(0.2, 1.0, 100)
    one, residual = _fit(X, change, weight=weight)
    other, again = _fit(X, change, weight=7.0 * weight)
    assert one.winner in CHOICES
    assert one.chosen == other.chosen
    np.testing.assert_allclose(again, residual, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.change(X), other.change(X), rtol=1e-6, atol=1e-6)
