"""The command `doctor`: hardware and libraries of this machine, and the backend of each operation on it."""

from __future__ import annotations

import importlib
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .ops import native, noise, sampling
from .ops.registry import ENVIRONMENT, Candidate, choose

__all__ = ["Row", "print_report", "report"]

_PACKAGES = ("secondgram", "numpy", "torch", "pyarrow", "triton")
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_fp16", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Row:
    """One line of the report. `good` is False where something is missing that would make the work faster."""

    topic: str
    value: str
    good: bool = True


def _package(name: str) -> Row:
    try:
        return Row(name, version(name))
    except PackageNotFoundError:
        return Row(name, "not installed", good=False)


def _cpu() -> list[Row]:
    processors = Row("processors", str(native.default_threads()))
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [Row("processor", platform.processor() or platform.machine()), processors]
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    found = [flag for flag in _CPU_FLAGS if flag in present]
    return [
        Row("processor", model.group(1) if model else platform.machine()),
        processors,
        Row("vector instructions", ", ".join(found) if found else "none of " + ", ".join(_CPU_FLAGS)),
        Row(
            "half precision of the sampler", native.half_precision() or "none: the processor has no instructions for it"
        ),
    ]


def _cuda() -> list[Row]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return [Row("CUDA devices", f"none: torch cannot be imported ({error})", good=False)]
    if torch.version.cuda is None:
        return [Row("CUDA devices", "none: this torch was built without CUDA", good=False)]
    if not torch.cuda.is_available():
        return [Row("CUDA devices", "none: no driver or no device is visible to torch", good=False)]
    rows = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append(
            Row(
                f"CUDA device {index}",
                f"{properties.name}, sm_{properties.major}{properties.minor}, "
                f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
            )
        )
    return rows


def _backend(operation: str, candidates: tuple[Candidate, ...]) -> Row:
    try:
        choice = choose(operation, candidates)
    except (ValueError, RuntimeError) as error:
        return Row(f"backend of {operation}", str(error), good=False)
    why = "the best there is" if choice.source == "auto" else f"chosen by {choice.source}"
    if choice.rejected:
        why = "; ".join(f"not {name}: {reason}" for name, reason in choice.rejected.items())
    return Row(f"backend of {operation}", f"{choice.name} ({why})", good=not choice.rejected)


def _denoiser() -> Row:
    try:
        fused = importlib.import_module("secondgram.ops.triton_kernels")
    except ImportError as error:
        return Row("backend of the denoiser", f"none: torch cannot be imported ({error})", good=False)
    return _backend("the denoiser", fused.CANDIDATES)


def report(*, devices: bool = True) -> list[Row]:
    """Versions, the extension, the processor, the devices, and the backend that "auto" takes for each operation.

    devices : False leaves out the CUDA devices, and with them the import of torch.
    """
    reason = native.reason_unavailable()
    return [
        Row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(name) for name in _PACKAGES),
        Row("C++ extension", reason or "present", good=reason is None),
        *_cpu(),
        *(_cuda() if devices else []),
        Row(ENVIRONMENT, os.environ.get(ENVIRONMENT) or "not set"),
        _backend("noise", noise.CANDIDATES),
        _backend("the sampler", sampling.CANDIDATES),
        *([_denoiser()] if devices else []),
    ]


def print_report(*, devices: bool = True) -> None:
    """Print the report as a table on standard output; rows that could be better are yellow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "here", title="secondgram doctor", title_justify="left")
    for row in report(devices=devices):
        table.add_row(row.topic, Text(row.value, style="" if row.good else "yellow"))
    Console().print(table)
