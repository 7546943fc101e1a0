"""The gain by projecting conflicting task gradients.

    python benchmarks/gradient_ablation.py [--data FOLDER] [--keep FOLDER] [--toy]

The preset `paper` learns three tasks (pairs, and people as their own condition, clean and noised); the denoisers of
`default` learn one, so there is nothing to project. It is fitted without gradient manipulation, with gate and clip as
published, with PCGrad and with UPGrad before gate and clip, for five seeds that decide split, weights and noise. People
are held out whole. Writes benchmarks/results/gradients/NAME.json; `python benchmarks/quality.py --page` shows them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
import numpy as np
from quality import PARTS, ROOT

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.cache import FoldCache, Predicted
from secondgram.comparison.compare import scored, splits
from secondgram.evaluation.metrics import Cells, interval, resamples, scores
from secondgram.files import replacing
from secondgram.imputation.provenance import versions

RESULTS = Path(__file__).resolve().parent / "results" / "gradients"
SEEDS = 5
DRAWS = 19
BOOTSTRAPS = 1000
METRICS = ("crps", "rmse", "pearson_draw", "coverage_90")
# The others are compared with the first: the published manipulation.
VARIANTS = {"gate and clip": "gate", "none": "none", "PCGrad, gate, clip": "pcgrad", "UPGrad, gate, clip": "upgrad"}
TOY: dict[str, Any] = {"epochs": 4, "embedding": 16, "widths": [16, 8, 8], "validate_every": 2}


@dataclass(frozen=True)
class Case:
    """A cohort, by the folder of data, the seed and whether it may be small."""

    title: str
    cohort: Callable[[Path, int, bool], sg.Cohort]


CASES = {
    "simulated": Case(
        "Simulated, mode cohort: 2,000 people, 48 features, a quarter with a follow-up",
        lambda data, seed, toy: sg.simulate(200 if toy else 2000, 8 if toy else 48, 0.25, seed, mode="cohort"),
    ),
    "refund_dti": Case(
        "Real: refund_dti, 100 people, 296 features", lambda data, seed, toy: PARTS["refund_dti"].cohort(data)
    ),
}


def fit(learn: sg.Cohort, judge: sg.Cohort, gradients: str, seed: int, toy: bool) -> tuple[Predicted, dict[str, Any]]:
    """Mean and draws of the held-out people, and the history of the training."""
    start = time.perf_counter()
    options = TOY if toy else {}
    imputer = sg.SecondgramImputer("paper", seed=seed, gradients=gradients, **options).fit(learn, show=False)
    seconds = time.perf_counter() - start
    result = imputer.impute(judge, draws=DRAWS, seed=seed, who="all")
    history = imputer.model_.record["history"]  # type: ignore[attr-defined]
    seen = [epoch["cosines"] for epoch in history["epochs"] if epoch["cosines"]]
    about = {
        "seconds_to_fit": round(seconds, 1),
        "epochs": len(history["epochs"]),
        "skipped": sum(epoch["skipped"] for epoch in history["epochs"]),
        "mean_cosines": dict(zip(history["cosines"], np.mean(seen, axis=0).round(4).tolist(), strict=True)),
    }
    return (result.draws.mean(axis=0), result.draws), about


def finished(
    folder: Path | None, learn: sg.Cohort, judge: sg.Cohort, variant: str, seed: int, toy: bool
) -> tuple[Predicted, dict[str, Any]]:
    """The result of this fit by an earlier run in the folder, or by a new one."""
    parts = FoldCache(folder, learn, seed=seed, toy=toy, draws=DRAWS)
    file = None if folder is None else folder / f"{variant.replace(', ', ' ').replace(' ', '-')}-{seed}.json"
    kept = parts.load(variant, f"seed {seed}")
    if kept is not None and file is not None and file.exists():
        return kept, json.loads(file.read_text(encoding="utf-8"))
    predicted, about = fit(learn, judge, VARIANTS[variant], seed, toy)
    if file is not None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")
        parts.save(variant, f"seed {seed}", predicted)
    return predicted, about


def run(case: Case, data: Path, seeds: int, toy: bool, folder: Path | None) -> dict[str, Any]:
    parts: dict[str, list[Cells]] = {name: [] for name in VARIANTS}
    about: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        _, learn, judge = next(splits(case.cohort(data, seed, toy), folds=1, repeats=1, seed=seed))
        scaling = SharedScaling.fit(learn.baseline, learn.site)
        for name in VARIANTS:
            predicted, seen = finished(folder, learn, judge, name, seed, toy)
            parts[name].append(scored(scaling, judge, *predicted))
            about[name].append(seen)
            print(f"  seed {seed}, {name}: {seen['seconds_to_fit']} s, {seen['epochs']} epochs", flush=True)
    return {"title": case.title, "seeds": seeds, "variants": _table(parts), "training": about}


def _table(parts: dict[str, list[Cells]]) -> dict[str, Any]:
    """Values and differences to the first variant, with bootstrap intervals over people of all seeds together, and the
    difference of each seed."""
    joined = {name: Cells.joined(list_of) for name, list_of in parts.items()}
    weights = resamples(next(iter(joined.values())).unit, BOOTSTRAPS, 0)
    values = {name: scores(cells, weights) for name, cells in joined.items()}
    first = next(iter(values))

    def by_seed(name: str, metric: str) -> list[float]:
        return [float(scores(cells, np.ones((1, len(cells.unit))))[metric][0]) for cells in parts[name]]

    return {
        name: {
            metric: {
                "value": interval(found[metric]),
                "difference": interval(found[metric] - values[first][metric]),
                "by_seed": (np.array(by_seed(name, metric)) - by_seed(first, metric)).round(5).tolist(),
            }
            for metric in METRICS
        }
        for name, found in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real cohorts")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cohorts to run; all if left out")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", type=Path, help="folder of finished fits, from which a killed run goes on")
    parser.add_argument("--toy", action="store_true", help="a small network for a few epochs; nothing is written")
    given = parser.parse_args()
    for name in given.only or list(CASES):
        print(name, flush=True)
        try:
            found = run(CASES[name], given.data, given.seeds, given.toy, given.keep and given.keep / name)
        except sg.InputError as error:
            print(f"{name}: left out. {error}")
            continue
        for variant, each in found["variants"].items():
            print(f"  {variant}: CRPS {each['crps']['value']}, difference {each['crps']['difference']}", flush=True)
        if given.toy:
            continue
        found |= {"command": f"python benchmarks/gradient_ablation.py --only {name}", "commit": ledger.commit()}
        RESULTS.mkdir(parents=True, exist_ok=True)
        with replacing(RESULTS / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(found | {"versions": versions()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
