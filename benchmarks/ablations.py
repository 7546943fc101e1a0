"""Scores of the default preset without one of its parts: python benchmarks/ablations.py [--only NAME ...]

Simulated people held out whole, 99 draws; every variant is scored on the same people with the same seed, and
differences come from the same bootstrap resamples. Writes benchmarks/results/ablations/NAME.json and docs/pairs.png;
`python benchmarks/quality.py --page` shows them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ledger
import numpy as np
from quality import ROOT
from rung_gains import BOOTSTRAPS, DRAWS, along_axis

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.compare import predictions, scored, splits
from secondgram.evaluation.metrics import Cells, interval, resamples, scores
from secondgram.files import replacing
from secondgram.imputation.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results" / "ablations"
PLOT = ROOT / "docs" / "pairs.png"
PEOPLE = 1000
PAIRS = (100, 200, 400, 1000, 2000, 4000)
CURVES = ("ridge-gaussian", "ridge-empirical", "default")


def _gaussian() -> sg.SimulatedCohort:
    return sg.simulate(6000, 128, 0.12, 0, mode="gaussian")


def _converters(pairs: int = 4000) -> sg.SimulatedCohort:
    return sg.simulate(20_000, 64, pairs / 0.75 / 20_000, 0, mode="converters")


@dataclass(frozen=True)
class Variant:
    """A change of options when fitting, or of solver and steps when sampling what was fitted with the default ones."""

    options: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Variants of one cohort; the first is what the others are held against."""

    title: str
    cohort: Callable[[], sg.SimulatedCohort]
    variants: dict[str, Variant]


SOLVERS = {
    f"{solver}, {steps} evaluations": Variant(sampling={"solver": solver, "steps": steps})
    for solver, steps in (
        ("dpm++2m", 4),
        ("dpm++2m", 6),
        ("dpm++2m", 20),
        ("dpm++2m", 99),
        ("sde-dpm++2m", 8),
        ("ddim", 8),
        ("ddpm", 8),
        ("ddpm", 99),
    )
}
TABLES: dict[str, Table] = {
    "mean": Table(
        "mode gaussian, 128 features, 540 pairs learned from",
        _gaussian,
        {
            "as it is": Variant(),
            "without self-conditioning": Variant({"self_conditioning": False}),
            "first and target visit only": Variant({"pairs": "first"}),
        },
    ),
    "shape": Table(
        "mode converters, 64 features, 4,000 pairs learned from",
        _converters,
        {
            "as it is (K = 16, linear schedule, dpm++2m with 8 evaluations)": Variant(),
            "without the denoiser": Variant({"shape": "off"}),
            "without self-conditioning": Variant({"self_conditioning": False}),
            "without gate and clip": Variant({"gradients": "none"}),
            "K = 4": Variant({"components": 4}),
            "K = 8": Variant({"components": 8}),
            "K = 32": Variant({"components": 32}),
            "cosine schedule": Variant({"schedule": "cosine"}),
            "2 networks": Variant({"networks": 2}),
        }
        | SOLVERS,
    ),
    "paper": Table(
        "the published network, mode gaussian, 32 features, 450 pairs learned from",
        lambda: sg.simulate(3000, 32, 0.2, 0, mode="gaussian"),
        {
            "DDPM, 99 evaluations, from the baseline": Variant({"preset": "paper", "start": "baseline"}),
            "sde-dpm++2m, 20 evaluations": Variant(sampling={"solver": "sde-dpm++2m", "steps": 20}),
            "dpm++2m, 20 evaluations": Variant(sampling={"solver": "dpm++2m", "steps": 20}),
        },
    ),
}


@dataclass(eq=False)
class Scored:
    """Cells, and the CRPS (N,) along the disease axis where there is one."""

    cells: Cells
    axis: np.ndarray | None


def score(scaling: SharedScaling, judge: sg.SimulatedCohort, mean: np.ndarray, drawn: np.ndarray) -> Scored:
    return Scored(scored(scaling, judge, mean, drawn), along_axis(scaling, judge, drawn))


def halves(cohort: sg.SimulatedCohort) -> tuple[sg.Cohort, sg.SimulatedCohort]:
    """People to learn from, and some of the quarter that is held out."""
    _, learn, judge = next(splits(cohort, folds=1, repeats=1, seed=0))
    return learn, judge.take(np.arange(min(PEOPLE, len(judge))))


def run_table(table: Table) -> dict[str, Any]:
    cohort = table.cohort()
    scaling = SharedScaling.fit(cohort.baseline)
    learn, judge = halves(cohort)
    fitted: sg.SecondgramImputer | None = None
    results, kept = {}, {}
    for name, variant in table.variants.items():
        start = time.perf_counter()
        if fitted is None or not variant.sampling:
            imputer = sg.SecondgramImputer(seed=0, **variant.options).fit(learn, show=False)
            fitted = fitted or imputer
        else:
            imputer = fitted
        made = imputer.impute(judge, draws=DRAWS, seed=0, who="all", **variant.sampling)
        results[name] = score(scaling, judge, made.mean, made.draws)
        record: dict[str, Any] = imputer.model_.record  # type: ignore[attr-defined]
        kept[name] = record.get("shape", {}).get("components", [])
        print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return {"title": table.title, "people": len(judge), "variants": _against_first(results), "components": kept}


def _against_first(results: dict[str, Scored]) -> dict[str, Any]:
    """CRPS, RMSE, coverage and axis CRPS with intervals, and differences to the first from the same resamples."""
    weights = resamples(next(iter(results.values())).cells.unit, BOOTSTRAPS, 0)
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, each in results.items():
        found = scores(each.cells, weights)
        values[name] = {metric: found[metric] for metric in ("crps", "rmse", "coverage_90")}
        if each.axis is not None:
            values[name]["axis_crps"] = weights @ each.axis / weights.sum(axis=1)
    first = next(iter(values.values()))
    return {
        name: {metric: {"value": interval(v), "difference": interval(v - first[metric])} for metric, v in each.items()}
        for name, each in values.items()
    }


def run_pairs() -> dict[str, Any]:
    """CRPS by the number of pairs there are to learn from."""
    found: dict[str, Any] = {"title": "mode converters, 64 features: how many pairs are enough", "curves": {}}
    for pairs in PAIRS:
        cohort = _converters(pairs)
        scaling = SharedScaling.fit(cohort.baseline)
        learn, judge = halves(cohort)
        results = {}
        for name in CURVES:
            results[name] = score(scaling, judge, *predictions(name, learn, judge, DRAWS, seed=0))
        found["curves"][str(int(learn.paired.sum()))] = _against_first(results)
        print(f"  {pairs} pairs", flush=True)
    return found


def plot(found: dict[str, Any]) -> None:
    """CRPS and axis CRPS against the number of pairs."""
    from matplotlib.figure import Figure

    counts = [int(text) for text in found["curves"]]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, (metric, label) in enumerate((("crps", "all features"), ("axis_crps", "along the disease axis")), 1):
        axes = figure.add_subplot(1, 2, place)
        for name in CURVES:
            rows = [curve[name][metric]["value"] for curve in found["curves"].values()]
            value, low, high = np.array(rows).T
            axes.plot(counts, value, marker="o", label=name)
            axes.fill_between(counts, low, high, alpha=0.15)
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("pairs learned from")
        axes.set_ylabel("CRPS (baseline SD)")
        axes.set_title(label)
    axes.legend()
    with replacing(PLOT) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*TABLES, "pairs"], help="tables to make; all if left out")
    for name in parser.parse_args().only or [*TABLES, "pairs"]:
        print(name, flush=True)
        found = run_pairs() if name == "pairs" else run_table(TABLES[name])
        found |= {
            "command": f"python benchmarks/ablations.py --only {name}",
            "commit": ledger.commit(),
            "draws": DRAWS,
        }
        with replacing(RESULTS / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(found | {"versions": versions()}, indent=1) + "\n", encoding="utf-8")
        if name == "pairs":
            plot(found)


if __name__ == "__main__":
    main()
