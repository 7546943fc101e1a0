"""The Triton kernels for gradients of tasks against plain statements in float64."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="triton is not installed")
kernel = pytest.importorskip("secondgram.kernels.gradients")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreter_only = pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET is not 1: kernels are compiled here")
device_only = pytest.mark.skipif(
    INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device and TRITON_INTERPRET=0"
)
# The interpreter's bfloat16 dots are wrong, so that type is tested on a device alone.
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
    return torch.stack([dY[a:b].double().T @ X[a:b].double() for a, b in itertools.pairwise(offsets)])


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


@interpreter_only
@pytest.mark.parametrize("dtype", HERE, ids=str)
@pytest.mark.parametrize(("offsets", "outputs", "inputs"), SEGMENTS, ids=lambda part: str(part)[:12])
def test_weight_gradients_agree_in_the_interpreter(
    offsets: list[int], outputs: int, inputs: int, dtype: torch.dtype
) -> None:
    _weight_gradients_agree(offsets, outputs, inputs, dtype, "cpu")


@pytest.mark.gpu
@device_only
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", THERE, ids=str)
@pytest.mark.parametrize(("offsets", "outputs", "inputs"), [*SEGMENTS, ([0, 100, 256], 769, 512)], ids=str)
def test_weight_gradients_agree_on_the_device(
    offsets: list[int], outputs: int, inputs: int, dtype: torch.dtype, exact: bool
) -> None:
    _weight_gradients_agree(offsets, outputs, inputs, dtype, "cuda", exact)


@interpreter_only
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


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux only")
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_compiles_ahead_of_time_without_spills(architecture: int) -> None:
    code = (
        "from secondgram.kernels import aot\n"
        "for case in aot._gradient_cases():\n"
        f"    usage = aot.compile_case(case, {architecture})\n"
        "    assert usage.local_bytes == 0, usage\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
