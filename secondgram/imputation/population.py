"""What the whole population says about one person's baseline: the linear form of self-conditioning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .regression import LinearMap, RidgePath

# Of the regression of baselines on covariates, for columns of unit variance: there are many people and few covariates.
COVARIATE_PENALTY = 1e-3
PEOPLE_AT_ONCE = 8192


@dataclass(eq=False)
class Population:
    """Mean and covariance of the scaled baselines of all training people, with or without a follow-up.

    mean : map of X to (N, D), the baseline expected from the covariates alone.
    covariance : (D, D) of what is left.
    """

    mean: LinearMap
    covariance: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, width: int) -> Population:
        """X (N, D + C + 1) = [baseline, covariates, gap] of everyone, width = D."""
        inputs = X.shape[1]
        W = np.zeros((inputs, width))
        covariates = slice(width, inputs - 1)
        path = RidgePath(X[:, covariates], X[:, :width], np.ones(len(X)))
        W[covariates], intercept = path.coefficients(COVARIATE_PENALTY)
        mean = LinearMap(W, intercept)
        product = np.zeros((width, width))
        for start in range(0, len(X), PEOPLE_AT_ONCE):
            rows = X[start : start + PEOPLE_AT_ONCE]
            left = rows[:, :width] - mean(rows)
            product += left.T @ left
        return cls(mean, product / len(X))

    def surprise(self, shrinkage: float) -> LinearMap:
        """The map to u = Sigma^-1 (b - mu(covariates)), each feature scaled to unit variance over the population.

        Where a visit is truth + noise of variance v_j per feature, the truth expected from a baseline b is
        b_j - v_j u_j before the scaling (Tweedie's formula for a Gaussian): one coefficient a feature undoes the noise
        by what everybody's baselines say. shrinkage : share of the diagonal in Sigma.
        """
        covariance = (1.0 - shrinkage) * self.covariance
        diagonal = np.diag(self.covariance) + 1e-9
        covariance[np.diag_indices_from(covariance)] = diagonal
        precision = np.linalg.inv(covariance)
        scale = precision / np.sqrt(np.diag(precision))
        W = -self.mean.W @ scale
        W[: len(scale)] += scale
        return LinearMap(W, -self.mean.intercept @ scale)
