"""Robust checks of the values of a column: codes for missing, slips of a decimal point, two units in one column.

A value is judged by its distance from the middle of the others, in robust standard deviations of theirs, beside the
distance of the nearest of them: "far off, with nothing between". Of positive values the logarithm is looked at too, so
that a skewed feature has no far values for being skewed. Thresholds are those of docs/cohorts.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .cells import LARGEST, no_measurement
from .scaling import quantiles

# Fewest values of a column that tell what is usual.
FEWEST = 20
# Features that are screened together, and rows that tell their quantiles.
_TOGETHER, _ROWS = 32, 4096
# Distinct values at an end that may be far off.
_MOST = 8
# Written into empty cells by programs: largest and smallest whole numbers of 32 bits and 16, largest float, netCDF's.
_FILLS = (
    2.0**31,
    2.0**31 - 1,
    -(2.0**31),
    -(2.0**31) + 1,
    3.4028234663852886e38,
    -3.4028234663852886e38,
    9.969209968e36,
)
# Answers that are none, in questionnaires.
_NEAR = {-1.0, -3.0, -4.0, -7.0, -8.0, -9.0, -10.0, -99.0, -121.0, -313.0, -818.0}
# No slip of a decimal point is so large.
_IMPOSSIBLE = 1e5


@dataclass(frozen=True)
class Suspect:
    """Values of one column that are alike. kind, problem and mend as in `Finding`; cells : their positions, first one
    first; code : what `missing=` would be told, None for no code."""

    kind: str
    value: float
    cells: np.ndarray
    problem: str
    mend: str
    refused: bool
    code: str | None = None


def is_fill(value: float) -> bool:
    """Whether programs write this number into empty cells, whatever the column measures."""
    return any(np.isclose(value, fill, rtol=1e-6, atol=0) for fill in _FILLS)


def is_code(value: float) -> bool:
    """Whether a number is a usual code for missing: 0, -1 to -10, two or more nines, eights or sevens (99, -9.99)."""
    digits = f"{abs(value):.10g}".replace(".", "")
    if value == 0 or (value < 0 and value == int(value) and value >= -10):
        return True
    return len(digits) > 1 and len(set(digits)) == 1 and digits[0] in "789"


def check_column(values: np.ndarray, person: np.ndarray, label: str) -> list[Suspect]:
    """Suspects among values (n,), NaN where missing. person : (n,) whose each is, so that a person counts once.

    label : of the column, for the mend.
    """
    known = np.flatnonzero(~np.isnan(values))
    x, who = values[known].astype(float), person[known]
    found = []
    beyond = np.abs(x) > LARGEST
    if beyond.any():
        found.append(_system(x[beyond][0], known[beyond]))
        known, x, who = known[~beyond], x[~beyond], who[~beyond]
    if len(x) < FEWEST:
        return [*found, *_alone_in_few(x, known)]
    column = _Column(x, who, label)
    return found + [_placed(suspect, known) for suspect in column.suspects()]


def suspicious(visits: np.ndarray) -> np.ndarray:
    """(D,) bool: features of visits (N, V, D) worth looking at closely. Cheap, and leaves out none with a suspect."""
    people, slots, width = visits.shape
    found = np.zeros(width, dtype=bool)
    step = max(1, -(-people // _ROWS))
    for start in range(0, width, _TOGETHER):
        block = np.ascontiguousarray(visits[:, :, start : start + _TOGETHER]).reshape(people * slots, -1)
        few = visits[::step, :, start : start + _TOGETHER].reshape(-1, block.shape[1])
        low, high = np.fmin.reduce(block, axis=0), np.fmax.reduce(block, axis=0)
        at_ends = ((block == low).sum(axis=0), (block == high).sum(axis=0))
        first, middle, third = quantiles(few, 0.25, 0.5, 0.75)
        spread = (third - first) / 1.349
        with np.errstate(invalid="ignore", divide="ignore"):
            far = np.maximum(middle - low, high - middle) > 4.0 * spread
            repeated = np.maximum(*at_ends) > 1
            wide = (low > 0) & (high / low > 5.0)
        found[start : start + block.shape[1]] = far | repeated | wide | ~(spread > 0)
        found[start : start + block.shape[1]] |= _spiked(few)
    return found


def _spiked(values: np.ndarray) -> np.ndarray:
    """(D,) bool: columns of values (n, D) in which a code stands several times."""
    found = np.zeros(values.shape[1], dtype=bool)
    for code in (-1.0, -3.0, -4.0, -9.0, 99.0, -99.0, 777.0, 888.0, 999.0, -999.0, 9999.0):
        found |= (values == code).sum(axis=0) >= 3
    return found


def _counted(value: float, rest: np.ndarray) -> bool:
    """Whether a value may be one more of a few whole numbers, each of which stands there several times, as of a count:
    no further from them than they are from each other."""
    distinct, count = np.unique(rest, return_counts=True)
    if (distinct % 1 != 0).any() or value % 1 != 0 or np.median(count) < 2:
        return False
    return min(abs(value - distinct[0]), abs(value - distinct[-1])) < distinct[-1] - distinct[0]


class _Column:
    """Values x (n,) of people who (n,), and what is left of them while far ones are taken out."""

    def __init__(self, x: np.ndarray, who: np.ndarray, label: str) -> None:
        self.x, self.who, self.label = x, who, label
        self.left = np.ones(len(x), dtype=bool)

    def suspects(self) -> list[Suspect]:
        found = [*self._units(), *self._below_positive()]
        # Values far off hide nearer ones, and those of one end widen the spread by which the other is judged.
        for _ in range(_MOST):
            more = [*self._far(-1.0), *self._far(1.0)]
            if not more:
                break
            found += more
        return [*found, *self._within(), *self._negative()]

    def _far(self, side: float) -> list[Suspect]:
        """Suspects at one end, -1 the low and 1 the high one, which are taken out."""
        distinct, count = np.unique(side * self.x[self.left], return_counts=True)
        most = min(_MOST, len(distinct) - 2)
        if most < 1:
            return []
        middle = _middle(distinct, count)
        away = distinct[::-1][: most + 1] - middle  # the farthest first
        away = away[away > 0]
        if len(away) < 2:
            return []
        cut = int(np.argmax(away[:-1] / away[1:])) + 1
        group = distinct[::-1][:cut]
        rest = side * self.x[self.left & ~np.isin(side * self.x, group)]
        if len(rest) < FEWEST // 2:
            return []
        scale = _Scale.of(rest, side)
        # Something lies between: the next whole number, say.
        if (group[-1] - scale.edge) / scale.spread < 1.2:
            return []
        found = []
        for value in group:
            where = np.flatnonzero(self.left & (side * self.x == value))
            suspect = self._judged(side * value, where, scale, rest * side)
            if suspect is not None:
                found.append(suspect)
                self.left[where] = False
        return found

    def _judged(self, value: float, where: np.ndarray, scale: _Scale, rest: np.ndarray) -> Suspect | None:
        people = len(np.unique(self.who[where]))
        far, edge = scale.far(value)
        usual = f"the others are {short(rest.min())} to {short(rest.max())}"
        positive = rest.min() > 0
        sure = (far >= 20 and is_fill(value)) or (
            np.count_nonzero(rest) >= 10 and abs(value) >= _IMPOSSIBLE * np.abs(rest).max()
        )
        if sure:
            return self._code("system", value, where, f"{short(value)} is no measurement: {usual}")
        log = scale.far_log(value)
        if is_code(value) and (log is None or (log[0] >= 4 and log[0] - log[1] >= 1.5)):
            if people > 1 and far >= 4.5 and far - edge >= 2:
                return self._repeated(value, where, people, usual)
            if value != 0 and far >= 6 and far - edge >= 3:
                return self._code("code", value, where, f"{short(value)} is a usual code for missing, and {usual}")
        clear = log is None or (log[0] >= 5 and log[0] - log[1] >= 2)
        if value in (7, 8, 9) and people > 2 and far >= 4.5 and far - edge >= 3:
            return self._repeated(value, where, people, usual)
        apart = far >= 8 and far - edge >= 4 and (people > 2 or far >= 12)
        if people > 1 and clear and apart and not _counted(value, rest):
            return self._repeated(value, where, people, usual)
        if self._slipped(value, scale, log, positive, rest):
            problem = f"{short(value)} stands far off alone: {usual}"
            return Suspect("far", value, where, problem, "Correct the cell, or empty it: a missing one is drawn", False)
        return None

    def _slipped(
        self, value: float, scale: _Scale, log: tuple[float, float] | None, positive: bool, rest: np.ndarray
    ) -> bool:
        """Whether a value that is no code stands far off alone."""
        far, edge = scale.far(value)
        if positive and value <= 0 and not scale.heavy:
            # Where most of the others are far from zero, nothing lies below it.
            return far >= 4.5 and far >= 1.6 * edge and scale.usual
        if far >= 20 and far >= 5 * edge and scale.usual:
            return log is None or (log[0] >= 6.5 and log[0] >= 1.8 * log[1])
        if positive and value < rest.min() and log is not None and not scale.heavy:
            # A tenth of a usual value is not far below it but on the scale of ratios.
            shifted = [0.8 * rest.min() <= value * 10.0**power <= 1.25 * rest.max() for power in (1, 2, 3)]
            return far >= 4.0 and far - edge >= 1.2 and log[0] >= 8 and log[0] >= 2.2 * log[1] and any(shifted)
        return False

    def _repeated(self, value: float, where: np.ndarray, people: int, usual: str) -> Suspect:
        return self._code("code", value, where, f"{short(value)} stands there for {people} people, and {usual}")

    def _code(self, kind: str, value: float, where: np.ndarray, problem: str) -> Suspect:
        code = _code_of(self.label, value)
        return Suspect(kind, value, where, problem, _code_mend(self.label, value), True, code)

    def _within(self) -> Iterator[Suspect]:
        """Codes among usual values: they stand there far more often than any other value."""
        x = self.x[self.left]
        distinct, count = np.unique(x, return_counts=True)
        if len(distinct) < 0.3 * len(x):
            return
        order = np.argsort(count)
        value, often, next_often = float(distinct[order[-1]]), int(count[order[-1]]), int(count[order[-2]])
        if not is_code(value) or value == 0 or often < 3 * next_often or often < 0.002 * len(x):
            return
        where = np.flatnonzero(self.left & (self.x == value))
        people = len(np.unique(self.who[where]))
        if people >= 3:
            problem = f"{short(value)} stands there {often} times, and no other value more than {next_often} times"
            self.left[where] = False
            yield self._code("code", value, where, problem)

    def _below_positive(self) -> Iterator[Suspect]:
        """Codes of several people at or below 0 where all else is positive and hardly twice the same."""
        positive = self.x[self.left & (self.x > 0)]
        below = np.unique(self.x[self.left & (self.x <= 0)])
        if len(positive) < FEWEST // 2 or len(below) > _MOST or len(np.unique(positive)) < 0.3 * len(positive):
            return
        if not all(is_code(value) or value in _NEAR for value in below):
            return
        # A share of zeros is usual where positive values go down to it.
        apart = positive.min() >= 0.3 * np.median(positive)
        for value in below.tolist():
            where = np.flatnonzero(self.left & (self.x == value))
            people = len(np.unique(self.who[where]))
            if people > 1 and (value < 0 or (apart and len(where) <= 0.2 * len(self.x))):
                usual = f"the others are {short(positive.min())} to {short(positive.max())}"
                yield self._repeated(value, where, people, usual)
                self.left[where] = False

    def _negative(self) -> Iterator[Suspect]:
        """Negative codes beside whole numbers from 0 on, such as answers in a questionnaire: near, and likely."""
        x = self.x[self.left]
        below = np.unique(x[x < 0])
        # -2 beside -1 may be a count of steps to either side.
        if not len(below) or -2.0 in below or (x != np.floor(x)).any() or x.max() < 2 or not set(below) <= _NEAR:
            return
        if (x < 0).mean() > 0.5:
            return
        for value in below.tolist():
            where = np.flatnonzero(self.left & (self.x == value))
            people = len(np.unique(self.who[where]))
            usual = (
                "the other values are whole numbers from 0 on" if x[x >= 0].min() == 0 else "no other value is below 0"
            )
            problem = f"{short(value)} stands there for {people} people, and {usual}: no answer?"
            yield Suspect(
                "code", value, where, problem, _code_mend(self.label, value), False, _code_of(self.label, value)
            )

    def _units(self) -> Iterator[Suspect]:
        """Two groups of positive values with nothing between, of which one is about a power of ten of the other."""
        if (self.x <= 0).mean() > 0.5:
            return
        log = np.log10(self.x[self.x > 0])
        order = np.sort(log)
        gaps = np.diff(order)
        if len(order) < FEWEST or gaps.max() < 0.4:
            return
        place = int(np.argmax(gaps))
        low, high = order[: place + 1], order[place + 1 :]
        if min(len(low), len(high)) < max(3, 0.01 * len(order)):
            return
        ratio = float(np.median(high) - np.median(low))
        power = round(ratio)
        spreads = [max(float(np.subtract(*np.quantile(part, (0.75, 0.25)))), 1e-3) for part in (low, high)]
        if power < 1 or abs(ratio - power) > 0.15 or max(spreads) > 0.35 or max(spreads) > 4 * min(spreads):
            return
        # The rarer group is the one that a person may want to change.
        few = low if len(low) <= len(high) else high
        inside = (np.log10(np.where(self.x > 0, self.x, np.nan)) >= few.min() - 1e-9) & (
            np.log10(np.where(self.x > 0, self.x, np.nan)) <= few.max() + 1e-9
        )
        where = np.flatnonzero(inside)
        people = len(np.unique(self.who[where]))
        if people < 3:
            return
        words = (
            f"about {'a thousandth' if power == 3 else f'1/{10**power}'}" if few is low else f"about {10**power} times"
        )
        problem = (
            f"{len(where)} values of {people} people are {words} of the others, with nothing between: another unit?"
        )
        self.left[where] = False
        yield Suspect("units", float(self.x[where[0]]), where, problem, "Bring the column to one unit", power in (3, 6))


@dataclass(frozen=True)
class _Scale:
    """Of values that are taken for usual: middle, robust spread and edge at one side (1 high, -1 low, mirrored there).

    usual : whether they are many different ones, most of which are not one value.  heavy : whether some are farther off
    than those of a normal distribution.
    """

    side: float
    middle: float
    spread: float
    edge: float
    usual: bool
    heavy: bool
    log: tuple[float, float, float] | None

    @classmethod
    def of(cls, rest: np.ndarray, side: float) -> _Scale:
        """rest : values times `side`."""
        middle, spread = _robust(rest)
        values = side * rest
        positive = values[values > 0]
        log = None
        if len(positive) >= FEWEST // 2 and values.min() >= 0:
            logs = np.log(positive)
            log = (*_robust(logs), float(logs.max() if side > 0 else logs.min()))
        most = np.unique(rest, return_counts=True)[1]
        usual = len(most) >= FEWEST // 2 and most.max() < 0.5 * len(rest)
        widest = max(rest.max() - middle, middle - rest.min()) / spread
        heavy = bool(widest > max(4.0, 0.6 + np.sqrt(2.0 * np.log(len(rest)))))
        return cls(side, middle, spread, float(rest.max()), usual, heavy, log)

    def far(self, value: float) -> tuple[float, float]:
        """Distances of a value and of the edge from the middle, in spreads."""
        return (self.side * value - self.middle) / self.spread, (self.edge - self.middle) / self.spread

    def far_log(self, value: float) -> tuple[float, float] | None:
        """The same of logarithms, None where the value or the others are not positive."""
        if self.log is None or value <= 0:
            return None
        middle, spread, edge = self.log
        return abs(np.log(value) - middle) / spread, abs(edge - middle) / spread


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Middle and spread, which a quarter of the values at either end does not change; of discrete ones, a step."""
    low, first, middle, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    spread = (third - first) / 1.349
    distinct = np.unique(values)
    if len(distinct) < min(50, 0.2 * len(values)):
        spread = max(spread, float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0)
    if spread <= 1e-12 * max(abs(middle), 1e-300):
        spread = (high - low) / 3.29 or (float(values.std()) or max(abs(middle), 1e-300) * 0.05)
    return float(middle), float(spread)


def _middle(distinct: np.ndarray, count: np.ndarray) -> float:
    """The median, of the other values where one stands for a tenth of all or more (a code may stand for most)."""
    most = int(np.argmax(count))
    if 0.1 * count.sum() <= count[most] and len(distinct) > FEWEST:
        distinct, count = np.delete(distinct, most), np.delete(count, most)
    return float(distinct[np.searchsorted(np.cumsum(count), count.sum() / 2)])


def _system(value: float, where: np.ndarray) -> Suspect:
    problem, mend = no_measurement(float(value))
    return Suspect("system", float(value), where, problem, mend, True)


def _alone_in_few(x: np.ndarray, known: np.ndarray) -> Iterator[Suspect]:
    """Of few values only what no others can explain."""
    for place in np.flatnonzero([is_fill(value) for value in x]):
        value = float(x[place])
        if len(x) > 1 and abs(value) >= 1e4 * np.abs(np.delete(x, place)).max():
            problem = f"{short(value)} is no measurement"
            yield Suspect("system", value, known[[place]], problem, _mend(short(value)), True, short(value))


def _placed(suspect: Suspect, known: np.ndarray) -> Suspect:
    fields = {name: getattr(suspect, name) for name in suspect.__dataclass_fields__}
    return Suspect(**fields | {"cells": known[suspect.cells]})


def short(value: float) -> str:
    """A number as a person would write it, exact where it has few digits."""
    text = f"{value:.10g}"
    return text if len(text) < 11 and abs(value) < 1e10 else f"{value:.6g}"


def _code_of(label: str, value: float) -> str:
    text = f"{value:.17g}" if float(f"{value:.10g}") != value else f"{value:.10g}"
    # Zero is a usual value elsewhere.
    return f"{label}={text}" if 0 <= value < 1000 else text


def _code_mend(label: str, value: float) -> str:
    return _mend(_code_of(label, value))


def _mend(code: str) -> str:
    return f"Where it stands for missing: --missing {code} (missing=[{code!r}])"
