"""What every result carries: device, versions, commit and quantiles. See CONTRIBUTING.md for how to run them."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

# As in tests: a kernel is interpreted unless the caller asks for the compiler.
os.environ.setdefault("TRITON_INTERPRET", "1")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def pytest_benchmark_update_machine_info(config: object, machine_info: dict[str, Any]) -> None:
    """Add the CUDA device and the versions that speed depends on; leave out what names the machine."""
    machine_info.pop("node", None)
    machine_info["cuda_device"] = _device()
    machine_info["versions"] = {name: _version(name) for name in ("secondgram", "numpy", "torch", "triton")}


def pytest_benchmark_update_json(config: object, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Replace the list of every timing by its quantiles, in seconds."""
    for entry in output_json["benchmarks"]:
        timings = entry["stats"].pop("data", None)
        if timings:
            levels = (0.05, 0.25, 0.5, 0.75, 0.95)
            entry["stats"]["quantiles"] = {str(q): float(np.quantile(timings, q)) for q in levels}
