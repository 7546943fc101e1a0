"""Peers of benchmarks/trajectories.py that read a person as one wide row, or as a series of steps: miceforest, SAITS.

Both see every visit that is shown, its time and the covariates. They are asked for hidden visits of other people
without being fitted again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import secondgram as sg
from secondgram.cohort.scaling import CovariateEncoder, SharedScaling
from secondgram.comparison.hidden_visits import HiddenVisits
from secondgram.comparison.methods.peers import BOOSTING, FOREST_DATASETS, FOREST_ROUNDS, NEAREST
from secondgram.imputation.history import History, filled_times, first_cells, usual_times
from secondgram.imputation.trajectory.anchored import Anchoring

DRAWS = 20
# People with whom a visit is a column of the wide table: a tree needs as many on both sides.
FEWEST = 20
# Share of the people by whom SAITS is stopped, and its errors measured.
HELD_BACK = 0.25
EPOCHS, PATIENCE = 300, 20


class Steps:
    """People as arrays: visits (N, V, D) scaled within sites, times (N, V), covariates (N, p), unknown ones mean."""

    def __init__(self, train: sg.Cohort) -> None:
        self.scaling = SharedScaling.fit(first_cells(train), train.site)
        self.parts = Anchoring(self.scaling, CovariateEncoder.fit(train.covariate_table), usual_times(train))

    def of(self, history: History, site: np.ndarray | None, table: pd.DataFrame) -> tuple[np.ndarray, ...]:
        times, person = filled_times(history.times, self.parts.usual), self.parts._person(table, None)
        return self.parts._scaled(history, site), times, person[:, 1:]

    def of_cohort(self, cohort: sg.Cohort) -> tuple[np.ndarray, ...]:
        return self.of(History.of(cohort, hide=False), cohort.site, cohort.covariate_table)

    def of_hidden(self, rows: HiddenVisits) -> tuple[np.ndarray, ...]:
        table = rows.whole.covariate_table.iloc[rows.person].reset_index(drop=True)
        return self.of(rows.history(), rows.site, table)

    def original(self, scaled: np.ndarray, rows: HiddenVisits) -> np.ndarray:
        return self.scaling.invert(scaled, rows.site)


class WideForest:
    """miceforest on one row a person: every feature of every visit a column, a few data sets, each drawn from often."""

    def __init__(self, train: sg.Cohort, seed: int) -> None:
        import miceforest

        self.steps = Steps(train)
        visits, times, covariates = self.steps.of_cohort(train)
        self.slots = np.flatnonzero(np.isfinite(visits).any(axis=2).sum(axis=0) >= FEWEST)
        self.table = self._table(visits, times, covariates)
        # A column without a gap is not learned; one person more lacks everything.
        empty = self.table.iloc[:1].copy()
        empty[:] = np.nan
        given = [name for name in self.table if name.startswith(("time", "covariate"))]
        empty[given] = self.table[given].mean().to_numpy()
        table = pd.concat([self.table, empty], ignore_index=True)
        self.kernel = miceforest.ImputationKernel(
            table, num_datasets=FOREST_DATASETS, variable_schema=self._schema(given), random_state=seed
        )
        self.kernel.mice(FOREST_ROUNDS, **BOOSTING)

    def _table(self, visits: np.ndarray, times: np.ndarray, covariates: np.ndarray) -> pd.DataFrame:
        columns = {f"y{f}@{k}": visits[:, k, f] for k in self.slots for f in range(visits.shape[2])}
        columns |= {f"time@{k}": times[:, k] for k in self.slots}
        columns |= {f"covariate{k}": covariates[:, k] for k in range(covariates.shape[1])}
        return pd.DataFrame(columns)

    def _schema(self, given: list[str]) -> dict[str, list[str]]:
        learned = [name for name in self.table if name not in given]
        values = self.table[learned].to_numpy()
        seen = np.isfinite(values)
        centred = np.where(seen, values - np.nanmean(values, axis=0), 0.0)
        common = seen.T.astype(float) @ seen
        # Of columns that few people have both of, nothing is taken as known.
        together = centred.T @ centred / np.where(common >= FEWEST // 2, common, np.inf)
        spread = np.sqrt(np.maximum(np.diag(together), 1e-12))
        near = np.abs(together / spread / spread[:, None])
        schema = {}
        for place, name in enumerate(learned):
            feature = name.split("@")[0]
            same = [each for each in learned if each.split("@")[0] == feature and each != name]
            chosen = [learned[k] for k in np.argsort(-near[place], kind="stable")[: NEAREST + len(self.slots)]]
            others = [each for each in chosen if each != name and each not in same][:NEAREST]
            schema[name] = [*same, *others, *given]
        return schema

    def draws(self, rows: HiddenVisits) -> np.ndarray:
        """(M, T, D) in original units, NaN at a visit that too few came to for a column."""
        visits, times, covariates = self.steps.of_hidden(rows)
        table, width = self._table(visits, times, covariates), visits.shape[2]
        made: list[np.ndarray] = []
        for call in range(DRAWS // FOREST_DATASETS):
            filled = self.kernel.impute_new_data(table, random_state=call)
            for number in range(FOREST_DATASETS):
                whole = filled.complete_data(number).to_numpy(dtype=float)[:, : len(self.slots) * width]
                whole = whole.reshape(len(rows), len(self.slots), width)
                own = np.searchsorted(self.slots, rows.slot).clip(max=len(self.slots) - 1)
                drawn = whole[np.arange(len(rows)), own]
                drawn[self.slots[own] != rows.slot] = np.nan
                made.append(self.steps.original(drawn, rows))
        return np.stack(made)


class Saits:
    """SAITS of PyPOTS (Du et al. 2023): attention over a person's visits; normal errors as of people held back."""

    def __init__(self, train: sg.Cohort, tasks: tuple[str, ...], seed: int) -> None:
        import torch
        from pypots.imputation.saits import SAITS

        torch.manual_seed(seed)
        self.steps = Steps(train)
        kept = train.units().astype(str)
        names = np.unique(kept)
        back = np.random.default_rng(seed).permutation(names)[: max(int(HELD_BACK * len(names)), 2)]
        learns, held = train.take(~np.isin(kept, back)), train.take(np.isin(kept, back))
        series = self._series(*self.steps.of_cohort(learns))
        rows = [HiddenVisits.of(held, task) for task in tasks]
        shown = [self._series(*self.steps.of_hidden(each)) for each in rows]
        true = [self._whole(each, seen) for each, seen in zip(rows, shown, strict=True)]
        self.model = SAITS(
            n_steps=series.shape[1],
            n_features=series.shape[2],
            n_layers=2,
            d_model=128,
            n_heads=4,
            d_k=32,
            d_v=32,
            d_ffn=128,
            dropout=0.1,
            epochs=EPOCHS,
            patience=PATIENCE,
            batch_size=32,
            verbose=False,
            device="cpu",
        )
        self.model.fit({"X": series}, {"X": np.concatenate(shown), "X_ori": np.concatenate(true)})
        self.spread = {}
        for task, each in zip(tasks, rows, strict=True):
            error = self.steps.scaling.apply(each.followup, each.site) - self._scaled(each)
            self.spread[task] = np.sqrt(np.nanmean(error**2, axis=0))

    @staticmethod
    def _series(visits: np.ndarray, times: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        shape = *visits.shape[:2], covariates.shape[1]
        parts = visits, times[:, :, None], np.broadcast_to(covariates[:, None], shape)
        return np.concatenate(parts, axis=2).astype(np.float32)

    def _whole(self, rows: HiddenVisits, shown: np.ndarray) -> np.ndarray:
        whole = shown.copy()
        hidden = self.steps.scaling.apply(rows.followup, rows.site)
        whole[np.arange(len(rows)), rows.slot, : hidden.shape[1]] = hidden
        return whole

    def _scaled(self, rows: HiddenVisits) -> np.ndarray:
        filled: Any = self.model.predict({"X": self._series(*self.steps.of_hidden(rows))})["imputation"]
        return np.asarray(filled[np.arange(len(rows)), rows.slot, : rows.followup.shape[1]], dtype=float)

    def predict(self, rows: HiddenVisits, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread (T, D) in original units."""
        mean = self._scaled(rows)
        unit = self.steps.scaling.original_scale(len(mean), rows.site)[1]
        return self.steps.original(mean, rows), np.broadcast_to(unit * self.spread[task], mean.shape)
