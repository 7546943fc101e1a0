"""The mean of the follow-up: candidates and a blend that never see whom they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from scipy.optimize import nnls

from secondgram.imputation.default import mean
from secondgram.imputation.default.design import FARTHEST, Design, Fold
from secondgram.imputation.default.hierarchy import Hierarchy, fit_hierarchy
from secondgram.imputation.default.mean import CANDIDATES, MeanPredictor, by_feature, fit_means
from secondgram.imputation.default.population import Population
from secondgram.imputation.folds import unit_averages, unit_folds
from secondgram.imputation.model_data import TrainingPairs

FEATURES, COVARIATES = 6, 2
INPUTS = FEATURES + COVARIATES + 1
USED = ("carry_forward", "own", "blend")
Means = dict[str, tuple[MeanPredictor, np.ndarray]]


def _inputs(pairs: int = 200, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pairs, INPUTS)), rng


def _design(
    X: np.ndarray, change: np.ndarray, weight: np.ndarray, unit: np.ndarray, everyone: np.ndarray, first: np.ndarray
) -> Design:
    nobody = cast(Any, None)
    pairs = TrainingPairs(nobody, change, weight, unit, np.ones(len(X), dtype=bool))
    return Design(nobody, pairs, X, change, np.ones(change.shape, dtype=bool), everyone, first, True)


def _designs(
    X: np.ndarray,
    change: np.ndarray,
    unit: np.ndarray | None = None,
    everyone: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    seed: int = 0,
    unit_of: float | np.ndarray = 1.0,
) -> tuple[Design, list[Fold]]:
    """A design and its folds of one scale; the first people of everyone are those of the pairs."""
    unit = np.arange(len(X)).astype(str) if unit is None else unit
    weight = np.ones(len(X)) if weight is None else weight
    everyone = X if everyone is None else everyone
    rows = np.arange(len(X))
    fold, folds = unit_folds(unit, seed), []
    for k in range(fold.max() + 1):
        held, kept = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        others = np.concatenate([everyone[: len(X)][kept], everyone[len(X) :]])
        design = _design(X[kept], change[kept], weight[kept], unit[kept], others, np.arange(len(kept)))
        judged_by = np.broadcast_to(unit_of, (len(held), change.shape[1]))
        folds.append(Fold(design, held, X[held], change[held], judged_by))
    return _design(X, change, weight, unit, everyone, rows), folds


def _fit(
    X: np.ndarray,
    change: np.ndarray,
    choices: Sequence[str] = USED,
    self_conditioning: bool = True,
    **named: Any,
) -> Means:
    return fit_means(*_designs(X, change, **named), choices, self_conditioning)


def _errors(means: Means) -> dict[str, float]:
    """Mean squared error out of fold by candidate."""
    return {name: float(np.nanmean(left**2)) for name, (_, left) in means.items()}


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


# -- what candidates find ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-6, 1.0])
def test_hardly_any_change_is_predicted_where_nothing_changes(noise: float) -> None:
    X, rng = _inputs()
    change = noise * rng.normal(size=(200, FEATURES))
    means = _fit(X, change)
    carried, left = means["carry_forward"]
    assert not carried.change(X).any()
    np.testing.assert_array_equal(left, change)
    # As little as 200 pairs can make of noise.
    assert means["blend"][0].change(X).std() < 0.15 * noise
    assert _errors(means)["blend"] < 1.03 * noise**2


def test_mean_change_finds_what_covariates_and_gap_decide() -> None:
    X, rng = _inputs()
    change = 0.5 + X[:, -1:] + 0.3 * rng.normal(size=(200, FEATURES))
    means = _fit(X, change, ("mean_change", "own", "blend"))
    linear = means["mean_change"][0].map
    np.testing.assert_allclose(linear.W[-1], 1.0, atol=0.06)
    np.testing.assert_allclose(linear.intercept, 0.5, atol=0.06)
    assert not linear.W[:FEATURES].any()
    error = _errors(means)
    for name in error:
        assert error[name] == pytest.approx(0.09, rel=0.1)


def test_own_finds_how_features_regress_to_their_mean() -> None:
    X, rng = _inputs(400)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    means = _fit(X, change, ("mean_change", "own", "blend"))
    W = means["own"][0].map.W[:FEATURES]
    np.testing.assert_allclose(np.diag(W), -0.5, atol=0.06)
    assert not (W - np.diag(np.diag(W))).any()
    error = _errors(means)
    assert error["own"] < 0.4 * error["mean_change"]
    assert error["blend"] < 1.02 * error["own"]


def test_the_blend_finds_where_features_tell_about_each_other() -> None:
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    means = _fit(X, change, ("own", "ridge", "blend"))
    predictor, left = means["blend"]
    assert np.sqrt((left**2).mean()) < 0.4
    assert predictor.gain["ridge"][0] > predictor.gain["own"][0] + 5 * predictor.gain["own"][1]
    np.testing.assert_allclose(np.diag(predictor.map.W[:FEATURES][::-1]), 1.0, atol=0.1)


def test_what_few_pairs_cannot_tell_of_a_feature_the_others_tell() -> None:
    # Features regress alike; 14 pairs alone tell a slope to +- 0.27, all together of 30 features to a fifth of that.
    error, alone = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(14, 31))
        change = -0.5 * X[:, :30] + rng.normal(size=(14, 30))
        predictor, _ = _fit(X, change, ("own",), self_conditioning=False)["own"]
        error.append(np.diag(predictor.map.W[:30]) + 0.5)
        centred, middle = X[:, :30] - X[:, :30].mean(axis=0), change - change.mean(axis=0)
        alone.append((centred * middle).sum(axis=0) / (centred**2).sum(axis=0) + 0.5)
    assert np.sqrt(np.mean(np.square(error))) < 0.5 * np.sqrt(np.mean(np.square(alone)))


# -- by feature -------------------------------------------------------------------------------------------------------


def test_the_map_of_a_feature_is_that_of_its_candidate() -> None:
    X, rng = _inputs()
    change = -0.5 * X[:, :FEATURES] + X[:, -1:] * X[:, :1] + 0.3 * rng.normal(size=(200, FEATURES))
    means = _fit(X, change, CANDIDATES)
    mixed = ["gap_ridge", "carry_forward", "own", "blend", "self_conditioned", "ridge"]
    predictor, left = by_feature(means, "blend", mixed)
    assert (predictor.chosen, predictor.winner) == (mixed, "blend")
    far = 9.0 * X
    for column, name in enumerate(mixed):
        whole = means[name][0]
        for rows in (X, far):
            predicted, expected = predictor.change(rows)[:, column], whole.change(rows)[:, column]
            np.testing.assert_allclose(predicted, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(left[:, column], means[name][1][:, column])


def test_choosing_by_feature_leaves_the_candidates_as_they_are() -> None:
    X, rng = _inputs()
    means = _fit(X, rng.normal(size=(200, FEATURES)) - X[:, :FEATURES])
    before, left = means["blend"][0].change(9.0 * X), means["blend"][1].copy()
    by_feature(means, "blend", ["own"] * 3 + ["carry_forward"] * 3)
    np.testing.assert_array_equal(means["blend"][0].change(9.0 * X), before)
    np.testing.assert_array_equal(means["blend"][1], left)
    plain, same = by_feature(means, "blend", ["blend"] * FEATURES)
    np.testing.assert_array_equal(plain.change(9.0 * X), before)
    np.testing.assert_array_equal(same, left)


def test_gains_are_those_of_the_out_of_fold_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    # The yardstick is that of errors as the candidates leave them.
    monkeypatch.setattr("secondgram.imputation.default.unbiased.UNBIASED", 10**9)
    X, rng = _inputs(400)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    weight = rng.uniform(0.3, 1.0, 400)
    whole, folds = _designs(X, change, weight=weight)
    means = fit_means(whole, folds, CANDIDATES, True)
    gain = means["own"][0].gain
    assert set(gain) == set(CANDIDATES)
    assert gain["carry_forward"] == [0.0, 0.0]
    yardstick = mean._Yardstick.of(whole, {name: left for name, (_, left) in means.items()})
    for name, (_, left) in means.items():
        fall = yardstick.loss(means["carry_forward"][1]) - yardstick.loss(left)
        per_unit = unit_averages(fall, weight, whole.pairs.unit)
        np.testing.assert_allclose(gain[name], [per_unit.mean(), per_unit.std(ddof=1) / 20.0], rtol=1e-9, atol=1e-12)


def test_errors_are_in_units_of_the_whole_and_the_choices_do_not_follow_them() -> None:
    X, rng = _inputs(100)
    change = rng.normal(size=(100, FEATURES)) - X[:, :FEATURES]
    one, other = (_fit(X, change, CANDIDATES, unit_of=size) for size in (1.0, 3.0))
    for name in CANDIDATES[:-1]:
        np.testing.assert_allclose(other[name][1], 3.0 * one[name][1], rtol=1e-12)


# -- what self-conditioning earns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_self_conditioning_pays_where_the_follow_up_is_the_truth_measured_again(seed: int) -> None:
    everyone, change, best = _measured_again(4000, 120, seed)
    error = _errors(_fit(everyone[:120], change, ("own", "ridge", "self_conditioned", "blend"), everyone=everyone))
    assert error["own"] > error["ridge"] > 1.1 * error["self_conditioned"]
    for name in ("self_conditioned", "blend"):
        assert error[name] == pytest.approx(best, rel=0.1)


def test_people_without_a_follow_up_pay() -> None:
    everyone, change, _ = _measured_again(4000, 60, width=40)
    many, alone = (
        _fit(everyone[:60], change, ("self_conditioned",), everyone=others)["self_conditioned"]
        for others in (everyone, everyone[:60])
    )
    assert (many[1] ** 2).mean() < 0.95 * (alone[1] ** 2).mean()
    # A covariance that few people show is shrunk more.
    assert many[0].shrinkage < alone[0].shrinkage


def test_without_self_conditioning_nobody_else_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Population:
        raise AssertionError("a population was fitted")

    monkeypatch.setattr(Population, "fit", never)
    X, rng = _inputs(60)
    predictor, _ = _fit(X, rng.normal(size=(60, FEATURES)), self_conditioning=False)["blend"]
    assert predictor.shrinkage == 0.0
    assert set(predictor.gain) == {"carry_forward", "mean_change", "own", "ridge", "blend"}
    with pytest.raises(AssertionError, match="a population"):
        _fit(X, rng.normal(size=(60, FEATURES)))


def test_what_surprises_in_training_is_as_surprising_in_use() -> None:
    # As many features as people: who took part in the population hardly surprises it, new people do.
    everyone, change, _ = _measured_again(60, 40, width=60)
    whole, folds = _designs(everyone[:40], change, everyone=everyone)
    fitted = mean._Judged(whole, folds).fitted[0]
    assert fitted.surprise is not None
    new = np.abs(fitted.surprise.map(folds[0].X)).mean()
    assert np.abs(fitted._apart).mean() == pytest.approx(new, rel=0.15)
    assert np.abs(fitted.surprise.map(fitted.X)).mean() < 0.8 * new


def test_what_a_candidate_is_fitted_to_is_apart_and_so_is_what_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone, change, _ = _measured_again(60, 40, width=60)
    whole, folds = _designs(everyone[:40], change, everyone=everyone)
    fitted = mean._Judged(whole, folds, ("own", "self_conditioned")).everybody
    given: list[tuple[np.ndarray, list[np.ndarray]]] = []

    def noted(shared: np.ndarray, own: list[np.ndarray], *rest: Any) -> Hierarchy:
        given.append((shared, own))
        return fit_hierarchy(shared, own, *rest)

    monkeypatch.setattr(mean, "fit_hierarchy", noted)
    fitted.map("self_conditioned", None)
    ((shared, own),) = given
    surprise = fitted.surprise
    assert surprise is not None
    apart = surprise.apart(fitted.X, fitted.everyone()[:40])
    np.testing.assert_allclose(own[-1], apart - apart.mean(axis=0), rtol=1e-9, atol=1e-9)
    assert not np.allclose(apart, surprise.map(fitted.X), rtol=0.1)
    beta = fit_hierarchy(shared, own, change, np.ones(40), np.array([0.1] * 4 + [mean.BEYOND_DEVIATION, 0.1]))
    expected = shared @ beta.coefficients[: shared.shape[1]]
    for column, slope in zip(own, beta.coefficients[shared.shape[1] :], strict=True):
        expected += column * slope
    np.testing.assert_allclose(fitted._in_sample("self_conditioned"), expected, rtol=1e-6, atol=1e-6)


def test_who_has_no_first_visit_took_no_part_in_the_population() -> None:
    everyone, change, _ = _measured_again(60, 40, width=60)
    whole, folds = _designs(everyone[:40], change, everyone=everyone)
    first = np.where(np.arange(40) < 30, whole.first, -1)
    fitted = mean._Judged(replace(whole, first=first), folds).everybody
    surprise = fitted.surprise
    assert surprise is not None
    np.testing.assert_allclose(fitted._apart[30:], surprise.map(fitted.X)[30:], rtol=1e-9, atol=1e-9)


# -- the gap ----------------------------------------------------------------------------------------------------------


def test_a_coefficient_that_changes_with_the_gap_is_found() -> None:
    X, rng = _inputs(400)
    change = 0.5 * X[:, -1:] * X[:, :FEATURES] + 0.3 * rng.normal(size=(400, FEATURES))
    predictor, left = _fit(X, change)["blend"]
    assert predictor.weights["gap_ridge"] > 0.9
    assert predictor.gain["gap_ridge"][0] > predictor.gain["ridge"][0] + 5 * predictor.gain["ridge"][1]
    assert np.sqrt((left**2).mean()) < 0.34
    assert predictor.map.by_gap is not None
    np.testing.assert_allclose(np.diag(predictor.map.by_gap[:FEATURES]), 0.5, atol=0.06)


def test_where_all_gaps_are_one_nothing_changes_with_the_gap() -> None:
    X, rng = _inputs()
    X[:, -1] = 0.0
    predictor, _ = _fit(X, X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES)))["blend"]
    assert "gap_ridge" not in predictor.gain
    assert "gap_ridge" not in predictor.weights
    assert predictor.map.by_gap is None


# -- the blend --------------------------------------------------------------------------------------------------------


def _stacked(seed: int = 0, pairs: int = 80) -> tuple[mean.Errors, mean._Yardstick, list[Fold]]:
    """Errors of candidates that see a part of the change, some cells unknown, and what they are measured by."""
    X, rng = _inputs(pairs, seed)
    change = rng.normal(size=(pairs, FEATURES))
    change[rng.random(change.shape) < 0.2] = np.nan
    whole, folds = _designs(X, change, weight=rng.uniform(0.2, 2.0, pairs))
    parts = {"mean_change": 0.2, "own": 0.5, "ridge": -0.4}
    error = {"carry_forward": change}
    for name, part in parts.items():
        error[name] = change - part * np.nan_to_num(change) - rng.normal(size=change.shape)
    return error, mean._Yardstick.of(whole, error), folds


def test_the_blend_is_least_squares_with_weights_of_zero_or_more() -> None:
    error, yardstick, _ = _stacked()
    seen, names = yardstick.share > 0, ("mean_change", "own", "ridge")
    np.testing.assert_array_equal(seen, np.isfinite(error["carry_forward"]))
    root = np.sqrt(yardstick.share[seen])
    columns = np.stack([(error["carry_forward"] - error[name])[seen] * root for name in names], axis=1)
    # As if a few more people had said that it is `own` alone.
    prior = np.sqrt(mean.PRIOR_PEOPLE / 80 * (columns**2).sum(axis=0))
    target = np.append(error["carry_forward"][seen] * root, prior * np.array([0.0, 1.0, 0.0]))
    expected = nnls(np.concatenate([columns, np.diag(prior)]), target)[0]
    weights = mean._blend(error, yardstick)
    # Carry-forward predicts no change: it takes no weight but what the others leave.
    assert tuple(weights) == names
    np.testing.assert_allclose(list(weights.values()), expected, atol=1e-4)
    # A candidate that points away from the truth is left out, not turned round.
    assert weights["ridge"] == 0.0 < weights["mean_change"] < weights["own"]


def test_of_very_few_people_the_blend_is_almost_own_alone() -> None:
    error, yardstick, _ = _stacked()
    few = mean._blend(error, yardstick, np.arange(2))
    many = mean._blend(error, yardstick)
    assert abs(few["own"] - 1.0) < abs(many["own"] - 1.0)


def test_candidates_that_coincide_share_their_weight() -> None:
    error, yardstick, _ = _stacked()
    one = mean._blend(error, yardstick)["own"]
    weights = mean._blend(error | {"self_conditioned": error["own"]}, yardstick)
    assert weights["own"] + weights["self_conditioned"] == pytest.approx(one, rel=0.05)


def test_the_weights_of_a_fold_come_from_the_others() -> None:
    error, yardstick, folds = _stacked()
    blended = mean._cross_blended(error, yardstick, folds)
    rng = np.random.default_rng(5)
    for fold in folds:
        # The truth of one fold moves; what every candidate predicts for it stays.
        shift = np.zeros(blended.shape)
        shift[fold.rows] = 100.0 * rng.normal(size=shift[fold.rows].shape)
        moved = {name: values + shift for name, values in error.items()}
        again = mean._cross_blended(moved, mean._Yardstick(yardstick.share, moved["carry_forward"]), folds)
        own = np.isin(np.arange(len(blended)), fold.rows)
        np.testing.assert_allclose((again - shift)[own], blended[own], rtol=1e-9, atol=1e-9)
        assert not np.allclose(again[~own], blended[~own], equal_nan=True)


def test_weights_of_a_fitted_blend_are_zero_or_more_and_add_up_to_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    # The average is added afterwards, to each candidate its own.
    monkeypatch.setattr("secondgram.imputation.default.unbiased.UNBIASED", 10**9)
    X, rng = _inputs()
    change = X[:, :FEATURES][:, ::-1] - 0.3 * X[:, :FEATURES] + 0.5 * rng.normal(size=(200, FEATURES))
    means = _fit(X, change, CANDIDATES)
    predictor = means["blend"][0]
    assert set(predictor.weights) == set(CANDIDATES) - {"carry_forward", "blend"}
    assert min(predictor.weights.values()) >= 0.0
    for rows in (X, 3.0 * X):
        inside = np.clip(rows, *predictor.reach)
        parts = {name: weight * means[name][0].map(inside) for name, weight in predictor.weights.items()}
        np.testing.assert_allclose(predictor.map(inside), sum(parts.values()), rtol=1e-9, atol=1e-9)
    beyond = sum(weight * means[name][0].beyond for name, weight in predictor.weights.items())
    np.testing.assert_allclose(predictor.beyond, beyond, rtol=1e-9, atol=1e-12)


# -- out of fold ------------------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalty and shrinkage are chosen on everybody; here there is no choice."""
    monkeypatch.setattr(mean, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(mean, "SHRINKAGES", (0.3,))


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with unknown cells"])
@pytest.mark.usefixtures("settled")
def test_an_out_of_fold_prediction_never_uses_its_own_unit(missing: bool) -> None:
    X, rng = _inputs(60)
    change = -0.5 * X[:, :FEATURES] + 0.3 * rng.normal(size=(60, FEATURES))
    if missing:
        change[rng.random(change.shape) < 0.3] = np.nan
    family = np.repeat([f"family-{number}" for number in range(20)], 3)
    names = CANDIDATES[1:-1]
    means = _fit(X, change, names, unit=family)
    for name in family[::24]:
        own = family == name
        moved = np.where(own[:, None], change + rng.normal(size=change.shape) * 100, change)
        again = _fit(X, moved, names, unit=family)
        for candidate in names:
            found, before = moved - again[candidate][1], change - means[candidate][1]
            np.testing.assert_allclose(found[own], before[own], rtol=1e-11, atol=1e-11)
            assert not np.allclose(found[~own], before[~own], equal_nan=True)


@pytest.mark.parametrize("kind", ["own", "self_conditioned", "gap_ridge"])
@pytest.mark.usefixtures("settled")
def test_out_of_fold_errors_are_those_of_fits_to_the_other_folds(kind: str) -> None:
    X, rng = _inputs(60)
    change = X[:, :FEATURES][:, ::-1] + rng.normal(size=(60, FEATURES))
    weight = rng.uniform(0.5, 2.0, 60)
    whole, folds = _designs(X, change, weight=weight)
    judged = mean._Judged(whole, folds)
    error, penalty = judged.out_of_fold(kind)
    assert (penalty is None) == (kind not in mean.RICH)
    for fold in folds:
        kept = np.setdiff1d(np.arange(60), fold.rows)
        alone = mean._Judged(*_designs(X[kept], change[kept], weight=weight[kept])).everybody
        linear, beyond = alone.map(kind, penalty)
        predicted = mean._through(linear, beyond, alone.reach, X[fold.rows])
        np.testing.assert_allclose(error[fold.rows], change[fold.rows] - predicted, rtol=1e-9, atol=1e-9)


# -- unknown targets --------------------------------------------------------------------------------------------------


def test_unknown_targets_have_no_residual_and_spoil_nothing() -> None:
    X, rng = _inputs(300)
    change = -0.5 * X[:, :FEATURES] + 0.2 * rng.normal(size=(300, FEATURES))
    gone = rng.random(change.shape) < 0.2
    gone[:, 5] = True
    for name, (predictor, left) in _fit(X, np.where(gone, np.nan, change), CANDIDATES).items():
        np.testing.assert_array_equal(np.isnan(left), gone)
        assert np.isfinite(predictor.change(X)).all()
        if name == "blend":
            assert np.sqrt(np.nanmean(left[:, :5] ** 2)) < 0.32


def _slope(missing: Callable[[np.random.Generator], np.ndarray], name: str) -> np.ndarray:
    """(D,) of the true on the predicted change of new people."""
    X, rng = _inputs(500)
    W = 0.4 * rng.normal(size=(FEATURES, FEATURES)) - 0.5 * np.eye(FEATURES)
    change = X[:, :FEATURES] @ W + 0.3 * rng.normal(size=(500, FEATURES))
    predictor, _ = _fit(X, np.where(missing(rng), np.nan, change), (name,))[name]
    fresh = rng.normal(size=(1000, INPUTS))
    predicted = predictor.change(fresh)
    return ((fresh[:, :FEATURES] @ W) * predicted).sum(axis=0) / (predicted**2).sum(axis=0)


def _block(rng: np.random.Generator) -> np.ndarray:
    return (rng.random((500, 1)) < 0.7) & (np.arange(FEATURES) < 3)


def _scattered(rng: np.random.Generator) -> np.ndarray:
    return rng.random((500, FEATURES)) < 0.3


@pytest.mark.parametrize("missing", [_block, _scattered], ids=["a block", "scattered"])
@pytest.mark.parametrize("name", ["ridge", "gap_ridge", "blend"])
def test_unknown_targets_shrink_no_prediction(missing: Callable[[np.random.Generator], np.ndarray], name: str) -> None:
    np.testing.assert_allclose(_slope(missing, name), 1.0, atol=0.13)


# -- cells far off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["baseline", "change"])
@pytest.mark.parametrize("far", [FARTHEST, -FARTHEST])
def test_one_far_cell_moves_others_by_little(cell: str, far: float) -> None:
    X, rng = _inputs(60)
    change = -0.5 * X[:, :FEATURES] + 0.5 * rng.normal(size=(60, FEATURES))
    before = _fit(X, change)["blend"][0].change(X)
    moved, wrong = X.copy(), change.copy()
    (moved if cell == "baseline" else wrong)[3, 2] = far
    if cell == "baseline":
        # The follow-up is what it was.
        wrong[3, 2] = change[3, 2] + X[3, 2] - far
    after = _fit(moved, wrong)["blend"][0].change(X)
    off = np.abs(after - before).mean(axis=0)
    assert off[2] < 0.2
    assert np.delete(off, 2).max() < 0.1


def test_nothing_is_predicted_beyond_what_was_seen_of_a_feature() -> None:
    X, rng = _inputs(100)
    change = X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(100, FEATURES))
    predictor, _ = _fit(X, change)["blend"]
    later = X[:, :FEATURES] + change
    low, high = np.minimum(X[:, :FEATURES], later).min(axis=0), np.maximum(X[:, :FEATURES], later).max(axis=0)
    wider = mean.WIDENED * (high - low)
    np.testing.assert_allclose(predictor.bounds, np.stack([low - wider, high + wider]))
    far = 50.0 * rng.normal(size=(200, INPUTS))
    level = far[:, :FEATURES] + predictor.change(far)
    # Who is further off stays at most as far.
    assert (level <= np.maximum(high + wider, far[:, :FEATURES]) + 1e-9).all()
    assert (level >= np.minimum(low - wider, far[:, :FEATURES]) - 1e-9).all()


def test_beyond_its_reach_a_baseline_of_another_feature_says_no_more() -> None:
    X, rng = _inputs(100)
    change = 0.5 * X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(100, FEATURES))
    predictor, _ = _fit(X, change)["blend"]
    row = np.zeros((1, INPUTS))
    row[0, 0] = predictor.reach[1, 0]
    further = row.copy()
    further[0, 0] += 1e9
    np.testing.assert_array_equal(predictor.change(further)[:, 1:], predictor.change(row)[:, 1:])
    assert np.isfinite(predictor.change(further)).all()


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_each_row_is_predicted_on_its_own_and_the_state_comes_back() -> None:
    X, rng = _inputs()
    change = (1.0 + X[:, -1:]) * X[:, :FEATURES][:, ::-1] + 0.3 * rng.normal(size=(200, FEATURES))
    predictor, _ = _fit(X, change)["blend"]
    linear = predictor.map
    assert linear.by_gap is not None
    whole = predictor.change(X)
    inside = np.clip(X, *predictor.reach)
    expected = inside @ linear.W + linear.intercept + X[:, -1:] * (inside[:, :-1] @ linear.by_gap)
    expected += predictor.beyond * (X - inside)[:, :FEATURES]
    level = np.clip(X[:, :FEATURES] + expected, *predictor.bounds)
    np.testing.assert_allclose(whole, level - X[:, :FEATURES], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(predictor.change(X[[7, 3]]), whole[[7, 3]])
    again = MeanPredictor.from_state(predictor.state())
    for rows in (X, 20.0 * X):
        np.testing.assert_array_equal(again.change(rows), predictor.change(rows))
    for name in ("chosen", "winner", "weights", "shrinkage", "gain"):
        assert getattr(again, name) == getattr(predictor, name)


def test_a_fit_is_decided_by_its_folds() -> None:
    X, rng = _inputs(100)
    change = rng.normal(size=(100, FEATURES)) - 2.0 * X[:, :FEATURES]
    first, again = (_fit(X, change)["blend"][1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, _fit(X, change, seed=1)["blend"][1])


def test_a_weight_of_almost_nothing_is_as_good_as_absent() -> None:
    X, rng = _inputs(100)
    change = rng.normal(size=(100, FEATURES)) - X[:, :FEATURES][:, ::-1]
    weight = np.where(np.arange(100) < 60, 1.0, 1e-12)
    whole, _ = _designs(X, change, weight=weight)
    some, _ = _designs(X[:60], change[:60])
    for name, penalty in (("own", None), ("ridge", 1.0)):
        one, other = (mean._Fitted(design).map(name, penalty)[0] for design in (whole, some))
        np.testing.assert_allclose(one.W, other.W, atol=1e-6)
        np.testing.assert_allclose(one.intercept, other.intercept, atol=1e-6)
