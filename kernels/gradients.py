"""Gradients of tasks on a GPU: the weight gradient of each task, from rows sorted by task.

out_t = dY_t^T X_t. No kernel uses atomics: the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Edge of a tile of a weight gradient, and rows of the batch that are multiplied at a time: registers decide.
TILE = 64
ROWS = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}


@triton.jit
def _weight_tile(
    out,  # [outputs, inputs], this task's slice
    bias,  # [outputs], this task's slice
    dY,  # [rows, outputs]
    X,  # [rows, inputs]
    start,
    stop,
    tile,
    dY_stride,
    X_stride,
    outputs,
    inputs,
    HAS_BIAS: tl.constexpr,
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
            dY + place[None, :] * dY_stride + o[:, None],
            mask=(o < outputs)[:, None] & (row < stop)[None, :],
            other=0.0,
        )  # [TILE, ROWS]
        x = tl.load(
            X + place[:, None] * X_stride + i[None, :], mask=(row < stop)[:, None] & (i < inputs)[None, :], other=0.0
        )  # [ROWS, TILE]
        total = tl.dot(g, x, total, input_precision="ieee" if EXACT else "tf32x3")
    where = o.to(tl.int64)[:, None] * inputs + i[None, :]
    tl.store(out + where, total.to(out.dtype.element_ty), mask=(o < outputs)[:, None] & (i < inputs)[None, :])
    if HAS_BIAS:
        if tile % columns == 0:
            part = tl.zeros((TILE,), dtype=tl.float32)
            for first in range(start, stop, ROWS):
                row = first + tl.arange(0, ROWS)
                g = tl.load(
                    dY + row.to(tl.int64)[:, None] * dY_stride + o[None, :],
                    mask=(row < stop)[:, None] & (o < outputs)[None, :],
                    other=0.0,
                )  # [ROWS, TILE]
                part += tl.sum(g.to(tl.float32), axis=0)
            tl.store(bias + o, part.to(bias.dtype.element_ty), mask=o < outputs)


@triton.jit
def weight_gradient_kernel(
    out,  # [tasks, outputs, inputs], the first axis with a stride of its own
    dY,  # [rows, outputs]
    X,  # [rows, inputs]
    offsets,  # [tasks + 1], rows offsets[t] .. offsets[t + 1] belong to task t
    task_stride,
    dY_stride,
    X_stride,
    outputs,
    inputs,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    task = tl.program_id(1)
    slice = out + task.to(tl.int64) * task_stride
    start = tl.load(offsets + task).to(tl.int32)
    stop = tl.load(offsets + task + 1).to(tl.int32)
    tile = tl.program_id(0)
    _weight_tile(slice, slice, dY, X, start, stop, tile, dY_stride, X_stride, outputs, inputs, False, EXACT, TILE, ROWS)


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
    weight_gradient_kernel[grid](
        out, dY, X, offsets, out.stride(0), dY.stride(0), X.stride(0), outputs, inputs, exact, TILE, ROWS[dY.dtype]
    )
    return out


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
