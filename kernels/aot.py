"""Compile every kernel ahead of time, without a GPU, and print what it takes: python -m secondgram.kernels.aot.

`--table` writes it into `resources.csv`, of every kernel at the published size. Needs a process without
TRITON_INTERPRET, because Triton chooses between interpreter and compiler when it decorates.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import executor, gradients, noise
from .launches import Described, described
from .layout import BLOCKS, Size
from .reverse_chain import Folded

ARCHITECTURES = (80, 90, 100)
# Rows of the batches whose tiles are compiled, one for each class of `tuning`.
BATCHES = (256, 4096, 16896)
# Instructions of the matrix units, by generation, as PTX names them.
MATRIX_UNITS = {"mma": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
# Machine instructions by what they use, by the beginnings of their names.
MIX = {
    "matrix": ("HMMA", "HGMMA", "DMMA", "UTCHMMA", "UTCQMMA"),
    "fp32": ("FFMA", "FADD", "FMUL"),
    "fp64": ("DFMA", "DADD", "DMUL"),
    "special": ("MUFU",),
    "global": ("LDG", "STG"),
    "shared": ("LDS", "STS"),
    "local": ("LDL", "STL"),
}
TABLE = Path(__file__).parent / "resources.csv"
# Rows of the table: the published size in every precision, in batches as large as they come.
TABLED = (90, 100)
PUBLISHED = Size(769, 783, 256, (512, 256, 128))
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
    label : its name in the table, made of kernel, precision and constants if left out;  part : the pass that launches
    it.
    """

    kernel: Any
    signature: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    aligned: frozenset[str] = frozenset()
    stages: int = 3
    label: str = ""
    part: str = ""
    precision: str = ""

    @property
    def name(self) -> str:
        """As the table shows it."""
        if self.label:
            return self.label
        constants = " ".join(f"{name}={value}" for name, value in self.constants.items())
        return " ".join(word for word in (self.kernel.__name__, self.precision, constants) if word)


@dataclass(frozen=True)
class Usage:
    """Resources of one compiled kernel: registers a thread, bytes of local memory a thread (the stack, where spilled
    registers go), bytes of shared memory a block, the instructions of the matrix units in its code, as in
    `MATRIX_UNITS`, and its machine instructions, all and as in `MIX`."""

    case: str
    architecture: int
    registers: int
    local_bytes: int
    shared_bytes: int
    matrix: dict[str, int]
    part: str = ""
    instructions: int = 0
    mix: dict[str, int] | None = None

    @property
    def row(self) -> dict[str, str]:
        """As a line of the table."""
        return {
            "kernel": self.case,
            "pass": self.part,
            "arch": f"sm_{self.architecture}",
            "triton": triton.__version__,
            "registers": str(self.registers),
            "local_bytes": str(self.local_bytes),
            "shared_bytes": str(self.shared_bytes),
            **{unit: str(count) for unit, count in self.matrix.items()},
            "instructions": str(self.instructions),
            **{kind: str(count) for kind, count in (self.mix or {}).items()},
        }


def _noise_case(width: int) -> Case:
    rows, blocks = noise.tile_of(width)
    pointers = {"out_ptr": "*fp32", "keys_ptr": "*i64", "draws_ptr": "*i32"}
    numbers = {"seed": "u64", "purpose": "i32", "step": "i32", "rows": "i32", "people": "i32", "width": "i32"}
    constants = {"ROWS": rows, "BLOCKS": blocks}
    return Case(noise.normals_kernel, {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}, constants)


def _gradient_cases() -> list[Case]:
    words = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    found = []
    for dtype, word in words.items():
        pointer, group = f"*{word}", gradients.GROUP
        rows = {"dY_ptr": pointer, "X_ptr": pointer, "offsets_ptr": "*i64"}
        strides = dict.fromkeys(("out_task_stride", "dY_row_stride", "X_row_stride", "outputs", "inputs"), "i64")
        layers = {"J_ptr": "*fp32", "dY_ptrs": ("i64",) * group, "X_ptrs": ("i64",) * group, "layers_ptr": "*i64"}
        more = {"row_strides": ("i64",) * 2 * group, "offsets_ptr": "*i64", "J_row_stride": "i64"}
        for exact in (True, False) if dtype == torch.float32 else (True,):
            constants = {"EXACT": exact, "TILE": gradients.TILE}
            one = {**constants, "ROWS": gradients.rows_at_a_time(dtype, exact)}
            several = {
                "DTYPE": gradients.POINTERS[dtype],
                **constants,
                "ROWS": gradients.GROUP_ROWS[dtype],
                "GROUP": group,
            }
            out = {"out_ptr": "*fp32"}
            found.append(_case(gradients.weight_gradient_kernel, {**out, **rows, **strides}, one, word))
            found.append(_case(gradients.layer_gradients_kernel, {**layers, **more}, several, word))
        for tasks in (1, 2, 3, 8) if dtype == torch.float32 else (3,):
            constants = {"TASKS": tasks, "COLUMNS": gradients.FEW_COLUMNS[triton.next_power_of_2(tasks)]}
            slab = {"partial_ptr": "*fp64", "J_ptr": pointer, "columns": "i32", "J_row_stride": "i64"}
            found.append(_case(gradients.gram_few_kernel, slab, constants, word))
        for tasks in (16, 32, 64):
            slab = {"partial_ptr": "*fp64", "J_ptr": pointer, "tasks": "i32", "columns": "i32", "J_row_stride": "i64"}
            found.append(_case(gradients.gram_many_kernel, slab, gradients.many_constants(tasks), word, warps=8))
        slab = {"g_ptr": pointer, "squares_ptr": "*fp64", "J_ptr": pointer, "w_ptr": "*fp64"}
        slab |= {"tasks": "i32", "columns": "i32", "J_row_stride": "i64"}
        found.append(_case(gradients.combine_kernel, slab, {"COLUMNS": gradients.COMBINED}, word))
    sums = {"out_ptr": "*fp64", "partial_ptr": "*fp64", "programs": "i32", "entries": "i32"}
    for wide, tall in gradients.SUMMED:
        found.append(_case(gradients.sum_partials_kernel, sums, {"ENTRIES": wide, "PARTIALS": tall}, "fp64"))
    return found


def _case(kernel: Any, signature: dict[str, Any], constants: dict[str, Any], precision: str, warps: int = 4) -> Case:
    # torch hands out memory in multiples of 16 bytes.
    pointers = frozenset(name for name, kind in signature.items() if isinstance(kind, str) and kind.startswith("*"))
    whole = {**signature, **dict.fromkeys(constants, "constexpr")}
    return Case(kernel, whole, constants, warps, pointers, precision=precision)


def cases() -> list[Case]:
    """Every kernel in every configuration that is used."""
    return [*(_noise_case(width) for width in (8, 769)), *_gradient_cases()]


def described_case(call: Described, label: str) -> Case:
    """The case that Triton would compile for a launch: None and 1 are constants, multiples of 16 are specialised."""
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


def denoiser_cases(architecture: int, precision: str, rows: int, size: Size) -> list[Case]:
    """Every different kernel that the denoiser launches on an architecture, found by describing its launches."""
    found: dict[tuple[Any, ...], Case] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for part, describe in PASSES.items():
        with described(architecture) as calls:
            describe(precision, rows, size)
        for call in calls:
            case = replace(described_case(call, f"{call.name} {precision} x{rows} D={size.features}"), part=part)
            constants = tuple((name, str(value)) for name, value in case.constants.items())
            key = (call.kernel, tuple(case.signature.items()), constants, case.aligned, case.warps, case.stages)
            if key in found:
                continue
            seen[part, call.name] += 1
            again = seen[part, call.name]
            found[key] = case if again == 1 else replace(case, part=f"{part} {again}")
    return list(found.values())


class _Inputs(NamedTuple):
    x: torch.Tensor
    t: torch.Tensor
    c: torch.Tensor
    weights: list[torch.Tensor]
    drops: executor.Drops


def _inputs(rows: int, size: Size) -> _Inputs:
    widths = [size.ends[name].true_outputs for name in executor.DROPPED]
    return _Inputs(
        torch.empty(rows, size.features, device="meta"),
        torch.empty(rows, device="meta"),
        torch.empty(rows, size.conditions, device="meta"),
        [torch.empty(shape, device="meta") for shape in size.parameters.values()],
        executor.Drops(0.1, tuple(torch.empty(rows, width, device="meta") for width in widths)),
    )


def _describe_inference(precision: str, rows: int, size: Size) -> None:
    x, t, c, weights, _ = _inputs(rows, size)
    executor.denoise(size, precision, x, t, c, weights, False)


def _describe_training(precision: str, rows: int, size: Size) -> None:
    x, t, c, weights, _ = _inputs(rows, size)
    out, kept = executor.denoise(size, precision, x, t, c, weights, True)
    executor.gradients(size, precision, torch.empty_like(out), kept, weights, x_gradient=True, c_gradient=True)


def _describe_tasks(precision: str, rows: int, size: Size) -> None:
    x, t, c, weights, _ = _inputs(rows, size)
    out, kept = executor.denoise(size, precision, x, t, c, weights, True)
    offsets = torch.empty(4, dtype=torch.int64, device="meta")
    executor.gradients(size, precision, torch.empty_like(out), kept, weights, offsets=offsets)


def _describe_dropout(precision: str, rows: int, size: Size) -> None:
    x, t, c, weights, drops = _inputs(rows, size)
    out, kept = executor.denoise(size, precision, x, t, c, weights, True, drops)
    executor.gradients(size, precision, torch.empty_like(out), kept, weights, drops=drops)


def _folded(precision: str, size: Size) -> Folded:
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
    return Folded(denoiser, size.conditions, precision, "meta")


def _describe_folded(precision: str, rows: int, size: Size) -> None:
    folded, e = _folded(precision, size), size.embedding
    times, people = folded.time_tables(np.zeros((2, e))), folded.people_tables(np.zeros((rows, e)))
    folded(torch.empty(rows, size.features, device="meta"), times[0], people)


def _describe_chain(precision: str, rows: int, size: Size) -> None:
    folded, e = _folded(precision, size), size.embedding
    times, people = folded.time_tables(np.zeros((2, e))), folded.people_tables(np.zeros((rows, e)))
    keys, draws = (torch.empty(n, dtype=dtype, device="meta") for n, dtype in ((rows, torch.int64), (1, torch.int32)))
    x, steps = torch.empty(rows, size.features, device="meta"), torch.empty(2, 6, device="meta")
    folded.chain(x, times, people, steps, keys, draws, 0, 1, [True, False])


PASSES: dict[str, Callable[[str, int, Size], None]] = {
    "inference": _describe_inference,
    "training": _describe_training,
    "tasks": _describe_tasks,
    "dropout": _describe_dropout,
    "folded": _describe_folded,
    "chain": _describe_chain,
}


def tabled_cases(architecture: int) -> Iterator[Case]:
    """Cases of `TABLE` for an architecture, in its order."""
    yield from cases()
    for precision in executor.PRECISIONS:
        yield from denoiser_cases(architecture, precision, BATCHES[-1], PUBLISHED)


def write_table(path: Path = TABLE, architectures: Sequence[int] = TABLED) -> None:
    """Compile everything that `TABLE` holds and write it; minutes."""
    rows = [compile_case(case, target).row for target in architectures for case in tabled_cases(target)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path = TABLE) -> list[dict[str, str]]:
    """The lines of the table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compile_case(case: Case, architecture: int) -> Usage:
    """Compile for sm_<architecture> and read the resources from the binary.

    Raises whatever Triton or its assembler raises where a kernel does not compile.
    """
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(case.signature) if name in case.aligned}
    source = ASTSource(fn=case.kernel, signature=case.signature, constexprs=case.constants, attrs=aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        listing = _tool("cuobjdump", "--dump-resource-usage", str(binary))
        code = _tool("nvdisasm", "--print-code", str(binary))
    # A line of code: /*0070*/  @!P0 LDG.E R4, [R2] ;
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)", code)
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", listing)}
    return Usage(
        case=case.name,
        architecture=architecture,
        registers=found["REG"],
        local_bytes=found["STACK"] + found["LOCAL"],
        shared_bytes=compiled.metadata.shared,
        matrix={unit: compiled.asm["ptx"].count(word) for unit, word in MATRIX_UNITS.items()},
        part=case.part,
        instructions=len(names),
        mix={kind: sum(name.startswith(words) for name in names) for kind, words in MIX.items()},
    )


def _tool(name: str, *arguments: str) -> str:
    """The output of a tool that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(tool), *arguments], check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities, 90 say")
    parser.add_argument(
        "--precision", nargs="+", choices=executor.PRECISIONS, default=["bf16"], help="of the denoiser's kernels"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=BATCHES[2:], help="batches of the denoiser's kernels")
    parser.add_argument("--features", type=int, nargs="+", default=[769], help="D of the denoiser's kernels")
    parser.add_argument("--all", action="store_true", help="every precision and class of batch")
    parser.add_argument("--table", action="store_true", help=f"write {TABLE.name}, some minutes")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        write_table()
        return
    precisions, batches = (list(executor.PRECISIONS), BATCHES) if chosen.all else (chosen.precision, chosen.rows)
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
