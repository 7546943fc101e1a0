"""Several missing visits of a person, drawn together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram.imputation.default.joint import Conditional, Drawn
from secondgram.imputation.draws_file import read_draws
from secondgram.imputation.model_data import People
from secondgram.imputation.selection import select_visits
from secondgram.imputation.trajectory.joint_visits import conditioned, draw_visits
from secondgram.imputation.trajectory.posterior import Posterior
from secondgram.imputation.trajectory.statement import covariance
from secondgram.imputation.trajectory.targets import Targets
from secondgram.imputation.trajectory.trajectory_model import TrajectoryModel

nan = np.nan


def study(people: int = 60, visits: int = 5, seed: int = 0) -> sg.Cohort:
    """Levels and slopes; a third of the people lack the last two visits, some one between, a few the first."""
    rng = np.random.default_rng(seed)
    times = np.arange(visits) * 1.5 + np.pad(rng.uniform(-0.3, 0.3, (people, visits - 1)), ((0, 0), (1, 0)))
    level, slope = rng.normal(0, 1, (people, 1, 2)), rng.normal(-0.1, 0.2, (people, 1, 2))
    values = 1000 + 100 * (level + slope * times[:, :, None] + rng.normal(0, 0.3, (people, visits, 2)))
    values[::3, -2:] = nan
    values[1::5, 2] = nan
    values[2::9, 0] = nan
    values[4, -1, 1] = nan
    return sg.Cohort(
        ids=np.array([f"P{number:03d}" for number in range(people)], dtype=object),
        visits=values,
        features=("left", "right"),
        visit_labels=tuple(f"v{number}" for number in range(visits)),
        times=times,
        covariate_table=pd.DataFrame({"age": rng.normal(65, 8, people)}),
        target=visits - 1,
    )


@pytest.fixture(scope="module")
def cohort() -> sg.Cohort:
    return study()


@pytest.fixture(scope="module")
def imputer(cohort: sg.Cohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False)


def together(imputer: sg.SecondgramImputer, cohort: sg.Cohort, draws: int = 3, **asked: Any) -> sg.TrajectoryImputation:
    result = imputer.impute(cohort, draws=draws, show=False, **asked)
    assert isinstance(result, sg.TrajectoryImputation)
    return result


def rows_of(result: sg.TrajectoryImputation, subject: str, visit: str) -> int:
    table = result.rows
    (row,) = np.flatnonzero((table["subject_id"] == subject) & (table["visit"] == visit))
    return int(row)


def with_visit(cohort: sg.Cohort, person: int, visit: int, values: np.ndarray) -> sg.Cohort:
    visits = cohort.visits.copy()
    visits[person, visit] = values
    return replace(cohort, visits=visits)


# -- which visits, and in which order ---------------------------------------------------------------------------------


def test_targets_are_told_from_the_nearest_on() -> None:
    values = np.array([[1, nan, nan, nan, 2], [nan, nan, 1, 3, nan], [nan] * 5, [nan, 5, nan, nan, nan]])[:, :, None]
    times = np.array([[0, 1, 2.5, 3, 5], [0, 1, 2, 3, 4.5], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4.0]])
    cohort = sg.Cohort(np.array(list("abcd"), dtype=object), values, ("x",), tuple("vwxyz"), times, target=4)
    targets = Targets.of(cohort, np.arange(5.0), "missing", [9.0, 2.5])
    found = {
        (cohort.ids[who], targets.labels[slot]): (int(turn), float(distance))
        for who, slot, turn, distance in zip(targets.person, targets.slot, targets.turn, targets.distance, strict=True)
    }
    assert {key: value for key, value in found.items() if key[0] == "a"} == {
        ("a", "w"): (0, 1.0),
        ("a", "y"): (1, 2.0),
        ("a", "x"): (2, 2.5),
        ("a", "2.5 years"): (3, 2.5),
        ("a", "9 years"): (4, 4.0),
    }
    # Half a year to either neighbour.
    assert found["b", "2.5 years"] == (0, 0.5)
    assert [key[1] for key in sorted((k for k in found if k[0] == "b"), key=lambda k: found[k][0])] == [
        *("2.5 years", "w", "z", "v", "9 years")
    ]
    # Nobody without a visit is told, and of who has one, the others are.
    assert not any(key[0] == "c" for key in found)
    assert found["d", "v"] == (0, 1.0)
    part = targets.take(slice(1, 4))
    assert len(part) == len(targets) - 5
    assert set(part.person) == {0, 2}
    np.testing.assert_array_equal(part.times, targets.times[1:4])


def test_all_tells_measured_visits_from_the_others_alone(cohort: sg.Cohort) -> None:
    usual = np.arange(5) * 1.5
    every, missing = Targets.of(cohort, usual, "all"), Targets.of(cohort, usual, "missing")
    assert len(every) == cohort.visits.shape[0] * 5
    assert every.alone.sum() == len(every) - len(missing)
    assert not every.turn[every.alone].any()
    named = Targets.of(cohort, usual, ["v4", "v2"])
    assert {named.labels[slot] for slot in named.slot} == {"v2", "v4"}
    assert not named.alone.any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"visits": ["v9"]}, "visits=v9: the model knows v0, v1"),
        ({"visits": []}, "visits="),
        ({"at": [-1.0]}, "0 or more"),
        ({"at": [2.0, 2.0]}, "different numbers"),
        ({"at": [nan]}, "at="),
        ({"visits": "missing", "who": "all"}, "who='all' does not go with"),
        ({"visits": "missing", "gap": 2.0}, "gap=2.0 does not go with"),
        ({"visits": "missing", "history": "first"}, "history='first' does not go with"),
    ],
)
def test_what_cannot_be_asked(
    asked: dict[str, Any], message: str, imputer: sg.SecondgramImputer, cohort: sg.Cohort
) -> None:
    with pytest.raises(sg.InputError, match=message):
        imputer.impute(cohort, show=False, **asked)


def test_a_model_of_the_first_visit_imputes_one(cohort: sg.Cohort) -> None:
    first = sg.SecondgramImputer(shape="off").fit(cohort, show=False)
    for asked in ({"visits": "missing"}, {"at": [3.0]}, {"at": 3.0}):
        with pytest.raises(sg.InputError, match="history=all"):
            first.impute(cohort, show=False, **asked)


def test_nothing_is_missing(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    whole = cohort.take(np.isfinite(cohort.visits).all(axis=(1, 2)))
    with pytest.raises(sg.InputError, match="there is no visit to impute"):
        imputer.impute(whole, visits="missing", show=False)
    assert len(together(imputer, whole, at=[4.0]).ids) == len(whole)


# -- draws ------------------------------------------------------------------------------------------------------------


def test_one_visit_is_drawn_as_alone(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    alone = imputer.impute(cohort, draws=3, show=False)
    some = together(imputer, cohort, visits=["v4"])
    np.testing.assert_array_equal(some.ids, alone.ids)
    np.testing.assert_array_equal(some.draws, alone.draws)
    np.testing.assert_array_equal(some.mean, alone.mean)
    assert (some.rows["visit"] == "v4").all()


def test_later_visits_are_drawn_given_the_draws_of_earlier_ones(
    imputer: sg.SecondgramImputer, cohort: sg.Cohort
) -> None:
    result, alone = together(imputer, cohort, visits=["v3", "v4"]), together(imputer, cohort, visits=["v4"])
    first, second = rows_of(result, "P000", "v3"), rows_of(result, "P000", "v4")
    row = rows_of(alone, "P000", "v4")
    # Each is expected as it is by itself.
    np.testing.assert_array_equal(result.mean[second], alone.mean[row])
    assert (result.draws[:, second] != alone.draws[:, row]).all()
    # The first is drawn as by itself.
    alone = together(imputer, cohort, visits=["v3"])
    np.testing.assert_array_equal(result.draws[:, first], alone.draws[:, rows_of(alone, "P000", "v3")])


def test_what_draws_tell_of_the_next_is_what_the_mixed_model_says() -> None:
    rng = np.random.default_rng(0)
    # Of two people and two features; visits 0 and 3 are known, and of visit 4 the second feature.
    visits = np.full((2, 5, 2), nan)
    visits[:, [0, 3]] = 1.0
    visits[:, 4, 1] = 2.0
    visits[1, 4] = 1.0
    times = np.cumsum(rng.uniform(0.5, 2.0, (2, 5)), axis=1)
    cohort = sg.Cohort(np.array(["a", "b"], dtype=object), visits, ("x", "y"), tuple("vwxyz"), times, target=4)
    shown, targets, _ = select_visits(cohort, ["x", "y"], np.arange(5.0), "missing", [9.0])
    root = rng.normal(size=(2, 2, 2, 2))
    V = np.einsum("ndij,ndkj->ndik", root, root)
    s2 = np.array([0.5, 2.0])

    def known(people: People) -> Posterior:
        mine = ["ab".index(name) for name in people.ids]
        level = np.full((len(mine), 2), nan if len(mine) == 2 else 5.0)
        return Posterior(level, level, np.stack([V[mine, :, 0, 0], V[mine, :, 0, 1], V[mine, :, 1, 1]]))

    drawn: dict[tuple[str, int], np.ndarray] = {}
    seen = 0

    def finish(people: People, posterior: Posterior, rows: np.ndarray, given: Conditional | None, tells: bool) -> Drawn:
        nonlocal seen
        assert people.history is not None
        assert tells == (targets.turn[rows] < targets.turn.max()).all()
        # A visit of which something is known is told without that.
        np.testing.assert_array_equal(posterior.level[:, 0] == 5.0, np.isfinite(people.known).any(axis=1))
        residual = rng.normal(size=(3, len(people), 2))
        for place, name in enumerate(people.ids):
            who = "ab".index(name)
            slot = int(np.flatnonzero(targets.times[who] == people.history.at[place])[0])
            for feature in range(2):
                open_cell = np.isnan(visits[who, slot, feature]) if slot < 5 else True
                before = [
                    each
                    for (whose, each) in drawn
                    if whose == name and open_cell and (each > 4 or np.isnan(visits[who, each, feature]))
                ]
                sigma = covariance(targets.times[who, [*before, slot]], V[who, feature], s2[feature])
                sigma /= np.sqrt(np.outer(np.diag(sigma), np.diag(sigma)))
                pull = np.linalg.solve(sigma[:-1, :-1], sigma[:-1, -1])
                mean = sum(w * drawn[name, each][:, feature] for w, each in zip(pull, before, strict=True))
                share = np.sqrt(1.0 - pull @ sigma[:-1, -1])
                if given is None:
                    assert not before
                    continue
                seen += 1
                np.testing.assert_allclose(given.mean[:, place, feature], mean, atol=1e-6)
                np.testing.assert_allclose(given.share[place, feature], share, rtol=1e-10)
            drawn[name, slot] = residual[:, place]
        missing = np.array([["ab".index(name) + 10.0 * number for name in people.ids] for number in range(3)])[
            ..., None
        ]
        if given is not None:
            np.testing.assert_array_equal(given.covariates, missing)
        return Drawn(
            residual + 100.0, residual.astype(np.float32), missing if given is None else np.full_like(missing, nan)
        )

    out = np.empty((2, len(targets), 3))
    draw_visits(finish, known, s2, shown, targets, out)
    found = out.transpose(2, 1, 0)
    assert seen == 10
    for row in range(len(targets)):
        name = "ab"[targets.person[row]]
        np.testing.assert_allclose(found[:, row], drawn[name, int(targets.slot[row])] + 100.0)


def test_residuals_are_drawn_about_what_other_draws_tell(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    model = imputer.model_
    assert isinstance(model, TrajectoryModel)
    shown, targets, _ = select_visits(cohort, ["left", "right"], model.usual, ["v4"], [])
    people, numbers = conditioned(shown, targets, np.arange(len(targets))), np.arange(3)

    def drawn(given: Conditional | None) -> Drawn:
        components = model.sample(people, numbers, 5)
        return model.ladder_model.finish_given(model.anchored(people), numbers, 5, components, given, True)

    plain = drawn(None)
    assert plain.residual is not None
    np.testing.assert_array_equal(plain.values, model.draw(people, numbers, 5))
    rng = np.random.default_rng(0)
    mean, share = rng.normal(0, 0.3, plain.values.shape), rng.uniform(0.5, 1.0, plain.values.shape[1:])
    given = drawn(Conditional(mean.astype(np.float32), share))
    assert given.residual is not None
    whole = ~np.isfinite(people.known).any(axis=1)
    np.testing.assert_allclose(given.residual[:, whole], (mean + share * plain.residual)[:, whole], atol=1e-4)
    # In original units too, whatever the spread of a person's feature.
    unit = np.ptp(plain.values[:, whole], axis=0) / np.ptp(plain.residual[:, whole], axis=0)
    moved = (given.values - plain.values)[:, whole] / unit
    np.testing.assert_allclose(moved, (given.residual - plain.residual)[:, whole], atol=1e-3)
    # A measured cell stays, and tells of the others as far as it is not what was expected.
    (place,) = np.flatnonzero(~whole)
    assert people.ids[place] == "P004"
    assert (given.values[:, place, 0] == cohort.visits[4, 4, 0]).all()
    expected = mean[:, place].copy()
    own = (
        plain.residual[:, place, 1]
        - plain.residual[:, place, 0] * model.ladder_model.joint.components.correlation()[0, 1]
    )
    assert model.ladder_model.joint.margins is None
    expected[:, 0] = plain.residual[:, place, 0]
    pull = model.ladder_model.joint.components.correlation()[0, 1] / share[place, 0]
    expected[:, 1] += share[place, 1] * (own + pull * (plain.residual[:, place, 0] - mean[:, place, 0]))
    np.testing.assert_allclose(given.residual[:, place], expected, atol=1e-4)


def test_a_missing_covariate_is_the_same_at_every_visit_of_a_draw() -> None:
    cohort = study(people=150)
    table = cohort.covariate_table.copy()
    table.loc[::3, "age"] = nan
    age = cohort.covariate_table["age"].to_numpy()
    # It tells of later visits, of which they have none, in a way that levels and slopes do not follow.
    visits = cohort.visits - 40 * (age[:, None, None] - 65) * np.array([0, 0, 0, 1, 1])[:, None]
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(
        replace(cohort, visits=visits, covariate_table=table), show=False
    )
    model = imputer.model_
    assert isinstance(model, TrajectoryModel)
    some = replace(cohort, visits=visits, covariate_table=table).take(np.arange(0, 150, 3))
    shown, targets, _ = select_visits(some, ["left", "right"], model.usual, ["v3", "v4"], [])
    first, second = (conditioned(shown, targets, np.flatnonzero(targets.turn == turn)) for turn in (0, 1))
    numbers = np.arange(3)

    def finished(people: People, given: Conditional | None = None) -> Drawn:
        components = model.sample(people, numbers, 5)
        return model.ladder_model.finish_given(model.anchored(people), numbers, 5, components, given, True)

    drawn, plain = finished(first), finished(second)
    assert plain.residual is not None
    assert drawn.covariates is not None
    assert plain.covariates is not None
    assert np.abs(plain.covariates - drawn.covariates[:, : len(second)]).mean() > 0.1
    mean, share = np.zeros_like(plain.residual), np.ones(plain.residual.shape[1:])
    same = finished(second, Conditional(mean, share, plain.covariates))
    np.testing.assert_allclose(same.values, plain.values, rtol=1e-5)
    other = finished(second, Conditional(mean, share, plain.covariates + 1.0))
    assert other.residual is not None
    # It moves what is expected, and is no part of what the next visit is told.
    assert np.abs(other.values - plain.values).mean() > 1.0
    np.testing.assert_allclose(other.residual, plain.residual, atol=1e-3)
    assert other.covariates is not None
    np.testing.assert_allclose(other.covariates[..., 0], plain.covariates[..., 0] + 1.0, rtol=1e-5)


def test_a_measured_visit_is_told_as_if_it_were_missing(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, visits="all")
    hidden = with_visit(cohort, 1, 4, np.array([nan, nan]))
    alone = imputer.impute(hidden, draws=3, show=False)
    row = rows_of(result, "P001", "v4")
    np.testing.assert_array_equal(result.draws[:, row], alone.draws[:, list(alone.ids).index("P001")])
    np.testing.assert_array_equal(result.mean[row], alone.mean[list(alone.ids).index("P001")])


def test_replicates_tell_the_error_of_a_measurement(cohort: sg.Cohort) -> None:
    times, visits = cohort.times.copy(), cohort.visits.copy()
    times[:, 2] = times[:, 1]
    rng = np.random.default_rng(0)
    # Measured again on the same day, without the error that visits have otherwise.
    visits[:, 2] = visits[:, 1] + 1e-3 * rng.normal(size=visits[:, 1].shape)
    rescanned = replace(cohort, times=times, visits=visits)
    model = sg.SecondgramImputer(shape="off", history="all").fit(rescanned, show=False).model_
    apart = sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False).model_
    assert isinstance(model, TrajectoryModel)
    assert isinstance(apart, TrajectoryModel)
    assert (model.anchor.s2 < 0.8 * apart.anchor.s2).all()


def test_measured_cells_stay(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, visits="missing")
    row = rows_of(result, "P004", "v4")
    assert (result.draws[:, row, 0] == cohort.visits[4, 4, 0]).all()
    assert np.isfinite(result.draws).all()
    assert len(np.unique(result.draws[:, row, 1])) == 3


def test_draws_depend_on_nobody_else_and_on_no_chunks(
    imputer: sg.SecondgramImputer, cohort: sg.Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = together(imputer, cohort, visits="missing", at=[2.2])
    rows = result.rows
    turned = np.arange(len(cohort))[::-1]
    monkeypatch.setattr("secondgram.imputation.trajectory.trajectory_result.CHUNK_CELLS", 200)
    other = together(imputer, cohort.take(turned), visits="missing", at=[2.2])
    assert other.chunk_people < 10
    order = [rows_of(other, *each) for each in zip(rows["subject_id"], rows["visit"], strict=True)]
    np.testing.assert_array_equal(other.draws[:, order], result.draws)
    np.testing.assert_array_equal(other.mean[order], result.mean)
    joined = np.concatenate([part for _, part in other.chunks()], axis=1)
    np.testing.assert_array_equal(joined, other.draws)
    ends = [(part.start, part.stop) for part, _ in other.chunks()]
    assert ends[0][0] == 0
    assert ends[-1][1] == len(rows)
    assert all(before[1] == after[0] for before, after in pairwise(ends))


def test_asked_times_are_years_after_the_first_visit(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    gap = float(cohort.times[0, 2])
    result = together(imputer, cohort, at=[gap, 4.0])
    assert "1 people were measured at" in " ".join(result.notes)
    assert "P000" not in set(result.ids[result.rows["visit"] == f"{gap:g} years"])
    rows = result.rows[result.rows["subject_id"] == "P001"]
    assert list(rows["time_years"]) == [gap, 4.0]
    assert (result.gap == result.rows["time_years"]).all()
    # The level of somebody without a first visit is told at times on the same clock as the others'.
    rows = result.rows[result.rows["subject_id"] == "P002"]
    np.testing.assert_allclose(rows["time_years"], [gap, 4.0])


def test_visits_far_from_what_is_known_are_told(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    assert not any("mixed model's slopes alone" in note for note in together(imputer, cohort, at=[4.0]).notes)
    notes = together(imputer, cohort, at=[20.0]).notes
    assert any(note.startswith("60 visits are up to ") and "mixed model's slopes alone" in note for note in notes)
    late = replace(cohort, times=cohort.times + np.array([0, 0, 0, 0, 20.0]))
    alone = imputer.impute(late, draws=1, show=False)
    assert any("mixed model's slopes alone" in note for note in alone.notes)


def test_visits_of_a_draw_belong_together() -> None:
    cohort = study(people=500, seed=3)
    truth = study(people=500, seed=3)
    visits = cohort.visits.copy()
    rng = np.random.default_rng(1)
    gone = np.flatnonzero(rng.random(500) < 0.3)
    gone = gone[np.isfinite(truth.visits[gone, 3:]).all(axis=(1, 2))]
    visits[gone, 3:] = nan
    cohort = replace(cohort, visits=visits)
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False)
    result = together(imputer, cohort.take(gone), draws=99, visits=["v3", "v4"])
    rows = result.rows["visit"]
    first, last = (result.draws[:, np.flatnonzero(rows == visit)] for visit in ("v3", "v4"))
    residual = [each - each.mean(axis=0) for each in (first, last)]
    assert np.corrcoef(residual[0].ravel(), residual[1].ravel())[0, 1] > 0.15
    change = truth.visits[gone, 4] - truth.visits[gone, 3]
    low, high = np.sort(last - first, axis=0)[[4, 94]]
    covered = ((change >= low) & (change <= high)).mean()
    assert 0.85 < covered < 0.95


# -- what is written --------------------------------------------------------------------------------------------------


def test_a_file_holds_every_visit_and_goes_on(
    imputer: sg.SecondgramImputer, cohort: sg.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondgram.imputation.trajectory.trajectory_result.CHUNK_CELLS", 300)
    result = together(imputer, cohort, visits="missing", at=[2.2])
    result.to_parquet(tmp_path / "whole.parquet")
    table = pq.read_table(tmp_path / "whole.parquet").to_pandas()
    assert list(table.columns) == ["subject_id", "visit", "draw", "left", "right"]
    expected = result.rows.loc[np.repeat(np.arange(len(result.rows)), 3)]
    assert list(table["subject_id"]) == list(expected["subject_id"])
    assert list(table["visit"]) == list(expected["visit"])
    np.testing.assert_array_equal(table[["left", "right"]].to_numpy(), result.draws.transpose(1, 0, 2).reshape(-1, 2))
    with pytest.raises(sg.InputError, match=r"several visits \(.*Impute one visit"):
        read_draws(tmp_path / "whole.parquet")
    parts, sampled, finished = len(list(result.chunks())), 0, []
    sample, together_as_ever = TrajectoryModel.sample, sg.TrajectoryImputation._together

    def counted(model: TrajectoryModel, *arguments: Any) -> np.ndarray:
        nonlocal sampled
        sampled += 1
        return np.full((*sample(model, *arguments).shape[:2], 1), sampled, dtype=np.float32)

    def stops(result: sg.TrajectoryImputation, people: People, targets: Targets, sampled: np.ndarray) -> np.ndarray:
        finished.append(float(sampled.mean()))
        if len(finished) == 3:
            raise KeyboardInterrupt
        return together_as_ever(result, people, targets, sampled[..., :0])

    out = tmp_path / "draws.parquet"
    monkeypatch.setattr(TrajectoryModel, "sample", counted)
    monkeypatch.setattr(sg.TrajectoryImputation, "_together", stops)
    with pytest.raises(KeyboardInterrupt):
        together(imputer, cohort, visits="missing", at=[2.2], out=out)
    assert not out.exists()
    # The same people with the same times, and other visits of theirs.
    with pytest.raises(sg.InputError, match=r"parts of another imputation \(visits"):
        together(imputer, cohort, visits="all", at=[2.2], out=out, resume=True)
    together(imputer, cohort, visits="missing", at=[2.2], out=out, resume=True)
    # What the denoiser takes long for is kept.
    assert finished == [1, 2, 3, *range(1, parts + 1)]
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_trajectory_is_a_table_for_a_plot(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, draws=40, visits="all", at=[2.2])
    table = result.trajectories("P000")
    assert list(table.columns) == ["feature", "visit", "time_years", "measured", "value", "low", "high"]
    left = table[table["feature"] == "left"]
    assert list(left["visit"]) == ["v0", "v1", "2.2 years", "v2", "v3", "v4"]
    assert list(left["measured"]) == [True, True, False, True, False, False]
    assert (left["low"] <= left["value"]).all()
    assert (left["value"] <= left["high"]).all()
    assert left["value"].iloc[0] == cohort.visits[0, 0, 0]
    row = rows_of(result, "P000", "v4")
    assert left["value"].iloc[-1] == result.mean[row, 0]
    with pytest.raises(sg.InputError, match="nobody was not imputed"):
        result.trajectories("nobody")


def test_an_analysis_takes_one_visit(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, visits="missing")
    with pytest.raises(sg.InputError, match="several visits were imputed together"):
        next(sg.completed_tables(result, cohort))


def test_the_command(imputer: sg.SecondgramImputer, cohort: sg.Cohort, tmp_path: Path, cli: Callable[..., Any]) -> None:
    imputer.save(tmp_path / "model")
    cohort.write(tmp_path / "visits.csv")
    read = sg.read_cohort(tmp_path / "visits.csv", like=imputer)
    assert sg.load(tmp_path / "model").model_.digest == imputer.model_.digest
    expected = together(imputer, read, draws=2, visits="missing", at=[2.5, 4.0])
    out = tmp_path / "d.parquet"
    options = ["--draws", "2", "--visits", "missing", "--at", "2.5,4"]
    done = cli("impute", tmp_path / "model", tmp_path / "visits.csv", "--out", out, *options)
    assert done.code == 0, done.err
    assert f"{len(expected.ids)} visits x 2 draws" in done.err
    table = pq.read_table(out).to_pandas()
    np.testing.assert_array_equal(table[["left", "right"]].to_numpy(), expected.draws.transpose(1, 0, 2).reshape(-1, 2))
    done = cli("impute", tmp_path / "model", tmp_path / "visits.csv", "--out", out, "--at", "soon")
    assert done.code == 2
    assert "--at 'soon'" in done.err
