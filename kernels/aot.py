"""Compile every kernel ahead of time, without a GPU, and print what it takes: python -m secondgram.kernels.aot.

Needs a process without TRITON_INTERPRET, because Triton chooses between interpreter and compiler when it decorates.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import gradients, noise

ARCHITECTURES = (80, 90, 100)


@dataclass(frozen=True)
class Case:
    """A kernel with the types of its arguments and its compile-time constants."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, int]

    @property
    def name(self) -> str:
        """Kernel and constants, as the table shows them."""
        constants = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{self.kernel.__name__}({constants})"


@dataclass(frozen=True)
class Usage:
    """Resources of one compiled kernel: registers a thread, bytes of local memory a thread (the stack, where spilled
    registers go) and bytes of shared memory a block."""

    case: str
    architecture: int
    registers: int
    local_bytes: int
    shared_bytes: int


def _noise_case(width: int) -> Case:
    rows, blocks = noise.tile_of(width)
    pointers = {"out": "*fp32", "keys": "*i64", "draws": "*i32"}
    numbers = {"seed": "u64", "purpose": "i32", "step": "i32", "rows": "i32", "people": "i32", "width": "i32"}
    constants = {"ROWS": rows, "BLOCKS": blocks}
    return Case(noise.normals_kernel, {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}, constants)


def _gradient_cases() -> list[Case]:
    found = []
    for dtype, rows in gradients.ROWS.items():
        words = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
        rows_of = {"dY": words[dtype], "X": words[dtype], "offsets": "*i64"}
        strides = dict.fromkeys(("task_stride", "dY_stride", "X_stride", "outputs", "inputs"), "i64")
        for exact in (True, False) if dtype == torch.float32 else (True,):
            constants = {"EXACT": exact, "TILE": gradients.TILE, "ROWS": rows}
            signature = {"out": "*fp32", **rows_of, **strides, **dict.fromkeys(constants, "constexpr")}
            found.append(Case(gradients.weight_gradient_kernel, signature, constants))
    return found


def cases() -> list[Case]:
    """Every kernel in every configuration that is used."""
    return [*(_noise_case(width) for width in (8, 769)), *_gradient_cases()]


def compile_case(case: Case, architecture: int) -> Usage:
    """Compile for sm_<architecture> and read the resources from the binary.

    Raises whatever Triton or its assembler raises where a kernel does not compile.
    """
    source = ASTSource(fn=case.kernel, signature=case.signature, constexprs=case.constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        listing = subprocess.run(
            [str(tool), "--dump-resource-usage", str(binary)], check=True, capture_output=True, text=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", listing)}
    return Usage(
        case=case.name,
        architecture=architecture,
        registers=found["REG"],
        local_bytes=found["STACK"] + found["LOCAL"],
        shared_bytes=compiled.metadata.shared,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities, 90 say")
    chosen = parser.parse_args(arguments)
    print(f"{'kernel':44} {'arch':>6} {'registers':>9} {'local B':>8} {'shared B':>8}")
    for case in cases():
        for architecture in chosen.arch:
            usage = compile_case(case, architecture)
            print(
                f"{usage.case:44} {f'sm_{architecture}':>6} {usage.registers:9} {usage.local_bytes:8} "
                f"{usage.shared_bytes:8}"
            )


if __name__ == "__main__":
    main()
