"""Visits that are hidden from the methods of a comparison: which, from what, and who has seen whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.comparison import compare as comparing
from secondgram.comparison.hidden_visits import TASKS, HiddenVisits, interpolated, nearest
from secondgram.comparison.methods.mixed import MixedModel
from secondgram.comparison.predictions import exact_posterior, predictions
from secondgram.imputation.history import History
from secondgram.imputation.model_data import People

FAST = ["carry-forward", "linear-interpolation", "ridge-gaussian", "mixed-model", "exact-posterior"]


@pytest.fixture(scope="module")
def cohort() -> sg.SimulatedTrajectories:
    found = sg.simulate(160, 3, 0.9, 2, "trajectories", slope=0.1)
    assert isinstance(found, sg.SimulatedTrajectories)
    return found


def small(seen: list[str], **more: Any) -> sg.Cohort:
    """Two features; an x is a measured visit."""
    there = np.array([[letter == "x" for letter in row] for row in seen])
    people, count = there.shape
    values = np.arange(people * count * 2, dtype=float).reshape(people, count, 2)
    return sg.Cohort(
        ids=np.array([f"p{row}" for row in range(people)]),
        visits=np.where(there[:, :, None], values, np.nan),
        features=("a", "b"),
        visit_labels=tuple(f"v{visit}" for visit in range(count)),
        times=np.tile(np.arange(count) * 2.0, (people, 1)),
        **more,
    )


def named(made: HiddenVisits) -> list[str]:
    return [f"{unit} {slot}" for unit, slot in zip(made.units(), made.slot, strict=True)]


# -- what is hidden ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("forecast", {"p0 1": "x...", "p0 2": "xx..", "p0 3": "xxx.", "p1 3": ".x.."}),
        ("interpolate", {"p0 1": "x.xx", "p0 2": "xx.x"}),
        ("backcast", {"p0 0": ".xxx", "p1 1": "...x"}),
    ],
)
def test_which_visits_are_hidden_and_which_are_known(task: str, expected: dict[str, str]) -> None:
    made = HiddenVisits.of(small(["xxxx", ".x.x", "x..."]), task)
    found = {name: "".join(".x"[int(each)] for each in row) for name, row in zip(named(made), made.known, strict=True)}
    assert found == expected
    assert list(made.ids) == [f"{name}#{row}" for row, name in enumerate(made.units())]
    np.testing.assert_array_equal(made.followup, made.whole.visits[made.person, made.slot])
    assert list(made.units()) == [name.split()[0] for name in named(made)]


def test_patterns_are_those_of_others() -> None:
    whole = small(["xxxx", "xxxx", "x.x.", "x..."])
    made = HiddenVisits.of(whole, "as-missing", seed=3)
    seen = np.isfinite(whole.visits).any(axis=2)
    for row in range(len(made)):
        mine = made.person == made.person[row]
        # All that is hidden of a person is hidden at once.
        hidden = {int(slot) for slot in made.slot[mine]}
        assert all(not made.known[row][slot] for slot in hidden)
        left = seen[made.person[row]] & ~made.known[row]
        assert {int(slot) for slot in np.flatnonzero(left)} == hidden
        others = [other for other in range(4) if (made.known[row] == seen[made.person[row]] & seen[other]).all()]
        assert others
    assert {"p0", "p1"} <= set(made.units())
    again = HiddenVisits.of(whole, "as-missing", seed=3)
    np.testing.assert_array_equal(made.known, again.known)
    assert any(len(HiddenVisits.of(whole, "as-missing", seed=seed)) != len(made) for seed in range(4, 9)), (
        "the seed decides whose patterns"
    )


def test_the_nearest_and_the_line_between() -> None:
    nan = np.nan
    visits = np.array([[[1.0, nan], [2.0, 20.0], [nan, nan], [8.0, 50.0]]])
    times, at = np.array([[0.0, 1.0, 2.0, 4.0]]), np.array([2.0])
    np.testing.assert_array_equal(nearest(visits, times, at), [[2.0, 20.0]])
    np.testing.assert_allclose(interpolated(visits, times, at), [[4.0, 30.0]])
    np.testing.assert_array_equal(interpolated(visits, times, np.array([9.0])), [[8.0, 50.0]])
    np.testing.assert_array_equal(interpolated(visits, times, np.array([0.4])), [[1.4, 20.0]])
    none = np.full((1, 4), nan)
    np.testing.assert_array_equal(nearest(visits, none, np.array([nan])), [[1.0, 20.0]])
    assert np.isnan(nearest(np.full((1, 2, 1), nan), times[:, :2], at)).all()


def test_the_columns_of_a_hidden_visit(cohort: sg.SimulatedTrajectories) -> None:
    made = HiddenVisits.of(cohort, "interpolate")
    assert made.visit_labels == ("nearest", "hidden")
    np.testing.assert_allclose(np.exp(made.covariate_table["known visits"]), made.known.sum(axis=1))
    assert list(made.covariate_table["age"]) == list(cohort.covariate_table["age"].iloc[made.person])
    away = np.abs(cohort.times[made.person] - cohort.times[made.person, made.slot][:, None])
    np.testing.assert_allclose(made.gap, np.where(made.known, away, np.inf).min(axis=1))
    assert (made.gap > 0).all()
    history = made.take(np.arange(3)).history()
    assert not np.isfinite(history.visits[np.arange(3), made.slot[:3]]).any()
    np.testing.assert_array_equal(history.known, made.known[:3])
    # A model that reads all visits counts them itself.
    assert list(made.people().table) == list(cohort.covariate_table)
    assert list(made.people().table["age"]) == list(made.covariate_table["age"])
    # Shown visits alike: no column of them.
    assert "known visits" not in HiddenVisits.of(small(["xxx", "xxx"]), "backcast").covariate_table


def test_visits_on_another_scanner_are_no_truth() -> None:
    sites = np.array([["A", "A", "B"], ["A", "B", "A"], ["A", "A", "A"]], dtype=object)
    made = HiddenVisits.of(small(["xxx", "xxx", "xxx"], visit_sites=sites), "forecast")
    assert named(made) == ["p0 1", "p1 2", "p2 1", "p2 2"]
    assert named(HiddenVisits.of(small(["xxx"] * 3, visit_sites=sites), "backcast")) == ["p0 0", "p1 0", "p2 0"]
    # Nor is it the nearest, or a neighbour, of any feature.
    np.testing.assert_array_equal(made.baseline[1], made.whole.visits[1, 0])
    assert made.gap[1] == 4.0
    there = HiddenVisits.of(
        small(["xxxx"] * 2, visit_sites=np.array([["A", "A", "A", "B"]] * 2, dtype=object)), "forecast"
    )
    between = HiddenVisits.of(there.whole, "interpolate").between()
    assert named(between) == ["p0 1", "p0 2", "p1 1", "p1 2"]
    np.testing.assert_array_equal(between.baseline[1], between.whole.visits[0, 1])
    # A method that reads all visits is shown it, with its site.
    assert made.history().sites is not None
    assert made.history().known[1].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("seen", "task", "words"),
    [
        (["xx", "xx"], "forecast", "a cohort of 2 visits has no task 'forecast'"),
        (["xx.", "x.x"], "interpolate", "nobody has visits for task 'interpolate'"),
        (["xxx", "xxx"], "as-missing", "nobody has visits for task 'as-missing'"),
    ],
)
def test_where_nothing_is_to_be_hidden(seen: list[str], task: str, words: str) -> None:
    with pytest.raises(sg.InputError, match=words):
        HiddenVisits.of(small(seen), task)


# -- who has seen whom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in TASKS if task != "first"])
def test_people_held_out_are_seen_by_nothing(cohort: sg.SimulatedTrajectories, task: str) -> None:
    rows = HiddenVisits.of(cohort, task)
    for _, learn, judge in comparing.splits(rows, 4, 1, 0):
        held = set(judge.units())
        assert not held & set(learn.whole.ids)
        assert not held & set(learn.units())
        # Who was scanned once teaches too.
        assert len(learn.whole) == len(cohort) - len(set(rows.units()) - set(learn.units()))
        np.testing.assert_array_equal(learn.whole.ids[learn.person], [name.split("#")[0] for name in learn.ids])


@pytest.mark.parametrize("name", ["carry-forward", "linear-interpolation", "ridge-gaussian", "mixed-model"])
def test_what_is_hidden_moves_no_prediction(cohort: sg.SimulatedTrajectories, name: str) -> None:
    _, learn, judge = next(iter(comparing.splits(HiddenVisits.of(cohort, "forecast"), 4, 1, 0)))
    mean, drawn = predictions(name, learn, judge, 3, 0)
    visits = judge.whole.visits.copy()
    first = judge.person[0]
    hidden = ~judge.known[0]
    visits[first, hidden] += 100.0
    moved = replace(judge, whole=replace(judge.whole, visits=visits), visits=judge.visits.copy())
    moved.visits[:, 1] += 100.0
    again, drawn_again = predictions(name, learn, moved, 3, 0)
    np.testing.assert_array_equal(mean[0], again[0])
    np.testing.assert_array_equal(drawn[:, 0], drawn_again[:, 0])


def test_the_library_is_shown_what_is_known_and_no_more(
    cohort: sg.SimulatedTrajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = sg.SecondgramImputer(shape="off", history="all", seed=5).fit(cohort.take(np.arange(40, 160)), show=False)
    asked: list[Any] = []

    class Kept(sg.SecondgramImputer):
        def fit(self, train: sg.Cohort, y: object = None, **more: Any) -> sg.SecondgramImputer:
            asked.append((self.get_params(), train))
            self.__dict__ |= fitted.__dict__
            return self

    monkeypatch.setattr("secondgram.comparison.predictions.SecondgramImputer", Kept)
    rows = HiddenVisits.of(cohort, "backcast")
    learn, judge = rows.without(rows.units()[:40]).take(np.arange(40, len(rows))), rows.take(np.arange(12))
    model: list[Any] = []
    mean, drawn = predictions("default", learn, judge, 3, 5, lambda name, found: model.append((name, found)))
    assert model == [("default", fitted.model_)]
    assert (asked[0][0]["history"], asked[0][0]["seed"]) == ("all", 5)
    assert asked[0][1] is learn.whole
    assert (mean.shape, drawn.shape) == ((12, 3), (3, 12, 3))
    for visit in (1, 4):
        visits = judge.whole.visits.copy()
        visits[judge.person[0], visit] += 3.0
        changed = replace(judge, whole=replace(judge.whole, visits=visits))
        there = judge.known[0, visit]
        again, _ = predictions("default", learn, changed, 3, 5)
        assert (again[0] != mean[0]).all() == there
        np.testing.assert_array_equal(again[1:], mean[1:])


# -- the mixed model on all visits -------------------------------------------------------------------------------------


def test_the_mixed_model_given_one_visit_is_what_it_was(cohort: sg.SimulatedTrajectories) -> None:
    model = MixedModel().fit(cohort, 0)
    people = People.of(cohort, keep_known=False)
    history = History.first(people.baseline, people.gap)
    one = model._conditional(people)
    other = model._conditional(replace(people, history=history))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-8, atol=1e-8)


def test_the_mixed_model_given_many_visits_against_the_dense_formula(cohort: sg.SimulatedTrajectories) -> None:
    model = MixedModel().fit(cohort, 0)
    judge = HiddenVisits.of(cohort, "interpolate").take(np.arange(20))
    people = judge.people()
    mean, variance = model._conditional(people)
    static = model.context.encoder.transform(people.table, people.source)
    assert people.history is not None
    for row in range(20):
        times = people.history.times[row] / model.usual_gap
        at = people.history.at[row] / model.usual_gap
        for feature in range(3):
            y = model.context.scaling.apply(people.history.visits[row], None)[:, feature]
            seen = np.isfinite(y)
            when = np.concatenate([times[seen], [at]])
            g0, g01, g1 = model.G[:, feature]
            both = g0 + g01 * (when[:, None] + when) + g1 * when[:, None] * when
            both += model.s2[feature] * np.eye(len(when))
            x = np.concatenate([[1.0], static[row]])
            F = np.stack([np.concatenate([x, x * time]) for time in when])
            fixed = F @ model.beta[:, feature]
            gain = np.linalg.solve(both[:-1, :-1], both[:-1, -1])
            np.testing.assert_allclose(mean[row, feature], fixed[-1] + gain @ (y[seen] - fixed[:-1]), rtol=1e-6)
            np.testing.assert_allclose(variance[row, feature], both[-1, -1] - gain @ both[:-1, -1], rtol=1e-6)


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_comparison_by_task(cohort: sg.SimulatedTrajectories, tmp_path: Path) -> None:
    table = sg.compare(cohort, FAST, 3, 19, task="interpolate", out=tmp_path, show=False)
    rows = HiddenVisits.of(cohort, "interpolate")
    assert (table.attrs["task"], table.attrs["people"], table.attrs["subjects"]) == ("interpolate", len(rows), 160)
    crps = table[table["metric"] == "crps"].set_index("method")["value"]
    assert crps["exact-posterior"] < 1.01 * crps["mixed-model"]
    assert crps["mixed-model"] < crps["linear-interpolation"] < crps["carry-forward"]
    covered = table[table["metric"] == "coverage_90"].set_index("method")["value"]
    assert covered["exact-posterior"] == pytest.approx(0.9, abs=0.03)
    hidden = pd.read_csv(tmp_path / "hidden.csv")
    mine = hidden[(hidden["method"] == "mixed-model") & (hidden["metric"] == "rmse") & (hidden["by"] == "visits shown")]
    assert list(mine["part"].astype(int)) == sorted({int(count) for count in rows.known.sum(axis=1)})
    assert mine["visits"].sum() == len(rows)
    text = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert f"Judged on {len(rows)} hidden visits of people held out whole" in text
    assert "Hidden is every visit between two others" in text
    assert "hidden visit less the nearest in baseline SD" in text
    content = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["content"]
    person = content["people"]["people"][0]
    subject = person["row"] - 1
    count = np.isfinite(cohort.visits[subject]).any(axis=1).sum()
    assert {len(each) for each in person["shown"]} == {count - 1}
    assert min(abs(value) for _, value in person["shown"][0]) == 0.0
    # A rerun takes what is finished; another task does not.
    again = sg.compare(cohort, FAST, 3, 19, task="interpolate", out=tmp_path, show=False)
    pd.testing.assert_frame_equal(table, again)
    other = sg.compare(cohort, FAST[:2], 3, 19, task="backcast", out=tmp_path, show=False)
    assert other.attrs["people"] == len(HiddenVisits.of(cohort, "backcast"))
    assert "task" not in sg.compare(cohort, FAST[:1], 3, 19, out=tmp_path / "first", show=False).attrs
    assert not (tmp_path / "first" / "hidden.csv").exists()


def test_a_comparison_with_scanners_unknown_times_and_repeats(tmp_path: Path) -> None:
    made = sg.simulate(120, 3, 0.9, 2, "trajectories", sites=2)
    assert isinstance(made, sg.SimulatedTrajectories)
    times = made.times.copy()
    times[np.random.default_rng(0).random(times.shape) < 0.1] = np.nan
    holed = replace(made, times=times)
    table = sg.compare(
        holed, ["carry-forward", "linear-interpolation", "mixed-model"], 3, 9, task="as-missing", seed=4, repeats=2,
        out=tmp_path, show=False,
    )  # fmt: skip
    rows = HiddenVisits.of(holed, "as-missing", 4)
    assert table.attrs["people"] == len(rows)
    assert len(rows) != len(HiddenVisits.of(holed, "as-missing", 5))
    hidden = pd.read_csv(tmp_path / "hidden.csv")
    mine = hidden[(hidden["method"] == "mixed-model") & (hidden["metric"] == "crps") & (hidden["by"] == "visits shown")]
    assert mine["visits"].sum() == len(rows)
    content = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["content"]
    sites = {group["name"]: group["people"] for group in content["groups"] if group["kind"] == "site"}
    assert sites == {name: len(set(rows.units()[rows.site == name])) for name in ("A", "B")}
    shown = [person["row"] for person in content["people"]["people"]]
    assert len(set(shown)) == len(shown)
    assert np.isfinite([year for person in content["people"]["people"] for year, _ in person["shown"][0]]).all()


def test_the_exact_posterior_of_a_hidden_visit_knows_scanners() -> None:
    made = sg.simulate(150, 2, 0.9, 3, "trajectories", sites=3)
    assert isinstance(made, sg.SimulatedTrajectories)
    rows = HiddenVisits.of(made, "backcast")
    found = exact_posterior(rows)
    one = made.take(rows.person)
    visits = one.visits.copy()
    visits[~rows.known] = np.nan
    expected = replace(one, visits=visits).posterior(rows.slot[:, None])
    np.testing.assert_allclose(found.mean, expected.mean)
    score = (rows.followup - found.mean[:, 0]) / found.standard_deviation()[:, 0]
    assert score.var() == pytest.approx(1, abs=0.25)
    # Of a mixed model on all visits, each is scaled within its own site.
    model = MixedModel().fit(made, 0)
    people = rows.people()
    assert people.history is not None
    mean = model._conditional(people)[0]
    plain = replace(people, history=replace(people.history, sites=None))
    moved = (people.history.sites != made.site[rows.person][:, None]) & people.history.known  # type: ignore[index]
    assert moved.any()
    changed = np.abs(mean - model._conditional(plain)[0]).max(axis=1) > 1e-9
    np.testing.assert_array_equal(changed, moved.any(axis=1))


def test_what_a_task_reads_is_what_has_to_be_learnable() -> None:
    made = sg.simulate(200, 2, 0.9, 3, "trajectories")
    visits = made.visits.copy()
    visits[4:, 1] = np.nan
    lacking = replace(made, visits=visits)
    assert sg.compare(lacking, ["carry-forward"], 3, task="forecast", show=False)["value"].notna().any()
    with pytest.raises(sg.InputError, match="have a follow-up"):
        sg.compare(lacking, ["mixed-model"], 3, task="forecast", show=False)


def test_the_usual_methods_of_a_task(cohort: sg.SimulatedTrajectories) -> None:
    chosen, _ = comparing._chosen(cohort, None, "forecast", show=False)
    assert {"carry-forward", "linear-interpolation", "mixed-model", "default", "exact-posterior"} <= set(chosen)
    plain = sg.Cohort(ids=cohort.ids, visits=cohort.visits, features=cohort.features, visit_labels=tuple("01234"))
    assert "exact-posterior" not in comparing._chosen(plain, None, "forecast", show=False)[0]
    assert "linear-interpolation" not in comparing._chosen(plain, None, "first", show=False)[0]
    assert "linear-interpolation" not in comparing._chosen(plain, "all", "first", show=False)[0]
    with pytest.raises(sg.InputError, match="nothing lies between"):
        comparing._chosen(plain, "linear-interpolation", "first", show=False)
    with pytest.raises(sg.InputError, match="task='guess' is unknown"):
        sg.compare(cohort, task="guess", show=False)


def test_an_exact_posterior_from_the_first_visit(cohort: sg.SimulatedTrajectories) -> None:
    mean, drawn = predictions("exact-posterior", cohort, cohort.with_target(3), 40, 1)
    only = cohort.without_followup().posterior(np.full((160, 1), 3))
    np.testing.assert_allclose(mean, only.mean[:, 0])
    assert drawn.std(axis=0).mean() == pytest.approx(only.standard_deviation().mean(), rel=0.03)
