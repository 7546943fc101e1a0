"""The denoiser: fused kernels against eager torch and torch.compile, each also recorded as a CUDA graph. Checked before
timed.

`extra_info` holds the operations of the network as written and, on a device, the measured peak of its matrix units, so
that the fraction of it is operations / seconds / peak. `bash benchmarks/gpu.sh` runs the quick part; all of it, with
torch.compile:

    TRITON_INTERPRET=0 pytest benchmarks/test_denoiser.py -m gpu --benchmark-json=denoiser.json
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import recorded
import torch
from chains import PUBLISHED, SMALL, Problem, ours, peers
from interleaved import interleaved

from secondgram import Denoiser
from secondgram.diffusion import reference
from secondgram.diffusion.folding import flops
from secondgram.diffusion.noise import Purpose, normals

SIZES = {769: (769, 783, 256, (512, 256, 128)), 32: (32, 46, 256, (512, 256, 128))}
BATCHES = (256, 4096, 16896)
# Relative L2 of output and weight gradients against float64.
GATE = {"bf16": 1e-2, "tf32": 2e-3, "fp32": 1e-5}
QUICK = ("fused", "fused, recorded", "eager", "eager, recorded")
COMPILED = ("compiled, recorded", "max-autotune", "max-autotune, recorded")
ON_DEVICE = os.environ.get("TRITON_INTERPRET") != "1" and torch.cuda.is_available()


class Case:
    """A network with a batch: forward, or forward and backward, in one precision."""

    def __init__(self, features: int, rows: int, precision: str, backward: bool, device: str) -> None:
        self.size, self.rows, self.precision, self.backward = SIZES[features], rows, precision, backward
        generator = torch.Generator().manual_seed(0)
        self.net = Denoiser(
            *self.size[:2], embedding=self.size[2], widths=self.size[3], generator=generator, backend="reference"
        ).to(device)
        self.x, self.g = (torch.randn(rows, features, generator=generator).to(device) for _ in range(2))
        self.c = torch.randn(rows, self.size[1], generator=generator).to(device)
        self.t = (torch.rand(rows, generator=generator) * 99).to(device)

    def contender(self, name: str) -> Callable[[], Any]:
        """One call of a contender; peers get weights of the precision already, which costs them no cast."""
        graphed, way = name.endswith(", recorded"), name.removesuffix(", recorded")
        net: Any = self.net
        if way == "fused":
            net.backend, net.precision = "triton", self.precision
        elif self.precision == "bf16":
            net = net.to(torch.bfloat16)
            self.x, self.c, self.g = (value.to(torch.bfloat16) for value in (self.x, self.c, self.g))
        if way == "compiled":
            net = torch.compile(net)
        elif way == "max-autotune":
            net = torch.compile(net, mode="max-autotune-no-cudagraphs" if graphed else "max-autotune")
        weights = list(self.net.parameters())

        def once() -> Any:
            if not self.backward:
                with torch.no_grad():
                    return (net(self.x, self.t, self.c),)
            out = net(self.x, self.t, self.c)
            return (out, *torch.autograd.grad(out, weights, self.g))

        return recorded.Recording(once) if graphed else once

    def distances(self, found: tuple[Any, ...]) -> list[float]:
        """Of the output, and of all gradients together, from the reference in float64; relative, in the norm."""
        wide = {name: value.detach().double().requires_grad_() for name, value in self.net.named_parameters()}
        out = reference.denoise(wide, self.x.double(), self.t.double(), self.c.double())
        wanted = [out.detach()]
        if self.backward:
            wanted += torch.autograd.grad(out, list(wide.values()), self.g.double())
        distances = []
        for mine, theirs in ((found[:1], wanted[:1]), (found[1:], wanted[1:])):
            if theirs:
                want = torch.cat([value.reshape(-1) for value in theirs])
                got = torch.cat([value.detach().double().reshape(-1) for value in mine])
                distances.append(float((got - want).norm() / want.norm()))
        return distances

    def note(self, benchmark: Any, **facts: object) -> None:
        work = self.rows * flops(*self.size) * (3 if self.backward else 1)
        passes = "forward and backward" if self.backward else "forward"
        benchmark.group = f"{passes}, D={self.size[0]}, B={self.rows}, {self.precision}"
        benchmark.extra_info.update(flop=work, rows=self.rows, features=self.size[0], **facts)


@cache
def _peak(precision: str) -> float:
    """Operations a second of a large square product, the best of ten."""
    dtype, side = (torch.bfloat16 if precision == "bf16" else torch.float32), 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(recorded.seconds(recorded.Recording(lambda: a @ b), rounds=10))


def _cases() -> list[Any]:
    """All combinations; slow are those that compile for minutes, except the one peer that a claim needs most."""
    cases = []
    for features, rows, backward, precision, contender in itertools.product(
        (769, 32), BATCHES, (False, True), ("bf16", "tf32"), (*QUICK, *COMPILED)
    ):
        wanted = contender in QUICK or (contender == COMPILED[0] and backward and rows == BATCHES[-1])
        quick = wanted and features == 769 and precision == "bf16"
        passes = "forward and backward" if backward else "forward"
        cases.append(
            pytest.param(
                *(features, rows, backward, precision, contender),
                marks=[] if quick else [pytest.mark.slow],
                id=f"{features}-{rows}-{passes}-{precision}-{contender}",
            )
        )
    return cases


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.skipif(not ON_DEVICE, reason="needs a CUDA device and TRITON_INTERPRET=0")
@pytest.mark.parametrize(("features", "rows", "backward", "precision", "contender"), _cases())
def test_on_a_device(benchmark: Any, features: int, rows: int, backward: bool, precision: str, contender: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        case = Case(features, rows, precision, backward, "cuda")
        once = case.contender(contender)
        distances = case.distances(once())
        # Not `not >`: NaN has to fail.
        assert all(distance <= GATE[precision] for distance in distances), distances
        case.note(
            benchmark,
            contender=contender,
            device=torch.cuda.get_device_name(),
            distances=distances,
            peak_flop_a_second=_peak(precision),
        )
        recorded.timed(benchmark, once)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", ["small", "published"])
def test_one_evaluation(benchmark: Any, name: str, threads: int) -> None:
    """The network once, on the processor: one step of the native chain, its start and noise included, and each peer."""
    problem = Problem(size={"small": SMALL, "published": PUBLISHED}[name])
    problem.table = problem.table[:1]
    time, run = float(problem.table[0, 0]), ours(problem, "fp32")
    others = peers(problem, threads, ("fp32",))
    size, keys = problem.size, np.arange(problem.size.people, dtype=np.uint64)
    start = normals(keys, size.features, seed=0, purpose=Purpose.START, draws=size.draws)
    x = torch.from_numpy(start).reshape(-1, size.features)
    with torch.inference_mode():
        _, from_state, from_output, keep, now, _, fresh = problem.table[0].tolist()
        output = problem.net(x, time, problem.c.repeat(size.draws, 1))
        noise = normals(keys, size.features, seed=0, purpose=Purpose.STEP, draws=size.draws, step=0)
        stepped = (
            keep * x + now * (from_state * x + from_output * output) + fresh * torch.from_numpy(noise).reshape(x.shape)
        )
        assert (torch.from_numpy(run()).reshape(x.shape) - stepped).norm() <= 1e-5 * stepped.norm()
        interleaved(
            benchmark,
            run,
            {key: _once(predict, problem.x, time) for key, predict in others.items()},
            rounds=25,
            group=f"one evaluation of the network, {name}",
            threads=threads,
            precision="fp32",
            flop=size.rows * size.flop,
            bytes=problem.bytes,
        )


def _once(predict: Callable[..., Any], x: torch.Tensor, time: float) -> Callable[[], Any]:
    return lambda: predict(x, time)
