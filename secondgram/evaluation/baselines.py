"""The simple methods every claim is held against; each has `mean` and `draw` like the presets."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import GroupKFold

from ..cohort.table import Cohort
from ..diffusion.noise import Purpose
from ..imputation.context import Context
from ..imputation.people import People, TrainingPairs
from ..imputation.quantiles import QuantileMap
from ..imputation.residual import ResidualComponents
from ..ops.noise import normals

FOLDS = 5
# Multiples of the number of pairs, for columns of about unit variance.
PENALTIES = np.logspace(-3, 2, 11)


class Baseline(ABC):
    """A point prediction of the follow-up, the same for every draw; fitted on the first visit and the target visit."""

    def fit(self, train: Cohort, seed: int) -> Baseline:
        """Learn from training people alone."""
        self.pairs = TrainingPairs.of(train, every=False)
        self.context = Context.fit(train, self.pairs)
        X = self.context.inputs(self.pairs.people)
        width = len(train.features)
        change = self.context.scaling.apply(self.pairs.later, self.pairs.people.site) - X[:, :width]
        # A missing target counts as the feature's mean change.
        change = np.where(np.isfinite(change), change, np.nanmean(change, axis=0))
        self.learn(X, change)
        return self

    @abstractmethod
    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        """X (P, D + C + 1) = [baseline, covariates, gap], change (P, D), scaled."""

    @abstractmethod
    def change(self, X: np.ndarray) -> np.ndarray:
        """Predicted change (N, D), scaled."""

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """(N, D) in original units."""
        X = self.context.inputs(people)
        return self.context.scaling.invert(X[:, : people.baseline.shape[1]] + self.change(X), people.site)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """(1, N, D): a point prediction has one draw."""
        return self.mean(people, draws, seed)[None]


class CarryForward(Baseline):
    """The follow-up equals the baseline."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        """There is nothing to learn."""

    def change(self, X: np.ndarray) -> np.ndarray:
        return np.zeros((len(X), self.pairs.later.shape[1]))


class MeanChange(Baseline):
    """Baseline plus the change expected from covariates and gap (least squares)."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        self.width = change.shape[1]
        self.model = LinearRegression().fit(X[:, self.width :], change)

    def change(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(X[:, self.width :]).reshape(len(X), self.width)


class Ridge(Baseline):
    """Baseline plus a ridge regression of the change on all baseline features, covariates and gap.

    The penalty is chosen by leave-one-out error. Regressing the change and not the level shrinks towards carry-forward.
    """

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        self.width = change.shape[1]
        self.model = _ridge(X, change)

    def change(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(X).reshape(len(X), self.width)


def _ridge(X: np.ndarray, change: np.ndarray) -> RidgeCV:
    return RidgeCV(alphas=PENALTIES * len(X)).fit(X, change)


class RidgeGaussian(Ridge):
    """Ridge, with draws from a Gaussian of its out-of-fold residuals (Ledoit-Wolf covariance)."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        super().learn(X, change)
        self.learn_residual(self.out_of_fold(X, change))

    def out_of_fold(self, X: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Residuals (P, D) of ridges fitted on other people."""
        folds = GroupKFold(min(FOLDS, len(set(self.pairs.unit)))).split(X, groups=self.pairs.unit)
        residual = np.empty_like(change)
        for train, test in folds:
            residual[test] = change[test] - _ridge(X[train], change[train]).predict(X[test]).reshape(-1, self.width)
        return residual

    def learn_residual(self, residual: np.ndarray) -> None:
        """residual (P, D), out of fold."""
        covariance = ledoit_wolf(residual, assume_centered=True)[0]
        self.factor = np.linalg.cholesky(covariance + 1e-9 * np.eye(self.width)).T

    def components(self, z: np.ndarray) -> np.ndarray:
        """Standard normals (M, N, D) -> components of the residual."""
        return z

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        z = normals(people.keys, self.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws, dtype=np.float64)
        scaled = X[:, : self.width] + self.change(X) + self.components(z) @ self.factor
        return self.context.scaling.invert(scaled, people.site)


class RidgeEmpirical(RidgeGaussian):
    """Ridge, with draws in which every principal component of its out-of-fold residuals is distributed as it was."""

    def learn_residual(self, residual: np.ndarray) -> None:
        spread = np.sqrt((residual**2).mean(axis=0))
        weight = np.ones(len(residual))
        principal = ResidualComponents.fit(residual / spread, weight)
        self.factor = principal.loading * spread
        self.distribution = QuantileMap.fit(principal.components(residual / spread), weight)

    def components(self, z: np.ndarray) -> np.ndarray:
        return self.distribution.forward(z)


BASELINES: dict[str, type[Baseline]] = {
    "carry-forward": CarryForward,
    "mean-change": MeanChange,
    "ridge": Ridge,
    "ridge-gaussian": RidgeGaussian,
    "ridge-empirical": RidgeEmpirical,
}
