"""Methods side by side on people held out whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from ..cohort.scaling import SharedScaling
from ..cohort.simulated import SimulatedTrajectories
from ..cohort.table import C, Cohort
from ..errors import InputError, some
from ..evaluation.evaluate import BOOTSTRAPS, true_followup
from ..evaluation.metrics import (
    BETTER,
    FURTHER,
    METRICS,
    UNKNOWN,
    Cells,
    Yardstick,
    further_scores,
    interval,
    nominal_coverage,
    resamples,
    win_tie_loss,
)
from ..evaluation.metrics import scores as headline
from ..imputation.history import first_cells
from ..imputation.interfaces import FollowupModel
from ..imputation.trainable import check_trainable
from ..progress import progress
from .cache import FoldCache
from .evidence import Evidence
from .hidden_visits import FIRST, TASKS, HiddenVisits
from .isolated import PeerFailure, predictions_isolated
from .methods import BETWEEN, BY_NAME, DEFAULT_METHODS, HIDDEN_METHODS, METHODS, PEERS
from .predictions import predictions

ALL, EXACT = "all", "exact-posterior"
REFERENCE, CARRY = "ridge-gaussian", "carry-forward"
# Seconds that another library may take for one fold.
TIME_LIMIT = 1800.0
# Ranks are taken anew in every resample, which costs more than an average: fewer of them.
FURTHER_BOOTSTRAPS, FEWEST_BOOTSTRAPS, FURTHER_CELLS = 200, 50, 200_000_000


def compare(
    cohort: Cohort,
    methods: Sequence[str] | str | None = None,
    folds: int = 5,
    draws: int = 20,
    *,
    task: str = FIRST,
    seed: int = 0,
    repeats: int = 1,
    bootstraps: int = BOOTSTRAPS,
    out: str | os.PathLike[str] | None = None,
    time_limit: float = TIME_LIMIT,
    show: bool = True,
) -> pd.DataFrame:
    """Cross-validate methods over whole people; groups stay together.

    Parameters
    ----------
    methods : names from `METHODS`, or "all" for every one that this cohort and this machine allow; None for the usual
        ones of the task.
    folds, repeats : every person is tested once a repeat, by models that saw neither them nor their group; one fold
        holds a quarter of the people out once.
    draws : per person, for the methods that draw.
    task : what is imputed of whom is held out. `first`, the follow-up from the first visit. Of cohorts of three visits
        or more also visits that were measured and are hidden: `forecast`, each from those before it; `interpolate`,
        each between others, from all others; `backcast`, the first from all later ones; `as-missing`, with the patterns
        of those who missed some. The preset and the mixed model are then conditioned on every visit that is shown,
        other methods on the nearest, which stands for the baseline in all that is reported.
    seed : decides folds, training, draws and bootstrap.
    out : a folder for the table as CSV and Markdown, the scores per feature, calibration, components, resemblance,
        outcomes and noise ceilings as CSV, what was run, and the report. What is finished of a method and fold is
        kept in `parts` below it, and a rerun on the same cohort with the same settings and code goes on from there.
    time_limit : seconds that another library may take for one fold, in a process of its own.

    Returns
    -------
    One row per method and metric, the method of the lowest CRPS first: value, low, high (95 % bootstrap interval over
    people or groups), the difference to `ridge-gaussian` and to `carry-forward` (`carry_...`) with their intervals from
    the same resamples, where those take part, and a verdict on each: `better`, `worse`, or `tie` where the interval
    holds zero. For a metric that has a right value, such as a coverage, the verdict is on the distance to it. Units:
    baseline SD, within site where declared. In a simulation the hidden follow-up of everyone is the truth.

    A peer that is not installed is left out, and one that fails or takes too long has a row that says so; `attrs`
    holds both as `skipped` and `failed`. Raises `InputError` for unknown methods, or a cohort that cannot be learned
    from.
    """
    if task not in TASKS:
        raise InputError(f"task={task!r} is unknown", mend=f"Use one of {', '.join(TASKS)}")
    methods, skipped = _chosen(cohort, methods, task, show)
    if draws < 1 or repeats < 1:
        raise InputError(f"draws={draws}, repeats={repeats}", mend="Use 1 or more of each")
    if not time_limit > 0:
        raise InputError(f"time_limit={time_limit}", mend="Use a number of seconds above zero")
    people, cohort = cohort, cohort if task == FIRST else HiddenVisits.of(cohort, task, seed)
    _check(cohort, methods)
    settings = {"draws": draws, "folds": folds, "seed": seed} | ({} if task == FIRST else {"task": task})
    parts = FoldCache(None if out is None else Path(out), people, **settings)
    evidence = None if out is None else Evidence(out, methods)
    cells, failed = _cross_validated(cohort, methods, folds, draws, seed, repeats, show, parts, time_limit, evidence)
    table = comparison_table(cells, bootstraps, seed, further=True, failed=failed)
    table.attrs.update(people=len(next(iter(cells.values())).truth) // repeats, draws=draws, folds=folds)
    table.attrs.update(repeats=repeats, seed=seed, features=len(cohort.features), pairs=int(cohort.paired.sum()))
    if task != FIRST:
        table.attrs.update(task=task, subjects=len(people))
    table.attrs.update(skipped=skipped, failed=failed)
    table.attrs["peers"] = {name: PEERS[name].versions() for name in cells if name in PEERS}
    if out is not None and evidence is not None:
        from .details import details, write_details
        from .report import report
        from .run_folder import write_run

        tables, table.attrs["untold"] = details(cells, cohort, seed)
        write_run(out, table, cells, cohort)
        write_details(out, tables)
        evidence.write(table, cells, cohort)
        report(out)
    return table


def _chosen(
    cohort: Cohort, methods: Sequence[str] | str | None, task: str, show: bool
) -> tuple[list[str], dict[str, str]]:
    """The methods that can be run, and why others cannot; raises `InputError` for unknown ones or none."""
    exact = isinstance(cohort, SimulatedTrajectories) or getattr(cohort, "posterior_mean", None) is not None
    able = [name for name in METHODS if (exact or name != EXACT) and (task != FIRST or name not in BETWEEN)]
    if methods is None:
        usual = DEFAULT_METHODS if task == FIRST else HIDDEN_METHODS
        methods = [name for name in usual if name in able]
    elif isinstance(methods, str):
        methods = able if methods == ALL else [methods]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(f"unknown methods: {some(unknown)}", mend=f"Choose from {', '.join(METHODS)}, or {ALL}")
    if EXACT in methods and not exact:
        raise InputError("only a simulation in mode 'gaussian' or 'trajectories' knows its exact posterior")
    if not set(methods) <= {*able}:
        between = some([name for name in methods if name not in able])
        raise InputError(f"{between}: from the first visit alone nothing lies between two", mend="Give a task")
    skipped = {}
    for name in dict.fromkeys(methods):
        absent = PEERS[name].absent() if name in PEERS else None
        if absent:
            skipped[name] = f"needs {absent}, which is not installed: pip install '{absent}'"
            if show:
                print(f"{name} left out: {skipped[name]}", file=sys.stderr)
    kept = [name for name in dict.fromkeys(methods) if name not in skipped]
    if not kept:
        raise InputError(f"nothing to compare: {'; '.join(skipped.values())}")
    return kept, skipped


def splits(cohort: C, folds: int, repeats: int, seed: int) -> Iterator[tuple[str, C, C]]:
    """What, people to learn from, and people to judge by: those held out whose follow-up is known.

    One fold is a single split with a quarter of the people held out. Of hidden visits, people are those of the whole
    cohort, and those to learn from come with all of their visits.
    """
    for repeat in range(repeats):
        for number, (train, test) in enumerate(cohort.folds(4 if folds == 1 else folds, seed + repeat)):
            judge = cohort.take(test)
            known = judge.scanned & np.isfinite(true_followup(judge)).any(axis=1)
            what = f"repeat {repeat + 1}" + (f", fold {number + 1}" if folds > 1 else "")
            yield what, _learning(cohort, train), judge.take(known)
            if number + 1 == folds:
                break


def _learning(cohort: C, train: np.ndarray) -> C:
    learn = cohort.take(train)
    return cast(C, learn.without(cohort.units()[~train])) if isinstance(learn, HiddenVisits) else learn


def _cross_validated(
    cohort: Cohort,
    methods: Sequence[str],
    folds: int,
    draws: int,
    seed: int,
    repeats: int,
    show: bool,
    parts: FoldCache,
    time_limit: float,
    evidence: Evidence | None,
) -> tuple[dict[str, Cells], dict[str, str]]:
    """The cells of every method that came through, and why the others did not."""
    scaling = _scaling(cohort)
    yardstick = Yardstick.fit(
        scaling.apply(true_followup(cohort), cohort.site), scaling.apply(cohort.baseline, cohort.site)
    )
    cells: dict[str, list[Cells]] = {name: [] for name in methods}
    failed: dict[str, str] = {}
    fitted = None if evidence is None else evidence.fitted
    with progress("comparing", folds * repeats * len(methods), show) as advance:
        for what, learn, judge in splits(cohort, folds, repeats, seed):
            _check(learn, methods)
            if not len(judge):
                continue
            for name in methods:
                advance(0, f"{what}, {name}")
                if name not in failed:
                    try:
                        mean, drawn = _remembered(parts, name, what, learn, judge, draws, seed, time_limit, fitted)
                        cells[name].append(scored(scaling, judge, mean, drawn, yardstick))
                        if evidence is not None:
                            evidence.add(name, learn, judge, scaling, drawn)
                    except PeerFailure as failure:
                        failed[name] = f"{what}: {failure}"
                advance(1)
    through = {name: Cells.joined(list_of) for name, list_of in cells.items() if name not in failed}
    if not through:
        raise InputError(f"no method came through: {'; '.join(f'{name}, {why}' for name, why in failed.items())}")
    return through, failed


def _check(learn: Cohort, methods: Sequence[str]) -> None:
    """Raise `InputError` for people whom a method cannot learn from: of hidden visits, those that it reads."""
    if not isinstance(learn, HiddenVisits):
        check_trainable(learn)
        return
    readers = [name for name in methods if BY_NAME[name].history]
    if any(BY_NAME[name].learner or BY_NAME[name].preset for name in readers):
        check_trainable(learn.whole)
    if len(readers) < len(methods):
        check_trainable(learn.plain())


def _scaling(cohort: Cohort) -> SharedScaling:
    """Units of a comparison: SD of the first visits."""
    if isinstance(cohort, HiddenVisits):
        return SharedScaling.fit(first_cells(cohort.whole), cohort.whole.site)
    return SharedScaling.fit(cohort.baseline, cohort.site)


def _remembered(
    parts: FoldCache,
    name: str,
    what: str,
    learn: Cohort,
    judge: Cohort,
    draws: int,
    seed: int,
    time_limit: float,
    fitted: Callable[[str, FollowupModel], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a method predicts for a fold, from an earlier run where that came so far."""
    found = parts.load(name, what)
    if found is None:
        if name in PEERS:
            # They read two visits, and are sent no more.
            learn, judge = (each.plain() if isinstance(each, HiddenVisits) else each for each in (learn, judge))
            found = predictions_isolated(name, learn, judge, draws, seed, time_limit)
        else:
            found = predictions(name, learn, judge, draws, seed, fitted)
        parts.save(name, what, found)
    return found


def scored(
    scaling: SharedScaling, judge: Cohort, mean: np.ndarray, drawn: np.ndarray, yardstick: Yardstick | None = None
) -> Cells:
    """Score a method's predictions, original units, for people whose follow-up is known."""
    site = judge.site
    return Cells.of(
        scaling.apply(true_followup(judge), site),
        scaling.apply(judge.baseline, site),
        scaling.apply(mean, site),
        np.stack([scaling.apply(draw, site) for draw in drawn]),
        judge.units(),
        ids=judge.ids,
        gap=judge.gap,
        yardstick=yardstick,
    )


COLUMNS = [
    "method",
    "metric",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "carry_difference",
    "carry_low",
    "carry_high",
    "verdict",
    "carry_verdict",
]


def comparison_table(
    cells: dict[str, Cells],
    bootstraps: int,
    seed: int,
    *,
    further: bool = False,
    failed: dict[str, str] | None = None,
) -> pd.DataFrame:
    """One row per method and metric, with intervals and differences from the same resamples; see `compare`.

    further : the metrics of `FURTHER` too.  failed : methods without cells, and why; they come last.
    """
    weights = resamples(next(iter(cells.values())).unit, bootstraps, seed)
    found = {name: headline(part, weights) for name, part in cells.items()}
    if further:
        cost = FURTHER_CELLS // next(iter(cells.values())).truth.size
        count = min(FURTHER_BOOTSTRAPS, max(FEWEST_BOOTSTRAPS, cost))
        for name, part in cells.items():
            found[name] |= further_scores(part, weights[: count + 1])
    metrics = [*METRICS, *(FURTHER if further else ())]
    rows: list[tuple[object, ...]] = []
    for name in sorted(found, key=lambda method: found[method]["crps"][0]):
        for metric in metrics:
            values = found[name][metric]
            differences: list[float] = []
            verdicts: list[str] = []
            for other in (REFERENCE, CARRY):
                theirs = found[other][metric] if other in found and other != name else None
                differences += UNKNOWN if theirs is None else interval(values - theirs)
                if other == name:
                    verdicts.append("reference")
                else:
                    drawn = cells[name].draws
                    verdicts.append("-" if theirs is None else metric_win_tie_loss(metric, values, theirs, drawn))
            rows.append((name, metric, *interval(values), *differences, *verdicts))
    for name, why in (failed or {}).items():
        rows += [(name, metric, *UNKNOWN * 3, f"failed: {why}", "-") for metric in metrics]
    return pd.DataFrame(rows, columns=COLUMNS)


def metric_win_tie_loss(metric: str, ours: np.ndarray, theirs: np.ndarray, draws: int) -> str:
    """`better`, `worse` or `tie` by the 95 % interval of the difference; `-` where it is undefined.

    ours, theirs : (1 + B,) values from the same resamples.
    """
    right = BETTER[metric]
    if isinstance(right, float):
        if metric.startswith("coverage_"):
            right = nominal_coverage(draws, int(metric.removeprefix("coverage_")))
        ours, theirs = np.abs(ours - right), np.abs(theirs - right)
    difference = interval(theirs - ours if right == "higher" else ours - theirs)
    return win_tie_loss(difference) if difference.known else "-"
