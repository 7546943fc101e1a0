"""Every kernel compiled ahead of time, by this environment's Triton and by that of the machine with the GPU: no spills,
and the matrix units of each architecture in use; and the committed table of what each takes.

In processes of their own, without TRITON_INTERPRET: Triton chooses between interpreter and compiler when it decorates.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux only")

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "kernels" / "resources.csv"
UNITS = {80: "mma", 90: "wgmma", 100: "tcgen05"}
# Shared memory that a block can have, in bytes.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Their products are as small as the narrowest width, and float32 leaves no room for 64 rows.
NARROW = ("bottom", "bottom.back")
NO_PRODUCTS = ("pack", "gradient", "norms")
# Bytes that the device's assembler puts on the stack once, without want of registers (80 and 128 of 255, 8 warps). With
# 4 warps they are gone, and the newest Triton spills instead.
ASIDE: dict[tuple[str, str, int] | None, int] = {
    ("up3.join bf16 x16896 D=769", "folded", 100): 8,
    ("up3.join fp16 x16896 D=769", "folded", 100): 8,
    ("up3.mid.back fp16 x16896 D=769", "training", 100): 8,
}
# A folder with another Triton, as `pip install --no-deps --target` makes it.
FOLDER = "SECONDGRAM_DEVICE_TRITON"

CODE = """
import json, sys
from dataclasses import asdict
from secondgram.kernels import aot
from secondgram.kernels.layout import Size
architecture, precisions, rows, features, names = json.loads(sys.argv[1])
size = Size(features, features + 14, 256, (512, 256, 128))
cases = []
for precision in precisions:
    cases += aot.denoiser_cases(architecture, precision, rows, size) if precision else aot.cases()
for case in cases:
    if names is None or case.name.split()[0] in names:
        print(json.dumps(asdict(aot.compile_case(case, architecture))), flush=True)
"""
# The lines of the table as they would be, of the cases chosen; of the others their names alone.
LINES = """
import json, sys
from secondgram.kernels import aot
architecture, chosen = json.loads(sys.argv[1])
for case in aot.tabled_cases(architecture):
    name = [case.name, case.part]
    print(json.dumps([name, aot.compile_case(case, architecture).row if name in chosen else None]), flush=True)
"""


def device_version() -> str:
    """The machine's version of Triton."""
    found = re.search(r"^triton==(\S+)$", (ROOT / "constraints-device.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def _run(code: str, told: Any, triton: str) -> list[Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if triton == "device":
        folder = Path(os.environ.get(FOLDER, ROOT / ".venv" / f"triton-{device_version()}"))
        if not (folder / "triton" / "__init__.py").is_file():
            make = f"pip install --no-deps --target {folder.name} triton=={device_version()}"
            pytest.skip(f"no Triton {device_version()} in {folder}: {make}, and name the folder in {FOLDER}")
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(told)], env=environment, capture_output=True, text=True
    )
    # A failure of the compiler prints the whole program.
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _check(
    triton: str,
    architecture: int,
    precisions: Sequence[str],
    rows: int = 256,
    features: int = 769,
    names: list[str] | None = None,
) -> None:
    """Compile the denoiser's kernels in these precisions; an empty one means the kernels of gradients and noise."""
    usages = _run(CODE, [architecture, precisions, rows, features, names], triton)
    assert len(usages) >= (30 * len(precisions) if names is None else len(names))
    for usage in usages:
        name, precision, *_ = usage["case"].split()
        aside = (usage["case"], usage["part"], architecture) if triton == "device" else None
        assert usage["local_bytes"] == ASIDE.get(aside, 0), usage
        assert usage["shared_bytes"] <= SHARED[architecture], usage
        if precision in precisions and "_kernel" not in name:
            assert _units_are_used(name, precision, usage["matrix"], UNITS[architecture]), usage


def _units_are_used(name: str, precision: str, matrix: dict[str, Any], unit: str) -> bool:
    """Whether a kernel of the denoiser computes its products where it should."""
    if name in NO_PRODUCTS:
        return not any(int(count) for count in matrix.values())
    if name in NARROW and precision in ("tf32", "fp32"):
        return any(int(count) for count in matrix.values())
    return int(matrix[unit]) > 0


# The next generation takes as long again to compile for.
ARCHITECTURES = [90, pytest.param(100, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [(90, ["down1.inner", "up3.mid.back"]), pytest.param(100, ["down1.inner"], marks=pytest.mark.slow)],
)
def test_large_products_use_the_matrix_units_without_spills(architecture: int, kinds: list[str]) -> None:
    _check("newest", architecture, ["bf16"], 16896, names=kinds)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("triton", [pytest.param("newest", marks=pytest.mark.slow), "device"])
def test_kernels_that_are_hard_on_a_compiler(triton: str, architecture: int) -> None:
    """Gram matrices of many tasks in halves, and what takes many registers in float32."""
    _check(triton, architecture, ["", "fp32"], names=["gram_many_kernel", "bottom.back", "pack"])


@pytest.mark.parametrize(
    ("triton", "architecture"),
    [
        ("newest", 90),
        *(
            pytest.param(triton, architecture, marks=pytest.mark.slow)
            for triton, architecture in [
                ("newest", 80),
                ("newest", 100),
                ("device", 80),
                ("device", 90),
                ("device", 100),
            ]
        ),
    ],
)
def test_every_kernel_of_gradients_and_noise_compiles_without_spills(triton: str, architecture: int) -> None:
    _check(triton, architecture, [""])


@pytest.mark.slow
@pytest.mark.parametrize("features", [769, 32])
@pytest.mark.parametrize("rows", [256, 4096, 16896])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "fp32"])
@pytest.mark.parametrize("architecture", UNITS)
@pytest.mark.parametrize("triton", ["newest", "device"])
def test_every_kernel_uses_the_matrix_units_without_spills(
    triton: str, architecture: int, precision: str, rows: int, features: int
) -> None:
    _check(triton, architecture, [precision], rows, features)


# -- the committed table ----------------------------------------------------------------------------------------------

# One of each kind that is quick to compile.
LOOKED_AT = (
    ["gram_few_kernel fp32 TASKS=3 COLUMNS=512", ""],
    ["gram_many_kernel bf16 EDGE=16 TWO=False COLUMNS=32", ""],
    ["combine_kernel fp32 COLUMNS=1024", ""],
    ["pack bf16 x16896 D=769", "folded"],
    ["down1.inner bf16 x16896 D=769", "training"],
    ["bottom.back fp32 x16896 D=769", "training"],
    ["up3.mid.back bf16 x16896 D=769", "training"],
    ["weights bf16 x16896 D=769", "tasks"],
    ["step bf16 x16896 D=769", "chain 2"],
)


def _table(architecture: int) -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if line["arch"] == f"sm_{architecture}"]


@pytest.mark.parametrize("architecture", [90, 100])
def test_no_line_of_the_table_spills_or_leaves_the_matrix_units_idle(architecture: int) -> None:
    lines = _table(architecture)
    assert len(lines) > 150
    for line in lines:
        name, precision, *_ = line["kernel"].split()
        assert line["triton"] == device_version(), line
        aside = ASIDE.get((line["kernel"], line["pass"], architecture), 0)
        assert int(line["local_bytes"]) == aside, line
        assert int(line["local"]) <= aside // 4, line
        assert int(line["shared_bytes"]) <= SHARED[architecture], line
        if "_kernel" not in name:
            matrix = {unit: line[unit] for unit in UNITS.values()}
            assert _units_are_used(name, precision, matrix, UNITS[architecture]), line


def _differences(architecture: int, chosen: Sequence[list[str]] | None) -> list[Any]:
    lines = {(line["kernel"], line["pass"]): line for line in _table(architecture)}
    wanted = [list(name) for name in lines] if chosen is None else list(chosen)
    made = {(name[0], name[1]): line for name, line in _run(LINES, [architecture, wanted], "device")}
    assert list(made) == list(lines), "write the table anew"
    compared = [(lines[name], line) for name, line in made.items() if line is not None]
    assert len(compared) == len(wanted)
    return [(committed, line) for committed, line in compared if committed != line]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_what_the_kernels_take(architecture: int) -> None:
    """Where a change of a kernel is meant: PYTHONPATH=<the folder> python -m secondgram.kernels.aot --table."""
    assert not _differences(architecture, LOOKED_AT)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [90, 100])
def test_the_whole_table_is_what_the_kernels_take(architecture: int) -> None:
    assert not _differences(architecture, None)
