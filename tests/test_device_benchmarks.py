"""The benchmarks of a device, carried out on the processor at small sizes: what would fail there by its Python alone
fails here.

Stand-ins take the place of CUDA's streams, events and graphs, tensors of a device are the processor's, and the sampler
is the float64 chain. No time means anything.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def elapsed_time(self, other: Any) -> float:
        return 4.0


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


class _Graph:
    """What is captured runs at once, and a replay finds it done."""

    replays = 0

    def replay(self) -> None:
        _Graph.replays += 1


@contextlib.contextmanager
def _context(*given: Any, **options: Any) -> Iterator[None]:
    yield


def _placed(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*given: Any, **options: Any) -> Any:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = "cpu"
        return make(*given, **options)

    return made


class Benchmark:
    """As pytest-benchmark's, once; its own stands still where tests run in parallel."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""
        self.stats = types.SimpleNamespace(stats=types.SimpleNamespace(data=[], min=0.5))

    def pedantic(self, run: Callable[[], Any], *, rounds: int, iterations: int = 1) -> Any:
        assert min(rounds, iterations) >= 1
        self.stats.stats.data.append(0.5)
        return run()


@pytest.fixture
def timing() -> Benchmark:
    return Benchmark()


@pytest.fixture
def bench(benchmark_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A module of the benchmarks by name, with constants of it replaced."""
    for name, stand_in in {
        "is_available": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda *given: None,
        "get_device_name": lambda *given: "stand-in",
        "get_device_properties": lambda *given: types.SimpleNamespace(L2_cache_size=3000),
        "Event": _Event,
        "Stream": _Stream,
        "CUDAGraph": _Graph,
        "current_stream": lambda *given: _Stream(),
        "stream": _context,
        "graph": _context,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for make in ("randn", "rand", "empty", "ones", "zeros", "arange", "full"):
        monkeypatch.setattr(torch, make, _placed(getattr(torch, make)))
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self, *given: self)
        monkeypatch.setattr(kind, "to", _moved(kind.to))

    def load(name: str, **constants: Any) -> Any:
        module = benchmark_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        return module

    return load


def _moved(to: Callable[..., Any]) -> Callable[..., Any]:
    def moved(self: Any, *given: Any, **options: Any) -> Any:
        return to(self, *("cpu" if one == "cuda" else one for one in given), **options)

    return moved


class Numpy:
    """The sampler as the float64 chain, and a little beside it where `wrong` says so."""

    wrong = 0.0

    def __init__(self, folded: Any) -> None:
        self.folded = folded

    def sample(self, c: Any, keys: Any, draws: Any, seed: int, table: Any, **options: Any) -> Any:
        exact = importlib.import_module("exact")
        noise = exact.keyed(keys, draws, seed, self.folded.features)
        made = self.folded.chain(np.asarray(c), table, noise).reshape(len(draws), len(keys), -1)
        return torch.from_numpy(made * (1 + self.wrong))


@pytest.fixture
def sampler(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = bench(
        "test_cuda_sampler",
        **{"PEOPLE": 12, "FEATURES": 16, "CONDITIONS": 21, "EMBEDDING": 24, "WIDTHS": (20, 12, 8)},
        BATCHES=(4, 9),
    )
    monkeypatch.setattr(module.cuda, "CudaSampler", Numpy)
    monkeypatch.setattr(module.cuda, "_opened", lambda number: types.SimpleNamespace(facts={"groups": True}))
    monkeypatch.setattr(module, "_peak", lambda: 1e12)
    whole = module._table()
    monkeypatch.setattr(module, "_table", lambda: whole[::20])
    return module


def test_a_cohort(timing: Any, sampler: Any) -> None:
    sampler.test_cohort(timing, "graph", 2, "device")
    found = timing.extra_info
    assert found["distance"] < 1e-6
    assert found["people"] == 12
    assert found["seconds_of_the_cohort"] == 0.5
    assert found["share_of_peak"] > 0


def test_a_cohort_that_is_wrong_is_not_timed(timing: Any, sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numpy, "wrong", 0.02)
    with pytest.raises(AssertionError):
        sampler.test_cohort(timing, "graph", 2, "host")
    assert "seconds_of_the_cohort" not in timing.extra_info


@pytest.mark.parametrize("way", ["torch on cuBLASLt", "torch.compile"])
def test_the_folded_network_in_torch(timing: Any, sampler: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled it is elsewhere, which takes a minute.
    monkeypatch.setitem(sampler.FOLDED, "torch.compile", {"wrap": lambda step: step})
    _Graph.replays = 0
    libraries: list[str] = []

    def preferred(*given: str) -> str:
        libraries.extend(given)
        return "cublas"

    monkeypatch.setattr(torch.backends.cuda, "preferred_blas_library", preferred)
    sampler.test_folded_torch(timing, way)
    # That which is checked, and that which is timed.
    assert _Graph.replays >= 2
    assert libraries[:2] == ["cublaslt", "cublas"]
    assert timing.extra_info["way"] == f"{way}, folded, recorded"
    assert timing.extra_info["people"] == 9
    assert 0 < timing.extra_info["distance"] < 1e-2


def test_the_network_as_written_in_torch(timing: Any, sampler: Any) -> None:
    sampler.test_eager_torch(timing, 4)
    assert timing.extra_info["people"] == 4


def _denoiser(bench: Callable[..., Any]) -> Any:
    pytest.importorskip("triton", reason="triton is not installed")
    return bench("test_denoiser", SIZES={17: (17, 20, 12, (20, 12, 8))}, _peak=lambda precision: 1e12)


@pytest.mark.parametrize("contender", ["fused, recorded", "eager", "eager, recorded"])
def test_the_denoiser(timing: Any, bench: Callable[..., Any], contender: str) -> None:
    _denoiser(bench).test_on_a_device(timing, 17, 3, True, "fp32", contender)
    assert len(timing.extra_info["distances"]) == 2
    assert max(timing.extra_info["distances"]) < 1e-5


def test_the_peer_that_a_claim_needs_is_not_slow(bench: Callable[..., Any]) -> None:
    cases = _denoiser(bench)._cases()
    quick = [case.values for case in cases if not case.marks]
    assert {values[4] for values in quick if values[1] == 16896 and values[2]} == {
        *("fused", "fused, recorded", "eager", "eager, recorded", "compiled, recorded")
    }
    assert all(values[0] == 769 and values[3] == "bf16" for values in quick)
    assert len({case.id for case in cases}) == len(cases) == 2 * 3 * 2 * 2 * 7


def test_gram_and_weighted_sum(timing: Any, bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    module = bench("test_gradients", PARAMETERS=700, _device=lambda: None)
    monkeypatch.setattr(module, "COPIED", 1000)
    module.test_gram_and_combine(timing, 3, 0.8)
    # 4 x 3,000 bytes of cache over 8,400 of a slab.
    assert timing.extra_info["slabs"] == 2
    assert timing.extra_info["share_of_copy"] > 0


@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("way", ["one pass", "one backward pass a task"])
def test_a_step(timing: Any, bench: Callable[..., Any], way: str, graphed: bool) -> None:
    module = bench("test_gradients", FEATURES=17, CONDITIONS=20, STEP_ROWS=8, _device=lambda: None)
    module.test_step_on_a_device(timing, 3, way, graphed)
    assert timing.extra_info["way"] == f"{way}{', recorded' if graphed else ''}"
    # By the stand-ins' clocks.
    assert timing.extra_info["ratio"] == 0.5 / 4e-3


def test_a_step_that_is_wrong_is_not_timed(
    timing: Any, bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bench("test_gradients", FEATURES=17, CONDITIONS=20, STEP_ROWS=8, _device=lambda: None)
    right = module._exact_step
    monkeypatch.setattr(module, "_exact_step", lambda case, way: 1.001 * right(case, way))
    with pytest.raises(AssertionError):
        module.test_step_on_a_device(timing, 3, "one pass", True)
    assert "ratio" not in timing.extra_info


def test_rounds_are_of_as_many_calls_as_fill_them(bench: Callable[..., Any]) -> None:
    recorded, calls = bench("recorded"), []
    # By the stand-in every round takes 4 ms, as one call did.
    assert recorded.seconds(lambda: calls.append(1), rounds=3, least=0.02) == [4e-3 / 5] * 3
    assert len(calls) == 2 + 1 + 3 * 5
    assert recorded._calls(1e-9, 4e-3) == 200
    assert recorded._calls(5.0, 4e-3) == 1


def test_a_recording_returns_what_it_captured(bench: Callable[..., Any]) -> None:
    made: list[int] = []

    def run() -> int:
        made.append(1)
        return len(made)

    recording = bench("recorded").Recording(run, warmups=2)
    _Graph.replays = 0
    assert recording() == 3
    assert recording() == 3
    assert _Graph.replays == 2
