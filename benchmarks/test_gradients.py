"""Gradients of tasks on the CPU, as ratios to a plain forward and backward pass of the same rows, and on a GPU against
its copy bandwidth, recorded. Everything is checked before it is timed; on the CPU repeats of ours and of the plain pass
are interleaved.

Two threads: OMP_NUM_THREADS=2 pytest benchmarks/test_gradients.py. The ratios and their bounds are in `extra_info`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import ledger
import numpy as np
import pytest
import recorded
import torch
from torch import Tensor

from secondgram import Sampler
from secondgram.denoiser import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.training.gradients import TaskGradients, aggregate, task_gradients
from secondgram.training.tasks import TaskRows
from secondgram.training.trainer import Trainer, TrainingOptions

FEATURES, CONDITIONS = 769, 783
# tasks, rows, largest ratio to a plain pass
CASES = {"3 tasks, 256 rows": (3, 256, 1.45), "8 tasks, 256 rows": (8, 256, 2.0), "3 tasks, 2048 rows": (3, 2048, 1.15)}
GATE = 1e-5
ROUNDS = int(os.environ.get("GRADIENT_ROUNDS", "31"))


class Case:
    """A denoiser of the paper's size with a batch sorted by task."""

    def __init__(self, tasks: int, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = Denoiser(FEATURES, CONDITIONS, generator=generator)
        self.parameters = list(self.net.parameters())
        self.x, self.z = (torch.randn(rows, FEATURES, generator=generator) for _ in range(2))
        self.c = torch.randn(rows, CONDITIONS, generator=generator)
        self.t = torch.randint(1, 100, (rows,), generator=generator).float()
        # Unequal tasks: the first has half as many rows as the last.
        share = torch.linspace(1, 2, tasks).cumsum(0)
        ends = (share / share[-1] * rows).round().long()
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
        self.tasks, self.rows = tasks, rows
        self.order = torch.arange(tasks)

    def row_losses(self) -> Tensor:
        return (self.net(self.x, self.t, self.c) - self.z).square().sum(dim=1) / self.x.numel()

    def plain(self) -> Tensor:
        """The gradient of the sum of all tasks (P,)."""
        made = torch.autograd.grad(self.row_losses().sum(), self.parameters)
        return torch.cat([part.flatten() for part in made])

    def plain_pass(self) -> None:
        torch.autograd.grad(self.row_losses().sum(), self.parameters)

    def losses(self) -> list[Tensor]:
        rows = self.row_losses()
        return [rows[a:b].sum() for a, b in pairwise(self.offsets.tolist())]


@pytest.fixture
def processor(benchmark: Any) -> Iterator[None]:
    """Two threads; left out on a CUDA machine, whose time is for device benchmarks, and where nothing is timed."""
    if benchmark.disabled or (torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"):
        pytest.skip("a timing of the processor")
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("GRADIENT_THREADS", "2")))
    yield
    torch.set_num_threads(before)


def _interleaved(benchmark: Any, run: Callable[[], object], plain: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Time both in turn; quantiles of the ratio of neighbours go into `extra_info`."""
    beside: list[float] = []
    ours: list[float] = []

    def before() -> None:
        start = time.perf_counter()
        plain()
        beside.append(time.perf_counter() - start)

    def timed() -> None:
        start = time.perf_counter()
        run()
        ours.append(time.perf_counter() - start)

    for _ in range(2):
        plain()
        run()
    benchmark.pedantic(timed, setup=before, rounds=rounds, iterations=1)
    ratios = np.array(ours) / np.array(beside)
    benchmark.extra_info.update(
        ratio=float(np.median(ratios)),
        ratio_quantiles=ledger.quantiles(ratios),
        plain_seconds=float(np.median(beside)),
        threads=torch.get_num_threads(),
    )


@pytest.mark.parametrize("mode", ["auto", "jac", "layer", "ghost", "sums"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("processor")
def test_one_pass(benchmark: Any, name: str, mode: str) -> None:
    tasks, rows, bound = CASES[name]
    if mode == "ghost" and rows > 1000:
        pytest.skip("for small batches only")
    case = Case(tasks, rows)
    found = TaskGradients(case.net, tasks, mode)

    def run() -> Tensor:
        found.clear()
        with found.rows(case.offsets):
            case.row_losses().sum().backward()
        w = aggregate(found.gram(), "pcgrad", order=case.order)
        return found.combine(w, out=found.g)

    run()
    ones, plain = torch.ones(tasks, dtype=torch.float64), case.plain()
    assert float((found.combine(ones) - plain).norm()) <= GATE * float(plain.norm())
    benchmark.group = name
    benchmark.extra_info.update(tasks=tasks, rows=rows, mode=mode, bound=bound if mode == "auto" else None)
    _interleaved(benchmark, run, case.plain_pass)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("processor")
def test_one_backward_pass_a_task(benchmark: Any, name: str) -> None:
    tasks, rows, _ = CASES[name]
    case = Case(tasks, rows)

    def run() -> Tensor:
        J = task_gradients(case.losses(), case.parameters)
        wide = J.double()
        return aggregate(wide @ wide.T, "pcgrad", order=case.order).float() @ J

    benchmark.group = name
    benchmark.extra_info.update(tasks=tasks, rows=rows, mode="one backward pass a task")
    _interleaved(benchmark, run, case.plain_pass, rounds=max(3, ROUNDS // 3))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("processor")
def test_torchjd(benchmark: Any, name: str) -> None:
    autojac = pytest.importorskip("torchjd.autojac", reason="torchjd is not installed")
    aggregation = pytest.importorskip("torchjd.aggregation")
    tasks, rows, _ = CASES[name]
    case = Case(tasks, rows)
    method = aggregation.PCGrad()

    def run() -> None:
        autojac.backward(case.losses())
        autojac.jac_to_grad(case.parameters, method)
        for parameter in case.parameters:
            parameter.grad = None

    benchmark.group = name
    benchmark.extra_info.update(tasks=tasks, rows=rows, mode="torchjd")
    _interleaved(benchmark, run, case.plain_pass, rounds=max(3, ROUNDS // 3))


EPOCH_ROWS, EPOCH_BATCH, EPOCH_BOUND, VALIDATED_BOUND, VALIDATED_PAIRS = 36_600, 256, 1.5, 1.65, 378


@pytest.mark.parametrize(("method", "validated"), [("pcgrad", False), ("pcgrad", True), ("gate", False)])
@pytest.mark.usefixtures("processor")
def test_epoch(benchmark: Any, method: str, validated: bool) -> None:
    """A whole epoch at the paper's scale, optimiser and data included, against as many plain passes of 256 rows.

    validated : and one draw of all 99 steps for each of 378 pairs at its end, by the sampler.
    """
    rows = int(os.environ.get("GRADIENT_EPOCH_ROWS", EPOCH_ROWS))
    pairs, generator = rows // 10, torch.Generator().manual_seed(0)
    people = rows - pairs

    def made(count: int, width: int) -> Tensor:
        return torch.randn(count, width, generator=generator)

    target, visit = made(pairs, FEATURES), made(people, FEATURES)
    data = TaskRows(
        *(target, torch.ones_like(target), made(pairs, CONDITIONS)),
        *(visit, torch.ones_like(visit), made(people, CONDITIONS - FEATURES)),
        (0.99, 0.12),
    )
    case = Case(3, EPOCH_BATCH)
    condition, followup = made(VALIDATED_PAIRS, CONDITIONS).numpy(), made(VALIDATED_PAIRS, FEATURES).numpy()
    keys = np.arange(VALIDATED_PAIRS, dtype=np.uint64)

    sampler = Sampler(case.net, "linear").resolve_precision()

    def score(net: Denoiser) -> float:
        drawn = sampler.sample(condition, keys, 1, keys=keys)[0]
        return -float(np.square(drawn - followup).mean())

    trainer = Trainer(
        case.net, Schedule.make("linear"), data, TrainingOptions(gradients=method), seed=0, validate=score
    )

    # A machine's pace drifts within an epoch. So a plain pass follows every step, and meanwhile the clock stands still.
    plain: list[float] = []

    def followed(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*given: Any) -> Any:
            made = step(*given)
            start = time.perf_counter()
            case.plain_pass()
            plain.append(time.perf_counter() - start)
            return made

        return stepped

    for name in ("_task_step", "_plain_step"):
        setattr(trainer, name, followed(getattr(trainer, name)))
    benchmark._timer = lambda: time.perf_counter() - sum(plain)

    def epoch() -> None:
        trainer.history.epochs.append(trainer._epoch(1))
        if validated:
            trainer._score(trainer.history.epochs[-1])

    benchmark.group = "epoch"
    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    batches = -(-rows // EPOCH_BATCH)
    beside = np.array(plain).reshape(-1, batches).sum(axis=1)[1:]
    ratios = np.array(benchmark.stats.stats.data) / beside
    benchmark.extra_info.update(
        rows=rows,
        batches=batches,
        method=method,
        bound=VALIDATED_BOUND if validated else EPOCH_BOUND,
        contender=f"epoch {method}{', validated' if validated else ''}",
        ratio=float(np.median(ratios)),
        ratio_quantiles=ledger.quantiles(ratios),
        plain_seconds=float(np.median(beside)),
        threads=torch.get_num_threads(),
    )


PEAK = """
import re, sys
from pathlib import Path
from test_gradients import Case, TaskGradients, aggregate
import torch
mode, tasks, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(2)
case = Case(tasks, rows)

def told(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

# From here on the peak is counted anew: loading torch took more than what follows.
Path("/proc/self/clear_refs").write_text("5")
start = told("VmRSS")
if mode == "plain":
    case.plain_pass()
else:
    found = TaskGradients(case.net, tasks, mode)
    with found.rows(case.offsets):
        case.row_losses().sum().backward()
    found.combine(aggregate(found.gram(), "pcgrad", order=case.order))
print(told("VmHWM") - start, 4 * sum(value.numel() for value in case.parameters))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's count of the peak")
@pytest.mark.parametrize(("tasks", "rows"), [(3, 256), (64, 256), (3, 2048)])
@pytest.mark.usefixtures("processor")
def test_memory_of_layer_mode(benchmark: Any, tasks: int, rows: int) -> None:
    """Peak of a pass above what stood before it, with the parameters added to both."""

    def peak(mode: str) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
        command = [sys.executable, "-c", PEAK, mode, str(tasks), str(rows)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return sum(map(int, done.stdout.split()))

    plain, layer = peak("plain"), peak("layer")
    benchmark.group = "memory"
    allowed = 1.25 * plain + (64 << 20)
    benchmark.extra_info.update(tasks=tasks, rows=rows, plain_bytes=plain, layer_bytes=layer, allowed_bytes=allowed)
    benchmark.pedantic(lambda: None, rounds=1)


# -- on a GPU ---------------------------------------------------------------------------------------------------------

PARAMETERS, STEP_ROWS = 4_727_688, 256
# Numbers of the copy that bandwidth is read off.
COPIED = 64 << 20


def _device() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and TRITON_INTERPRET=0")


def _middle(run: Callable[[], object]) -> float:
    """Median seconds of a call by the device's clock."""
    return float(np.median(recorded.seconds(run)))


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.parametrize(("tasks", "bound"), [(3, 0.8), (8, 0.8), (64, 0.5)])
def test_gram_and_combine(benchmark: Any, tasks: int, bound: float) -> None:
    """Both recorded, over slabs in turn, together four times the cache: a step finds there at best its own."""
    _device()
    kernel = pytest.importorskip("secondgram.kernels.gradients", reason="triton is not installed")
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    slabs = [
        torch.randn(tasks, PARAMETERS, device="cuda") for _ in range(max(1, -(-4 * cache // (4 * tasks * PARAMETERS))))
    ]
    w = torch.rand(tasks, dtype=torch.float64, device="cuda")
    g = torch.empty(PARAMETERS, device="cuda")

    def run() -> tuple[Tensor, Tensor]:
        for J in slabs:
            K = kernel.gram(J)
            kernel.combine(J, w, g)
        return K, g

    replay = recorded.Recording(run)
    wide = slabs[-1].double()
    K, _ = replay()
    exact, combined = wide @ wide.T, w @ wide
    assert float((K - exact).abs().max()) <= 1e-12 * float(exact.max())
    assert float((g.double() - combined).norm()) <= 1e-7 * float(combined.norm())
    del wide, combined

    source = torch.randn(COPIED, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.numel() * 4 / _middle(recorded.Recording(lambda: target.copy_(source)))
    moved = len(slabs) * (2 * tasks + 1) * PARAMETERS * 4 / _middle(replay)
    benchmark.group = "Gram and combine"
    benchmark.extra_info.update(
        tasks=tasks,
        slabs=len(slabs),
        bytes_per_second=moved,
        copy_bytes_per_second=copied,
        share_of_copy=moved / copied,
        bound=bound,
    )
    recorded.timed(benchmark, replay)


def _step_way(case: Case, way: str) -> Callable[[], Tensor]:
    """One step of a case by a way of `WAYS`, the gradient (P,) as its result; `torch.compile` is the plain pass."""
    offsets, order = case.offsets.to(case.x.device), case.order.to(case.x.device)
    if way == "one pass":
        found = TaskGradients(case.net, case.tasks, "jac")
        g = torch.empty(found.size, device=case.x.device)

        def one_pass() -> Tensor:
            found.clear()
            with found.rows(offsets):
                case.row_losses().sum().backward()
            return found.combine(aggregate(found.gram(), "pcgrad", order=order), out=g)

        return one_pass
    if way == "one backward pass a task":

        def separate() -> Tensor:
            J = task_gradients(case.losses(), case.parameters)
            wide = J.double()
            return aggregate(wide @ wide.T, "pcgrad", order=order).float() @ J

        return separate
    if way == "torch.compile":
        compiled = torch.compile(case.net)

        def plain() -> Tensor:
            error = compiled(case.x, case.t, case.c) - case.z
            made = torch.autograd.grad(error.square().sum() / case.x.numel(), case.parameters)
            return torch.cat([part.flatten() for part in made])

        return plain
    autojac = pytest.importorskip("torchjd.autojac", reason="torchjd is not installed")
    method = pytest.importorskip("torchjd.aggregation").PCGrad()

    def torchjd() -> Tensor:
        for parameter in case.parameters:
            parameter.grad = None
        autojac.backward(case.losses())
        autojac.jac_to_grad(case.parameters, method)
        return torch.cat([parameter.grad.flatten() for parameter in case.parameters if parameter.grad is not None])

    return torchjd


# Where torchjd projects in an order of its own, its result is another one, and its solver waits for the device.
WAYS = {"one pass": True, "one backward pass a task": True, "torch.compile": True, "torchjd": False}


def _exact_step(case: Case, way: str) -> Tensor:
    """The exact result of a way, in float64 (P,)."""
    wide = Case(case.tasks, case.rows)
    wide.net.double()
    wide.x, wide.z, wide.c, wide.t = (each.double() for each in (wide.x, wide.z, wide.c, wide.t))
    if way == "torch.compile":
        return wide.plain()
    J = task_gradients(wide.losses(), wide.parameters)
    return aggregate(J @ J.T, "pcgrad", order=wide.order) @ J


@pytest.mark.parametrize("way", ["one pass", "one backward pass a task"])
def test_small_step(benchmark: Any, way: str) -> None:
    """The ways of a device's step give the gradient that they should, here on the processor."""
    case = Case(3, 8)
    run, want = _step_way(case, way), _exact_step(case, way)
    assert float((run().double() - want).norm()) <= GATE * float(want.norm())
    benchmark.group = "step of a device, small"
    benchmark.pedantic(run, rounds=3)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.parametrize(
    ("way", "graphed"),
    [
        pytest.param(way, graphed, marks=[pytest.mark.slow] if way == "torch.compile" else [])
        for way, can in WAYS.items()
        for graphed in ((False, True) if can else (False,))
    ],
)
@pytest.mark.parametrize("tasks", [3, 8])
def test_step_on_a_device(benchmark: Any, tasks: int, way: str, graphed: bool) -> None:
    """Forward, backward, projection and combination of 256 rows; `torch.compile` is the plain pass, compiled."""
    _device()
    case = Case(tasks, STEP_ROWS)
    case.net.cuda()
    case.x, case.z, case.c, case.t = (each.cuda() for each in (case.x, case.z, case.c, case.t))
    run: Callable[[], Tensor] = _step_way(case, way)
    if graphed:
        run = recorded.Recording(run)
    if way != "torchjd":
        want = _exact_step(case, way)
        assert float((run().double().cpu() - want).norm()) <= GATE * float(want.norm())
    plain = _middle(recorded.Recording(case.plain_pass))
    benchmark.group = f"step on a device, {tasks} tasks"
    benchmark.extra_info.update(tasks=tasks, way=f"{way}{', recorded' if graphed else ''}")
    recorded.timed(benchmark, run)
    seconds = float(np.median(benchmark.stats.stats.data))
    benchmark.extra_info.update(plain_seconds=plain, ratio=seconds / plain)
