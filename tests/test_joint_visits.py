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
from secondgram.imputation.draws_file import read_draws
from secondgram.imputation.trajectory.targets import Targets

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


def test_the_second_visit_is_told_from_the_draw_of_the_first(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, visits=["v3", "v4"])
    place = {name: row for row, name in enumerate(cohort.ids)}
    who = place["P000"]
    first, second = rows_of(result, "P000", "v3"), rows_of(result, "P000", "v4")
    for number in range(3):
        filled = with_visit(cohort, who, 3, result.draws[number, first])
        alone = imputer.impute(filled, draws=3, show=False)
        np.testing.assert_array_equal(result.draws[number, second], alone.draws[number, list(alone.ids).index("P000")])
    # And the mean is that given what is known.
    alone = imputer.impute(cohort, draws=3, show=False)
    np.testing.assert_array_equal(result.mean[second], alone.mean[list(alone.ids).index("P000")])


def test_a_measured_visit_is_told_as_if_it_were_missing(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> None:
    result = together(imputer, cohort, visits="all")
    hidden = with_visit(cohort, 1, 4, np.array([nan, nan]))
    alone = imputer.impute(hidden, draws=3, show=False)
    row = rows_of(result, "P001", "v4")
    np.testing.assert_array_equal(result.draws[:, row], alone.draws[:, list(alone.ids).index("P001")])
    np.testing.assert_array_equal(result.mean[row], alone.mean[list(alone.ids).index("P001")])


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
    calls, parts = 0, len(list(result.chunks()))
    module = "secondgram.imputation.trajectory.trajectory_result.draw_visits"
    from secondgram.imputation.trajectory.joint_visits import draw_visits as plain

    def stops(*arguments: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    out = tmp_path / "draws.parquet"
    monkeypatch.setattr(module, stops)
    with pytest.raises(KeyboardInterrupt):
        together(imputer, cohort, visits="missing", at=[2.2], out=out)
    assert not out.exists()
    # The same people with the same times, and other visits of theirs.
    with pytest.raises(sg.InputError, match=r"parts of another imputation \(visits"):
        together(imputer, cohort, visits="all", at=[2.2], out=out, resume=True)
    before = calls
    together(imputer, cohort, visits="missing", at=[2.2], out=out, resume=True)
    assert calls - before == parts - 2
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
