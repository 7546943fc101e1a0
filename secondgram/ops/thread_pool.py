"""Independent pieces of work on several processors, whose results do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

from . import native

T = TypeVar("T")
# Each piece has its own copies of what it works on, and memory is scarcer than processors.
MOST = 4


def in_parallel(function: Callable[..., T], *pieces: Iterable[object], most: int = MOST) -> list[T]:
    """[function(*piece) for piece in zip(*pieces)], on at most so many threads.

    numpy, torch and the extension let other threads run while they compute; torch has one thread a piece, the extension
    its share of those there are. Preferences of backend and precision hold inside.
    The first exception is raised once the pieces under way are done; none is begun after it.
    """
    given = list(zip(*pieces, strict=True))
    workers = min(native.default_threads(), len(given), most)
    if workers <= 1:
        return [function(*piece) for piece in given]

    def one(piece: tuple[object, ...]) -> T:
        with native.limited(max(1, native.default_threads() // workers)):
            return function(*piece)

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(copy_context().run, one, piece) for piece in given]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
