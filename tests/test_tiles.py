"""Work in tiles and chunks: a row's result depends on that row alone, to the last bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from secondgram.ops import native
from secondgram.ops.registry import preferring
from secondgram.ops.row_tiles import TILE, in_chunks, in_tiles, matmul, one_blas_thread, one_thread

COUNTS = [1, 7, 64, 255, 256, 257, 600]


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def _rows(count: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count + width), dtype=dtype)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("width", [1, 7, 257])
def test_a_row_in_tiles_does_not_depend_on_place_neighbours_or_count(count: int, width: int) -> None:
    weight = _rows(width, 33)
    calls = []

    def function(tile: Tensor) -> Tensor:
        calls.append(len(tile))
        return torch.nn.functional.silu(tile @ weight)

    everyone = _rows(700, width)
    whole = in_tiles(function, everyone)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))[:count]
    some = in_tiles(function, everyone[order])
    assert some.shape == (count, 33)
    assert torch.equal(some, whole[order])
    assert set(calls) == {TILE}


def test_several_arrays_are_cut_alike() -> None:
    left, right = _rows(70, 3), _rows(70, 5)
    got = in_tiles(lambda a, b: torch.cat([a, b], dim=1), left, right)
    assert torch.equal(got, torch.cat([left, right], dim=1))


def test_no_rows_give_no_rows_of_the_right_width() -> None:
    assert in_tiles(lambda tile: tile @ torch.ones(3, 4), torch.zeros(0, 3)).shape == (0, 4)
    assert matmul(np.zeros((0, 3)), np.ones((3, 4))).shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (783, 2), (64, 64), (31, 100)])
def test_a_row_of_matmul_does_not_depend_on_place_neighbours_or_count(dtype: type, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    left: np.ndarray = rng.normal(size=(256, shape[0])).astype(dtype)
    right: np.ndarray = rng.normal(size=shape).astype(dtype)
    whole = matmul(left, right)
    assert whole.dtype == dtype
    for count in COUNTS:
        rows = rng.permutation(256)[:count]
        np.testing.assert_array_equal(matmul(left[rows], right), whole[rows])
    # Strided and reversed views are the same rows.
    np.testing.assert_array_equal(matmul(left[::-2], right), whole[::-2])
    np.testing.assert_array_equal(matmul(left, np.asfortranarray(right)), whole)


@pytest.mark.parametrize("count", COUNTS)
def test_matmul_equals_numpy(count: int) -> None:
    rng = np.random.default_rng(count)
    left, right = rng.normal(size=(count, 19)), rng.normal(size=(19, 23))
    np.testing.assert_allclose(matmul(left, right), left @ right, rtol=1e-12, atol=1e-12)


@pytest.mark.native
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 19, 23), (200, 3, 65), (5, 784, 769), (13, 0, 4), (0, 3, 4)])
def test_the_extension_adds_in_order_whatever_the_threads(shape: tuple[int, int, int]) -> None:
    rows, inputs, columns = shape
    rng = np.random.default_rng(inputs)
    left, right = rng.normal(size=(rows, inputs)), rng.normal(size=(inputs, columns))
    got = native.row_products(left, right)
    for threads in (1, 3):
        with native.limited(threads):
            np.testing.assert_array_equal(native.row_products(left, right), got)
            np.testing.assert_array_equal(native.row_products(left[::-1].copy(), right), got[::-1])
    for other in (left @ right, matmul(left, right)):
        np.testing.assert_allclose(got, other, rtol=1e-9, atol=1e-9)
    with preferring("reference"):
        np.testing.assert_allclose(got, matmul(left, right), rtol=1e-9, atol=1e-9)
    # Plain sums in order, each rounded after the product too or, fused, once.
    for row, column in [(0, 0), (rows - 1, columns - 1)] if rows else []:
        plain, fused = 0.0, 0.0
        for x, w in zip(left[row], right[:, column], strict=True):
            plain += x * w
            fused = float(Fraction(float(x)) * Fraction(float(w)) + Fraction(fused))
        assert got[row, column] in (plain, fused)


@pytest.mark.native
def test_the_extension_refuses_other_layouts() -> None:
    left, right = np.ones((2, 3)), np.ones((3, 4))
    wrong: Any = ((left.astype(np.float32), right), (left, np.asfortranarray(right)), (left[:, :2], right))
    for one, other in wrong:
        with pytest.raises(ValueError, match="factor"):
            native.row_products(one, other)
    with pytest.raises(ValueError, match="factors"):
        native.row_products(left, np.ones((4, 4)))


def test_the_matrix_library_runs_on_one_thread_and_as_before_after_it() -> None:
    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = threads()
    assert before
    for _ in range(2):
        with one_blas_thread():
            assert set(threads()) == {1}
        assert threads() == before


def test_matmul_works_in_the_wider_dtype() -> None:
    left = np.full((2, 3), 1 / 3)
    assert matmul(left.astype(np.float32), np.ones((3, 1))).dtype == np.float64
    np.testing.assert_allclose(matmul(left, np.ones((3, 1), dtype=np.float32)), 1.0, rtol=1e-15)


def test_one_thread_restores_the_number_also_after_an_error(threads: int) -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    with pytest.raises(RuntimeError, match="inside"), one_thread():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("rows", "height"), [(0, 5), (1, 5), (5, 5), (6, 5), (64, 1), (100, 7), (3, 1000)])
def test_in_chunks_calls_every_row_once_on_one_thread_each(rows: int, height: int, workers: int, threads: int) -> None:
    torch.set_num_threads(workers)
    seen, lock = np.zeros(rows, dtype=int), threading.Lock()
    inside = []

    def function(chunk: slice) -> None:
        with lock:
            seen[chunk] += 1
            inside.append((chunk.stop - chunk.start, torch.get_num_threads()))

    in_chunks(function, rows, height)
    assert (seen == 1).all()
    assert all(1 <= count <= height and number == 1 for count, number in inside)
    assert torch.get_num_threads() == workers


@pytest.mark.parametrize("workers", [1, 2])
def test_in_chunks_propagates_an_exception_and_restores_the_threads(workers: int, threads: int) -> None:
    torch.set_num_threads(workers)

    def function(chunk: slice) -> None:
        if chunk.start == 4:
            raise ValueError("chunk 4 failed")

    with pytest.raises(ValueError, match="chunk 4 failed"):
        in_chunks(function, 10, 2)
    assert torch.get_num_threads() == workers
