"""Rung 3, the shape of one column: normal, or what out-of-fold residuals were distributed like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .folds import gains, simplest, standard_error, standard_errors, unit_averages
from .quantiles import SHARES, QuantileMap, quantile_crps

# Rows' worth of the distribution of all columns together; None is the normal distribution.
MARGINS: dict[str, float | None] = {"normal": None, "one shape": np.inf, "own shapes": 100.0}
COMPONENT_PRIOR = 20.0
# Standard errors by which a component must gain to have a distribution of its own.
DEVIATION = 2.0


@dataclass(eq=False)
class Margins:
    """map : from standard normals, or None for the identity;  gain : per candidate, CRPS below the normal's, and error.

    score : (P, D) CRPS of the choice on people it was not fitted on.
    """

    map: QuantileMap | None
    choice: str
    gain: dict[str, list[float]]
    score: np.ndarray


def fit_margins(
    values: np.ndarray,
    scale: np.ndarray,
    weight: np.ndarray,
    unit: np.ndarray,
    fold: np.ndarray,
    candidates: dict[str, float | None] = MARGINS,
) -> Margins:
    """The simplest of the candidates that no later one beats in CRPS by more than one standard error.

    values (P, D) standardised, NaN where unknown;  scale, broadcast to (P, D): what the CRPS is multiplied with.
    """
    score = {}
    for name, prior in candidates.items():
        score[name] = np.empty(values.shape)
        for k in range(fold.max() + 1):
            held = fold == k
            fitted = None if prior is None else QuantileMap.fit(values[~held], weight[~held], prior)
            score[name][held] = quantile_crps(_at_shares(fitted, values.shape[1]), values[held])
        score[name] *= scale
    per_unit = {name: unit_averages(np.nanmean(each, axis=1), weight, unit) for name, each in score.items()}
    chosen = simplest(per_unit)
    prior = candidates[chosen]
    fitted = None if prior is None else QuantileMap.fit(values, weight, prior)
    return Margins(fitted, chosen, gains(per_unit), score[chosen])


def fit_component_margins(c: np.ndarray, weight: np.ndarray, unit: np.ndarray, fold: np.ndarray) -> Margins:
    """The same for components c (P, D), each for itself: normal, or its own distribution where clearly better."""
    plain, own = np.empty(c.shape), np.empty(c.shape)
    normal = np.repeat(SHARES[:, None], c.shape[1], axis=1)
    for k in range(fold.max() + 1):
        held = fold == k
        plain[held] = quantile_crps(normal, c[held])
        fitted = QuantileMap.fit(c[~held], weight[~held], COMPONENT_PRIOR)
        own[held] = quantile_crps(fitted.forward(normal), c[held])
    gain = unit_averages(plain - own, weight, unit)
    better = gain.mean(axis=0) > DEVIATION * standard_errors(gain)
    total = np.where(better, gain, 0.0).mean(axis=1)
    score = np.where(better, own, plain)
    found = {"normal": [0.0, 0.0], "own": [float(total.mean()), standard_error(total)]}
    if not better.any():
        return Margins(None, "normal", found, score)
    fitted = QuantileMap.fit(c, weight, COMPONENT_PRIOR)
    fitted.end[:, ~better] = fitted.start[:, ~better]
    return Margins(fitted, f"{int(better.sum())} of {len(better)} of their own distribution", found, score)


def _at_shares(fitted: QuantileMap | None, width: int) -> np.ndarray:
    z = np.repeat(SHARES[:, None], width, axis=1)
    return z if fitted is None else fitted.forward(z)
