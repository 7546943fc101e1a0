"""The unit of a time column: as asked, as in training, from its name, from visit labels, or from its magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dates import ORDERS
from .time_names import DATES, UNITS, unit_of_name, usual_unit

# Years. No study has scanned a person again after so many, and nobody has become so old.
LONGEST_GAP, OLDEST = 60.0, 125.0
# Steps between visits that are taken for years without a word for it: few studies have longer ones.
LONG_STEP = 15.0
# Shorter steps than these would be unusual in a unit that nothing but magnitude speaks for.
SHORT_STEP = {"days": 30.0 / 365.25, "weeks": 2.0 * 7.0 / 365.25, "months": 0.25, "years": 0.0}
# What visit labels tell decides where they and the column agree within this factor in so many people.
AGREEMENT, ROUGH_AGREEMENT, AGREEING = 1.5, 2.5, 0.75
# Years between the first and last label of a person; `m1` and `m2` may be measurements.
TELLING = 1.5 / 12.0


@dataclass(frozen=True)
class Reading:
    """What is known before a time column is read.

    unit : that was asked for (see `time_names.as_time_unit`).  named : whether the person named the column.
    known : unit of the column of this name, `column`, in training.  guess : whether age may serve as the time.
    """

    unit: str | None = None
    named: bool = False
    known: str | None = None
    column: str | None = None
    guess: bool = True

    def order_of(self, name: str) -> str | None:
        """The order of dates that is asked for or known for a column of this name."""
        for unit in (self.unit, self.known if name == self.column else None):
            if unit is not None:
                return unit if unit in ORDERS else None
        return None


UNKNOWN = Reading()


class UnitProblem(Exception):
    """No unit can be decided; `problem` says why, `mend` how to decide it."""

    def __init__(self, problem: str, mend: str) -> None:
        self.problem, self.mend = problem, mend
        super().__init__(problem)


def find_unit(
    name: str, raw: np.ndarray, label_years: np.ndarray, reading: Reading, age: bool
) -> tuple[str, list[str]]:
    """The unit of a column of numbers, and notes on the reason.

    raw : (N, V) as recorded.  label_years : (N, V) years that the labels of these visits tell, NaN where they do not.
    age : whether they are ages.

    Raises `UnitProblem` where sources contradict each other, or two units are as likely.
    """
    labels = _unit_of_labels(raw, label_years)
    if reading.unit is not None and reading.unit in UNITS:
        doubt = f", though visit labels tell {labels}" if labels not in (None, reading.unit) else ""
        return reading.unit, [f"{name!r} is read in {reading.unit}, as asked{doubt}{_about(_steps(raw), reading.unit)}"]
    if reading.unit is not None:
        raise UnitProblem(f"holds numbers, and time_unit={reading.unit!r} asks for dates", _choose(UNITS))
    known = reading.known if name == reading.column else None
    by_name, usual = unit_of_name(name), usual_unit(name)
    for unit, source in ((known if known in UNITS else None, "as in training"), (by_name, "by its name")):
        if unit is None:
            continue
        if labels not in (None, unit) and not _fits_labels(raw, label_years, unit):
            raise UnitProblem(
                f"holds {unit} {source}, but {labels} by visits that are {_span(raw, label_years)}",
                _choose((unit, str(labels))),
            )
        # What a name says in full is no decision.
        plain = source != "as in training" and unit == "years"
        return unit, [] if plain else [f"{name!r} is read in {unit}, {source}{_about(_steps(raw), unit)}"]
    if labels is not None:
        return labels, [f"{name!r} is read in {labels}: visits that are {_span(raw, label_years)}"]
    steps = _steps(raw)
    if usual is not None and _plausible(age, raw, steps, usual) and (usual != "months" or _in_months(raw)):
        return usual, [f"{name!r} is read in {usual}, as is usual for this name{_about(steps, usual)}"]
    return _unit_of_size(name, raw, steps, age)


def _unit_of_size(name: str, raw: np.ndarray, steps: np.ndarray, age: bool) -> tuple[str, list[str]]:
    if not len(steps):
        return "years", []
    possible = [unit for unit in ("days", "months") if _plausible(age, raw, steps, unit)]
    step = float(np.median(steps))
    if _possible(age, raw, step, "years"):
        if step <= LONG_STEP:
            doubt = f" ({step / 12:.2g} years if these are months)" if step > LONG_STEP / 3.0 else ""
            return "years", [
                f"{name!r} is read in years: nothing says its unit{_about(steps, 'years')}{doubt}; time_unit= or "
                "--time-unit names another"
            ]
    elif len(possible) == 1:
        unit = possible[0]
        return unit, [f"{name!r} is read in {unit}: years cannot be meant{_about(steps, unit)}"]
    readings = dict.fromkeys([*possible, "months", "years"])
    listed = ", ".join(f"{step / UNITS[unit]:.3g} years if {unit}" for unit in sorted(readings, key=list(UNITS).index))
    problem = f"the unit is not known: visits of a person are {step:.4g} apart (median), {listed}"
    raise UnitProblem(problem, _choose(possible or UNITS))


def _choose(units: object) -> str:
    named = [str(unit) for unit in units]  # type: ignore[attr-defined]
    return f"Name it with time_unit={named[0]!r} or --time-unit {named[0]} ({', '.join(UNITS)})"


def _steps(raw: np.ndarray) -> np.ndarray:
    """Differences of successive times within people, whichever order their visits have, without zeros."""
    steps = np.diff(np.sort(raw, axis=1), axis=1)
    return np.asarray(steps[steps > 0])


def _possible(age: bool, raw: np.ndarray, step: float, unit: str) -> bool:
    """Whether the bulk of people and steps can be in a unit at all."""
    known = raw[np.isfinite(raw)]
    level = float(np.median(np.abs(known))) / UNITS[unit]
    calendar = unit == "years" and is_calendar(raw) and not age
    return step / UNITS[unit] <= LONGEST_GAP and (level <= OLDEST or calendar)


def _plausible(age: bool, raw: np.ndarray, steps: np.ndarray, unit: str) -> bool:
    """Whether steps are long enough and not too long for a unit that its name or the labels do not say."""
    if not len(steps):
        return _possible(age, raw, 0.0, unit)
    step = float(np.median(steps)) / UNITS[unit]
    return _possible(age, raw, step * UNITS[unit], unit) and SHORT_STEP[unit] <= step <= LONG_STEP


def _in_months(raw: np.ndarray) -> bool:
    known = raw[np.isfinite(raw)]
    return bool(is_whole(raw) or np.median(known) >= 36.0)


def is_whole(raw: np.ndarray) -> bool:
    """Whether every known value is a whole number."""
    known = raw[np.isfinite(raw)]
    return bool((known % 1.0 == 0.0).all())


def is_calendar(raw: np.ndarray) -> bool:
    """Whether all values can be years of the calendar."""
    known = raw[np.isfinite(raw)]
    return bool(len(known) and known.min() >= 1900.0 and known.max() < 2101.0)


def _spans(raw: np.ndarray, label_years: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What column and labels say passes between the first and last visit of each person who has both of two."""
    both = np.isfinite(raw) & np.isfinite(label_years)
    person = np.flatnonzero(both.sum(axis=1) > 1)
    first = both[person].argmax(axis=1)
    last = both.shape[1] - 1 - both[person, ::-1].argmax(axis=1)
    return raw[person, last] - raw[person, first], label_years[person, last] - label_years[person, first]


def _unit_of_labels(raw: np.ndarray, label_years: np.ndarray) -> str | None:
    recorded, years = _spans(raw, label_years)
    usable = (np.abs(years) >= TELLING) & (recorded != 0.0)
    if not usable.any():
        return None
    ratio = recorded[usable] / years[usable]
    if (ratio <= 0).mean() > 1.0 - AGREEING:
        return None
    for unit, per_year in UNITS.items():
        away = np.abs(np.log(np.maximum(ratio, 1e-300) / per_year))
        if np.median(away) < np.log(AGREEMENT) and (away < np.log(ROUGH_AGREEMENT)).mean() >= AGREEING:
            return unit
    return None


def _fits_labels(raw: np.ndarray, label_years: np.ndarray, unit: str) -> bool:
    """Whether some steps from visit to visit are in a unit as long as labels tell, though the first to last are not."""
    years, recorded = np.diff(label_years, axis=1), np.diff(raw, axis=1)
    usable = (years >= TELLING) & (recorded > 0)
    away = np.abs(np.log(recorded[usable] / years[usable] / UNITS[unit]))
    return bool(len(away) and (away < np.log(AGREEMENT)).mean() > 1.0 - AGREEING)


def _span(raw: np.ndarray, label_years: np.ndarray) -> str:
    recorded, years = _spans(raw, label_years)
    middle = int(np.argsort(np.abs(years), kind="stable")[len(years) // 2])
    return f"{years[middle]:.3g} years apart by their labels differ by {recorded[middle]:.5g}"


def _about(steps: np.ndarray, unit: str) -> str:
    if not len(steps):
        return ""
    return f"; visits of a person are {np.median(steps) / UNITS[unit]:.3g} years apart (median)"


def recorded_as(unit: str, dates: bool, order: str | None) -> str:
    """What a model keeps to read the column again: a unit, `dates`, or an order of dates."""
    return (order or DATES) if dates else unit
