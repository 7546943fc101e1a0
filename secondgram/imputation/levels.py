"""Missing cells of one person, some of which are levels: a category, or a number that has two values.

Numbers are Gaussian given the levels; a level has its expected share, weighed by how well it agrees with what is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr

from ..cohort.scaling import CovariateEncoder

# Combinations of levels that are summed over; where there are more, what is left of them counts as Gaussian.
COMBINATIONS = 256


@dataclass(frozen=True, eq=False)
class Group:
    """One covariate that has L levels.

    columns (c,) : its places among the missing cells;  values (L, c) : what the levels are there, less the expectation.
    share (L,) : of the levels, as expected;  by (L, c) : how it changes with the expectation of the columns.
    """

    columns: np.ndarray
    values: np.ndarray
    share: np.ndarray
    by: np.ndarray

    def shares(self, moved: np.ndarray) -> np.ndarray:
        """(L,) of the levels where the columns (c,) are expected to be so much further."""
        found = np.clip(self.share + self.by @ moved, 0.0, 1.0)
        return found / found.sum() if found.sum() > 0 else np.full(len(found), 1.0 / len(found))


def groups(encoder: CovariateEncoder, gone: np.ndarray, expected: np.ndarray, first: int) -> list[Group]:
    """Missing covariates with levels; gone, expected (C,), encoded;  first : how many missing cells precede these."""
    place = first + np.cumsum(gone) - 1
    raw = encoder.shift + encoder.scale * expected
    found = []
    for name, where in encoder.places.items():
        levels, two = encoder.columns[name], encoder.two.get(name)
        if not gone[where].any() or (levels is None and two is None):
            continue
        scale, mine = encoder.scale[where], raw[where]
        if two is None:
            values, share, by = np.eye(len(mine)), mine, np.diag(scale)
        else:
            high, unit = (mine[0] - two[0]) / (two[1] - two[0]), scale[0] / (two[1] - two[0])
            values, share, by = np.array(two)[:, None], np.array([1.0 - high, high]), np.array([[-unit], [unit]])
        found.append(Group(place[where], (values - mine) / scale, share, by))
    return found


@dataclass(frozen=True, eq=False)
class MixedCells:
    """The n missing cells of a person, less their expectations given the rest of the visit.

    precision (n, n) : of them as a Gaussian.  linear (n,), quadratic (n, n) : of the log-likelihood of something else
        that is known, linear' m - m' quadratic m / 2; zeros where nothing is.
    groups : those with levels.
    """

    precision: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray
    groups: list[Group]
    _known: dict[tuple[int, ...], tuple[np.ndarray, float]] = field(default_factory=dict, repr=False)

    def draws(self, z: np.ndarray) -> np.ndarray:
        """(n, M) from normals z (n, M), the last column of a group deciding its level."""
        chosen = np.zeros((0, z.shape[1]), dtype=int)
        for group in self.groups:
            below = ndtr(z[group.columns[-1]])
            level = np.empty(z.shape[1], dtype=int)
            for prefix in np.unique(chosen, axis=1).T:
                mine = (chosen == prefix[:, None]).all(axis=0)
                ends = np.cumsum(self.weights(tuple(map(int, prefix))))
                level[mine] = np.minimum(np.searchsorted(ends, below[mine], side="right"), len(ends) - 1)
            chosen = np.concatenate([chosen, level[None]])
        found = np.empty_like(z)
        for levels in np.unique(chosen, axis=1).T:
            mine = (chosen == levels[:, None]).all(axis=0)
            fixed, values = self._fixed(tuple(map(int, levels)))
            found[np.ix_(fixed, mine)] = values[:, None]
            if (~fixed).any():
                mean, total = self._numbers(fixed, values)
                # total = L L', so L'^-1 z has covariance total^-1.
                found[np.ix_(~fixed, mine)] = mean[:, None] + np.linalg.solve(
                    np.linalg.cholesky(total).T, z[np.ix_(~fixed, mine)]
                )
        return found

    def mean(self) -> np.ndarray:
        """(n,) expectation."""
        if self._combinations(()) > COMBINATIONS:
            return np.linalg.solve(self.precision + self.quadratic, self.linear)
        found = np.zeros(len(self.linear))
        for weight, levels in self._leaves(()):
            fixed, values = self._fixed(levels)
            found[fixed] += weight * values
            if (~fixed).any():
                found[~fixed] += weight * self._numbers(fixed, values)[0]
        return found

    def _combinations(self, levels: tuple[int, ...]) -> float:
        """Of the levels of the groups after these."""
        return float(np.prod([len(group.values) for group in self.groups[len(levels) :]]))

    def _leaves(self, levels: tuple[int, ...]) -> Iterator[tuple[float, tuple[int, ...]]]:
        if len(levels) == len(self.groups):
            yield 1.0, levels
            return
        for level, weight in enumerate(self.weights(levels)):
            for more, whole in self._leaves((*levels, level)) if weight > 0 else ():
                yield float(weight) * more, whole

    def weights(self, levels: tuple[int, ...]) -> np.ndarray:
        """Probabilities of the levels of the next group, given those of the groups before it."""
        return self._next(levels)[0]

    def _next(self, levels: tuple[int, ...]) -> tuple[np.ndarray, float]:
        """`weights`, and the log-likelihood of what else is known with these levels, summed over those that follow."""
        if levels not in self._known:
            self._known[levels] = self._of_next(levels)
        return self._known[levels]

    def _of_next(self, levels: tuple[int, ...]) -> tuple[np.ndarray, float]:
        group = self.groups[len(levels)]
        fixed, values = self._fixed(levels)
        expected = np.zeros(len(self.linear))
        expected[~fixed] = -np.linalg.solve(
            self.precision[np.ix_(~fixed, ~fixed)], self.precision[np.ix_(~fixed, fixed)] @ values
        )
        share = group.shares(expected[group.columns])
        fits = np.full(len(share), -np.inf)
        for level in np.flatnonzero(share > 0):
            fits[level] = self._likelihood((*levels, int(level)))
        most = fits.max()
        weight = share * np.exp(fits - most)
        return weight / weight.sum(), float(most + np.log(weight.sum()))

    def _likelihood(self, levels: tuple[int, ...]) -> float:
        last = len(levels) == len(self.groups) or self._combinations(levels) > COMBINATIONS
        return self._fit(levels) if last else self._next(levels)[1]

    def _fit(self, levels: tuple[int, ...]) -> float:
        """Log-likelihood of what else is known with these levels, the cells that remain being integrated out."""
        fixed, v = self._fixed(levels)
        o = ~fixed
        value = self.linear[fixed] @ v - v @ self.quadratic[np.ix_(fixed, fixed)] @ v / 2
        if o.any():
            Q = self.precision[np.ix_(o, o)]
            pulled = -self.precision[np.ix_(o, fixed)] @ v  # Q times the mean of the others
            b = pulled + self.linear[o] - self.quadratic[np.ix_(o, fixed)] @ v
            total = Q + self.quadratic[np.ix_(o, o)]
            value += (b @ np.linalg.solve(total, b) - pulled @ np.linalg.solve(Q, pulled)) / 2
        return float(value)

    def _fixed(self, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Which cells (n,) these levels decide, and their values."""
        found = np.full(len(self.linear), np.nan)
        for group, level in zip(self.groups, levels, strict=False):
            found[group.columns] = group.values[level]
        fixed = np.isfinite(found)
        return fixed, found[fixed]

    def _numbers(self, fixed: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and precision of the other cells, given those and all that is known."""
        total = self.precision + self.quadratic
        rest = total[np.ix_(~fixed, ~fixed)]
        return np.linalg.solve(rest, self.linear[~fixed] - total[np.ix_(~fixed, fixed)] @ values), rest


def decoded(encoder: CovariateEncoder, values: np.ndarray) -> dict[str, np.ndarray]:
    """values (..., C) scaled -> by covariate (...,): numbers in original units, or text, the level that is nearest."""
    raw = encoder.shift + encoder.scale * values
    found = {}
    for name, columns in encoder.places.items():
        levels = encoder.columns[name]
        if levels is not None:
            found[name] = np.array(levels, dtype=object)[raw[..., columns].argmax(axis=-1)]
        elif name in encoder.two:
            low, high = encoder.two[name]
            found[name] = np.where(raw[..., columns.start] > (low + high) / 2, high, low)
        else:
            found[name] = raw[..., columns.start]
    return found
