"""Work on rows in zero-padded tiles of a fixed height, so that a row's result never depends on other rows.

Matrix libraries choose their inner loops by the shape of the product. In tiles of one height every row goes through the
same arithmetic, wherever it stands and however many rows there are; one thread a tile keeps the number of threads out
of it too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from . import native
from .postprocess import CANDIDATES
from .registry import resolve
from .thread_pool import in_parallel

# 64 and its multiples are heights at which the CPU's matrix products treat every row of a tile alike; 16 and 96 are
# not. Higher tiles call the library less often, which is most of what a small network costs.
TILE = 256


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which numpy's and scipy's matrix library runs on one thread: its sums depend on how many there are."""
    # Finding the libraries takes milliseconds, and only an import brings another.
    return _controller(len(sys.modules)).limit(limits=1, user_api="blas")


@functools.lru_cache(maxsize=1)
def _controller(modules: int) -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside, and as before outside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_tiles(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """function(tile of each array) row by row: arrays (rows, ...) -> (rows, ...).

    `function` gets tiles of exactly `TILE` rows; its results for the padding are dropped.
    """
    rows = len(arrays[0])
    parts = []
    for start in range(0, rows, TILE):
        tiles = [array[start : start + TILE] for array in arrays]
        missing = TILE - len(tiles[0])
        if missing:
            tiles = [torch.cat([tile, tile.new_zeros((missing, *tile.shape[1:]))]) for tile in tiles]
        parts.append(function(*tiles)[: TILE - missing])
    return torch.cat(parts) if parts else function(*[array.new_zeros((TILE, *array.shape[1:])) for array in arrays])[:0]


def matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left (rows, k) @ right (k, n), each row independent of the others, in the wider dtype of the two.

    The extension adds doubles in one order on every processor; without it, and in float32, rows go through in tiles.
    """
    dtype = np.result_type(left, right)
    left, right = (np.ascontiguousarray(each, dtype=dtype) for each in (left, right))
    if dtype == np.float64 and resolve("products of rows", CANDIDATES) != "reference":
        return native.row_products(left, right)
    factor = torch.from_numpy(right)
    with one_thread(), torch.inference_mode():
        return in_tiles(lambda tile: tile @ factor, torch.from_numpy(left)).numpy()


def slices(count: int, height: int) -> list[slice]:
    """Of 0 .. count, so many at a time."""
    return [slice(start, min(start + height, count)) for start in range(0, count, height)]


def in_chunks(function: Callable[[slice], None], rows: int, height: int) -> None:
    """Call function(slice) over 0 .. rows in chunks, on as many threads as torch would use; chunks are independent."""
    threads = torch.get_num_threads()
    with one_thread():
        in_parallel(function, slices(rows, height), most=threads)
