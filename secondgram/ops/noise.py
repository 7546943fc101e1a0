"""Keyed noise on the fastest backend there is; `secondgram.diffusion.noise` defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..diffusion import noise as reference
from ..diffusion.noise import NoiseRequest, Purpose, person_keys, uniforms
from . import native
from .registry import AUTO, Candidate, resolve

__all__ = ["CANDIDATES", "Purpose", "normals", "person_keys", "uniforms"]

CANDIDATES = (Candidate("native", native.reason_unavailable), Candidate("reference"))


def normals(
    keys: npt.NDArray[np.uint64],
    width: int,
    *,
    seed: int,
    purpose: int,
    draws: int | Sequence[int] | npt.NDArray[np.integer[Any]],
    step: int = 0,
    dtype: npt.DTypeLike = np.float32,
    backend: str | None = AUTO,
    threads: int | None = None,
) -> npt.NDArray[Any]:
    """Standard normals, one for each draw, person and feature: (M, N, width).

    As `secondgram.diffusion.noise.normals`, plus

    backend : "native" (C++), "reference" (numpy) or "auto". The two differ by at most the last bit of a float32.
    threads : of the native backend; None takes the processors available. It never changes a value.

    Raises `InputError` for an argument that cannot be used and `BackendUnavailableError` for a backend, asked for by
    name, that cannot run here.
    """
    request = NoiseRequest.of(keys, width, seed=seed, purpose=purpose, draws=draws, step=step, dtype=dtype)
    if resolve("noise", CANDIDATES, backend) == "native":
        return native.normals(request, threads)
    return reference.normals(keys, width, seed=seed, purpose=purpose, draws=request.draws, step=step, dtype=dtype)
