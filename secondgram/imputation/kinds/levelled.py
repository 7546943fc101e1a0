"""Features whose values, or some of them, have a chance of their own: levels, counts, zeros, ceilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from ...sampling.quantile_map import quantile_crps
from .cumulative import Cumulative, fit_cumulative
from .recognise import COUNT, ZERO_INFLATED, Kind

# Midpoints of equal shares, over which a mean is taken and by which a feature is judged.
MIDPOINTS = ndtri((np.arange(199) + 0.5) / 199)
JUDGED_AT = ndtri((np.arange(99) + 0.5) / 99)
# Where a known value has a chance of its own, its normal score is cut at this.
FARTHEST = 6.0


@dataclass(frozen=True)
class Score:
    """A feature's values on the scale that it is learned on: themselves, or like logarithms above `scale`."""

    scale: float | None

    def to_model(self, x: np.ndarray) -> np.ndarray:
        """Original units -> scores, float64; NaN stays NaN."""
        x = np.asarray(x, dtype=float)
        if self.scale is None:
            return x
        # A value below zero was never seen in training; minus infinity stands before all values.
        return np.asarray(np.where(np.isneginf(x), x, self.scale * np.log1p(np.maximum(x, 0.0) / self.scale)))

    def to_original(self, y: np.ndarray) -> np.ndarray:
        """Scores -> original units; infinite ones stay so."""
        return y if self.scale is None else np.asarray(self.scale * np.expm1(y / self.scale))


def score_of(kind: Kind, values: np.ndarray) -> Score:
    """For a kind, by training people's values (n,)."""
    if kind.name not in (COUNT, ZERO_INFLATED) or np.isfinite(kind.high):
        return Score(None)
    above = values[values > 0]
    return Score(float(np.quantile(above, 0.25)) if len(above) else 1.0)


def nearest_level(levels: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """The level next to each value (...)."""
    ends = np.array(levels)
    return np.asarray(ends[np.searchsorted((ends[1:] + ends[:-1]) / 2.0, x, side="right")])


@dataclass(eq=False)
class Levelled:
    """The distribution of one such feature, given its predicted score and its own baseline."""

    kind: Kind
    score: Score
    model: Cumulative

    def predicted(self, mean: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale (N,) of the latent normal; mean (N,) score, baseline (N,) original, NaN where missing."""
        return self.model.predicted(_predictors(self.kind, mean, baseline))

    def values(self, z: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Standard normals z (..., N) -> values of the support."""
        kind = self.kind
        x = self.score.to_original(self.model.scores(z, location, scale))
        if kind.levels is not None:
            return nearest_level(kind.levels, x)
        if kind.whole:
            x = np.rint(x)
        return np.asarray(np.clip(x, kind.low, kind.high))

    def known(self, value: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Values (N,) -> standard normals, in the middle of those that give the value; NaN stays NaN."""
        below, upto = self.chances(value, location, scale)
        return np.asarray(np.clip(ndtri((below + upto) / 2.0), -FARTHEST, FARTHEST))

    def chances(self, value: np.ndarray, location: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of less than a value (N,), and of that or less."""
        low, high = self._ends(np.asarray(value, dtype=float))
        return self.model.normals(self.score.to_model(low), self.score.to_model(high), location, scale)

    def _ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where values that are written as this one begin and end, in original units."""
        kind = self.kind
        if kind.levels is not None:
            levels = np.array(kind.levels)
            middle = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2.0, [np.inf]])
            place = np.searchsorted(middle[1:-1], value, side="right")
            low, high = middle[place], middle[place + 1]
        elif kind.whole:
            low, high = value - 0.5, value + 0.5
            low, high = np.where(value <= kind.low, -np.inf, low), np.where(value >= kind.high, np.inf, high)
        else:
            low = high = value
        unknown = np.isnan(value)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def mean(self, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Expectation (N,) in original units."""
        total = np.zeros(len(location))
        for z in MIDPOINTS:
            total += self.values(np.full(len(location), z), location, scale)
        return total / len(MIDPOINTS)

    def crps(self, value: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """(N,) of values (N,), in original units, NaN where unknown."""
        ends = self.values(JUDGED_AT[:, None], location, scale)  # [99, people]
        return quantile_crps(ends, value[None])[0]

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind.state(), "score": self.score.scale, "model": self.model.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Levelled:
        return cls(Kind.from_state(state["kind"]), Score(state["score"]), Cumulative.from_state(state["model"]))


def _predictors(kind: Kind, mean: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(N, 3) : the mean, and whether the own baseline is at the lowest and at the highest value, NaN where missing."""
    unknown = np.isnan(baseline)
    ends = [np.where(unknown, np.nan, baseline == end) for end in (kind.low, kind.high)]
    return np.stack([mean, *ends], axis=1)


def fit_levelled(
    kind: Kind,
    score: Score,
    value: np.ndarray,
    mean: np.ndarray,
    baseline: np.ndarray,
    weight: np.ndarray,
    usual: np.ndarray,
) -> Levelled:
    """From pairs: value (P,) of the follow-up, NaN where unknown, its predicted score (P,), and the own baseline (P,).

    weight (P,);  usual (m,) : values of everybody at any visit.
    """
    seen = np.isfinite(value) & np.isfinite(mean)
    steps = kind.whole or kind.levels is not None
    model = fit_cumulative(
        score.to_model(value[seen]),
        _predictors(kind, mean[seen], baseline[seen]),
        weight[seen],
        score.to_model(usual),
        kind.atoms,
        steps,
    )
    return Levelled(kind, score, model)
