"""What every further scan of a person is worth: hidden visits told from all others of the same person.

    python benchmarks/trajectories.py --data FOLDER [--cohort refund | corr] [--features N] [--repeats N] [--others N]

On refund_dti (100 people, 2 to 8 visits, 296 features), or those of corr_qap's 1,482 people who have three sessions or
more (the others teach), people held out whole, five folds a repeat. A visit is hidden and told from those before it
(forecast), from all others where it lies between them (interpolate), and the first one from those after it (backcast).
Peers: the nearest known visit carried over, linear interpolation between the neighbours, the mixed model per feature on
all known visits, and a ridge on the nearest visit; with `--others`, in so many of the repeats, miceforest on one wide
row a person and SAITS (pip install pypots miceforest "lightgbm<4.7"). CRPS and RMSE in SD of the first visits (within
site), "rmse of people" in SD of all visits with every person counting once; 95 % intervals from resampled people.
Writes benchmarks/results/trajectories.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bed_tasks import REAL, only
from ledger import commit, flags, processor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from trajectory_peers import Saits, WideForest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.hidden_visits import HiddenVisits
from secondgram.comparison.methods.mixed import MixedModel
from secondgram.evaluation.metrics.bootstrap import cell_mean, interval, resamples
from secondgram.evaluation.metrics.cell_scores import central_interval
from secondgram.files import replacing
from secondgram.imputation.default.model import DefaultOptions
from secondgram.imputation.history import first_cells
from secondgram.imputation.scores import crps, normal_crps
from secondgram.imputation.trajectory.trajectory_model import TrajectoryModel
from secondgram.training.trainer import Run

RESULT = Path(__file__).parent / "results" / "trajectories.json"
TASKS = ("forecast", "interpolate", "backcast")
OURS = "default"
DRAWS = 99
BOOTSTRAPS = 2000
PENALTIES = tuple(10.0 ** np.arange(1, 7))
# Fewest visits of a person who is judged.
COHORTS = {"refund": 2, "corr": 3}
Scores = dict[str, np.ndarray]


class NearestRidge:
    """Ridge on the nearest visit, covariates, years from it and number of visits; spread from held-back people."""

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model

    def inputs(self, rows: HiddenVisits) -> np.ndarray:
        history = rows.history()
        away = np.where(rows.known, history.at[:, None] - history.times, np.inf)
        away = away[np.arange(len(away)), np.abs(away).argmin(axis=1)]
        scaled = self.model.scaling.apply(rows.baseline, rows.site)
        # The number of visits is among the covariates of hidden visits, and not among those of the model.
        covariates = self.model.encoder.transform(rows.covariate_table, rows.source)
        count = np.log(rows.known.sum(axis=1))
        return np.nan_to_num(np.column_stack([scaled, covariates, away, np.abs(away), count]))

    def fit(self, learned: list[HiddenVisits]) -> NearestRidge:
        X = np.concatenate([self.inputs(rows) for rows in learned])
        truth = np.concatenate([self.model.scaling.apply(rows.followup, rows.site) for rows in learned])
        group = np.concatenate([rows.units() for rows in learned]).astype(str)
        change = np.nan_to_num(truth) - X[:, : truth.shape[1]]
        # By people held back whole: rows of one person would tell each other.
        left = np.stack(
            [change - cross_val_predict(Ridge(each), X, change, groups=group, cv=GroupKFold(5)) for each in PENALTIES]
        )
        best = (left**2).mean(axis=1).argmin(axis=0)
        self.ridge = Ridge(np.array(PENALTIES)[best]).fit(X, change)
        self.spread = left[best, :, np.arange(len(best))].std(axis=1)
        return self

    def predict(self, rows: HiddenVisits) -> tuple[np.ndarray, np.ndarray]:
        X = self.inputs(rows)
        mean = X[:, : len(self.spread)] + self.ridge.predict(X)
        unit = self.model.scaling.original_scale(len(X), rows.site)[1]
        return self.model.scaling.invert(mean, rows.site), np.broadcast_to(unit * self.spread, mean.shape)


def scored(mean: np.ndarray, spread: np.ndarray, truth: np.ndarray, unit: Unit) -> Scores:
    """Of a normal distribution."""
    error = truth - mean
    inside = np.where(np.isfinite(error), np.abs(error) <= 1.6449 * spread, np.nan)
    return unit.scores(normal_crps(error, spread), error, inside)


def scored_draws(draws: np.ndarray, mean: np.ndarray, truth: np.ndarray, unit: Unit) -> Scores:
    """Of draws (M, T, D)."""
    low, high = central_interval(draws)
    known = np.isfinite(truth) & np.isfinite(mean)
    inside = np.where(known, (truth >= low) & (truth <= high), np.nan)
    return unit.scores(crps(draws, truth), truth - mean, inside)


class Units:
    """SD of first visits of people to learn from, and of all visits of everybody, within sites if there are any."""

    def __init__(self, train: sg.Cohort, everybody: sg.Cohort) -> None:
        visits, count = everybody.visits, everybody.visits.shape[1]
        site = None if everybody.site is None else np.tile(everybody.site, count)
        self.first = SharedScaling.fit(first_cells(train), train.site)
        self.every = SharedScaling.fit(np.concatenate([visits[:, visit] for visit in range(count)]), site)

    def of(self, rows: HiddenVisits) -> Unit:
        return Unit(*(each.original_scale(len(rows), rows.site)[1] for each in (self.first, self.every)))


@dataclass(frozen=True)
class Unit:
    """Those of T hidden visits, (T, D) each."""

    first: np.ndarray
    every: np.ndarray

    def scores(self, loss: np.ndarray, error: np.ndarray, inside: np.ndarray) -> Scores:
        """CRPS, squared errors by either unit, and whether 90 % intervals hold the truth, (T, D) each."""
        return {
            "crps": loss / self.first,
            "square": (error / self.first) ** 2,
            "square of all": (error / self.every) ** 2,
            "covered": inside,
        }


def fold(cohort: sg.Cohort, train: sg.Cohort, test: sg.Cohort, seed: int, others: bool) -> dict[str, dict[str, Any]]:
    """By task: people judged, and by method its scores.

    cohort : everybody, for a unit;  others : miceforest and SAITS too.
    """
    model = TrajectoryModel.fit(train, DefaultOptions(shape="off"), seed=seed, run=Run(None, 1e9, False, False))
    mixed = MixedModel().fit(train, seed)
    units = Units(train, cohort)
    learned = [HiddenVisits.of(train, task) for task in TASKS]
    ridge = NearestRidge(model).fit(learned)
    forest, saits = (WideForest(train, seed), Saits(train, TASKS, seed)) if others else (None, None)
    found = {}
    for task, before in zip(TASKS, learned, strict=True):
        rows = HiddenVisits.of(test, task)
        people, truth = rows.people(), rows.followup
        draws, mean = (of(people, np.arange(DRAWS), seed=1) for of in (model.draw, model.mean))
        centre, variance = mixed._conditional(people)
        scale = mixed.context.scaling.original_scale(len(centre), rows.site)[1]
        of_each = mixed.context.scaling.invert(centre, rows.site), scale * np.sqrt(variance)
        apart = {}
        for name, of in (("nearest", lambda each: each), ("linear", HiddenVisits.between)):
            spread = np.nanstd((before.followup - of(before).baseline) / units.of(before).first, axis=0)
            apart[name] = of(rows).baseline, spread
        unit = units.of(rows)
        methods = {OURS: scored_draws(draws, mean, truth, unit)}
        methods["mixed-model"] = scored(*of_each, truth, unit)
        methods["ridge on the nearest"] = scored(*ridge.predict(rows), truth, unit)
        for name, (centre, spread) in apart.items():
            methods[name] = scored(centre, unit.first * spread, truth, unit)
        if forest is not None and saits is not None:
            drawn = forest.draws(rows)
            # A visit that few came to is no column of the wide table; the nearest one stands in.
            centre, spread = apart["nearest"]
            noise = np.random.default_rng(seed).standard_normal(drawn.shape)
            drawn = np.where(np.isnan(drawn), centre + unit.first * spread * noise, drawn)
            methods["miceforest, wide"] = scored_draws(drawn, drawn.mean(axis=0), truth, unit)
            centre, spread = saits.predict(rows, task)
            methods["SAITS"] = scored(centre, spread, truth, unit)
        found[task] = {"unit": rows.units().astype(str), **methods}
    return found


def summary(folds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """By task and method: CRPS and RMSE with intervals, coverage, and differences of ours to each peer.

    Of a peer that some folds have, those alone are compared.
    """
    found: dict[str, Any] = {}
    for task in TASKS:
        parts = [each[task] for each in folds]
        unit = np.concatenate([part["unit"] for part in parts])
        found[task] = {"hidden visits": len(unit), "people": len(np.unique(unit)), "methods": {}}
        for name in [each for each in parts[0] if each != "unit"]:
            some = [part for part in parts if name in part]
            own, ours = (joined(some, each) for each in (name, OURS))
            found[task]["methods"][name] = {
                "crps": interval(own["crps"]),
                "rmse": interval(np.sqrt(own["square"])),
                "rmse of people": interval(np.sqrt(own["square of all"])),
                "coverage": interval(own["covered"]),
                "crps less ours": interval(own["crps"] - ours["crps"]),
                "folds": len(some),
            }
    return found


def joined(parts: list[dict[str, Any]], name: str) -> dict[str, np.ndarray]:
    """Averages over features of folds together, (1 + B,) each; of "square of all" every person counts once."""
    unit = np.concatenate([part["unit"] for part in parts])
    weights = resamples(unit, BOOTSTRAPS, 0)
    _, member, count = np.unique(unit, return_inverse=True, return_counts=True)
    once = {"square of all": weights / count[member]}
    return {
        key: cell_mean(np.concatenate([part[name][key] for part in parts]), once.get(key, weights)).mean(axis=1)
        for key in parts[0][name]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the cohorts")
    parser.add_argument("--cohort", choices=COHORTS, default="refund")
    parser.add_argument("--features", type=int, help="so many of the features, for a look; nothing is kept then")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--others", type=int, default=0, metavar="N", help="repeats with miceforest and SAITS, too")
    given = parser.parse_args()
    cohort = REAL[given.cohort].cohort(given.data)
    if given.features:
        step = len(cohort.features) // given.features
        cohort = only(cohort, np.arange(len(cohort.features)) % step == 0)
    judged = np.isfinite(cohort.visits).any(axis=2).sum(axis=1) >= COHORTS[given.cohort]
    folds = []
    for repeat in range(given.repeats):
        for train, test in cohort.folds(5, repeat):
            folds.append(fold(cohort, cohort.take(train), cohort.take(test & judged), repeat, repeat < given.others))
            print(f"repeat {repeat}: {len(folds)} folds", flush=True)
    found = summary(folds)
    for task, of_task in found.items():
        print(f"\n{task}: {of_task['hidden visits']} hidden visits of {of_task['people']} people")
        for name, each in of_task["methods"].items():
            figures = {key: v for key, v in each.items() if key != "folds"}
            line = "  ".join(f"{key} {v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for key, v in figures.items())
            print(f"  {name:22} {line}  {each['folds']} folds")
    if not given.features:
        facts = {"commit": commit(), "processor": processor(), "flags": flags(), "repeats": given.repeats}
        with replacing(RESULT) as temporary:
            whole = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
            whole[given.cohort] = facts | {"tasks": found}
            temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
