"""A linear mixed model for each feature: what most longitudinal studies use."""

from __future__ import annotations

import numpy as np

from ...cohort.table import Cohort
from ...diffusion.noise import Purpose
from ...imputation.context import Context
from ...imputation.history import History, years
from ...imputation.model_data import People, TrainingPairs
from ...ops.noise import normals
from .baseline import Baseline

ROUNDS = 300
# Relative change of every variance at which the rounds end.
CLOSE = 1e-4
# Rows' worth of "no dependence" that keep collinear columns apart.
PRIOR_ROWS = 1e-3
ROWS_AT_ONCE = 512


class MixedModel(Baseline):
    """y_it = x_it' beta + u_i + v_i t + e_it, feature by feature, over every visit of every training person.

    x holds 1, covariates, time and their products; (u, v) is a person's random intercept and slope, N(0, G), and e is
    N(0, s2). Maximum likelihood by EM (Laird and Ware 1982), all features at once. A follow-up is predicted by its
    normal distribution given the measured baseline of that feature, or given all of its visits that are shown; features
    are independent of each other. Where no times are recorded, visits are one year apart.
    """

    def fit(self, train: Cohort, seed: int) -> MixedModel:
        self.pairs = TrainingPairs.of(train, every=False)
        self.context = Context.fit(train, self.pairs)
        self.width = len(train.features)
        first = train.take(train.scanned).on_one_site()
        times = years(first)
        values = np.stack(
            [self.context.scaling.apply(first.visits[:, slot], first.site) for slot in range(first.visits.shape[1])],
            axis=1,
        )
        static = self.context.encoder.transform(first.covariate_table, first.source)
        apart = times - times[:, :1]
        self.usual_gap = float(np.nanmedian(apart[:, 1:][np.isfinite(values[:, 1:]).any(axis=2)]))
        # In usual gaps, so that intercept and slope are of one size; a visit without a time is one of them away.
        time = np.where(np.isfinite(apart), apart / self.usual_gap, np.arange(apart.shape[1]) > 0)
        self._estimate(values, time, static)
        return self

    def _estimate(self, values: np.ndarray, time: np.ndarray, static: np.ndarray) -> None:
        """values (N, V, D) with NaN, time (N, V), static (N, C)."""
        seen = np.isfinite(values)
        y = np.where(seen, values, 0.0)
        F = _fixed(time, static)  # [people, visits, columns]
        solver = _solver(F, seen)
        cells, people = seen.sum(axis=(0, 1)), seen.any(axis=1).sum(axis=0)
        n, t1, t2 = (np.einsum("nv,nvd->nd", time**power, seen) for power in (0, 1, 2))
        mu = np.zeros((2, *n.shape))
        self.s2 = 0.3 * np.ones(self.width)
        self.G = np.stack([0.5 * np.ones(self.width), np.zeros(self.width), 0.05 * np.ones(self.width)])
        for _ in range(ROUNDS):
            random = mu[0][:, None] + mu[1][:, None] * time[:, :, None]
            self.beta = np.einsum("dpq,qd->pd", solver, np.einsum("nvq,nvd->qd", F, (y - random) * seen))
            r = (y - np.einsum("nvq,qd->nvd", F, self.beta)) * seen
            b0, b1 = r.sum(axis=1), np.einsum("nv,nvd->nd", time, r)
            mu, V = self._posterior(n, t1, t2, b0, b1)
            fit = mu[0] * b0 + mu[1] * b1
            again = mu[0] ** 2 * n + 2 * mu[0] * mu[1] * t1 + mu[1] ** 2 * t2
            doubt = V[0] * n + 2 * V[1] * t1 + V[2] * t2
            known = n > 0
            moments = (mu[0] ** 2 + V[0], mu[0] * mu[1] + V[1], mu[1] ** 2 + V[2])
            G = np.stack([np.where(known, each, 0.0).sum(axis=0) / people for each in moments])
            s2 = ((r**2).sum(axis=(0, 1)) + (again + doubt - 2 * fit).sum(axis=0)) / cells
            s2 = np.maximum(s2, 1e-8)
            moved = max(np.abs(s2 / self.s2 - 1).max(), np.abs(G[[0, 2]] / self.G[[0, 2]] - 1).max())
            self.G, self.s2 = G, s2
            if moved < CLOSE:
                break

    def _posterior(
        self, n: np.ndarray, t1: np.ndarray, t2: np.ndarray, b0: np.ndarray, b1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means (2, N, D) and covariances (3, N, D) of intercept and slope, given sums over a person's visits."""
        g0, g01, g1 = self.G
        size = np.maximum(g0 * g1 - g01**2, 1e-14)
        a, b, c = g1 / size + n / self.s2, -g01 / size + t1 / self.s2, g0 / size + t2 / self.s2
        det = a * c - b**2
        V = np.stack([c / det, -b / det, a / det])
        return np.stack([V[0] * b0 + V[1] * b1, V[1] * b0 + V[2] * b1]) / self.s2, V

    def _conditional(self, people: People) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (N, D), scaled, of the follow-up given measured cells of the baseline or of all visits."""
        if people.history is not None:
            return self._given_all(people, people.history)
        baseline = self.context.scaling.apply(people.baseline, people.site)
        time = np.where(np.isfinite(people.gap), people.gap, self.usual_gap)[:, None] / self.usual_gap
        static = self.context.encoder.transform(people.table, people.source)
        before, after = (_fixed(t, static)[:, 0] @ self.beta for t in (0.0 * time, time))
        g0, g01, g1 = self.G
        spread = g0 + 2 * time * g01 + time**2 * g1 + self.s2
        seen = np.isfinite(baseline)
        shared = np.where(seen, g0 + time * g01, 0.0)
        pull = shared / (g0 + self.s2)
        surprise = np.where(seen, baseline - before, 0.0)
        return after + pull * surprise, np.maximum(spread - pull * shared, 1e-12)

    def _given_all(self, people: People, history: History) -> tuple[np.ndarray, np.ndarray]:
        static = self.context.encoder.transform(people.table, people.source)
        sums = np.zeros((5, len(people), self.width))
        for visit in range(history.visits.shape[1]):
            site = people.site if history.sites is None else history.sites[:, visit]
            y = self.context.scaling.apply(history.visits[:, visit], site)
            time = np.nan_to_num(history.times[:, visit], nan=visit * self.usual_gap)[:, None] / self.usual_gap
            seen = np.isfinite(y)
            r = np.where(seen, y - _fixed(time, static)[:, 0] @ self.beta, 0.0)
            sums += np.stack([seen, seen * time, seen * time**2, r, time * r])
        mu, V = self._posterior(*sums)
        at = np.where(np.isfinite(history.at), history.at, people.gap)[:, None] / self.usual_gap
        mean = _fixed(at, static)[:, 0] @ self.beta + mu[0] + at * mu[1]
        return mean, np.maximum(V[0] + 2 * at * V[1] + at**2 * V[2] + self.s2, 1e-12)

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        return self.context.scaling.invert(self._conditional(people)[0], people.site)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        mean, variance = self._conditional(people)
        z = normals(people.keys, self.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws, dtype=np.float64)
        return self.context.scaling.invert(mean + np.sqrt(variance) * z, people.site)


def _fixed(time: np.ndarray, static: np.ndarray) -> np.ndarray:
    """(N, V, 2 + 2 C): 1, covariates, time, and covariates times time."""
    constant = np.concatenate([np.ones((len(static), 1)), static], axis=1)
    still = np.broadcast_to(constant[:, None], (*time.shape, constant.shape[1]))
    return np.concatenate([still, still * time[:, :, None]], axis=2)


def _solver(F: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(D, q, q) inverses of the normal matrices of every feature over its own known cells."""
    rows, mask = F.reshape(-1, F.shape[2]), seen.reshape(-1, seen.shape[2]).astype(float)
    q = rows.shape[1]
    total = np.zeros((q * q, mask.shape[1]))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        total += np.einsum("rp,rq->rpq", part, part).reshape(len(part), -1).T @ mask[start : start + ROWS_AT_ONCE]
    normal = total.T.reshape(-1, q, q)
    usual = np.maximum(np.einsum("dqq->d", normal) / q, 1e-12)
    return np.linalg.inv(normal + (PRIOR_ROWS * usual / len(rows))[:, None, None] * np.eye(q))
