"""Who leaves a study, and the weights of visits that were measured because people stayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secondgram as sg
from secondgram.imputation.trajectory.attendance import MOST, Attendance, _at_risk
from secondgram.imputation.trajectory.hidden import Hidden
from secondgram.imputation.trajectory.trajectory_model import TrajectoryModel


def study(people: int, effect: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (N, 4, 2) of a random walk, who was seen, and what is known of people; those below leave."""
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.standard_normal((people, 4, 2)), axis=1)
    seen = np.ones((people, 4), dtype=bool)
    for visit in range(1, 4):
        stays = rng.random(people) < 1 / (1 + np.exp(-1.0 - effect * values[:, visit - 1].sum(axis=1)))
        seen[:, visit] = seen[:, visit - 1] & stays
    return values, seen, np.ones((people, 1))


def of(seen: np.ndarray, values: np.ndarray, rows: list[tuple[int, int, str]]) -> Hidden:
    """Hidden visits: person, visit, and an x for each that is shown."""
    known = np.array([[letter == "x" for letter in row[2]] for row in rows])
    return Hidden(
        np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), known, np.ones(len(rows), bool)
    )


def test_who_was_at_risk_of_leaving() -> None:
    seen = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
    found = {(int(i), int(m)): int(last) for i, m, last in zip(*_at_risk(seen), strict=True)}
    assert found == {(0, 1): 0, (0, 2): 1, (1, 1): 0, (1, 2): 0, (1, 3): 2, (2, 2): 1, (2, 3): 1}


def test_staying_is_told_from_what_was_last_seen() -> None:
    values, seen, person = study(3000, 1.0)
    model = Attendance.fit(np.where(seen[:, :, None], values, np.nan), person)
    assert model is not None
    cells = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 0.5]])
    expected = 1 / (1 + np.exp(-1.0 - cells.sum(axis=1)))
    np.testing.assert_allclose(np.exp(model.log_stay(cells, np.ones((3, 1)), np.full(3, 2))), expected, atol=0.05)


def test_others_than_the_rows_teach_nothing() -> None:
    values, seen, person = study(2000, 1.0)
    known = np.where(seen[:, :, None], values, np.nan)
    rows = np.arange(2000) % 5 != 0
    some, alone = Attendance.fit(known, person, rows), Attendance.fit(known[rows], person[rows])
    assert some is not None
    assert alone is not None
    np.testing.assert_allclose(some.slope, alone.slope, rtol=1e-9)
    known[~rows] += 100.0
    moved = Attendance.fit(known, person, rows)
    assert moved is not None
    np.testing.assert_array_equal(moved.slope, some.slope)


def test_nothing_is_told_where_leaving_depends_on_nothing_or_few_leave() -> None:
    for seed in range(5):
        values, seen, person = study(400, 0.0, seed)
        assert Attendance.fit(np.where(seen[:, :, None], values, np.nan), person) is None
    values, seen, person = study(30, 1.0)
    assert Attendance.fit(np.where(seen[:, :, None], values, np.nan), person) is None
    assert Attendance.fit(values, person) is None


def test_weights_are_ratios_of_staying_and_one_where_all_is_shown() -> None:
    values, seen, person = study(3000, 1.0)
    values = np.where(seen[:, :, None], values, np.nan)
    model = Attendance.fit(values, person)
    assert model is not None
    stayed = np.flatnonzero(seen.all(axis=1))[:2]
    one, other = int(stayed[0]), int(stayed[1])
    rows = [
        (one, 1, "x..."),
        (one, 3, "xxx."),
        (one, 2, "x..."),
        (other, 3, "x..."),
        (other, 1, "x.xx"),
        (other, 0, "...x"),
    ]
    found = model.weights(of(seen, values, rows), np.arange(6), values, person)
    np.testing.assert_array_equal(found[[0, 1, 4, 5]], 1.0)

    def log(who: int, visit: int, last: int) -> float:
        return float(model.log_stay(values[[who], last], person[[who]], np.array([visit]))[0])

    assert np.log(found[2]) == pytest.approx(log(one, 2, 0) - log(one, 2, 1))
    far = log(other, 2, 0) - log(other, 2, 1) + log(other, 3, 0) - log(other, 3, 2)
    assert np.log(found[3]) == pytest.approx(np.clip(far, -np.log(MOST), np.log(MOST)))
    np.testing.assert_array_equal(found[[3]], model.weights(of(seen, values, rows), np.array([3]), values, person))


def test_weighted_stayers_stand_for_everybody() -> None:
    values, seen, person = study(20_000, 0.7, 3)
    known = np.where(seen[:, :, None], values, np.nan)
    model = Attendance.fit(known, person)
    assert model is not None
    stayed = np.flatnonzero(seen[:, 3])
    rows = Hidden(
        stayed,
        np.full(len(stayed), 3),
        np.tile([True, False, False, False], (len(stayed), 1)),
        np.ones(len(stayed), bool),
    )
    weight = model.weights(rows, np.arange(len(stayed)), known, person)
    change = values[:, 3] - values[:, 0]
    # Among people alike at the first visit.
    near = np.abs(values[:, 0].sum(axis=1)) < 0.5
    there = near[stayed]
    plain = change[stayed][there].mean()
    weighted = np.average(change[stayed][there].mean(axis=1), weights=weight[there])
    assert plain > 0.25
    assert abs(weighted - change[near].mean()) < 0.35 * abs(plain - change[near].mean())


def test_the_model_learns_by_these_weights_from_other_people(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sg.simulate(250, 3, 0.9, 1, "trajectories", dropout=3.0, slope=0.12)
    taught: list[set[int]] = []
    asked: list[Any] = []

    class Noting:
        def weights(self, hidden: Hidden, rows: np.ndarray, values: np.ndarray, person: np.ndarray) -> np.ndarray:
            asked.append((hidden.person[rows], len(values), len(person)))
            return np.full(len(rows), 3.0)

    def fit(values: np.ndarray, person: np.ndarray, rows: np.ndarray | None = None) -> Noting:
        taught.append(set(np.flatnonzero(np.ones(len(values), bool) if rows is None else rows)))
        assert len(values) == len(person)
        return Noting()

    kept: list[Any] = []
    whole = TrajectoryModel.fit.__globals__["DefaultModel"].fit

    def noting(pairs: Any, *more: Any, **named: Any) -> Any:
        kept.append(pairs.row_weight)
        return whole(pairs, *more, **named)

    monkeypatch.setattr("secondgram.imputation.trajectory.trajectory_model.Attendance.fit", fit)
    monkeypatch.setattr("secondgram.imputation.trajectory.trajectory_model.DefaultModel.fit", noting)
    sg.SecondgramImputer(shape="off", history="all").fit(made, show=False)
    assert len(taught) == len(asked) == 5
    assert all(count == people == 250 for _, count, people in asked)
    assert sum(map(len, taught)) == 4 * 250
    # Nobody's own fold teaches who leaves.
    for people_of, (person, _, _) in zip(taught, asked, strict=True):
        assert not people_of & set(person)
    hidden = Hidden.of(made)
    count = np.bincount(hidden.person[hidden.measured], minlength=250)[hidden.person]
    np.testing.assert_allclose(kept[0], 3.0 / np.maximum(count, 1))
