"""What every baseline has: `fit` on training people, `mean` and `draw` for others, like the presets."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from sklearn.model_selection import GroupKFold

from ...cohort.table import Cohort
from ...diffusion.noise import Purpose
from ...imputation.context import Context
from ...imputation.model_data import People, TrainingPairs
from ...ops.noise import normals
from .known_cells import GaussianResidual, Predictor

FOLDS = 5


class Baseline(ABC):
    """A method of `compare`: learns from training people, and predicts and draws for others (`FollowupModel`)."""

    @abstractmethod
    def fit(self, train: Cohort, seed: int) -> Baseline:
        """Learn from training people alone."""

    @abstractmethod
    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """(N, D) in original units."""

    @abstractmethod
    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """(M, N, D) in original units."""


class PairBaseline(Baseline):
    """Learned from pairs of the first visit and the target visit."""

    def fit(self, train: Cohort, seed: int) -> Baseline:
        """Learn from training people alone."""
        self.seed = seed
        self.pairs = TrainingPairs.of(train, every=False)
        self.context = Context.fit(train, self.pairs)
        X = self.context.inputs(self.pairs.people)
        self.width = len(train.features)
        change = self.context.later(self.pairs, X) - X[:, : self.width]
        self.learn(X, change)
        return self

    @abstractmethod
    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        """X (P, D + C + 1) = [baseline, covariates, gap], change (P, D), scaled, NaN where the target is unknown."""


class PointBaseline(PairBaseline):
    """A point prediction of the change, the same for every draw."""

    @abstractmethod
    def change(self, X: np.ndarray) -> np.ndarray:
        """Predicted change (N, D), scaled."""

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        return self.context.original(X[:, : self.width] + self.change(X), people, X)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """(1, N, D): a point prediction has one draw."""
        return self.mean(people, draws, seed)[None]


class DrawnBaseline(PairBaseline):
    """It has draws alone: their average is its mean."""

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        return self.draw(people, draws, seed).mean(axis=0)


class GaussianBaseline(PointBaseline):
    """A regression of the change, with draws from a Gaussian of its out-of-fold residuals (`GaussianResidual`)."""

    @abstractmethod
    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        """Fit X (P, D + C + 1) -> change (P, D) on the known cells; returns X (N, ...) -> predicted change (N, D)."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        self.predictor = self.regression(X, change)
        self.learn_residual(self.out_of_fold(X, change))

    def change(self, X: np.ndarray) -> np.ndarray:
        return self.predictor(X)

    def out_of_fold(self, X: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Residuals (P, D) of regressions fitted on other people, NaN where the change is unknown."""
        folds = GroupKFold(min(FOLDS, len(set(self.pairs.unit)))).split(X, groups=self.pairs.unit)
        residual = np.empty_like(change)
        for train, test in folds:
            residual[test] = change[test] - self.regression(X[train], change[train])(X[test])
        return residual

    def learn_residual(self, residual: np.ndarray) -> None:
        """residual (P, D), out of fold, NaN where unknown."""
        self.gaussian = GaussianResidual.fit(residual)

    def components(self, z: np.ndarray) -> np.ndarray:
        """Standard normals (M, N, D) -> components of the residual."""
        return z

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        z = normals(people.keys, self.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws, dtype=np.float64)
        scaled = X[:, : self.width] + self.change(X) + self.components(z) @ self.gaussian.factor
        return self.context.original(scaled, people, X)
