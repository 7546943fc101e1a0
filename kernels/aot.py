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
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import block, gradients, noise
from .folded import Folded
from .launches import Described, described
from .layout import BLOCKS, Size

ARCHITECTURES = (80, 90, 100)
# Rows of the batches whose tiles are compiled, one for each class of `tuning`.
BATCHES = (256, 4096, 16896)
# Instructions of the matrix units, by generation, as PTX names them.
MATRIX_UNITS = {"mma": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Case:
    """A kernel with the types of its arguments and its compile-time constants.

    warps, stages : Triton's defaults if left out;  aligned : arguments that are known to be multiples of 16;
    label : its name in the table, made of kernel and constants if left out.
    """

    kernel: Any
    signature: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    aligned: frozenset[str] = frozenset()
    stages: int = 3
    label: str = ""

    @property
    def name(self) -> str:
        """As the table shows it."""
        if self.label:
            return self.label
        constants = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{self.kernel.__name__}({constants})"


@dataclass(frozen=True)
class Usage:
    """Resources of one compiled kernel: registers a thread, bytes of local memory a thread (the stack, where spilled
    registers go), bytes of shared memory a block, and the instructions of the matrix units in its code, as in
    `MATRIX_UNITS`."""

    case: str
    architecture: int
    registers: int
    local_bytes: int
    shared_bytes: int
    matrix: dict[str, int]


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


def described_case(call: Described, label: str) -> Case:
    """What Triton would compile for a launch: it takes None and 1 as constants and looks at what 16 divides."""
    signature: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    aligned = set()
    for parameter in call.kernel.params:
        name, value = parameter.name, call.arguments[parameter.name]
        plain = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (not plain and type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            if not parameter.do_not_specialize_on_alignment and value.storage_offset() * value.itemsize % 16 == 0:
                aligned.add(name)
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(1 << 31) <= value < 1 << 31 else "i64" if value < 1 << 63 else "u64"
            if not plain and value % 16 == 0:
                aligned.add(name)
    warps, stages = call.arguments.get("num_warps", 4), call.arguments.get("num_stages", 3)
    return Case(call.kernel, signature, constants, warps, frozenset(aligned), stages, label)


def denoiser_cases(
    architecture: int, precision: str, rows: int, size: Size, passes: Sequence[str] = ("training", "folded")
) -> list[Case]:
    """Every different kernel that the denoiser launches on an architecture, found by describing its launches."""
    with described(architecture) as calls:
        if "training" in passes:
            _describe_training(precision, rows, size)
        if "folded" in passes:
            _describe_folded(precision, rows, size)
    found: dict[tuple[Any, ...], Case] = {}
    for call in calls:
        case = described_case(call, f"{call.name} {precision} x{rows} D={size.features}")
        constants = tuple((name, str(value)) for name, value in case.constants.items())
        key = (call.kernel, tuple(case.signature.items()), constants, case.aligned, case.warps, case.stages)
        found.setdefault(key, case)
    return list(found.values())


def _describe_training(precision: str, rows: int, size: Size) -> None:
    x, c = (torch.empty(rows, width, device="meta") for width in (size.features, size.conditions))
    t = torch.empty(rows, device="meta")
    weights = [torch.empty(shape, device="meta") for shape in size.parameters.values()]
    block.denoise(size, precision, x, t, c, weights, False)
    out, kept = block.denoise(size, precision, x, t, c, weights, True)
    block.gradients(size, precision, torch.empty_like(out), kept, weights, x_gradient=True, c_gradient=True)
    widths = [size.ends[name].true_outputs for name in block.DROPPED]
    drops = block.Drops(0.1, tuple(torch.empty(rows, width, device="meta") for width in widths))
    out, kept = block.denoise(size, precision, x, t, c, weights, True, drops)
    block.gradients(size, precision, torch.empty_like(out), kept, weights, drops=drops)


def _describe_folded(precision: str, rows: int, size: Size) -> None:
    def layer(inputs: int, outputs: int) -> SimpleNamespace:
        return SimpleNamespace(weight=np.zeros((inputs, outputs)), bias=np.zeros(outputs))

    e, narrow = size.embedding, size.widths[2]
    blocks = {}
    for name in BLOCKS:
        i, o = size.ends[name].true_inputs, size.ends[name].true_outputs
        blocks[name] = SimpleNamespace(
            inner=np.zeros((i, e)),
            inner_bias=np.zeros(e),
            image=np.zeros((e, o)),
            context=np.zeros((e, o)),
            join=np.zeros((o, o)) if size.ends[name].skip else None,
            embed=np.zeros((e, e)),
            embed_bias=np.zeros(e),
            bias=np.zeros(o),
        )
    two = (layer(narrow, narrow), layer(narrow, narrow))
    denoiser = SimpleNamespace(blocks=blocks, bottlenecks=(two, two), out=layer(size.features, size.features))
    folded = Folded(denoiser, size.conditions, precision, "meta")
    x = torch.empty(rows, size.features, device="meta")
    times, people = folded.time_tables(np.zeros((2, e))), folded.people_tables(np.zeros((rows, e)))
    folded(x, times[0], people)
    keys, draws = (torch.empty(n, dtype=dtype, device="meta") for n, dtype in ((rows, torch.int64), (1, torch.int32)))
    steps = torch.empty(2, 6, device="meta")
    folded.chain(x, times, people, steps, keys, draws, 0, 1, [True, False])


def compile_case(case: Case, architecture: int) -> Usage:
    """Compile for sm_<architecture> and read the resources from the binary.

    Raises whatever Triton or its assembler raises where a kernel does not compile.
    """
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(case.signature) if name in case.aligned}
    source = ASTSource(fn=case.kernel, signature=case.signature, constexprs=case.constants, attrs=aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
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
        matrix={unit: compiled.asm["ptx"].count(word) for unit, word in MATRIX_UNITS.items()},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities, 90 say")
    parser.add_argument(
        "--precision", nargs="+", choices=block.PRECISIONS, default=["bf16"], help="of the denoiser's kernels"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=BATCHES[2:], help="batches of the denoiser's kernels")
    parser.add_argument("--features", type=int, nargs="+", default=[769], help="D of the denoiser's kernels")
    parser.add_argument("--all", action="store_true", help="every precision and class of batch")
    chosen = parser.parse_args(arguments)
    precisions, batches = (list(block.PRECISIONS), BATCHES) if chosen.all else (chosen.precision, chosen.rows)
    units = " ".join(f"{unit:>7}" for unit in MATRIX_UNITS)
    print(f"{'kernel':44} {'arch':>6} {'registers':>9} {'local B':>8} {'shared B':>8} {units}")
    for architecture in chosen.arch:
        sizes = [Size(features, features + 14, 256, (512, 256, 128)) for features in chosen.features]
        denoiser = [
            case
            for precision in precisions
            for rows in batches
            for size in sizes
            for case in denoiser_cases(architecture, precision, rows, size)
        ]
        for case in [*cases(), *denoiser]:
            usage = compile_case(case, architecture)
            counts = " ".join(f"{count:7}" for count in usage.matrix.values())
            print(
                f"{usage.case:44} {f'sm_{architecture}':>6} {usage.registers:9} {usage.local_bytes:8} "
                f"{usage.shared_bytes:8} {counts}",
                flush=True,
            )


if __name__ == "__main__":
    main()
