"""The linear mixed model of a trajectory, stated plainly: one person and one feature at a time, in float64.

    y(t) = x(t)' b + u + s t + e(t),   (u, s) ~ N(0, G),   e ~ N(0, s2)   (Laird and Ware 1982)

`anchor.py` is the fast version, which is tested against this one.
"""

from __future__ import annotations

import numpy as np


def covariance(time: np.ndarray, G: np.ndarray, s2: float) -> np.ndarray:
    """(V, V) of y at times (V,); G (2, 2) of level and slope."""
    Z = np.stack([np.ones_like(time), time], axis=1)
    return np.asarray(Z @ G @ Z.T + s2 * np.eye(len(time)))


def log_likelihood(y: np.ndarray, time: np.ndarray, x: np.ndarray, b: np.ndarray, G: np.ndarray, s2: float) -> float:
    """Of one person's visits y (V,), NaN where missing; x (V, q), b (q,)."""
    seen = np.isfinite(y)
    r = y[seen] - x[seen] @ b
    sigma = covariance(time[seen], G, s2)
    _, size = np.linalg.slogdet(sigma)
    return float(-0.5 * (len(r) * np.log(2 * np.pi) + size + r @ np.linalg.solve(sigma, r)))


def conditional(
    y: np.ndarray, time: np.ndarray, x: np.ndarray, hidden: np.ndarray, b: np.ndarray, G: np.ndarray, s2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (T,) and covariance (T, T) of the visits at `hidden` given those of y (V,) that are measured.

    hidden : (T,) positions; what y holds there is not read.
    """
    seen = np.isfinite(y)
    seen[hidden] = False
    sigma = covariance(time, G, s2)
    known, across = sigma[np.ix_(seen, seen)], sigma[np.ix_(hidden, seen)]
    pull = np.linalg.solve(known, across.T).T if seen.any() else across
    mean = x[hidden] @ b + pull @ (y[seen] - x[seen] @ b)
    return mean, sigma[np.ix_(hidden, hidden)] - pull @ across.T


def conditional_of_all(
    y: np.ndarray, time: np.ndarray, at: float, loadings: np.ndarray, own: np.ndarray, s2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), without error, of level + at * slope of one person, of features that share
    factors.

    y : (V, D) less what is expected of such people, NaN where missing.  loadings : (2, K, D) of levels and slopes.
    own : (3, D) variance of levels, covariance and variance of slopes that are each feature's own.  s2 : (D,).
    """
    width = y.shape[1]
    A = np.concatenate(list(loadings), axis=1)  # [factors, levels then slopes]
    both = A.T @ A
    for feature in range(width):
        place = np.ix_([feature, width + feature], [feature, width + feature])
        both[place] += own[[0, 1, 1, 2], feature].reshape(2, 2)
    cells = np.argwhere(np.isfinite(y))
    Z = np.zeros((len(cells), 2 * width))
    for row, (visit, feature) in enumerate(cells):
        Z[row, [feature, width + feature]] = 1.0, time[visit]
    asked = np.concatenate([np.eye(width), at * np.eye(width)], axis=1)
    known, across = Z @ both @ Z.T + np.diag(s2[cells[:, 1]]), asked @ both @ Z.T
    pull = np.linalg.solve(known, across.T).T
    return pull @ y[tuple(cells.T)], asked @ both @ asked.T - pull @ across.T
