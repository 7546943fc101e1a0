"""Regressions of every feature on a few columns, whose coefficients are drawn towards those that all features share.

    y_ij = beta_j . z_ij + e_ij,    beta_j ~ N(m, diag(t^2)),    e_ij ~ N(0, s_j^2)

m, t and s are learned from all features at once (empirical Bayes, by EM; Dempster, Laird and Rubin 1977), so that few
pairs are enough: what one feature cannot tell is taken from the others. Far errors count less (Huber 1964).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of EM; the rows that are far are settled in the first of them.
ROUNDS, SETTLED = 20, 4
CLOSE = 2e-3
# Where a coefficient differs between features by this much a priori, and how many features' worth that is.
DEVIATION, DEVIATION_FEATURES = 0.1, 4.0
# Pairs' worth of the features' common error that a feature's own is drawn by.
ERROR_PAIRS = 4.0
# Standard deviations beyond which an error counts as if it were that far.
FAR = 3.0


@dataclass(eq=False)
class Hierarchy:
    """coefficients : (q, D);  common : (q,), the features' mean;  deviation : (q,), how far features are from it;
    error : (D,) variances of what is left.
    """

    coefficients: np.ndarray
    common: np.ndarray
    deviation: np.ndarray
    error: np.ndarray


def fit_hierarchy(
    shared: np.ndarray, own: list[np.ndarray], y: np.ndarray, weight: np.ndarray, usual: np.ndarray | None = None
) -> Hierarchy:
    """Columns shared by all features, shared (P, q1), and columns of each feature's own, own q2 x (P, D).

    y : (P, D), NaN where unknown, which says nothing;  weight : (P,), of which 1 is one independent row.
    usual : (q1 + q2,), how far features' coefficients differ a priori, `DEVIATION` if None.
    """
    problem = _Problem(shared, own, y, weight)
    width, count = y.shape[1], shared.shape[1] + len(own)
    prior = np.full(count, DEVIATION) ** 2 if usual is None else usual**2
    common, variance = np.zeros(count), prior
    error = problem.size()
    beta = np.zeros((width, count))
    for turn in range(ROUNDS):
        if turn < SETTLED:
            # Which rows are far is known by then.
            gram, moment, square = problem.moments(problem.near(beta, error))
        doubt = np.linalg.inv(gram / error[:, None, None] + np.diag(1.0 / variance))
        before, beta = beta, np.einsum("dab,db->da", doubt, moment / error[:, None] + common / variance)
        common = beta.mean(axis=0)
        spread = ((beta - common) ** 2 + np.einsum("daa->da", doubt)).sum(axis=0)
        variance = (spread + DEVIATION_FEATURES * prior) / (width + DEVIATION_FEATURES)
        fitted = np.einsum("dab,db->da", gram, beta)
        left = square - 2.0 * (beta * moment).sum(axis=1) + (beta * fitted).sum(axis=1)
        error = problem.drawn(left + np.einsum("dab,dba->d", gram, doubt))
        if turn >= SETTLED and np.abs(beta - before).max() < CLOSE:
            break
    return Hierarchy(beta.T, common, np.sqrt(variance), error)


class _Problem:
    def __init__(self, shared: np.ndarray, own: list[np.ndarray], y: np.ndarray, weight: np.ndarray) -> None:
        self.shared, self.own = shared, own
        self.seen = np.isfinite(y) * weight[:, None]
        self.y = np.where(np.isfinite(y), y, 0.0)
        self.count = np.maximum(self.seen.sum(axis=0), 1e-12)

    def size(self) -> np.ndarray:
        """(D,) squared error of no change."""
        return self.drawn((self.seen * self.y**2).sum(axis=0))

    def drawn(self, square: np.ndarray) -> np.ndarray:
        """Error variances (D,) of sums of squares (D,), drawn towards their geometric mean."""
        log = np.log(np.maximum(square / self.count, 1e-9))
        share = self.count / (self.count + ERROR_PAIRS)
        middle = float((share * log).sum() / np.maximum(share.sum(), 1e-12))
        return np.maximum(np.exp(share * log + (1.0 - share) * middle), 1e-9)

    def fitted(self, beta: np.ndarray) -> np.ndarray:
        """(P, D)."""
        cut = self.shared.shape[1]
        value = self.shared @ beta[:, :cut].T
        for place, column in enumerate(self.own, cut):
            value += column * beta[:, place]
        return value

    def near(self, beta: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Weights (P, D) of Huber's."""
        far = np.abs(self.y - self.fitted(beta)) / np.sqrt(error)
        return self.seen * (FAR / np.maximum(far, FAR))

    def moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal matrices (D, q, q), right sides (D, q) and squares (D,)."""
        cut, count = self.shared.shape[1], self.shared.shape[1] + len(self.own)
        gram, moment = np.empty((weights.shape[1], count, count)), np.empty((weights.shape[1], count))
        products = (self.shared[:, :, None] * self.shared[:, None, :]).reshape(len(self.shared), cut * cut)
        gram[:, :cut, :cut] = (weights.T @ products).reshape(-1, cut, cut)
        pull = weights * self.y
        moment[:, :cut] = pull.T @ self.shared
        for place, column in enumerate(self.own, cut):
            scaled = weights * column
            gram[:, place, :cut] = gram[:, :cut, place] = scaled.T @ self.shared
            moment[:, place] = (pull * column).sum(axis=0)
            for other, second in enumerate(self.own, cut):
                gram[:, place, other] = (scaled * second).sum(axis=0)
        return gram, moment, (pull * self.y).sum(axis=0)
