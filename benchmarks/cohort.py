"""A cohort of the size of UK Biobank on this processor, once: python benchmarks/cohort.py [--only chain|impute]

chain: 41,706 people through 99 steps of the published network, one draw, in the precision that `auto` takes.
impute: a default model fitted on simulated converters, then 41,706 x 769 from a Parquet file, 20 draws each, to a
Parquet file, with the time of its parts; writing runs beside the others. Writes results/cpu_cohort.json.
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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from ledger import commit, processor

import secondgram as sg
from secondgram.files import replacing
from secondgram.imputation.finishing import Finisher
from secondgram.imputation.packing import packed
from secondgram.imputation.shape import Shape
from secondgram.ops import native

RESULT = Path(__file__).parent / "results" / "cpu_cohort.json"
PEOPLE, FEATURES, COVARIATES, DRAWS = 41_706, 769, 14, 20
LEARNED_FROM, PAIRS = 8_000, 2_000


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


def impute(folder: Path) -> dict[str, Any]:
    """From the file of a cohort to the file of its draws."""
    spent: dict[str, float] = {}
    for owner, name, part in (
        (Shape, "draw", "sampling"),
        (Finisher, "draws", "finishing"),
        (pq.ParquetWriter, "write_table", "writing, beside the others"),
    ):
        timed(owner, name, spent, part)
    imputer = sg.load(folder / "model")
    began = time.perf_counter()
    known = imputer.columns_
    cohort = sg.read_cohort(folder / "cohort.parquet", static=known.covariates, features=known.features)
    spent["reading"] = time.perf_counter() - began
    result = imputer.impute(cohort, draws=DRAWS, who="all", out=folder / "draws.parquet", show=False)
    shape = imputer.model_.joint.shape  # type: ignore[attr-defined]
    return {
        "seconds": time.perf_counter() - began,
        "parts": spent,
        "people": len(result.ids),
        "components_drawn": 0 if shape is None else len(shape.kept),
        "file_bytes": (folder / "draws.parquet").stat().st_size,
    }


def prepare(folder: Path) -> dict[str, Any]:
    """A model, and the cohort's file."""
    learn = sg.simulate(LEARNED_FROM, FEATURES, PAIRS / LEARNED_FROM, 0, mode="converters")
    began = time.perf_counter()
    sg.SecondgramImputer(seed=0).fit(learn, show=False).save(folder / "model")
    seconds = time.perf_counter() - began
    sg.simulate(PEOPLE, FEATURES, 0.01, 1, mode="converters").write(folder / "cohort.parquet")
    return {"seconds_to_fit": seconds, "learned_from": LEARNED_FROM, "pairs": PAIRS}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chain": lambda folder: chain(),
    "prepare": prepare,
    "impute": impute,
}
STEPS = {"chain": ["chain"], "impute": ["prepare", "impute"], "all": ["chain", "prepare", "impute"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(STEPS), default="all")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        part, folder = chosen.worker
        told = PARTS[part](Path(folder))
        told["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(told))
        return
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    found |= {"processor": processor(), "threads": native.default_threads()}
    with tempfile.TemporaryDirectory() as folder:
        for part in STEPS[chosen.only]:
            # A process of its own, because the peak of memory is counted per process.
            command = [sys.executable, __file__, "--worker", part, folder]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            found[part] = told | {"commit": commit()}
            print(part, json.dumps(told, indent=1), flush=True)
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
