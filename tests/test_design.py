"""Designs and folds: who is judged has no part in anything that judges them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.imputation.context import Context
from secondgram.imputation.default import design
from secondgram.imputation.default import mean as base
from secondgram.imputation.default.design import FEWEST_MEASURED, LEAST, Design, Fold, fit_folds, held_out, without
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.default.population import Population
from secondgram.imputation.folds import unit_folds
from secondgram.imputation.model_data import People, TrainingPairs
from secondgram.imputation.regression import LinearMap

FEATURES = 5


def _cohort(people: int = 48, families: bool = False, sites: bool = False, seed: int = 0) -> sg.Cohort:
    """Three visits, of which some are missing: nobody has the first visit of the last people; some have one visit."""
    rng = np.random.default_rng(seed)
    level = 0.8 * rng.normal(size=(people, 1, 1)) + 0.6 * rng.normal(size=(people, 1, FEATURES))
    visits = 100.0 + 10.0 * (level + 0.5 * rng.normal(size=(people, 3, FEATURES)))
    visits[: people // 4, 1:] = np.nan
    visits[people // 4 : people // 2, 2] = np.nan
    visits[-3:, 0] = np.nan
    times = np.array([0.0, 1.5, 4.0]) + rng.uniform(0.0, 0.5, size=(people, 3))
    table = pd.DataFrame({"age": rng.uniform(50, 80, people), "sex": pd.Categorical(rng.choice(["f", "m"], people))})
    return sg.Cohort(
        ids=np.array([f"p{number}" for number in rng.permutation(people)]),
        visits=visits,
        features=tuple(f"f{number}" for number in range(FEATURES)),
        visit_labels=("1", "2", "3"),
        times=times,
        covariate_table=table,
        groups=np.array([f"family {number % (people // 3)}" for number in range(people)]) if families else None,
        site=np.array(["north", "south"])[np.arange(people) % 2] if sites else None,
        target=2,
    )


def _poisoned(cohort: sg.Cohort, people: np.ndarray) -> sg.Cohort:
    """Wild other values in every cell that these people (N,) bool have, in their covariates and times."""
    rng = np.random.default_rng(7)
    visits, times = cohort.visits.copy(), cohort.times.copy()
    visits[people] = np.where(np.isfinite(visits[people]), 1e4 * rng.normal(size=visits[people].shape), np.nan)
    times[people] = np.cumsum(rng.uniform(5.0, 50.0, size=times[people].shape), axis=1)
    table = cohort.covariate_table.copy()
    table.loc[people, "age"] = 1e5
    table.loc[people, "sex"] = "f"
    return replace(cohort, visits=visits, times=times, covariate_table=table)


def _arrays(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All that a state is made of, by name."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _arrays(each, f"{name}.{key}")
    else:
        yield name, value


def _contents(design: Design) -> dict[str, Any]:
    found = dict(_arrays(design.context.state()))
    for name in ("X", "change", "measured", "weight", "everyone", "first", "complete"):
        found[name] = getattr(design, name)
    return found | {"unit": design.pairs.unit, "wanted": design.pairs.wanted}


def _differ(one: Design, other: Design) -> list[str]:
    """What is not the same to the bit."""
    left, right = _contents(one), _contents(other)
    assert left.keys() == right.keys()
    return [name for name in left if not _same(left[name], right[name])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other)


def _judged(cohort: sg.Cohort, whole: Design, fold: Fold) -> np.ndarray:
    """(N,) bool: in the fold's pairs, or of the unit of somebody who is."""
    return np.isin(cohort.units().astype(str), whole.pairs.unit[fold.rows])


# -- who is judged ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [False, True], ids=["one site", "sites"])
@pytest.mark.parametrize("families", [False, True], ids=["alone", "families"])
@pytest.mark.parametrize("every", [True, False], ids=["all pairs", "first pairs"])
def test_nothing_of_the_judged_reaches_the_design_they_are_judged_by(every: bool, families: bool, sites: bool) -> None:
    cohort = _cohort(families=families, sites=sites)
    whole = Design.of(cohort, every)
    folds, _ = fit_folds(cohort, whole, every, seed=3)
    for number, fold in enumerate(folds):
        people = _judged(cohort, whole, fold)
        if families:
            # Relatives without a pair are held out with those who have one.
            assert people.sum() > len(set(whole.pairs.people.ids[fold.rows]))
        poisoned = _poisoned(cohort, people)
        again = Design.of(poisoned, every)
        other = held_out(poisoned, again, fold.rows, every)
        assert _differ(fold.design, other.design) == []
        # The poison shows wherever it is let in: in all of the whole's scales, and in what is judged.
        spoiled = _differ(whole, again)
        assert {".scaling.location", ".scaling.spread", ".encoder.shift", ".gap", "X", "everyone"} <= set(spoiled)
        assert not np.array_equal(other.X, fold.X)
        if number == 0:
            # And other folds, which learn from these people, do change.
            assert _differ(folds[1].design, held_out(poisoned, again, folds[1].rows, every).design)


def test_a_scale_of_everybody_in_a_fold_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    rows = fit_folds(cohort, whole, True, seed=3)[0][0].rows
    poisoned = _poisoned(cohort, np.isin(cohort.ids, whole.pairs.unit[rows]))
    again = Design.of(poisoned, True)
    found = []
    for context, pairs in ((whole.context, cohort), (again.context, poisoned)):
        monkeypatch.setattr(Context, "fit", lambda *_, context=context: context)
        found.append(held_out(pairs, again, rows, True).design)
    assert {".scaling.location", "X", "change", "everyone"} <= set(_differ(*found))


@pytest.mark.parametrize("families", [False, True], ids=["alone", "families"])
def test_nothing_of_the_judged_reaches_a_candidate(families: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Penalty and shrinkage are chosen on everybody; here there is no choice.
    monkeypatch.setattr(base, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(base, "SHRINKAGES", (0.3,))
    cohort = _cohort(families=families)
    whole = Design.of(cohort, True)
    folds, _ = fit_folds(cohort, whole, True, seed=3)
    poisoned = _poisoned(cohort, _judged(cohort, whole, folds[0]))
    again = Design.of(poisoned, True)
    others = [held_out(poisoned, again, fold.rows, True) for fold in folds]
    one, other = base._Judged(whole, folds).fitted, base._Judged(again, others).fitted
    populations = [Population.fit(each.everyone(), FEATURES) for each in (one[0], other[0])]
    np.testing.assert_array_equal(populations[0].covariance, populations[1].covariance)
    for name in base.CANDIDATES[1:-1]:
        penalty = 1.0 if name in base.RICH else None
        for number in (0, 1):
            (first, beyond), (second, further) = one[number].map(name, penalty), other[number].map(name, penalty)
            same = [
                np.array_equal(left, right)
                for left, right in ((first.W, second.W), (first.intercept, second.intercept), (beyond, further))
            ]
            # Those of the next fold have learned from the poisoned.
            assert all(same) == (number == 0)
        if first.by_gap is not None:
            np.testing.assert_array_equal(one[0].map(name, penalty)[0].by_gap, other[0].map(name, penalty)[0].by_gap)


def test_every_pair_is_judged_once_and_by_none_of_its_unit() -> None:
    cohort = _cohort(families=True)
    whole = Design.of(cohort, True)
    folds, fold = fit_folds(cohort, whole, True, seed=3)
    assert len(folds) == fold.max() + 1
    np.testing.assert_array_equal(np.sort(np.concatenate([each.rows for each in folds])), np.arange(len(whole.pairs)))
    for number, each in enumerate(folds):
        np.testing.assert_array_equal(each.rows, np.flatnonzero(fold == number))
        assert not set(each.design.pairs.unit) & set(whole.pairs.unit[each.rows])
        learned = without(cohort, whole, each.rows)
        assert not set(learned.units()) & set(whole.pairs.unit[each.rows])
        # Nobody else is left out.
        assert len(learned) == len(cohort) - _judged(cohort, whole, each).sum()
        assert len(each.design.everyone) == learned.scanned.sum()


def test_folds_are_decided_by_the_seed() -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    one, again, other = (fit_folds(cohort, whole, True, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("every", [True, False])
def test_a_fold_learns_from_the_pairs_that_are_asked_for(every: bool) -> None:
    cohort = _cohort()
    whole = Design.of(cohort, every)
    assert whole.pairs.wanted.all() == (not every)
    for fold in fit_folds(cohort, whole, every, seed=0)[0]:
        assert len(fold.design.pairs) + len(fold.rows) == len(whole.pairs)


def test_errors_of_a_fold_come_in_the_units_of_everybody() -> None:
    cohort = _cohort(sites=True)
    whole = Design.of(cohort, True)
    fold = fit_folds(cohort, whole, True, seed=0)[0][0]
    np.testing.assert_allclose(fold.change * fold.unit, whole.change[fold.rows], rtol=1e-9)
    assert not np.allclose(fold.unit, 1.0, rtol=1e-3)


# -- missing cells ----------------------------------------------------------------------------------------------------


def test_what_fills_cells_is_learned_where_anybody_lacks_one_judged_or_not() -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    assert whole.complete
    folds, _ = fit_folds(cohort, whole, True, seed=0)
    visits = cohort.visits.copy()
    person = int(np.flatnonzero(_judged(cohort, whole, folds[0]))[0])
    visits[person, 0, 2] = np.nan
    holed = replace(cohort, visits=visits)
    again = Design.of(holed, True)
    assert not again.complete
    fold = held_out(holed, again, folds[0].rows, True)
    assert fold.design.complete
    width = FEATURES + whole.context.encoder.width
    assert np.abs(fold.design.context.missing.precision - np.eye(width)).max() > 0.1
    assert np.isfinite(fold.X).all()
    # Without a hole there is nothing to learn it for.
    np.testing.assert_array_equal(
        folds[0].design.context.missing.precision, np.eye(FEATURES + whole.context.encoder.width)
    )


def test_holes_count_in_the_first_visits_of_all_and_the_earlier_visits_of_pairs() -> None:
    cohort = _cohort()
    earlier = np.flatnonzero(np.isfinite(cohort.visits[:, 1:, 0]).all(axis=1))[0]
    for person, visit, counted in ((0, 0, True), (earlier, 1, True), (earlier, 2, False)):
        visits = cohort.visits.copy()
        visits[person, visit, 1] = np.nan
        assert Design.of(replace(cohort, visits=visits), True).complete != counted


def test_a_target_that_is_not_measured_is_unknown_and_a_filled_baseline_is_marked() -> None:
    cohort = _cohort()
    visits, rng = cohort.visits.copy(), np.random.default_rng(1)
    visits[rng.random(visits.shape) < 0.2] = np.nan
    holed = replace(cohort, visits=visits)
    whole = Design.of(holed, True)
    assert np.isfinite(whole.X).all()
    np.testing.assert_array_equal(np.isfinite(whole.change), np.isfinite(whole.pairs.later))
    np.testing.assert_array_equal(whole.measured, np.isfinite(whole.pairs.people.baseline))
    error = np.ones(whole.change.shape)
    np.testing.assert_array_equal(np.isfinite(whole.own_baseline(error)), whole.measured)
    # A feature that hardly anybody has at baseline keeps what there is.
    rare = np.where(np.arange(len(whole.measured)) < FEWEST_MEASURED - 1, whole.measured[:, 0], False)
    few = replace(whole, measured=np.column_stack([rare, whole.measured[:, 1:]]))
    kept = np.isfinite(few.own_baseline(error))
    assert kept[:, 0].all()
    np.testing.assert_array_equal(kept[:, 1:], whole.measured[:, 1:])


# -- what a design is -------------------------------------------------------------------------------------------------


def test_everybody_with_a_first_visit_takes_part_and_pairs_know_where() -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    scanned = cohort.ids[cohort.scanned]
    assert whole.everyone.shape == (len(scanned), FEATURES + 3 + 1)
    for row, place in enumerate(whole.first):
        name = whole.pairs.people.ids[row]
        assert (place == -1) == (name not in set(scanned))
        if place >= 0:
            assert scanned[place] == name
    own = whole.pairs.wanted & (whole.first >= 0)
    np.testing.assert_allclose(whole.X[own, :FEATURES], whole.everyone[whole.first[own], :FEATURES], rtol=1e-12)
    assert (whole.first == -1).any()


def test_every_person_counts_once() -> None:
    whole = Design.of(_cohort(), True)
    names = whole.pairs.people.ids
    for name in set(names):
        assert whole.weight[names == name].sum() == pytest.approx(1.0)


def test_other_pairs_are_judged_in_the_scales_of_the_design() -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    rows = np.array([4, 1])
    X, change = whole.judged(whole.pairs.take(rows))
    np.testing.assert_array_equal(X, whole.X[rows])
    np.testing.assert_array_equal(change, whole.change[rows])
    part = whole.pairs.take(rows)
    np.testing.assert_array_equal(part.wanted, whole.pairs.wanted[rows])
    np.testing.assert_array_equal(part.people.ids, whole.pairs.people.ids[rows])


def test_what_a_missing_covariate_leaves_open_is_not_counted_twice() -> None:
    """Errors of those who lack a covariate are larger by what it would have told, which draws of it add again."""
    rng = np.random.default_rng(2)
    people, effect = 400, 0.8
    x = rng.normal(size=people)
    base = rng.normal(size=(people, 2))
    later = base + effect * x[:, None] + 0.5 * rng.normal(size=(people, 2))
    lacks = rng.random(people) < 0.5
    cohort = sg.Cohort(
        ids=np.array([f"p{number:03d}" for number in range(people)], dtype=object),
        visits=np.stack([base, later], axis=1),
        features=("a", "b"),
        visit_labels=("1", "2"),
        times=np.tile([0.0, 2.0], (people, 1)),
        covariate_table=pd.DataFrame({"x": np.where(lacks, np.nan, x)}),
    )
    spreads = []
    for each in (cohort.take(np.flatnonzero(~lacks)), cohort):
        model = sg.SecondgramImputer(shape="off").fit(each, show=False).model_
        assert isinstance(model, DefaultModel)
        spreads.append(model.spread.fitted(model.context.inputs(People.of(each, keep_known=False)))[0])
    # Those who lack it leave sqrt(0.5^2 + 0.8^2) = 0.94 open, and all together 0.75.
    assert (spreads[1] < 1.25 * spreads[0]).all()


def test_the_doubt_about_a_covariate_grows_with_what_the_gap_makes_of_it() -> None:
    cohort = _cohort()
    table = cohort.covariate_table.assign(score=np.linspace(-1.0, 1.0, len(cohort)))
    table.loc[::3, "score"] = np.nan
    design = Design.of(replace(cohort, covariate_table=table), True)
    width, inputs = design.width, design.X.shape[1]
    rng = np.random.default_rng(3)
    linear = LinearMap(rng.normal(size=(inputs, width)), np.zeros(width), rng.normal(size=(inputs - 1, width)))
    assert linear.by_gap is not None
    error = rng.normal(size=(len(design.X), width))
    # The score is the last covariate, and alone is missing.
    variance = 1.0 / design.context.missing.precision[-1, -1]
    slope = linear.W[-2] + design.X[:, -1:] * linear.by_gap[-1]
    lacking = design.context.gone(design.pairs.people)[:, -1:]
    doubt = np.where(lacking, variance * slope**2, 0.0)
    weight = design.weight[:, None] / design.weight.sum()
    total = (weight * error**2).sum(axis=0)
    own = np.maximum(total - (weight * doubt).sum(axis=0), LEAST * total)
    np.testing.assert_allclose(design.less_doubt(error, linear), error * np.sqrt(own / (own + doubt)))


def test_a_fold_learns_the_fill_from_so_many_people_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort()
    visits = cohort.visits.copy()
    visits[::3, 0, 1] = np.nan
    holed = replace(cohort, visits=visits)
    whole = Design.of(holed, True)
    rows = np.flatnonzero(unit_folds(whole.pairs.unit, 0) == 0)
    every = held_out(holed, whole, rows, True).design.context.missing.precision
    monkeypatch.setattr(design, "FILL_OF_FOLD", (12, 2))
    some = held_out(holed, whole, rows, True).design.context.missing.precision
    assert np.abs(some - every).max() > 1e-3
    most = max(12, 2 * FEATURES)
    learned = without(holed, whole, rows)
    again = Context.fit(learned, TrainingPairs.of(learned, True), most=most)
    np.testing.assert_array_equal(again.missing.precision, some)
    turned = learned.take(np.random.default_rng(0).permutation(len(learned)))
    shuffled = Context.fit(turned, TrainingPairs.of(turned, True), most=most)
    np.testing.assert_allclose(shuffled.missing.precision, some, rtol=1e-6)


@pytest.mark.parametrize(
    ("long", "many", "expected"), [(0.0, 0.0, 3), (0.0, 1e9, 5), (1e18, 0.0, 5), (0.0, 25 / FEATURES, None)]
)
def test_fewer_folds_where_they_take_long_and_pairs_are_many(
    long: float, many: float, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = _cohort()
    whole = Design.of(cohort, True)
    monkeypatch.setattr(design, "LONG", long)
    monkeypatch.setattr(design, "MANY", many)
    if expected is None:
        expected = 3 if len(np.unique(whole.pairs.unit)) >= 25 else 5
    folds, fold = fit_folds(cohort, whole, True, seed=0)
    assert len(folds) == fold.max() + 1 == expected
    assert len(fit_folds(cohort, whole, True, 0, 4)[0]) == 4
