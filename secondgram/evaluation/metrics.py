"""How good an imputation is, with bootstrap intervals over people.

Everything is computed in units of the baseline's spread (within site where sites are declared), so that features of
different units can be averaged. A cell without truth counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..imputation.scores import crps

METRICS: dict[str, str] = {
    "pearson_mean": "Pearson r of the posterior mean with the truth, mean over features",
    "pearson_draw": "Pearson r of a single draw with the truth, mean over features",
    "delta_r": "Pearson r of predicted with true change from baseline, mean over features",
    "rmse": "root mean squared error of the posterior mean, in baseline SD",
    "crps": "continuous ranked probability score of the draws, in baseline SD (one draw: mean absolute error)",
    "coverage_90": "share of true values inside the draws' central 90 % interval",
}
HIGHER_IS_BETTER = ("pearson_mean", "pearson_draw", "delta_r")


@dataclass(eq=False)
class Cells:
    """Scores cell by cell, (N, D) each, NaN where the truth is unknown.

    truth, baseline, mean, draw : scaled values; `draw` is the first draw.
    crps : in scaled units.  covered : 1 or 0, NaN throughout for a method with a single draw.
    unit : (N,) text; people of one unit are resampled together.
    draws : M, how many draws were scored.
    """

    truth: np.ndarray
    baseline: np.ndarray
    mean: np.ndarray
    draw: np.ndarray
    crps: np.ndarray
    covered: np.ndarray
    unit: np.ndarray
    draws: int

    @classmethod
    def of(
        cls, truth: np.ndarray, baseline: np.ndarray, mean: np.ndarray, draws: np.ndarray, unit: np.ndarray
    ) -> Cells:
        """truth, baseline, mean (N, D), draws (M, N, D), all scaled; raises `InputError` for draws that hold NaN."""
        if np.isnan(draws).any() or np.isnan(mean).any():
            raise InputError("the imputed values hold NaN", mend="Evaluate a complete imputation")
        covered = np.full(truth.shape, np.nan)
        if len(draws) > 1:
            low, high = central_interval(draws)
            covered = np.where(np.isnan(truth), np.nan, (truth >= low) & (truth <= high))
        return cls(truth, baseline, mean, draws[0], crps(draws, truth), covered, unit, len(draws))

    @classmethod
    def joined(cls, parts: list[Cells]) -> Cells:
        """The cells of several sets of people, one after the other."""
        names = ("truth", "baseline", "mean", "draw", "crps", "covered", "unit")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, draws=parts[0].draws)


def interval_rank(draws: int) -> int:
    """k such that the k-th smallest and k-th largest of M draws hold about 90 %: 5 of 99, 1 of 20."""
    return max(1, round(0.05 * (draws + 1)))


def nominal_coverage(draws: int) -> float:
    """Chance that a further draw falls inside that interval, (M + 1 - 2k) / (M + 1): 0.9 of 99, 0.905 of 20."""
    return (draws + 1 - 2 * interval_rank(draws)) / (draws + 1)


def central_interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central 90 % interval of draws (M, ...) by their order statistics."""
    k = interval_rank(len(draws))
    ordered = np.sort(draws, axis=0)
    return ordered[k - 1], ordered[-k]


def weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson r per feature for each row of weights: x, y (N, D), weights (B, N) -> (B, D); NaN where undefined."""
    seen = np.isfinite(x) & np.isfinite(y)
    count = weights @ seen
    with np.errstate(invalid="ignore", divide="ignore"):
        # Centred first: the sums below lose precision on values far from zero.
        a, b = (np.where(seen, v - np.where(seen, v, 0.0).sum(axis=0) / seen.sum(axis=0), 0.0) for v in (x, y))
        mean_a, mean_b = weights @ a / count, weights @ b / count
        cov = weights @ (a * b) / count - mean_a * mean_b
        square_a, square_b = weights @ (a * a) / count, weights @ (b * b) / count
        var_a, var_b = square_a - mean_a**2, square_b - mean_b**2
        flat = (np.abs(a).max(axis=0) < 1e-12) | (np.abs(b).max(axis=0) < 1e-12)
        # What is left of equal values (a resample of one person, say) is rounding.
        flat = flat | (var_a <= 1e-12 * square_a) | (var_b <= 1e-12 * square_b)
        return np.where(flat, np.nan, cov / np.sqrt(np.where(flat, 1.0, var_a * var_b)))


def _cell_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over people, per feature: values (N, D), weights (B, N) -> (B, D)."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.where(seen, values, 0.0) / (weights @ seen)


def _over_features(values: np.ndarray) -> np.ndarray:
    """Mean over the features for which a value is defined: (B, D) -> (B,), NaN where none is."""
    seen = np.isfinite(values)
    return np.where(seen, values, 0.0).sum(axis=1) / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)


def per_feature(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric per feature for each row of people's weights: weights (B, N) -> (B, D) each."""
    change = cells.truth - cells.baseline
    return {
        "pearson_mean": weighted_correlation(cells.mean, cells.truth, weights),
        "pearson_draw": weighted_correlation(cells.draw, cells.truth, weights),
        "delta_r": weighted_correlation(cells.mean - cells.baseline, change, weights),
        "rmse": np.sqrt(_cell_mean((cells.mean - cells.truth) ** 2, weights)),
        "crps": _cell_mean(cells.crps, weights),
        "coverage_90": _cell_mean(cells.covered, weights),
    }


def scores(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric over all features: weights (B, N) -> (B,) each. RMSE averages squares before the root."""
    by_feature = per_feature(cells, weights)
    found = {name: _over_features(values) for name, values in by_feature.items()}
    found["rmse"] = np.sqrt(_over_features(by_feature["rmse"] ** 2))
    return found


def resamples(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Bootstrap weights (1 + count, N): row 0 is the sample itself, the others draw whole units with replacement."""
    names, member = np.unique(unit.astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return np.concatenate([np.ones((1, len(unit))), drawn[:, member].astype(float)])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(estimate, low, high) from bootstrap values (1 + B,): 95 % percentile interval around row 0."""
    if not np.isfinite(values[0]):
        return (float("nan"),) * 3
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)
