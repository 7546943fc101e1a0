"""Launches, bytes and operations of the fused denoiser as planned, and the tables of tiles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from secondgram.diffusion.folding import flops

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")
plan = pytest.importorskip("secondgram.kernels.launch_plan")

from secondgram.kernels import tuning  # noqa: E402
from secondgram.kernels.layout import Arena, Size, packed_sizes, packing  # noqa: E402

PAPER, SMALL = Size(769, 783, 256, (512, 256, 128)), Size(32, 46, 256, (512, 256, 128))
# Nothing of it is padded.
EVEN = Size(64, 128, 64, (128, 64, 64))


@pytest.mark.parametrize("size", [PAPER, SMALL], ids=["769", "32"])
def test_launches(size: Size) -> None:
    assert len(plan.forward(size, False).launches) <= 24
    assert len(plan.folded(size, False).launches) <= 14
    assert len(plan.folded(size, True).launches) <= 14
    both = len(plan.forward(size, True).launches) + len(plan.backward(size, True, True).launches)
    assert both <= 64


def test_operations_are_those_of_the_network() -> None:
    """Where nothing is padded, the products are those that `folding.flops` counts."""
    rows = 100
    written = sum(cost.flops for cost in plan.costs(plan.forward(EVEN, False), rows, "bf16"))
    assert written == rows * flops(64, 128, 64, (128, 64, 64))
    folded = sum(cost.flops for cost in plan.costs(plan.folded(EVEN, False), rows, "bf16"))
    assert folded == rows * flops(64, 128, 64, (128, 64, 64), draws=1)


def test_a_backward_pass_takes_twice_the_operations_of_the_forward_pass() -> None:
    """Each product has two gradients, but for those of the inputs, which nobody asks for."""
    rows, ahead = 100, plan.forward(EVEN, True)
    forward = sum(cost.flops for cost in plan.costs(ahead, rows, "bf16"))
    with_inputs = plan.costs(plan.backward(EVEN, True, True), rows, "bf16", ahead.widths)
    # The gradient of sincos(t) is left out.
    assert sum(cost.flops for cost in with_inputs) == 2 * forward - 2 * rows * 64 * 64


@pytest.mark.parametrize("precision", plan.BYTES)
@pytest.mark.parametrize("rows", [256, 4096, 16896])
def test_nothing_moves_less_than_the_floor(rows: int, precision: str) -> None:
    for program in (plan.forward(PAPER, False), plan.forward(PAPER, True)):
        costs = plan.costs(program, rows, precision)
        assert [cost.name for cost in costs] == [launch.name for launch in program.launches]
        assert sum(cost.read + cost.written for cost in costs) >= plan.floor(PAPER, rows)
    moved = sum(cost.read + cost.written for cost in plan.costs(plan.folded(PAPER, False), rows, precision))
    assert moved >= plan.folded_floor(PAPER, rows, precision)


def test_the_table_names_every_launch(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--features", "32", "--rows", "4096", "--precision", "tf32"])
    shown = capsys.readouterr().out
    for launch in (*plan.forward(SMALL, True).launches, *plan.backward(SMALL, False, False).launches):
        assert f"  {launch.name} " in shown
    assert "forward, folded: 14 launches, 4096 rows of 32 features in tf32" in shown


@pytest.mark.parametrize("size", [PAPER, SMALL, Size(1, 4, 12, (20, 12, 8))], ids=["769", "32", "1"])
def test_packed_weights_are_aligned_and_filled_once(size: Size) -> None:
    matrices, sources = packing(size)
    spots = sum(source.rows * source.columns for source in sources)
    assert spots == packed_sizes(matrices)[0]
    assert all(matrix.start % 64 == matrix.columns % 64 == 0 for matrix in matrices.values())
    named = {part for source in sources for part in (f"{source.weight}.weight", *(f"{b}.bias" for b in source.biases))}
    named |= {f"{source.norm}.{part}" for source in sources if source.norm for part in ("weight", "bias")}
    assert named == set(size.parameters)


def test_buffers_of_an_arena_do_not_overlap() -> None:
    import torch

    widths = plan.forward(PAPER, True).widths
    arena = Arena(widths, 3, torch.zeros(3 * sum(widths.values())), PAPER.e)
    for number, name in enumerate(widths, start=1):
        assert not arena[name].any()
        arena[name].fill_(number)
    assert arena.flat.all()
    assert arena["context:2"].shape == (3, PAPER.e)


# -- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", tuning.ARCHITECTURES)
def test_every_class_has_a_tile(architecture: int) -> None:
    table = tuning.table(architecture)
    assert set(table) == set(plan.BYTES)
    for kernels in table.values():
        assert set(kernels) == set(tuning.KERNELS)
        for tiles in kernels.values():
            assert set(tiles) == set(tuning.CLASSES)
            assert all(64 % tile.depth == 0 and tile.columns % 64 == 0 for tile in tiles.values())


def test_an_architecture_without_a_table_takes_the_one_before() -> None:
    assert [tuning.nearest(number) for number in (75, 80, 86, 89, 90, 100, 103, 120)] == [80, 80, 80, 80, 90] + [
        100
    ] * 3


def test_a_search_writes_the_fastest_tile_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = shutil.copytree(tuning.FOLDER, tmp_path / "tuned")
    monkeypatch.setattr(tuning, "FOLDER", folder)
    monkeypatch.setattr(tuning, "_searched", set())
    tuning.table.cache_clear()
    before = tuning.table(90)
    wanted, name = tuning.candidates("forward", "bf16")[4], tuning.CLASSES[0]

    def seconds(tile: tuning.Tile) -> float:
        if tile.stages == 4:
            raise RuntimeError("out of shared memory")
        return 1.0 if tile == wanted else 2.0

    assert tuning.search(90, "bf16", "forward", name, seconds) == wanted
    assert tuning.search(90, "bf16", "forward", name, seconds) is None
    after = tuning.table(90)
    assert after["bf16"]["forward"].pop(name) == wanted
    before["bf16"]["forward"].pop(name)
    assert after == before
    tuning.table.cache_clear()
