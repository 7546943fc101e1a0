"""The ledger of timings and its plots: merging, refusing, and keeping devices apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def timing(name: str, kind: str = "processor", device: str = "A", **facts: Any) -> dict[str, Any]:
    seconds = {"0.05": 0.9, "0.25": 0.95, "0.5": 1.0, "0.75": 1.1, "0.95": 1.2}
    about = {"name": name, "group": "work", "kind": kind, "device": device, "seconds": seconds, "commit": "abc"}
    return about | {"versions": {}} | facts


def test_merging_keeps_the_last_of_a_name_and_kind(
    benchmark_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = benchmark_module("ledger")
    old = {"format": 1, "entries": [timing("a", commit="old"), timing("b", commit="old")]}
    new = {"format": 1, "entries": [timing("a", commit="new"), timing("a", kind="cuda", commit="new")]}
    for name, content in (("old.json", old), ("new.json", new)):
        (tmp_path / name).write_text(ledger.dump(content))
    monkeypatch.setattr(sys, "argv", ["ledger.py", str(tmp_path / "old.json"), str(tmp_path / "new.json")])
    ledger.main()
    merged = json.loads((tmp_path / "old.json").read_text())
    found = {(each["name"], each["kind"]): each["commit"] for each in merged["entries"]}
    assert found == {("b", "processor"): "old", ("a", "processor"): "new", ("a", "cuda"): "new"}
    with pytest.raises(ValueError, match="format"):
        ledger.merge([{"format": 2, "entries": []}])


def test_what_a_timing_carries(benchmark_module: Any) -> None:
    ledger = benchmark_module("ledger")
    packed = ledger.pack([{"name": "a"}])
    (entry,) = packed["entries"]
    assert {"commit", "versions"} <= set(entry)
    assert "secondgram" in entry["versions"]
    found = ledger.quantiles(np.arange(101))
    assert [found[str(level)] for level in ledger.LEVELS] == pytest.approx([5, 25, 50, 75, 95])


def test_devices_never_share_a_plot(benchmark_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = benchmark_module("plot")
    peers: dict[str, Any] = {"peers": {"eager torch": {"seconds": timing("x")["seconds"]}}, "threads": 1}
    entries = [timing(f"t{number}", group=f"work {number}", **peers) for number in range(3)]
    entries += [timing("other", device="B", **peers), timing("g", kind="cuda", device="C", **peers)]
    work: dict[str, Any] = {"flop": 1e9, "bytes": 1e6, "precision": "fp32"}
    entries += [timing("chain", group="chain", **work, **peers)]
    # The points are of one thread: what two reach is no ceiling of theirs.
    entries += [timing("peak", group="ceilings", ceiling="fp32", flop_per_second=1e11, threads=1)]
    entries += [timing("peak of two", group="ceilings", ceiling="fp16", flop_per_second=3e11, threads=2)]
    entries += [timing("copy", group="ceilings", ceiling="copy", bytes_per_second=1e10)]
    (tmp_path / "speed.json").write_text(json.dumps({"format": 1, "entries": entries}))
    (tmp_path / "of_another_form.json").write_text("{}")
    shown = plot.picture("processor", plot.entries(tmp_path))
    assert shown.device == "A"
    assert [panel.title for panel in shown.panels] == ["work 0", "work 1", "work 2", "chain"]
    assert shown.peaks == {"fp32": 1e11}
    assert plot.picture("interpreter", plot.entries(tmp_path)) is None
    monkeypatch.setattr(sys, "argv", ["plot.py", "--results", str(tmp_path), "--out", str(tmp_path)])
    plot.main()
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"speed_processor_1.png", "speed_cuda_1.png", "roofline_processor.png"}


def test_small_sizes_are_shown_only_where_there_are_no_others(benchmark_module: Any) -> None:
    plot = benchmark_module("plot")
    peers: dict[str, Any] = {"peers": {"eager torch": {"seconds": timing("x")["seconds"]}}}
    small = timing("a[small]", group="work, small", **peers)
    assert len(plot.picture("processor", [small]).panels) == 1
    titles = [panel.title for panel in plot.picture("processor", [small, timing("a", **peers)]).panels]
    assert titles == ["work"]
