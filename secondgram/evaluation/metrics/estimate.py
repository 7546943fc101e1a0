"""A number and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval over people or groups; NaN where one is not known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Estimate:
        """From three numbers as JSON has them, None where one is not known."""
        value, low, high = (math.nan if number is None else float(number) for number in values)
        return cls(value, low, high)

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)
