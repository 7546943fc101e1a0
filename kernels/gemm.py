"""Products of the denoiser with everything beside them fused: forward, backward, and the last with a solver's step.

Reference implementations: `secondgram/diffusion/reference.py`, and folded `secondgram/diffusion/folding.py`. Buffers
and packed weights are padded with zeros to multiples of 64, so that every row starts on 16 bytes; sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import normals_of_words, words_of

LAYER_NORM_EPSILON = tl.constexpr(1e-5)


@triton.jit
def silu(z):
    """z sigmoid(z)."""
    return z * tl.sigmoid(z)


@triton.jit
def silu_slope(z):
    """d silu / dz = s (1 + z (1 - s)), s = sigmoid(z)."""
    s = tl.sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


@triton.jit
def operand(
    h,  # float32
    DTYPE: tl.constexpr,
    ROUND: tl.constexpr,
):
    """h as a product will read it: in DTYPE, and where ROUND to the 10 bits of TF32, which the matrix units cut off."""
    h = h.to(DTYPE)
    if ROUND:
        nearest = ((h.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        # The bits of a value that is no number would carry over into zero.
        h = tl.where(h == h, nearest, h)
    return h


@triton.jit
def dropped(
    h,  # [ROWS, COLUMNS] float32
    drop,  # [rows, width] uniform numbers
    share,
    row,
    column,
    rows,
    width,
):
    """h / (1 - share) where the number is at least `share`, else zero."""
    mask = (row < rows)[:, None] & (column < width)[None, :]
    u = tl.load(drop + row.to(tl.int64)[:, None] * width + column[None, :], mask=mask, other=0.0).to(tl.float32)
    return tl.where(u >= share, h / (1.0 - share), 0.0)


@triton.jit
def product(
    total,  # [ROWS, COLUMNS] float32, the sum so far
    first,  # [rows, split]
    second,  # [rows, stop - split]
    weight,  # [columns, stop], or [stop, columns] where BACKWARD
    rows,
    columns,
    row,  # [ROWS]
    column,  # [COLUMNS]
    start,
    split,
    stop,
    first_stride,
    second_stride,
    weight_stride,
    TWO: tl.constexpr,
    BACKWARD: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """total + [first | second] weight^T over the depths start .. stop; without ^T where BACKWARD."""
    depth = tl.arange(0, DEPTH)  # [DEPTH]
    there, used = (row < rows)[:, None], (column < columns)[None, :]
    tall = row.to(tl.int64)
    for at in range(start, stop, DEPTH):
        if TWO:
            left = at < split
            source, stride, place = (
                tl.where(left, first, second),
                tl.where(left, first_stride, second_stride),
                tl.where(left, at, at - split),
            )
        else:
            source, stride, place = first, first_stride, at
        a = tl.load(source + tall[:, None] * stride + (place + depth)[None, :], mask=there, other=0.0)
        if BACKWARD:
            w = tl.load(weight + (at + depth)[:, None] * weight_stride + column[None, :], mask=used, other=0.0)
        else:
            w = tl.load(weight + column[None, :] * weight_stride + (at + depth)[:, None], mask=used, other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@triton.jit
def table_product(
    total,  # [ROWS, COLUMNS] float32
    time,  # [depth] of one step
    people,  # [people, depth]
    weight,  # [columns, depth]
    rows,
    columns,
    number,
    row,
    column,
    stop,
    people_stride,
    weight_stride,
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """total + SiLU(time + people[row % number]) weight^T."""
    depth = tl.arange(0, DEPTH)  # [DEPTH]
    there, used = (row < rows)[:, None], (column < columns)[None, :]
    person = (row % number).to(tl.int64)
    for at in range(0, stop, DEPTH):
        of_time = tl.load(time + at + depth).to(tl.float32)
        of_person = tl.load(people + person[:, None] * people_stride + (at + depth)[None, :], mask=there, other=0.0)
        a = silu(of_time[None, :] + of_person.to(tl.float32))
        a = operand(a, weight.dtype.element_ty, PRECISION == "tf32")
        w = tl.load(weight + column[None, :] * weight_stride + (at + depth)[:, None], mask=used, other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@triton.jit
def row_moments(
    statistics,  # [2 * tiles, rows]: each tile's mean and sum of squared deviations
    row,  # [ROWS]
    rows,
    width,
    tile_width,
):
    """Mean and 1 / std of each row of `width` values from the moments of its tiles (Chan et al. 1979)."""
    there = row < rows
    tiles = tl.cdiv(width, tile_width)
    mean = tl.zeros(row.shape, dtype=tl.float32)
    for i in range(0, tiles):
        count = tl.minimum(tile_width, width - i * tile_width).to(tl.float32)
        mean += tl.load(statistics + (2 * i) * rows + row, mask=there, other=0.0) * count
    mean = mean / width.to(tl.float32)
    squares = tl.zeros(row.shape, dtype=tl.float32)
    for i in range(0, tiles):
        count = tl.minimum(tile_width, width - i * tile_width).to(tl.float32)
        away = tl.load(statistics + (2 * i) * rows + row, mask=there, other=0.0) - mean
        squares += tl.load(statistics + (2 * i + 1) * rows + row, mask=there, other=0.0) + count * away * away
    return mean, 1.0 / tl.sqrt(squares / width.to(tl.float32) + LAYER_NORM_EPSILON)


@triton.jit
def write_moments(
    statistics,  # [2 * tiles, rows]
    h,  # [ROWS, COLUMNS] float32
    row,
    column,
    rows,
    width,
    tile,
    COLUMNS: tl.constexpr,
):
    """Mean and sum of squared deviations of one tile's columns below `width`."""
    used = (column < width)[None, :]
    count = tl.minimum(COLUMNS, width - tile * COLUMNS)
    mean = tl.sum(tl.where(used, h, 0.0), axis=1) / count.to(tl.float32)
    away = tl.where(used, h - mean[:, None], 0.0)
    # No row where the tile is padding alone.
    here = row < tl.where(count > 0, rows, 0)
    tl.store(statistics + (2 * tile) * rows + row, mean, mask=here)
    tl.store(statistics + (2 * tile + 1) * rows + row, tl.sum(away * away, axis=1), mask=here)


@triton.jit(
    do_not_specialize=["rows", "width", "tile_width", "out_width", "number"],
    do_not_specialize_on_alignment=["moments_out", "moments"],
)
def forward_kernel(
    out,  # [rows, limit]
    kept,  # [rows, limit] before the activation, or None
    moments_out,  # [2 * tiles, rows] of the first out_width columns, or None
    first,  # [rows, split]
    second,  # [rows, stop - split], or None
    weight,  # [columns, stop]
    bias,  # [columns] float32
    moments,  # [2 * tiles, rows] of the layer norm's input, or None
    residual,  # [rows, columns], or None
    time,  # [table] of one step, or None
    people,  # [number, table], or None
    drop,  # [rows, out_width] uniform numbers of the dropout, or None
    share,
    rows,
    columns,
    limit,
    half,
    split,
    stop,
    table,
    number,
    width,
    tile_width,
    out_width,
    first_stride,
    second_stride,
    weight_stride,
    residual_stride,
    people_stride,
    out_stride,
    out_step,
    HALVES: tl.constexpr,
    ACTIVATE: tl.constexpr,
    ROUND: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = act(scale [first | second | SiLU(time + people)] weight^T + bias + residual).

    scale is 1 / std of each row where `moments` are given. HALVES: columns below `half` take `first` alone, the others
    `second` alone, and a row of `weight` holds the weights of both.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    tile = tl.program_id(0) % tiles
    row = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tile * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    there, used = (row < rows)[:, None], (column < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if HALVES:
        left = tile * COLUMNS < half
        begin, end = tl.where(left, 0, split), tl.where(left, split, stop)
        of_weight, weights = column - tl.where(left, 0, half), half
    else:
        begin, end, of_weight, weights = 0, stop, column, columns
    total = product(
        total,
        first,
        second,
        weight,
        rows,
        weights,
        row,
        of_weight,
        begin,
        split,
        end,
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
            columns,
            number,
            row,
            column,
            table,
            people_stride,
            weight_stride,
            PRECISION,
            DEPTH,
        )
    if moments is not None:
        _, scale = row_moments(moments, row, rows, width, tile_width)
        total = total * scale[:, None]
    total += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    tall = row.to(tl.int64)[:, None]
    if residual is not None:
        total += tl.load(residual + tall * residual_stride + column[None, :], mask=there & used, other=0.0).to(
            tl.float32
        )
    mask = there & (column < limit)[None, :]
    where = tall * out_stride + column[None, :] * out_step
    if kept is not None:
        tl.store(kept + where, total.to(kept.dtype.element_ty), mask=mask)
    if ACTIVATE:
        total = silu(total)
    if drop is not None:
        total = dropped(total, drop, share, row, column, rows, out_width)
    h = operand(total, out.dtype.element_ty, ROUND)
    tl.store(out + where, h, mask=mask)
    if moments_out is not None:
        write_moments(moments_out, h.to(tl.float32), row, column, rows, out_width, tile, COLUMNS)


@triton.jit(
    do_not_specialize=["rows", "width", "tile_width", "dot_tiles"],
    do_not_specialize_on_alignment=["moments", "dots", "dots_out"],
)
def backward_kernel(
    out,  # [rows, limit], or of the columns below `half`
    other,  # [rows, columns - half], or None
    first,  # [rows, stop] gradient of the layer's output
    weight,  # [stop, columns]
    z,  # before the activation of what `out` is the gradient of, or None
    other_z,
    bias,  # [half] float32, of the layer norm's product
    dots_out,  # [tiles of half, rows], or None
    h,  # [rows, columns] the layer norm's input, or None
    moments,
    dots,  # [dot_tiles, rows]
    hat,  # [rows, columns] (h - mean) / std, or None
    extra,  # [rows, columns] another gradient of the same, or None
    drop,  # [rows, width] uniform numbers of the dropout behind z's activation, or None
    share,
    rows,
    columns,
    limit,
    half,
    stop,
    width,
    tile_width,
    dot_tiles,
    first_stride,
    weight_stride,
    z_stride,
    other_z_stride,
    h_stride,
    hat_stride,
    extra_stride,
    out_stride,
    out_step,
    other_stride,
    ROUND: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = (layer norm's gradient of (first weight) + extra) silu'(z), and zero where the dropout was.

    With n = (h - mean) / std and a centred weight, the layer norm's gradient of d is (d - n mean(d n)) / std, and
    mean(d n) = sum(dz1 (z1 - bias)) / width, which the product before this one has summed into `dots`.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    tile = tl.program_id(0) % tiles
    row = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tile * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    there, used = (row < rows)[:, None], (column < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    total = product(
        total,
        first,
        None,
        weight,
        rows,
        columns,
        row,
        column,
        0,
        stop,
        stop,
        first_stride,
        0,
        weight_stride,
        False,
        True,
        PRECISION,
        DEPTH,
    )
    tall = row.to(tl.int64)[:, None]
    if moments is not None:
        mean, scale = row_moments(moments, row, rows, width, tile_width)
        dot = tl.zeros((ROWS,), dtype=tl.float32)
        for i in range(0, dot_tiles):
            dot += tl.load(dots + i * rows + row, mask=row < rows, other=0.0)
        n = tl.load(h + tall * h_stride + column[None, :], mask=there & used, other=0.0).to(tl.float32)
        n = tl.where((column < width)[None, :], (n - mean[:, None]) * scale[:, None], 0.0)
        if hat is not None:
            value = operand(n, hat.dtype.element_ty, PRECISION == "tf32")
            tl.store(hat + tall * hat_stride + column[None, :], value, mask=there & used)
        total = (total - n * (dot / width.to(tl.float32))[:, None]) * scale[:, None]
    if extra is not None:
        total += tl.load(extra + tall * extra_stride + column[None, :], mask=there & used, other=0.0).to(tl.float32)
    if drop is not None:
        total = dropped(total, drop, share, row, column, rows, width)
    target, stride, source, source_stride, place = out, out_stride, z, z_stride, column
    left = tile * COLUMNS < half
    if other is not None:
        target, stride = tl.where(left, out, other), tl.where(left, out_stride, other_stride)
        source, source_stride = tl.where(left, z, other_z), tl.where(left, z_stride, other_z_stride)
        place = column - tl.where(left, 0, half)
    if z is not None:
        before = tl.load(source + tall * source_stride + place[None, :], mask=there & used, other=0.0).to(tl.float32)
        total = total * silu_slope(before)
    d = operand(total, out.dtype.element_ty, ROUND)
    tl.store(target + tall * stride + place[None, :] * out_step, d, mask=there & (column < limit)[None, :])
    if dots_out is not None:
        if left:
            product_part = before - tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
            tl.store(
                dots_out + tile * rows + row,
                tl.sum(tl.where(there, d.to(tl.float32) * product_part, 0.0), axis=1),
                mask=row < rows,
            )


@triton.jit(
    do_not_specialize=["rows", "width", "number", "seed", "step", "purpose"],
    do_not_specialize_on_alignment=["moments_out", "coefficients", "keys", "draws"],
)
def step_kernel(
    x,  # [rows, columns] the state as the next step's products read it, overwritten
    state,  # [rows, columns] float32, the state, overwritten
    before,  # [rows, columns] float32, the last data estimate, overwritten
    moments_out,  # [2 * tiles, rows]
    first,  # [rows, stop]
    weight,  # [columns, stop]
    bias,  # [columns] float32
    coefficients,  # [6] float32: a row of the solver's table without its time
    keys,  # [number] int64, or None
    draws,  # [rows / number] int32
    seed,
    purpose,
    step,
    rows,
    columns,
    width,
    stop,
    number,
    x_stride,
    state_stride,
    first_stride,
    weight_stride,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The output layer and one solver step: x0 = a x + b output, x = keep x + now x0 + last before + fresh z.

    z is keyed by person (row % number), draw, step and feature; without `keys` it is zero.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    tile = tl.program_id(0) % tiles
    row = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tile * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    there, used = (row < rows)[:, None], (column < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    total = product(
        total,
        first,
        None,
        weight,
        rows,
        columns,
        row,
        column,
        0,
        stop,
        stop,
        first_stride,
        0,
        weight_stride,
        False,
        False,
        PRECISION,
        DEPTH,
    )
    total += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    tall, mask = row.to(tl.int64)[:, None], there & used
    place = tall * state_stride + column[None, :]
    now = tl.load(state + place, mask=mask, other=0.0)
    x0 = tl.load(coefficients) * now + tl.load(coefficients + 1) * total
    following = tl.load(coefficients + 2) * now + tl.load(coefficients + 3) * x0
    following += tl.load(coefficients + 4) * tl.load(before + place, mask=mask, other=0.0)
    if keys is not None:
        person = tl.load(keys + row % number, mask=row < rows, other=0).to(tl.uint64, bitcast=True)
        draw = tl.load(draws + row // number, mask=row < rows, other=0).to(tl.uint32)
        zero = tl.zeros((ROWS, COLUMNS // 4), dtype=tl.uint32)
        block = (tile * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)).to(tl.uint32)
        w0, w1, w2, w3 = words_of(
            seed,
            purpose,
            zero + block[None, :],
            zero + draw[:, None],
            step,
            zero.to(tl.uint64) + person[:, None],
        )
        z0, z1, z2, z3 = normals_of_words(w0, w1, w2, w3)
        z = tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))
        following += tl.load(coefficients + 5) * tl.where((column < width)[None, :], z, 0.0)
    tl.store(before + place, x0, mask=mask)
    tl.store(state + place, following, mask=mask)
    h = operand(following, x.dtype.element_ty, PRECISION == "tf32")
    tl.store(x + tall * x_stride + column[None, :], h, mask=mask)
    write_moments(moments_out, h.to(tl.float32), row, column, rows, width, tile, COLUMNS)
