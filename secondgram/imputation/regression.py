"""Ridge regressions from one eigendecomposition, and the linear maps they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..ops.row_tiles import matmul


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

    def __call__(self, X: np.ndarray, product: Callable[[np.ndarray, np.ndarray], np.ndarray] = matmul) -> np.ndarray:
        """(N, D), each row independent of the others; with numpy's `product`, quicker, its last digits are not."""
        values = product(X, self.W)
        values += self.intercept
        if self.by_gap is not None:
            values += X[:, -1:] * product(X[:, :-1], self.by_gap)
        return values

    def __add__(self, other: LinearMap) -> LinearMap:
        by_gap = self.by_gap if other.by_gap is None else other.by_gap
        if self.by_gap is not None and other.by_gap is not None:
            by_gap = self.by_gap + other.by_gap
        return LinearMap(self.W + other.W, self.intercept + other.intercept, by_gap)

    def scaled(self, factor: float | np.ndarray) -> LinearMap:
        """Every output times a factor, one number or (D,)."""
        by_gap = None if self.by_gap is None else self.by_gap * factor
        return LinearMap(self.W * factor, self.intercept * factor, by_gap)


def ridge(X: np.ndarray, Y: np.ndarray, weight: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(p, D) coefficients of the columns of X (N, p) as given, and the (D,) intercept, for Y (N, D); weight (N,).

    The penalty is for columns of unit variance; the intercept is free. Y, of many people, is not copied.
    """
    share = weight / weight.sum()
    columns = _Columns.of(X, weight)
    scaled = columns.scaled(X)
    shared = scaled * share[:, None]
    # The columns' means are zero, so that those of Y need not be taken off.
    W = np.linalg.solve(shared.T @ scaled + penalty * np.eye(X.shape[1]), shared.T @ Y) / columns.spread[:, None]
    return W, share @ Y - columns.mean @ W


class RidgePaths:
    """Ridges of what simple predictors leave, each feature on the rows where it is known.

    X (P, p), left (P, D) of about mean zero, NaN where unknown, weight (P,). Features that are known for about the same
    rows share a decomposition.
    """

    def __init__(self, X: np.ndarray, left: np.ndarray, weight: np.ndarray) -> None:
        self.width = left.shape[1]
        self.columns = _Columns.of(X, weight)
        scaled = self.columns.scaled(X)
        self.parts = [
            (features, _Decomposed(scaled[rows], left[np.ix_(rows, features)], weight[rows]))
            for features, rows in patterns(np.isfinite(left))
        ]

    def predictions(self, X: np.ndarray, penalties: np.ndarray, dtype: type = np.float64) -> Iterator[np.ndarray]:
        """Predictions (n, D) for rows X (n, p), one penalty after the other; those that are compared may be float32."""
        scaled = self.columns.scaled(X)
        turned = [(features, part, (scaled @ part.basis).astype(dtype)) for features, part in self.parts]
        for penalty in penalties:
            value: np.ndarray = np.zeros((len(X), self.width), dtype)
            for features, part, rows in turned:
                value[:, features] = rows @ part.shrunk(penalty).astype(dtype)
            yield value

    def map(self, penalty: float, inputs: int) -> LinearMap:
        """For a penalty, of X (N, inputs) or of `with_gap(X)`."""
        W = np.zeros((len(self.columns.mean), self.width))
        for features, part in self.parts:
            W[:, features] = part.coefficients(penalty) / self.columns.spread[:, None]
        return LinearMap(W[:inputs], -self.columns.mean @ W, W[inputs:] if len(W) > inputs else None)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Weighted means and standard deviations (p,) of columns."""

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, weight: np.ndarray) -> _Columns:
        share = weight / weight.sum()
        mean = share @ X
        spread = np.sqrt(share @ (X - mean) ** 2)
        # A constant column has only rounding errors left; a scale of infinity switches it off.
        return cls(mean, np.where(spread > 1e-9 * np.maximum(np.abs(mean), 1.0), spread, np.inf))

    def scaled(self, X: np.ndarray) -> np.ndarray:
        return (X - self.mean) / self.spread


class _Decomposed:
    """Ridges of Y (P, D), NaN where unknown, on X (P, p) as it is, without an intercept."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> None:
        root = np.sqrt(weight / weight.sum())[:, None]
        seen = np.isfinite(Y)
        # Unknown values count as zero in the products, which are scaled up by the share of known ones.
        known = np.maximum((root**2 * seen).sum(axis=0), 1e-12)
        X, Y = root * X, root * np.where(seen, Y, 0.0) / known
        if X.shape[0] < X.shape[1]:
            values, vectors = np.linalg.eigh(X @ X.T)
            self.basis, self.target = X.T @ vectors, vectors.T @ Y
        else:
            values, self.basis = np.linalg.eigh(X.T @ X)
            self.target = self.basis.T @ (X.T @ Y)
        self.values = np.maximum(values, 0.0)

    def shrunk(self, penalty: float) -> np.ndarray:
        """Coefficients (min(P, p), D) of the basis."""
        return self.target / (self.values + penalty)[:, None]

    def coefficients(self, penalty: float) -> np.ndarray:
        """(p, D)."""
        return self.basis @ self.shrunk(penalty)


# Patterns of known rows that are fitted exactly, and the share of rows by which others may differ from the first of
# their group.
PATTERNS, DIFFERENT = 6, 0.1


def kinds(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different columns (P, k) of seen (P, D) bool, and which of them each column (D,) is."""
    numbers: dict[bytes, int] = {}
    member = np.array([numbers.setdefault(column.tobytes(), len(numbers)) for column in np.packbits(seen, axis=0).T])
    return seen[:, np.unique(member, return_index=True)[1]], member


def patterns(seen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of features, and the rows that at least half of a group is known for, both positions; seen (P, D) bool."""
    found, member = kinds(seen)
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
