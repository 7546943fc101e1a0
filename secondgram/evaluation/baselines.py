"""The simple methods every claim is held against; each has `mean` and `draw` like the presets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import GroupKFold

from ..cohort.table import Cohort
from ..diffusion.noise import Purpose
from ..imputation.ladder import Context
from ..imputation.people import People, TrainingPairs
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


@dataclass(eq=False)
class _Residual:
    factor: np.ndarray  # (D, D) Cholesky factor of the covariance


class RidgeGaussian(Ridge):
    """Ridge, with draws from a Gaussian of its out-of-fold residuals (Ledoit-Wolf covariance)."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        super().learn(X, change)
        folds = GroupKFold(min(FOLDS, len(set(self.pairs.unit)))).split(X, groups=self.pairs.unit)
        residual = np.empty_like(change)
        for train, test in folds:
            residual[test] = change[test] - _ridge(X[train], change[train]).predict(X[test]).reshape(-1, self.width)
        covariance = ledoit_wolf(residual, assume_centered=True)[0]
        self.residual = _Residual(np.linalg.cholesky(covariance + 1e-9 * np.eye(self.width)))

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        z = normals(people.keys, self.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws, dtype=np.float64)
        scaled = X[:, : self.width] + self.change(X) + z @ self.residual.factor.T
        return self.context.scaling.invert(scaled, people.site)


BASELINES: dict[str, type[Baseline]] = {
    "carry-forward": CarryForward,
    "mean-change": MeanChange,
    "ridge": Ridge,
    "ridge-gaussian": RidgeGaussian,
}
