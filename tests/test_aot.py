"""Every kernel of the denoiser, compiled ahead of time: no spills, and the matrix units of each architecture in use.

In processes of their own, without TRITON_INTERPRET: Triton chooses between interpreter and compiler when it decorates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles for CUDA on Linux only")

UNITS = {80: "mma", 90: "wgmma", 100: "tcgen05"}
# Shared memory that a block can have, in bytes.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Their products are as small as the narrowest width, and float32 leaves no room for 64 rows.
NARROW = ("bottom", "bottom.back")
NO_PRODUCTS = ("stage", "gradient", "norms")

CODE = """
import json, sys
from dataclasses import asdict
from secondgram.kernels import aot
from secondgram.kernels.layout import Size
architecture, precision, rows, features, names = json.loads(sys.argv[1])
size = Size(features, features + 14, 256, (512, 256, 128))
for case in aot.denoiser_cases(architecture, precision, rows, size):
    if names is None or case.name.split()[0] in names:
        print(json.dumps(asdict(aot.compile_case(case, architecture))), flush=True)
"""


def _usages(architecture: int, precision: str, rows: int, features: int, names: list[str] | None) -> list[Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    chosen = json.dumps([architecture, precision, rows, features, names])
    done = subprocess.run([sys.executable, "-c", CODE, chosen], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _check(architecture: int, precision: str, rows: int, features: int, names: list[str] | None = None) -> None:
    usages = _usages(architecture, precision, rows, features, names)
    assert len(usages) >= (30 if names is None else len(names))
    for usage in usages:
        name = usage["case"].split()[0]
        assert usage["local_bytes"] == 0, usage
        assert usage["shared_bytes"] <= SHARED[architecture], usage
        if name in NO_PRODUCTS:
            assert not any(usage["matrix"].values()), usage
        elif name == "bottom.back" and precision == "fp32":
            # Its products are IEEE's.
            assert not any(usage["matrix"].values()), usage
        elif name in NARROW and precision in ("tf32", "fp32"):
            assert any(usage["matrix"].values()), usage
        else:
            assert usage["matrix"][UNITS[architecture]], usage


@pytest.mark.parametrize(("architecture", "kinds"), [(90, ["down1.inner", "up3.mid.back"]), (100, ["down1.inner"])])
def test_large_products_use_the_matrix_units_without_spills(architecture: int, kinds: list[str]) -> None:
    _check(architecture, "bf16", 16896, 769, kinds)


@pytest.mark.slow
@pytest.mark.parametrize("features", [769, 32])
@pytest.mark.parametrize("rows", [256, 4096, 16896])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "fp32"])
@pytest.mark.parametrize("architecture", UNITS)
def test_every_kernel_uses_the_matrix_units_without_spills(
    architecture: int, precision: str, rows: int, features: int
) -> None:
    _check(architecture, precision, rows, features)
