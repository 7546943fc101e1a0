"""Gradients of several tasks, and how they become one: the reference, in plain torch.

J (T, P) holds one gradient a row, K = J J^T their Gram matrix. A method turns K into weights w, the update is
g = w^T J and its norm sqrt(w^T K w). Projection of conflicting gradients (PCGrad, Yu et al. 2020) is an addition of
this library; what the paper calls gradient manipulation is the gate and the clip on the norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError

METHODS = ("sum", "mean", "pcgrad")


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[Tensor], retain_graph: bool = False) -> Tensor:
    """J (T, P): the gradient of each task's loss for all parameters, flattened in their order, one backward a task.

    retain_graph : keep the graph for another backward pass afterwards.
    """
    if not losses:
        raise InputError("there is no task", mend="Give one loss per task")
    rows = []
    for number, loss in enumerate(losses):
        parts = torch.autograd.grad(
            loss,
            parameters,
            retain_graph=retain_graph or number + 1 < len(losses),
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


def gram(J: Tensor) -> Tensor:
    """K = J J^T (T, T) with float64 products and sums: in float32, nearly opposite gradients lose a third of it."""
    if J.ndim != 2 or not J.is_floating_point() or len(J) == 0:
        raise InputError(f"J is {J.dtype} {tuple(J.shape)}", mend="Give a floating-point tensor (tasks, parameters)")
    wide = J.double()
    return wide @ wide.T


def aggregate(
    K: Tensor, method: str = "sum", order: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Weights w (T,), float64, from the Gram matrix K (T, T).

    order : for `pcgrad`, the order of projection: (T,) for every task, or (T, T) with row i for task i; None draws
        it from `generator`, and without a generator takes 0 .. T-1.

    Raises `InputError` for an unknown method, a K that is not square and finite, or an order that is no permutation.
    """
    if K.ndim != 2 or K.shape[0] != K.shape[1] or len(K) == 0:
        raise InputError(f"K has shape {tuple(K.shape)}", mend="Give one row and one column per task")
    if not K.is_floating_point() or not bool(torch.isfinite(K).all()):
        raise InputError("K holds values that are no finite numbers")
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}", mend=f"Use one of {', '.join(METHODS)}")
    tasks = len(K)
    if method == "pcgrad":
        return _pcgrad(K.double(), _orders(tasks, order, generator))
    return torch.full((tasks,), 1.0 if method == "sum" else 1.0 / tasks, dtype=torch.float64)


def _orders(tasks: int, order: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if order is None and generator is not None:
        return torch.stack([torch.randperm(tasks, generator=generator) for _ in range(tasks)])
    rows = torch.arange(tasks) if order is None else torch.as_tensor(order)
    rows = rows.expand(tasks, tasks) if rows.ndim == 1 and len(rows) == tasks else rows
    numbered = rows.shape == (tasks, tasks) and rows.dtype in (torch.int64, torch.int32)
    if not numbered or not torch.equal(rows.long().sort(dim=1).values, torch.arange(tasks).expand(tasks, -1)):
        raise InputError(f"the order is no permutation of {tasks} tasks", mend="Give (T,) or (T, T) task numbers")
    return rows


def _pcgrad(K: Tensor, orders: Tensor) -> Tensor:
    # On cosines, so that tasks of very different size neither overflow nor vanish; a task without gradient is skipped.
    size = K.diagonal().clamp_min(0.0).sqrt()
    alive = size > 0
    cosines = torch.where(alive[:, None] & alive, K / size.where(alive, 1.0)[:, None] / size.where(alive, 1.0), 0.0)
    weights = torch.zeros(len(K), dtype=torch.float64)
    for task in range(len(K)):
        share = torch.zeros_like(weights)  # coefficients of the unit gradients, as a multiple of this task's size
        share[task] = 1.0
        product = cosines[task].clone()
        for other in orders[task].tolist():
            if other != task and alive[other] and product[other] < 0:
                step = -product[other].item()
                share[other] += step
                product += step * cosines[:, other]
        ratio = torch.where(alive, size[task] / size.where(alive, 1.0), 0.0)
        weights += torch.where(torch.arange(len(K)) == task, share, share * ratio)
    return weights


def combine(J: Tensor, w: Tensor) -> Tensor:
    """g = w^T J (P,), in the dtype of J."""
    if w.shape != (len(J),):
        raise InputError(f"{tuple(w.shape)} weights for {len(J)} tasks")
    return w.to(J.dtype) @ J


def cosine_matrix(K: Tensor) -> Tensor:
    """(T, T) cosines between the task gradients; zero where a task has no gradient."""
    size = K.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(size > 0, 1.0 / size.where(size > 0, 1.0), 0.0)
    return K * scale[:, None] * scale


def gate_and_clip(norm: float, gate: float, clip: float) -> float:
    """The factor for an update of this norm: 0 (skip it) above the gate or for NaN, else at most clip / norm."""
    if not norm <= gate:
        return 0.0
    return min(1.0, clip / norm) if norm > 0 else 1.0
