"""Learning from known cells alone: features grouped by the pairs that know them, and the Gaussian of residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...imputation.default.correlation import ResidualComponents
from ...imputation.regression import kinds

Predictor = Callable[[np.ndarray], np.ndarray]
# A feature whose change fewer pairs know is taken for unchanged.
FEWEST_KNOWN = 3


def known_groups(change: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(features, pairs that know them), positions, for every pattern of known cells in change (P, D)."""
    found, member = kinds(np.isfinite(change))
    return [(np.flatnonzero(member == group), np.flatnonzero(known)) for group, known in enumerate(found.T)]


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

    spread : (D,).  principal : of the correlation, which is shrunk to none as Ledoit and Wolf (2004) do; each pair of
    features counts over the rows that know both.
    """

    spread: np.ndarray
    principal: ResidualComponents

    @classmethod
    def fit(cls, residual: np.ndarray) -> GaussianResidual:
        """residual (P, D), NaN where unknown; a feature that leaves nothing gets the usual spread of the others."""
        seen = np.isfinite(residual)
        rows = np.where(seen, residual, 0.0)
        spread = np.sqrt((rows**2).sum(axis=0) / np.maximum(seen.sum(axis=0), 1))
        usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        spread = np.where(spread > 0, spread, usual)
        return cls(spread, ResidualComponents.of(_shrunk_correlation(rows / spread, seen)))

    @property
    def factor(self) -> np.ndarray:
        """(D, D) matrix that turns standard normals (..., D) into residuals: z @ factor."""
        return self.principal.loading * self.spread

    def components(self, residual: np.ndarray, seed: int) -> np.ndarray:
        """residual (P, D) -> components of about unit variance (P, D); unknown cells are drawn given the known ones."""
        return self.principal.components(self.principal.filled(residual / self.spread, seed))


def _shrunk_correlation(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(D, D) from standardised rows (P, D), 0 where not seen; with all seen, Ledoit and Wolf's."""
    count = np.maximum(seen.astype(float).T @ seen.astype(float), 1.0)
    plain = rows.T @ rows / count
    noise = ((rows**2).T @ rows**2 / count - plain**2) / count
    identity = np.eye(len(plain))
    distance = float(((plain - identity) ** 2).sum())
    shrinkage = min(1.0, max(0.0, float(noise.sum())) / distance) if distance > 0 else 1.0
    return (1.0 - shrinkage) * plain * (1.0 - identity) + identity
