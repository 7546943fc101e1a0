"""The reverse chain on the CPU against its peers: python benchmarks/cpu_sampler.py

One process, the published network (769 features), 16 people x 16 draws, noise included. Every way is checked against
the float64 network before it is timed; repeats are interleaved, so that a busy moment hits all alike. Writes
results/cpu_peers.json. Peers: pip install onnxruntime onnx onnxscript openvino; one that is absent is left out by
name.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chains import DRAWS, PEOPLE, Predict, Problem, chain, eager, inductor, onnx_runtime, openvino, ours
from quality import current_commit

from secondgram.diffusion.folding import flops
from secondgram.files import replacing
from secondgram.ops import native

RESULT = Path(__file__).parent / "results" / "cpu_peers.json"
# Relative distance of a network's output from float64.
GATE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 2e-2}
FEW = 20


def peers(problem: Problem, threads: int) -> dict[str, tuple[str, Callable[[], Predict]]]:
    """Precision and maker of each, by name."""
    return {
        "eager torch fp32, as written": ("fp32", lambda: eager(problem)),
        "inductor fp32": ("fp32", lambda: inductor(problem, torch.float32)),
        "inductor bf16": ("bf16", lambda: inductor(problem, torch.bfloat16)),
        "ONNX Runtime fp32": ("fp32", lambda: onnx_runtime(problem, threads)),
        "OpenVINO fp32": ("fp32", lambda: openvino(problem, threads, "f32")),
        "OpenVINO bf16": ("bf16", lambda: openvino(problem, threads, "bf16")),
        "OpenVINO fp16": ("fp16", lambda: openvino(problem, threads, "f16")),
    }


def ways(problem: Problem, few: Problem, threads: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; whatever misses its gate or is absent is told and left out."""
    found: dict[str, Callable[[], Any]] = {}
    middle = float(problem.table[len(problem.table) // 2, 0])
    exact = problem.exact(middle)
    for name, (precision, make) in peers(problem, threads).items():
        try:
            predict = make()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error.name} is not installed", flush=True)
            continue
        with torch.inference_mode():
            distance = float(torch.linalg.norm(predict(problem.x, middle).double() - exact) / torch.linalg.norm(exact))
        print(f"{name}: {distance:.1e} from float64", flush=True)
        if not distance <= GATE[precision]:
            print(f"{name}: left out, beyond {GATE[precision]}")
            continue
        found[name] = partial(chain, predict, problem)
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
    peak = {p: native.peak(p, chosen.threads) for p in ("fp32", "fp16", "bf16") if native.architectures(p)}
    taken = measure(found, chosen.repeats)
    again = {p: native.peak(p, chosen.threads) for p in peak}
    seconds = {name: float(np.median(each)) for name, each in taken.items()}
    net = problem.net
    operations = PEOPLE * DRAWS * len(problem.table) * flops(769, 783, net.embedding, net.widths, DRAWS)
    reference = seconds["eager torch fp32, as written"]
    rows = []
    for name in sorted(seconds, key=lambda name: seconds[name]):
        row: dict[str, Any] = {"way": name, "seconds": seconds[name], "times_eager": reference / seconds[name]}
        row["quantiles"] = {str(q): float(np.quantile(taken[name], q)) for q in (0.05, 0.25, 0.75, 0.95)}
        precision = name.removeprefix("secondgram ")
        if precision in peak:
            row["share_of_peak"] = operations / seconds[name] / max(peak[precision], again[precision])
        rows.append(row)
        share = f"{100 * row['share_of_peak']:5.0f} % of peak" if "share_of_peak" in row else ""
        print(f"{name:32} {seconds[name]:8.3f} s {row['times_eager']:6.2f} x eager {share}")
    about = {
        "command": "python benchmarks/cpu_sampler.py",
        "commit": current_commit(),
        "processor": processor(),
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "people": PEOPLE,
        "draws": DRAWS,
        "steps": len(problem.table),
        "folded_flop": operations,
        "peak_flop_per_second": {p: max(peak[p], again[p]) for p in peak},
        "versions": {name: _version(name) for name in ("torch", "onnxruntime", "openvino", "numpy", "secondgram")},
        "ways": rows,
    }
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
