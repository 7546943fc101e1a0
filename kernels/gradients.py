"""Gradients of tasks on a GPU: weight gradients dY_t^T X_t from rows sorted by task, K = J J^T, g = w^T J.

Reference implementations: `weight_gradients`, `gram` and `combine` in `secondgram/ops/gradients.py`. No kernel uses
atomics, and how work is cut depends on shapes alone: the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# Edge of a tile of a weight gradient, and rows of the batch that are multiplied at a time: registers decide.
TILE = 64
ROWS = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}
# The same where one launch takes the weight gradients of several layers, and how many.
GROUP_ROWS, GROUP = {torch.float32: 16, torch.float16: 64, torch.bfloat16: 64}, 8
POINTERS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Up to this many tasks, products of rows are kept one by one; above it, they are a matrix product.
FEW = 8
MOST_TASKS, MOST_COLUMNS = 64, 1 << 30
# Programs that share a Gram matrix, and columns that each takes at a time, for few tasks and for many.
PROGRAMS, FEW_COLUMNS, MANY_COLUMNS = 528, {1: 1024, 2: 1024, 4: 512, 8: 256}, {16: 32, 32: 32, 64: 16}
# The most tasks of one product of rows.
MOST_ROWS = 32
# Entries and partial sums that one program of the last stage takes at a time: of many entries, and of one alone.
SUMMED = ((32, 64), (1, 1024))
COMBINED = 1024


def rows_at_a_time(dtype: torch.dtype, exact: bool) -> int:
    """Rows that `weight_gradient_kernel` multiplies at a time; three TF32 parts need more registers."""
    return ROWS[dtype] if exact or dtype != torch.float32 else ROWS[dtype] // 2


@triton.jit
def _weight_tile(
    out_ptr,  # [outputs, inputs], this task's slice
    bias_ptr,  # [outputs], this task's slice
    dY_ptr,  # [rows, outputs]
    X_ptr,  # [rows, inputs]
    start,
    stop,
    tile,
    dY_row_stride,
    X_row_stride,
    outputs,
    inputs,
    has_bias,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out = sum over rows start..stop of dY^T X, bias = sum of dY: one tile of them."""
    columns = tl.cdiv(inputs, TILE)
    o = (tile // columns) * TILE + tl.arange(0, TILE)  # [TILE]
    i = (tile % columns) * TILE + tl.arange(0, TILE)  # [TILE]
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(start, stop, ROWS):
        row = first + tl.arange(0, ROWS)
        place = row.to(tl.int64)
        g = tl.load(
            dY_ptr + place[None, :] * dY_row_stride + o[:, None],
            mask=(o < outputs)[:, None] & (row < stop)[None, :],
            other=0.0,
        )  # [TILE, ROWS]
        x = tl.load(
            X_ptr + place[:, None] * X_row_stride + i[None, :],
            mask=(row < stop)[:, None] & (i < inputs)[None, :],
            other=0.0,
        )  # [ROWS, TILE]
        total = tl.dot(g, x, total, input_precision="ieee" if EXACT else "tf32x3")
    where = o.to(tl.int64)[:, None] * inputs + i[None, :]
    tl.store(out_ptr + where, total.to(out_ptr.dtype.element_ty), mask=(o < outputs)[:, None] & (i < inputs)[None, :])
    if has_bias:
        if tile % columns == 0:
            part = tl.zeros((TILE,), dtype=tl.float32)
            for first in range(start, stop, ROWS):
                row = first + tl.arange(0, ROWS)
                g = tl.load(
                    dY_ptr + row.to(tl.int64)[:, None] * dY_row_stride + o[None, :],
                    mask=(row < stop)[:, None] & (o < outputs)[None, :],
                    other=0.0,
                )  # [ROWS, TILE]
                part += tl.sum(g.to(tl.float32), axis=0)
            tl.store(bias_ptr + o, part.to(bias_ptr.dtype.element_ty), mask=o < outputs)


@triton.jit
def weight_gradient_kernel(
    out_ptr,  # [tasks, outputs, inputs], the first axis with a stride of its own
    dY_ptr,  # [rows, outputs]
    X_ptr,  # [rows, inputs]
    offsets_ptr,  # [tasks + 1], rows offsets[t] .. offsets[t + 1] belong to task t
    out_task_stride,
    dY_row_stride,
    X_row_stride,
    outputs,
    inputs,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    task = tl.program_id(1)
    slice = out_ptr + task.to(tl.int64) * out_task_stride
    start = tl.load(offsets_ptr + task).to(tl.int32)
    stop = tl.load(offsets_ptr + task + 1).to(tl.int32)
    tile = tl.program_id(0)
    _weight_tile(
        slice,
        slice,
        dY_ptr,
        X_ptr,
        start,
        stop,
        tile,
        dY_row_stride,
        X_row_stride,
        outputs,
        inputs,
        False,
        EXACT,
        TILE,
        ROWS,
    )


@triton.jit
def layer_gradients_kernel(
    J_ptr,  # [tasks, parameters]
    dY_ptrs,  # addresses of GROUP matrices [rows, outputs]
    X_ptrs,  # addresses of GROUP matrices [rows, inputs]
    layers_ptr,  # [GROUP, 5]: first tile, outputs, inputs, start of the weight in a row of J, start of the bias or -1
    row_strides,  # GROUP pairs: between rows of dY, between rows of X
    offsets_ptr,  # [tasks + 1]
    J_row_stride,
    DTYPE: tl.constexpr,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`weight_gradient_kernel` of several layers, with the sums of dY for their biases."""
    tile, task = tl.program_id(0), tl.program_id(1)
    layer = 0
    dY_ptr, X_ptr = dY_ptrs[0], X_ptrs[0]
    dY_row_stride, X_row_stride = row_strides[0], row_strides[1]
    for number in tl.static_range(1, GROUP):
        here = tile >= tl.load(layers_ptr + number * 5)
        layer = tl.where(here, number, layer)
        dY_ptr = tl.where(here, dY_ptrs[number], dY_ptr)
        X_ptr = tl.where(here, X_ptrs[number], X_ptr)
        dY_row_stride = tl.where(here, row_strides[2 * number], dY_row_stride)
        X_row_stride = tl.where(here, row_strides[2 * number + 1], X_row_stride)
    first = tl.load(layers_ptr + layer * 5)
    outputs = tl.load(layers_ptr + layer * 5 + 1)
    inputs = tl.load(layers_ptr + layer * 5 + 2)
    weight = tl.load(layers_ptr + layer * 5 + 3)
    bias = tl.load(layers_ptr + layer * 5 + 4)
    start = tl.load(offsets_ptr + task).to(tl.int32)
    stop = tl.load(offsets_ptr + task + 1).to(tl.int32)
    row = J_ptr + task.to(tl.int64) * J_row_stride
    dY_ptr = dY_ptr.to(tl.int64).to(tl.pointer_type(DTYPE))
    X_ptr = X_ptr.to(tl.int64).to(tl.pointer_type(DTYPE))
    _weight_tile(
        row + weight,
        row + bias,
        dY_ptr,
        X_ptr,
        start,
        stop,
        tile - first,
        dY_row_stride,
        X_row_stride,
        outputs,
        inputs,
        bias >= 0,
        EXACT,
        TILE,
        ROWS,
    )


def weight_gradients(dY: Tensor, X: Tensor, offsets: Tensor, out: Tensor | None = None, exact: bool = True) -> Tensor:
    """dY_t^T X_t for each task t, of rows sorted by task.

    Parameters
    ----------
    dY : (B, outputs) gradient of a linear layer's output; X : (B, inputs) its input. Both float32, float16 or bfloat16,
        on one device; their rows may be strided.
    offsets : (T + 1,) int32 or int64 on that device: rows offsets[t] .. offsets[t + 1] belong to task t. An empty task
        gets zeros. Its values are not checked, which would wait for the device.
    out : (T, outputs, inputs) to write into, its last two axes contiguous (a part of J, say); float32 if left out.
    exact : float32 products as IEEE has them; otherwise on tensor cores, of three TF32 parts, which is faster and
        nearly as precise. Sums are float32 in both.

    Raises `ValueError` for other shapes, dtypes or layouts.
    """
    _check_rows(dY, X, offsets)
    tasks, outputs, inputs = len(offsets) - 1, dY.shape[1], X.shape[1]
    if out is None:
        out = torch.empty((tasks, outputs, inputs), dtype=torch.float32, device=dY.device)
    elif out.shape != (tasks, outputs, inputs) or (out.numel() and not out[0].is_contiguous()):
        raise ValueError(f"out must be (T, outputs, inputs) with contiguous slices, not {tuple(out.shape)}.")
    if out.numel() == 0:
        return out
    dY, X = _unit_columns(dY), _unit_columns(X)
    grid = (triton.cdiv(outputs, TILE) * triton.cdiv(inputs, TILE), tasks)
    rows = rows_at_a_time(dY.dtype, exact)
    weight_gradient_kernel[grid](
        out, dY, X, offsets, out.stride(0), dY.stride(0), X.stride(0), outputs, inputs, exact, TILE, rows
    )
    return out


@dataclass(frozen=True)
class LayerRows:
    """One linear layer: dY (B, outputs), X (B, inputs), and where in a row of J weight and bias begin (-1: no bias)."""

    dY: Tensor
    X: Tensor
    weight: int
    bias: int = -1


def layer_gradients(layers: Sequence[LayerRows], offsets: Tensor, J: Tensor, exact: bool = True) -> Tensor:
    """Weight and bias gradients of several layers into J (T, P), `GROUP` layers a launch; other columns stay.

    offsets and exact as in `weight_gradients`; the same errors, and one for a J of another number of tasks.
    """
    for layer in layers:
        _check_rows(layer.dY, layer.X, offsets)
    if J.ndim != 2 or J.stride(1) != 1 or len(J) != len(offsets) - 1:
        raise ValueError(f"J must be (T, P) with contiguous rows for {len(offsets) - 1} tasks, not {tuple(J.shape)}.")
    by_dtype: dict[torch.dtype, list[LayerRows]] = {}
    for layer in layers:
        by_dtype.setdefault(layer.dY.dtype, []).append(layer)
    for dtype, same in by_dtype.items():
        for first in range(0, len(same), GROUP):
            _launch_group(same[first : first + GROUP], dtype, offsets, J, exact)
    return J


def _launch_group(layers: Sequence[LayerRows], dtype: torch.dtype, offsets: Tensor, J: Tensor, exact: bool) -> None:
    rows = [(_unit_columns(layer.dY), _unit_columns(layer.X)) for layer in layers]
    shapes = tuple(
        (dY.shape[1], X.shape[1], layer.weight, layer.bias) for layer, (dY, X) in zip(layers, rows, strict=True)
    )
    table, tiles = _layer_table(shapes, J.device)
    # Absent layers repeat the last one; no tile belongs to them.
    rows += [rows[-1]] * (GROUP - len(rows))
    layer_gradients_kernel[(tiles, len(J))](
        J,
        tuple(dY.data_ptr() for dY, _ in rows),
        tuple(X.data_ptr() for _, X in rows),
        table,
        tuple(stride for dY, X in rows for stride in (dY.stride(0), X.stride(0))),
        offsets,
        J.stride(0),
        POINTERS[dtype],
        exact,
        TILE,
        GROUP_ROWS[dtype],
        GROUP,
    )


@cache
def _layer_table(shapes: tuple[tuple[int, int, int, int], ...], device: torch.device) -> tuple[Tensor, int]:
    """First tile, widths and places of each layer, sent to the device once; and the number of tiles.

    Never let go, because a recorded graph keeps its bare address: 320 bytes.
    """
    lines, tiles = [], 0
    for outputs, inputs, weight, bias in shapes:
        lines.append([tiles, outputs, inputs, weight, bias])
        tiles += triton.cdiv(outputs, TILE) * triton.cdiv(inputs, TILE)
    lines += [[tiles, 0, 0, 0, -1]] * (GROUP - len(lines))
    return torch.tensor(lines, device=device), tiles


@triton.jit
def gram_few_kernel(
    partial_ptr,  # [programs, TASKS, TASKS] float64
    J_ptr,  # [TASKS, columns]
    columns,
    J_row_stride,
    TASKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Products of rows i >= j over this program's columns, every COLUMNS-th block of them."""
    program = tl.program_id(0)
    sums = ()
    for _ in tl.static_range(TASKS * (TASKS + 1) // 2):
        sums = sums + (tl.zeros((COLUMNS,), dtype=tl.float64),)  # type: ignore[assignment]  # noqa: RUF005
    for first in range(program * COLUMNS, columns, tl.num_programs(0) * COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        rows = ()
        place = J_ptr + column
        for _ in tl.static_range(TASKS):
            row = tl.load(place, mask=column < columns, other=0.0).to(tl.float64)
            rows = rows + (row,)  # type: ignore[assignment]  # noqa: RUF005
            place += J_row_stride
        added = ()
        for i in tl.static_range(TASKS):
            for j in tl.static_range(i + 1):
                one = sums[i * (i + 1) // 2 + j] + rows[i] * rows[j]  # type: ignore[var-annotated]
                added = added + (one,)  # type: ignore[assignment]  # noqa: RUF005
        sums = added
    here = partial_ptr + program * TASKS * TASKS
    for i in tl.static_range(TASKS):
        for j in tl.static_range(i + 1):
            total = tl.sum(sums[i * (i + 1) // 2 + j], axis=0)
            tl.store(here + i * TASKS + j, total)
            tl.store(here + j * TASKS + i, total)


@triton.jit
def _many_rows(J_ptr, task, tasks, column, columns, J_row_stride):
    """Rows `task` of J at these columns, zero outside, in the dtype of J."""
    return tl.load(
        J_ptr + task.to(tl.int64)[:, None] * J_row_stride + column[None, :],
        mask=(task < tasks)[:, None] & (column < columns)[None, :],
        other=0.0,
    )


@triton.jit
def _store_square(partial_ptr, total, left, right, tasks):
    inside = (left < tasks)[:, None] & (right < tasks)[None, :]
    tl.store(partial_ptr + left[:, None] * tasks + right[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["tasks", "columns", "J_row_stride"])
def gram_many_kernel(
    partial_ptr,  # [programs, tasks, tasks] float64
    J_ptr,  # [tasks, columns]
    tasks,
    columns,
    J_row_stride,
    EDGE: tl.constexpr,
    TWO: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The same for many tasks, as float64 products of a block of columns: of EDGE rows, or of TWO times as many.

    More rows in one product would be sent to matrix units that know no float64.
    """
    program = tl.program_id(0)
    step = tl.num_programs(0) * COLUMNS
    low = tl.arange(0, EDGE)  # [EDGE]
    high = EDGE + low
    column = program * COLUMNS + tl.arange(0, COLUMNS)
    # Rows are fetched one block ahead. A load beside its product would also give halves a layout that float64 lacks.
    a = _many_rows(J_ptr, low, tasks, column, columns, J_row_stride)  # [EDGE, COLUMNS]
    aa = tl.zeros((EDGE, EDGE), dtype=tl.float64)
    if TWO:
        b = _many_rows(J_ptr, high, tasks, column, columns, J_row_stride)
        ba = tl.zeros((EDGE, EDGE), dtype=tl.float64)
        bb = tl.zeros((EDGE, EDGE), dtype=tl.float64)
    for first in range(program * COLUMNS, columns, step):
        column = first + step + tl.arange(0, COLUMNS)
        lower = a.to(tl.float64)
        a = _many_rows(J_ptr, low, tasks, column, columns, J_row_stride)
        aa = tl.dot(lower, tl.trans(lower), aa, out_dtype=tl.float64)
        if TWO:
            upper = b.to(tl.float64)
            b = _many_rows(J_ptr, high, tasks, column, columns, J_row_stride)
            ba = tl.dot(upper, tl.trans(lower), ba, out_dtype=tl.float64)
            bb = tl.dot(upper, tl.trans(upper), bb, out_dtype=tl.float64)
    here = partial_ptr + program * tasks * tasks
    _store_square(here, aa, low, low, tasks)
    if TWO:
        _store_square(here, ba, high, low, tasks)
        _store_square(here, tl.trans(ba), low, high, tasks)
        _store_square(here, bb, high, high, tasks)


@triton.jit
def sum_partials_kernel(
    out_ptr,  # [entries] float64
    partial_ptr,  # [programs, entries] float64
    programs,
    entries,
    ENTRIES: tl.constexpr,
    PARTIALS: tl.constexpr,
):
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    total = tl.zeros((ENTRIES,), dtype=tl.float64)
    for first in range(0, programs, PARTIALS):
        program = first + tl.arange(0, PARTIALS)
        some = tl.load(
            partial_ptr + program[:, None] * entries + entry[None, :],
            mask=(program < programs)[:, None] & (entry < entries)[None, :],
            other=0.0,
        )  # [PARTIALS, ENTRIES]
        total += tl.sum(some, axis=0)
    tl.store(out_ptr + entry, total, mask=entry < entries)


@triton.jit
def combine_kernel(
    g_ptr,  # [columns]
    squares_ptr,  # [programs] float64
    J_ptr,  # [tasks, columns]
    w_ptr,  # [tasks] float64
    tasks,
    columns,
    J_row_stride,
    COLUMNS: tl.constexpr,
):
    """g = w^T J with float64 products and sums, and this program's share of the sum of its squares as it is stored."""
    program = tl.program_id(0)
    column = program.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    total = tl.zeros((COLUMNS,), dtype=tl.float64)
    place = J_ptr + column
    for task in range(tasks):
        total += tl.load(w_ptr + task) * tl.load(place, mask=inside, other=0.0).to(tl.float64)
        place += J_row_stride
    rounded = total.to(g_ptr.dtype.element_ty)
    tl.store(g_ptr + column, rounded, mask=inside)
    wide = tl.where(inside, rounded.to(tl.float64), 0.0)
    tl.store(squares_ptr + program, tl.sum(wide * wide, axis=0))


@dataclass(frozen=True)
class Launch:
    """One launch of a plan: the kernel's name, how many programs, and the bytes it reads from and writes to memory."""

    kernel: str
    programs: int
    read: int
    written: int


def plan(tasks: int, columns: int, size: int) -> list[Launch]:
    """Launches of `gram` and `combine` for J (tasks, columns) of numbers of this many bytes."""
    programs, blocks = _programs(tasks, columns, size), triton.cdiv(columns, COMBINED)
    entries, slab = tasks * tasks, tasks * columns * size
    return [
        Launch("gram", programs, slab, 8 * entries * programs),
        Launch("sum_partials", triton.cdiv(entries, SUMMED[0][0]), 8 * entries * programs, 8 * entries),
        Launch("combine", blocks, slab + 8 * tasks, columns * size + 8 * blocks),
        Launch("sum_partials", 1, 8 * blocks, 8),
    ]


def _padded(tasks: int) -> int:
    return triton.next_power_of_2(tasks)


def _columns(tasks: int) -> int:
    return FEW_COLUMNS[_padded(tasks)] if tasks <= FEW else MANY_COLUMNS[_padded(tasks)]


def many_constants(tasks: int) -> dict[str, int | bool]:
    """Compile-time constants of `gram_many_kernel` for this many tasks."""
    wide = _padded(tasks)
    return {"EDGE": min(wide, MOST_ROWS), "TWO": wide > MOST_ROWS, "COLUMNS": _columns(tasks)}


def _programs(tasks: int, columns: int, size: int) -> int:
    # Every program sums several blocks before it stores: partial sums are below 4 % of the bytes of J.
    return max(1, min(PROGRAMS, triton.cdiv(columns, 4 * _columns(tasks)), columns * size // (250 * tasks)))


def gram(J: Tensor) -> Tensor:
    """K = J J^T (T, T), float64 products and sums, for J (T, P) of float32, float16 or bfloat16, T at most 64.

    Raises `ValueError` for another shape, dtype or layout.
    """
    _check_slab(J)
    tasks, columns = J.shape
    if columns == 0:
        return torch.zeros(tasks, tasks, dtype=torch.float64, device=J.device)
    programs = _programs(tasks, columns, J.element_size())
    partial = torch.empty(programs, tasks, tasks, dtype=torch.float64, device=J.device)
    if tasks <= FEW:
        gram_few_kernel[(programs,)](partial, J, columns, J.stride(0), tasks, _columns(tasks))
    else:
        gram_many_kernel[(programs,)](partial, J, tasks, columns, J.stride(0), **many_constants(tasks), num_warps=8)
    K = torch.empty(tasks, tasks, dtype=torch.float64, device=J.device)
    _sum_partials(K.view(-1), partial.view(programs, -1))
    return K


def combine(J: Tensor, w: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """g = w^T J (P,) in the dtype of J, and the sum of its squares (), float64.

    J : (T, P) float32, float16 or bfloat16; w : (T,) float64; out : (P,) to write g into.

    Raises `ValueError` for another shape, dtype or layout.
    """
    _check_slab(J)
    tasks, columns = J.shape
    if w.shape != (tasks,) or w.dtype != torch.float64 or w.device != J.device:
        raise ValueError(f"w must be float64 ({tasks},) where J is, not {w.dtype} {tuple(w.shape)}.")
    g = torch.empty(columns, dtype=J.dtype, device=J.device) if out is None else out
    if g.shape != (columns,) or g.dtype != J.dtype or not g.is_contiguous():
        raise ValueError(f"out must be a contiguous {J.dtype} ({columns},), not {g.dtype} {tuple(g.shape)}.")
    total = torch.zeros(1, dtype=torch.float64, device=J.device)
    if columns:
        blocks = triton.cdiv(columns, COMBINED)
        squares = torch.empty(blocks, 1, dtype=torch.float64, device=J.device)
        combine_kernel[(blocks,)](g, squares, J, w.contiguous(), tasks, columns, J.stride(0), COMBINED)
        _sum_partials(total, squares)
    return g, total[0]


def _sum_partials(out: Tensor, partial: Tensor) -> None:
    programs, entries = partial.shape
    wide, tall = SUMMED[entries == 1]
    sum_partials_kernel[(triton.cdiv(entries, wide),)](out, partial, programs, entries, wide, tall)


def _check_slab(J: Tensor) -> None:
    if J.ndim != 2 or not 1 <= len(J) <= MOST_TASKS or J.dtype not in ROWS or (J.shape[1] and J.stride(1) != 1):
        raise ValueError(
            f"J must be (T, P) of float32, float16 or bfloat16 with contiguous rows, T 1 to {MOST_TASKS}, "
            f"not {J.dtype} {tuple(J.shape)}."
        )
    if J.shape[1] > MOST_COLUMNS:
        raise ValueError(f"{J.shape[1]} columns are too many for one launch: at most {MOST_COLUMNS}.")


def _unit_columns(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _check_rows(dY: Tensor, X: Tensor, offsets: Tensor) -> None:
    if dY.ndim != 2 or X.ndim != 2 or len(dY) != len(X):
        raise ValueError(f"dY and X must be (B, outputs) and (B, inputs), not {tuple(dY.shape)} and {tuple(X.shape)}.")
    if dY.dtype != X.dtype or dY.dtype not in ROWS:
        raise ValueError(f"dY and X must share float32, float16 or bfloat16, not {dY.dtype} and {X.dtype}.")
    if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"offsets must be an integer vector of T + 1, not {offsets.dtype} {tuple(offsets.shape)}.")
    if not dY.device == X.device == offsets.device:
        raise ValueError(f"dY, X and offsets are on {dY.device}, {X.device} and {offsets.device}.")
