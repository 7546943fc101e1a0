"""Keyed normals: C++ on one thread and on all, numpy, and the Triton kernel. Each is checked before it is timed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import recorded
from interleaved import interleaved

from secondgram.diffusion import noise as reference
from secondgram.diffusion.noise import Purpose, person_keys
from secondgram.ops import native, noise

KEYS = person_keys([str(i) for i in range(500)], "followup")
WIDTH = 769
ARGUMENTS: dict[str, Any] = {"seed": 1, "purpose": Purpose.STEP, "step": 3}


def _gate(values: np.ndarray, tolerance: float) -> None:
    """The first draw of the first people against the reference implementation."""
    plain = reference.normals(KEYS[:50], WIDTH, draws=1, dtype=np.float64, **ARGUMENTS)
    np.testing.assert_allclose(values[:1, :50], plain, rtol=0, atol=tolerance)


def _note(benchmark: Any, draws: int, **facts: object) -> None:
    benchmark.group = "keyed normals"
    benchmark.extra_info.update(shape=[draws, len(KEYS), WIDTH], values=draws * len(KEYS) * WIDTH, **facts)


@pytest.mark.skipif(native.reason_unavailable() is not None, reason=f"native: {native.reason_unavailable()}")
@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "all threads"])
def test_native(benchmark: Any, threads: int | None) -> None:
    draws = 20
    _note(benchmark, draws, threads=threads or native.default_threads())
    run = lambda: noise.normals(KEYS, WIDTH, draws=draws, backend="native", threads=threads, **ARGUMENTS)  # noqa: E731
    _gate(run(), 1e-6)
    benchmark(run)


def test_reference(benchmark: Any) -> None:
    draws = 2
    _note(benchmark, draws, threads=1)
    run = lambda: noise.normals(KEYS, WIDTH, draws=draws, backend="reference", **ARGUMENTS)  # noqa: E731
    _gate(run(), 1e-6)
    benchmark(run)


@pytest.mark.gpu
@pytest.mark.benchmark(timer=recorded.clock)
def test_kernel(benchmark: Any) -> None:
    torch = pytest.importorskip("torch")
    kernel = pytest.importorskip("secondgram.kernels.noise", reason="triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and TRITON_INTERPRET=0")
    draws = 200
    keys = torch.from_numpy(KEYS.view(np.int64)).cuda()
    indices = torch.arange(draws, dtype=torch.int32, device="cuda")

    replay = recorded.Recording(lambda: kernel.normals(keys, WIDTH, draws=indices, **ARGUMENTS))
    _note(benchmark, draws, device=torch.cuda.get_device_name())
    _gate(replay().cpu().numpy(), kernel.TOLERANCE)
    recorded.timed(benchmark, replay)


@pytest.mark.skipif(native.reason_unavailable() is not None, reason=f"native: {native.reason_unavailable()}")
@pytest.mark.parametrize("name", ["small"])
def test_beside_others(benchmark: Any, name: str, threads: int) -> None:
    """Ours against the reference implementation in numpy, and against torch's normals, which are not keyed."""
    torch = pytest.importorskip("torch")
    keys, width, draws = KEYS[:200], 64, 4
    run = lambda: noise.normals(keys, width, draws=draws, backend="native", **ARGUMENTS)  # noqa: E731
    plain = lambda: reference.normals(keys, width, draws=draws, **ARGUMENTS)  # noqa: E731
    np.testing.assert_allclose(run(), plain(), rtol=0, atol=1e-6)
    interleaved(
        benchmark,
        run,
        {"numpy, keyed": plain, "torch.randn, not keyed": lambda: torch.randn(draws, len(keys), width)},
        rounds=25,
        group=f"keyed normals, {name}",
        threads=threads,
    )
