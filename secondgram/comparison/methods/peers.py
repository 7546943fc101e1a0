"""Methods of other libraries. Each is an optional extra, imported where it is used."""

from __future__ import annotations

from abc import abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from ...imputation.model_data import People
from .baseline import DrawnBaseline, GaussianBaseline
from .known_cells import FEWEST_KNOWN, Predictor
from .linear import fit_ridge

# Leading components of the baseline that trees may split on.
COMPONENTS = 8
TREES: dict[str, Any] = {"n_estimators": 60, "learning_rate": 0.05, "num_leaves": 7, "min_child_samples": 10}
# Columns that help a column most; all of them would cost their square.
NEAREST = 40
ROUNDS = 5
FOREST_ROUNDS, FOREST_DATASETS = 2, 4
BOOSTING: dict[str, Any] = {"num_iterations": 30, "num_leaves": 7, "min_data_in_leaf": 10, "learning_rate": 0.1}
# The same trees every time.
BOOSTING |= {"num_threads": 1, "deterministic": True, "force_col_wise": True}


class Peer:
    """A method that needs packages of its own, or other versions than there are.

    needs : name -> the first version that is too new, or None where any will do.
    """

    needs: ClassVar[dict[str, str | None]] = {}

    @classmethod
    def absent(cls) -> str | None:
        """What has to be installed, as pip writes it, or None where all is there."""
        for package, bound in cls.needs.items():
            found = installed(package)
            if found is None:
                return package
            if bound is not None and _numbers(found) >= _numbers(bound):
                return f"{package}<{bound}"
        return None

    @classmethod
    def versions(cls) -> dict[str, str | None]:
        """Versions of what it needs."""
        return {package: installed(package) for package in cls.needs}


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:2] if part.isdigit()]


class BoostedTrees(Peer, GaussianBaseline):
    """LightGBM (Ke et al. 2017) on what a ridge leaves of each feature's change on people it has not seen.

    Trees see the feature's own baseline, leading components of all baselines, covariates, gap, and the ridge's
    prediction. Small trees and few of them: pairs are few.
    """

    needs: ClassVar = {"lightgbm": None}

    def regression(self, X: np.ndarray, change: np.ndarray) -> Predictor:
        import lightgbm

        centre = X[:, : self.width].mean(axis=0)
        turn = np.linalg.svd(X[:, : self.width] - centre, full_matrices=False)[2][:COMPONENTS].T
        ridge = fit_ridge(X, change)
        expected = np.empty_like(change)
        for learn, rest in KFold(5).split(X):
            expected[rest] = fit_ridge(X[learn], change[learn])(X[rest])

        def columns(X: np.ndarray, predicted: np.ndarray, feature: int) -> np.ndarray:
            own = np.stack([X[:, feature], predicted[:, feature]], axis=1)
            return np.concatenate([own, (X[:, : self.width] - centre) @ turn, X[:, self.width :]], axis=1)

        exactly: dict[str, Any] = {
            "random_state": self.seed,
            "n_jobs": 1,
            "deterministic": True,
            "force_col_wise": True,
            "verbose": -1,
        }
        left = change - expected
        trees = {}
        for feature in range(self.width):
            rows = np.isfinite(left[:, feature])
            if rows.sum() >= FEWEST_KNOWN:
                seen = columns(X[rows], expected[rows], feature)
                trees[feature] = lightgbm.LGBMRegressor(**TREES, **exactly).fit(seen, left[rows, feature])

        def predict(X: np.ndarray) -> np.ndarray:
            predicted = ridge(X)
            linear = predicted.copy()
            for feature, model in trees.items():
                predicted[:, feature] += model.booster_.predict(columns(X, linear, feature))
            return predicted

        return predict


class Chained(Peer, DrawnBaseline):
    """Chained equations over a table [baseline, covariates, gap | change] of the training pairs.

    A missing target cell is a missing cell here. A person to impute is a row without changes. People without a pair
    would add nothing: every column is learned from the rows in which it is known.
    """

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        self.names = [f"x{k}" for k in range(X.shape[1])] + [f"y{k}" for k in range(self.width)]
        # Some libraries learn those columns alone that have a gap: one row more, of which no change is known.
        rows = np.vstack([np.hstack([X, change]), np.hstack([X[:1], np.full((1, self.width), np.nan)])])
        self.table = pd.DataFrame(rows, columns=self.names)
        self.kept: tuple[np.ndarray, tuple[int, int], np.ndarray] | None = None
        self.train()

    @abstractmethod
    def train(self) -> None:
        """Learn from `table`."""

    @abstractmethod
    def impute(self, table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
        """Changes (M, N, D) of a table (N rows) whose changes are missing."""

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        # Asked for the mean and then for the draws, it imputes once.
        asked = (len(draws), seed)
        if self.kept is None or self.kept[1] != asked or not np.array_equal(self.kept[0], X):
            empty = np.full((len(X), self.width), np.nan)
            table = pd.DataFrame(np.hstack([X, empty]), columns=self.names)
            self.kept = X, asked, self.impute(table, *asked)
        return self.context.original(X[:, : self.width] + self.kept[2], people, X)


class IterativeBayes(Chained):
    """scikit-learn's IterativeImputer with Bayesian ridges and draws from their posterior (van Buuren 2011)."""

    def train(self) -> None:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer

        columns = len(self.names)
        nearest = NEAREST if columns > 2 * NEAREST else None
        self.imputer = IterativeImputer(
            sample_posterior=True,
            max_iter=ROUNDS,
            n_nearest_features=nearest,
            skip_complete=True,
            keep_empty_features=True,
            random_state=self.seed,
        )
        self.imputer.fit(np.array(self.table))

    def impute(self, table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
        self.imputer.random_state_ = np.random.RandomState(seed % 2**32)
        rows = np.array(table)
        return np.stack([self.imputer.transform(rows)[:, -self.width :] for _ in range(draws)])


class Miceforest(Chained):
    """miceforest: chained equations with LightGBM and mean matching; few data sets, each drawn from several times.

    A change is predicted from its own baseline, covariates and gap, and the columns most correlated with it.
    """

    # Its release 6.0 calls a private method of lightgbm that 4.7 has changed.
    needs: ClassVar = {"miceforest": None, "lightgbm": "4.7"}

    def train(self) -> None:
        import miceforest

        self.kernel = miceforest.ImputationKernel(
            self.table, num_datasets=FOREST_DATASETS, variable_schema=self._schema(), random_state=self.seed
        )
        self.kernel.mice(FOREST_ROUNDS, **BOOSTING)

    def _schema(self) -> dict[str, list[str]]:
        given = len(self.names) - self.width
        values = self.table.to_numpy()[:-1]
        values = np.where(np.isfinite(values), values, np.nanmean(values, axis=0))
        spread = values.std(axis=0)
        standard = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
        schema = {}
        for feature in range(self.width):
            near = np.abs(standard.T @ standard[:, given + feature])
            near[[feature, given + feature, *range(self.width, given)]] = -1.0
            chosen = np.argsort(-near, kind="stable")[:NEAREST]
            always = [feature, *range(self.width, given)]
            helpers = [*always, *(int(k) for k in chosen if near[k] >= 0)]
            schema[self.names[given + feature]] = [self.names[k] for k in helpers]
        return schema

    def impute(self, table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
        made: list[np.ndarray] = []
        while len(made) < draws:
            filled = self.kernel.impute_new_data(table, random_state=(seed + len(made)) % 2**32)
            for number in range(FOREST_DATASETS):
                made.append(filled.complete_data(number).to_numpy(dtype=float)[:, -self.width :])
        return np.stack(made[:draws])


class HyperImputer(Chained):
    """HyperImpute (Jarrett et al. 2022) with linear learners: one completed table, so one draw."""

    # Its release 0.1 writes into parts of a table, which pandas 3 takes for copies: it then returns the means.
    needs: ClassVar = {"hyperimpute": None, "pandas": "3.0"}

    def train(self) -> None:
        """It learns while it completes a table."""

    def impute(self, table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
        from hyperimpute.plugins.imputers import Imputers

        plugin = Imputers().get(
            "hyperimpute",
            optimizer="simple",
            classifier_seed=["logistic_regression"],
            regression_seed=["linear_regression"],
            random_state=self.seed,
        )
        whole = pd.concat([self.table, table], ignore_index=True)
        filled = np.asarray(plugin.fit_transform(whole.copy()), dtype=float)
        return filled[None, len(self.table) :, -self.width :]
