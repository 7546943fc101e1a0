"""Buffers for large results, reused once no array refers to them: the system has to clear fresh pages first."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["empty", "reusing_buffers"]

_lock = threading.Lock()
_blocks: ContextVar[list[np.ndarray] | None] = ContextVar("_blocks", default=None)


def _references(blocks: list[np.ndarray], number: int) -> int:
    return sys.getrefcount(blocks[number])


# Reference count of a buffer that only the list holds; a higher count means that an array of a caller still uses it.
_IDLE = _references([np.empty(0)], 0)


@contextmanager
def reusing_buffers() -> Iterator[None]:
    """Inside, `empty` reuses buffers that no array refers to any more."""
    token = _blocks.set([])
    try:
        yield
    finally:
        _blocks.reset(token)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> np.ndarray:
    """An uninitialised array, as `numpy.empty`; inside `reusing_buffers`, in a reused buffer where one is free."""
    blocks = _blocks.get()
    if blocks is None:
        return np.empty(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    # Another thread must not take the same one before a view of it is there.
    with _lock:
        idle = (n for n in range(len(blocks)) if blocks[n].nbytes >= size and _references(blocks, n) <= _IDLE)
        number = next(idle, None)
        if number is None:
            number = len(blocks)
            blocks.append(np.empty(size, np.uint8))
        # Views of a view refer to the buffer itself, so its reference count shows whether one is left.
        return blocks[number][:size].view(dtype).reshape(shape)
