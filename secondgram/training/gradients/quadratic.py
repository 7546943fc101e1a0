"""Small convex problems of the methods in `aggregation`, in float64, batched, with a fixed number of iterations.

No value decides what is done next, so nothing waits for a device. C (T, T) holds cosines between gradients, 1 on its
diagonal; a holds coefficients of unit gradients. Accuracy: the conditions of optimality hold to `ACCURACY`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ACCURACY = 1e-8
INTERIOR_STEPS, NEWTON_STEPS, SWEEPS = 45, 80, 12
# Below this error a processor stops.
ENOUGH = 1e-15
# Of the way to the boundary, and of the complementarity that is aimed at next.
ALMOST, CENTRING = 0.99, 0.1
# A ridge that keeps problems solvable where gradients cancel exactly.
RIDGE = 1e-14


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """As `torch.linalg.solve`, without the check that would wait for the device."""
    return torch.linalg.solve_ex(matrix, right, check_errors=False)[0]


def _longest(values: Tensor, change: Tensor) -> Tensor:
    """The largest step (..., 1), 1 at most, that keeps values above zero."""
    ratio = torch.where(change < 0, -values / change, torch.inf)
    return (ALMOST * ratio.amin(dim=-1, keepdim=True)).clamp_max(1.0)


def cone_projections(C: Tensor) -> Tensor:
    """For each task i, the coefficients a >= e_i of least a^T C a: rows of (T, T).

    These are the projections of unit gradients onto the cone of directions that conflict with no task (UPGrad,
    Quinton and Rey 2024). With a = e_i + v: v >= 0, z = C (e_i + v) >= 0, v z = 0, by a primal-dual interior point
    method.
    """
    one = torch.eye(len(C), dtype=C.dtype, device=C.device)
    C = C + RIDGE * one
    v, z = torch.ones_like(C), torch.ones_like(C)
    best, kept = torch.full_like(C[:, :1], torch.inf), torch.zeros_like(C)
    for _ in range(INTERIOR_STEPS):
        residual = z - (one + v) @ C
        error = torch.maximum((v * z).amax(dim=1, keepdim=True), residual.abs().amax(dim=1, keepdim=True))
        better = error < best
        best, kept = torch.where(better, error, best), torch.where(better, _one_of_two(v, z), kept)
        if _converged(best):
            break
        target = CENTRING * (v * z).mean(dim=1, keepdim=True)
        change = _solve(C + torch.diag_embed(z / v), (residual - z + target / v)[..., None])[..., 0]
        dual = target / v - z - z / v * change
        v, z = v + _longest(v, change) * change, z + _longest(z, dual) * dual
    return one + kept


def simplex_point(C: Tensor, q: Tensor) -> Tensor:
    """The a >= 0 with q a = 1 (q (T,) >= 0) of least a^T C a."""

    def slope_and_curve(a: Tensor) -> tuple[Tensor, Tensor]:
        return C @ a, C

    a = _one_of_two(*_interior(torch.ones_like(q) / q.sum(), q, slope_and_curve))
    return a / (q @ a)


def worst_case(C: Tensor, linear: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """The a >= 0 of sum 1 of least linear a + c |a|, |a| the root of a^T C a, and |a| itself.

    |a| is the least of (a^T C a / t + t) / 2 over t > 0, which is smooth and convex in a and t together; where a itself
    vanishes, a / t still has its direction.
    """

    def slope_and_curve(both: Tensor) -> tuple[Tensor, Tensor]:
        a, t = both[:-1], both[-1:]
        product = C @ a / t
        square = a @ product / t
        slope = torch.cat([linear + c * product, c * (1.0 - square) / 2])
        edge = -c * product / t
        curve = torch.cat([torch.cat([c * C / t, edge[:, None]], dim=1), torch.cat([edge, c * square / t])[None]])
        return slope, curve

    tasks = len(C)
    C = C + RIDGE * torch.eye(tasks, dtype=C.dtype, device=C.device)
    a = torch.full_like(linear, 1.0 / tasks)
    start = torch.cat([a, (a @ C @ a).clamp_min(1e-4).sqrt()[None]])
    q = torch.cat([torch.ones_like(linear), torch.zeros_like(linear[:1])])
    both, dual = _interior(start, q, slope_and_curve)
    a = _one_of_two(both, dual)[:-1]
    # Never below |a|, so that the update stays in its ball.
    t = torch.maximum(both[-1], (a @ C @ a).clamp_min(0.0).sqrt())
    total = a.sum()
    return a / total, t / total


def _one_of_two(a: Tensor, z: Tensor) -> Tensor:
    """a, with zero where complementarity makes it zero."""
    return torch.where(a > z, a, 0.0)


def _interior(
    a: Tensor, q: Tensor, slope_and_curve: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The a >= 0 with q a = 1 where a convex function is least, and the multipliers z of a >= 0: a primal-dual interior
    point method."""
    z = torch.ones_like(a)
    multiplier = torch.zeros_like(a[0])
    best, kept = torch.full_like(multiplier, torch.inf), (a, z)
    for _ in range(INTERIOR_STEPS):
        slope, curve = slope_and_curve(a)
        error = torch.maximum((slope - multiplier * q - z).abs().amax(), (a * z).amax())
        error = torch.maximum(error, (1.0 - q @ a).abs())
        better = error < best
        best, kept = (
            torch.where(better, error, best),
            (torch.where(better, a, kept[0]), torch.where(better, z, kept[1])),
        )
        if _converged(best):
            break
        target = CENTRING * (a @ z) / len(a)
        solved = _solve(curve + torch.diag(z / a), torch.stack([q, target / a - slope], dim=1))
        following = (1.0 - q @ a - q @ solved[:, 1]) / (q @ solved[:, 0])
        change = solved[:, 1] + following * solved[:, 0]
        dual = target / a - z - z / a * change
        step = torch.minimum(_longest(a, change), _longest(z, dual))
        a, z = a + step * change, z + step * dual
        multiplier = multiplier + step[0] * (following - multiplier)
    return kept


def _converged(error: Tensor) -> bool:
    """Whether to stop early. On a device that is not asked: the answer would have to be waited for."""
    return error.device.type == "cpu" and bool((error < ENOUGH).all())


def bargain(C: Tensor, alive: Tensor) -> Tensor:
    """The a > 0 with C a = 1 / a (T,), zero for dead tasks: the least of a^T C a / 2 - sum of log a, by damped Newton
    steps, which a self-concordant function lets converge from anywhere (Navon et al. 2022)."""
    ridged = C + RIDGE * torch.eye(len(C), dtype=C.dtype, device=C.device)
    a = torch.full_like(C[0], float(len(C)) ** -0.5)
    for _ in range(NEWTON_STEPS):
        slope = ridged @ a - 1.0 / a
        change = -_solve(ridged + torch.diag(1.0 / a**2), slope[:, None])[:, 0]
        decrement = (-(slope @ change)).clamp_min(0.0).sqrt()
        a = a + change / (1.0 + torch.where(decrement > 0.25, decrement, 0.0))
        if _converged(decrement):
            break
    return torch.where(alive, a, 0.0)


def eigh(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (T,) in no order and eigenvectors (columns) of a symmetric matrix.

    On a device by Jacobi rotations, half of the tasks at a time in a round-robin, because `torch.linalg.eigh` waits.
    """
    return torch.linalg.eigh(K) if K.device.type == "cpu" else jacobi(K)


def jacobi(K: Tensor) -> tuple[Tensor, Tensor]:
    """As `eigh`, by rotations."""
    tasks = len(K)
    even = tasks + tasks % 2
    # A task of zeros makes the number even; it is never rotated.
    K = torch.nn.functional.pad(K, (0, even - tasks, 0, even - tasks))
    vectors = torch.eye(even, dtype=K.dtype, device=K.device)
    for number in range(max(1, even - 1) * SWEEPS):
        p, q = _pairs(even, number, K.device)
        off, gap = K[p, q], K[q, q] - K[p, p]
        # tan of the angle, the smaller root; zero where nothing is left to do.
        tau = gap / torch.where(off == 0, 1.0, 2.0 * off)
        tangent = torch.where(tau < 0, -1.0, 1.0) / (tau.abs() + (1.0 + tau * tau).sqrt())
        tangent = torch.where(off == 0, 0.0, tangent)
        cos = (1.0 + tangent * tangent).rsqrt()
        sin = tangent * cos
        turn = torch.eye(even, dtype=K.dtype, device=K.device)
        turn[p, p], turn[q, q], turn[p, q], turn[q, p] = cos, cos, sin, -sin
        K = turn.T @ K @ turn
        vectors = vectors @ turn
    return K.diagonal()[:tasks].clone(), vectors[:tasks, :tasks]


def _pairs(even: int, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of one round of a round-robin; every pair of tasks is rotated once in even - 1 rounds.

    Counted on the device: to send them there would wait for it.
    """
    seat = torch.arange(even, device=device)
    player = torch.where(seat == 0, 0, 1 + (seat - 1 - number) % max(1, even - 1))
    return player[: even // 2], player[even // 2 :].flip(0)
