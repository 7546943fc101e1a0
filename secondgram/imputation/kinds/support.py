"""Monotone maps between a feature's original units, of bounded support, and a scale without bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# The map of a scale so many times as long as the support, a logarithm or a logit.
LOGARITHM, LONG = "logarithm", 100.0


@dataclass(frozen=True)
class SoftBounds:
    """x in (low, high) to y without bounds, the identity far from the ends and a logarithm near them.

        y = low + s log((exp((x - low) / s) - 1) / (1 - exp((x - high) / s)))

    low, high : ends of the support in original units, high infinite for none.
    scale : s, how far from an end it is felt, in original units; 0 for the identity, which ends at `floor`.
    floor : (least, largest) value that is mapped; what lies at an end or beyond it counts as that.
    """

    low: float
    high: float
    scale: float
    floor: tuple[float, float]

    def to_model(self, x: np.ndarray) -> np.ndarray:
        """Original units -> unbounded, float64; NaN stays NaN."""
        if not self.scale:
            return np.asarray(x, dtype=float)
        a = (np.clip(np.asarray(x, dtype=float), *self.floor) - self.low) / self.scale
        y = a + _log_of_rest(a)
        if np.isfinite(self.high):
            y = y - _log_of_rest((self.high - self.low) / self.scale - a)
        return np.asarray(self.low + self.scale * y)

    def to_original(self, y: np.ndarray) -> np.ndarray:
        """Unbounded -> original units within the support, float64; NaN stays NaN."""
        if not self.scale:
            return np.asarray(np.clip(np.asarray(y, dtype=float), *self.floor))
        y = (np.asarray(y, dtype=float) - self.low) / self.scale
        a = np.logaddexp(0.0, y)
        if np.isfinite(self.high):
            a = a - np.logaddexp(0.0, y - (self.high - self.low) / self.scale)
        return np.asarray(np.clip(self.low + self.scale * a, self.low, self.high))

    def state(self) -> dict[str, Any]:
        # An infinite number is none of JSON.
        high = None if np.isinf(self.high) else self.high
        return {"low": self.low, "high": high, "scale": self.scale, "floor": list(self.floor)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SoftBounds:
        high = np.inf if state["high"] is None else state["high"]
        return cls(state["low"], high, state["scale"], tuple(state["floor"]))


def _log_of_rest(a: np.ndarray) -> np.ndarray:
    """log(1 - exp(-a)) of a > 0."""
    return np.asarray(np.log(-np.expm1(-a)))


def soft_bounds(values: np.ndarray, low: float, high: float) -> dict[str, SoftBounds]:
    """Maps by name, from the one nearest to the identity to a logarithm (a logit where both ends are bounds).

    values (n,) : finite, within the support, of training people.
    """
    inside = values[(values > low) & (values < high)]
    if not len(inside):
        inside = np.array([low + 1.0 if np.isinf(high) else (low + high) / 2.0])
    from_low = inside - low
    to_end = np.minimum(from_low, high - inside)
    least = float(to_end.min()) / 2.0
    floor = (low + least, float(np.finfo(float).max) if np.isinf(high) else high - least)
    length = float(from_low.max()) if np.isinf(high) else high - low
    near, middle = (float(np.quantile(to_end, share)) for share in (0.02, 0.5))
    # A scale far below the values would make a cliff of the end.
    near = max(near, 0.02 * middle)
    scales = {"soft": near, "between": middle, LOGARITHM: LONG * length}
    return {name: SoftBounds(low, high, scale, floor) for name, scale in scales.items()}
