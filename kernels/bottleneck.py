"""The narrow middle of the denoiser, in one launch each way: the end of `down3` and both bottlenecks.

Forward: mid = [i | e] [Wi | We]^T + bias, z = Wo mid + bo, h = SiLU(z), and twice h += SiLU(V2 SiLU(V1 h)). Folded, z
is one product. Reference implementation: `block` and `bottleneck` in `secondgram/diffusion/reference.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm import dropped, operand, product, silu, silu_slope, table_product, write_moments

# The widest middle that one program holds: a weight of it takes 64 KiB in float32.
WIDEST = 128


@triton.jit
def _dense(
    a,  # [ROWS, WIDTH]
    weight,  # [WIDTH, WIDTH]
    bias,  # [WIDTH] float32
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """a weight^T + bias."""
    i = tl.arange(0, WIDTH)
    w = tl.load(weight + i[None, :] * WIDTH + i[:, None])
    a = operand(a, weight.dtype.element_ty, PRECISION == "tf32")
    return tl.dot(a, w, input_precision=PRECISION) + tl.load(bias + i)[None, :]


@triton.jit
def _written_product(
    source,  # [rows, WIDTH], rows that this program has written
    made,  # [ROWS, WIDTH] the same as they were written
    weight,  # [WIDTH, WIDTH]
    row,
    rows,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """made weight."""
    i = tl.arange(0, WIDTH)
    if PRECISION == "tf32x3":
        # Three parts of a whole weight do not fit in a program's registers beside the gradients: a few depths at a
        # time, of rows read back, since registers cannot be cut.
        tl.debug_barrier()
        depth = tl.arange(0, DEPTH)  # [DEPTH]
        total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
        there = (row < rows)[:, None]
        for at in range(0, WIDTH, DEPTH):
            a = tl.load(source + row.to(tl.int64)[:, None] * WIDTH + (at + depth)[None, :], mask=there, other=0.0)
            w = tl.load(weight + (at + depth)[:, None] * WIDTH + i[None, :])
            total = tl.dot(a, w, total, input_precision=PRECISION)
    else:
        total = tl.dot(made, tl.load(weight + i[:, None] * WIDTH + i[None, :]), input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["rows", "number", "out_width"], do_not_specialize_on_alignment=["moments_out"])
def narrow_kernel(
    out,  # [rows, WIDTH]
    moments_out,  # [2, rows] of the first out_width columns
    mid,  # [rows, WIDTH], or None
    z,  # [rows, WIDTH], or None
    kept,  # [4, rows, WIDTH] what the bottlenecks' activations get, or None
    first,  # [rows, split]
    second,  # [rows, stop - split], or None
    weight,  # [WIDTH, stop + table]
    bias,  # [WIDTH] float32
    last,  # [WIDTH, WIDTH], or None where folded
    last_bias,  # [WIDTH] float32
    weights,  # [4, WIDTH, WIDTH] V1 and V2 of both
    biases,  # [4, WIDTH] float32
    time,  # [table] of one step, or None
    people,  # [number, table]
    drop,  # [rows, out_width] uniform numbers of the dropout before the bottlenecks, or None
    share,
    rows,
    split,
    stop,
    table,
    number,
    out_width,
    first_stride,
    second_stride,
    weight_stride,
    people_stride,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tl.arange(0, WIDTH)  # [WIDTH]
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    total = product(
        total,
        first,
        second,
        weight,
        rows,
        WIDTH,
        row,
        column,
        0,
        split,
        stop,
        first_stride,
        second_stride,
        weight_stride,
        second is not None,
        False,
        PRECISION,
        DEPTH,
    )
    if time is not None:
        total = table_product(
            total,
            time,
            people,
            weight + stop,
            rows,
            WIDTH,
            number,
            row,
            column,
            table,
            people_stride,
            weight_stride,
            PRECISION,
            DEPTH,
        )
    total += tl.load(bias + column)[None, :]
    where = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
    slab = rows.to(tl.int64) * WIDTH
    if last is not None:
        if mid is not None:
            tl.store(mid + where, operand(total, mid.dtype.element_ty, PRECISION == "tf32"), mask=mask)
        total = _dense(total, last, last_bias, PRECISION, WIDTH)
        if z is not None:
            tl.store(z + where, total.to(z.dtype.element_ty), mask=mask)
    h = silu(total)
    if drop is not None:
        h = dropped(h, drop, share, row, column, rows, out_width)
    a = h
    # One loop over the four layers, so that each weight is fetched while the one before it is in use.
    for layer in range(0, 4):
        inside = _dense(a, weights + layer * WIDTH * WIDTH, biases + layer * WIDTH, PRECISION, WIDTH)
        if kept is not None:
            tl.store(kept + layer * slab + where, inside.to(kept.dtype.element_ty), mask=mask)
        a = silu(inside)
        if layer % 2 == 1:
            h += a
            a = h
    h = operand(h, out.dtype.element_ty, PRECISION == "tf32")
    tl.store(out + where, h, mask=mask)
    write_moments(moments_out, h.to(tl.float32), row, column, rows, out_width, 0, WIDTH)


@triton.jit(do_not_specialize=["rows", "width"])
def narrow_backward_kernel(
    gradient,  # [rows, WIDTH] of what the forward kernel gave
    z,  # [rows, WIDTH]
    kept,  # [4, rows, WIDTH]
    last,  # [WIDTH, WIDTH]
    weights,  # [4, WIDTH, WIDTH]
    inputs,  # [4, rows, WIDTH] what each of the four layers got
    gradients,  # [4, rows, WIDTH] gradient of what each of them gave
    z_gradient,  # [rows, WIDTH]
    mid_gradient,  # [rows, WIDTH]
    drop,  # [rows, width], or None
    share,
    rows,
    width,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Gradients back to mid, and all that the weights' gradients need; activations are made anew from z and `kept`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tl.arange(0, WIDTH)  # [WIDTH]
    where = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
    slab = rows.to(tl.int64) * WIDTH
    dtype: tl.constexpr = gradients.dtype.element_ty
    ROUND: tl.constexpr = PRECISION == "tf32"
    h = silu(tl.load(z + where, mask=mask, other=0.0).to(tl.float32))
    if drop is not None:
        h = dropped(h, drop, share, row, column, rows, width)
    tl.store(inputs + where, operand(h, dtype, ROUND), mask=mask)
    outer = tl.load(kept + slab + where, mask=mask, other=0.0).to(tl.float32)
    tl.store(inputs + 2 * slab + where, operand(h + silu(outer), dtype, ROUND), mask=mask)
    d = tl.load(gradient + where, mask=mask, other=0.0).to(tl.float32)
    back = d
    for turn in range(0, 4):
        layer = 3 - turn
        before = tl.load(kept + layer * slab + where, mask=mask, other=0.0).to(tl.float32)
        of_layer = operand(back * silu_slope(before), dtype, ROUND)
        tl.store(gradients + layer * slab + where, of_layer, mask=mask)
        weight = weights + layer * WIDTH * WIDTH
        back = _written_product(gradients + layer * slab, of_layer, weight, row, rows, PRECISION, ROWS, WIDTH, DEPTH)
        if layer % 2 == 0:
            tl.store(inputs + (layer + 1) * slab + where, operand(silu(before), dtype, ROUND), mask=mask)
            d += back
            back = d
    if drop is not None:
        d = dropped(d, drop, share, row, column, rows, width)
    of_z = operand(d * silu_slope(tl.load(z + where, mask=mask, other=0.0).to(tl.float32)), dtype, ROUND)
    tl.store(z_gradient + where, of_z, mask=mask)
    of_mid = _written_product(z_gradient, of_z, last, row, rows, PRECISION, ROWS, WIDTH, DEPTH)
    tl.store(mid_gradient + where, operand(of_mid, dtype, ROUND), mask=mask)
