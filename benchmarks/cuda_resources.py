"""Registers, local memory and instructions of every CUDA kernel, read from the extension; no device is needed.

    python benchmarks/cuda_resources.py --write   # brings results/cuda_resources.csv up to date

Without `--write` the table is printed. A kernel that spills, or loses the instructions it was written for, is seen by a
difference from the table that is kept. Needs cuobjdump, which CUDA brings and so does Triton.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from secondgram.ops import cuda

TABLE = Path(__file__).parent / "results" / "cuda_resources.csv"
# Kinds of instructions that are counted, by the beginnings of their names.
CLASSES = {
    "group_products": ("HGMMA",),
    "warp_products": ("HMMA",),
    "bulk_copies": ("UBLKCP",),
    "small_copies": ("LDGSTS",),
    "matrix_loads": ("LDSM",),
    "barriers": ("SYNCS", "BAR", "ARRIVES", "UCGABAR"),
    "special": ("MUFU",),
    "fp32": ("FFMA", "FMUL", "FADD", "FSEL", "FMNMX", "FSETP"),
    "global": ("LDG", "STG"),
    "shared": ("LDS.", "LDS ", "STS"),
    "generic": ("LD.", "ST."),
    "local": ("LDL", "STL"),
}
COLUMNS = ("kernel", "arch", "nvcc", "registers", "local_bytes", "instructions", *CLASSES)


def tool() -> str | None:
    """cuobjdump, from CUDA or from Triton; None where there is none."""
    spec = importlib.util.find_spec("triton")
    beside = Path(str(spec.origin)).parent / "backends" / "nvidia" / "bin" if spec and spec.origin else Path()
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(beside))


def dump(*options: str) -> str:
    """Output of cuobjdump for the extension. Raises `RuntimeError` without cuobjdump or without the extension."""
    found = tool()
    if found is None:
        raise RuntimeError("cuobjdump is not installed: install CUDA's binary utilities or triton")
    environment = {"PATH": f"{Path(found).parent}:/usr/bin:/bin"}
    command = [found, *options, str(cuda._extension().__file__)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def readable(symbol: str) -> str:
    """A kernel's symbol as it is written: block_program<2, 4>."""
    match = re.fullmatch(r"_ZN10secondgram4cuda\d+([a-z_]+?)(?:I(.*?)EE?v.*|E.*)", symbol)
    if match is None:
        return symbol
    values = re.findall(r"Li(\d+)E", match[2] or "") or re.findall(r"NS0_\d+([A-Za-z]+)E", match[2] or "")
    return match[1] + (f"<{', '.join(values)}>" if values else "")


def usage() -> dict[tuple[str, str], tuple[int, int]]:
    """For each architecture and kernel: registers, and bytes of local memory (stack and spilled registers)."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    architecture = kernel = ""
    for line in dump("--dump-resource-usage").splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\S+):", line):
            kernel = readable(match[1])
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line):
            found[architecture, kernel] = int(match[1]), int(match[2]) + int(match[3])
    return found


def instructions(architecture: str) -> dict[str, list[str]]:
    """The instructions of each kernel, in their order."""
    found: dict[str, list[str]] = {}
    kernel = ""
    for line in dump("--gpu-architecture", architecture, "-sass").splitlines():
        if match := re.search(r"Function : (\S+)", line):
            kernel = readable(match[1])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", line):
            found.setdefault(kernel, []).append(match[1] + " ")
    return found


def table() -> list[dict[str, str]]:
    """A row a kernel and architecture, by `COLUMNS`."""
    used = usage()
    rows = []
    for architecture in sorted({arch for arch, _ in used}):
        for kernel, code in sorted(instructions(architecture).items()):
            registers, local = used[architecture, kernel]
            counts = [sum(word.startswith(starts) for word in code) for starts in CLASSES.values()]
            values = (kernel, architecture, cuda._extension().compiler, registers, local, len(code), *counts)
            rows.append({name: str(value) for name, value in zip(COLUMNS, values, strict=True)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of printing it")
    chosen = parser.parse_args()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table())
    if chosen.write:
        TABLE.write_text(text.getvalue())
    else:
        sys.stdout.write(text.getvalue())


if __name__ == "__main__":
    main()
