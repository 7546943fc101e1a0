"""The anchor of a trajectory: a linear mixed model of every feature, all features at once.

    y_ij(t) = u_ij + s_ij t + e_ij(t),   (u_ij, s_ij) ~ N(b_j x_i, G_j),   e_ij ~ N(0, s2_j)

By maximum likelihood with expanded parameters (Liu, Rubin and Wu 1998) and extrapolated rounds, because plain EM creeps
where slopes hardly vary. `statement.py` states the model for one person and feature. The peer `mixed-model` has a plain
EM of its own: one that shared this code would share its faults.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...ops.row_tiles import slices
from ...ops.thread_pool import in_parallel
from .factors import Factors
from .posterior import Doubt, Posterior, VisitSums, feature_posterior, weighted_products

# Pairs of rounds, and the relative change of every variance at which they end.
ROUNDS, CLOSE = 500, 5e-5
# Rounds' worth that are gone at once.
FARTHEST_AHEAD = 32.0
# Standard deviations of a visit that the last step of the means given factors is.
MEAN_CLOSE = 1e-4
# Features that are fitted together: the arrays of so many stay in a processor's cache for a few hundred people.
AT_ONCE = 64
# People's worth of the other features' variances that each feature's own are drawn towards.
PRIOR = 4.0
# Rows' worth of "no dependence" that keep collinear columns apart.
PRIOR_ROWS = 1e-3
# A share of the whole variance below which no error's falls.
LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class Anchor:
    """b : (2, p, D) of levels and slopes, by what is known of the person.  G : (3, D) variance of levels, covariance,
    variance of slopes.  s2 : (D,) variance of errors.  factors : of levels and slopes, None where features tell nothing
    of each other."""

    b: np.ndarray
    G: np.ndarray
    s2: np.ndarray
    factors: Factors | None = None

    @classmethod
    def fit(cls, values: np.ndarray, time: np.ndarray, person: np.ndarray) -> Anchor:
        """values (N, V, D) with NaN where missing, scaled;  time (N, V);  person (N, p), a column of ones among them.

        Whoever was seen once teaches b and the variance of one visit.
        """
        width = values.shape[2]
        found = in_parallel(lambda part: _estimated(values[:, :, part], time, person), slices(width, AT_ONCE))
        b, G, s2 = (np.concatenate(each, axis=-1) for each in zip(*found, strict=True))
        several = (np.isfinite(values).sum(axis=1) > 1).sum(axis=0)
        share = PRIOR / (PRIOR + several)
        return cls(b, G + share * (G.mean(axis=1, keepdims=True) - G), s2 + share * (s2.mean() - s2))

    def posterior(self, values: np.ndarray, time: np.ndarray, person: np.ndarray) -> Posterior:
        """Of people whose known visits are values (N, V, D), NaN where missing; person (N, p)."""
        f0, f1 = person @ self.b
        visits = VisitSums.of(values, time, f0, f1)
        if self.factors is None:
            level, slope, variance = feature_posterior(visits.n, visits.r, self.G, self.s2)
        else:
            level, slope, variance = self.factors.posterior(visits, self.s2)
        return Posterior(f0 + level, f1 + slope, variance)

    def with_factors(self, values: np.ndarray, time: np.ndarray, person: np.ndarray, penalty: float) -> Anchor | None:
        """The same with what features tell of each other, by people as in `fit`; None where these are too few.

        b is estimated again: who is seen may depend on other features than one's own.
        """
        visits = VisitSums.of(values, time, *(person @ self.b))
        factors = Factors.fit(visits, self.G, self.s2, penalty)
        if factors is None:
            return None
        b, usual = self.b.copy(), np.sqrt(self.G[0] + self.s2)
        for step in factors.mean_steps(visits, person, self.s2):
            b += step
            if (np.abs(step).max(axis=(0, 1)) < MEAN_CLOSE * usual).all():
                break
        return replace(self, b=b, factors=factors)

    def variance(self, posterior: Posterior, time: np.ndarray, error: bool = True) -> np.ndarray:
        """(N, D) of what is expected at a time (N,), with the error of a measurement or without."""
        doubt = Doubt(posterior.variance, self.s2)
        return doubt.at(time) if error else doubt.shared(time, time)

    def state(self) -> dict[str, Any]:
        own = {"b": self.b, "G": self.G, "s2": self.s2}
        return own if self.factors is None else own | {"factors": self.factors.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Anchor:
        factors = state.get("factors")
        return cls(state["b"], state["G"], state["s2"], None if factors is None else Factors(**factors))


def _estimated(values: np.ndarray, time: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b (2, p, D), G (3, D) and s2 (D,) of some features, each until it moves no more."""
    seen = np.isfinite(values)
    t = np.where(np.isfinite(time), time, 0.0)
    there = seen.any(axis=2)
    once = (there.sum(axis=1) == 1) & (np.where(there, t, 0.0) == 0.0).all(axis=1)
    people: list[_Once | _Several] = [
        _Once.of(values[once], person[once]),
        _Several.of(values[~once], t[~once], person[~once]),
    ]
    cells = np.maximum(seen.sum(axis=(0, 1)), 1)
    known = seen.any(axis=1)
    solver, count = _solver(person, known), np.maximum(known.sum(axis=0), 1)
    whole = np.maximum((np.where(seen, values, 0.0).astype(float) ** 2).sum(axis=(0, 1)) / cells, 1e-12)
    level = np.stack([0.6 * whole, 0.0 * whole, 0.05 * whole, 0.3 * whole])
    found = np.concatenate([level, np.zeros((2 * person.shape[1], values.shape[2]))])
    unit = np.concatenate([np.repeat(whole[None], 4, axis=0), np.repeat(np.sqrt(whole)[None], len(found) - 4, axis=0)])
    # Features that still move.
    left = np.arange(values.shape[2])
    for _ in range(ROUNDS):
        about = solver[left], count[left], cells[left], whole[left]
        one = _round(found[:, left], people, *about)
        two = _round(one, people, *about)
        found[:, left] = _ahead(found[:, left], one, two, unit[:, left])
        far = np.abs((two - one) / unit[:, left]).max(axis=0) >= CLOSE
        found[:, left[~far]] = two[:, ~far]
        if not far.any():
            break
        if not far.all():
            left, people = left[far], [part.only(np.flatnonzero(far)) for part in people]
    return found[4:].reshape(2, person.shape[1], -1), found[:3], found[3]


def _round(
    found: np.ndarray,
    people: list[_Once | _Several],
    solver: np.ndarray,
    count: np.ndarray,
    cells: np.ndarray,
    whole: np.ndarray,
) -> np.ndarray:
    """G, s2 and b (4 + 2 p, D) after a round of expectations and maxima."""
    G, s2, b = found[:3], found[3], found[4:].reshape(2, -1, found.shape[1])
    sums = _Sums.added([part.expected(b, G, s2) for part in people])
    square, cross = sums.square(), sums.cross.transpose(2, 0, 1).reshape(-1, 4)
    scale = _expanded(square, cross)
    flat = scale.reshape(-1, 4)
    # The residual of the expanded model: r'r - 2 sum of r a b + sum of a S a' b b'.
    rest = sums.rest - 2.0 * (cross * flat).sum(axis=1) + np.einsum("dk,dkl,dl->d", flat, square, flat)
    # The means of levels and slopes given what is known of the person: far fewer rounds than by rows of visits.
    step = np.einsum("dpq,kqd->kpd", solver, sums.means)
    G, s2 = _scaled(sums.moments / count, scale), np.maximum(rest / cells, LEAST * whole)
    return np.concatenate([G, s2[None], (b + step).reshape(-1, found.shape[1])])


def _ahead(found: np.ndarray, one: np.ndarray, two: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Where rounds that led to one and two lead to (Varadhan and Roland 2008); the second where that is no variance."""
    first, second = (one - found) / unit, (two - one) / unit
    bend = second - first
    length = np.sqrt((first**2).sum(axis=0) / np.maximum((bend**2).sum(axis=0), 1e-300))
    length = np.clip(length, 1.0, FARTHEST_AHEAD)
    ahead = found + unit * (2.0 * length * first + length**2 * bend)
    G, s2 = ahead[:3], ahead[3]
    least = LEAST * unit[0]
    wrong = (s2 < least) | (G[0] < least) | (G[2] < 0.0) | (G[1] ** 2 > G[0] * G[2])
    return np.where(wrong, two, ahead)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What a round needs of people, expected given what is known of them: sums over these.

    moments : (3, D) of u u, u s, s s.  products : (3, 3, D) of [n, t1, t2] times these.  cross : (2, 2, D) of residual
    sums times [u, s].  means : (2, p, D) of what is known of a person times [u, s].  rest : (D,) squared residuals.
    """

    moments: np.ndarray
    products: np.ndarray
    cross: np.ndarray
    means: np.ndarray
    rest: np.ndarray

    @classmethod
    def added(cls, parts: list[_Sums]) -> _Sums:
        return cls(*(sum(getattr(part, each.name) for part in parts) for each in fields(cls)))  # type: ignore[arg-type]

    def square(self) -> np.ndarray:
        """(D, 4, 4) sum of S times the moments, rows and columns by [part of S, part of the moments]."""
        place = np.array([[0, 1], [1, 2]])
        whole = self.products[place[:, None, :, None], place[None, :, None, :]]
        return np.asarray(np.moveaxis(whole, -1, 0).reshape(-1, 4, 4))


@dataclass(frozen=True, eq=False)
class _Once:
    """People who were seen once, at time 0, as most are: r'r and what belongs to it are sums that no round changes.

    count : (D,).  xx : (D, p, p).  xy : (p, D).  yy : (D,).
    """

    count: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, person: np.ndarray) -> _Once:
        """values (N, V, D), one visit of each person;  person (N, p)."""
        seen = np.isfinite(values)
        y, known = np.where(seen, values, 0.0).sum(axis=1, dtype=float), seen.any(axis=1)
        return cls(known.sum(axis=0), weighted_products(person, known), person.T @ y, (y**2).sum(axis=0))

    def only(self, columns: np.ndarray) -> _Once:
        """These features."""
        return _Once(self.count[columns], self.xx[columns], self.xy[:, columns], self.yy[columns])

    def expected(self, b: np.ndarray, G: np.ndarray, s2: np.ndarray) -> _Sums:
        g0, g01, g1 = G
        fitted = np.einsum("dpq,qd->pd", self.xx, b[0])
        rr = np.maximum(self.yy - 2.0 * (b[0] * self.xy).sum(axis=0) + (b[0] * fitted).sum(axis=0), 0.0)
        pull = np.stack([g0, g01]) / (g0 + s2)
        V = np.stack([pull[0] * s2, pull[1] * s2, g1 - pull[1] * g01])
        moments = np.stack([pull[0] ** 2, pull[0] * pull[1], pull[1] ** 2]) * rr + self.count * V
        none = np.zeros_like(moments)
        cross = np.stack([pull * rr, np.zeros_like(pull)])
        return _Sums(moments, np.stack([moments, none, none]), cross, pull[:, None] * (self.xy - fitted), rr)


@dataclass(frozen=True, eq=False)
class _Several:
    """Everybody else. sums : of 1, time and its square over visits, (N, D) each, or (N, 1) where nothing is missing.

    y1, yt : (N, D) of y, and of time times y.  yy : (D,).  known : (N, D) bool; None where everybody is.
    """

    sums: tuple[np.ndarray, ...]
    y1: np.ndarray
    yt: np.ndarray
    yy: np.ndarray
    known: np.ndarray | None
    person: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, t: np.ndarray, person: np.ndarray) -> _Several:
        """values (N, V, D) with NaN, t (N, V), person (N, p)."""
        seen = np.isfinite(values)
        y = np.where(seen, values, 0.0).astype(float)
        there = seen.any(axis=2)
        whole = bool((seen == there[:, :, None]).all())
        shape = there[:, :, None] if whole else seen
        sums = tuple(np.einsum("nv,nvd->nd", t**power, shape) for power in (0, 1, 2))
        known = None if whole and there.any(axis=1).all() else seen.any(axis=1)
        return cls(sums, y.sum(axis=1), np.einsum("nv,nvd->nd", t, y), (y**2).sum(axis=(0, 1)), known, person)

    def only(self, columns: np.ndarray) -> _Several:
        """These features."""
        return _Several(
            tuple(each if each.shape[1] == 1 else each[:, columns] for each in self.sums),
            self.y1[:, columns],
            self.yt[:, columns],
            self.yy[columns],
            None if self.known is None else self.known[:, columns],
            self.person,
        )

    def expected(self, b: np.ndarray, G: np.ndarray, s2: np.ndarray) -> _Sums:
        f0, f1 = self.person @ b
        n, t1, t2 = self.sums
        r = np.stack([self.y1 - f0 * n - f1 * t1, self.yt - f0 * t1 - f1 * t2])
        level, slope, V = feature_posterior(self.sums, r, G, s2)
        moments = np.stack([level**2, level * slope, slope**2]) + V
        if self.known is not None:
            moments *= self.known
        return _Sums(
            moments.sum(axis=1),
            np.stack([np.einsum("nd,qnd->qd", np.broadcast_to(each, level.shape), moments) for each in self.sums]),
            np.einsum("knd,pnd->kpd", r, np.stack([level, slope])),
            np.stack([self.person.T @ each for each in (level, slope)]),
            self.yy - (f0 * (self.y1 + r[0]) + f1 * (self.yt + r[1])).sum(axis=0),
        )


def _expanded(square: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """(D, 2, 2) a: least squares of r on Z a (u, s), over what is known of (u, s), of sums (D, 4, 4) and (D, 4)."""
    usual = np.maximum(np.einsum("dqq->d", square) / 4.0, 1e-12)
    # A prior of "as it is": what data do not tell stays.
    ridge = 1e-6 * usual
    left = square + ridge[:, None, None] * np.eye(4)
    right = cross + ridge[:, None] * np.eye(2).reshape(4)
    return np.asarray(np.linalg.solve(left, right[:, :, None])[:, :, 0].reshape(-1, 2, 2))


def _scaled(G: np.ndarray, a: np.ndarray) -> np.ndarray:
    """a G a' as (3, D)."""
    full = np.moveaxis(np.stack([[G[0], G[1]], [G[1], G[2]]]), -1, 0)
    made = a @ full @ a.transpose(0, 2, 1)
    return np.stack([made[:, 0, 0], made[:, 0, 1], made[:, 1, 1]])


def _solver(person: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(D, p, p) inverses of the normal matrices of every feature over the people that have it."""
    p, normal = person.shape[1], weighted_products(person, known)
    usual = np.maximum(np.einsum("dpp->d", normal) / p, 1e-12)
    return np.asarray(np.linalg.inv(normal + (PRIOR_ROWS * usual)[:, None, None] * np.eye(p)))
