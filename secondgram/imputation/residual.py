"""Rung 3, the correlation of what the mean leaves, as components by variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from ..ops.tiles import matmul

# Of a component, as a share of a feature's variance.
LEAST_VARIANCE = 1e-6


@dataclass(eq=False)
class ResidualComponents:
    """z = vectors @ (sqrt(variances) * c): standardised residuals z from standardised components c.

    vectors : (D, D) orthonormal columns, and variances : (D,), largest first, of the shrunk correlation matrix of the
    standardised residuals (Ledoit and Wolf 2004).
    """

    vectors: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, standard: np.ndarray, weight: np.ndarray) -> ResidualComponents:
        """standard (P, D) residuals of about unit variance, NaN where unknown; weight (P,)."""
        # Weighting the rows keeps people with many pairs from deciding the correlation.
        root = np.sqrt(weight / weight.mean())[:, None]
        seen = np.isfinite(standard) * root
        rows = np.where(seen > 0, standard, 0.0) * root
        size = np.sqrt((rows**2).sum(axis=0) / np.maximum((seen**2).sum(axis=0), 1e-12))
        rows /= np.where(size > 1e-9, size, 1.0)
        # Each pair of features over the pairs of visits in which both are known.
        covariance = (rows.T @ rows) / np.maximum(seen.T @ seen, 1e-12)
        shrinkage = ledoit_wolf_shrinkage(rows, assume_centered=True)
        covariance *= 1.0 - shrinkage
        covariance[np.diag_indices_from(covariance)] += shrinkage
        return cls.of(covariance)

    @classmethod
    def of(cls, covariance: np.ndarray) -> ResidualComponents:
        """Of the correlations in a covariance (D, D), or the nearest where its entries do not fit together."""
        variances, vectors = np.linalg.eigh(_correlation(covariance))
        if variances[0] < LEAST_VARIANCE:
            covariance = (vectors * np.maximum(variances, LEAST_VARIANCE)) @ vectors.T
            variances, vectors = np.linalg.eigh(_correlation(covariance))
        # The sign of an eigenvector is the library's whim: make the largest entry positive.
        flip = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variances))])
        return cls((vectors * flip)[:, ::-1].copy(), np.maximum(variances[::-1], 1e-12).copy())

    @property
    def width(self) -> int:
        """D."""
        return len(self.variances)

    @property
    def loading(self) -> np.ndarray:
        """(D, D) matrix that turns components (rows, D) into standardised residuals: z = c @ loading."""
        return (self.vectors * np.sqrt(self.variances)).T

    def correlation(self) -> np.ndarray:
        """(D, D) of the standardised residuals."""
        return self.loading.T @ self.loading

    def components(self, standard: np.ndarray) -> np.ndarray:
        """standard (P, D) without NaN -> components (P, D)."""
        return standard @ self.vectors / np.sqrt(self.variances)

    def filled(self, standard: np.ndarray, seed: int) -> np.ndarray:
        """standard (P, D) with every NaN replaced by a draw given the rest of its row.

        A draw and not its expectation, whose components would vary too little where much is unknown.
        """
        rows = np.flatnonzero(np.isnan(standard).any(axis=1))
        if not len(rows):
            return standard
        filled, correlation = standard.copy(), self.correlation()
        c = np.random.default_rng(seed).standard_normal((len(rows), self.width))
        for row, drawn in zip(rows, c @ self.loading, strict=True):
            if np.isfinite(standard[row]).any():
                filled[row] = condition_on_known(drawn[None], standard[row], correlation)[0]
            else:
                filled[row] = drawn
        return filled

    def state(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "variances": self.variances}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ResidualComponents:
        return cls(state["vectors"], state["variances"])


def _correlation(covariance: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    return covariance / np.outer(spread, spread)


def condition_on_known(residual: np.ndarray, known: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Draws of one person's residual, given some of its cells.

    residual (M, D) unconditional draws;  known (D,) or (M, D), NaN where unknown;  covariance (D, D).
    Matheron's rule: e + S_o' S_oo^-1 (known - e_o) is an exact conditional draw where e is Gaussian.
    """
    seen = np.isfinite(known.reshape(-1, known.shape[-1])[0])
    weights = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen])  # [known, D]
    moved = residual + matmul(known[..., seen] - residual[:, seen], weights)
    moved[:, seen] = known[..., seen]
    return moved
