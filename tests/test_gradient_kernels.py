"""The Triton kernels for gradients of tasks against plain statements in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secondgram.denoiser import Denoiser
from secondgram.ops import gradients as ops
from secondgram.ops.registry import BackendUnavailableError
from secondgram.training.gradients import TaskGradients, aggregate, step_on_device, write_gradients

triton = pytest.importorskip("triton", reason="triton is not installed")
kernel = pytest.importorskip("secondgram.kernels.gradients")

# The interpreter computes bfloat16 wrongly, so that type is tested on a device alone.
HERE = [torch.float32, torch.float16]
THERE = [*HERE, torch.bfloat16]
# offsets, outputs, inputs
SEGMENTS = [
    ([0, 1], 1, 1),
    ([0, 3, 3, 7], 5, 769),
    ([0, 1, 40], 769, 17),
    ([0, 0, 130], 65, 64),
    ([0, 0], 3, 4),
    ([0, 64], 64, 128),
    (list(range(0, 65)), 3, 5),
]


def _rows(offsets: list[int], width: int, dtype: torch.dtype, device: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(offsets[-1], width, generator=generator).to(dtype).to(device)


def _products(dY: Tensor, X: Tensor, offsets: list[int]) -> Tensor:
    return ops.weight_gradients(dY.double(), X.double(), offsets)


def _close(got: Tensor, expected: Tensor, rows: int) -> None:
    # Products of halves are exact in float32; the sums round at most once a row.
    assert torch.isfinite(got).all()
    assert float((got.double() - expected).norm()) <= 1e-6 * max(1, rows) ** 0.5 * float(expected.norm())


def _weight_gradients_agree(
    offsets: list[int], outputs: int, inputs: int, dtype: torch.dtype, device: str, exact: bool = True
) -> None:
    dY, X = _rows(offsets, outputs, dtype, device, 0), _rows(offsets, inputs, dtype, device, 1)
    got = kernel.weight_gradients(dY, X, torch.tensor(offsets, device=device), exact=exact)
    assert got.shape == (len(offsets) - 1, outputs, inputs)
    assert got.dtype == torch.float32
    _close(got, _products(dY, X, offsets), offsets[-1])


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", HERE, ids=str)
@pytest.mark.parametrize(("offsets", "outputs", "inputs"), SEGMENTS, ids=lambda part: str(part)[:12])
def test_weight_gradients_agree_in_the_interpreter(
    offsets: list[int], outputs: int, inputs: int, dtype: torch.dtype
) -> None:
    _weight_gradients_agree(offsets, outputs, inputs, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", THERE, ids=str)
@pytest.mark.parametrize(("offsets", "outputs", "inputs"), [*SEGMENTS, ([0, 100, 256], 769, 512)], ids=str)
def test_weight_gradients_agree_on_the_device(
    offsets: list[int], outputs: int, inputs: int, dtype: torch.dtype, exact: bool
) -> None:
    _weight_gradients_agree(offsets, outputs, inputs, dtype, "cuda", exact)


@pytest.mark.interpreted
def test_weight_gradients_of_strided_rows_go_into_a_part_of_a_larger_buffer() -> None:
    offsets = [0, 2, 9]
    wide = _rows(offsets, 40, torch.float32, "cpu", 2)
    dY, X = wide[:, 3:10], wide[:, 20:31]
    J = torch.full((2, 200), torch.nan)
    out = J[:, 50 : 50 + 7 * 11].view(2, 7, 11)
    assert kernel.weight_gradients(dY, X, torch.tensor(offsets, dtype=torch.int32), out=out) is out
    _close(out, _products(dY, X, offsets), 9)
    assert torch.isnan(J[:, :50]).all()
    assert torch.isnan(J[:, 127:]).all()
    _close(kernel.weight_gradients(dY, wide.T[:9].T, torch.tensor(offsets)), _products(dY, wide[:, :9], offsets), 9)


def _layers_agree(device: str, dtype: torch.dtype, count: int) -> None:
    offsets = [0, 3, 3, 10]
    widths = [(5, 7), (70, 3), (2, 130), (1, 1), (64, 64)] * 3
    total = sum(outputs * inputs + outputs for outputs, inputs in widths[:count]) + 5
    J = torch.full((3, total), torch.nan, device=device)
    layers, expected, place = [], torch.full_like(J, torch.nan).double(), 5
    for number, (outputs, inputs) in enumerate(widths[:count]):
        dY, X = (_rows(offsets, width, dtype, device, number) for width in (outputs, inputs))
        bias = -1 if number % 3 == 1 else place + outputs * inputs
        layers.append(kernel.LayerRows(dY, X, place, bias))
        expected[:, place : place + outputs * inputs] = _products(dY, X, offsets).flatten(1)
        if bias >= 0:
            sums = [dY[a:b].double().sum(dim=0) for a, b in itertools.pairwise(offsets)]
            expected[:, bias : bias + outputs] = torch.stack(sums)
        place += outputs * inputs + outputs
    assert kernel.layer_gradients(layers, torch.tensor(offsets, device=device), J) is J
    assert torch.equal(J.isnan(), expected.isnan())
    _close(J.nan_to_num(), expected.nan_to_num(), 10)


@pytest.mark.interpreted
@pytest.mark.parametrize("count", [1, 8, 11])
@pytest.mark.parametrize("dtype", HERE, ids=str)
def test_several_layers_agree_in_the_interpreter(dtype: torch.dtype, count: int) -> None:
    _layers_agree("cpu", dtype, count)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 8, 15])
@pytest.mark.parametrize("dtype", THERE, ids=str)
def test_several_layers_agree_on_the_device(dtype: torch.dtype, count: int) -> None:
    _layers_agree("cuda", dtype, count)


# -- Gram matrix and weighted sum -------------------------------------------------------------------------------------

SLABS = [(1, 1), (2, 769), (3, 5000), (5, 0), (8, 2049), (9, 100), (17, 33), (33, 50), (64, 700)]


def _slab(tasks: int, columns: int, dtype: torch.dtype, device: str) -> Tensor:
    """Rows that are nearly opposite in pairs, and a stride beyond their end."""
    generator = torch.Generator().manual_seed(tasks)
    wide = torch.randn(tasks, columns + 3, generator=generator)
    wide[1::2] = -wide[: 2 * (tasks // 2) : 2] * (1 + 1e-3)
    return wide.to(dtype).to(device)[:, :columns]


def _gram_and_combine_agree(tasks: int, columns: int, dtype: torch.dtype, device: str) -> None:
    J = _slab(tasks, columns, dtype, device)
    w = torch.randn(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    K, (g, square) = kernel.gram(J), kernel.combine(J, w)
    exact = J.double() @ J.double().T
    size = exact.diagonal().sqrt()
    assert K.dtype == torch.float64
    assert torch.equal(K, K.T)
    assert ((K - exact).abs() <= 1e-12 * size[:, None] * size).all()
    # The norm of a difference of nearly opposite gradients.
    total = J.double().sum(dim=0)
    if tasks == 2:
        assert abs(float(K.sum().clamp_min(0).sqrt() - total.norm())) <= 1e-6 * float(total.norm())
    rounding = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    combined = w @ J.double()
    assert g.dtype == dtype
    assert ((g.double() - combined).abs() <= rounding * combined.abs() + 1e-7).all()
    assert float(square) == pytest.approx(float(g.double().square().sum()), rel=1e-12)
    assert torch.equal(kernel.gram(J), K)
    assert torch.equal(kernel.combine(J, w)[0], g)


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", HERE, ids=str)
@pytest.mark.parametrize(("tasks", "columns"), SLABS)
def test_gram_and_combine_agree_in_the_interpreter(tasks: int, columns: int, dtype: torch.dtype) -> None:
    _gram_and_combine_agree(tasks, columns, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", THERE, ids=str)
@pytest.mark.parametrize(("tasks", "columns"), [*SLABS, (3, 4_727_688), (64, 300_001)])
def test_gram_and_combine_agree_on_the_device(tasks: int, columns: int, dtype: torch.dtype) -> None:
    _gram_and_combine_agree(tasks, columns, dtype, "cuda")


@pytest.mark.gpu
def test_a_row_of_a_hundred_million_columns() -> None:
    J = torch.ones(3, 100_000_000, device="cuda")
    assert (kernel.gram(J) == 1e8).all()
    g, square = kernel.combine(J, torch.ones(3, dtype=torch.float64, device="cuda"))
    assert (g == 3).all()
    assert float(square) == 9e8


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("columns", [1_000_000, 4_727_688, 100_000_000])
@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 16, 64])
def test_bytes_moved_are_two_reads_and_one_write(tasks: int, columns: int, size: int) -> None:
    launches = kernel.plan(tasks, columns, size)
    moved = sum(launch.read + launch.written for launch in launches)
    assert moved <= 1.05 * (2 * tasks + 1) * columns * size


@pytest.mark.interpreted
@pytest.mark.parametrize(("tasks", "columns"), [(3, 50_000), (17, 3000)])
def test_the_plan_is_what_is_launched(tasks: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    class Counting:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(kernel, name)

        def __getitem__(self, grid: tuple[int, ...]) -> object:
            seen.append((self.name, grid[0]))
            return self.kernel[grid]

    names = {"gram_few_kernel": "gram", "gram_many_kernel": "gram", "combine_kernel": "combine"}
    for name in (*names, "sum_partials_kernel"):
        monkeypatch.setattr(kernel, name, Counting(name))
    J = _slab(tasks, columns, torch.float32, "cpu")
    kernel.combine(J, kernel.gram(J)[0].contiguous())
    planned = [(launch.kernel, launch.programs) for launch in kernel.plan(tasks, columns, 4)]
    assert [(names.get(name, "sum_partials"), programs) for name, programs in seen] == planned


SLAB, WEIGHTS = torch.zeros(3, 8), torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel.gram(SLAB[0]), "J must be"),
        (lambda: kernel.gram(SLAB.double()), "J must be"),
        (lambda: kernel.gram(SLAB.T), "J must be"),
        (lambda: kernel.gram(torch.zeros(65, 2)), "T 1 to 64"),
        (lambda: kernel.gram(torch.zeros(0, 2)), "J must be"),
        (lambda: kernel.combine(SLAB, WEIGHTS[:2]), "w must be"),
        (lambda: kernel.combine(SLAB, WEIGHTS.float()), "w must be"),
        (lambda: kernel.combine(SLAB, WEIGHTS, torch.zeros(7)), "out must be"),
        (lambda: kernel.layer_gradients([], torch.tensor([0, 1]), SLAB), "for 1 tasks"),
    ],
)
def test_slabs_that_do_not_fit_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- the engine and the update on a device ----------------------------------------------------------------------------


@pytest.mark.interpreted
def test_the_engine_runs_on_the_kernels() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.SiLU(), torch.nn.Linear(7, 3))
    x = torch.randn(9, 5)
    for mode in ("jac", "layer", "ghost"):
        plain, fast = (TaskGradients(net, 3, mode, backend) for backend in ("reference", "triton"))
        for found in (plain, fast):
            for rows in (slice(0, 4), slice(4, 9)):
                with found.rows([0, 2, 2, rows.stop - rows.start]):
                    net(x[rows]).square().sum().backward()
        torch.testing.assert_close(fast.gram(), plain.gram(), rtol=1e-5, atol=1e-6)
        w = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
        torch.testing.assert_close(fast.combine(w), plain.combine(w), rtol=1e-4, atol=1e-5)


@pytest.mark.interpreted
def test_bfloat16_is_refused_in_the_interpreter_with_the_reason() -> None:
    with pytest.raises(BackendUnavailableError, match="interpreter computes bfloat16 wrongly"):
        ops.gram(torch.ones(2, 3, dtype=torch.bfloat16), backend="triton")


def _step(net: Denoiser, found: TaskGradients, batch: dict[str, Tensor], optimiser: torch.optim.Adam) -> None:
    """A whole step: forward, backward, projection, gate, clip and update."""
    found.clear()
    with found.rows(batch["offsets"]):
        error = net(batch["x"], batch["t"], batch["c"]) - batch["z"]
        error.square().mean().backward()
    w = aggregate(found.gram(), "pcgrad", order=batch["order"])
    g = found.combine(w)
    write_gradients(found.parameters, g)
    step_on_device(optimiser, torch.linalg.vector_norm(g), 1e6, 0.3, batch["counts"])


def _device_step() -> tuple[Denoiser, Callable[[], None]]:
    net = Denoiser(33, 40, embedding=32, widths=(48, 32, 16), generator=torch.Generator().manual_seed(0)).cuda()
    generator = torch.Generator().manual_seed(1)
    batch = {
        name: torch.randn(64, width, generator=generator).cuda() for name, width in (("x", 33), ("c", 40), ("z", 33))
    }
    batch |= {"t": torch.full((64,), 7.0).cuda(), "offsets": torch.tensor([0, 20, 20, 64]).cuda()}
    batch |= {"order": torch.tensor([2, 0, 1]).cuda(), "counts": torch.zeros(2, dtype=torch.int64).cuda()}
    found = TaskGradients(net, 3, "jac")
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, fused=True, capturable=True)
    return net, lambda: _step(net, found, batch, optimiser)


@pytest.mark.gpu
def test_a_step_never_waits_for_the_device() -> None:
    _, step = _device_step()
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_recorded_step_gives_the_bits_of_an_eager_one() -> None:
    (plain, eager), (net, step) = _device_step(), _device_step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(4):
        graph.replay()
    for _ in range(7):
        eager()
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


# -- what is refused --------------------------------------------------------------------------------------------------

ROWS, TASKS = torch.zeros(4, 3), torch.tensor([0, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ROWS, ROWS[:3], TASKS), "must be"),
        ((ROWS[0], ROWS, TASKS), "must be"),
        ((ROWS, ROWS.half(), TASKS), "must share"),
        ((ROWS.double(), ROWS.double(), TASKS), "must share"),
        ((ROWS.long(), ROWS.long(), TASKS), "must share"),
        ((ROWS, ROWS, TASKS.float()), "integer vector"),
        ((ROWS, ROWS, TASKS[:1]), "integer vector"),
        ((ROWS, ROWS.to("meta"), TASKS), "are on"),
        ((ROWS, ROWS, TASKS, torch.zeros(1, 3, 4)), "contiguous slices"),
        ((ROWS, ROWS, TASKS, torch.zeros(1, 3, 6)[..., ::2]), "contiguous slices"),
    ],
)
def test_weight_gradients_refuse_what_does_not_fit(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel.weight_gradients(*arguments)
