"""The anchor of a trajectory: a linear mixed model of every feature, all features at once.

    y_ij(t) = u_ij + s_ij t + e_ij(t),   (u_ij, s_ij) ~ N(b_j x_i, G_j),   e_ij ~ N(0, s2_j)

By maximum likelihood with expanded parameters (Liu, Rubin and Wu 1998), because plain EM creeps where slopes hardly
vary. `statement.py` states the model for one person and feature. The peer `mixed-model` has a plain EM of its own: one
that shared this code would share its faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ops.thread_pool import in_parallel

ROUNDS = 200
# Relative change of every variance at which the rounds end.
CLOSE = 1e-4
# Features that are fitted together: the arrays of so many stay in a processor's cache for a few hundred people.
AT_ONCE = 64
# People that the variances are learned from at most: the standard error of a variance is sqrt(2 / n) of it.
MOST = 6000
# People's worth of the other features' variances that each feature's own are drawn towards.
PRIOR = 4.0
# Rows' worth of "no dependence" that keep collinear columns apart.
PRIOR_ROWS = 1e-3
# A share of the whole variance below which no error's falls.
LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class Posterior:
    """Level and slope of N people and D features given what is known of them.

    level, slope : (N, D) expected.  variance : (3, N, D) of the level, of both, and of the slope.
    """

    level: np.ndarray
    slope: np.ndarray
    variance: np.ndarray

    def at(self, time: np.ndarray) -> np.ndarray:
        """(N, D) what is expected at a time (N,) of each person."""
        return np.asarray(self.level + time[:, None] * self.slope)


@dataclass(frozen=True, eq=False)
class Anchor:
    """b : (2, p, D) of levels and slopes, by what is known of the person.  G : (3, D) variance of levels, covariance,
    variance of slopes.  s2 : (D,) variance of errors."""

    b: np.ndarray
    G: np.ndarray
    s2: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, time: np.ndarray, person: np.ndarray) -> Anchor:
        """values (N, V, D) with NaN where missing, scaled;  time (N, V);  person (N, p), a column of ones among them.

        Whoever was seen once teaches b and the variance of one visit.
        """
        width = values.shape[2]
        parts = [slice(start, min(start + AT_ONCE, width)) for start in range(0, width, AT_ONCE)]
        found = list(in_parallel(lambda part: _estimated(values[:, :, part], time, person), parts))
        b, G, s2 = (np.concatenate(each, axis=-1) for each in zip(*found, strict=True))
        several = (np.isfinite(values).sum(axis=1) > 1).sum(axis=0)
        share = PRIOR / (PRIOR + several)
        return cls(b, G + share * (G.mean(axis=1, keepdims=True) - G), s2 + share * (s2.mean() - s2))

    def posterior(self, values: np.ndarray, time: np.ndarray, person: np.ndarray) -> Posterior:
        """Of people whose known visits are values (N, V, D), NaN where missing; person (N, p)."""
        f0, f1 = person @ self.b
        r, n = np.zeros((2, *f0.shape)), np.zeros((3, *f0.shape))
        for visit in range(values.shape[1]):
            y = values[:, visit].astype(float)
            seen = np.isfinite(y)
            t = np.where(np.isfinite(time[:, visit]), time[:, visit], 0.0)[:, None]
            rest = np.where(seen, y - f0 - t * f1, 0.0)
            r += rest * np.stack([np.ones_like(t), t])
            n += seen * np.stack([np.ones_like(t), t, t**2])
        level, slope, variance = _posterior((n[0], n[1], n[2]), r, self.G, self.s2)
        return Posterior(f0 + level, f1 + slope, variance)

    def own_slope(self, posterior: Posterior, person: np.ndarray) -> np.ndarray:
        """(N, D) how far slopes are from what is expected of people (N, p) like these."""
        return np.asarray(posterior.slope - person @ self.b[1])

    def variance(self, posterior: Posterior, time: np.ndarray, error: bool = True) -> np.ndarray:
        """(N, D) of what is expected at a time (N,), with the error of a measurement or without."""
        level, both, slope = posterior.variance
        t = time[:, None]
        return np.asarray(level + 2.0 * t * both + t**2 * slope + (self.s2 if error else 0.0))

    def state(self) -> dict[str, Any]:
        return {"b": self.b, "G": self.G, "s2": self.s2}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Anchor:
        return cls(**state)


def _posterior(
    sums: tuple[np.ndarray, ...], r: np.ndarray, G: np.ndarray, s2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level (N, D), slope (N, D) and variances (3, N, D): (I + G S / s2)^-1 G, with S = [[n, t1], [t1, t2]].

    This form has no inverse of G, so that slopes may not vary at all.
    """
    n, t1, t2 = (each / s2 for each in sums)
    g0, g01, g1 = G
    # A = I + G S
    a, b = 1.0 + g0 * n + g01 * t1, g0 * t1 + g01 * t2
    c, d = g01 * n + g1 * t1, 1.0 + g01 * t1 + g1 * t2
    size = a * d - b * c
    V = np.stack([(d * g0 - b * g01) / size, (d * g01 - b * g1) / size, (a * g1 - c * g01) / size])
    r0, r1 = r / s2
    return V[0] * r0 + V[1] * r1, V[1] * r0 + V[2] * r1, V


def _estimated(values: np.ndarray, time: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b (2, p, D), G (3, D) and s2 (D,) of some features."""
    seen = np.isfinite(values)
    y = np.where(seen, values, 0.0).astype(float)
    t = np.where(np.isfinite(time), time, 0.0)
    n, t1, t2 = (np.einsum("nv,nvd->nd", t**power, seen) for power in (0, 1, 2))
    sums = n, t1, t2
    y1, yt = y.sum(axis=1), np.einsum("nv,nvd->nd", t, y)
    squares = (y**2).sum(axis=(0, 1))
    cells, known = np.maximum(seen.sum(axis=(0, 1)), 1), n > 0
    people = np.maximum(known.sum(axis=0), 1)
    solver = _solver(person, known)
    whole = np.maximum(squares / cells, 1e-12)
    s2, G = 0.3 * whole, np.stack([0.6 * whole, 0.0 * whole, 0.05 * whole])
    b = np.zeros((2, person.shape[1], values.shape[2]))
    for _ in range(ROUNDS):
        f0, f1 = person @ b
        r = np.stack([y1 - f0 * n - f1 * t1, yt - f0 * t1 - f1 * t2])
        level, slope, V = _posterior(sums, r, G, s2)
        moments = np.where(known, np.stack([level**2, level * slope, slope**2]) + V, 0.0)
        scale = _expanded(sums, r, level, slope, moments)
        before = G, s2
        G = _scaled(moments.sum(axis=1) / people, scale)
        rest = (
            squares
            - 2.0 * (f0 * y1 + f1 * yt).sum(axis=0)
            + (f0 * (f0 * n + f1 * t1) + f1 * (f0 * t1 + f1 * t2)).sum(axis=0)
        )
        # The residual of the expanded model: r'r - 2 sum of a r b + sum of a S a' b b'.
        s2 = np.maximum(_left(rest, sums, r, level, slope, moments, scale) / cells, LEAST * whole)
        # The means of levels and slopes given what is known of the person: far fewer rounds than by rows of visits.
        step = np.stack(
            [np.einsum("dpq,qd->pd", solver, person.T @ np.where(known, each, 0.0)) for each in (level, slope)]
        )
        b = b + step
        moved = np.abs(np.stack([s2 - before[1], *(G - before[0])])).max(axis=0) / (s2 + G[0])
        if max(moved.max(), (np.abs(step).max(axis=(0, 1)) / np.sqrt(whole)).max()) < CLOSE:
            break
    return b, G, s2


def _expanded(
    sums: tuple[np.ndarray, ...], r: np.ndarray, level: np.ndarray, slope: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    """(D, 2, 2) a: least squares of r on Z a (u, s), over what is known of (u, s)."""
    S = np.stack([[sums[0], sums[1]], [sums[1], sums[2]]])  # [2, 2, people, features]
    M = np.stack([[moments[0], moments[1]], [moments[1], moments[2]]])
    left = np.einsum("klnd,pqnd->dkplq", S, M).reshape(-1, 4, 4)
    right = np.einsum("knd,pnd->dkp", r, np.stack([level, slope])).reshape(-1, 4)
    usual = np.maximum(np.einsum("dqq->d", left) / 4.0, 1e-12)
    # A prior of "as it is": what data do not tell stays.
    ridge = 1e-6 * usual
    left = left + ridge[:, None, None] * np.eye(4)
    right = right + ridge[:, None] * np.eye(2).reshape(4)
    return np.asarray(np.linalg.solve(left, right[:, :, None])[:, :, 0].reshape(-1, 2, 2))


def _scaled(G: np.ndarray, a: np.ndarray) -> np.ndarray:
    """a G a' as (3, D)."""
    full = np.moveaxis(np.stack([[G[0], G[1]], [G[1], G[2]]]), -1, 0)
    made = a @ full @ a.transpose(0, 2, 1)
    return np.stack([made[:, 0, 0], made[:, 0, 1], made[:, 1, 1]])


def _left(
    squares: np.ndarray,
    sums: tuple[np.ndarray, ...],
    r: np.ndarray,
    level: np.ndarray,
    slope: np.ndarray,
    moments: np.ndarray,
    a: np.ndarray,
) -> np.ndarray:
    """(D,) expected sum of squares that the expanded model leaves; squares (D,) is r'r."""
    S = np.stack([[sums[0], sums[1]], [sums[1], sums[2]]])
    M = np.stack([[moments[0], moments[1]], [moments[1], moments[2]]])
    cross = np.einsum("knd,pnd,dkp->d", r, np.stack([level, slope]), a)
    square = np.einsum("klnd,pqnd,dkp,dlq->d", S, M, a, a, optimize=True)
    return np.asarray(squares - 2.0 * cross + square)


def _solver(person: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(D, p, p) inverses of the normal matrices of every feature over the people that have it."""
    p = person.shape[1]
    products = np.einsum("np,nq->npq", person, person).reshape(-1, p * p)
    normal = (products.T @ known).T.reshape(-1, p, p)
    usual = np.maximum(np.einsum("dpp->d", normal) / p, 1e-12)
    return np.asarray(np.linalg.inv(normal + (PRIOR_ROWS * usual)[:, None, None] * np.eye(p)))
