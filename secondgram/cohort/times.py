"""Times of visits: which column tells them, in which unit, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError
from .cells import Sheet
from .layouts import Field
from .roles import Roles, holds_age
from .time_names import UNITS
from .time_units import LONGEST_GAP, OLDEST, Reading, UnitProblem, find_unit, is_calendar, is_whole, recorded_as
from .time_values import TimeValues, read_times

# People with two times who are looked at to tell that a column is none of their visits.
_ENOUGH = 5
# Age is the time where it changes in such a share of people with two visits; whole years often do not.
_CHANGING = 0.25
_ANOTHER = "Correct the cell, or name the unit of the column with time_unit= or --time-unit"


@dataclass
class TimeColumn:
    """The field that holds the times, and its cells.

    age : whether they are ages.  guessed : nobody said that these are the time.
    """

    part: Field
    values: TimeValues
    age: bool
    guessed: bool = False


@dataclass
class VisitTimes:
    """times : (N, V) years.  recorded : how the column says them, for a later reading.

    dates : whether they are counted on the calendar.  coarse : whether two visits may share a whole year or month.
    late : (N, V) dates that lie in the future.
    """

    times: np.ndarray
    recorded: str
    dates: bool
    coarse: bool
    late: np.ndarray
    notes: list[str] = field(default_factory=list)


def choose_time(
    sheet: Sheet, roles: Roles, person: np.ndarray, reading: Reading
) -> tuple[TimeColumn | None, list[str]]:
    """The time column with its cells, or None, and notes. person : (R,) of each row.

    Without a time, it is an age that changes within people.

    Raises `InputError` for cells that are no times, and where the named column is the same at all visits of people.
    """
    notes: list[str] = []
    if roles.time is not None:
        values = read_times(sheet, roles.time, reading.order_of(roles.time.name))
        if _changing(values, roles, person, _ENOUGH) != 0.0:
            return TimeColumn(roles.time, values, holds_age(roles.time, roles.fields.layout)), notes
        if reading.named:
            name = next(iter(roles.time.columns.values()))
            mend = "Name the time of each visit, or none: years between visits may be told by the labels of visits"
            raise sheet.error("is the same at every visit of each person, so it is no time of visits", mend, name)
        notes.append(f"{roles.time.name!r} is the same at every visit of each person: it is not taken as the time")
    if not reading.guess:
        return None, notes
    for part in roles.static:
        if holds_age(part, roles.fields.layout):
            try:
                values = read_times(sheet, part)
            except InputError:
                continue
            if (_changing(values, roles, person, 1) or 0.0) >= _CHANGING:
                return TimeColumn(part, replace(values, notes=[]), age=True, guessed=True), notes
    return None, notes


def _changing(values: TimeValues, roles: Roles, person: np.ndarray, enough: int) -> float | None:
    """The share of people with two known times whose times differ; None where fewer than `enough` have two."""
    if roles.fields.layout == "long":
        known = np.isfinite(next(iter(values.of.values())))
        who, cells = person[known], next(iter(values.of.values()))[known]
    else:
        table = np.stack(list(values.of.values()), axis=1)
        row, column = np.nonzero(np.isfinite(table))
        who, cells = person[row], table[row, column]
    if not len(who):
        return None
    order = np.lexsort((cells, who))
    start = np.flatnonzero(np.r_[True, np.diff(who[order]) != 0])
    end = np.r_[start[1:], len(who)] - 1
    several = end > start
    if several.sum() < enough:
        return None
    return float((cells[order][end] > cells[order][start])[several].mean())


@dataclass
class VisitCells:
    """Where the time of a person's visit stands.

    ids : (N,).  person : (R,) of each row.  labels : V visits in order.  parts : (slot, column) of the time.
    """

    sheet: Sheet
    ids: np.ndarray
    person: np.ndarray
    labels: Sequence[str]
    parts: Sequence[tuple[np.ndarray | int, str]]

    def error(self, who: int, slot: int, problem: str, mend: str) -> InputError:
        """About the time of one visit, of which the text stands for `...` in `problem`."""
        for at, column in self.parts:
            rows = np.flatnonzero((self.person == who) & (np.asarray(at) == slot))
            if len(rows):
                text = self.sheet.texts(column)[rows[0]]
                return self.sheet.error(problem.replace("...", repr(text), 1), mend, column, rows[:1].tolist())
        return self.sheet.error(problem, mend, rows=np.flatnonzero(self.person == who)[:1].tolist())


def fill_times(cells: VisitCells, column: TimeColumn, label_years: np.ndarray, reading: Reading) -> VisitTimes:
    """Years at every visit.

    label_years : (N, V) years that the labels of visits tell, NaN where they do not.

    Raises `InputError` where the unit cannot be decided, and at a time or gap that cannot be.
    """
    part, values = column.part, column.values
    raw, late, notes = np.full(label_years.shape, np.nan), np.zeros(label_years.shape, dtype=bool), list(values.notes)
    if not cells.parts and None in part.columns and len(cells.labels) == 2:
        cells = replace(cells, parts=[(1, part.columns[None])])
    parts = cells.parts
    for slot, name in parts:
        raw[cells.person, slot] = values.of[name]
        if name in values.late:
            late[cells.person, slot] = values.late[name]
    later = parts and all(np.ndim(slot) == 0 and slot != 0 for slot, _ in parts)
    if later and not values.dates and not column.age:
        # A time that only later visits have is counted from the first visit.
        raw[:, 0] = 0.0
        notes.append(f"{parts[0][1]!r} is counted from visit {cells.labels[0]}")
    if values.unit is None:
        try:
            unit, reasons = find_unit(part.name, raw, label_years, reading, column.age)
        except UnitProblem as problem:
            name = parts[0][1] if parts else part.name
            raise cells.sheet.error(problem.problem, problem.mend, name) from problem
        notes += reasons
    else:
        unit = values.unit
        if reading.unit in UNITS and reading.unit != unit:
            notes.append(f"{part.name!r} tells its unit itself: time_unit={reading.unit!r} is not used")
    # On the calendar, years are counted from the first visit: far from it they would lose digits.
    times = raw - first_known(raw) if values.dates else raw
    times = times / UNITS[unit] if unit != "years" else times
    _check_possible(cells, times, unit, values, column.age)
    whole = is_whole(raw) and unit in ("years", "months") and (column.age or is_calendar(raw))
    if whole and unit == "years" and len(cells.labels) > 1:
        notes.append(f"{part.name!r} holds whole years: years between visits are right to a year")
    if column.guessed:
        notes.append(
            f"years between visits are those of {part.name!r}, the only time; at the first visit it is a covariate"
        )
    recorded = recorded_as(unit, values.dates, values.order)
    return VisitTimes(times, recorded, values.dates, values.coarse or whole, late, notes)


def first_known(times: np.ndarray) -> np.ndarray:
    """(N, 1) each person's first known time in visit order."""
    first = np.isfinite(times).argmax(axis=1)
    return np.asarray(times[np.arange(len(times)), first][:, None])


def _check_possible(cells: VisitCells, times: np.ndarray, unit: str, values: TimeValues, age: bool) -> None:
    gap = times - first_known(times)
    far = np.argwhere(np.abs(gap) > LONGEST_GAP)
    said = "" if values.unit is not None else f" in {unit}"
    mend = "Correct the cell or leave it empty" if values.dates else _ANOTHER
    if len(far):
        who, slot = far[0]
        first = cells.labels[int(np.isfinite(times[who]).argmax())]
        problem = f"...{said} is {gap[who, slot]:.5g} years after visit {first} of subject {cells.ids[who]}"
        raise cells.error(who, slot, problem, mend)
    wrong = np.argwhere((times > OLDEST) | (times < 0.0))
    if age and not values.dates and len(wrong):
        who, slot = wrong[0]
        raise cells.error(who, slot, f"...{said} is {times[who, slot]:.5g} years, which is nobody's age", mend)


def check_rising(cells: VisitCells, times: np.ndarray, coarse: bool) -> None:
    """Raise `InputError` where an age that is taken for the time does not rise from visit to visit.

    times : (N, V).  coarse : whether it may stay the same.
    """
    latest = np.fmax.accumulate(times, axis=1)
    falling = np.argwhere(times[:, 1:] < latest[:, :-1] if coarse else times[:, 1:] <= latest[:, :-1])
    if len(falling):
        who, slot = falling[0]
        problem = f"of subject {cells.ids[who]} it does not rise to visit {cells.labels[slot + 1]}"
        raise cells.error(who, slot + 1, problem, "Correct the cell, or name the time column with time=...")


def without_ties(times: np.ndarray) -> tuple[np.ndarray, int]:
    """Whole times (N, V) in visit order without those that an earlier visit has too, and how many people have such."""
    latest = np.fmax.accumulate(times, axis=1)
    tied = np.zeros(times.shape, dtype=bool)
    tied[:, 1:] = times[:, 1:] == latest[:, :-1]
    return np.where(tied, np.nan, times), int(tied.any(axis=1).sum())
