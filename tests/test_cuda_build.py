"""What the CUDA extension is made of, and what it plans to do: asserted without a device."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secondgram import Denoiser
from secondgram.diffusion.folding import FoldedDenoiser, flops, fold
from secondgram.errors import InputError
from secondgram.ops import cuda

pytestmark = pytest.mark.skipif(cuda.built() is not None, reason=str(cuda.built()))

SOURCE = Path(__file__).parents[1]
PAPER = (769, 783, 256, (512, 256, 128))
SMALL = (16, 21, 64, (128, 64, 32))
H100 = cuda.Limits()
A100 = cuda.Limits(shared_bytes=166912, processors=108, groups=False)
RTX3090 = cuda.Limits(shared_bytes=101376, processors=82, memory_bytes=20 << 30, groups=False)


def _folded(size: Any) -> FoldedDenoiser:
    net = Denoiser(*size[:2], embedding=size[2], widths=size[3], generator=torch.Generator().manual_seed(0))
    return fold({name: value.numpy() for name, value in net.state_dict().items()})


@pytest.fixture(scope="module")
def paper() -> FoldedDenoiser:
    return _folded(PAPER)


@pytest.fixture(scope="module")
def small() -> FoldedDenoiser:
    return _folded(SMALL)


@pytest.mark.parametrize(
    "architectures", ["90", "90-real", "80;90-virtual", "native", "all-major", "80;90a-real", "100"]
)
def test_sm_90_without_its_own_instructions_is_refused(architectures: str, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None or not (SOURCE / "CMakeLists.txt").exists():
        pytest.skip("needs cmake and the sources")
    # Nothing is built: what comes after is switched off.
    command = [cmake, "-S", str(SOURCE), "-B", str(tmp_path), "-DSECONDGRAM_NATIVE=OFF"]
    done = subprocess.run(command, env={**os.environ, "CUDAARCHS": architectures}, capture_output=True, text=True)
    refused = architectures not in ("80;90a-real", "100")
    assert (done.returncode != 0) == refused, done.stderr
    assert not refused or "Name 90a-real" in done.stderr


# -- what was compiled ------------------------------------------------------------------------------------------------


@pytest.fixture
def resources(benchmark_module: Callable[[str], Any]) -> Any:
    module = benchmark_module("cuda_resources")
    if module.tool() is None:
        pytest.skip("cuobjdump is not installed")
    return module


@pytest.fixture
def usage(resources: Any) -> dict[str, dict[str, tuple[int, int]]]:
    """For each architecture and kernel: registers, and bytes of local memory (stack and spilled registers)."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for (architecture, kernel), used in resources.usage().items():
        found.setdefault(architecture, {})[kernel] = used
    return found


def test_the_table_of_resources_is_this_build_s(resources: Any) -> None:
    """`python benchmarks/cuda_resources.py --write` brings it up to date."""
    with resources.TABLE.open() as file:
        kept = list(csv.DictReader(file))
    compiler = cuda._extension().compiler
    if {row["nvcc"] for row in kept} != {compiler}:
        pytest.skip(f"the table is of another compiler than {compiler}")
    now = resources.table()
    built = {row["arch"] for row in now}
    assert now == [row for row in kept if row["arch"] in built]


def test_nothing_spills(usage: dict[str, dict[str, tuple[int, int]]]) -> None:
    assert usage
    for architecture, kernels in usage.items():
        assert sum(name.startswith("block_program<") for name in kernels) == 3, architecture
        for name, (registers, local) in kernels.items():
            assert local == 0, (architecture, name)
            # 384 threads of a block share 65,536 registers.
            assert registers <= 168, (architecture, name)


@pytest.mark.parametrize(
    ("architecture", "wanted", "unwanted"),
    [
        ("sm_80", ["HMMA.16816.F32.BF16", "LDGSTS", "LDSM"], ["HGMMA", "UBLKCP"]),
        ("sm_90a", ["HGMMA.64x128x16.F32.BF16", "HGMMA.64x64x16.F32.BF16", "UBLKCP", "MULTICAST"], ["LDL", "STL"]),
        ("sm_100", ["HMMA.16816.F32.BF16", "UBLKCP"], ["LDL", "STL"]),
    ],
)
def test_the_instructions_meant_are_there(
    resources: Any, usage: dict[str, Any], architecture: str, wanted: list[str], unwanted: list[str]
) -> None:
    if architecture not in usage:
        pytest.skip(f"built without {architecture}")
    code = resources.dump("--gpu-architecture", architecture, "-sass")
    for instruction in wanted:
        assert instruction in code, instruction
    for instruction in unwanted:
        assert not re.search(rf"\b{instruction}\b", code), instruction


# -- what is planned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [H100, A100, RTX3090], ids=["H100", "A100", "3090"])
@pytest.mark.parametrize("size", [PAPER, SMALL], ids=["paper", "small"])
def test_a_step_takes_few_launches(size: Any, limits: cuda.Limits) -> None:
    made = cuda.plan(_folded(size), 41_706, 1, 99, limits=limits)
    assert made["launches_per_step"] <= 14


@pytest.mark.parametrize("limits", [H100, A100, RTX3090], ids=["H100", "A100", "3090"])
@pytest.mark.parametrize("mode", cuda.MODES)
def test_every_block_fits(paper: FoldedDenoiser, small: FoldedDenoiser, mode: str, limits: cuda.Limits) -> None:
    for folded in (paper, small):
        made = cuda.plan(folded, 41_706, 20, 99, mode=mode, limits=limits)
        tiles = [made["tile"], made["product_tile"]] if mode == "graph" else [made["tile"]]
        assert all(tile["shared_bytes"] <= limits.shared_bytes for tile in tiles)
        assert made["memory_bytes"] <= limits.memory_bytes


WIDTHS = ((512, 256, 128), (256, 128, 64), (128, 64, 32), (64, 64, 64))


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("embedding", [64, 128, 256])
@pytest.mark.parametrize("features", [8, 16, 32, 64, 128, 256, 400, 769, 1200])
def test_groups_of_warps_share_no_activations(features: int, embedding: int, widths: tuple[int, int, int]) -> None:
    """Groups take a row of squares each and do not wait for one another: each has a strip of its own."""
    folded = _folded((features, features + 14, embedding, widths))
    sizes = [features, embedding, *widths, widths[2], widths[1], widths[0], features]
    names = ["state", "inner", "first", "second", "third", "fourth", "up1", "up2", "up3"]
    bytes_of = {name: (size + 63) // 64 * cuda.SQUARE_BYTES for name, size in zip(names, sizes, strict=True)}
    tiles: list[dict[str, int]] = [{}, *({"rows": 2, "columns": c, "stages": s} for c in (2, 4) for s in (2, 3, 4, 5))]
    network = cuda._packed(folded)
    for mode in cuda.MODES:
        for options in tiles:
            try:
                tile = cuda._plan_of(network, 4000, 20, 8, mode, H100, options)["tile"]
            except InputError:
                continue  # too many stages for the shared memory
            rows = tile["rows"] // 64
            begin = tile["shared_bytes"] - rows * tile["strip_bytes"]
            for name, place in tile["places"].items():
                assert begin <= place, (mode, options, name)
                assert place + bytes_of[name] <= begin + tile["strip_bytes"], (mode, options, name)


def test_a_small_network_stays_in_shared_memory(small: FoldedDenoiser) -> None:
    tile = cuda.plan(small, 1000, 20, 20, mode="persistent")["tile"]
    assert len(tile["places"]) == 8


@pytest.mark.parametrize("cluster", [1, 2, 4])
def test_bytes_of_a_step(paper: FoldedDenoiser, cluster: int) -> None:
    """Every weight once a block, shared by its cluster; padding to squares costs less than a tenth."""
    features, conditions, embedding, widths = PAPER
    # Draws share what the embedding adds, and draws without end bring nothing for it; one draw multiplies it itself.
    weights = flops(features, conditions, embedding, widths, 10**9)
    alone = cuda.plan(paper, 41_706, 1, 99, mode="persistent", cluster=cluster)["tile"]
    added = 2 * embedding * (sum(2 * width for width in widths[:2]) + widths[2] + features)
    assert weights + added <= cluster * alone["weight_bytes"] < 1.1 * (weights + added)
    tile = cuda.plan(paper, 41_706, 20, 99, mode="persistent", cluster=cluster)["tile"]
    assert weights <= cluster * tile["weight_bytes"] < 1.1 * weights
    assert tile["received_bytes"] == cluster * tile["weight_bytes"] + tile["activation_bytes"]


def test_128_rows_bring_less_to_a_row_than_64(paper: FoldedDenoiser) -> None:
    received = {
        rows: cuda.plan(paper, 41_706, 1, 99, mode="persistent", rows=rows)["tile"]["received_bytes"] / rows
        for rows in (1, 2)
    }
    assert received[2] < received[1]


def test_chunks_shrink_to_the_memory_there_is(paper: FoldedDenoiser) -> None:
    sizes = []
    for gigabytes in (20, 1):
        made = cuda.plan(paper, 41_706, 1, 99, mode="persistent", limits=cuda.Limits(memory_bytes=gigabytes << 30))
        assert made["memory_bytes"] <= gigabytes << 30
        sizes.append(made["people"] * made["step_block"])
    assert sizes[1] < sizes[0]


def test_what_cannot_be_is_refused(paper: FoldedDenoiser) -> None:
    with pytest.raises(InputError, match=r"MiB are free"):
        cuda.plan(paper, 100, 1, 99, limits=cuda.Limits(memory_bytes=10 << 20))
    with pytest.raises(InputError, match="no tile of this size"):
        cuda.plan(paper, 100, 1, 99, limits=A100, mode="persistent", rows=2, columns=4)
    with pytest.raises(InputError, match="a cluster has 1, 2, 4 or 8 blocks"):
        cuda.plan(paper, 100, 1, 99, mode="persistent", cluster=3)
    with pytest.raises(InputError, match="no option speed"):
        cuda.plan(paper, 100, 1, 99, speed=3)


def test_measured_rates_choose_tile_and_cluster(paper: FoldedDenoiser) -> None:
    def rates(columns: int, *pairs: tuple[int, float]) -> list[cuda.StreamRate]:
        return [cuda.StreamRate(columns, 3, cluster, rate, 1.0) for cluster, rate in pairs]

    # What a tile of 128 rows receives needs about 50 bytes a clock to keep up with its products.
    slow_alone = rates(4, (1, 25.0), (2, 48.0), (4, 52.0))
    assert cuda.best_tile(paper, slow_alone) == {"rows": 2, "columns": 4, "cluster": 4}
    fast_alone = rates(4, (1, 64.0), (2, 64.0))
    assert cuda.best_tile(paper, fast_alone) == {"rows": 2, "columns": 4, "cluster": 1}
    with pytest.raises(InputError, match="no rate was measured"):
        cuda.best_tile(paper, [])
