"""Quantile maps: monotone maps between a standard normal and a measured distribution, one a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

# Knots on the scale of a standard normal. Beyond the last one a map goes on with slope 1.
KNOTS = np.linspace(-3.0, 3.0, 61)
LEVELS = ndtr(KNOTS)
# Midpoints of 99 equal shares, at which a distribution is judged.
SHARES = ndtri((np.arange(99) + 0.5) / 99)


@dataclass(eq=False)
class QuantileMap:
    """z -> x per column, piecewise linear through (start, end), both (K, D) and increasing."""

    start: np.ndarray
    end: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, weight: np.ndarray, prior: float = 0.0) -> QuantileMap:
        """The map that gives a standard normal the distribution of each column.

        values (P, D), NaN where unknown; weight (P,). prior : rows' worth of the distribution of all columns together,
        towards which a column's own quantiles are drawn; infinity takes that alone.
        """
        seen = np.isfinite(values)
        shares = np.broadcast_to(weight[:, None], values.shape)
        together = _quantiles(values[seen], shares[seen])
        end = np.repeat(together[:, None], values.shape[1], axis=1)
        if np.isfinite(prior):
            for column in range(values.shape[1]):
                rows = seen[:, column]
                if rows.any():
                    count = weight[rows].sum() ** 2 / (weight[rows] ** 2).sum()
                    own = _quantiles(values[rows, column], weight[rows])
                    end[:, column] += count / (count + prior) * (own - end[:, column])
        return cls(_rising(np.repeat(KNOTS[:, None], values.shape[1], axis=1)), _rising(end))

    @classmethod
    def identity(cls, columns: int) -> QuantileMap:
        """The map that changes nothing, of so many columns."""
        knots = _rising(np.repeat(KNOTS[:, None], columns, axis=1))
        return cls(knots, knots.copy())

    def from_draws(self, draws: np.ndarray) -> QuantileMap:
        """The same ends for a start that is distributed as draws (rows, D) instead of as a standard normal."""
        return QuantileMap(_rising(np.quantile(draws, LEVELS, axis=0)), self.end)

    def forward(self, z: np.ndarray) -> np.ndarray:
        """(..., D) -> (..., D), same dtype."""
        return _through(z, self.start, self.end)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """(..., D) -> (..., D); NaN stays NaN."""
        return _through(x, self.end, self.start)

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> QuantileMap:
        return cls(**state)


def _quantiles(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K,) weighted quantiles at `LEVELS`."""
    order = np.argsort(values, kind="stable")
    share = weight[order]
    level = (np.cumsum(share) - 0.5 * share) / share.sum()
    return np.interp(LEVELS, level, values[order])


def _rising(points: np.ndarray) -> np.ndarray:
    # Ties (a small sample's ends, say) would have no inverse.
    return points + 1e-6 * KNOTS[:, None]


def _through(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    for column in range(start.shape[1]):
        x, y, here = start[:, column], end[:, column], values[..., column]
        inside = np.interp(here, x, y)
        out[..., column] = inside + np.minimum(here - x[0], 0.0) + np.maximum(here - x[-1], 0.0)
    return out


def quantile_crps(end: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """CRPS (P, D) of truth (P, D) under columns' distributions given by quantiles (99, D) at the middles of shares.

    end : increasing, so that distances add up to what the quantiles below and above a value do.
    """
    count, columns = len(end), np.ascontiguousarray(truth.T, dtype=float)
    before = np.concatenate([np.zeros((1, end.shape[1])), np.cumsum(end, axis=0)])
    total = np.empty(columns.shape)
    for column, values in enumerate(columns):
        below = np.searchsorted(end[:, column], values)
        sums = before[:, column]
        total[column] = (2.0 * below - count) * values + (sums[-1] - 2.0 * sums[below])
    rank = (2.0 * np.arange(1, count + 1) - count - 1.0) / count**2
    return np.asarray(total.T / count - rank @ end)
