"""Form of the results, the ratios that are printed, and equal threads. See CONTRIBUTING.md for how to run them."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# As in tests: a kernel is interpreted unless the caller asks for the compiler.
os.environ.setdefault("TRITON_INTERPRET", "1")
# torch.compile's workers each import torch, which takes longer than the few kernels there are.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Modules that several benchmarks share lie beside them.
sys.path.insert(0, str(Path(__file__).parent))

import ledger


@pytest.fixture(autouse=True)
def _kind(request: pytest.FixtureRequest) -> None:
    """Note whether a timing is of the processor or of a CUDA device; they never share a plot."""
    if "benchmark" in request.fixturenames:
        gpu = request.node.get_closest_marker("gpu") is not None
        request.getfixturevalue("benchmark").extra_info["kind"] = "cuda" if gpu else "processor"


@pytest.fixture
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """As many threads for torch as for the library; the number. One at small sizes, where more wait for one another."""
    import torch

    from secondgram.ops import native

    before, count = torch.get_num_threads(), native.default_threads()
    if "small" in request.node.name:
        count = 1
        monkeypatch.setattr(native, "default_threads", lambda: 1)
    torch.set_num_threads(count)
    yield count
    torch.set_num_threads(before)


def _entries(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for each in benchmarks:
        facts = dict(each["extra_info"])
        kind = facts.pop("kind", "processor")
        device = facts.pop("device", None) or (_device() if kind == "cuda" else ledger.processor())
        seconds = ledger.quantiles(each["stats"]["data"])
        name = each["fullname"].removeprefix("benchmarks/")
        about = {"name": name, "group": each["group"], "kind": kind, "device": device}
        found.append(about | {"seconds": seconds, "rounds": each["stats"]["rounds"]} | facts)
    return found


def _device() -> str:
    import torch

    return torch.cuda.get_device_name()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: object) -> Generator[None, Any, Any]:
    """Add a timing to the file that BENCHMARK_LEDGER names as soon as its test has passed: a later one may hang."""
    report = yield
    target = os.environ.get("BENCHMARK_LEDGER")
    if target and report.when == "call" and report.passed:
        made = getattr(getattr(item, "funcargs", {}).get("benchmark"), "stats", None)
        if made:
            ledger.record(Path(target), [ledger.pack(_entries([made.as_dict()]))])
    return report


def pytest_benchmark_update_json(config: object, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Keep what a timing needs, in the form of ledger.py; leave out what names the machine."""
    packed = ledger.pack(_entries(output_json["benchmarks"]))
    output_json.clear()
    output_json.update(packed)


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print how many times faster ours was than each peer: the median, and the middle 90 %."""
    session = getattr(config, "_benchmarksession", None)
    lines = []
    for each in getattr(session, "benchmarks", []):
        for peer, found in each.extra_info.get("peers", {}).items():
            low, middle, high = (found["times_faster"][level] for level in ("0.05", "0.5", "0.95"))
            lines.append(f"{middle:8.2f} x ({low:.2f} to {high:.2f})  {each.name}  against {peer}")
    if lines:
        terminalreporter.section("times faster than peers")
        for line in lines:
            terminalreporter.write_line(line)
