"""Gradients of all weights and biases of the denoiser, for each task, in one launch and one more for the layer norms.

dW_t = dY_t^T X_t and db_t = sum of dY_t over the rows of task t. All gradients and inputs of layers lie in two arenas,
so that one table of places describes every product. No atomics: the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Columns of the table of products, all int64. Of dY, then of X: which arena (0 forward, 1 backward), where its
# buffer begins in columns of the arena, its first column there, the buffer's width. Then outputs, inputs, which result
# (0 gradients, 1 products of layer norms), where in it, and where the bias goes in the gradients (-1: nowhere).
FIELDS = tl.constexpr(13)
# Columns of the table of layer norms, all int64: where G starts, addresses of W1, scale and shift, where their
# gradients go, where the gradient of b1 stands, and the width of the norm.
NORM_FIELDS = tl.constexpr(9)


@triton.jit
def _place(forward, backward, fields, rows):
    """A matrix of an arena: the address of its first value, and the stride of its rows."""
    arena = tl.where(tl.load(fields) == 0, forward, backward)
    stride = tl.multiple_of(tl.load(fields + 3), 16)
    at = tl.multiple_of(tl.load(fields + 1), 16) * rows + tl.multiple_of(tl.load(fields + 2), 16)
    return arena + tl.multiple_of(at, 16), stride


@triton.jit(do_not_specialize=["rows", "gradient_stride", "product_stride"])
def weights_kernel(
    gradients,  # [tasks, all parameters] float32
    products,  # [tasks, all products of layer norms] float32
    forward,
    backward,
    offsets,  # [tasks + 1], rows offsets[t] .. offsets[t + 1] belong to task t; None where all belong to one
    table,  # [products, FIELDS] int64
    programs,  # [programs, 3] int32: row of the table, first output, first input
    rows,
    gradient_stride,
    product_stride,
    PRECISION: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    which = programs + 3 * tl.program_id(0)
    fields = table + tl.load(which) * FIELDS
    dY, dY_stride = _place(forward, backward, fields, rows)
    X, X_stride = _place(forward, backward, fields + 4, rows)
    outputs, inputs = tl.load(fields + 8), tl.load(fields + 9)
    # Inside a tile 32 bits are enough.
    dY_narrow, X_narrow = dY_stride.to(tl.int32), X_stride.to(tl.int32)
    task = tl.program_id(1).to(tl.int64)
    start, stop = 0, rows
    if offsets is not None:
        start, stop = tl.load(offsets + task).to(tl.int32), tl.load(offsets + task + 1).to(tl.int32)
    out = tl.where(
        tl.load(fields + 10) == 0, gradients + task * gradient_stride, products + task * product_stride
    ) + tl.load(fields + 11)
    first_input = tl.load(which + 2)
    o = tl.multiple_of(tl.load(which + 1), 16) + tl.arange(0, OUTPUTS)  # [OUTPUTS]
    i = tl.multiple_of(first_input, 16) + tl.arange(0, INPUTS)  # [INPUTS]
    # Up to the padding, which is zero, so that masks end on 16 bytes.
    wide = tl.multiple_of((outputs + 63) // 64 * 64, 16)
    tall = tl.multiple_of((inputs + 63) // 64 * 64, 16)
    total = tl.zeros((OUTPUTS, INPUTS), dtype=tl.float32)
    depth = tl.arange(0, DEPTH)  # [DEPTH]
    for first in range(start, stop, DEPTH):
        inside = depth < stop - first
        g = tl.load(
            dY + first * dY_stride + (depth[None, :] * dY_narrow + o[:, None]),
            mask=(o < wide)[:, None] & inside[None, :],
            other=0.0,
        )  # [OUTPUTS, DEPTH]
        x = tl.load(
            X + first * X_stride + (depth[:, None] * X_narrow + i[None, :]),
            mask=inside[:, None] & (i < tall)[None, :],
            other=0.0,
        )  # [DEPTH, INPUTS]
        total = tl.dot(g, x, total, input_precision=PRECISION)
    tl.store(out + o[:, None] * inputs + i[None, :], total, mask=(o < outputs)[:, None] & (i < inputs)[None, :])
    bias = tl.load(fields + 12)
    if (first_input == 0) & (bias >= 0):
        part = tl.zeros((OUTPUTS,), dtype=tl.float32)
        for first in range(start, stop, DEPTH):
            mask = (depth < stop - first)[:, None] & (o < wide)[None, :]
            g = tl.load(dY + first * dY_stride + (depth[:, None] * dY_narrow + o[None, :]), mask=mask, other=0.0)
            part += tl.sum(g.to(tl.float32), axis=0)
        tl.store(gradients + task * gradient_stride + bias + o, part, mask=o < outputs)


@triton.jit(do_not_specialize=["outputs", "gradient_stride", "product_stride"])
def norm_kernel(
    gradients,  # [tasks, all parameters] float32
    products,  # [tasks, all products of layer norms] float32: G = dz1^T n of each block
    table,  # [blocks, NORM_FIELDS] int64
    programs,  # [programs, 2] int32: block, first column
    outputs,
    gradient_stride,
    product_stride,
    DTYPE: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """From G = dz1^T n, n normed without scale and shift: dW1 = G scale + db1 shift^T, dscale = sum over the outputs of
    G W1, dshift = W1^T db1."""
    which = programs + 2 * tl.program_id(0)
    fields = table + tl.load(which) * NORM_FIELDS
    column = tl.load(which + 1) + tl.arange(0, COLUMNS)  # [COLUMNS]
    task = tl.program_id(1).to(tl.int64)
    gradients += task * gradient_stride
    G = products + task * product_stride + tl.load(fields)
    weight = tl.load(fields + 1).to(tl.pointer_type(DTYPE))
    width = tl.load(fields + 8)
    inside = column < width
    scale = tl.load(tl.load(fields + 2).to(tl.pointer_type(DTYPE)) + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(tl.load(fields + 3).to(tl.pointer_type(DTYPE)) + column, mask=inside, other=0.0).to(tl.float32)
    of_weight, of_bias = gradients + tl.load(fields + 4), gradients + tl.load(fields + 7)
    of_scale = tl.zeros((COLUMNS,), dtype=tl.float32)
    of_shift = tl.zeros((COLUMNS,), dtype=tl.float32)
    for top in range(0, outputs, HEIGHT):
        r = top + tl.arange(0, HEIGHT)  # [HEIGHT]
        mask = (r < outputs)[:, None] & inside[None, :]
        where = r[:, None] * width + column[None, :]
        g = tl.load(G + where, mask=mask, other=0.0)
        w = tl.load(weight + where, mask=mask, other=0.0).to(tl.float32)
        db = tl.load(of_bias + r, mask=r < outputs, other=0.0)[:, None]
        tl.store(of_weight + where, g * scale[None, :] + db * shift[None, :], mask=mask)
        of_scale += tl.sum(g * w, axis=0)
        of_shift += tl.sum(w * db, axis=0)
    tl.store(gradients + tl.load(fields + 5) + column, of_scale, mask=inside)
    tl.store(gradients + tl.load(fields + 6) + column, of_shift, mask=inside)
