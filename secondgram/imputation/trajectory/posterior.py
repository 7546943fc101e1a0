"""Level and slope of a person given visits, each feature by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Posterior:
    """Level and slope of N people and D features given what is known of them.

    level, slope : (N, D) expected.  variance : (3, N, D) of the level, of both, and of the slope.
    """

    level: np.ndarray
    slope: np.ndarray
    variance: np.ndarray

    def take(self, people: np.ndarray) -> Posterior:
        """Of the people at these positions."""
        return Posterior(self.level[people], self.slope[people], self.variance[:, people])

    def replaced(self, people: np.ndarray, other: Posterior) -> Posterior:
        """The same, and another one of the people at these positions."""
        level, slope, variance = self.level.copy(), self.slope.copy(), self.variance.copy()
        level[people], slope[people], variance[:, people] = other.level, other.slope, other.variance
        return Posterior(level, slope, variance)

    def at(self, time: np.ndarray) -> np.ndarray:
        """(N, D) what is expected at a time (N,) of each person."""
        return np.asarray(self.level + time[:, None] * self.slope)


@dataclass(frozen=True, eq=False)
class VisitSums:
    """Sums over the visits of a person at which a feature is known.

    n : (3, N, D) of 1, the time and its square.  r : (2, N, D) of residuals, and of the time times these.
    """

    n: np.ndarray
    r: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, time: np.ndarray, level: np.ndarray, slope: np.ndarray) -> VisitSums:
        """Of values (N, V, D), NaN where missing, at times (N, V), less level + time * slope, (N, D) each."""
        r, n = np.zeros((2, *level.shape)), np.zeros((3, *level.shape))
        for visit in range(values.shape[1]):
            y = values[:, visit].astype(float)
            seen = np.isfinite(y)
            t = np.where(np.isfinite(time[:, visit]), time[:, visit], 0.0)[:, None]
            rest = np.where(seen, y - level - t * slope, 0.0)
            r += rest * np.stack([np.ones_like(t), t])
            n += seen * np.stack([np.ones_like(t), t, t**2])
        return cls(n, r)


def weighted_products(person: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D, p, p) sums over people of person (N, p) times itself, by each feature's weight (N, D)."""
    p = person.shape[1]
    products = np.einsum("np,nq->npq", person, person).reshape(-1, p * p)
    return np.asarray((products.T @ weight).T.reshape(-1, p, p))


def feature_variance(n: tuple[np.ndarray, ...] | np.ndarray, G: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """(3, N, D) of level, of both, and of slope: (I + G S / s2)^-1 G, with S = [[n, t1], [t1, t2]].

    G (3, D) is their variance before and s2 (D,) that of an error. This form has no inverse of G, so that slopes may
    not vary at all.
    """
    count, t1, t2 = (each / s2 for each in n)
    g0, g01, g1 = G
    # A = I + G S
    a, b = 1.0 + g0 * count + g01 * t1, g0 * t1 + g01 * t2
    c, d = g01 * count + g1 * t1, 1.0 + g01 * t1 + g1 * t2
    size = a * d - b * c
    return np.stack([(d * g0 - b * g01) / size, (d * g01 - b * g1) / size, (a * g1 - c * g01) / size])


def feature_posterior(
    n: tuple[np.ndarray, ...] | np.ndarray, r: np.ndarray, G: np.ndarray, s2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level (N, D), slope (N, D) and variances (3, N, D) as `feature_variance` gives them."""
    V = feature_variance(n, G, s2)
    r0, r1 = r / s2
    return V[0] * r0 + V[1] * r1, V[1] * r0 + V[2] * r1, V


@dataclass(frozen=True, eq=False)
class Doubt:
    """What is left in doubt of the levels and slopes of N people: variance (3, N, D) as in `Posterior`, s2 (D,) of an
    error. What two measurements of a person share is this; errors are each its own."""

    variance: np.ndarray
    s2: np.ndarray

    def take(self, people: np.ndarray) -> Doubt:
        """Of the people at these positions."""
        return Doubt(self.variance[:, people], self.s2)

    def shared(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(N, D) covariance of measurements at two times (N,) of each person."""
        level, both, slope = self.variance
        a, b = one[:, None], other[:, None]
        return np.asarray(level + (a + b) * both + a * b * slope)

    def at(self, time: np.ndarray) -> np.ndarray:
        """(N, D) variance of a measurement at a time (N,)."""
        return np.asarray(self.shared(time, time) + self.s2)

    def given(self, times: np.ndarray, measured: np.ndarray) -> Doubt:
        """After measurements at times (E, N) of the cells (E, N, D) that are true."""
        t = times[:, :, None]
        n = np.stack([(measured * t**power).sum(axis=0) for power in (0, 1, 2)])
        return Doubt(feature_variance(n, self.variance, self.s2), self.s2)
