"""Keyed normals on a GPU.

(z0, z1) = sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1), u = (x + 1/2) 2^-32, x from Philox4x32-10. Reference
implementation, with the layout of the counter: `secondgram/diffusion/noise.py`. Here Box-Muller is computed in float32,
from the same words, and agrees with it to `TOLERANCE`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Absolute, on |z| < 6.8: float32 rounding of logarithm, root, sine and product, each below 3e-7 relative.
TOLERANCE = 4e-6

# Counters a program works on: 4 normals each.
TILE = 256


@triton.jit
def _minus_log(x):
    """-ln((x + 1/2) 2^-32) for uint32 words, accurate also where it is close to 0."""
    upper = x >= 0x80000000
    # Distance to the nearer end of (0, 1): float32 cannot hold 1 - 2^-33, but it can hold 2^-33.
    # With xor: the interpreter inverts as if words were signed, and numpy 2 refuses that.
    near = (tl.where(upper, x ^ 0xFFFFFFFF, x).to(tl.float32) + 0.5) * (1.0 / 4294967296.0)
    # -ln(1 - v) = 2 artanh(v / (2 - v)); the first term left out is below 2e-8 of it.
    s = near / (2.0 - near)
    w = s * s
    p = w * (1.0 / 13.0) + 1.0 / 11.0
    p = p * w + 1.0 / 9.0
    p = p * w + 1.0 / 7.0
    p = p * w + 1.0 / 5.0
    p = p * w + 1.0 / 3.0
    return tl.where(upper, 2.0 * s * (1.0 + w * p), -tl.log(near))


@triton.jit
def cos_sin_near_zero(a):
    """cos and sin of |a| up to pi / 4, as series."""
    w = a * a
    s = w * (1.0 / 362880.0) - 1.0 / 5040.0
    s = s * w + 1.0 / 120.0
    s = s * w - 1.0 / 6.0
    s = a + a * (w * s)
    c = w * (-1.0 / 3628800.0) + 1.0 / 40320.0
    c = c * w - 1.0 / 720.0
    c = c * w + 1.0 / 24.0
    c = 1.0 - 0.5 * w + w * w * c
    return c, s


@triton.jit
def _cos_sin_turn(x):
    """cos and sin of 2 pi (x + 1/2) 2^-32: the nearest quarter turn is split off in integers, the rest is a series."""
    centred = x + 0x20000000
    quarter = centred >> 30
    rest = (centred & 0x3FFFFFFF).to(tl.int32) - 0x20000000
    a = (rest.to(tl.float32) + 0.5) * (6.283185307179586 / 4294967296.0)
    c, s = cos_sin_near_zero(a)
    odd = (quarter & 1) != 0
    along = tl.where(odd, s, c)
    across = tl.where(odd, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -along, along), tl.where((quarter & 2) != 0, -across, across)


@triton.jit
def normals_of_words(x0, x1, x2, x3):
    """Four normals from the four words of a counter."""
    first = tl.sqrt(2.0 * _minus_log(x0))
    second = tl.sqrt(2.0 * _minus_log(x2))
    cos0, sin0 = _cos_sin_turn(x1)
    cos1, sin1 = _cos_sin_turn(x3)
    return first * cos0, first * sin0, second * cos1, second * sin1


@triton.jit
def words_of(seed, purpose, block, draw, step, person):
    """Random words of counters: block and draw uint32, person uint64, all of one shape."""
    c0 = (purpose.to(tl.uint32) << 24) | block
    c1 = draw * 4096 + step.to(tl.uint32)
    c2 = (person & 0xFFFFFFFF).to(tl.uint32)
    c3 = (person >> 32).to(tl.uint32)
    return tl.philox(seed, c0, c1, c2, c3)


@triton.jit(do_not_specialize=["seed", "purpose", "step", "rows", "people", "width"])
def normals_kernel(
    out_ptr,  # [rows, width] float32, rows = draws x people
    keys_ptr,  # [people] int64, the bits of the uint64 keys
    draws_ptr,  # [draws] int32
    seed,
    purpose,
    step,
    rows,
    people,
    width,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)  # [BLOCKS]
    inside = row < rows
    person = tl.load(keys_ptr + row % people, mask=inside, other=0).to(tl.uint64, bitcast=True)
    draw = tl.load(draws_ptr + row // people, mask=inside, other=0).to(tl.uint32)
    zero = tl.zeros((ROWS, BLOCKS), dtype=tl.uint32)
    x0, x1, x2, x3 = words_of(
        seed,
        purpose,
        zero + block[None, :].to(tl.uint32),
        zero + draw[:, None],
        step,
        zero.to(tl.uint64) + person[:, None],
    )
    z0, z1, z2, z3 = normals_of_words(x0, x1, x2, x3)
    # [ROWS, 4 * BLOCKS] in the order of the features
    z = tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))
    feature = tl.program_id(1) * (4 * BLOCKS) + tl.arange(0, 4 * BLOCKS)
    where = row[:, None].to(tl.int64) * width + feature[None, :]
    tl.store(out_ptr + where, z, mask=inside[:, None] & (feature < width)[None, :])


def tile_of(width: int) -> tuple[int, int]:
    """Rows and counters a row of one program's tile, powers of two with product `TILE`."""
    blocks = min(TILE, triton.next_power_of_2(max(1, triton.cdiv(width, 4))))
    return TILE // blocks, blocks


def normals(
    keys: torch.Tensor,
    width: int,
    *,
    seed: int,
    purpose: int,
    draws: torch.Tensor,
    step: int = 0,
) -> torch.Tensor:
    """Standard normals, one for each draw, person and feature.

    Parameters
    ----------
    keys : int64 (N,), contiguous: the bits of the uint64 keys of `person_keys`.
    width : number of features, at most 2^26.
    seed, purpose, step : as in `secondgram.diffusion.noise.normals`.
    draws : int32 (M,), contiguous, on the device of `keys`, each below 2^20.

    Returns
    -------
    float32 (M, N, width), on the device of `keys`.

    Raises
    ------
    ValueError : a dtype or layout other than these, or M * N of 2^31 or more.
    """
    for name, tensor, dtype in (("keys", keys, torch.int64), ("draws", draws, torch.int32)):
        if tensor.dtype != dtype or tensor.ndim != 1 or not tensor.is_contiguous():
            raise ValueError(f"{name} must be a contiguous {dtype} vector, not {tensor.dtype} {tuple(tensor.shape)}.")
    people, rows = len(keys), len(keys) * len(draws)
    if rows >= 1 << 31:
        raise ValueError(f"{len(draws)} draws of {people} people are too many for one launch: pass fewer draws.")
    out = torch.empty((len(draws), people, width), dtype=torch.float32, device=keys.device)
    if out.numel() == 0:
        return out
    tall, wide = tile_of(width)
    grid = (triton.cdiv(rows, tall), triton.cdiv(width, 4 * wide))
    normals_kernel[grid](out, keys, draws, seed, purpose, step, rows, people, width, ROWS=tall, BLOCKS=wide)
    return out
