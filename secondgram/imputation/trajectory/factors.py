"""How levels and slopes of all features go together in a person: a factor model within the anchor.

    (u_ij, s_ij) = A_j f_i + w_ij,   f_i ~ N(0, I_K),   w_ij ~ N(0, G_j - A_j A_j')

G_j and the errors are the anchor's, so that each feature alone has the distribution that it had; loadings A_j (2, K)
say what features tell of each other. They are estimated with w integrated out, by ECM with expanded parameters (Meng
and Rubin 1993; Liu, Rubin and Wu 1998): given the factors features are independent, and the weight of a person's visits
is 2 x 2 for each. `statement.py` has the dense form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...ops.row_tiles import matmul, slices
from .posterior import VisitSums, feature_posterior, feature_variance, weighted_products

# Factors, and those of them that begin as directions of slopes: at most, features for each, and people for each.
FACTORS, SLOPE_FACTORS = 24, 8
FEATURES_EACH, PEOPLE_EACH = 2, 5
ROUNDS, MEAN_ROUNDS = 8, 100
# Rows' worth, for each of those there are, of "as it is" that keep collinear columns apart.
PRIOR_ROWS = 1e-3
# People whose weights are made at once.
AT_ONCE = 32
# Of a feature's variance of levels or slopes at most so much is shared.
SHARED = 0.95

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Factors:
    """loadings : (2, K, D) of levels and slopes.   own : (3, D), variances and covariance of what each feature has for
    itself."""

    loadings: np.ndarray
    own: np.ndarray

    @classmethod
    def fit(cls, visits: VisitSums, G: np.ndarray, s2: np.ndarray, penalty: float) -> Factors | None:
        """Of people's visits, G (3, D) and s2 (D,) being the anchor's; None where they are too few for any.

        penalty : people's worth, for each factor, of loadings that are zero.
        """
        people, width = visits.r.shape[1:]
        count = min(FACTORS, width // FEATURES_EACH, people // PEOPLE_EACH)
        if not count:
            return None
        level, slope, _ = feature_posterior(visits.n, visits.r, G, s2)
        slope = slope / np.sqrt(np.maximum(G[2], 1e-12))
        of_slopes = min(SLOPE_FACTORS, count // 3)
        f = _leading(level / np.sqrt(G[0]), count - of_slopes)
        if of_slopes:
            slope = slope - f @ (f.T @ slope) / people
            f = np.concatenate([f, _leading(slope, of_slopes)], axis=1)
        C = np.zeros((people, count, count))
        # Halfway, of which nothing but the first weights depends.
        seen, r = _Seen.of(visits.n, G * np.array([0.5, 0.0, 0.7])[:, None], s2), visits.r / s2
        found = None
        for _ in range(ROUNDS):
            found = cls._step(seen, r, f, C, G, penalty)
            seen = seen.by(visits.n, found.own, s2)
            C = found._doubt(seen, np.matmul)
            f = found._factors(seen, C, r, np.matmul)
        return found

    @classmethod
    def _step(cls, seen: _Seen, r: np.ndarray, f: np.ndarray, C: np.ndarray, G: np.ndarray, penalty: float) -> Factors:
        """Loadings that are likeliest for factors (N, K) of covariance C (N, K, K)."""
        count, width = f.shape[1], G.shape[1]
        one, other = np.triu_indices(count)
        moments = (f[:, :, None] * f[:, None] + C)[:, one, other]
        level, both, slope = (_symmetric(weight.T @ moments, count) for weight in seen.P)
        normal = np.block([[level, both], [both, slope]])
        prior = penalty * count / np.maximum(G[[0, 2]], 1e-12)
        place = np.arange(2 * count)
        normal[:, place, place] += np.repeat(prior, count, axis=0).T
        right = np.concatenate([each.T @ f for each in seen.q(r)], axis=1)
        loadings = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T.reshape(2, count, width)
        # Factors of another covariance than I are the same as other loadings.
        expanded = _symmetric(moments.mean(axis=0)[None], count)[0]
        loadings = np.linalg.cholesky(expanded).T @ loadings
        for part, variance in zip(loadings, G[[0, 2]], strict=True):
            part *= np.sqrt(np.minimum(1.0, SHARED * variance / np.maximum((part**2).sum(axis=0), 1e-300)))
        a, c = loadings
        own = G - np.stack([(a**2).sum(axis=0), (a * c).sum(axis=0), (c**2).sum(axis=0)])
        most = np.sqrt(SHARED * own[0] * own[2])
        own[1] = np.clip(own[1], -most, most)
        return cls(loadings, own)

    @cached_property
    def _products(self) -> np.ndarray:
        """(3 D, K (K + 1) / 2) of loadings: level by level, both ways of level by slope, slope by slope."""
        a, c = self.loadings.transpose(0, 2, 1)
        one, other = np.triu_indices(a.shape[1])
        mixed = a[:, one] * c[:, other] + c[:, one] * a[:, other]
        return np.concatenate([a[:, one] * a[:, other], mixed, c[:, one] * c[:, other]])

    def _doubt(self, seen: _Seen, product: Product) -> np.ndarray:
        """(N, K, K) covariance of the factors given visits."""
        count = self.loadings.shape[1]
        return np.linalg.inv(_symmetric(product(np.concatenate(seen.P, axis=1), self._products), count) + np.eye(count))

    def _factors(self, seen: _Seen, C: np.ndarray, r: np.ndarray, product: Product) -> np.ndarray:
        """(N, K) factors given residual sums r (2, N, D), in units of s2."""
        pull = product(np.concatenate(seen.q(r), axis=1), np.concatenate(self.loadings.transpose(0, 2, 1)))
        return np.asarray((C @ pull[:, :, None])[:, :, 0])

    def mean_steps(self, visits: VisitSums, person: np.ndarray, s2: np.ndarray) -> Iterator[np.ndarray]:
        """Steps (2, p, D) towards the likeliest means of levels and slopes by what is known of people (N, p).

        The means of factors by the same are steps of their own, and part of these by the loadings: where factors are
        well known, means that are estimated given them creep (Liu, Rubin and Wu 1998).
        """
        seen, r = _Seen.of(visits.n, self.own, s2), visits.r / s2
        n, C = seen.S, self._doubt(seen, np.matmul)
        p, P = person.shape[1], seen.P
        level, both, slope = (weighted_products(person, each) for each in P)
        normal = np.block([[level, both], [both, slope]])
        size = np.einsum("dpp->dp", normal)
        place = np.arange(2 * p)
        # Nothing moves a mean that nobody tells of.
        normal[:, place, place] += PRIOR_ROWS * size + 1e-9 * size.max(axis=1, keepdims=True) + 1e-300
        solver, regression = np.linalg.inv(normal), np.linalg.pinv(person)
        for _ in range(MEAN_ROUNDS):
            f = self._factors(seen, C, r, np.matmul)
            a, c = (f @ part for part in self.loadings)
            score = [q - P[k] * a - P[k + 1] * c for k, q in enumerate(seen.q(r))]
            right = np.concatenate([person.T @ each for each in score])
            step = np.einsum("dqr,rd->qd", solver, right).reshape(2, p, -1) + (regression @ f) @ self.loadings
            yield step
            moved = person @ step
            r = r - np.stack([n[0] * moved[0] + n[1] * moved[1], n[1] * moved[0] + n[2] * moved[1]])

    def posterior(self, visits: VisitSums, s2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Level (N, D), slope (N, D) and variances (3, N, D), each person independent of the others."""
        seen, r = _Seen.of(visits.n, self.own, s2), visits.r / s2
        C = self._doubt(seen, matmul)
        f = self._factors(seen, C, r, matmul)
        a, c = (matmul(f, part) for part in self.loadings)
        one, other = np.triu_indices(C.shape[1])
        packed = C[:, one, other] * np.where(one == other, 1.0, 2.0)
        aa, ac, cc = np.split(matmul(packed, np.ascontiguousarray(self._products.T)), 3, axis=1)
        ac *= 0.5
        # Of w + A f, with M = I - V S / s2 of A f left: V + M A C A' M'.
        (m00, m01), (m10, m11) = seen.left
        V = seen.V
        variance = np.stack(
            [
                V[0] + m00**2 * aa + 2.0 * m00 * m01 * ac + m01**2 * cc,
                V[1] + m00 * m10 * aa + (m00 * m11 + m01 * m10) * ac + m01 * m11 * cc,
                V[2] + m10**2 * aa + 2.0 * m10 * m11 * ac + m11**2 * cc,
            ]
        )
        return m00 * a + m01 * c + V[0] * r[0] + V[1] * r[1], m10 * a + m11 * c + V[1] * r[0] + V[2] * r[1], variance

    def state(self) -> dict[str, Any]:
        return {"loadings": self.loadings, "own": self.own}

    # Without what was kept on the way.
    __getstate__ = state


@dataclass(frozen=True, eq=False)
class _Seen:
    """What visits at known times say of levels and slopes, w being what each feature has alone; (N, D) each.

    V : (3, N, D), variance of w.   S : (3, N, D) sums of 1, the time and its square over visits, in units of s2.
    left : I - V S.   P : (3, N, D), Z' (Z G Z' + s2)^-1 Z with w integrated out: level by level, level by slope, slope
    by slope.
    """

    V: np.ndarray
    S: np.ndarray
    left: np.ndarray
    P: np.ndarray

    @classmethod
    def of(cls, n: np.ndarray, own: np.ndarray, s2: np.ndarray) -> _Seen:
        """n : (3, N, D) as in `VisitSums`."""
        return cls(np.empty_like(n), n / s2, np.empty((2, 2, *n.shape[1:])), np.empty_like(n)).by(n, own, s2)

    def by(self, n: np.ndarray, own: np.ndarray, s2: np.ndarray) -> _Seen:
        """The same visits by other variances, in place; a few people at a time, whose temporaries stay in a cache."""
        for part in slices(n.shape[1], AT_ONCE):
            self.V[:, part] = feature_variance(n[:, part], own, s2)
            S, V, m, P = self.S[:, part], self.V[:, part], self.left[:, :, part], self.P[:, part]
            m[0, 0], m[0, 1] = 1.0 - V[0] * S[0] - V[1] * S[1], -V[0] * S[1] - V[1] * S[2]
            m[1, 0], m[1, 1] = -V[1] * S[0] - V[2] * S[1], 1.0 - V[1] * S[1] - V[2] * S[2]
            P[0], P[1] = S[0] * m[0, 0] + S[1] * m[1, 0], S[0] * m[0, 1] + S[1] * m[1, 1]
            P[2] = S[1] * m[0, 1] + S[2] * m[1, 1]
        return self

    def q(self, r: np.ndarray) -> np.ndarray:
        """(2, N, D), Z' (Z G Z' + s2)^-1 y of residual sums r (2, N, D), in units of s2."""
        found = np.empty_like(r)
        for part in slices(r.shape[1], AT_ONCE):
            (m00, m01), (m10, m11) = self.left[:, :, part]
            level, slope = r[:, part]
            found[0, part], found[1, part] = m00 * level + m10 * slope, m01 * level + m11 * slope
        return found


def _symmetric(packed: np.ndarray, count: int) -> np.ndarray:
    """(R, K, K) of upper triangles (R, K (K + 1) / 2)."""
    one, other = np.triu_indices(count)
    found = np.empty((len(packed), count, count))
    found[:, one, other] = found[:, other, one] = packed
    return found


def _leading(values: np.ndarray, count: int) -> np.ndarray:
    """(N, K) scores of values (N, D) on their leading directions, of variance one."""
    centred = values - values.mean(axis=0)
    people, width = centred.shape
    gram = centred @ centred.T if people < width else centred.T @ centred
    vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    scores = vectors if people < width else centred @ vectors
    return np.asarray(scores / np.maximum(np.sqrt((scores**2).mean(axis=0)), 1e-12))
