"""How levels and slopes of all features go together in a person: a factor model within the anchor.

    (u_ij, s_ij) = A_j f_i + w_ij,   f_i ~ N(0, I_K),   w_ij ~ N(0, G_j - A_j A_j')

G_j and the errors are the anchor's, so that each feature alone has the distribution that it had; loadings A_j (2, K)
say what features tell of each other. They are estimated with w integrated out, by ECM with expanded parameters (Meng
and Rubin 1993; Liu, Rubin and Wu 1998): given the factors features are independent, and the weight of a person's visits
is 2 x 2 for each. `statement.py` has the dense form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...ops.row_tiles import matmul
from .posterior import VisitSums, conditioned

# Factors, and those of them that begin as directions of slopes: at most, features for each, and people for each.
FACTORS, SLOPE_FACTORS = 24, 8
FEATURES_EACH, PEOPLE_EACH = 2, 5
ROUNDS = 8
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
        level, slope, _ = conditioned(visits.n, visits.r, G, s2)
        slope = slope / np.sqrt(np.maximum(G[2], 1e-12))
        of_slopes = min(SLOPE_FACTORS, count // 3)
        f = _leading(level / np.sqrt(G[0]), count - of_slopes)
        if of_slopes:
            slope = slope - f @ (f.T @ slope) / people
            f = np.concatenate([f, _leading(slope, of_slopes)], axis=1)
        C = np.zeros((people, count, count))
        # Halfway, of which nothing but the first weights depends.
        given = _Weights(visits, G * np.array([0.5, 0.0, 0.7])[:, None], s2)
        found = None
        for _ in range(ROUNDS):
            found = cls._step(given, f, C, G, penalty)
            given = _Weights(visits, found.own, s2)
            f, C = found._factors(given, np.matmul)
        return found

    @classmethod
    def _step(cls, given: _Weights, f: np.ndarray, C: np.ndarray, G: np.ndarray, penalty: float) -> Factors:
        """Loadings that are likeliest for factors (N, K) of covariance C (N, K, K)."""
        count, width = f.shape[1], G.shape[1]
        one, other = np.triu_indices(count)
        moments = (f[:, :, None] * f[:, None] + C)[:, one, other]
        level, both, slope = (_symmetric(weight.T @ moments, count) for weight in given.P)
        normal = np.block([[level, both], [both, slope]])
        prior = penalty * count / np.maximum(G[[0, 2]], 1e-12)
        place = np.arange(2 * count)
        normal[:, place, place] += np.repeat(prior, count, axis=0).T
        right = np.concatenate([each.T @ f for each in given.q], axis=1)
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

    def _factors(self, given: _Weights, product: Product) -> tuple[np.ndarray, np.ndarray]:
        """Factors (N, K) and their covariance (N, K, K) given visits."""
        count = self.loadings.shape[1]
        precision = _symmetric(product(np.concatenate(given.P, axis=1), self._products), count) + np.eye(count)
        pull = product(np.concatenate(given.q, axis=1), np.concatenate(self.loadings.transpose(0, 2, 1)))
        C = np.linalg.inv(precision)
        return (C @ pull[:, :, None])[:, :, 0], C

    def posterior(self, visits: VisitSums, s2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Level (N, D), slope (N, D) and variances (3, N, D), each person independent of the others."""
        given = _Weights(visits, self.own, s2)
        f, C = self._factors(given, matmul)
        a, c = (matmul(f, part) for part in self.loadings)
        n, V = visits.n, given.V
        left = (visits.r - np.stack([n[0] * a + n[1] * c, n[1] * a + n[2] * c])) / s2
        level, slope = a + V[0] * left[0] + V[1] * left[1], c + V[1] * left[0] + V[2] * left[1]
        one, other = np.triu_indices(C.shape[1])
        packed = C[:, one, other] * np.where(one == other, 1.0, 2.0)
        aa, ac, cc = np.split(matmul(packed, np.ascontiguousarray(self._products.T)), 3, axis=1)
        ac *= 0.5
        # Of w + A f, with M = I - V S / s2 of A f left: V + M A C A' M'.
        (m00, m01), (m10, m11) = given.left()
        variance = np.stack(
            [
                V[0] + m00**2 * aa + 2.0 * m00 * m01 * ac + m01**2 * cc,
                V[1] + m00 * m10 * aa + (m00 * m11 + m01 * m10) * ac + m01 * m11 * cc,
                V[2] + m10**2 * aa + 2.0 * m10 * m11 * ac + m11**2 * cc,
            ]
        )
        return level, slope, variance

    def state(self) -> dict[str, Any]:
        return {"loadings": self.loadings, "own": self.own}


class _Weights:
    """What visits say of the factors by each feature, w being integrated out.

    P : (3, N, D), Z' (Z G Z' + s2)^-1 Z.   q : (2, N, D), Z' (Z G Z' + s2)^-1 y.   V : (3, N, D), variance of w.
    """

    def __init__(self, visits: VisitSums, own: np.ndarray, s2: np.ndarray) -> None:
        level, slope, self.V = conditioned(visits.n, visits.r, own, s2)
        self.S = S = visits.n / s2
        (m00, m01), (m10, m11) = self.left()
        self.P = np.stack([S[0] * m00 + S[1] * m10, S[0] * m01 + S[1] * m11, S[1] * m01 + S[2] * m11])
        self.q = visits.r / s2 - np.stack([S[0] * level + S[1] * slope, S[1] * level + S[2] * slope])

    def left(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """I - V S / s2, (N, D) each."""
        S, V = self.S, self.V
        return (
            (1.0 - V[0] * S[0] - V[1] * S[1], -V[0] * S[1] - V[1] * S[2]),
            (-V[1] * S[0] - V[2] * S[1], 1.0 - V[1] * S[1] - V[2] * S[2]),
        )


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
