"""The reverse chain on the CPU: native per instruction set, and against its peers. Checked before it is timed.

Rows a second are in `extra_info`: a row is one person and draw taken through all steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from chains import PUBLISHED, SMALL, Problem, chain, ours, peers
from interleaved import interleaved

from secondgram import Denoiser, Sampler
from secondgram.diffusion.folding import flops, fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import SolverTable, solver_table
from secondgram.ops import native

# (features, conditions, embedding, widths), people, draws, steps, the network's prediction
CASES: dict[str, Any] = {
    "paper, 769 features, 99 steps": ((769, 783, 256, (512, 256, 128)), 10, 20, None, "noise"),
    "small: 16 components, 4 steps": ((16, 21, 32, (32, 16, 16)), 20, 4, 4, "v"),
    "default, 16 components, 8 steps": ((16, 21, 64, (128, 64, 32)), 400, 20, 8, "v"),
}
GATE = 1e-5


class Case:
    """A network with the people and the solver of one case."""

    def __init__(self, name: str) -> None:
        size, self.people, self.draws, steps, self.prediction = CASES[name]
        self.size = size
        generator = torch.Generator().manual_seed(0)
        self.net = Denoiser(*size[:2], embedding=size[2], widths=size[3], generator=generator)
        self.c = np.random.default_rng(0).normal(size=(self.people, size[1])).astype(np.float32)
        self.keys = np.arange(self.people, dtype=np.uint64)
        self.schedule = Schedule.make("linear", zero_terminal=self.prediction == "v")
        self.solver = "ddpm" if self.prediction == "noise" else "dpm++2m"
        self.table: SolverTable = solver_table(self.schedule, self.solver, steps, self.prediction)

    def eager(self, people: int | None = None) -> np.ndarray:
        sampler = Sampler(self.net, self.schedule, backend="reference", prediction=self.prediction)
        some = slice(people)
        return sampler.sample(
            self.c[some], self.keys[some], self.draws, 1, self.solver, len(self.table), keys=self.keys[some]
        )

    def note(self, benchmark: Any, group: str, way: str, threads: int) -> None:
        features, conditions, embedding, widths = self.size
        per_step = flops(features, conditions, embedding, widths, self.draws)
        operations = self.people * self.draws * len(self.table) * per_step
        benchmark.group = group
        benchmark.extra_info.update(
            way=way,
            people=self.people,
            draws=self.draws,
            steps=len(self.table),
            threads=threads,
            folded_flop=operations,
        )


@pytest.mark.skipif(
    native.sampler_reason_unavailable() is not None, reason=f"native: {native.sampler_reason_unavailable()}"
)
@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "all threads"])
@pytest.mark.parametrize("architecture", native.architectures() or ["none"])
@pytest.mark.parametrize("name", CASES)
def test_native(benchmark: Any, name: str, architecture: str, threads: int | None) -> None:
    case = Case(name)
    packed = native.NativeSampler(fold({key: value.numpy() for key, value in case.net.state_dict().items()}))
    numbers = np.arange(case.draws, dtype=np.uint32)

    def run() -> np.ndarray:
        return packed.sample(case.c, case.keys, numbers, 1, case.table.rows, architecture=architecture, threads=threads)

    plain = case.eager(2)
    assert np.linalg.norm(run()[:, :2] - plain) <= GATE * np.linalg.norm(plain)
    count = threads or native.default_threads()
    case.note(benchmark, name, f"secondgram {architecture}, {count} thread{'s' * (count > 1)}", count)
    benchmark(run)


@pytest.mark.parametrize("name", CASES)
def test_eager_torch(benchmark: Any, name: str) -> None:
    case = Case(name)
    case.note(benchmark, name, "eager torch", torch.get_num_threads())
    benchmark.pedantic(case.eager, rounds=3)


SIZES = {"small": (SMALL, 9), "published": (PUBLISHED, 7)}


@pytest.mark.skipif(
    native.sampler_reason_unavailable() is not None, reason=f"native: {native.sampler_reason_unavailable()}"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", SIZES)
def test_chain(benchmark: Any, name: str, precision: str, threads: int) -> None:
    """All steps of a batch, noise included, in one call of ours and as a loop over each peer's network."""
    if not native.architectures(precision):
        pytest.skip(f"no instructions for {precision}")
    size, rounds = SIZES[name]
    problem = Problem(size=size)
    run = ours(problem, precision)
    c, keys = problem.c.numpy(), np.arange(size.people, dtype=np.uint64)
    plain = Sampler(problem.net, "linear", backend="reference").sample(c, keys, size.draws, 0, keys=keys)
    distance = float(np.linalg.norm(run() - plain) / np.linalg.norm(plain))
    assert distance <= {"fp32": 1e-5, "fp16": 2e-2, "bf16": 5e-2}[precision]
    others = {key: _looped(predict, problem) for key, predict in peers(problem, threads, (precision,)).items()}
    operations = size.rows * len(problem.table) * size.flop
    with torch.inference_mode():
        interleaved(
            benchmark,
            run,
            others,
            rounds=rounds,
            group=f"reverse chain, {name}, {precision}",
            threads=threads,
            distance=distance,
            precision=precision,
            flop=operations,
            bytes=problem.bytes,
            size=list(vars(size).values()),
        )


def _looped(predict: Any, problem: Problem) -> Any:
    return lambda: chain(predict, problem)
