"""The kind of a feature, from the values that training people have of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...cohort.table import Cohort

CONTINUOUS, POSITIVE, BOUNDED = "continuous", "positive", "bounded"
COUNT, ORDINAL, BINARY, ZERO_INFLATED = "count", "ordinal", "binary", "zero-inflated"
KINDS = (CONTINUOUS, POSITIVE, BOUNDED, COUNT, ORDINAL, BINARY, ZERO_INFLATED)

# Fewest values that tell a kind, and people that shares are counted among.
FEWEST, LOOKED_AT = 20, 20_000
# Spreads between the median and an end of the support, within which draws may come near it.
NEAR = 4.0
# Share of values, and how many of them at least, that make one value more than chance.
ATOM, FEWEST_ATOM = 0.02, 4
# Share of values at the highest level that make a ceiling of it.
CEILING = 0.05
# Distinct whole numbers up to which each is a level of its own; of other numbers; and the fewest people a level.
LEVELS, FRACTIONS, A_LEVEL = 60, 12, 4
# Units that the values of a count spread over, from which rounding is all that its draws need.
COARSE = 5.0
# Ends that shares and percentages have, and the share of values close below that shows one.
ENDS, AT_END = (1.0, 100.0), 0.01


@dataclass(frozen=True)
class Kind:
    """What values a feature can have.

    name : one of `KINDS`.  low, high : ends of the support, infinite for none.  whole : whole numbers only.
    levels : of a binary or ordinal feature, its values, or None for every whole number within the support.
    atoms : (at low, at high), whether many people have that very value.
    share : of zeros, or at the ceiling, for the note.
    declared : by the user.
    """

    name: str = CONTINUOUS
    low: float = -np.inf
    high: float = np.inf
    whole: bool = False
    levels: tuple[float, ...] | None = None
    atoms: tuple[bool, bool] = (False, False)
    share: float = 0.0
    declared: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing is to be done for it."""
        return self.name == CONTINUOUS and not self.whole

    @property
    def by_levels(self) -> bool:
        """Whether some of its values have a chance of their own."""
        return self.name in (COUNT, ORDINAL, BINARY, ZERO_INFLATED) or any(self.atoms)

    def state(self) -> dict[str, Any]:
        ends = {name: None if np.isinf(value) else value for name, value in (("low", self.low), ("high", self.high))}
        return asdict(self) | ends

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Kind:
        low, high = state["low"], state["high"]
        levels = state["levels"]
        return cls(
            **state
            | {"low": -np.inf if low is None else low, "high": np.inf if high is None else high}
            | {"levels": None if levels is None else tuple(levels), "atoms": tuple(state["atoms"])}
        )


def recognised(cohort: Cohort, declared: dict[int, Kind]) -> list[Kind]:
    """The kind of each feature, those at the positions of `declared` as declared, by all visits of all people."""
    values = cohort.visits.reshape(-1, len(cohort.features))
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    step = -(-len(values) // LOOKED_AT)
    some = np.asarray(values[::step], dtype=float)
    kinds = []
    for place in range(values.shape[1]):
        column = some[:, place]
        column = column[np.isfinite(column)]
        # Those that are looked at need not be all that there are.
        whole = bool((column == np.rint(column)).all())
        if whole and step > 1:
            seen = values[:, place]
            seen = seen[np.isfinite(seen)]
            whole = bool((seen == np.rint(seen)).all())
        found = kind_of(column, float(low[place]), float(high[place]), whole)
        kinds.append(_as_declared(declared[place], found, column, whole) if place in declared else found)
    return kinds


def kind_of(column: np.ndarray, low: float, high: float, whole: bool) -> Kind:
    """The kind of a feature with these values (n,), all that there are within low .. high.

    whole : all of them are whole numbers.
    """
    if len(column) < FEWEST or not np.isfinite(low) or not high > low:
        return Kind()
    # Beyond that, every float is a whole number.
    whole = whole and max(abs(low), abs(high)) < 2.0**53
    levels, counts = np.unique(column, return_counts=True)
    if len(levels) == 2:
        return Kind(BINARY, low, high, whole, tuple(map(float, levels)), share=float((column == high).mean()))
    at_high = float((column == high).mean())
    middle, below, above = _spread(column)
    if whole and len(levels) <= min(LEVELS, len(column) / A_LEVEL):
        if len(levels) <= 5 or (at_high >= CEILING and _many(column, high)):
            return Kind(ORDINAL, low, high, True, None, share=at_high)
        if low >= 0 and (middle < NEAR * below or min(below, above) < COARSE):
            return Kind(COUNT, 0.0, np.inf, True, share=float((column == 0).mean()))
        if low < 0 and min(below, above) < COARSE:
            return Kind(ORDINAL, low, high, True, None, share=at_high)
    elif not whole and len(levels) <= FRACTIONS and counts.min() > 1 and len(column) >= A_LEVEL * len(levels):
        return Kind(ORDINAL, low, high, False, tuple(map(float, levels)), share=at_high)
    return _of_many_values(column, low, high, whole)


def _of_many_values(column: np.ndarray, low: float, high: float, whole: bool) -> Kind:
    """`kind_of` where most values are different ones."""
    if low < 0:
        return Kind(whole=whole)
    middle, below, above = _spread(column)
    at_low, at_high = low == 0 and _many(column, 0.0), _many(column, high)
    end = high if at_high else _end(column, high, middle, above)
    if at_low and not at_high:
        return Kind(ZERO_INFLATED, 0.0, end, whole, atoms=(True, False), share=float((column == 0).mean()))
    if np.isfinite(end):
        return Kind(BOUNDED, 0.0, end, whole, atoms=(at_low, at_high), share=float((column == high).mean()))
    if middle < NEAR * below or low == 0:
        return Kind(POSITIVE, 0.0, np.inf, whole)
    return Kind(whole=whole)


def _spread(column: np.ndarray) -> tuple[float, float, float]:
    """The median, and standard deviations by the distances of the 5 % and the 95 % quantile from it."""
    low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
    return float(middle), float(middle - low) / 1.645, float(high - middle) / 1.645


def _many(column: np.ndarray, value: float) -> bool:
    count = int((column == value).sum())
    return count >= max(FEWEST_ATOM, ATOM * len(column))


def _end(column: np.ndarray, high: float, middle: float, above: float) -> float:
    """The bound of shares or percentages that these values come close to, infinite for none."""
    for end in ENDS:
        if 0.5 * end < high <= end and end - middle < NEAR * above and (column > end - 0.5 * above).mean() >= AT_END:
            return end
    return np.inf


def _as_declared(declared: Kind, found: Kind, column: np.ndarray, whole: bool) -> Kind:
    """What was declared, with what the values tell besides."""
    low, high = (float(column.min()), float(column.max())) if len(column) else (0.0, 1.0)
    given = replace(declared, declared=True, whole=(whole and declared.name != CONTINUOUS) or declared.whole)
    if declared.name == CONTINUOUS:
        return replace(given, whole=False)
    if declared.name in (POSITIVE, COUNT, ZERO_INFLATED):
        given = replace(given, low=0.0)
    if declared.name == POSITIVE and whole and found.name == COUNT:
        given = replace(given, atoms=(_many(column, 0.0), False))
    if declared.name == ZERO_INFLATED:
        given = replace(given, atoms=(True, False), share=float((column == 0).mean()))
    if declared.name == BOUNDED:
        if np.isinf(declared.high):
            ends = [end for end in ENDS if high <= end] if low >= 0 else []
            given = replace(given, low=min(low, 0.0), high=ends[0] if ends else high)
        given = replace(given, atoms=(_many(column, given.low), _many(column, given.high)))
    if declared.name in (ORDINAL, BINARY):
        levels = np.unique(column)
        few = not whole or len(levels) == 2
        given = replace(given, low=low, high=high, levels=tuple(map(float, levels)) if few else None)
    return given
