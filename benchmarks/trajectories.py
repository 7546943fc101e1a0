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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bed_tasks import REAL, only
from ledger import commit, flags, processor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict

import secondgram as sg
from secondgram.evaluation.metrics.bootstrap import cell_mean, interval, resamples
from secondgram.files import replacing
from secondgram.imputation.default.model import DefaultOptions
from secondgram.imputation.history import History, years
from secondgram.imputation.model_data import People
from secondgram.imputation.scores import crps, normal_crps
from secondgram.imputation.trajectory.trajectory_model import TrajectoryModel
from secondgram.training.trainer import Run

RESULT = Path(__file__).parent / "results" / "trajectories.json"
TASKS = ("forecast", "interpolate", "backcast")
OURS = "default"
DRAWS = 99
BOOTSTRAPS = 2000
# Of `People`, one row a person.
JOINED = ("ids", "keys", "baseline", "gap", "known")
PENALTIES = tuple(10.0 ** np.arange(1, 7))


def hidden(cohort: sg.Cohort, task: str) -> tuple[People, np.ndarray, np.ndarray]:
    """People with a hidden visit each, what it showed (T, D), and the rows (T,) of the cohort that they are."""
    seen = np.isfinite(cohort.visits).any(axis=2)
    slot = np.arange(seen.shape[1])
    person: list[int] = []
    visit: list[int] = []
    shown: list[np.ndarray] = []
    for row, visits in enumerate(map(np.flatnonzero, seen)):
        chosen: dict[str, np.ndarray] = {
            "forecast": visits[1:],
            "interpolate": visits[1:-1],
            "backcast": visits[: min(1, len(visits) - 1)],
        }
        for at in chosen[task]:
            person.append(row)
            visit.append(at)
            shown.append(seen[row] & {"forecast": slot < at, "interpolate": slot != at, "backcast": slot > at}[task])
    who, at, known = np.array(person), np.array(visit), np.array(shown)
    times = years(cohort)[who]
    history = History(np.where(known[:, :, None], cohort.visits[who], np.nan), times, times[np.arange(len(who)), at])
    people = replace(People.of(cohort, keep_known=False).take(who), history=history)
    return people, cohort.visits[who, at], who


def nearest(history: History) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) each feature's nearest known visit, and (T,) signed years from it to the hidden one."""
    away = np.where(history.known, history.at[:, None] - history.times, np.inf)
    place = np.abs(away).argmin(axis=1)
    rows = np.arange(len(away))
    return history.visits[rows, place], away[rows, place]


def between(history: History) -> np.ndarray:
    """(T, D) the line through the neighbours in time; the nearest visit where there is one on one side alone."""
    value, _ = nearest(history)
    for row in range(len(value)):
        known = np.flatnonzero(history.known[row])
        known = known[np.argsort(history.times[row, known])]
        times, at = history.times[row, known], history.at[row]
        if times[0] < at < times[-1]:
            right = int(np.searchsorted(times, at))
            share = (at - times[right - 1]) / (times[right] - times[right - 1])
            value[row] = (1 - share) * history.visits[row, known[right - 1]] + share * history.visits[row, known[right]]
    return value


class NearestRidge:
    """Ridge on the nearest visit, covariates, years from it and number of visits; spread from held-back people."""

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model

    def inputs(self, people: People) -> np.ndarray:
        assert people.history is not None
        value, away = nearest(people.history)
        scaled = self.model.scaling.apply(value, people.site)
        covariates = self.model.encoder.transform(people.table, people.source)
        count = np.log(people.history.known.sum(axis=1))
        return np.nan_to_num(np.column_stack([scaled, covariates, away, np.abs(away), count]))

    def fit(self, people: People, truth: np.ndarray, group: np.ndarray) -> NearestRidge:
        X = self.inputs(people)
        change = np.nan_to_num(self.model.scaling.apply(truth, people.site)) - X[:, : truth.shape[1]]
        # By people held back whole: rows of one person would tell each other.
        left = np.stack(
            [change - cross_val_predict(Ridge(each), X, change, groups=group, cv=GroupKFold(5)) for each in PENALTIES]
        )
        best = (left**2).mean(axis=1).argmin(axis=0)
        self.ridge = Ridge(np.array(PENALTIES)[best]).fit(X, change)
        self.spread = left[best, :, np.arange(len(best))].std(axis=1)
        return self

    def predict(self, people: People) -> tuple[np.ndarray, np.ndarray]:
        X = self.inputs(people)
        mean = X[:, : len(self.spread)] + self.ridge.predict(X)
        unit = self.model.scaling.original_scale(len(X), people.site)[1]
        return self.model.scaling.invert(mean, people.site), np.broadcast_to(unit * self.spread, mean.shape)


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
    unit = np.nanstd(train.visits[np.arange(len(train)), np.isfinite(train.visits).any(axis=2).argmax(axis=1)], axis=0)
    learned = [hidden(train, task) for task in TASKS]
    everyone = [np.concatenate(each) for each in zip(*[(truth, who) for _, truth, who in learned], strict=True)]
    rows = joined([people for people, _, _ in learned])
    ridge = NearestRidge(model).fit(rows, *everyone)
    found = {}
    for task, (people, truth, who), (before, known, _) in zip(
        TASKS, [hidden(test, task) for task in TASKS], learned, strict=True
    ):
        assert people.history is not None
        assert before.history is not None
        draws = model.draw(people, np.arange(DRAWS), seed=1)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        inside = np.where(np.isfinite(truth), (truth >= low) & (truth <= high), np.nan)
        square = ((truth - model.mean(people, np.arange(DRAWS), seed=1)) / unit) ** 2
        anchored = model.expected(people)
        methods = {OURS: {"crps": crps(draws, truth) / unit, "square": square, "covered": inside}}
        methods["mixed-model"] = scored(*anchored, truth, unit)
        methods["ridge on the nearest"] = scored(*ridge.predict(people), truth, unit)
        for name, of in (("nearest", lambda each: nearest(each)[0]), ("linear", between)):
            spread = np.nanstd(known - of(before.history), axis=0)
            methods[name] = scored(of(people.history), np.broadcast_to(spread, truth.shape), truth, unit)
        found[task] = {"unit": test.units()[who].astype(str), **methods}
    return found


def joined(parts: list[People]) -> People:
    """The people of several, in order."""
    first = parts[0]
    histories = [each.history for each in parts if each.history is not None]
    history = History(*(np.concatenate([getattr(h, name) for h in histories]) for name in ("visits", "times", "at")))
    columns: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in parts]) for name in JOINED}
    columns["table"] = pd.concat([each.table for each in parts], ignore_index=True)
    if first.site is not None:
        columns["site"] = np.concatenate([each.site for each in parts if each.site is not None])
    return replace(first, history=history, **columns)


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
