"""Levels of a category: so many for so few people that nothing can be learned of them are a fault."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import some
from .cells import Sheet
from .layouts import Field

# So many levels need a reason, however many people there are.
MANY = 10


def check_levels(sheet: Sheet, part: Field, values: Sequence[object]) -> None:
    """values : (N,) each person's level, None where unknown.

    Raises `InputError` where a level has fewer than two people on the average, or, of text that begins with digits,
    fewer than ten: `040Y` is a number that was not understood.
    """
    known = [str(value) for value in values if value is not None and value == value]
    levels = sorted(set(known))
    digits = 2 * sum(level[:1].isdigit() for level in levels) > len(levels)
    if len(levels) <= MANY or len(levels) * (10 if digits else 2) < len(known):
        return
    column = next(iter(part.columns.values()))
    raise sheet.error(
        f"is text with {len(levels)} different values among {len(known)} people ({some(levels, 3)}): "
        "nothing can be learned of so many categories",
        "Write it as numbers, group the values, or leave the column out with exclude=[...] (--exclude)",
        column,
    )
