"""The ledger of timings: fields of an entry, and reading, merging and writing of its files.

    python benchmarks/ledger.py OUT.json IN.json [IN.json ...]

A file of timings is a list of entries, each with its device, commit and versions, so that files can be merged and an
old entry is told from a new one. Merging keeps, of entries of one name and kind, the last, where the first stood.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
PACKAGES = ("secondgram", "numpy", "pandas", "pyarrow", "torch", "triton", "onnxruntime", "openvino", "torchjd")
FORMAT = 1


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Quantiles at `LEVELS`, by level."""
    return {str(level): float(np.quantile(values, level)) for level in LEVELS}


# Written by `gpu.sh prepare` for a machine that gets the sources without git: the commit, then a digest.
CARRIED = ROOT / ".gpu" / "commit"
UNKNOWN = "unknown"


def commit(root: Path | None = None) -> str:
    """The short commit of a checkout, with a plus where its sources differ; else what was carried, or `UNKNOWN`."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=root or ROOT, capture_output=True, text=True)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "--short", "HEAD")
    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "secondgram", "kernels", "csrc", "benchmarks/*.py"
    )
    if found:
        return f"{found}{'+' if changed else ''}"
    carried = CARRIED.read_text(encoding="utf-8").split() if CARRIED.is_file() else []
    return carried[0] if carried else UNKNOWN


def processor() -> str:
    """The processor's name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# Instruction sets that a speed depends on, as Linux names them on x86 and ARM.
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def flags() -> list[str]:
    """Those of `FLAGS` that the processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = next(
        (line.split(":", 1)[1].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return [flag for flag in FLAGS if flag in found]


def versions() -> dict[str, str]:
    """Versions of the installed packages that speed depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def entry(
    name: str, group: str | None, kind: str, device: str, seconds: dict[str, float], **facts: Any
) -> dict[str, Any]:
    """One timing: the benchmark, its device, and seconds by quantile."""
    return {"name": name, "group": group, "kind": kind, "device": device, "seconds": seconds, **facts}


def pack(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of a file, from entries of this process."""
    about = {"commit": commit(), "versions": versions(), "flags": flags()}
    return {"format": FORMAT, "entries": [each | about for each in entries]}


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One content from several. Raises ValueError for a part of another form."""
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        if part.get("format") != FORMAT:
            raise ValueError(f"this is no file of timings of format {FORMAT}")
        for each in part["entries"]:
            kept[each["name"], each["kind"]] = each
    return {"format": FORMAT, "entries": list(kept.values())}


def record(path: Path, parts: Sequence[dict[str, Any]]) -> int:
    """Merge into a file, at once or not at all; the number of its entries.

    Raises ValueError for an entry without its commit: such a number could be anybody's.
    """
    from secondgram.files import replacing

    before = [json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    content = merge([*before, *parts])
    if any(each.get("commit", UNKNOWN) == UNKNOWN for each in content["entries"]):
        raise ValueError("a timing has no commit: measure in a checkout, or carry .gpu/commit (gpu.sh prepare) along")
    with replacing(path) as temporary:
        temporary.write_text(dump(content), encoding="utf-8")
    return len(content["entries"])


def dump(content: dict[str, Any]) -> str:
    """One entry a line, so that a change of one is one line of a diff."""
    lines = ",\n".join(f"  {json.dumps(each)}" for each in content["entries"])
    return f'{{"format": {content["format"]}, "entries": [\n{lines}\n]}}\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", type=Path, nargs="+")
    chosen = parser.parse_args()
    count = record(chosen.out, [json.loads(path.read_text(encoding="utf-8")) for path in chosen.parts])
    print(f"{chosen.out}: {count} entries")


if __name__ == "__main__":
    main()
