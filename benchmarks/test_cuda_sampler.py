"""The reverse chain of a whole cohort on a CUDA device: 41,706 people, 769 features, 99 steps.

Every mode of ours against torch: the network as written, eager at the paper's batch and at a large one, and compiled
with CUDA graphs; and the folded network, which does the same products as ours, with all steps in one recorded graph: on
cuBLASLt, and compiled. Ours and the folded are checked against float64 before they are timed, recordings as replayed.
`extra_info` has the seconds of a cohort and the share of the matrix peak measured beside it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pytest
import recorded
import torch
from device_chains import Chain, Witness, blas

from secondgram import Denoiser
from secondgram.diffusion.folding import FoldedDenoiser, flops, fold
from secondgram.diffusion.reference import denoise, solver_step
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.ops import cuda

REASON = cuda.reason_unavailable() or (None if torch.cuda.is_available() else "torch sees no CUDA device")


def on_a_device(test: Any) -> Any:
    """Marks of a timing of ours."""
    return pytest.mark.gpu(pytest.mark.skipif(REASON is not None, reason=f"CUDA: {REASON}")(test))


def torch_on_a_device(test: Any) -> Any:
    """Marks of a peer's, which needs nothing of ours there."""
    absent = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(absent, reason="torch sees no CUDA device")(test))


PEOPLE, FEATURES, CONDITIONS, EMBEDDING, WIDTHS = 41_706, 769, 783, 256, (512, 256, 128)
# Batches of torch's chain: the paper's, and one that fills a large device.
BATCHES = (256, 16_896)
GATE = 1e-2


@functools.cache
def _net() -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    return Denoiser(FEATURES, CONDITIONS, embedding=EMBEDDING, widths=WIDTHS, generator=generator).eval()


@functools.cache
def _table() -> np.ndarray:
    return solver_table(Schedule.make("linear"), "ddpm", None, "noise").rows


@functools.cache
def _folded() -> FoldedDenoiser:
    return fold({name: value.numpy() for name, value in _net().state_dict().items()})


@functools.cache
def _packed() -> cuda.CudaSampler:
    return cuda.CudaSampler(_folded())


@functools.cache
def _conditions() -> torch.Tensor:
    return torch.randn(PEOPLE, CONDITIONS, generator=torch.Generator().manual_seed(1))


@functools.cache
def _keys() -> np.ndarray:
    return np.arange(PEOPLE, dtype=np.uint64)


def _draw(conditions: Any, people: int = PEOPLE, **options: Any) -> Any:
    draws = np.zeros(1, dtype=np.uint32)
    return _packed().sample(conditions[:people], _keys()[:people], draws, 1, _table(), **options)


def _chain(
    net: Callable[..., torch.Tensor], c: torch.Tensor, x: torch.Tensor, noise: Callable[..., Any]
) -> torch.Tensor:
    """The chain as a loop over steps: c (n, conditions), x (n, D) the first state, noise(step) -> (n, D)."""
    before = torch.zeros_like(x)
    for number, row in enumerate(_table()):
        coefficients = tuple(float(value) for value in row)
        output = net(x, torch.full((len(x),), coefficients[0], device=x.device), c)
        x, before = solver_step(coefficients, x, output.float(), before, noise(number) if coefficients[-1] else None)
    return x


@functools.cache
def _gate(mode: str, cluster: int) -> float:
    """Relative distance of a few people's draws from the float64 chain on the same noise."""
    few = 8
    noise = exact.keyed(_keys()[:few], np.zeros(1, dtype=np.uint32), 1, FEATURES)
    got = _draw(_conditions().numpy(), few, mode=mode, cluster=cluster)[0]
    return exact.distance(got, _folded().chain(_conditions()[:few].numpy(), _table(), noise))


@functools.cache
def _peak() -> float:
    """Floating-point operations a second of a bfloat16 product of 8,192 x 8,192 matrices, the best of some."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / min(recorded.seconds(recorded.Recording(lambda: a @ b), rounds=10))


def _note(benchmark: Any, people: int, seconds: float, **facts: object) -> None:
    benchmark.group = f"cohort of {PEOPLE:,} x {FEATURES}, {len(_table())} steps"
    benchmark.extra_info.update(
        device=torch.cuda.get_device_name(), people=people, seconds_of_the_cohort=seconds * PEOPLE / people, **facts
    )


@on_a_device
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("cluster", [1, 2, 4])
@pytest.mark.parametrize("mode", cuda.MODES)
def test_cohort(benchmark: Any, mode: str, cluster: int, where: str) -> None:
    """From conditions to draws, both on the device or both in the memory of the host."""
    if cluster > 1 and not cuda._opened(0).facts["groups"]:
        pytest.skip("this device has no clusters of blocks")
    distance = _gate(mode, cluster)
    assert distance <= GATE
    conditions = _conditions().cuda() if where == "device" else _conditions().numpy()
    run = lambda: _draw(conditions, mode=mode, cluster=cluster)  # noqa: E731
    run()
    benchmark.pedantic(run, rounds=5)
    seconds = benchmark.stats.stats.min
    folded = PEOPLE * len(_table()) * flops(FEATURES, CONDITIONS, EMBEDDING, WIDTHS, 1)
    _note(benchmark, PEOPLE, seconds, distance=distance, share_of_peak=folded / seconds / _peak(), peak=_peak())


@on_a_device
def test_streaming(benchmark: Any) -> None:
    """Bytes that each multiprocessor receives from L2, by the width of a stage and the size of a cluster.

    64 rows need 56 bytes a clock, 128 rows 28: the sizes that are reached choose tile and cluster.
    """
    rates = benchmark.pedantic(cuda.stream_rates, rounds=1)
    benchmark.extra_info.update(
        device=torch.cuda.get_device_name(),
        rates=[{"columns": r.columns, "cluster": r.cluster, "bytes_per_clock": r.bytes_per_clock} for r in rates],
        chosen=cuda.best_tile(_packed().folded, rates),
    )


def _torch_chain(benchmark: Any, net: Callable[..., torch.Tensor], batch: int, rounds: int) -> None:
    """Times one batch through all steps, noise and solver included, and scales to the cohort."""
    c = _conditions()[:batch].cuda()

    def run() -> None:
        with torch.inference_mode():
            x = torch.randn(batch, FEATURES, device="cuda")
            _chain(net, c, x, lambda step: torch.randn(batch, FEATURES, device="cuda"))
        torch.cuda.synchronize()

    begin = time.perf_counter()
    run()
    first = time.perf_counter() - begin
    benchmark.pedantic(run, rounds=rounds)
    _note(benchmark, batch, benchmark.stats.stats.min, first_call_seconds=first)


@torch_on_a_device
@pytest.mark.parametrize("batch", BATCHES)
def test_eager_torch(benchmark: Any, batch: int) -> None:
    """The network as written, float32, as the paper's sampler runs it."""
    _torch_chain(benchmark, _net().cuda(), batch, 3)
    _net().cpu()


@torch_on_a_device
@pytest.mark.slow
def test_compiled_torch(benchmark: Any) -> None:
    """The network as written in bfloat16, compiled with CUDA graphs."""
    weights = {name: value.detach().cuda().bfloat16() for name, value in _net().named_parameters()}
    compiled = torch.compile(denoise, mode="reduce-overhead")

    def call(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(weights, x.bfloat16(), t.bfloat16(), c.bfloat16())

    _torch_chain(benchmark, call, BATCHES[-1], 3)


# -- the folded network in torch --------------------------------------------------------------------------------------

# Ways to make a step of torch operations, by name.
FOLDED: dict[str, dict[str, Any]] = {
    "torch on cuBLASLt": {"addmm": True},
    "torch.compile": {"wrap": torch.compile},
    "torch.compile, max-autotune": {"wrap": functools.partial(torch.compile, mode="max-autotune-no-cudagraphs")},
}


def _folded_distance(chain: Chain, draw: Callable[[], torch.Tensor], witness: Witness) -> float:
    """Of the first rows of `draw()`, whose noise the witness has seen, from the float64 chain."""
    got = draw()[: witness.few].cpu().numpy()
    few = chain.conditions[: witness.few].cpu().numpy()
    return exact.distance(got, chain.folded.chain(few, chain.table, witness.noise()))


@torch_on_a_device
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] if "autotune" in way else []) for way in FOLDED]
)
def test_folded_torch(benchmark: Any, way: str) -> None:
    """All steps of a large batch in one recorded graph, noise and solver included, scaled to the cohort.

    What is checked is a recording like the one that is timed, of the same compiled step, which keeps the noise of a few
    rows besides.
    """
    chain = Chain(_folded(), _conditions()[: BATCHES[-1]].cuda(), _table(), **FOLDED[way])
    witness = Witness()

    def seen() -> torch.Tensor:
        witness.kept.clear()
        return chain.run(witness)

    with blas("cublaslt"):
        distance = _folded_distance(chain, recorded.Recording(seen, warmups=1), witness)
        assert distance <= GATE
        replay = recorded.Recording(chain.run, warmups=1)
    benchmark.extra_info["way"] = f"{way}, folded, recorded"
    recorded.timed(benchmark, replay, rounds=5)
    seconds = float(np.median(benchmark.stats.stats.data))
    work = BATCHES[-1] * len(_table()) * flops(FEATURES, CONDITIONS, EMBEDDING, WIDTHS, 1)
    _note(benchmark, BATCHES[-1], seconds, distance=distance, share_of_peak=work / seconds / _peak(), peak=_peak())


@pytest.mark.parametrize("way", ["torch on cuBLASLt", "torch.compile"])
def test_small_folded_torch(benchmark: Any, way: str) -> None:
    """The same mathematics at a small size on the processor, as it is written."""
    folded, table = exact.network(16, 21, 64, (128, 64, 32)), _table()[::12]
    c = torch.randn(9, 21, generator=torch.Generator().manual_seed(0))
    for dtype, gate in ((torch.float32, 1e-5), (torch.bfloat16, GATE)):
        chain, witness = Chain(folded, c, table, addmm="addmm" in FOLDED[way], dtype=dtype), Witness()
        assert _folded_distance(chain, functools.partial(chain.run, witness), witness) <= gate
    benchmark.group = "chain of the folded network in torch, small"
    benchmark.pedantic(chain.run, rounds=3)
