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


class RidgePaths:
    """Ridges of what simple predictors leave, each feature on the rows where it is known.

    X (P, p), left (P, D) of about mean zero, NaN where unknown, weight (P,). Features that are known for about the same
    rows share a decomposition.
    """

    def __init__(self, X: np.ndarray, left: np.ndarray, weight: np.ndarray) -> None:
        self.width = left.shape[1]
        share = weight / weight.sum()
        self.mean = share @ X
        spread = np.sqrt(share @ (X - self.mean) ** 2)
        # What is left of a constant column is rounding; a scale of infinity switches it off.
        self.spread = np.where(spread > 1e-9 * np.maximum(np.abs(self.mean), 1.0), spread, np.inf)
        scaled = (X - self.mean) / self.spread
        self.parts = [
            (features, _Decomposed(scaled[rows], left[np.ix_(rows, features)], weight[rows]))
            for features, rows in patterns(np.isfinite(left))
        ]

    def predictions(self, X: np.ndarray, penalties: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions (n, D) for rows X (n, p), one penalty after the other."""
        scaled = (X - self.mean) / self.spread
        turned = [(features, part, scaled @ part.basis) for features, part in self.parts]
        for penalty in penalties:
            value = np.zeros((len(X), self.width))
            for features, part, rows in turned:
                value[:, features] = rows @ part.shrunk(penalty)
            yield value

    def map(self, penalty: float, inputs: int) -> LinearMap:
        """For a penalty, of X (N, inputs) or of `with_gap(X)`."""
        W = np.zeros((len(self.mean), self.width))
        for features, part in self.parts:
            W[:, features] = (part.basis @ part.shrunk(penalty)) / self.spread[:, None]
        return LinearMap(W[:inputs], -self.mean @ W, W[inputs:] if len(W) > inputs else None)


class _Decomposed:
    def __init__(self, X: np.ndarray, left: np.ndarray, weight: np.ndarray) -> None:
        root = np.sqrt(weight / weight.sum())[:, None]
        seen = np.isfinite(left)
        # What few rows lack is nothing in the products, which are as much larger for it.
        known = np.maximum((root**2 * seen).sum(axis=0), 1e-12)
        X, left = root * X, root * np.where(seen, left, 0.0) / known
        if X.shape[0] < X.shape[1]:
            values, vectors = np.linalg.eigh(X @ X.T)
            self.basis, self.target = X.T @ vectors, vectors.T @ left
        else:
            values, self.basis = np.linalg.eigh(X.T @ X)
            self.target = self.basis.T @ (X.T @ left)
        self.values = np.maximum(values, 0.0)

    def shrunk(self, penalty: float) -> np.ndarray:
        return self.target / (self.values + penalty)[:, None]


# Patterns of known rows that are fitted exactly, and the share of rows by which others may differ from the first of
# their group.
PATTERNS, DIFFERENT = 6, 0.1


def patterns(seen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of features, and the rows that at least half of a group is known for, both positions; seen (P, D) bool."""
    kinds: dict[bytes, int] = {}
    member = np.array([kinds.setdefault(column.tobytes(), len(kinds)) for column in np.packbits(seen, axis=0).T])
    found = seen[:, np.unique(member, return_index=True)[1]]
    group = np.arange(found.shape[1])
    if found.shape[1] > PATTERNS:
        size = np.bincount(member)
        leaders: list[int] = []
        for each in np.argsort(-size, kind="stable"):
            apart = [float((found[:, each] != found[:, leader]).mean()) for leader in leaders]
            if not leaders or (min(apart) > DIFFERENT and len(leaders) < PATTERNS):
                leaders.append(int(each))
                apart.append(0.0)
            group[each] = int(np.argmin(apart))
    groups = []
    for each in np.unique(group):
        features = np.flatnonzero(group[member] == each)
        rows = np.flatnonzero(2 * seen[:, features].sum(axis=1) >= max(len(features), 1))
        if len(rows):
            groups.append((features, rows))
    return groups


def with_gap(X: np.ndarray) -> np.ndarray:
    """[X, gap X'] (N, 2 p - 1): the columns of X, and all but the gap once more, times the gap."""
    return np.concatenate([X, X[:, :-1] * X[:, -1:]], axis=1)
