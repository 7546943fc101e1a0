"""Scores beyond the six of every table: ranks, explained variance, change, calibration, tails, whole visits."""

from __future__ import annotations

import numpy as np

from .bootstrap import cell_mean, over_features, weighted_correlation, weighted_moments, weighted_rank_correlation
from .cell_scores import Cells
from .metric_catalogue import JOINT


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
