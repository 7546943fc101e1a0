"""From the Gram matrix of task gradients to weights.

Sizes s_i = sqrt(K_ii) and cosines C = K / (s s^T) are taken apart first, so that gradients of very different size
neither overflow nor vanish: a weight is w_i = a_i / s_i, with a_i the coefficient of a unit gradient. A task without
gradient is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from . import quadratic


@dataclass(frozen=True)
class _Problem:
    """A Gram matrix taken apart: K (T, T), sizes (T,), which of them are not zero, cosines C (T, T), 0 for dead tasks,
    orders of projection (T, T), and the constants of the methods."""

    K: Tensor
    size: Tensor
    alive: Tensor
    C: Tensor
    orders: Tensor
    targets: Tensor | None
    beta: float
    c: float

    @property
    def solid(self) -> Tensor:
        """C with 1 on the diagonal for dead tasks too."""
        return self.C + torch.diag((~self.alive).to(self.C))

    def weights(self, a: Tensor) -> Tensor:
        """w from coefficients of unit gradients; zero for dead tasks."""
        return torch.where(self.alive, a / self.size.where(self.alive, 1.0), 0.0)

    def rows(self, A: Tensor) -> Tensor:
        """w (T,) from (T, T), row i in units of size i: every task is replaced by a sum of unit gradients times its own
        size. Dead tasks keep 1, which moves nothing."""
        both = self.alive[:, None] & self.alive
        ratio = torch.where(both, self.size[:, None] / self.size.where(self.alive, 1.0), 0.0)
        own = torch.eye(len(A), dtype=torch.bool, device=A.device)
        return torch.where(own, A, A * ratio).sum(dim=0)


def aggregate(
    K: Tensor,
    method: str = "sum",
    order: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    targets: Tensor | None = None,
    beta: float = 0.01,
    c: float = 0.5,
) -> Tensor:
    """Weights w (T,), float64, from the Gram matrix K (T, T).

    Parameters
    ----------
    method : one of `METHODS`. `sum` and `mean` project nothing; `pcgrad` (Yu et al. 2020), `gradvac` (Wang et al.
        2021), `mgda` (Desideri 2012), `cagrad` (Liu et al. 2021), `imtl-g` (Liu et al. 2021, their gradient balance),
        `nash-mtl` (Navon et al. 2022; its bargain leaves the scale open, here the weights sum to the number of tasks
        with a gradient), `aligned-mtl` (Senushkin et al. 2023, scale of the smallest principal component), `upgrad`
        (Quinton and Rey 2024; the mean where nothing conflicts), `config` (Liu et al. 2025).
    order : for `pcgrad` and `gradvac`, the order of projection: (T,) for every task, or (T, T) with row i for task i;
        None draws it from `generator`, and without a generator takes 0 .. T-1.
    targets, beta : for `gradvac`, the cosines aimed at (T, T), float64, moved in place towards those found by this
        share; None starts from zero and keeps nothing, which is PCGrad.
    c : for `cagrad`, the radius around the mean gradient as a share of its norm, at least 0 and below 1.

    K is used in float64. On a CUDA device nothing waits for it, so values are checked on the processor only; there an
    order is best given, since a drawn one has to be sent.

    Raises `InputError` for an unknown method, a K that is not square and finite, an order that is no permutation,
    tensors on several devices, or constants out of range.
    """
    if K.ndim != 2 or K.shape[0] != K.shape[1] or len(K) == 0:
        raise InputError(f"K has shape {tuple(K.shape)}", mend="Give one row and one column per task")
    if not K.is_floating_point() or (K.device.type == "cpu" and not bool(torch.isfinite(K).all())):
        raise InputError("K holds values that are no finite numbers")
    if method not in _METHODS:
        raise InputError(f"unknown method {method!r}", mend=f"Use one of {', '.join(METHODS)}")
    if not 0 <= c < 1 or not 0 <= beta <= 1:
        raise InputError(f"c is {c} and beta {beta}", mend="c is at least 0 and below 1, beta between 0 and 1")
    tasks = len(K)
    if targets is not None and (targets.shape != K.shape or targets.dtype != torch.float64):
        raise InputError(f"targets are {targets.dtype} {tuple(targets.shape)}", mend="Give float64 (T, T)")
    for name, other in (("the order", order), ("targets", targets)):
        if other is not None and other.device != K.device:
            raise InputError(f"K is on {K.device}, {name} on {other.device}")
    K = K.detach().double()
    size = K.diagonal().clamp_min(0.0).sqrt()
    alive = size > 0
    C = cosine_matrix(K)
    orders = _orders(tasks, order, generator, K.device)
    return _METHODS[method](_Problem(K, size, alive, C, orders, targets, beta, c))


def _orders(tasks: int, order: Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if order is None and generator is not None:
        drawn = torch.stack([torch.randperm(tasks, generator=generator) for _ in range(tasks)])
        return drawn.to(device, non_blocking=True)
    rows = torch.arange(tasks, device=device) if order is None else order
    rows = rows.expand(tasks, tasks) if rows.ndim == 1 and len(rows) == tasks else rows
    numbered = rows.shape == (tasks, tasks) and rows.dtype in (torch.int64, torch.int32)
    if not numbered or (
        device.type == "cpu" and not torch.equal(rows.long().sort(dim=1).values, torch.arange(tasks).expand(tasks, -1))
    ):
        raise InputError(f"the order is no permutation of {tasks} tasks", mend="Give (T,) or (T, T) task numbers")
    return rows.long()


# -- the methods ------------------------------------------------------------------------------------------------------


def _sum(problem: _Problem) -> Tensor:
    return torch.ones_like(problem.size)


def _mean(problem: _Problem) -> Tensor:
    return torch.full_like(problem.size, 1.0 / len(problem.size))


def _pcgrad(problem: _Problem) -> Tensor:
    """Every row at once: A (T, T) coefficients of unit gradients, V = A C; row i loses its conflict with its j."""
    if problem.C.device.type == "cpu" and not bool((problem.C < 0).any()):
        # Nothing conflicts, so the loop would project nothing.
        return torch.ones_like(problem.size)
    A = torch.eye(len(problem.C), dtype=problem.C.dtype, device=problem.C.device)
    V = problem.C.clone()
    for j in problem.orders.T[:, :, None]:
        # A row never conflicts with itself: the rest of a task's gradient points along it or is zero.
        step = -V.gather(1, j).clamp_max(0.0)
        step = torch.where(j[:, 0] == torch.arange(len(A), device=A.device), 0.0, step[:, 0])[:, None]
        A = A.scatter_add(1, j, step)
        V = V + step * problem.C[j[:, 0]]
    return problem.rows(A)


def _gradvac(problem: _Problem) -> Tensor:
    """Row i is turned until its cosine with j is the target: a_j += |v| (t sin(v, j) - cos(v, j) sin t) / sin t."""
    A = torch.eye(len(problem.C), dtype=problem.C.dtype, device=problem.C.device)
    V = problem.C.clone()
    targets = torch.zeros_like(A) if problem.targets is None else problem.targets
    rows = torch.arange(len(A), device=A.device)
    for j in problem.orders.T[:, :, None]:
        length = (A * V).sum(dim=1, keepdim=True).clamp_min(0.0).sqrt()
        cosine = (V.gather(1, j) / length.where(length > 0, 1.0)).clamp(-1.0, 1.0)
        target = targets.gather(1, j)
        both = (j[:, 0] != rows) & problem.alive & problem.alive[j[:, 0]]
        wanted = both[:, None] & (cosine < target)
        across = (1.0 - target.square()).sqrt()
        step = length * (target * (1.0 - cosine.square()).sqrt() - cosine * across) / across.where(across > 0, 1.0)
        step = torch.where(wanted & (across > 0), step, 0.0)
        A = A.scatter_add(1, j, step)
        V = V + step * problem.C[j[:, 0]]
        if problem.targets is not None:
            moved = torch.where(both[:, None], (1.0 - problem.beta) * target + problem.beta * cosine, target)
            targets.scatter_(1, j, moved)
    return problem.rows(A)


def _inverse_sizes(problem: _Problem) -> Tensor:
    """s_min / s_i, and 1 for dead tasks."""
    least = torch.where(problem.alive, problem.size, torch.inf).amin()
    return torch.where(problem.alive, least / problem.size.where(problem.alive, 1.0), 1.0)


def _mgda(problem: _Problem) -> Tensor:
    # A dead task has the smallest norm and would take all of the weight: it is put out of reach.
    q = torch.where(problem.alive | ~problem.alive.any(), _inverse_sizes(problem), 0.0)
    a = quadratic.simplex_point(problem.solid, q)
    w = torch.where(problem.alive, a * q, 0.0)
    total = w.sum()
    return w / total.where(total > 0, 1.0)


def _cagrad(problem: _Problem) -> Tensor:
    tasks = len(problem.C)
    largest = problem.size.amax()
    part = torch.where(largest > 0, problem.size / largest.where(largest > 0, 1.0), 0.0)
    even = problem.C @ (part / tasks)  # products of unit gradients with the mean gradient
    norm = ((part / tasks) @ even).clamp_min(0.0).sqrt()
    if not problem.c:
        return _mean(problem)
    gram = problem.C * part[:, None] * part
    # The price of weight on a dead task is above every other price, each of which is at most 1 + c.
    price = 4.0 * (~problem.alive).to(gram)
    linear = part * even / norm.where(norm > 0, 1.0) + price
    w, length = quadratic.worst_case(gram, linear, problem.c)
    return 1.0 / tasks + torch.where(problem.alive, problem.c * norm / length * w, 0.0)


def _even(problem: _Problem) -> Tensor:
    """Coefficients of unit gradients whose sum has the same product with each of them: C^+ 1."""
    values, vectors = quadratic.eigh(problem.C)
    kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, 1.0 / values.where(kept, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ problem.alive.to(values)))


def _imtl_g(problem: _Problem) -> Tensor:
    q = _inverse_sizes(problem)
    w = torch.where(problem.alive, _even(problem) * q, 0.0)
    total = w.sum()
    # Weights that sum to nothing have no scale.
    sound = total.abs() > 1e-12 * w.abs().sum()
    return torch.where(sound, w / total.where(sound, 1.0), 0.0)


def _nash(problem: _Problem) -> Tensor:
    a = quadratic.bargain(problem.solid, problem.alive)
    w = a * _inverse_sizes(problem)
    total = w.sum()
    return w / total.where(total > 0, 1.0) * problem.alive.sum()


def _aligned(problem: _Problem) -> Tensor:
    largest = problem.size.amax()
    part = torch.where(largest > 0, problem.size / largest.where(largest > 0, 1.0), 0.0)
    values, vectors = quadratic.eigh(problem.C * part[:, None] * part)
    kept = (values > values.amax() * len(values) * torch.finfo(values.dtype).eps) & (values > 0)
    least = torch.where(kept, values, torch.inf).amin()
    scale = torch.where(kept, (least / values.where(kept, 1.0)).sqrt(), 0.0)
    scale = torch.where(kept.any(), scale, 0.0)
    return vectors @ (scale * (vectors.T @ _mean(problem)))


def _upgrad(problem: _Problem) -> Tensor:
    return problem.rows(quadratic.cone_projections(problem.solid)) / len(problem.C)


def _config(problem: _Problem) -> Tensor:
    a = _even(problem)
    along = problem.C @ a
    square = a @ along
    length = (problem.size @ along) / square.where(square > 0, 1.0)
    return problem.weights(torch.where(square > 0, length * a, 0.0))


_METHODS: dict[str, Callable[[_Problem], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "pcgrad": _pcgrad,
    "gradvac": _gradvac,
    "mgda": _mgda,
    "cagrad": _cagrad,
    "imtl-g": _imtl_g,
    "nash-mtl": _nash,
    "aligned-mtl": _aligned,
    "upgrad": _upgrad,
    "config": _config,
}
METHODS = tuple(_METHODS)


def cosine_matrix(K: Tensor) -> Tensor:
    """(T, T) cosines between the task gradients; zero where a task has no gradient."""
    size = K.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(size > 0, 1.0 / size.where(size > 0, 1.0), 0.0)
    return K * scale[:, None] * scale
