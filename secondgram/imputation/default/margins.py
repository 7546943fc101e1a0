"""Rung 3, the shape of one column: normal, or what out-of-fold residuals were distributed like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from ...ops.thread_pool import in_parallel
from ...sampling.quantile_map import SHARES, QuantileMap, quantile_crps
from ..folds import gains, simplest, standard_error, standard_errors, unit_averages
from .correlation import ResidualComponents

# Rows' worth of the distribution of all columns together; None is the normal distribution.
MARGINS: dict[str, float | None] = {"normal": None, "one shape": np.inf, "own shapes": 100.0}
COMPONENT_PRIOR = 20.0
# The chance that any component has a shape of its own where none does, and how many people it takes to look at one.
FALSE_SHAPE, PEOPLE_A_SHAPE = 0.05, 10


@dataclass(eq=False)
class Margins:
    """map : from standard normals, or None for the identity;  gain : by candidate, CRPS below normal, and error."""

    map: QuantileMap | None
    choice: str
    gain: dict[str, list[float]]


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
    score = {name: np.empty(values.shape) for name in candidates}

    def judge(k: int) -> None:
        held = fold == k
        for name, prior in candidates.items():
            fitted = _fitted(prior, values[~held], weight[~held])
            score[name][held] = quantile_crps(at_shares(fitted, values.shape[1]), values[held])

    in_parallel(judge, range(fold.max() + 1))
    score = {name: each * scale for name, each in score.items()}
    known = np.isfinite(values).any(axis=1)
    per_unit = {
        name: unit_averages(np.nanmean(each[known], axis=1), weight[known], unit[known]) for name, each in score.items()
    }
    chosen = simplest(per_unit)
    return Margins(_fitted(candidates[chosen], values, weight), chosen, gains(per_unit))


def margins_as(choice: str, values: np.ndarray, weight: np.ndarray) -> Margins:
    """Margins of a kind that was chosen elsewhere, fitted to values (P, D)."""
    return Margins(_fitted(MARGINS[choice], values, weight), choice, {})


def _fitted(prior: float | None, values: np.ndarray, weight: np.ndarray) -> QuantileMap | None:
    return None if prior is None else QuantileMap.fit(values, weight, prior)


def fit_component_margins(z: np.ndarray, weight: np.ndarray, unit: np.ndarray, fold: np.ndarray) -> Margins:
    """For the components of z (P, D), each for itself: normal, or its own shape where clearly better.

    z : standardised residuals without NaN. Directions and shapes are learned apart from the people who judge them, and
    a shape has unit variance: in directions that its own people made a component varies less than in any other's, so
    that what it would add is narrowness. Only as many leading components are tried as a tenth of the people.
    """
    width = z.shape[1]
    tried = min(width, len(np.unique(unit)) // PEOPLE_A_SHAPE)
    none = Margins(None, "normal", {"normal": [0.0, 0.0], "own": [0.0, 0.0]})
    if not tried:
        return none
    gain = np.zeros((len(z), tried))
    normal = np.repeat(SHARES[:, None], tried, axis=1)

    def judge(k: int) -> None:
        held = fold == k
        components = ResidualComponents.fit(z[~held], weight[~held])
        c = components.components(z)[:, :tried]
        fitted = QuantileMap.fit(_unit_variance(c[~held], weight[~held]), weight[~held], COMPONENT_PRIOR)
        gain[held] = quantile_crps(normal, c[held]) - quantile_crps(fitted.forward(normal), c[held])

    in_parallel(judge, range(fold.max() + 1))
    per_unit = unit_averages(gain, weight, unit)
    # Any of so many may look better by chance (Bonferroni).
    better = per_unit.mean(axis=0) > ndtri(1.0 - FALSE_SHAPE / tried) * standard_errors(per_unit)
    total = np.where(better, per_unit, 0.0).sum(axis=1) / width
    found = {"normal": [0.0, 0.0], "own": [float(total.mean()), standard_error(total)]}
    if not better.any():
        return replace(none, gain=found)
    c = ResidualComponents.fit(z, weight).components(z)
    fitted = QuantileMap.fit(_unit_variance(c, weight), weight, COMPONENT_PRIOR)
    kept = np.zeros(width, dtype=bool)
    kept[:tried] = better
    fitted.end[:, ~kept] = fitted.start[:, ~kept]
    return Margins(fitted, f"{int(better.sum())} of {width} of their own distribution", found)


def _unit_variance(c: np.ndarray, weight: np.ndarray) -> np.ndarray:
    share = (weight / weight.sum())[:, None]
    middle = (share * c).sum(axis=0)
    return (c - middle) / np.sqrt(np.maximum((share * (c - middle) ** 2).sum(axis=0), 1e-12))


def at_shares(fitted: QuantileMap | None, width: int) -> np.ndarray:
    """(99, D) quantiles of standardised errors, None being normal."""
    z = np.repeat(SHARES[:, None], width, axis=1)
    return z if fitted is None else fitted.forward(z)
