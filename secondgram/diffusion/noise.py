"""Keyed noise in numpy: the definition, and the reference implementation of every backend (docs/design.md#noise).

A value depends on the seed, the person and visit, the draw, the step, the purpose and the feature, and on nothing else,
so the same noise comes back however the work is cut. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011) turns a counter of four 32-bit words into four random words x0..x3:

    key      seed, low and high 32 bits
    counter  purpose << 24 | block,   draw * 4096 + step,   person key, low and high 32 bits
    block    feature // 4

and those words into uniforms and normals of the features 4 block .. 4 block + 3, in float64 (Box and Muller, 1958):

    u_i = (x_i + 1/2) 2^-32
    (z0, z1) = sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1),   (z2, z3) the same from u2, u3

`secondgram.ops.noise` gives the same values faster.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

__all__ = ["NoiseRequest", "Purpose", "normals", "person_keys", "philox4x32", "uniforms"]

STEP_LIMIT = 1 << 12
DRAW_LIMIT = 1 << 20
WIDTH_LIMIT = 4 << 24

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint32)


class Purpose(IntEnum):
    """The use of a random number. Two purposes never share a number; the values are part of the definition and stay."""

    START = 0
    STEP = 1
    COMPONENTS = 2
    TRAINING = 3
    BASELINE = 4
    BOOTSTRAP = 5


def _whole(value: Any, name: str, limit: int) -> int:
    """`value` as an int in [0, limit), or an `InputError` that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}, not a whole number", mend=f"Pass an int below {limit}") from None
    if not 0 <= number < limit:
        raise InputError(f"{name} is {number}", mend=f"It must be at least 0 and below {limit}")
    return number


def _draw_indices(draws: int | Iterable[int]) -> npt.NDArray[np.uint32]:
    if isinstance(draws, Iterable):
        indices = [_whole(draw, "a draw", DRAW_LIMIT) for draw in draws]
    else:
        indices = list(range(_whole(draws, "the number of draws", DRAW_LIMIT + 1)))
    return np.array(indices, dtype=np.uint32)


@dataclass(frozen=True)
class NoiseRequest:
    """Checked arguments of a call for noise; every backend starts from one.

    keys : uint64 (N,), contiguous;  draws : uint32 (M,), contiguous;  the result has shape (M, N, width).
    """

    keys: npt.NDArray[np.uint64]
    width: int
    seed: int
    purpose: int
    draws: npt.NDArray[np.uint32]
    step: int
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls,
        keys: npt.NDArray[np.uint64],
        width: int,
        *,
        seed: int,
        purpose: int,
        draws: int | Iterable[int],
        step: int = 0,
        dtype: npt.DTypeLike = np.float32,
    ) -> NoiseRequest:
        """Check the arguments of `normals`. Raises `InputError` (a `ValueError`) for one that cannot be used."""
        keys = np.asarray(keys)
        if keys.dtype != np.uint64 or keys.ndim != 1:
            raise InputError(
                f"keys are {keys.dtype} of shape {keys.shape}, not uint64 of shape (N,)",
                mend="Make them with person_keys(ids, visit)",
            )
        kind = np.dtype(dtype)
        if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise InputError(f"noise of dtype {kind} is not offered", mend="Ask for float32 or float64 and convert")
        return cls(
            keys=np.ascontiguousarray(keys),
            width=_whole(width, "the width", WIDTH_LIMIT + 1),
            seed=_whole(seed, "the seed", 1 << 64),
            purpose=_whole(purpose, "the purpose", 1 << 8),
            draws=_draw_indices(draws),
            step=_whole(step, "the step", STEP_LIMIT),
            dtype=kind,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, width)."""
        return len(self.draws), len(self.keys), self.width


def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Philox4x32-10: random words for each counter.

    Parameters
    ----------
    counter : uint32 (..., 4).
    key : uint32 (2,).

    Returns
    -------
    uint32 (..., 4).

    Raises
    ------
    InputError : a shape or dtype other than these.
    """
    counter, key = np.asarray(counter), np.asarray(key)
    if counter.dtype != np.uint32 or counter.shape[-1:] != (4,):
        raise InputError(
            f"counters are {counter.dtype} of shape {counter.shape}", mend="They must be uint32 of shape (..., 4)"
        )
    if key.dtype != np.uint32 or key.shape != (2,):
        raise InputError(f"the key is {key.dtype} of shape {key.shape}", mend="It must be uint32 of shape (2,)")
    words = [counter[..., i] for i in range(4)]
    round_key = key.copy()
    for _ in range(10):
        # [...] as uint64: the product's high and low halves
        first = words[0].astype(np.uint64) * _MULTIPLIERS[0]
        second = words[2].astype(np.uint64) * _MULTIPLIERS[1]
        words = [
            (second >> np.uint64(32)).astype(np.uint32) ^ words[1] ^ round_key[0],
            second.astype(np.uint32),
            (first >> np.uint64(32)).astype(np.uint32) ^ words[3] ^ round_key[1],
            first.astype(np.uint32),
        ]
        round_key = round_key + _WEYL
    return np.stack(words, axis=-1)


def _text(value: object, name: str) -> bytes:
    # A float is refused because 1001 and 1001.0 would be two people.
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (str, int, np.integer)):
        raise InputError(f"{name} {value!r} is neither text nor a whole number", mend="Convert it to text")
    text = str(value)
    if "\0" in text:
        raise InputError(f"{name} {text!r} contains a NUL character", mend="Remove it")
    return text.encode()


def person_keys(ids: Iterable[object], visit: object) -> npt.NDArray[np.uint64]:
    """Key of each person and visit: BLAKE2b-64 of the id's text, a NUL and the visit's label, read little-endian.

    Parameters
    ----------
    ids : N subject ids, text or whole numbers (1001 and "1001" are the same person).
    visit : one label for all, or N labels.

    Returns
    -------
    uint64 (N,).

    Raises
    ------
    InputError : an id or label that is neither text nor a whole number, or a number of labels other than N.
    """
    if isinstance(ids, (str, bytes)):
        raise InputError(f"ids is the single text {ids!r}", mend="Pass a list of ids")
    people = [_text(one, "the id") for one in ids]
    if isinstance(visit, Iterable) and not isinstance(visit, (str, bytes)):
        labels = [_text(one, "the visit") for one in visit]
        if len(labels) != len(people):
            raise InputError(
                f"there are {len(labels)} visits for {len(people)} ids", mend="Pass one label, or one for each id"
            )
    else:
        labels = [_text(visit, "the visit")] * len(people)
    digests = (
        hashlib.blake2b(person + b"\0" + label, digest_size=8).digest()
        for person, label in zip(people, labels, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _open_units(request: NoiseRequest) -> npt.NDArray[np.float64]:
    """u of every feature, float64 (M, N, 4 * blocks): whole blocks of four, to be cut to the width."""
    draws, people, width = request.shape
    blocks = (width + 3) // 4
    counter = np.empty((draws, people, blocks, 4), dtype=np.uint32)
    counter[..., 0] = np.uint32(request.purpose << 24) | np.arange(blocks, dtype=np.uint32)
    counter[..., 1] = (request.draws * np.uint32(STEP_LIMIT) + np.uint32(request.step))[:, None, None]
    counter[..., 2] = request.keys.astype(np.uint32)[:, None]
    counter[..., 3] = (request.keys >> np.uint64(32)).astype(np.uint32)[:, None]
    key = np.array([request.seed & 0xFFFFFFFF, request.seed >> 32], dtype=np.uint32)
    words = philox4x32(counter, key).reshape(draws, people, 4 * blocks)
    unit = words.astype(np.float64)
    unit += 0.5
    unit *= 2.0**-32
    return unit


def normals(
    keys: npt.NDArray[np.uint64],
    width: int,
    *,
    seed: int,
    purpose: int,
    draws: int | Sequence[int] | npt.NDArray[np.integer[Any]],
    step: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Standard normals, one for each draw, person and feature.

    Parameters
    ----------
    keys : uint64 (N,), from `person_keys`.
    width : number of features, at most 2^26.
    seed : 0 <= seed < 2^64.
    purpose : a `Purpose`.
    draws : the M draw indices, each below 2^20, or their number: 3 is the same as [0, 1, 2].
    step : noise step, at most 4095.
    dtype : float32 or float64 (the values are computed in float64 and rounded once).

    Returns
    -------
    (M, N, width).

    Raises
    ------
    InputError : an argument out of range or of the wrong kind.
    """
    request = NoiseRequest.of(keys, width, seed=seed, purpose=purpose, draws=draws, step=step, dtype=dtype)
    unit = _open_units(request)
    radius = np.sqrt(-2.0 * np.log(unit[..., 0::2]))
    angle = 2.0 * np.pi * unit[..., 1::2]
    values = np.empty(unit.shape, dtype=request.dtype)
    values[..., 0::2] = radius * np.cos(angle)
    values[..., 1::2] = radius * np.sin(angle)
    return np.ascontiguousarray(values[..., : request.width])


def uniforms(
    keys: npt.NDArray[np.uint64],
    width: int,
    *,
    seed: int,
    purpose: int,
    draws: int | Sequence[int] | npt.NDArray[np.integer[Any]],
    step: int = 0,
    dtype: npt.DTypeLike = np.float64,
) -> npt.NDArray[Any]:
    """The uniforms u that `normals` of the same arguments is made of, (M, N, width).

    float64 values lie strictly between 0 and 1; rounded to float32, one in 3e7 becomes 1. Arguments and errors as in
    `normals`. Use either of the two under one purpose, seed, draw and step, not both: they are not independent.
    """
    request = NoiseRequest.of(keys, width, seed=seed, purpose=purpose, draws=draws, step=step, dtype=dtype)
    return np.ascontiguousarray(_open_units(request)[..., : request.width].astype(request.dtype))
