"""Intervals beyond the longest gap that was learned from.

People differ in their slopes, so that the variance of a change grows with the square of the gap; the rest of it, errors
of measurement above all, does not. Which share of the variance at the longest gap grows is told by the sizes of errors
at shorter ones, of all features together, and drawn towards a half where gaps hardly differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...cohort.scaling import robust_spread
from ..folds import unit_sums

# What is taken of the share before anything is known of it: mean and standard deviation.
USUAL, DEVIATION = 0.5, 0.3
# Robust standard deviations that an error counts as at most.
FARTHEST = 4.0
# Gaps that are longer by less than this share are not told of.
LONGER = 0.02


@dataclass(frozen=True)
class Growth:
    """longest : years, of the gaps that were learned from.   share : of the variance there, that grows with their
    square."""

    longest: float
    share: float

    @classmethod
    def fit(cls, gap: np.ndarray, left: np.ndarray, weight: np.ndarray, unit: np.ndarray) -> Growth | None:
        """Of pairs with gaps (P,) in years and errors out of fold left (P, D), NaN where unknown; weight, unit (P,).

        None where no gap is known.
        """
        known = np.isfinite(gap) & np.isfinite(left).any(axis=1)
        if not known.any():
            return None
        gap, left, weight, unit = gap[known], left[known], weight[known], unit[known]
        longest = float(gap.max())
        spread = robust_spread(np.abs(left))
        spread = np.where(np.isfinite(spread) & (spread > 0), spread, np.inf)
        square = np.nanmean(np.minimum(np.abs(left / spread), FARTHEST) ** 2, axis=1)
        share = weight / weight.sum()
        away = (gap / longest) ** 2
        at = share @ away
        away = away - at
        moment = share @ away**2
        if moment < 1e-6:
            return cls(longest, USUAL)
        slope = float(share @ (away * square)) / moment
        level = float(share @ square)
        # Of all at the longest gap, and the standard error of that, people of a unit going together.
        whole = max(level + slope * (1.0 - at), 0.1 * level, 1e-12)
        rest = unit_sums(share * away * (square - level - slope * away), unit)
        error = max(float(np.sqrt((rest**2).sum())) / moment / whole, 1e-9)
        precision = np.array([1.0 / error**2, 1.0 / DEVIATION**2])
        return cls(longest, float(np.clip(precision @ [slope / whole, USUAL] / precision.sum(), 0.0, 1.0)))

    def factor(self, gap: np.ndarray) -> np.ndarray:
        """(N,) of a spread at gaps (N,) in years: 1 up to the longest, and where a gap is unknown."""
        times = np.where(np.isfinite(gap), np.maximum(gap / self.longest, 1.0), 1.0)
        return np.asarray(np.sqrt(1.0 + self.share * (times**2 - 1.0)))

    def notes(self, gap: np.ndarray) -> list[str]:
        """What is to be told of people with these gaps (N,), one sentence each."""
        beyond = np.isfinite(gap) & (gap > (1.0 + LONGER) * self.longest)
        if not beyond.any():
            return []
        wider = self.factor(np.array([gap[beyond].max()]))[0]
        return [
            f"{int(beyond.sum())} people are imputed up to {gap[beyond].max():.1f} years after the baseline, and the "
            f"longest gap that the model learned from is {self.longest:.1f}: beyond it changes are taken to go on as "
            f"before, and intervals are up to {wider:.2f} times as wide"
        ]

    def state(self) -> dict[str, Any]:
        return {"longest": self.longest, "share": self.share}
