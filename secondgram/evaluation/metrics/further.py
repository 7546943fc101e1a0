"""Scores beyond the six of every table: ranks, explained variance, change, calibration, tails, whole visits."""

from __future__ import annotations

import numpy as np

from .bootstrap import cell_mean, over_features, weighted_correlation, weighted_moments, weighted_rank_correlation
from .cells import LARGE_LOSS, Cells
from .joint import COMPONENTS, SLICES, VARIOGRAM_FEATURES

FURTHER: dict[str, str] = {
    "spearman_mean": "Spearman rank correlation (1904) of the posterior mean with the truth, mean over features",
    "spearman_draw": "the same of a single draw",
    "r2_mean": "share of the truth's variance explained by the posterior mean, 1 - SSE / SST, mean over features",
    "r2_draw": "the same of a single draw",
    "mae_mean": "mean absolute error of the posterior mean, in baseline SD",
    "mae_draw": "the same of a single draw",
    "delta_r_draw": "Pearson r of a single draw's change from baseline with the true change, mean over features",
    "delta_spearman": "Spearman rank correlation of predicted with true change, mean over features",
    "delta_r2": "share of the true change's variance explained by the predicted change, mean over features",
    "change_slope": "slope of true on predicted change, all features together (Cox 1958); 1 is right",
    "annual_bias": "mean of predicted less true change per year between the visits, in baseline SD a year; 0 is right",
    "spread_ratio": "root of the draws' mean variance over the root mean squared error of their average, corrected for "
    "their number (Fortin et al. 2014); 1 is right, below 1 the draws vary too little",
    "coverage_50": "share of true values inside the draws' central 50 % interval",
    "coverage_80": "share of true values inside the draws' central 80 % interval",
    "coverage_95": "share of true values inside the draws' central 95 % interval; needs 39 draws",
    "tail_brier": f"Brier score (1950; fair: Ferro 2014) of the chance of a fall by {LARGE_LOSS} baseline SD",
    "energy": "energy score of a whole visit (Gneiting and Raftery 2007), in baseline SD per root of a feature",
    "variogram": "variogram score of order 1/2 (Scheuerer and Hamill 2015), mean over pairs of at most "
    f"{VARIOGRAM_FEATURES} features drawn once, in baseline SD",
    "crps_sliced": f"CRPS along {SLICES} random directions of unit length, the same ones for all, in baseline SD",
    "crps_components": f"CRPS along the leading {COMPONENTS} components of the residual, each in its own SD, mean",
}
# Scores of a person's whole visit, and their names in `Cells.joint`.
JOINT = {"energy": "energy", "variogram": "variogram", "crps_sliced": "sliced", "crps_components": "components"}
# Which way is better: "lower", "higher", or the value that would be right.
BETTER: dict[str, str | float] = {
    **dict.fromkeys(("pearson_mean", "pearson_draw", "delta_r", "spearman_mean", "spearman_draw"), "higher"),
    **dict.fromkeys(("r2_mean", "r2_draw", "delta_r_draw", "delta_spearman", "delta_r2"), "higher"),
    **dict.fromkeys(("rmse", "crps", "mae_mean", "mae_draw", "tail_brier"), "lower"),
    **dict.fromkeys(("energy", "variogram", "crps_sliced", "crps_components"), "lower"),
    **{"change_slope": 1.0, "annual_bias": 0.0, "spread_ratio": 1.0},
    **{f"coverage_{level}": level / 100 for level in (50, 80, 90, 95)},
}


def further_per_feature(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that every feature has for each row of people's weights: weights (B, N) -> (B, D) each."""
    true, predicted, drawn = cells.truth, cells.mean, cells.draw
    change, expected = true - cells.baseline, predicted - cells.baseline
    cov, var, _, defined = weighted_moments(expected, change, weights)
    spread, miss = cell_mean(cells.spread, weights), cell_mean(cells.miss, weights)
    return {
        "spearman_mean": weighted_rank_correlation(predicted, true, weights),
        "spearman_draw": weighted_rank_correlation(drawn, true, weights),
        "r2_mean": explained(predicted, true, weights),
        "r2_draw": explained(drawn, true, weights),
        "mae_mean": cell_mean(np.abs(predicted - true), weights),
        "mae_draw": cell_mean(np.abs(drawn - true), weights),
        "delta_r_draw": weighted_correlation(drawn - cells.baseline, change, weights),
        "delta_spearman": weighted_rank_correlation(expected, change, weights),
        "delta_r2": explained(expected, change, weights),
        "change_slope": np.where(defined, cov, np.nan) / np.where(defined, var, 1.0),
        "annual_bias": cell_mean(_yearly(predicted - true, cells.gap), weights),
        "spread_ratio": _spread_ratio(spread, miss, cells.draws),
        **{f"coverage_{level}": cell_mean(cells.covered_at(level), weights) for level in (50, 80, 95)},
        "tail_brier": cell_mean(cells.tail, weights),
    }


def further_scores(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every one of `FURTHER` for each row of people's weights: weights (B, N) -> (B,) each, NaN where undefined.

    Means over features, but for the slope and the ratio of spreads, which are ratios of means.
    """
    by_feature = further_per_feature(cells, weights)
    found = {name: over_features(values) for name, values in by_feature.items()}
    cov, var, _, defined = weighted_moments(cells.mean - cells.baseline, cells.truth - cells.baseline, weights)
    total = np.where(defined, var, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(defined, cov, 0.0).sum(axis=1) / total
    found["change_slope"] = np.where(defined.any(axis=1), slope, np.nan)
    spread, miss = (over_features(cell_mean(each, weights)) for each in (cells.spread, cells.miss))
    found["spread_ratio"] = _spread_ratio(spread, miss, cells.draws)
    nothing = np.full((len(cells.truth), 1), np.nan)
    for name, kept in JOINT.items():
        values = cells.joint.get(kept, nothing)
        found[name] = over_features(cell_mean(values.reshape(len(values), -1), weights))
    return found


def explained(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R2 = 1 - SSE / SST per feature, SST about the weighted mean: (N, D) twice, weights (B, N) -> (B, D).

    NaN where the truth does not vary. It may be below zero, for a prediction worse than the mean of the people scored.
    """
    true = np.where(np.isfinite(predicted), true, np.nan)
    _, _, var, defined = weighted_moments(true, true, weights)
    return 1.0 - cell_mean((predicted - true) ** 2, weights) / np.where(defined, var, np.nan)


def _yearly(error: np.ndarray, gap: np.ndarray | None) -> np.ndarray:
    if gap is None:
        return np.full(error.shape, np.nan)
    return error / np.where(gap > 0, gap, np.nan)[:, None]


def _spread_ratio(spread: np.ndarray, miss: np.ndarray, draws: int) -> np.ndarray:
    # Of M draws from the truth's own distribution the average misses by (M + 1) / M of the variance.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt((draws + 1) / draws * spread / miss)
    return np.where(miss > 0, ratio, np.nan)
