"""Ceilings of a roofline, measured: operations a second from registers, and bytes a second of a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import peak
import pytest
import recorded
import torch

from secondgram.ops import native

# MiB that a copy reads; well beyond the caches for the large one.
COPIES = {"small": 64, "large": 512}


@pytest.mark.skipif(
    native.sampler_reason_unavailable() is not None, reason=f"native: {native.sampler_reason_unavailable()}"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", COPIES)
def test_peak(benchmark: Any, name: str, precision: str, threads: int) -> None:
    """Multiply-adds of the widest instructions there are, no memory touched; on one thread where small, else on all."""
    if not native.architectures(precision):
        pytest.skip(f"no instructions for {precision}")
    if peak.reason_unavailable():
        pytest.skip(str(peak.reason_unavailable()))
    rates: list[float] = []
    benchmark.pedantic(lambda: rates.append(peak.peak(precision, threads)), rounds=5)
    assert min(rates) > 0
    benchmark.group = "ceilings"
    benchmark.extra_info.update(ceiling=precision, flop_per_second=max(rates), threads=threads)


@pytest.mark.parametrize("name", COPIES)
def test_copy(benchmark: Any, name: str, threads: int) -> None:
    """Bytes read and written a second by torch's copy on every thread."""
    source = torch.arange(COPIES[name] << 18, dtype=torch.float32)
    target = torch.empty_like(source)
    target.copy_(source)
    assert torch.equal(target, source)
    benchmark.pedantic(lambda: target.copy_(source), rounds=9)
    benchmark.group = "ceilings"
    moved = 2 * source.numel() * 4
    if not benchmark.disabled:
        rate = moved / float(np.median(benchmark.stats.stats.data))
        benchmark.extra_info.update(ceiling="copy", bytes_per_second=rate, threads=threads)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_peak_of_a_device(benchmark: Any, precision: str) -> None:
    """A product of square matrices by torch, which is near what the matrix units can do."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    side, dtype = 8192, torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        few = a[:8].double() @ b.double()
        assert ((a @ b)[:8].double() - few).norm() <= 1e-2 * few.norm()
        recorded.timed(benchmark, recorded.Recording(lambda: a @ b))
    finally:
        torch.set_float32_matmul_precision(before)
    benchmark.group = "ceilings"
    if not benchmark.disabled:
        benchmark.extra_info.update(ceiling=precision, flop_per_second=2 * side**3 / benchmark.stats.stats.min)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
def test_copy_of_a_device(benchmark: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    source = torch.arange(256 << 20, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    replay = recorded.Recording(lambda: target.copy_(source))
    replay()
    assert torch.equal(source, target)
    recorded.timed(benchmark, replay)
    benchmark.group = "ceilings"
    if not benchmark.disabled:
        benchmark.extra_info.update(ceiling="copy", bytes_per_second=8 * source.numel() / benchmark.stats.stats.min)
