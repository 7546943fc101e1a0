"""Methods side by side on people held out whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from ..cohort.scaling import SharedScaling
from ..cohort.simulate import SimulatedCohort
from ..cohort.table import C, Cohort
from ..errors import InputError, some
from ..imputation.imputer import SecondgramImputer
from ..imputation.model import FollowupModel
from ..imputation.people import People, check_trainable
from ..progress import progress
from .baselines import BASELINES
from .evaluate import BOOTSTRAPS, true_followup
from .evidence import Evidence
from .metrics import METRICS, Cells, interval, resamples, scores

DEFAULT_METHODS = ("carry-forward", "mean-change", "ridge", "ridge-gaussian", "ridge-empirical", "paper", "default")
METHODS: dict[str, str] = {
    "carry-forward": "the follow-up equals the baseline",
    "mean-change": "baseline plus the change expected from covariates and gap",
    "ridge": "baseline plus a ridge on all features, covariates and gap",
    "ridge-gaussian": "ridge, with draws from a Gaussian of its out-of-fold residuals",
    "ridge-empirical": "the same, with every principal component of the residuals distributed as it was",
    "paper": "the published method",
    "paper-no-self": "the published method without self-conditioning",
    "default": "this library",
    "exact-posterior": "the simulator's own posterior, the best possible (mode gaussian)",
}
REFERENCE = "ridge-gaussian"


def compare(
    cohort: Cohort,
    methods: Sequence[str] = DEFAULT_METHODS,
    folds: int = 5,
    draws: int = 20,
    *,
    seed: int = 0,
    repeats: int = 1,
    bootstraps: int = BOOTSTRAPS,
    out: str | os.PathLike[str] | None = None,
    show: bool = True,
) -> pd.DataFrame:
    """Cross-validate methods over whole people; groups stay together.

    Parameters
    ----------
    methods : names from `METHODS`.
    folds, repeats : every person is tested once a repeat, by models that saw neither them nor their group; one fold
        holds a quarter of the people out once.
    draws : per person, for the methods that draw.
    seed : decides folds, training, draws and bootstrap.
    out : a folder for the table as CSV and Markdown, the scores per feature, what was run, and the report.

    Returns
    -------
    One row per method and metric: value, low, high (95 % bootstrap interval over people or groups), and the difference
    to `ridge-gaussian` with its interval from the same resamples, where that method takes part. Units: baseline SD,
    within site where declared. In a simulation the hidden follow-up of everyone is the truth.

    Raises `InputError` for unknown methods, or a cohort that cannot be learned from.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(f"unknown methods: {some(unknown)}", mend=f"Choose from {', '.join(METHODS)}")
    if "exact-posterior" in methods and getattr(cohort, "posterior_mean", None) is None:
        raise InputError("only a simulation in mode 'gaussian' knows its exact posterior")
    if draws < 1 or repeats < 1:
        raise InputError(f"draws={draws}, repeats={repeats}", mend="Use 1 or more of each")
    check_trainable(cohort)
    evidence = None if out is None else Evidence(out, methods)
    cells = _cross_validated(cohort, methods, folds, draws, seed, repeats, show, evidence)
    table = comparison_table(cells, bootstraps, seed)
    table.attrs.update(people=len(next(iter(cells.values())).truth) // repeats, draws=draws, folds=folds)
    table.attrs.update(repeats=repeats, seed=seed, features=len(cohort.features), pairs=int(cohort.paired.sum()))
    if out is not None and evidence is not None:
        from .files import write_run
        from .report import report

        write_run(out, table, cells, cohort)
        evidence.write(table, cells, cohort)
        report(out)
    return table


def splits(cohort: C, folds: int, repeats: int, seed: int) -> Iterator[tuple[str, C, C]]:
    """What, people to learn from, and people to judge by: those held out whose follow-up is known.

    One fold is a single split with a quarter of the people held out.
    """
    for repeat in range(repeats):
        for number, (train, test) in enumerate(cohort.folds(4 if folds == 1 else folds, seed + repeat)):
            judge = cohort.take(test)
            known = judge.scanned & np.isfinite(true_followup(judge)).any(axis=1)
            what = f"repeat {repeat + 1}" + (f", fold {number + 1}" if folds > 1 else "")
            yield what, cohort.take(train), judge.take(known)
            if number + 1 == folds:
                break


def _cross_validated(
    cohort: Cohort,
    methods: Sequence[str],
    folds: int,
    draws: int,
    seed: int,
    repeats: int,
    show: bool,
    evidence: Evidence | None,
) -> dict[str, Cells]:
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    parts: dict[str, list[Cells]] = {name: [] for name in methods}
    fitted = None if evidence is None else evidence.fitted
    with progress("comparing", folds * repeats * len(methods), show) as advance:
        for what, learn, judge in splits(cohort, folds, repeats, seed):
            check_trainable(learn)
            if not len(judge):
                continue
            for name in methods:
                advance(0, f"{what}, {name}")
                mean, drawn = predictions(name, learn, judge, draws, seed, fitted)
                if evidence is not None:
                    evidence.add(name, learn, judge, scaling, drawn)
                parts[name].append(scored(scaling, judge, mean, drawn))
                advance(1)
    return {name: Cells.joined(list_of) for name, list_of in parts.items()}


def predictions(
    name: str,
    learn: Cohort,
    judge: Cohort,
    draws: int,
    seed: int,
    fitted: Callable[[str, FollowupModel], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, D) and draws (M, N, D) of a method for people it has not seen, original units.

    fitted : told the name and the model of a preset once it is trained.
    """
    if name == "exact-posterior":
        assert isinstance(judge, SimulatedCohort)
        return np.asarray(judge.posterior_mean), judge.posterior_draws(draws, seed)
    if name in BASELINES:
        model = BASELINES[name]().fit(learn, seed)
        people, numbers = People.of(judge, keep_known=False), np.arange(draws)
        return model.mean(people, numbers, seed), model.draw(people, numbers, seed)
    imputer = (
        SecondgramImputer("paper", seed=seed, self_conditioning=False)
        if name == "paper-no-self"
        else SecondgramImputer(name, seed=seed)
    )
    imputer.fit(learn, show=False)
    if fitted is not None:
        fitted(name, imputer.model_)
    result = imputer.impute(judge, draws=draws, seed=seed, who="all")
    # The order of the people is that of `judge`: every one of them has a baseline.
    return (result.draws.mean(axis=0) if name != "default" else result.mean), result.draws


def scored(scaling: SharedScaling, judge: Cohort, mean: np.ndarray, drawn: np.ndarray) -> Cells:
    """Score a method's predictions, original units, for people whose follow-up is known."""
    site = judge.site
    return Cells.of(
        scaling.apply(true_followup(judge), site),
        scaling.apply(judge.baseline, site),
        scaling.apply(mean, site),
        np.stack([scaling.apply(draw, site) for draw in drawn]),
        judge.units(),
    )


def comparison_table(cells: dict[str, Cells], bootstraps: int, seed: int) -> pd.DataFrame:
    """One row per method and metric, with intervals and differences from the same resamples; see `compare`."""
    weights = resamples(next(iter(cells.values())).unit, bootstraps, seed)
    found = {name: scores(part, weights) for name, part in cells.items()}
    rows = []
    for name, values in found.items():
        for metric in METRICS:
            difference = (float("nan"),) * 3
            if REFERENCE in found and name != REFERENCE:
                difference = interval(values[metric] - found[REFERENCE][metric])
            rows.append((name, metric, *interval(values[metric]), *difference))
    names = ["method", "metric", "value", "low", "high", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(rows, columns=names)
