"""Packing: a user's rows and weights become padded rows and packed weights.

A layer norm's scale, shift and centring are folded into the product behind it, as in `secondgram/diffusion/folding.py`:
inner = W1 scale, less its mean over the inputs, and bias = W1 shift + b1. The rows then need 1 / std only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm import LAYER_NORM_EPSILON, operand
from .noise import cos_sin_near_zero

# Conditions that a program takes at a time.
CHUNK = tl.constexpr(128)
# Columns of the packing table, all int64: addresses of weight, bias, second bias, layer norm's scale and shift (0 for
# none), the weight's shape, the padded shape, position and stride of its copy, position of the bias (-1 for none).
FIELDS = tl.constexpr(12)


@triton.jit
def _pack(
    packed, vectors, table, entry, top, DTYPE: tl.constexpr, ROUND: tl.constexpr, HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """One strip of `HEIGHT` rows of one weight, with its part of the bias."""
    fields = table + entry * FIELDS
    weight = tl.load(fields).to(tl.pointer_type(DTYPE))
    bias_at, more_at = tl.load(fields + 1), tl.load(fields + 2)
    scale_at, shift_at = tl.load(fields + 3), tl.load(fields + 4)
    rows, columns = tl.load(fields + 5), tl.load(fields + 6)
    tall, wide = tl.load(fields + 7), tl.load(fields + 8)
    to, stride, vector = tl.load(fields + 9), tl.load(fields + 10), tl.load(fields + 11)
    r = top + tl.arange(0, HEIGHT)  # [HEIGHT]
    k = tl.arange(0, COLUMNS)  # [COLUMNS]
    mean = tl.zeros((HEIGHT,), dtype=tl.float32)
    bias = tl.zeros((HEIGHT,), dtype=tl.float32)
    if bias_at != 0:
        bias += tl.load(bias_at.to(tl.pointer_type(DTYPE)) + r, mask=r < rows, other=0.0).to(tl.float32)
    if more_at != 0:
        bias += tl.load(more_at.to(tl.pointer_type(DTYPE)) + r, mask=r < rows, other=0.0).to(tl.float32)
    scale, shift = scale_at.to(tl.pointer_type(DTYPE)), shift_at.to(tl.pointer_type(DTYPE))
    if scale_at != 0:
        for at in range(0, columns, COLUMNS):
            inside = at + k < columns
            w = tl.load(
                weight + r[:, None] * columns + (at + k)[None, :],
                mask=(r < rows)[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            mean += tl.sum(w * tl.load(scale + at + k, mask=inside, other=0.0).to(tl.float32)[None, :], axis=1)
            bias += tl.sum(w * tl.load(shift + at + k, mask=inside, other=0.0).to(tl.float32)[None, :], axis=1)
        mean = mean / columns.to(tl.float32)
    if vector >= 0:
        tl.store(vectors + vector + r, bias, mask=r < tall)
    for at in range(0, wide, COLUMNS):
        inside = (r < rows)[:, None] & (at + k < columns)[None, :]
        w = tl.load(weight + r[:, None] * columns + (at + k)[None, :], mask=inside, other=0.0).to(tl.float32)
        if scale_at != 0:
            factor = tl.load(scale + at + k, mask=at + k < columns, other=0.0).to(tl.float32)
            w = tl.where(inside, w * factor[None, :] - mean[:, None], 0.0)
        tl.store(
            packed + to + r[:, None] * stride + (at + k)[None, :],
            operand(w, packed.dtype.element_ty, ROUND),
            mask=(r < tall)[:, None] & (at + k < wide)[None, :],
        )


@triton.jit
def sin_or_cos(
    angle,  # float32
    late,  # where the cosine is wanted
):
    """sin(angle), or cos(angle) where `late`, to 2e-7 for angles up to 10^7; no number where the angle is none.

    Whole quarter turns are split off in float64. The library's own functions keep a table on the stack for huge angles.
    """
    quarters = angle.to(tl.float64) * tl.full((), 0.6366197723675814, tl.float64)
    whole = tl.floor(quarters + 0.5)
    c, s = cos_sin_near_zero(((quarters - whole) * tl.full((), 1.5707963267948966, tl.float64)).to(tl.float32))
    whole = tl.where(late, whole + 1.0, whole)
    place = (whole - 4.0 * tl.floor(whole * 0.25)).to(tl.float32)
    value = tl.where((place == 1.0) | (place == 3.0), c, s)
    return tl.where(place >= 2.0, -value, value)


@triton.jit
def _row(
    out_x, out_hat, out_waves, out_c, moments, x, t, c, frequencies, row, rows, features, conditions,
    padded_features, padded_conditions, x_stride, x_step, t_stride, c_stride, c_step, out_x_stride,
    WIDE: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """One row: x, its moments and its normed self, the waves of its time, and its conditions, padded."""
    k = tl.arange(0, WIDE)  # [WIDE]
    tall = row.to(tl.int64)
    inside, there = k < features, k < padded_features
    value = tl.load(x + tall * x_stride + k * x_step, mask=inside, other=0.0).to(tl.float32)
    value = operand(value, out_x.dtype.element_ty, ROUND)
    tl.store(out_x + tall * out_x_stride + k, value, mask=there)
    value = value.to(tl.float32)
    if moments is not None:
        mean = tl.sum(value, axis=0) / features.to(tl.float32)
        away = tl.where(inside, value - mean, 0.0)
        squares = tl.sum(away * away, axis=0)
        tl.store(moments + row, mean)
        tl.store(moments + rows + row, squares)
        if out_hat is not None:
            hat = away / tl.sqrt(squares / features.to(tl.float32) + LAYER_NORM_EPSILON)
            tl.store(out_hat + tall * padded_features + k, operand(hat, out_hat.dtype.element_ty, ROUND), mask=there)
    if out_waves is not None:
        half = (features + 1) // 2
        time = tl.load(t + tall * t_stride).to(tl.float32)
        late = k >= half
        angle = time * tl.load(frequencies + tl.where(late, k - half, k), mask=inside, other=0.0)
        wave = tl.where(inside, sin_or_cos(angle, late), 0.0)
        tl.store(out_waves + tall * padded_features + k, operand(wave, out_waves.dtype.element_ty, ROUND), mask=there)
    if out_c is not None:
        for at in range(0, padded_conditions, CHUNK):
            j = at + tl.arange(0, CHUNK)
            given = tl.load(c + tall * c_stride + j * c_step, mask=j < conditions, other=0.0)
            tl.store(
                out_c + tall * padded_conditions + j,
                operand(given.to(tl.float32), out_c.dtype.element_ty, ROUND),
                mask=j < padded_conditions,
            )


@triton.jit(
    do_not_specialize=["rows", "features", "conditions", "x_stride", "t_stride", "c_stride"],
    do_not_specialize_on_alignment=["x", "t", "c", "moments"],
)
def pack_kernel(
    out_x,  # [rows, padded_features], with a row stride of its own
    out_hat,  # [rows, padded_features] (x - mean) / std, or None
    out_waves,  # [rows, padded_features] sincos(t), or None
    out_c,  # [rows, padded_conditions], or None
    moments,  # [2, rows], or None
    packed,  # [all packed weights], or None
    vectors,  # [all biases] float32
    x,  # [rows, features]
    t,  # [rows]
    c,  # [rows, conditions]
    frequencies,  # [half of features] float32
    table,  # [weights, FIELDS] int64
    programs,  # [programs, 2] int32: row of the table, first row of the weight
    rows,
    features,
    conditions,
    padded_features,
    padded_conditions,
    x_stride,
    x_step,
    t_stride,
    c_stride,
    c_step,
    out_x_stride,
    WIDE: tl.constexpr,
    DTYPE: tl.constexpr,
    ROUND: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The first `rows` programs pad a row each, the others pack a strip of a weight each."""
    program = tl.program_id(0)
    if program < rows:
        _row(
            out_x, out_hat, out_waves, out_c, moments, x, t, c, frequencies, program, rows, features, conditions,
            padded_features, padded_conditions, x_stride, x_step, t_stride, c_stride, c_step, out_x_stride, WIDE, ROUND,
        )  # fmt: skip
    elif packed is not None:
        which = programs + 2 * (program - rows)
        _pack(packed, vectors, table, tl.load(which), tl.load(which + 1), DTYPE, ROUND, HEIGHT, COLUMNS)
