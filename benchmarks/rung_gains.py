"""Gain by each rung of the default preset: python benchmarks/rung_gains.py [--data FOLDER] [--only NAME ...]

People are held out whole. CRPS with 99 draws; coverage is the share of true values between the 5th and the 95th
smallest of them. The simple peers are carry-forward, the same with mean change, ridge, ridge with a Gaussian of its
residuals, and ridge with every principal component of them distributed as it was. Writes
benchmarks/results/rungs/NAME.json; `python benchmarks/quality.py --page` shows them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
import numpy as np
from quality import PARTS, ROOT

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.compare import predictions, scored, splits
from secondgram.comparison.methods import BASELINES
from secondgram.evaluation.evaluate import true_followup
from secondgram.evaluation.memorisation import Memorisation, memorisation
from secondgram.evaluation.metrics import Cells, interval, resamples, scores
from secondgram.files import replacing
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.provenance import versions
from secondgram.imputation.scores import crps

RESULTS = Path(__file__).resolve().parent / "results" / "rungs"
DRAWS = 99
PEERS = tuple(BASELINES)
BOOTSTRAPS = 1000
# Evaluations of the denoiser with which a few are compared, and people and draws of the comparison.
MANY_STEPS, MANY_STEPS_PEOPLE = 99, 600
MEMORY_DRAWS, MEMORY_PEOPLE = 5, 1000


@dataclass(frozen=True)
class Case:
    """A cohort and how people are held out; one fold holds out a quarter once."""

    title: str
    cohort: Callable[[Path], sg.Cohort]
    folds: int = 1
    repeats: int = 1


def _gaussian(seed: int, reliability: tuple[float, float] | None = None) -> Case:
    more = "" if reliability is None else f", reliabilities {reliability[0]} to {reliability[1]}"
    return Case(
        f"mode gaussian, seed {seed}{more}",
        lambda data: sg.simulate(6000, 128, 0.12, seed, mode="gaussian", reliability=reliability),
    )


def _converters(seed: int, pairs: int) -> Case:
    # A quarter of the people is held out, and with them a quarter of the pairs.
    return Case(
        f"mode converters, {pairs:,} pairs, seed {seed}",
        lambda data: sg.simulate(20_000, 64, pairs / 0.75 / 20_000, seed, mode="converters"),
    )


def _real(name: str) -> Case:
    return Case(name, PARTS[name].cohort, folds=5, repeats=3)


CASES: dict[str, Case] = (
    {f"gaussian_{seed}": _gaussian(seed) for seed in range(5)}
    | {f"reliable_{seed}": _gaussian(seed, (0.88, 0.97)) for seed in range(5)}
    | {f"converters_600_{seed}": _converters(seed, 600) for seed in range(3)}
    | {f"converters_4000_{seed}": _converters(seed, 4000) for seed in range(3)}
    | {name: _real(name) for name in ("refund_dti", "corr_qap", "qtab_mriqc")}
)


def held_out(cohort: sg.Cohort, case: Case) -> Iterator[tuple[sg.Cohort, sg.Cohort]]:
    """(people to learn from, people to judge by) of each split."""
    for _, learn, judge in splits(cohort, case.folds, case.repeats, seed=0):
        yield learn, judge


def along_axis(scaling: SharedScaling, judge: sg.Cohort, drawn: np.ndarray) -> np.ndarray | None:
    """CRPS (N,) along the direction of conversion, None where a cohort has none; drawn (M, N, D), original units."""
    direction = getattr(judge, "axis", None)
    if direction is None:
        return None
    unit = direction / np.linalg.norm(direction)
    truth = scaling.apply(true_followup(judge), judge.site) @ unit
    return crps(np.stack([scaling.apply(draw, judge.site) @ unit for draw in drawn]), truth)


@dataclass(eq=False)
class Judged:
    """Scores of one split: cells and CRPS along the disease axis by method.

    steps : cells of the same people by number of evaluations, empty where no denoiser was kept;  memory : the
    memorisation check;  about : the choices of the default preset.
    """

    cells: dict[str, Cells]
    axis: dict[str, np.ndarray]
    unit: np.ndarray
    gap: np.ndarray
    steps: dict[int, Cells]
    memory: dict[str, Memorisation]
    about: dict[str, Any]


def judge_split(scaling: SharedScaling, learn: sg.Cohort, judge: sg.Cohort, peers: tuple[str, ...]) -> Judged:
    cells, axis, by_steps = {}, {}, {}

    def add(name: str, mean: np.ndarray, drawn: np.ndarray) -> None:
        cells[name] = scored(scaling, judge, mean, drawn)
        along = along_axis(scaling, judge, drawn)
        if along is not None and len(drawn) > 1:
            axis[name] = along

    for name in peers:
        add(name, *predictions(name, learn, judge, DRAWS, seed=0))
    start = time.perf_counter()
    imputer = sg.SecondgramImputer(seed=0).fit(learn, show=False)
    seconds = time.perf_counter() - start
    result = imputer.impute(judge, draws=DRAWS, seed=0, who="all")
    add("default", result.mean, result.draws)
    model = imputer.model_
    assert isinstance(model, DefaultModel)
    about: dict[str, Any] = {"seconds_to_fit": seconds, "ladder": model.ladder().reset_index().to_dict("records")}
    about["kept"] = [] if model.joint.shape is None else model.joint.shape.kept.tolist()
    if model.joint.shape is not None:
        without = sg.SecondgramImputer(seed=0, shape="off").fit(learn, show=False)
        plain = without.impute(judge, draws=DRAWS, seed=0, who="all")
        add("default-without-denoiser", plain.mean, plain.draws)
        some = judge.take(np.arange(min(len(judge), MANY_STEPS_PEOPLE)))
        for steps in (model.options.steps, MANY_STEPS):
            again = imputer.impute(some, draws=DRAWS, seed=0, who="all", steps=steps)
            by_steps[steps] = scored(scaling, some, again.mean, again.draws)
    memory = traces(scaling, learn, judge, imputer)
    return Judged(cells, axis, judge.units(), judge.gap, by_steps, memory, about)


def traces(
    scaling: SharedScaling, learn: sg.Cohort, judge: sg.Cohort, imputer: sg.SecondgramImputer
) -> dict[str, Memorisation]:
    """The memorisation check of the default preset, and of a Gaussian fitted to the same people."""
    some = judge.take(np.arange(min(len(judge), MEMORY_PEOPLE)))
    before = scaling.apply(some.baseline, some.site)
    truth = scaling.apply(true_followup(some), some.site) - before
    pairs = learn.take(learn.paired)
    known = scaling.apply(pairs.followup, pairs.site) - scaling.apply(pairs.baseline, pairs.site)
    drawn = {
        "default": imputer.impute(some, draws=MEMORY_DRAWS, seed=0, who="all").draws,
        "ridge-gaussian": predictions("ridge-gaussian", learn, some, MEMORY_DRAWS, seed=0)[1],
    }
    return {
        name: memorisation(np.stack([scaling.apply(d, some.site) - before for d in each]), truth, known, some.units())
        for name, each in drawn.items()
    }


def check_memory(name: str, case: Case, data: Path) -> dict[str, Any] | None:
    """Do that check alone, and put it into the results there are."""
    file = RESULTS / f"{name}.json"
    try:
        cohort = case.cohort(data)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (sg.InputError, OSError) as error:
        print(f"{name}: left out. {error}")
        return None
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    each = [
        traces(scaling, learn, judge, sg.SecondgramImputer(seed=0).fit(learn, show=False))
        for learn, judge in held_out(cohort, case)
    ]
    found["memorisation"] = _memorisation(each) | {"commit": ledger.commit()}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(found, indent=1, default=_plain) + "\n", encoding="utf-8")
    return found


def run(name: str, case: Case, data: Path) -> dict[str, Any] | None:
    try:
        cohort = case.cohort(data)
    except sg.InputError as error:
        print(f"{name}: left out. {error}")
        return None
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    exact = ("exact-posterior",) if getattr(cohort, "posterior_mean", None) is not None else ()
    parts = [judge_split(scaling, learn, judge, PEERS + exact) for learn, judge in held_out(cohort, case)]
    found = summary(parts) | {
        "title": case.title,
        "people": len(parts[0].unit) if case.folds == 1 else sum(len(part.unit) for part in parts) // case.repeats,
        "pairs_learned_from": [int(learn.paired.sum()) for learn, _ in held_out(cohort, case)],
        "folds": case.folds,
        "repeats": case.repeats,
        "draws": DRAWS,
        "command": f"python benchmarks/rung_gains.py --only {name}",
        "commit": ledger.commit(),
        "versions": versions(),
    }
    with replacing(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1, default=_plain) + "\n", encoding="utf-8")
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def summary(parts: list[Judged]) -> dict[str, Any]:
    """Scores and differences with 95 % intervals over people; a method that one split lacks stands in by `default`."""
    names = list(dict.fromkeys(name for part in parts for name in part.cells))
    unit = np.concatenate([part.unit for part in parts])
    weights = resamples(unit, BOOTSTRAPS, 0)
    cells = {name: Cells.joined([part.cells.get(name, part.cells["default"]) for part in parts]) for name in names}
    values = {name: scores(each, weights) for name, each in cells.items()}
    found: dict[str, Any] = {"scores": {n: {m: interval(v) for m, v in each.items()} for n, each in values.items()}}
    differences: dict[str, Any] = {}
    for metric in ("crps", "rmse"):
        best = min(PEERS, key=lambda name: values[name][metric][0])
        differences[metric] = {
            peer: _difference(values["default"][metric], values[peer][metric])
            for peer in dict.fromkeys((best, "ridge-gaussian", "ridge-empirical"))
        } | {"best": best}
    found["differences"] = differences
    if "exact-posterior" in values:
        peer, exact = values["ridge-gaussian"]["crps"], values["exact-posterior"]["crps"]
        found["share_of_gap_closed"] = interval((peer - values["default"]["crps"]) / (peer - exact))
    gap = np.concatenate([part.gap for part in parts])
    if np.isfinite(gap).all() and np.ptp(gap) > 0:
        low, high = np.quantile(gap, [1 / 3, 2 / 3])
        covered = {name: np.nanmean(each.covered, axis=1) for name, each in cells.items() if each.draws > 1}
        found["coverage_by_gap"] = {
            name: {
                place: interval(weights[:, rows] @ each[rows] / weights[:, rows].sum(axis=1))
                for place, rows in (("shortest third", gap <= low), ("longest third", gap >= high))
            }
            for name, each in covered.items()
        }
    if parts[0].axis:
        drawing = dict.fromkeys(name for part in parts for name in part.axis)
        along = {n: np.concatenate([part.axis.get(n, part.axis["default"]) for part in parts]) for n in drawing}
        totals = {name: weights @ each / weights.sum(axis=1) for name, each in along.items()}
        found["axis_crps"] = {name: interval(each) for name, each in totals.items()}
        found["axis_differences"] = {
            name: _difference(totals["default"], each) for name, each in totals.items() if name != "default"
        }
    found["steps"] = _steps(parts)
    found["memorisation"] = _memorisation([part.memory for part in parts])
    found["default"] = [part.about for part in parts]
    return found


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """one - other, as it is and as a share of other, each (value, low, high)."""
    return {"absolute": interval(one - other), "relative": interval((one - other) / other[0])}


def _steps(parts: list[Judged]) -> dict[str, Any]:
    """The same people with few and with many evaluations, where a denoiser was kept."""
    with_net = [part.steps for part in parts if part.steps]
    if not with_net:
        return {"note": "no denoiser kept: the number of evaluations changes nothing"}
    joined = {steps: Cells.joined([each[steps] for each in with_net]) for steps in with_net[0]}
    crps_of = {steps: float(np.nanmean(cells.crps)) for steps, cells in joined.items()}
    coverage = {steps: float(np.nanmean(cells.covered)) for steps, cells in joined.items()}
    few, many = joined
    return {f"steps_{steps}": {"crps": crps_of[steps], "coverage": coverage[steps]} for steps in joined} | {
        "crps_relative": crps_of[few] / crps_of[many] - 1,
        "coverage_difference": coverage[few] - coverage[many],
    }


def _memorisation(parts: list[dict[str, Memorisation]]) -> dict[str, Any]:
    """Averages over splits of values and ends of intervals; `passes` where no split fails."""
    found: dict[str, Any] = {
        name: {
            share: [float(np.mean([getattr(part[name], share)[k] for part in parts])) for k in range(3)]
            for share in ("nearer", "copies")
        }
        for name in parts[0]
    }
    return found | {"passes": all(part["default"].passes for part in parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real cohorts")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cases to run; all if left out")
    parser.add_argument("--memory", action="store_true", help="only the memorisation check, into the results there are")
    given = parser.parse_args()
    for name in given.only or list(CASES):
        if given.memory:
            found = check_memory(name, CASES[name], given.data)
            print(name, found and found["memorisation"], flush=True)
            continue
        start = time.perf_counter()
        found = run(name, CASES[name], given.data)
        if found is not None:
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            for metric, peers in found["differences"].items():
                print(f"  {metric}: {found['scores']['default'][metric]}, {peers}", flush=True)
            for key in ("share_of_gap_closed", "axis_differences", "steps", "memorisation"):
                if key in found:
                    print(f"  {key}: {found[key]}", flush=True)
            by_gap = found.get("coverage_by_gap", {}).get("default")
            print(f"  coverage: {found['scores']['default']['coverage_90']}, by gap {by_gap}", flush=True)


if __name__ == "__main__":
    main()
