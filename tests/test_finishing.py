"""From components to draws: the extension does what the statement says, however the work is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secondgram.diffusion.noise import NoiseRequest, Purpose
from secondgram.ops import native
from secondgram.ops.registry import preferring
from secondgram.sampling.postprocess import Postprocess
from secondgram.sampling.quantile_map import QuantileMap

WAYS = [("fp32", name) for name in native.architectures()] + [
    (precision, name) for precision in ("fp16", "bf16") for name in native.architectures(precision)
]
# Of the spread of the draws: what rounding does to products (sums of 128 in fp16, factors in bf16), and maps to that.
BOUND = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 5e-3}


def _map(width: int, rng: np.random.Generator) -> QuantileMap:
    made = QuantileMap.fit(rng.gamma(2.0, size=(400, width)) - 2.0, np.ones(400))
    made.end[:, ::3] = made.start[:, ::3]  # some columns stay normal
    return made.from_draws(rng.normal(size=(500, width))) if width % 2 else made


def _case(width: int, people: int = 9, draws: Any = 7, maps: bool = True, lead: int = 0, moved: bool = False) -> Any:
    rng = np.random.default_rng(width)
    loading = np.linalg.qr(rng.normal(size=(width, width)))[0] * rng.uniform(0.3, 2.0, size=(width, 1))
    postprocess = Postprocess(width, loading, _map(width, rng) if maps else None, _map(width, rng) if maps else None)
    centre, scale = rng.normal(3.0, size=(60, width)), rng.uniform(0.5, 2.0, size=(60, width))
    keys = np.arange(60, dtype=np.uint64)[:people] * 3 + 1
    noise = NoiseRequest.of(keys, width, seed=5, purpose=Purpose.COMPONENTS, draws=draws)
    source = places = by = None
    if lead:
        places = rng.permutation(width)[:lead]
        source = rng.normal(size=(200, 60, lead)).astype(np.float32)[noise.draws, :people]
    if moved:
        by = _moved(width, people, noise.draws, rng)
    return postprocess, (centre[:people], scale[:people], noise, source, places, by)


def _moved(width: int, people: int, draws: np.ndarray, rng: np.random.Generator) -> native.Moved:
    """Nobody's cells, one, a few, or, of every ninth person, all."""
    gone = rng.random((60, width)) < 0.2
    gone[::3] = False
    gone[4::9] = True
    drawn, gone = rng.normal(size=(60, width, 200)).astype(np.float32)[:people, :, draws], gone[:people]
    start = np.concatenate([[0], np.cumsum(gone.sum(axis=1))])
    maps = rng.normal(size=(2, width, width)).astype(np.float32) / np.float32(np.sqrt(width))
    gap, weight = rng.normal(size=60).astype(np.float32), rng.uniform(0.5, 2.0, (60, width)).astype(np.float32)
    return native.Moved(
        start, np.nonzero(gone)[1].astype(np.uint32), drawn[gone], maps[0], maps[1], gap[:people], weight[:people]
    )


@pytest.mark.native
@pytest.mark.parametrize("by_gap", [False, True])
def test_lost_cells_move_a_residual_by_their_rows_alone(by_gap: bool) -> None:
    postprocess, (centre, scale, noise, *_, moved) = _case(17, moved=True)
    moved = moved._replace(by_gap=moved.by_gap if by_gap else None)
    still = postprocess.stated(centre, scale, noise, None, None, None)
    expected = np.zeros_like(still)
    for person in range(9):
        # As a dense product: the drawn cells between zeros.
        cells = np.zeros((7, 17))
        mine = slice(moved.start[person], moved.start[person + 1])
        cells[:, moved.cell[mine]] = moved.by[mine].T
        change = cells @ moved.map
        if by_gap:
            change += moved.gap[person] * (cells @ moved.by_gap)
        expected[:, person] = scale[person] * moved.weight[person] * change
    assert np.abs(expected).max() > 1.0
    got = postprocess.stated(centre, scale, noise, None, None, moved) - still
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    packed = postprocess._native("fp32")
    drawn = packed.draws(centre, scale, noise, None, None, moved, np.dtype(float))
    np.testing.assert_allclose(drawn, still + expected, rtol=1e-4, atol=2e-4)


@pytest.mark.native
def test_lost_cells_of_another_shape_are_refused() -> None:
    postprocess, (centre, scale, noise, *_, moved) = _case(5, moved=True)
    for wrong in (
        {"start": moved.start[:-1]},
        {"cell": moved.cell + np.uint32(5)},
        {"by": moved.by[:, :-1]},
        {"map": moved.map[:-1]},
        {"gap": moved.gap.astype(float)},
        {"weight": moved.weight.T},
    ):
        with pytest.raises(ValueError, match=r"people|cells"):
            postprocess.draws(centre, scale, noise, None, None, moved._replace(**wrong))


@pytest.mark.native
@pytest.mark.parametrize("width", [1, 17, 130])
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(("precision", "architecture"), WAYS)
def test_every_instruction_set_does_what_is_stated(width: int, maps: bool, precision: str, architecture: str) -> None:
    postprocess, (centre, scale, noise, source, places, moved) = _case(width, maps=maps, lead=width // 2, moved=True)
    stated = postprocess.stated(centre, scale, noise, source, places, moved)
    spread = scale * ((stated - centre) / scale).std()
    packed = postprocess._native(precision)
    for dtype in (np.float32, np.float64):
        got = packed.draws(centre, scale, noise, source, places, moved, np.dtype(dtype), architecture=architecture)
        assert got.dtype == dtype
        assert got.shape == (7, 9, width)
        assert np.sqrt(np.square((got - stated) / spread).mean()) <= BOUND[precision]


@pytest.mark.native
@pytest.mark.parametrize("knots", [2, 5, 61, 63, 64, 200])
@pytest.mark.parametrize("architecture", native.architectures())
def test_maps_of_any_number_of_knots(knots: int, architecture: str) -> None:
    rng = np.random.default_rng(knots)
    steps = rng.gamma(0.5, size=(2, knots, 3)) + 0.1
    start, end = 6.0 * np.cumsum(steps / steps.sum(axis=1, keepdims=True), axis=1) - 3.0
    postprocess = Postprocess(3, margins=QuantileMap(start, end))
    # Between the knots, at them, far beyond either end, and as far as floats go.
    at = np.concatenate([rng.uniform(-4, 4, size=(50, 3)), start, np.full((2, 3), [[-1e30], [1e30]])])
    source = at[:, None].astype(np.float32)
    noise = NoiseRequest.of(np.zeros(1, np.uint64), 3, seed=0, purpose=Purpose.COMPONENTS, draws=len(at))
    packed = postprocess._native("fp32")
    centre, scale = np.zeros((1, 3)), np.ones((1, 3))
    got = packed.draws(centre, scale, noise, source, np.arange(3), None, np.dtype(float), architecture=architecture)
    stated = postprocess.stated(centre, scale, noise, source.astype(float), np.arange(3), None)
    np.testing.assert_allclose(got, stated, rtol=2e-6, atol=2e-5)


@pytest.mark.native
def test_a_residual_is_clipped_and_put_into_units() -> None:
    postprocess = Postprocess(5, clip=1.0)
    _, (centre, scale, noise, *_) = _case(5)
    source = np.random.default_rng(0).normal(size=(7, 9, 5)).astype(np.float32)
    got = postprocess.draws(centre, scale, noise, source)
    np.testing.assert_allclose(got, centre + scale * np.clip(source, -1, 1), rtol=1e-6)


def test_the_reference_runs_where_it_is_asked_for() -> None:
    postprocess, given = _case(6, lead=2)
    with preferring("reference"):
        np.testing.assert_array_equal(postprocess.draws(*given), postprocess.stated(*given))


@pytest.mark.native
@pytest.mark.parametrize("precision", ["fp32", *(name for name in ("fp16", "bf16") if native.architectures(name))])
def test_the_cut_changes_nothing(precision: str) -> None:
    with preferring("auto", precision):
        postprocess, given = _case(17, people=60, draws=100, lead=3, moved=True)
        everything = postprocess.draws(*given)
        for people in (1, 2, 31):
            _, some = _case(17, people=people, draws=100, lead=3, moved=True)
            np.testing.assert_array_equal(postprocess.draws(*some), everything[:, :people])
        for draws in (1, 96, [99, 3]):
            _, some = _case(17, people=60, draws=draws, lead=3, moved=True)
            np.testing.assert_array_equal(postprocess.draws(*some), everything[some[2].draws])
        packed = postprocess._native(precision)
        centre, scale, noise, source, places, moved = given
        for threads in (1, 3):
            again = packed.draws(centre, scale, noise, source, places, moved, np.dtype(float), threads=threads)
            np.testing.assert_array_equal(again, everything)


@pytest.mark.native
def test_columns_lie_together_in_memory() -> None:
    postprocess, given = _case(17)
    assert postprocess.draws(*given).transpose(2, 1, 0).flags.c_contiguous


@pytest.mark.native
def test_nobody_and_wrong_shapes() -> None:
    postprocess, given = _case(5, people=0)
    assert postprocess.draws(*given).shape == (7, 0, 5)
    postprocess, (centre, scale, noise, *_) = _case(5)
    with pytest.raises(ValueError, match="9 people"):
        postprocess.draws(centre[:4], scale, noise)
    with pytest.raises(ValueError, match="source"):
        postprocess.draws(centre, scale, noise, np.zeros((7, 9, 2), np.float32), np.arange(3))
    with pytest.raises(ValueError, match="place 9"):
        postprocess.draws(centre, scale, noise, np.zeros((7, 9, 2), np.float32), np.array([0, 9]))
