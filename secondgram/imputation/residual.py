"""What the mean leaves: a spread per feature, and components that carry the correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf

from ..ops.tiles import matmul


@dataclass(eq=False)
class ResidualComponents:
    """residual = spread * (vectors @ (sqrt(variances) * z)), z standardised components, in scaled units.

    spread : (D,);  vectors : (D, D) orthonormal columns, and variances : (D,), largest first, of the shrunk correlation
    matrix of the residuals (Ledoit and Wolf 2004).
    """

    spread: np.ndarray
    vectors: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, residual: np.ndarray, weight: np.ndarray) -> ResidualComponents:
        """residual (P, D) out of fold, NaN where unknown; weight (P,)."""
        seen = np.isfinite(residual)
        share = weight[:, None] * seen
        square = (share * np.where(seen, residual, 0.0) ** 2).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-12)
        spread = np.sqrt(np.maximum(square, 1e-12))
        # Weighting the rows keeps people with many pairs from deciding the correlation.
        standard = np.where(seen, residual, 0.0) / spread * np.sqrt(weight / weight.mean())[:, None]
        covariance = ledoit_wolf(standard, assume_centered=True)[0]
        diagonal = np.sqrt(np.diag(covariance))
        variances, vectors = np.linalg.eigh(covariance / np.outer(diagonal, diagonal))
        # The sign of an eigenvector is the library's whim: make the largest entry positive.
        flip = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variances))])
        return cls(spread, (vectors * flip)[:, ::-1].copy(), np.maximum(variances[::-1], 1e-12).copy())

    @property
    def loading(self) -> np.ndarray:
        """(D, D) matrix that turns standardised components (rows, D) into residuals: residual = z @ loading."""
        return (self.vectors * np.sqrt(self.variances)).T * self.spread

    def covariance(self) -> np.ndarray:
        """(D, D) covariance of the residual in scaled units."""
        return self.loading.T @ self.loading

    def components(self, residual: np.ndarray) -> np.ndarray:
        """residual (P, D) -> standardised components (P, D); an unknown cell counts as no residual."""
        standard = np.where(np.isfinite(residual), residual, 0.0) / self.spread
        return standard @ self.vectors / np.sqrt(self.variances)

    def state(self) -> dict[str, Any]:
        return {"spread": self.spread, "vectors": self.vectors, "variances": self.variances}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ResidualComponents:
        return cls(state["spread"], state["vectors"], state["variances"])


def condition_on_known(residual: np.ndarray, known: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Draws of one person's residual, given some of its cells.

    residual (M, D) unconditional draws;  known (D,) NaN where unknown;  covariance (D, D).
    Matheron's rule: e + S_o' S_oo^-1 (known - e_o) is an exact conditional draw where e is Gaussian.
    """
    seen = np.isfinite(known)
    weights = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen])  # [known, D]
    moved = residual + matmul(known[seen] - residual[:, seen], weights)
    moved[:, seen] = known[seen]
    return moved
