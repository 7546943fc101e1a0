"""The linear form of self-conditioning: a person's baseline against the distribution of everyone's baselines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..regression import LinearMap, ridge

# Of the regression of baselines on covariates, for columns of unit variance: there are many people and few covariates.
COVARIATE_PENALTY = 1e-3
PEOPLE_AT_ONCE = 8192


@dataclass(eq=False)
class Population:
    """Mean and covariance of the scaled baselines of all training people, with or without a follow-up.

    mean : map of X to (N, D), the baseline expected from the covariates alone.
    covariance : (D, D) of what is left;  people : N;  left : (N, D), what is left, of fewer people than features.
    """

    mean: LinearMap
    covariance: np.ndarray
    people: int
    left: np.ndarray | None = None

    @classmethod
    def fit(cls, X: np.ndarray, width: int) -> Population:
        """X (N, D + C + 1) = [baseline, covariates, gap] of everyone, width = D."""
        inputs = X.shape[1]
        W = np.zeros((inputs, width))
        covariates = slice(width, inputs - 1)
        W[covariates], intercept = ridge(X[:, covariates], X[:, :width], np.ones(len(X)), COVARIATE_PENALTY)
        mean = LinearMap(W, intercept)
        if len(X) < width:
            left = X[:, :width] - mean(X, np.matmul)
            return cls(mean, left.T @ left / len(X), len(X), left)
        product = np.zeros((width, width))
        for start in range(0, len(X), PEOPLE_AT_ONCE):
            rows = X[start : start + PEOPLE_AT_ONCE]
            left = rows[:, :width] - mean(rows, np.matmul)
            product += left.T @ left
        return cls(mean, product / len(X), len(X))

    def surprise(self, shrinkage: float) -> Surprise:
        """The surprise of baselines, with a covariance that is shrunk to its diagonal by this share."""
        share = (1.0 - shrinkage) / self.people
        if self.left is None:
            covariance = (1.0 - shrinkage) * self.covariance
            covariance[np.diag_indices_from(covariance)] = np.diag(self.covariance) + 1e-9
            return Surprise(self.mean, np.linalg.inv(covariance), share)
        # A matrix of people x people, because they are fewer than features (Woodbury 1950).
        diagonal = shrinkage * np.diag(self.covariance) + 1e-9
        scaled = self.left / diagonal
        inner = np.linalg.inv(np.eye(self.people) / share + scaled @ self.left.T)
        return Surprise(self.mean, np.diag(1.0 / diagonal) - scaled.T @ (inner @ scaled), share)


@dataclass(eq=False)
class Surprise:
    """u = Sigma^-1 (b - mu(covariates)), each feature scaled to unit variance over the population.

    Where a visit is truth + noise of variance v_j per feature, the truth expected from a baseline b is b_j - v_j u_j
    before the scaling (Tweedie's formula for a Gaussian): one coefficient a feature undoes the noise by what
    everybody's baselines say.

    mean : map of X to (N, D);  precision : (D, D);  share : weight of one person's deviation in Sigma.
    """

    mean: LinearMap
    precision: np.ndarray
    share: float

    @property
    def map(self) -> LinearMap:
        """For people who are not of the population."""
        scale = self._scale()
        W = -self.mean.W @ scale
        W[: len(scale)] += scale
        return LinearMap(W, -self.mean.intercept @ scale)

    def _scale(self) -> np.ndarray:
        return self.precision / np.sqrt(np.diag(self.precision))

    def apart(self, X: np.ndarray, first: np.ndarray) -> np.ndarray:
        """u (P, D) for rows X of people of the population, as if it had been fitted without them.

        first : (P, D + C + 1), the row by which each took part, NaN for one who did not. A rank-one change of Sigma
        (Sherman and Morrison 1950), exact for its off-diagonal part; without it people are less surprising to those who
        learned from them than new people will be, and all the less the fewer they are.
        """
        width = len(self.precision)
        part = np.isfinite(first).all(axis=1)[:, None]
        first = np.where(part, first, 0.0)
        left = X[:, :width] - self.mean(X, np.matmul)
        taken = np.where(part, first[:, :width] - self.mean(first, np.matmul), 0.0)
        plain, pulled = left @ self.precision, taken @ self.precision
        own = (taken * pulled).sum(axis=1)
        factor = self.share * (left * pulled).sum(axis=1) / np.maximum(1.0 - self.share * own, 1e-6)
        return (plain + factor[:, None] * pulled) / np.sqrt(np.diag(self.precision))
