"""Slopes of all features, as inputs by which each feature learns from the others' trends.

The anchor knows each feature by itself. Where features change together, the slopes that others show tell more of one
than its own visits do.
"""

from __future__ import annotations

import numpy as np

# Features that are inputs each for itself; of more, so many leading directions are.
EACH, LEADING = 24, 16
# Of the fixed directions that a basis is turned to.
SEED = 20_240


def trend_basis(slopes: np.ndarray) -> np.ndarray:
    """(D, K) directions of slopes (n, D): each feature, or the leading ones of their covariance.

    Eigenvectors may swap and turn from one set of people to the next. Turned as near as can be to fixed directions
    (orthogonal Procrustes), a basis depends on the space that they span alone, and varies as little as that does.
    """
    width = slopes.shape[1]
    if width <= EACH:
        return np.eye(width)
    centred = slopes - slopes.mean(axis=0)
    count = min(LEADING, max(1, len(slopes) - 1))
    if len(slopes) < width:
        leading = np.linalg.svd(centred, full_matrices=False)[2][:count].T
    else:
        leading = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    fixed = np.random.default_rng(SEED).standard_normal((width, count))
    left, _, right = np.linalg.svd(leading.T @ fixed)
    return np.asarray(leading @ (left @ right))
