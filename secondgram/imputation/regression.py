"""Ridge regressions from one eigendecomposition, and the linear maps they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..ops.tiles import matmul


@dataclass(frozen=True, eq=False)
class LinearMap:
    """X (N, p) -> X @ W + intercept + gap (X' @ by_gap), gap the last column of X and X' the others.

    W : (p, D);  intercept : (D,);  by_gap : (p - 1, D), or None where nothing depends on the gap but through W.
    """

    W: np.ndarray
    intercept: np.ndarray
    by_gap: np.ndarray | None = None

    @classmethod
    def zero(cls, inputs: int, width: int) -> LinearMap:
        """The map to zeros."""
        return cls(np.zeros((inputs, width)), np.zeros(width))

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """(N, D), each row independent of the others."""
        values = matmul(X, self.W) + self.intercept
        return values if self.by_gap is None else values + X[:, -1:] * matmul(X[:, :-1], self.by_gap)

    def __add__(self, other: LinearMap) -> LinearMap:
        by_gap = self.by_gap if other.by_gap is None else other.by_gap
        if self.by_gap is not None and other.by_gap is not None:
            by_gap = self.by_gap + other.by_gap
        return LinearMap(self.W + other.W, self.intercept + other.intercept, by_gap)

    def scaled(self, factor: float | np.ndarray) -> LinearMap:
        """Every output times a factor, one number or (D,)."""
        by_gap = None if self.by_gap is None else self.by_gap * factor
        return LinearMap(self.W * factor, self.intercept * factor, by_gap)


class RidgePath:
    """Ridge regressions of Y on X for any penalty from one eigendecomposition; rows carry weights.

    X (P, p), Y (P, D), weight (P,). Columns of X are centred and scaled to unit variance; the intercept is free.
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> None:
        share = weight / weight.sum()
        self.x_mean, self.y_mean = share @ X, share @ Y
        centred = X - self.x_mean
        spread = np.sqrt(share @ centred**2)
        # What is left of a constant column is rounding; a scale of infinity switches it off.
        self.spread = np.where(spread > 1e-9 * np.maximum(np.abs(self.x_mean), 1.0), spread, np.inf)
        root = np.sqrt(share)[:, None]
        left, right = root * centred / self.spread, root * (Y - self.y_mean)
        if left.shape[0] < left.shape[1]:
            values, vectors = np.linalg.eigh(left @ left.T)
            self.basis, self.target = left.T @ vectors, vectors.T @ right
        else:
            values, self.basis = np.linalg.eigh(left.T @ left)
            self.target = self.basis.T @ (left.T @ right)
        self.values = np.maximum(values, 0.0)

    def coefficients(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """(p, D) coefficients of the columns as given, and the (D,) intercept."""
        W = (self.basis @ (self.target / (self.values + penalty)[:, None])) / self.spread[:, None]
        return W, self.y_mean - self.x_mean @ W

    def predictions(self, X: np.ndarray, penalties: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions (n, D) for rows X (n, p), one penalty after the other."""
        turned = ((X - self.x_mean) / self.spread) @ self.basis
        for penalty in penalties:
            yield turned @ (self.target / (self.values + penalty)[:, None]) + self.y_mean


def with_gap(X: np.ndarray) -> np.ndarray:
    """[X, gap X'] (N, 2 p - 1): the columns of X, and all but the gap once more, times the gap."""
    return np.concatenate([X, X[:, :-1] * X[:, -1:]], axis=1)


def ridge_map(path: RidgePath, penalty: float, inputs: int) -> LinearMap:
    """The ridge regression of a path over X, or over `with_gap(X)`, as a map of X (N, inputs)."""
    W, intercept = path.coefficients(penalty)
    return LinearMap(W[:inputs], intercept, W[inputs:] if len(W) > inputs else None)
