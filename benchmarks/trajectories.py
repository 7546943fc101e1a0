"""What every further scan of a person is worth: hidden visits told from all others of the same person.

    python benchmarks/trajectories.py --data FOLDER [--features N] [--repeats N] [--quick]

On refund_dti (100 people, 2 to 8 visits, 296 features), people held out whole, five folds a repeat. A visit is hidden
and told from those before it (forecast), from all others where it lies between them (interpolate), and the first one
from those after it (backcast). Peers: the nearest known visit carried over, linear interpolation between the
neighbours, the mixed model per feature on all known visits, and a ridge on the nearest visit. CRPS and RMSE in SD of
the first visits, 95 % intervals from resampled people. Writes benchmarks/results/trajectories.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bed_tasks import REAL, only
from ledger import commit, flags, processor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict

import secondgram as sg
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


def scored(mean: np.ndarray, spread: np.ndarray, truth: np.ndarray, unit: np.ndarray) -> dict[str, np.ndarray]:
    """Of a normal distribution: CRPS, squared error (T, D) and whether 90 % intervals hold the truth."""
    error = truth - mean
    return {
        "crps": normal_crps(error, spread) / unit,
        "square": (error / unit) ** 2,
        "covered": np.where(np.isfinite(error), np.abs(error) <= 1.6449 * spread, np.nan),
    }


def fold(train: sg.Cohort, test: sg.Cohort, seed: int) -> dict[str, dict[str, Any]]:
    """By task: people judged, and by method what `scored` gives."""
    model = TrajectoryModel.fit(train, DefaultOptions(shape="off"), seed=seed, run=Run(None, 1e9, False, False))
    mixed = MixedModel().fit(train, seed)
    unit = np.nanstd(first_cells(train), axis=0)
    learned = [HiddenVisits.of(train, task) for task in TASKS]
    ridge = NearestRidge(model).fit(learned)
    found = {}
    for task, before in zip(TASKS, learned, strict=True):
        rows = HiddenVisits.of(test, task)
        people, truth = rows.people(), rows.followup
        draws = model.draw(people, np.arange(DRAWS), seed=1)
        low, high = central_interval(draws)
        inside = np.where(np.isfinite(truth), (truth >= low) & (truth <= high), np.nan)
        square = ((truth - model.mean(people, np.arange(DRAWS), seed=1)) / unit) ** 2
        centre, variance = mixed._conditional(people)
        scale = mixed.context.scaling.original_scale(len(centre), rows.site)[1]
        of_each = mixed.context.scaling.invert(centre, rows.site), scale * np.sqrt(variance)
        methods = {OURS: {"crps": crps(draws, truth) / unit, "square": square, "covered": inside}}
        methods["mixed-model"] = scored(*of_each, truth, unit)
        methods["ridge on the nearest"] = scored(*ridge.predict(rows), truth, unit)
        for name, of in (("nearest", lambda each: each), ("linear", HiddenVisits.between)):
            spread = np.nanstd(before.followup - of(before).baseline, axis=0)
            methods[name] = scored(of(rows).baseline, np.broadcast_to(spread, truth.shape), truth, unit)
        found[task] = {"unit": rows.units().astype(str), **methods}
    return found


def summary(folds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """By task and method: CRPS and RMSE with intervals, coverage, and differences of ours to each peer."""
    found: dict[str, Any] = {}
    for task in TASKS:
        parts = [each[task] for each in folds]
        unit = np.concatenate([part["unit"] for part in parts])
        weights = resamples(unit, BOOTSTRAPS, 0)
        names = [name for name in parts[0] if name != "unit"]
        whole = {name: {k: np.concatenate([part[name][k] for part in parts]) for k in parts[0][name]} for name in names}
        found[task] = {"hidden visits": len(unit), "people": len(np.unique(unit)), "methods": {}}
        average = {
            name: {k: cell_mean(v, weights).mean(axis=1) for k, v in each.items()} for name, each in whole.items()
        }
        for name, each in average.items():
            found[task]["methods"][name] = {
                "crps": interval(each["crps"]),
                "rmse": interval(np.sqrt(each["square"])),
                "coverage": interval(each["covered"]),
                "crps less ours": interval(each["crps"] - average[OURS]["crps"]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds refund_dti")
    parser.add_argument("--features", type=int, help="so many of the features, for a look; nothing is kept then")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    cohort = REAL["refund"].cohort(given.data)
    if given.features:
        step = len(cohort.features) // given.features
        cohort = only(cohort, np.arange(len(cohort.features)) % step == 0)
    folds = []
    for repeat in range(given.repeats):
        for train, test in cohort.folds(5, repeat):
            folds.append(fold(cohort.take(train), cohort.take(test), repeat))
            print(f"repeat {repeat}: {len(folds)} folds", flush=True)
    found = summary(folds)
    for task, of_task in found.items():
        print(f"\n{task}: {of_task['hidden visits']} hidden visits of {of_task['people']} people")
        for name, each in of_task["methods"].items():
            line = "  ".join(f"{key} {v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for key, v in each.items())
            print(f"  {name:22} {line}")
    if not given.features:
        facts = {"commit": commit(), "processor": processor(), "flags": flags(), "repeats": given.repeats}
        with replacing(RESULT) as temporary:
            temporary.write_text(json.dumps(facts | {"tasks": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
