"""A first look at a GPU, before tests and benchmarks: one part a process, so that a hang or a broken context costs that
part alone. A line a fact, written at once; BAD begins one that is wrong, and then the exit status is 1.

    python benchmarks/smoke.py PART [MODE of the sampler [FEATURES ...]]
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Where Python does not do so by itself (PYTHONSAFEPATH).
sys.path.insert(0, str(Path(__file__).parent))

import exact

from secondgram.diffusion.folding import flops
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.errors import InputError
from secondgram.ops import cuda

Size = tuple[int, int, int, tuple[int, int, int]]
PUBLISHED: Size = (769, 783, 256, (512, 256, 128))
# By features: the preset `default`, others that are no multiple of a square of 64, and the paper's.
SIZES: dict[int, Size] = {
    16: (16, 21, 64, (128, 64, 32)),
    17: (17, 20, 24, (40, 33, 16)),
    30: (30, 44, 128, (64, 64, 64)),
    70: (70, 81, 64, (128, 64, 32)),
    769: PUBLISHED,
}
TILES = [{"rows": rows, "columns": columns} for rows, columns in itertools.product((1, 2), (2, 4))]
CLUSTERS = (1, 2, 4, 8)
# Relative, in the norm, against float64: of draws in bfloat16, of the fused denoiser's output and gradients.
TOLERANCE = 1e-2
DENOISER = {"bf16": 1e-2, "tf32": 2e-3, "fp32": 1e-5}
# The fused denoiser by precision and features, of so many rows; task gradients of the published network.
FUSED, FUSED_ROWS = (("bf16", 769), ("tf32", 32), ("fp32", 32)), 255
PARAMETERS, TASKS = 4_727_688, (3, 8, 64)
# People whose draws are compared bit for bit, and the numbers of a copy.
BITS_PEOPLE, COPIED = 4000, 64 << 20
DEVICE = "cuda"

found_bad = False


def say(*words: object) -> None:
    print(*words, flush=True)


def tell(good: bool, *words: object) -> None:
    global found_bad
    found_bad |= not good
    say("ok " if good else "BAD", *words)


# -- the sampler ------------------------------------------------------------------------------------------------------


class Case:
    """People, draws and steps of a network with random weights."""

    def __init__(self, features: int, people: int, draws: int, steps: int) -> None:
        self.folded = exact.network(*SIZES[features])
        generator = np.random.default_rng(features)
        self.c = generator.normal(size=(people, SIZES[features][1])).astype(np.float32)
        self.keys = np.arange(people, dtype=np.uint64) * 7 + (1 << 40) + 1
        self.draws = np.arange(draws, dtype=np.uint32)
        self.table = solver_table(Schedule.make("linear", zero_terminal=True), "sde-dpm++2m", steps, "v").rows
        self.sampler = cuda.CudaSampler(self.folded)

    def sample(self, mode: str, **options: int) -> np.ndarray:
        chosen: dict[str, Any] = {"mode": mode, **options}
        return self.sampler.sample(self.c, self.keys, self.draws, 3, self.table, **chosen)

    def exact(self) -> np.ndarray:
        features = self.folded.features
        noise = exact.keyed(self.keys, self.draws, 3, features)
        rows = np.tile(self.c, (len(self.draws), 1))
        return self.folded.chain(rows, self.table, noise).reshape(len(self.draws), len(self.keys), features)


def variants() -> Iterator[dict[str, int]]:
    """Options of the sampler: the default, the default in each cluster, each tile, and each tile in each cluster."""
    yield {}
    clusters = CLUSTERS if cuda._opened(0).facts["groups"] else (1,)
    yield from ({"cluster": cluster} for cluster in clusters)
    yield from (tile | {"cluster": cluster} for tile, cluster in itertools.product(TILES, clusters))


def errors(mode: str, *features: str) -> None:
    """Draws against float64 for every tile and cluster there is."""
    for size in map(int, features or ("17", "70", "769")):
        case = Case(size, 11, 13, 4)
        want, absent = case.exact(), 0
        for options in variants():
            begin = time.perf_counter()
            try:
                got = case.sample(mode, **options)
            except InputError:
                # No tile of this size was compiled, or it does not fit.
                absent += 1
                continue
            away = exact.distance(got, want)
            words = " ".join(f"{name} {value}" for name, value in options.items()) or "as chosen"
            took = time.perf_counter() - begin
            tell(away <= TOLERANCE, f"D={size} {mode}, {words}: {away:.1e} from float64, {took:.3f} s")
        say(f"    D={size} {mode}: {absent} of the tiles asked for do not exist")


def bits(mode: str) -> None:
    """The same bits each time, however the work is laid out: an error that moves is a race."""
    path = os.environ.get("SMOKE_BITS")
    before = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    mine: dict[str, str] = {}
    for size in (16, 30, 769):
        case = Case(size, BITS_PEOPLE, 5, 4)
        first = case.sample(mode, cluster=1)
        for cluster in (1, 2) if cuda._opened(0).facts["groups"] else (1,):
            wrong = sum(int((case.sample(mode, cluster=cluster) != first).any(axis=-1).sum()) for _ in range(5))
            tell(wrong == 0, f"D={size} {mode}, cluster {cluster}: of 5 x {first[..., 0].size} rows {wrong} differ")
        tell(bool(np.isfinite(first).all()), f"D={size} {mode}: every draw is finite")
        # A draw alone has the embedding among its products, draws together share it.
        case.draws = case.draws[:1]
        for context in (1, 2):
            wrong = int((case.sample(mode, context=context)[0] != first[0]).any(axis=-1).sum())
            tell(wrong == 0, f"D={size} {mode}, one draw, context {context}: of {BITS_PEOPLE} rows {wrong} differ")
        mine[str(size)] = hashlib.sha256(first.tobytes()).hexdigest()[:16]
        for other, known in before.items():
            tell(known.get(str(size)) == mine[str(size)], f"D={size}: the bits of {mode} are those of {other}")
    if path:
        Path(path).write_text(json.dumps(before | {mode: mine}))


def cohort(mode: str) -> None:
    """The published cohort, conditions and draws on the device; one after another, the first of which records."""
    import torch

    people = 41_706
    folded = exact.network(*PUBLISHED)
    table = solver_table(Schedule.make("linear"), "ddpm", None, "noise").rows
    work = people * len(table) * flops(*PUBLISHED, 1)
    sampler, keys = cuda.CudaSampler(folded), np.arange(people, dtype=np.uint64)
    conditions = torch.randn(people, PUBLISHED[1], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    ways: list[dict[str, int]] = [{"cluster": n} for n in ((2, 1, 4) if cuda._opened(0).facts["groups"] else (1,))]
    # The embedding's term computed before the products, and steps that are not recorded.
    ways += [{"context": 1}, *([{"recorded": 0}] if mode == "graph" else [])]
    for options in ways:
        named: dict[str, Any] = {"mode": mode, **options}
        times = []
        for _ in range(4):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            got = sampler.sample(conditions, keys, np.zeros(1, np.uint32), 1, table, **named)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        best, words = min(times[1:]), " ".join(f"{name} {value}" for name, value in options.items())
        tell(
            bool(torch.isfinite(got).all()),
            f"cohort, {mode}, {words}: {best * 1e3:.1f} ms, {work / best / 1e12:.0f} TFLOP/s;"
            f" first call {times[0] * 1e3:.0f} ms",
        )


def chain(mode: str) -> None:
    say("sampler on", cuda._opened(0).facts)
    for part in (errors, bits, cohort):
        part(mode)


def once(mode: str) -> None:
    """One chunk of people through a few steps, the second time for a profiler."""
    import torch

    people = 16_896
    folded, keys = exact.network(*PUBLISHED), np.arange(people, dtype=np.uint64)
    conditions = torch.randn(people, PUBLISHED[1], device="cuda")
    table = solver_table(Schedule.make("linear"), "ddpm", None, "noise").rows[-3:]
    sampler = cuda.CudaSampler(folded)
    run = lambda: sampler.sample(conditions, keys, np.zeros(1, np.uint32), 1, table, mode=mode)  # noqa: E731
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


# -- the rest ---------------------------------------------------------------------------------------------------------


def device() -> None:
    import torch

    try:
        import triton as module

        version = module.__version__
    except ImportError:
        version = "absent"
    facts = torch.cuda.get_device_properties(0)
    say(
        f"torch {torch.__version__}, triton {version}, {facts.name}, sm_{facts.major}{facts.minor},"
        f" {facts.multi_processor_count} multiprocessors, {facts.total_memory >> 30} GiB"
    )
    reason = cuda.reason_unavailable()
    tell(reason is None, "CUDA sampler:", reason or "present")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    say(f"bf16 product {2 * 8192**3 / _recorded(lambda: a @ b) / 1e12:.0f} TFLOP/s")
    source = torch.randn(256 << 20, device="cuda")
    target = torch.empty_like(source)
    say(f"copy {8 * source.numel() / _recorded(lambda: target.copy_(source)) / 1e12:.2f} TB/s")
    for rate in cuda.stream_rates(rounds=2000):
        say(f"stream: {rate.columns} columns, cluster {rate.cluster}: {rate.bytes_per_clock:.1f} bytes a clock")


def _recorded(run: Callable[[], object]) -> float:
    """Median seconds of a call, recorded."""
    import recorded

    return float(np.median(recorded.seconds(recorded.Recording(run))))


def gram() -> None:
    """Gram matrix and weighted sum of task gradients: errors, and bytes a second as a share of the copy's."""
    import torch

    from secondgram.kernels import gradients

    source = torch.randn(COPIED, device=DEVICE)
    target = torch.empty_like(source)
    copied = 8 * source.numel() / _recorded(lambda: target.copy_(source))
    for tasks in TASKS:
        J = torch.randn(tasks, PARAMETERS, device=DEVICE)
        w = torch.rand(tasks, dtype=torch.float64, device=DEVICE)
        g = torch.empty(PARAMETERS, device=DEVICE)
        wide = J.double()
        K = wide @ wide.T
        away = float((gradients.gram(J) - K).abs().max() / K.max())
        tell(away <= 1e-12, f"T={tasks}: Gram matrix {away:.0e} from float64")
        gradients.combine(J, w, g)
        off = float((g.double() - w @ wide).norm() / (w @ wide).norm())
        tell(off <= 1e-7, f"T={tasks}: weighted sum {off:.0e} from float64")
        del wide
        one, two = (
            _recorded(functools.partial(gradients.gram, J)),
            _recorded(functools.partial(gradients.combine, J, w, g)),
        )
        shares = [4 * rows * PARAMETERS / took / copied for rows, took in ((tasks, one), (tasks + 1, two))]
        say(
            f"    T={tasks}: gram {one * 1e6:.0f} us, {shares[0]:.2f} of the copy;"
            f" combine {two * 1e6:.0f} us, {shares[1]:.2f}"
        )


def triton() -> None:
    """The fused denoiser: errors of output and gradients, then times beside eager torch, recorded and not."""
    import recorded
    from test_denoiser import BATCHES, Case

    for precision, features in FUSED:
        begin = time.perf_counter()
        made = Case(features, FUSED_ROWS, precision, True, DEVICE)
        for what, away in zip(("output", "gradients"), made.distances(made.contender("fused")()), strict=True):
            tell(away <= DENOISER[precision], f"denoiser {precision} D={features}: {what} {away:.1e} from float64")
        say(f"    {time.perf_counter() - begin:.1f} s with compiling")
    for rows, backward in itertools.product(BATCHES, (False, True)):
        found = []
        for name in ("fused", "eager"):
            run = Case(FUSED[0][1], rows, FUSED[0][0], backward, DEVICE).contender(name)
            plain, alone = float(np.median(recorded.seconds(run, rounds=5))), _recorded(run)
            found.append(f"{name} {plain * 1e6:.0f} us, recorded {alone * 1e6:.0f} us")
        say(f"B={rows} {'forward and backward' if backward else 'forward'}:", "; ".join(found))


OF_A_MODE = {part.__name__: part for part in (errors, bits, cohort, chain, once)}
PARTS = {part.__name__: part for part in (device, gram, triton)}


def main(words: list[str]) -> None:
    part, *rest = words or [""]
    of_a_mode = part in OF_A_MODE and bool(rest) and rest[0] in cuda.MODES
    if not of_a_mode and (part not in PARTS or rest):
        say(f"usage: smoke.py {{{','.join(PARTS)}}} | {{{','.join(OF_A_MODE)}}} {{{','.join(cuda.MODES)}}}")
        sys.exit(2)
    reason = cuda.reason_unavailable()
    if of_a_mode:
        if reason:
            sys.exit(f"The CUDA sampler cannot run: {reason}.")
        OF_A_MODE[part](*rest)
    else:
        import torch

        if not torch.cuda.is_available():
            sys.exit("No CUDA device: torch sees none.")
        PARTS[part]()
    sys.exit(found_bad)


if __name__ == "__main__":
    os.environ.setdefault("TRITON_INTERPRET", "0")
    main(sys.argv[1:])
