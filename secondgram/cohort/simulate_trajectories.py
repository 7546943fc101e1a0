"""Mode `trajectories` of the simulator: many visits with holes, and the exact posterior of any given any others.

    y_j(t) = mean_j(t) + L_j' f + t S_j' (h + f / 2) + u_j + t v_j + o_j(t) + site + e_j(t)

with factors f (12) and h (4) that features share, a level u and a slope v of each feature's own, an Ornstein-Uhlenbeck
part o of covariance `wander`^2 exp(-|t - t'| / 2 years), and an error of measurement e. Given f and h features are
independent, so that no matrix is larger than a person's visits or the 16 factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .simulate_linear import FACTORS, SLOPE_FACTORS, UNIQUE_VARIANCE, LinearModel, linear_model
from .simulate_people import People, chunks, sigmoid

# Years between two visits, and by how much each is early or late.
SPACING, JITTER = 1.5, 0.35
# Chance that somebody who takes part misses a visit; of drop-out at each visit; of a move to another site.
MISSED, DROPPED, MOVED = 0.15, 0.1, 0.1
# Share of a slope's variance that is each feature's own.
OWN_SLOPE = 0.5
# Of the true spread, what a measurement errs by at least as the posterior is computed.
LEAST_ERROR = 1e-5
# SD of a site's offset, in spreads; years in which the Ornstein-Uhlenbeck part forgets all but 1 / e.
SITE_SPREAD, MEMORY = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class TrajectoryWorld:
    """Parameters; `model` as in mode `gaussian`, its slopes scaled.

    slope_noise : (D,) SD of a feature's own slope, original units a year.   wander : (D,) SD of o, original units.
    sites : the S names, and offsets (S, D) in original units; none where there is one scanner.
    """

    model: LinearModel
    slope_noise: np.ndarray
    wander: np.ndarray
    sites: tuple[str, ...]
    offsets: np.ndarray

    @classmethod
    def drawn(
        cls,
        width: int,
        reliability: tuple[float, float],
        slope: float,
        wander: float,
        sites: int,
        random: dict[str, np.random.Generator],
    ) -> TrajectoryWorld:
        """slope : SD of a slope in spreads a year;  wander : SD of o in spreads."""
        model = linear_model(width, reliability, False, random["model"])
        shared = np.sqrt(1.25 * (model.slope_loadings**2).sum(axis=0))
        loadings = model.slope_loadings * (slope * np.sqrt(1.0 - OWN_SLOPE) / shared)
        offsets = SITE_SPREAD * random["site"].standard_normal((sites, width)) * model.spread
        return cls(
            replace(model, slope_loadings=loadings),
            slope * np.sqrt(OWN_SLOPE) * model.spread,
            wander * model.spread,
            tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:sites]) if sites > 1 else (),
            offsets if sites > 1 else np.zeros((0, width)),
        )

    def loadings(self, times: np.ndarray) -> np.ndarray:
        """(V, D, 16) of f and h on what is measured at times (V,)."""
        slopes = self.model.slope_loadings * self.model.spread
        tilt = np.zeros_like(self.model.loadings)
        tilt[1 : 1 + SLOPE_FACTORS] = slopes / 2
        level = np.concatenate([self.model.loadings, np.zeros_like(slopes)]).T
        return level + times[:, None, None] * np.concatenate([tilt, slopes]).T

    def own(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(D, V, W) covariance of u + t v + o between times (V,) and (W,)."""
        memory = np.exp(-np.abs(one[:, None] - other) / MEMORY)
        products = one[:, None] * other
        return (
            UNIQUE_VARIANCE + self.slope_noise[:, None, None] ** 2 * products + self.wander[:, None, None] ** 2 * memory
        )

    def expected(self, people: People, times: np.ndarray, sites: np.ndarray | None) -> np.ndarray:
        """(N, V, D) given covariates, times (N, V) and sites (N, V)."""
        yearly = self.model.change_mean(replace(people, gap=np.ones(len(people))))
        mean = self.model.baseline_mean(people)[:, None] + times[:, :, None] * yearly[:, None]
        if sites is None or not self.sites:
            return np.asarray(mean)
        place = np.searchsorted(self.sites, sites.astype(str))
        return np.asarray(mean + self.offsets[place])

    def draw(
        self,
        people: People,
        times: np.ndarray,
        sites: np.ndarray | None,
        random: dict[str, np.random.Generator],
        values: np.ndarray,
    ) -> None:
        """Fill values (N, V, D) with what is measured at times (N, V), nothing missing."""
        width = len(self.model.spread)
        slopes = self.model.slope_loadings * self.model.spread
        for rows in chunks(len(people), width):
            part, when = people.part(rows), times[rows]
            shape = (len(part), width)
            factors = random["factors"].standard_normal((len(part), FACTORS))
            slope = random["slope factors"].standard_normal((len(part), SLOPE_FACTORS))
            level = factors @ self.model.loadings
            level += np.sqrt(UNIQUE_VARIANCE) * random["unique"].standard_normal(shape)
            yearly = (slope + factors[:, 1 : 1 + SLOPE_FACTORS] / 2) @ slopes
            yearly += self.slope_noise * random["slope noise"].standard_normal(shape)
            expected = self.expected(part, when, None if sites is None else sites[rows])
            wander = self.wander * random["baseline error"].standard_normal(shape)
            for visit in range(times.shape[1]):
                if visit:
                    kept = np.exp(-np.abs(when[:, visit] - when[:, visit - 1]) / MEMORY)[:, None]
                    fresh = self.wander * random["baseline error"].standard_normal(shape)
                    wander = kept * wander + np.sqrt(1.0 - kept**2) * fresh
                error = self.model.error * random["followup error"].standard_normal(shape)
                values[rows, visit] = expected[:, visit] + level + when[:, visit, None] * yearly + wander + error

    def posterior(
        self,
        people: People,
        visits: np.ndarray,
        times: np.ndarray,
        at: np.ndarray,
        sites: np.ndarray | None = None,
        at_sites: np.ndarray | None = None,
    ) -> TrajectoryPosterior:
        """Of measurements at times `at` (N, K) given visits (N, V, D), NaN where not known, at times (N, V).

        sites : (N, V) of the known visits, at_sites (N, K) of the others. Exact, however cells are missing.
        """
        left = visits - self.expected(people, times, sites)
        mean = self.expected(people, at, at_sites)
        found = [self._of_one(left[row], times[row], at[row]) for row in range(len(left))]
        shift, factor, own = (np.stack(each) for each in zip(*found, strict=True))
        return TrajectoryPosterior(mean + shift, factor, own)

    def _of_one(self, left: np.ndarray, times: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, ...]:
        """Shift (K, D), factor (K, D, 16) and own covariance (D, K, K), from residuals (V, D)."""
        seen = np.isfinite(left).T  # [features, visits]
        r = np.where(seen, left.T, 0.0)[:, :, None]
        A = np.where(seen[:, :, None], self.loadings(times).transpose(1, 0, 2), 0.0)
        # Without any error, visits of a person tell each other exactly, and the matrix has no inverse.
        error = np.maximum(self.model.error, LEAST_ERROR * self.model.spread)[:, None, None] ** 2
        # A cell that is not known is independent of all others, and 0.
        both = seen[:, :, None] & seen[:, None]
        C = np.where(both, self.own(times, times), 0.0) + np.where(both, error, 1.0) * np.eye(len(times))
        cross = np.where(seen[:, None], self.own(at, times), 0.0)
        gain = np.linalg.solve(C, cross.transpose(0, 2, 1)).transpose(0, 2, 1)  # [features, K, visits]
        weighted = np.linalg.solve(C, A)
        precision = np.eye(A.shape[2]) + np.einsum("dvp,dvq->pq", A, weighted)
        covariance = np.linalg.inv(precision)
        factors = covariance @ np.einsum("dvp,dvk->p", weighted, r)
        B = self.loadings(at).transpose(1, 0, 2) - gain @ A
        shift = (gain @ r)[:, :, 0] + B @ factors
        own = self.own(at, at) - gain @ cross.transpose(0, 2, 1) + error * np.eye(len(at))
        return shift.T, (B @ np.linalg.cholesky(covariance)).transpose(1, 0, 2), own


@dataclass(frozen=True, eq=False)
class TrajectoryPosterior:
    """Normal distributions of K measurements of N people and D features, jointly.

    mean : (N, K, D).   factor : (N, K, D, 16), what is shared by visits and features.   own : (N, D, K, K), covariance
    of what is each feature's own. (k, d) and (l, e) have covariance factor_kd . factor_le, and own_dkl more if d = e.
    """

    mean: np.ndarray
    factor: np.ndarray
    own: np.ndarray

    def covariance(self, one: int, other: int) -> np.ndarray:
        """(N, D) of two of the K measurements of each feature."""
        return np.asarray((self.factor[:, one] * self.factor[:, other]).sum(axis=2) + self.own[:, :, one, other])

    def standard_deviation(self) -> np.ndarray:
        """(N, K, D)."""
        return np.sqrt(np.stack([self.covariance(k, k) for k in range(self.mean.shape[1])], axis=1))

    def draws(self, draws: int, seed: int = 0) -> np.ndarray:
        """(M, N, K, D) exact draws."""
        rng = np.random.default_rng(seed)
        root = np.linalg.cholesky(self.own)
        out = np.empty((draws, *self.mean.shape))
        for draw in range(draws):
            z = rng.standard_normal((len(self.mean), self.factor.shape[3]))
            own = np.einsum("ndkl,nld->nkd", root, rng.standard_normal(self.mean.shape))
            out[draw] = self.mean + np.einsum("nkdp,np->nkd", self.factor, z) + own
        return out


def visit_times(count: int, visits: int, rng: np.random.Generator) -> np.ndarray:
    """(N, V) years after the first visit: 1.5 years apart, each a third of a year early or late."""
    late = rng.uniform(-JITTER, JITTER, (count, visits))
    late[:, 0] = 0.0
    return np.asarray(SPACING * np.arange(visits) + late)


def attended(
    count: int, visits: int, returns: np.ndarray, health: np.ndarray, dropout: float, rng: np.random.Generator
) -> np.ndarray:
    """(N, V) bool: who came to which visit.

    returns : (N,) bool, who comes back at all.  health : (N, V), of measured values, mean 0 and SD 1 at each visit.
    dropout : log odds of leaving for good per SD of the health that was last seen; 0 and nobody leaves.

    Attendance rests on measured values alone: visits are missing at random.
    """
    came = np.zeros((count, visits), dtype=bool)
    came[:, 0] = True
    there = rng.random((count, visits)) >= MISSED
    leaving, last = rng.random((count, visits)), health[:, 0].copy()
    gone = ~returns
    for visit in range(1, visits):
        if dropout:
            chance = sigmoid(np.log(DROPPED / (1 - DROPPED)) - dropout * last)
            gone = gone | (leaving[:, visit] < chance)
        came[:, visit] = there[:, visit] & ~gone
        last = np.where(came[:, visit], health[:, visit], last)
    if not dropout:
        # Whoever comes back misses not all of the visits.
        none = returns & ~came[:, 1:].any(axis=1)
        came[none, visits - 1] = True
    return came


def visit_sites(names: tuple[str, ...], count: int, visits: int, rng: np.random.Generator) -> np.ndarray | None:
    """(N, V) text: everybody starts somewhere, and may be elsewhere from some visit on."""
    if not names:
        return None
    place = rng.integers(len(names), size=(count, visits))
    moves = rng.random((count, visits)) < MOVED
    for visit in range(1, visits):
        place[:, visit] = np.where(moves[:, visit], place[:, visit], place[:, visit - 1])
    return np.array(names, dtype=object)[place]
