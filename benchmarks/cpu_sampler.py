"""The reverse chain on the CPU against its peers: python benchmarks/cpu_sampler.py

One process, the published network (769 features), 16 people x 16 draws, noise included. Every way is checked against
the float64 network before it is timed; repeats are interleaved, so that a busy moment hits all alike. Writes
results/cpu_peers.json. Peers: pip install onnxruntime onnx onnxscript openvino; one that is absent is left out by
name.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chains import GATE, PUBLISHED, Problem, chain, ours, peers
from ledger import commit, processor, quantiles, versions
from peak import peak, reason_unavailable

from secondgram.files import replacing
from secondgram.ops import native

RESULT = Path(__file__).parent / "results" / "cpu_peers.json"
FEW = 20


def ways(problem: Problem, few: Problem, threads: int) -> dict[str, Callable[[], Any]]:
    """Samplers to time, by name; one that is absent or fails its check is reported and left out."""
    found: dict[str, Callable[[], Any]] = {
        name: partial(chain, predict, problem) for name, predict in peers(problem, threads).items()
    }
    plain = ours(problem, "fp32")()
    for precision in ("fp32", "fp16", "bf16"):
        if not native.architectures(precision):
            print(f"secondgram {precision}: left out, no instructions for it")
            continue
        run = ours(problem, precision)
        distance = float(np.linalg.norm(run() - plain) / np.linalg.norm(plain))
        print(f"secondgram {precision}: {distance:.1e} from its fp32 after {len(problem.table)} steps", flush=True)
        assert distance <= GATE[precision]
        found[f"secondgram {precision}"] = run
        found[f"secondgram {precision}, {FEW} steps"] = ours(few, precision)
    return found


def measure(found: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    with torch.inference_mode():
        for run in found.values():
            run()
        for _ in range(repeats):
            for name, run in found.items():
                began = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=min(2, native.default_threads()))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    problem, few = Problem(), Problem(FEW)
    found = ways(problem, few, chosen.threads)
    reachable = [] if reason_unavailable() else [p for p in ("fp32", "fp16", "bf16") if native.architectures(p)]
    before = {p: peak(p, chosen.threads) for p in reachable}
    taken = measure(found, chosen.repeats)
    again = {p: peak(p, chosen.threads) for p in reachable}
    seconds = {name: float(np.median(each)) for name, each in taken.items()}
    size = PUBLISHED
    operations = size.rows * len(problem.table) * size.flop
    reference = seconds["eager torch fp32, as written"]
    rows = []
    for name in sorted(seconds, key=lambda name: seconds[name]):
        row: dict[str, Any] = {"way": name, "seconds": seconds[name], "times_eager": reference / seconds[name]}
        row["quantiles"] = quantiles(taken[name])
        precision = name.removeprefix("secondgram ")
        if precision in before:
            row["share_of_peak"] = operations / seconds[name] / max(before[precision], again[precision])
        rows.append(row)
        share = f"{100 * row['share_of_peak']:5.0f} % of peak" if "share_of_peak" in row else ""
        print(f"{name:32} {seconds[name]:8.3f} s {row['times_eager']:6.2f} x eager {share}")
    about = {
        "command": "python benchmarks/cpu_sampler.py",
        "commit": commit(),
        "processor": processor(),
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "people": size.people,
        "draws": size.draws,
        "steps": len(problem.table),
        "folded_flop": operations,
        "peak_flop_per_second": {p: max(before[p], again[p]) for p in reachable},
        "versions": versions(),
        "ways": rows,
    }
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
