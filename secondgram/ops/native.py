"""The C++ extension, and the only place that hands it addresses.

Loaded at the first use, so that importing secondgram stays cheap and a missing extension is a reason, not a crash.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..diffusion.noise import NoiseRequest

__all__ = ["default_threads", "normals", "philox4x32", "reason_unavailable"]

INTERFACE = 1
_REBUILD = "build it again with pip install -e ."


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    """The extension and None, or None and the reason it cannot be used."""
    try:
        module = importlib.import_module("secondgram._native")
    except ModuleNotFoundError:
        return None, "the C++ extension was not built (no compiler at install time, or installed for another Python)"
    except ImportError as error:
        return None, f"the C++ extension cannot be loaded: {error}"
    if module.interface != INTERFACE:
        return None, f"the C++ extension is older or newer than the Python code; {_REBUILD}"
    return module, None


def reason_unavailable() -> str | None:
    """None where the extension can be used, else why not."""
    return _load()[1]


def _extension() -> ModuleType:
    module, reason = _load()
    if module is None:
        raise RuntimeError(f"{reason}.")
    return module


@functools.cache
def default_threads() -> int:
    """Processors this process may use, at most 16: more gain nothing once memory is the limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(available, 16)


def normals(request: NoiseRequest, threads: int | None = None) -> npt.NDArray[Any]:
    """Keyed normals, (M, N, width); the statement is `secondgram.diffusion.noise.normals`.

    Raises `RuntimeError` where the extension is absent. `threads` changes the time taken, never a value.
    """
    extension = _extension()
    keys, draws = request.keys, request.draws  # [people], [draws]
    out = np.empty(request.shape, dtype=request.dtype)
    extension.normals(
        out=out.ctypes.data,
        doubles=request.dtype == np.float64,
        keys=keys.ctypes.data,
        n_keys=len(keys),
        draws=draws.ctypes.data,
        n_draws=len(draws),
        width=request.width,
        seed=request.seed,
        purpose=request.purpose,
        step=request.step,
        threads=default_threads() if threads is None else max(1, threads),
    )
    return out


def philox4x32(counter: npt.NDArray[np.uint32], seed: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of uint32 counters (n, 4) under a 64-bit seed; for tests against known answers."""
    extension = _extension()
    counter = np.ascontiguousarray(counter, dtype=np.uint32).reshape(-1, 4)
    out = np.empty_like(counter)
    extension.philox(counters=counter.ctypes.data, n=len(counter), seed=seed, out=out.ctypes.data)
    return out
