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
    signature: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4

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
    words = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    found = []
    for dtype, word in words.items():
        pointer, group = f"*{word}", gradients.GROUP
        rows = {"dY": pointer, "X": pointer, "offsets": "*i64"}
        strides = dict.fromkeys(("task_stride", "dY_stride", "X_stride", "outputs", "inputs"), "i64")
        layers = {"J": "*fp32", "dYs": ("i64",) * group, "Xs": ("i64",) * group, "layers": "*i64"}
        more = {"strides": ("i64",) * 2 * group, "offsets": "*i64", "task_stride": "i64"}
        for exact in (True, False) if dtype == torch.float32 else (True,):
            constants = {"EXACT": exact, "TILE": gradients.TILE}
            one = {**constants, "ROWS": gradients.ROWS[dtype]}
            several = {
                "DTYPE": gradients.POINTERS[dtype],
                **constants,
                "ROWS": gradients.GROUP_ROWS[dtype],
                "GROUP": group,
            }
            out = {"out": "*fp32"}
            found.append(_case(gradients.weight_gradient_kernel, {**out, **rows, **strides}, one))
            found.append(_case(gradients.layer_gradients_kernel, {**layers, **more}, several))
        for tasks in (1, 2, 3, 8) if dtype == torch.float32 else (3,):
            constants = {"TASKS": tasks, "COLUMNS": gradients.FEW_COLUMNS[triton.next_power_of_2(tasks)]}
            slab = {"partial": "*fp64", "J": pointer, "columns": "i32", "task_stride": "i64"}
            found.append(_case(gradients.gram_few_kernel, slab, constants))
        for tasks in (16, 64) if dtype == torch.float32 else (64,):
            slab = {"partial": "*fp64", "J": pointer, "tasks": "i32", "columns": "i32", "task_stride": "i64"}
            constants = {"TASKS": tasks, "COLUMNS": gradients.MANY_COLUMNS}
            found.append(_case(gradients.gram_many_kernel, slab, constants, warps=8))
        slab = {"g": pointer, "squares": "*fp64", "J": pointer, "w": "*fp64", "tasks": "i32", "columns": "i32"}
        found.append(_case(gradients.combine_kernel, {**slab, "task_stride": "i64"}, {"COLUMNS": gradients.COMBINED}))
    sums = {"out": "*fp64", "partial": "*fp64", "programs": "i32", "entries": "i32"}
    for wide, tall in gradients.SUMMED:
        found.append(_case(gradients.sum_partials_kernel, sums, {"ENTRIES": wide, "PARTIALS": tall}))
    return found


def _case(kernel: Any, signature: dict[str, Any], constants: dict[str, Any], warps: int = 4) -> Case:
    return Case(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants, warps)


def cases() -> list[Case]:
    """Every kernel in every configuration that is used."""
    return [*(_noise_case(width) for width in (8, 769)), *_gradient_cases()]


def compile_case(case: Case, architecture: int) -> Usage:
    """Compile for sm_<architecture> and read the resources from the binary.

    Raises whatever Triton or its assembler raises where a kernel does not compile.
    """
    source = ASTSource(fn=case.kernel, signature=case.signature, constexprs=case.constants)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": case.warps})
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
