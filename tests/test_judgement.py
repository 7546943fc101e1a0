"""The judgement: people out of reach of all choices, the choice of the mean, and figures that come true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.imputation.default import design, judgement, model
from secondgram.imputation.default import mean as mean_stage
from secondgram.imputation.default.design import Design, fit_folds
from secondgram.imputation.default.judgement import CHOICES, RUNGS, Judgement, Stage, fit_stages, follow, judge
from secondgram.imputation.default.margins import fit_margins
from secondgram.imputation.default.model import DefaultModel, DefaultOptions
from secondgram.imputation.default.population import Population
from secondgram.imputation.default.spread import fit_spread, spread_as
from secondgram.imputation.folds import unit_folds
from secondgram.imputation.model_data import TrainingPairs
from secondgram.imputation.scores import normal_crps
from secondgram.training.trainer import Run

FEATURES = 4


def _cohort(people: int = 50, families: bool = False, seed: int = 0, noise: float = 0.5) -> sg.Cohort:
    """Three visits, of which half of the people have the last, and some the second."""
    rng = np.random.default_rng(seed)
    level = 0.8 * rng.normal(size=(people, 1, 1)) + 0.6 * rng.normal(size=(people, 1, FEATURES))
    visits = 100.0 + 10.0 * (level + noise * rng.normal(size=(people, 3, FEATURES)))
    visits[: people // 4, 1:] = np.nan
    visits[people // 4 : people // 2, 2] = np.nan
    return sg.Cohort(
        ids=np.array([f"p{number}" for number in range(people)]),
        visits=visits,
        features=tuple(f"f{number}" for number in range(FEATURES)),
        visit_labels=("1", "2", "3"),
        times=np.array([0.0, 1.5, 4.0]) + rng.uniform(0.0, 0.5, size=(people, 3)),
        groups=np.array([f"family {number % (people // 2)}" for number in range(people)]) if families else None,
        target=2,
    )


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Stage]]:
    """What was fitted, part after part; of the choices on everybody that folds share there is none."""
    seen: list[dict[str, Stage]] = []

    def noted(*given: Any) -> dict[str, Stage]:
        seen.append(fit_stages(*given))
        return seen[-1]

    monkeypatch.setattr(judgement, "fit_stages", noted)
    return seen


# -- who is judged ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("families", [False, True], ids=["alone", "families"])
def test_nothing_of_the_judged_reaches_what_they_are_judged_by(
    families: bool, stages: list[dict[str, Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One part is enough.
    monkeypatch.setattr(design, "LONG", 0.0)
    cohort = _cohort(families=families)
    whole = Design.of(cohort, True)
    part = unit_folds(whole.pairs.unit, 1) == 0
    rng = np.random.default_rng(5)
    for people, touched in ((part, False), (~part, True)):
        held = np.isin(cohort.units().astype(str), whole.pairs.unit[people])
        visits = cohort.visits.copy()
        visits[held] += 50.0 * rng.normal(size=visits[held].shape)
        poisoned = replace(cohort, visits=visits)
        stages.clear()
        one, other = (judge(each, Design.of(each, True), True, True, 0) for each in (cohort, poisoned))
        before, after = stages
        for name in CHOICES:
            for left, right in zip(_fitted(before[name]), _fitted(after[name]), strict=True):
                # Carry-forward's mean is nothing, whatever is learned from.
                assert np.array_equal(left, right, equal_nan=True) or touched
            scale = before[name].scale, after[name].scale
            assert np.array_equal(*scale) != touched
            assert not np.array_equal(one.scores[name]["margins"], other.scores[name]["margins"], equal_nan=True)


def _fitted(stage: Stage) -> list[np.ndarray]:
    mean, spread, margins = stage.mean, stage.spread, stage.margins
    by_gap = np.zeros(0) if mean.map.by_gap is None else mean.map.by_gap
    ends = np.zeros(0) if margins.map is None else margins.map.end
    arrays = [mean.map.W, mean.map.intercept, by_gap, mean.beyond, mean.reach, mean.bounds]
    return [*arrays, spread.level, spread.slopes, spread.reach, ends, stage.standard, stage.scale]


def test_everybody_is_judged_once_by_what_their_part_has_not_seen(stages: list[dict[str, Stage]]) -> None:
    cohort = _cohort(noise=0.3)
    whole = Design.of(cohort, True)
    found = judge(cohort, whole, True, True, 0)
    asked = whole.pairs.wanted
    assert len(stages) == 5
    assert asked.sum() == 25
    for name in CHOICES:
        for rung in RUNGS:
            np.testing.assert_array_equal(np.isfinite(found.scores[name][rung]).all(axis=1), asked)
            np.testing.assert_array_equal(np.isfinite(found.scores[name][rung]).any(axis=1), asked)
    # In standard deviations of the baseline.
    yardstick = SharedScaling.fit(cohort.baseline)
    later, earlier = (yardstick.apply(each) for each in (whole.pairs.later, whole.pairs.people.baseline))
    np.testing.assert_allclose(found.change[asked], (later - earlier)[asked], rtol=1e-9)
    np.testing.assert_allclose(found.errors["carry_forward"], found.change, rtol=1e-9)
    # Again, by hand, for the third part.
    part = unit_folds(whole.pairs.unit, 1)
    third = np.flatnonzero(part == 2)
    held, others = design.held_out(cohort, whole, third, True), design.without(cohort, whole, third)
    stage = fit_stages(held.design, *fit_folds(others, held.design, True, 0), True)["own"]
    rows = asked[held.rows]
    error = held.change[rows] - stage.mean.change(held.X[rows])
    unit = SharedScaling.fit(others.baseline, robust=True).spread[0] / yardstick.spread[0]
    np.testing.assert_allclose(found.errors["own"][held.rows[rows]], error * unit, rtol=1e-9)
    learned = judgement.as_of_all(len(np.unique(held.design.pairs.unit)), len(np.unique(whole.pairs.unit)))
    assert learned < 1.0
    expected = normal_crps(error, stage.spread.scale(held.X[rows])) * unit * learned
    np.testing.assert_allclose(found.scores["own"]["spread"][held.rows[rows]], expected, rtol=1e-9)
    constant = spread_as("constant", held.design.X, stage.standard * stage.scale, held.design.weight).scale(
        held.X[rows]
    )
    expected = normal_crps(error, constant) * unit * learned
    np.testing.assert_allclose(found.scores["own"]["mean"][held.rows[rows]], expected, rtol=1e-9)
    # No mean is learned for carrying forward.
    carried = spread_as("constant", held.design.X, held.design.own_baseline(held.design.change), held.design.weight)
    plain = normal_crps(held.change[rows], carried.scale(held.X[rows])) * unit
    for name in judgement.CHOICES:
        np.testing.assert_allclose(found.scores[name]["carry-forward"][held.rows[rows]], plain, rtol=1e-9)


def test_far_cells_of_the_judged_count_in_full() -> None:
    cohort = _cohort(60)
    visits = cohort.visits.copy()
    row = int(np.flatnonzero(cohort.paired)[0])
    visits[row, cohort.target, 0] = 1e3
    plain, far = (
        judge(each, Design.of(each, False), False, False, 0) for each in (cohort, replace(cohort, visits=visits))
    )
    pair = list(Design.of(cohort, False).pairs.people.ids).index(cohort.ids[row])
    spread = SharedScaling.fit(cohort.baseline).spread[0, 0]
    for name in judgement.CHOICES:
        # Beyond all else, CRPS is the distance.
        assert far.scores[name]["margins"][pair, 0] == pytest.approx((1e3 - cohort.baseline[row, 0]) / spread, rel=0.05)
        others = np.arange(len(plain.change)) != pair
        np.testing.assert_allclose(
            np.nanmean(far.scores[name]["margins"][others]), np.nanmean(plain.scores[name]["margins"][others]), rtol=0.1
        )


@pytest.mark.parametrize(("some", "every"), [(8, 10), (40, 50), (400, 500)])
def test_errors_shrink_with_what_is_learned_from_as_those_of_a_regression_do(some: int, every: int) -> None:
    rng, fresh = np.random.default_rng(some), 20

    def error(units: int) -> float:
        total = 0.0
        for _ in range(3000):
            x, y = rng.normal(size=units), rng.normal(size=units)
            slope = ((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum()
            at = rng.normal(size=fresh)
            total += ((rng.normal(size=fresh) - y.mean() - slope * (at - x.mean())) ** 2).mean()
        return total

    expected = np.sqrt(error(every) / error(some))
    assert judgement.as_of_all(some, every) == pytest.approx(expected, abs=0.02)
    assert judgement.as_of_all(every, every) == 1.0


def test_scores_are_of_the_first_visit_and_the_target_where_enough_have_them() -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    asked = judgement._asked(whole)
    np.testing.assert_array_equal(asked, whole.pairs.wanted)
    assert not asked.all()
    few = TrainingPairs.take(whole.pairs, np.arange(len(whole.pairs)))
    few.wanted[np.flatnonzero(few.wanted)[judgement.FEWEST_UNITS - 1 :]] = False
    assert judgement._asked(replace(whole, pairs=few)).all()


def test_of_a_large_cohort_one_part_is_judged(stages: list[dict[str, Stage]], monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort()
    whole = Design.of(cohort, False)
    monkeypatch.setattr(design, "LONG", len(cohort) * float(FEATURES) ** 2 - 1.0)
    found = judge(cohort, whole, False, True, 0)
    assert len(stages) == 1
    judged = np.isfinite(found.change).any(axis=1)
    np.testing.assert_array_equal(judged, unit_folds(whole.pairs.unit, 1) == 0)
    assert len(found.average(found.scores["own"]["mean"])) == judged.sum()
    monkeypatch.setattr(design, "LONG", len(cohort) * float(FEATURES) ** 2 + 1)
    judge(cohort, whole, False, True, 0)
    assert len(stages) == 6


# -- the choice -------------------------------------------------------------------------------------------------------


def _scored(scores: dict[str, np.ndarray], weight: np.ndarray | None = None) -> Judgement:
    """A judgement of given margins' scores (P, D) by choice."""
    pairs = len(next(iter(scores.values())))
    everything = {name: dict.fromkeys(RUNGS, score) for name, score in scores.items()}
    nothing = next(iter(scores.values()))
    weight = np.ones(pairs) if weight is None else weight
    return Judgement(everything, scores, nothing, weight, np.arange(pairs).astype(str))


def test_the_winner_is_of_the_scores_averaged_over_people() -> None:
    rng = np.random.default_rng(0)
    scores = {name: 1.0 + 0.1 * rng.random((60, 3)) for name in CHOICES}
    scores["own"] -= 0.2
    assert _scored(scores).winner() == "own"
    weight = np.where(np.arange(60) < 30, 1.0, 1e-3)
    scores["blend"][:30] -= 0.4
    scores["blend"][30:] += 3.0
    assert _scored(scores).winner() == "own"
    assert _scored(scores, weight).winner() == "blend"
    # Whom nobody judged says nothing.
    for score in scores.values():
        score[30:] = np.nan
    assert _scored(scores).winner() == "blend"


@pytest.mark.parametrize("choice", ["own", "carry_forward"])
@pytest.mark.parametrize(("strength", "leaves"), [(1.8, False), (2.3, True)])
def test_all_features_leave_the_blend_for_a_clear_gain_alone(choice: str, strength: float, leaves: bool) -> None:
    """Few people tell little: a simpler choice that is better by less than two standard errors is not taken."""
    people = 40
    noise = np.random.default_rng(0).normal(size=(people, 1))
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    scores = {name: np.full((people, FEATURES), 1.0) for name in CHOICES}
    scores[choice] = scores[choice] - 0.1 * (strength / np.sqrt(people) + noise)
    for name in set(CHOICES) - {choice, "blend"}:
        scores[name] = scores[name] + 1.0
    assert _scored(scores).winner() == (choice if leaves else "blend")


@pytest.mark.parametrize(("gain", "leaves"), [(0.5, True), (0.02, False), (-0.5, False)])
def test_a_feature_leaves_the_winner_for_a_clear_gain_alone(gain: float, leaves: bool) -> None:
    rng = np.random.default_rng(0)
    scores = {name: 1.0 + 0.1 * rng.normal(size=(100, 4)) for name in CHOICES}
    scores["blend"] -= 0.3
    scores["own"][:, 2] -= 0.3 + gain
    scores["own"][rng.random((100, 4)) < 0.2] = np.nan
    scores["blend"][:, 3] = np.nan
    found = _scored(scores)
    assert found.winner() == "blend"
    assert found.chosen() == ["blend", "blend", "own" if leaves else "blend", "blend"]


def test_of_several_that_are_clearly_better_the_clearest_is_taken() -> None:
    rng = np.random.default_rng(0)
    scores = {name: 1.0 + 0.1 * rng.normal(size=(100, 5)) for name in CHOICES}
    scores["blend"] -= 0.5
    scores["carry_forward"][:, 0] -= 1.0
    scores["own"][:, 0] -= 2.0
    assert _scored(scores).chosen()[0] == "own"
    scores["carry_forward"][:, 0] -= 2.0
    assert _scored(scores).chosen()[0] == "carry_forward"


def test_what_follows_a_mean_leaves_filled_cells_out() -> None:
    cohort = _cohort(80)
    visits = cohort.visits.copy()
    visits[:, 0][np.random.default_rng(1).random(visits[:, 0].shape) < 0.3] = np.nan
    cohort = replace(cohort, visits=visits)
    whole = Design.of(cohort, False)
    folds, fold = fit_folds(cohort, whole, False, 0)
    mean, left = mean_stage.fit_means(whole, folds, ("own",), True)["own"]
    stage = follow(whole, mean, left, fold)
    known = np.where(whole.measured, left, np.nan)
    np.testing.assert_allclose(stage.standard * stage.scale, known, rtol=1e-12)
    assert np.isnan(known).sum() > np.isnan(left).sum()
    spread = fit_spread(whole.X, known, whole.weight, whole.pairs.unit, fold)
    np.testing.assert_array_equal(stage.spread.level, spread.level)
    scale = spread.scale(whole.X)
    margins = fit_margins(known / scale, scale, whole.weight, whole.pairs.unit, fold)
    assert stage.margins.choice == margins.choice


def test_spreads_are_those_of_the_pairs_that_are_imputed() -> None:
    cohort = _cohort(60)
    whole = Design.of(cohort, True)
    folds, fold = fit_folds(cohort, whole, True, 0)
    mean, left = mean_stage.fit_means(whole, folds, ("own",), True)["own"]
    stage = follow(whole, mean, left, fold)
    wanted = whole.pairs.wanted
    assert 0 < wanted.sum() < len(wanted)
    plain = fit_spread(
        whole.X, whole.less_doubt(whole.own_baseline(left), mean.map), whole.weight, whole.pairs.unit, fold
    )
    expected = plain.for_wanted(stage.standard, whole.weight, whole.pairs.unit, wanted)
    np.testing.assert_array_equal(stage.spread.doubt, expected.doubt)
    assert np.abs(expected.doubt - plain.doubt).min() > 0


# -- wiring -----------------------------------------------------------------------------------------------------------


def _noting(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | type, name: str, place: int | str
) -> Callable[[], list[Any]]:
    """Which values an argument takes from here on, in order."""
    plain, seen = getattr(module, name), []

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(named[place] if isinstance(place, str) else given[place])
        return plain(*given, **named)

    monkeypatch.setattr(module, name, noted)
    return lambda: seen


def _train(cohort: sg.Cohort, seed: int = 0, **options: Any) -> DefaultModel:
    return DefaultModel.fit(cohort, DefaultOptions(shape="off", **options), seed=seed, run=Run(show=False))


def test_without_self_conditioning_no_population_is_learned_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    people = _noting(monkeypatch, Population, "fit", 0)
    fitted = _train(_cohort(40), self_conditioning=False, pairs="first")
    assert people() == []
    assert not [name for name in fitted.mean_change.gain if "self" in name]
    cohort = _cohort(40)
    whole = Design.of(cohort, False)
    judge(cohort, whole, False, False, 0)
    assert people() == []
    # Every part, inside and around, and everybody: 5 parts of 5 folds and one of all.
    judge(cohort, whole, False, True, 0)
    assert len(people()) == 5 * (5 + 1)
    assert max(map(len, people())) < len(cohort)


@pytest.mark.parametrize(("pairs", "every"), [("all", True), ("first", False)])
def test_which_pairs_are_learned_from_is_the_same_everywhere(
    pairs: str, every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _noting(monkeypatch, TrainingPairs, "of", 1)
    _train(_cohort(40), pairs=pairs, self_conditioning=False)
    # Of everybody, of 5 folds, of 5 parts and of 5 folds of each.
    assert asked() == [every] * (1 + 5 + 5 + 25)


@pytest.mark.parametrize("seed", [0, 11])
def test_the_seed_decides_every_fold_and_no_part_is_a_fold(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = _noting(monkeypatch, design, "unit_folds", 1)
    parts = _noting(monkeypatch, judgement, "unit_folds", 1)
    joint = _noting(monkeypatch, model, "fit_joint", "seed")
    _train(_cohort(40), seed, pairs="first", self_conditioning=False)
    assert folds() == [seed] * (5 + 1)
    assert parts() == [seed + 1]
    assert joint() == [seed]


def test_other_seeds_give_other_judgements() -> None:
    cohort = _cohort(40)
    one, again, other = (
        judge(cohort, Design.of(cohort, False), False, False, seed).scores["own"]["mean"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other, equal_nan=True)


def test_holes_of_anybody_are_known_in_every_design(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort(40)
    holes = _noting(monkeypatch, judgement.fold_of.__globals__["Context"], "fit", 2)
    visits = cohort.visits.copy()
    visits[-1, 0, 1] = np.nan
    for each, expected in ((cohort, False), (replace(cohort, visits=visits), True)):
        holes().clear()
        _train(each, pairs="first", self_conditioning=False)
        # The first is that of everybody, which looks for itself.
        assert holes()[0] is True
        assert len(holes()) == 36
        # But for the folds of the part that this person is held out of.
        assert sum(holes()[1:]) == (30 if expected else 0)


def test_the_choice_is_that_of_the_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["own", "carry_forward", "blend", "own"]
    monkeypatch.setattr(Judgement, "winner", lambda _: "blend")
    monkeypatch.setattr(Judgement, "chosen", lambda _: chosen)
    fitted = _train(_cohort(40), pairs="first", self_conditioning=False)
    assert (fitted.mean_change.winner, fitted.mean_change.chosen) == ("blend", chosen)
    assert not fitted.mean_change.map.W[:, 1].any()
    assert list(fitted.verdict()["mean"]) == chosen
