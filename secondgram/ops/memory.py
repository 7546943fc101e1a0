"""Memory for large results that is used again once nobody holds them: fresh pages the system has to clear first."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["empty", "recycling"]

_blocks: ContextVar[list[np.ndarray] | None] = ContextVar("_blocks", default=None)


def _references(blocks: list[np.ndarray], number: int) -> int:
    return sys.getrefcount(blocks[number])


# Of a block that only the list has, as this interpreter counts: more are those of somebody's arrays.
_IDLE = _references([np.empty(0)], 0)


@contextmanager
def recycling() -> Iterator[None]:
    """Inside, `empty` hands out memory that was handed out before, where no array lies in it any longer."""
    token = _blocks.set([])
    try:
        yield
    finally:
        _blocks.reset(token)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> np.ndarray:
    """An array whose content is whatever was there, as numpy's."""
    blocks = _blocks.get()
    if blocks is None:
        return np.empty(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    idle = (n for n in range(len(blocks)) if blocks[n].nbytes >= size and _references(blocks, n) <= _IDLE)
    number = next(idle, None)
    if number is None:
        number = len(blocks)
        blocks.append(np.empty(size, np.uint8))
    # Arrays cut out of a view of a block hold the block itself, so its references tell whether one is left.
    return blocks[number][:size].view(dtype).reshape(shape)
