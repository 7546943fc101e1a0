"""Learning from known cells alone: features grouped by the pairs that know them, and the Gaussian of residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]
# A feature whose change fewer pairs know is taken for unchanged.
FEWEST_KNOWN = 3
# Of an eigenvalue of a correlation matrix: with unknown cells its entries need not fit together.
LEAST_VARIANCE = 1e-6


def known_groups(change: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(features, pairs that know them), positions, for every pattern of known cells in change (P, D)."""
    patterns, member = np.unique(np.isfinite(change).T, axis=0, return_inverse=True)
    member = member.reshape(-1)
    return [(np.flatnonzero(member == group), np.flatnonzero(known)) for group, known in enumerate(patterns)]


def fit_known(fit: Callable[[np.ndarray, np.ndarray], Predictor], X: np.ndarray, change: np.ndarray) -> Predictor:
    """Every feature fitted on the pairs that know its change, features of one pattern together.

    fit : (X, change) of complete rows -> predictor;  X (P, C), change (P, D) with NaN.
    """
    fitted = [
        (features, fit(X[rows], change[np.ix_(rows, features)]))
        for features, rows in known_groups(change)
        if len(rows) >= FEWEST_KNOWN
    ]

    def predict(X: np.ndarray) -> np.ndarray:
        predicted = np.zeros((len(X), change.shape[1]))
        for features, each in fitted:
            predicted[:, features] = each(X).reshape(len(X), -1)
        return predicted

    return predict


@dataclass(eq=False)
class GaussianResidual:
    """A Gaussian about zero: every feature's own variance over its known cells, and a shrunk correlation.

    spread : (D,).  vectors : (D, D) orthonormal columns, and variances : (D,), largest first, of the correlation,
    which is shrunk to none as Ledoit and Wolf (2004) do; each pair of features counts over the rows that know both.
    """

    spread: np.ndarray
    vectors: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, residual: np.ndarray) -> GaussianResidual:
        """residual (P, D), NaN where unknown; a feature that leaves nothing gets the usual spread of the others."""
        seen = np.isfinite(residual)
        rows = np.where(seen, residual, 0.0)
        spread = np.sqrt((rows**2).sum(axis=0) / np.maximum(seen.sum(axis=0), 1))
        usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        spread = np.where(spread > 0, spread, usual)
        variances, vectors = np.linalg.eigh(_shrunk_correlation(rows / spread, seen))
        if variances[0] < LEAST_VARIANCE:
            nearest = (vectors * np.maximum(variances, LEAST_VARIANCE)) @ vectors.T
            size = np.sqrt(np.diag(nearest))
            variances, vectors = np.linalg.eigh(nearest / np.outer(size, size))
        # The sign of an eigenvector is the library's whim: make the largest entry positive.
        flip = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variances))])
        return cls(spread, (vectors * flip)[:, ::-1].copy(), np.maximum(variances[::-1], 1e-12).copy())

    @property
    def factor(self) -> np.ndarray:
        """(D, D) matrix that turns standard normals (..., D) into residuals: z @ factor."""
        return (self.vectors * np.sqrt(self.variances)).T * self.spread

    def components(self, residual: np.ndarray, seed: int) -> np.ndarray:
        """residual (P, D) -> components of about unit variance (P, D); unknown cells are drawn given the known ones."""
        standard = residual / self.spread
        correlation = (self.vectors * self.variances) @ self.vectors.T
        rng = np.random.default_rng(seed)
        for row in np.flatnonzero(~np.isfinite(standard).all(axis=1)):
            seen = np.isfinite(standard[row])
            drawn = (rng.standard_normal(len(seen)) * np.sqrt(self.variances)) @ self.vectors.T
            # A draw of all cells, moved by what the known ones differ from it (Matheron's rule).
            pull = np.linalg.solve(correlation[np.ix_(seen, seen)], standard[row, seen] - drawn[seen])
            standard[row, ~seen] = drawn[~seen] + correlation[np.ix_(~seen, seen)] @ pull
        return standard @ self.vectors / np.sqrt(self.variances)


def _shrunk_correlation(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(D, D) from standardised rows (P, D), 0 where not seen; with all seen, Ledoit and Wolf's."""
    count = np.maximum(seen.astype(float).T @ seen.astype(float), 1.0)
    plain = rows.T @ rows / count
    noise = ((rows**2).T @ rows**2 / count - plain**2) / count
    identity = np.eye(len(plain))
    distance = float(((plain - identity) ** 2).sum())
    shrinkage = min(1.0, max(0.0, float(noise.sum())) / distance) if distance > 0 else 1.0
    return (1.0 - shrinkage) * plain * (1.0 - identity) + identity
