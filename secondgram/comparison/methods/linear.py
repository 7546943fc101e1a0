"""Linear predictors of the change: nothing, covariates, every feature alone, all features, and latent directions."""

from __future__ import annotations

import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import GroupKFold

from ...sampling.quantile_map import QuantileMap
from .baseline import FOLDS, GaussianBaseline, PointBaseline
from .known_cells import Predictor, fit_known

# Multiples of the number of pairs, for columns of about unit variance.
PENALTIES = np.logspace(-3, 2, 11)
# Numbers of latent directions that partial least squares chooses from.
DIRECTIONS = (1, 2, 4, 8, 16)


class CarryForward(PointBaseline):
    """The follow-up equals the baseline."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        """There is nothing to learn."""

    def change(self, X: np.ndarray) -> np.ndarray:
        return np.zeros((len(X), self.width))


class CarryForwardGaussian(GaussianBaseline):
    """The follow-up equals the baseline, with draws from a Gaussian of what that leaves of the training pairs."""

    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        return lambda X: np.zeros((len(X), self.width))


class LinearInterpolation(CarryForwardGaussian):
    """The line through a person's two neighbouring visits, which stands in place of the nearest (`Method.between`)."""


class MeanChange(PointBaseline):
    """Baseline plus the change expected from covariates and gap (least squares)."""

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        columns = self._columns(X)
        self.predictor = fit_known(lambda X, change: LinearRegression().fit(X, change).predict, columns, change)

    def change(self, X: np.ndarray) -> np.ndarray:
        return self.predictor(self._columns(X))

    def _columns(self, X: np.ndarray) -> np.ndarray:
        return X[:, self.width :]


class Ridge(PointBaseline):
    """Baseline plus a ridge regression of the change on all baseline features, covariates and gap.

    The penalty is chosen by leave-one-out error. Regressing the change and not the level shrinks towards carry-forward.
    """

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        self.predictor = fit_ridge(X, change)

    def change(self, X: np.ndarray) -> np.ndarray:
        return self.predictor(X)


def fit_ridge(X: np.ndarray, change: np.ndarray) -> Predictor:
    """X (P, C) -> change (P, D) with NaN; features that the same pairs know share their penalty."""
    return fit_known(lambda X, change: RidgeCV(alphas=PENALTIES * len(X)).fit(X, change).predict, X, change)


class RidgeGaussian(GaussianBaseline):
    """Ridge, with draws from a Gaussian of its out-of-fold residuals (`GaussianResidual`)."""

    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        return fit_ridge(X, change)


class RidgeEmpirical(RidgeGaussian):
    """Ridge, with draws in which every principal component of its out-of-fold residuals is distributed as it was."""

    def learn_residual(self, residual: np.ndarray) -> None:
        super().learn_residual(residual)
        values = self.gaussian.components(residual, self.seed)
        self.distribution = QuantileMap.fit(values, np.ones(len(residual)))

    def components(self, z: np.ndarray) -> np.ndarray:
        return self.distribution.forward(z)


class FeatureRidge(GaussianBaseline):
    """Every feature's change from its own baseline, covariates and gap; its penalty by leave-one-out error."""

    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        fitted = [fit_ridge(self._columns(X, feature), change[:, [feature]]) for feature in range(self.width)]

        def predict(X: np.ndarray) -> np.ndarray:
            return np.hstack([each(self._columns(X, feature)) for feature, each in enumerate(fitted)])

        return predict

    def _columns(self, X: np.ndarray, feature: int) -> np.ndarray:
        return np.concatenate([X[:, feature, None], X[:, self.width :]], axis=1)


class PartialLeastSquares(GaussianBaseline):
    """Partial least squares (Wold 1966; PLS2) of the change on all baseline features, covariates and gap.

    The number of latent directions is that of the least cross-validated squared error over units; none is a choice too,
    and gives the mean change.
    """

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        folds = list(GroupKFold(min(FOLDS, len(set(self.pairs.unit)))).split(X, groups=self.pairs.unit))
        most = min(X.shape[1], min(len(train) for train, _ in folds) - 1)
        loss = {}
        for count in (0, *(count for count in DIRECTIONS if count <= most)):
            self.directions = count
            errors = [change[test] - self.regression(X[train], change[train])(X[test]) for train, test in folds]
            loss[count] = sum(float(np.nansum(error**2)) for error in errors)
        self.directions = min(loss, key=lambda count: loss[count])
        super().learn(X, change)

    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        return fit_known(self._complete, X, change)

    def _complete(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        count = min(self.directions, len(X) - 1)
        if count == 0:
            expected = change.mean(axis=0)
            return lambda X: np.broadcast_to(expected, (len(X), len(expected)))
        return PLSRegression(count, scale=False, max_iter=1000).fit(X, change).predict
