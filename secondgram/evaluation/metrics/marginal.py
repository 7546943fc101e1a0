"""The six scores that every table shows."""

from __future__ import annotations

import numpy as np

from .bootstrap import cell_mean, over_features, weighted_correlation
from .cell_scores import Cells


def per_feature(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric per feature for each row of people's weights: weights (B, N) -> (B, D) each."""
    change = cells.truth - cells.baseline
    return {
        "pearson_mean": weighted_correlation(cells.mean, cells.truth, weights),
        "pearson_draw": weighted_correlation(cells.draw, cells.truth, weights),
        "delta_r": weighted_correlation(cells.mean - cells.baseline, change, weights),
        "rmse": np.sqrt(cell_mean((cells.mean - cells.truth) ** 2, weights)),
        "crps": cell_mean(cells.crps, weights),
        "coverage_90": cell_mean(cells.covered, weights),
    }


def scores(cells: Cells, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric over all features: weights (B, N) -> (B,) each. RMSE averages squares before the root."""
    by_feature = per_feature(cells, weights)
    found = {name: over_features(values) for name, values in by_feature.items()}
    found["rmse"] = np.sqrt(over_features(by_feature["rmse"] ** 2))
    return found
