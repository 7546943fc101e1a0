"""Rung 3, the correlation of what the mean leaves, as components by variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..covariance import principal, shrunk_correlation
from ..missing import MissingCells
from .borrowing import measured_people, scarce


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
        correlation = shrunk_correlation(standard, weight)
        # What a few residuals seem to go along with is chance.
        few = scarce(measured_people(standard, weight))
        if few.any():
            correlation[few], correlation[:, few] = 0.0, 0.0
            correlation[few, few] = 1.0
        return cls.of(correlation)

    @classmethod
    def of(cls, covariance: np.ndarray) -> ResidualComponents:
        """Of the correlations in a covariance (D, D), or the nearest where its entries do not fit together."""
        return cls(*principal(covariance))

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

    def precision(self) -> np.ndarray:
        """(D, D), inverse of the correlation."""
        return (self.vectors / self.variances) @ self.vectors.T

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
        filled = standard.copy()
        drawn = np.random.default_rng(seed).standard_normal((len(rows), self.width)) @ self.loading
        filled[rows] = condition_on_known(drawn, standard[rows], self.precision())
        return filled

    def state(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "variances": self.variances}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ResidualComponents:
        return cls(state["vectors"], state["variances"])


def condition_on_known(residual: np.ndarray, known: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Draws of residuals, given some of their cells.

    residual (..., D) unconditional draws;  known : like it, NaN where unknown;  precision (D, D).
    Matheron's rule: e - Q_mm^-1 Q_mo (known - e_o) is an exact conditional draw where e is Gaussian.
    """
    known = np.broadcast_to(known, residual.shape)
    apart = MissingCells(precision).fill((known - residual).reshape(-1, residual.shape[-1]))
    return np.where(np.isnan(known), residual + apart.reshape(residual.shape), known)
