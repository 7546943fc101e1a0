"""A cohort of the size of UK Biobank on this processor:

    python benchmarks/cohort.py [--only chain|impute|missing|cores]

chain: 41,706 people through 99 steps of the published network, one draw, in the precision that `auto` takes.
impute: a default model fitted on simulated converters, then 41,706 x 769 from a Parquet file, 20 draws each, to a
Parquet file, with the time of its parts; writing runs beside the others.
missing: the same without a share of the baselines' cells (--missing, 1 %), which nearly everybody then lacks some of.
cores: a part of those people in memory, by one thread and by two in turns.
Writes results/cpu_cohort.json, by processor. --people N and --threads N are for a look: what they give is not kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from ledger import commit, flags, processor

import secondgram as sg
from secondgram.files import replacing
from secondgram.imputation.context import Context
from secondgram.imputation.default.shape import Shape
from secondgram.imputation.missing import MissingCells
from secondgram.ops import native
from secondgram.sampling.packed import packed
from secondgram.sampling.postprocess import Postprocess

RESULT = Path(__file__).parent / "results" / "cpu_cohort.json"
PEOPLE, FEATURES, COVARIATES, DRAWS = 41_706, 769, 14, 20
LEARNED_FROM, PAIRS = 8_000, 2_000
# People whose draws fit the memory of a small machine, turns of one and two threads, and warm-up calls.
IN_MEMORY, TURNS, WARM = 12_000, 5, 5


def chain() -> dict[str, Any]:
    """Everybody once through the published chain."""
    net = sg.Denoiser(FEATURES, FEATURES + COVARIATES, generator=torch.Generator().manual_seed(0))
    c = np.random.default_rng(0).standard_normal((PEOPLE, FEATURES + COVARIATES), dtype=np.float32)
    keys = np.arange(PEOPLE, dtype=np.uint64)
    began = time.perf_counter()
    drawn = sg.Sampler(net, "linear").sample(c, keys, 1, keys=keys)
    seconds = time.perf_counter() - began
    (chosen,) = packed(net).chosen.values()
    return {"seconds": seconds, "precision": chosen, "steps": 99, "finite": bool(np.isfinite(drawn).all())}


def timed(owner: Any, name: str, spent: dict[str, float], part: str) -> None:
    """Let a function add the time it takes to a part."""
    plain: Callable[..., Any] = getattr(owner, name)

    def around(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(*given, **named)
        finally:
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - began

    setattr(owner, name, around)


TIMED: tuple[tuple[Any, str, str], ...] = (
    (Shape, "draw", "sampling"),
    (Context, "inputs", "inputs, filling with them"),
    (MissingCells, "fill", "filling missing cells"),
    (MissingCells, "drawn", "drawing missing cells"),
    (Postprocess, "draws", "finishing"),
)


def impute(folder: Path, table: str, threads: int | None) -> dict[str, Any]:
    """From the file of a cohort to the file of its draws."""
    spent: dict[str, float] = {}
    for owner, name, part in (*TIMED, (pq.ParquetWriter, "write_table", "writing, beside the others")):
        timed(owner, name, spent, part)
    imputer = sg.load(folder / "model")
    began = time.perf_counter()
    cohort = sg.read_cohort(folder / table, like=imputer)
    spent["reading"] = time.perf_counter() - began
    out = folder / "draws.parquet"
    result = imputer.impute(cohort, draws=DRAWS, who="all", out=out, show=False, threads=threads)
    shape = imputer.model_.joint.shape  # type: ignore[attr-defined]
    return {
        "seconds": time.perf_counter() - began,
        "parts": spent,
        "people": len(result.ids),
        "missing_share": float(np.isnan(cohort.baseline).mean()),
        "threads": threads or native.default_threads(),
        "components_drawn": 0 if shape is None else len(shape.kept),
        "file_bytes": out.stat().st_size,
    }


def cores(folder: Path) -> dict[str, Any]:
    """Sampling, postprocessing and missing cells by one thread and by two, nothing being written; the least of each."""
    imputer = sg.load(folder / "model")
    cohort = sg.read_cohort(folder / "missing.parquet", like=imputer)
    cohort = cohort.take(np.arange(min(len(cohort), IN_MEMORY)))
    spent: dict[str, float] = {}
    for owner, name, part in TIMED:
        timed(owner, name, spent, part)
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for count, runs in found.items():
            spent.clear()
            imputer.impute(cohort, draws=DRAWS, who="all", show=False, threads=count).draws  # noqa: B018
            # Filling is among the inputs.
            runs.append({part: took for part, took in spent.items() if part != "filling missing cells"})
    seconds = {count: min(sum(run.values()) for run in runs) for count, runs in found.items()}
    one = cohort.take(np.arange(1))
    waited = []
    for _ in range(WARM + 20):
        began = time.perf_counter()
        imputer.impute(one, draws=DRAWS, who="all", show=False).draws  # noqa: B018
        waited.append(time.perf_counter() - began)
    return {
        "people": len(cohort),
        "seconds": seconds,
        "ratio": seconds[1] / seconds[2],
        "runs": found,
        "one_warm_person_seconds": float(np.median(waited[WARM:])),
    }


def prepare(folder: Path, people: int, missing: float) -> dict[str, Any]:
    """A model, and the cohort's file, whole and without some cells."""
    learn = sg.simulate(LEARNED_FROM, FEATURES, PAIRS / LEARNED_FROM, 0, mode="converters")
    began = time.perf_counter()
    sg.SecondgramImputer(seed=0).fit(learn, show=False).save(folder / "model")
    seconds = time.perf_counter() - began
    cohort = sg.simulate(people, FEATURES, 0.01, 1, mode="converters")
    cohort.write(folder / "cohort.parquet")
    visits = cohort.visits.copy()
    visits[:, 0][np.random.default_rng(2).random(visits[:, 0].shape, dtype=np.float32) < missing] = np.nan
    replace(cohort, visits=visits).write(folder / "missing.parquet")
    return {"seconds_to_fit": seconds, "learned_from": LEARNED_FROM, "pairs": PAIRS}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "chain": lambda folder, chosen: chain(),
    "prepare": lambda folder, chosen: prepare(folder, chosen.people, chosen.missing),
    "impute": lambda folder, chosen: impute(folder, "cohort.parquet", chosen.threads),
    "missing": lambda folder, chosen: impute(folder, "missing.parquet", chosen.threads),
    "cores": lambda folder, chosen: cores(folder),
}
STEPS = {
    "chain": ["chain"],
    "impute": ["prepare", "impute"],
    "missing": ["prepare", "impute", "missing"],
    "cores": ["prepare", "cores"],
    "all": ["chain", "prepare", "impute", "missing", "cores"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(STEPS), default="all")
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--missing", type=float, default=0.01, help="share of the baselines' cells")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        part, folder = chosen.worker
        record = PARTS[part](Path(folder), chosen)
        record["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(record))
        return
    own = [f"--people={chosen.people}", f"--missing={chosen.missing}"]
    own += [] if chosen.threads is None else [f"--threads={chosen.threads}"]
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    # Processors differ several-fold: a part that was not run here is never shown beside one that was.
    found = kept.setdefault(processor(), {})
    found["threads"], found["flags"] = native.default_threads(), flags()
    with tempfile.TemporaryDirectory() as folder:
        for part in STEPS[chosen.only]:
            # A process of its own, because the peak of memory is counted per process.
            command = [sys.executable, __file__, "--worker", part, folder, *own]
            record = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            found[part] = record | {"commit": commit()}
            print(part, json.dumps(record, indent=1), flush=True)
    if chosen.people != PEOPLE or chosen.threads is not None:
        return
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
