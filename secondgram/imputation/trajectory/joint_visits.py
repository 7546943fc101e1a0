"""Several missing visits of a person, drawn together.

    p(y_1, ..., y_k | known) = p(y_1 | known) p(y_2 | known, y_1) ... p(y_k | known, y_1, ..., y_k-1)

Each visit alone is distributed as the ladder says, by what is known. Levels and slopes that are in doubt are shared by
the visits of a draw: by the mixed model a standardised residual, given those of the visits that are drawn before it, is

    r_k | r_1, ..., r_k-1  ~  N(sum of w_e r_e, share^2)
    w_e = cov(y_k, y_e | other draws) / s2 * sqrt(v_e / v_k),   share^2 = var(y_k | known, draws) / v_k

with v the variances given what is known: every draw of a person has the same weights, and none asks the ladder again.
The visit nearest to a known one comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from ...diffusion.noise import person_keys
from ...ops.buffers import empty
from ...ops.row_tiles import slices
from ..default.joint import Conditional, Drawn
from ..history import History
from ..model_data import People
from .posterior import Doubt, Posterior
from .targets import Targets

# Features that are worked on at once, so that a temporary stays in a processor's cache.
AT_ONCE = 8


class FinishGiven(Protocol):
    """Draws of some targets (r,), which miss one visit each, from levels and slopes given what is known, and given
    other draws of the same people, None for nothing else; tells : whether residuals are asked for."""

    def __call__(
        self, people: People, posterior: Posterior, rows: np.ndarray, given: Conditional | None, tells: bool
    ) -> Drawn: ...


def draw_visits(
    finish: FinishGiven,
    posterior: Callable[[People], Posterior],
    s2: np.ndarray,
    people: People,
    targets: Targets,
    out: np.ndarray,
) -> None:
    """Draws (M, R, D) of targets, in original units, into `out`, transposed: (D, R, M).

    posterior : of levels and slopes of people (N), in whose history each target has a slot;  s2 : (D,) variance of an
    error, scaled like these.
    """
    turns = int(targets.turn.max(initial=0)) + 1
    everyone = posterior(people)
    before = _Before(Doubt(everyone.variance, s2), people, targets, out.shape[2]) if turns > 1 else None
    for turn in range(turns):
        rows = np.flatnonzero(targets.turn == turn)
        some = conditioned(people, targets, rows)
        given = before.conditional(rows, turn) if before is not None and turn else None
        tells = turn < turns - 1
        drawn = finish(some, _by_others(everyone, posterior, targets, rows, some), rows, given, tells)
        out[:, rows] = drawn.values.transpose(2, 1, 0)
        if before is not None and tells:
            before.keep(rows, drawn)


def _by_others(
    everyone: Posterior, posterior: Callable[[People], Posterior], targets: Targets, rows: np.ndarray, some: People
) -> Posterior:
    """Of some targets, each without what is known of its own visit."""
    found = everyone.take(targets.person[rows])
    own = np.flatnonzero(targets.alone[rows] | np.isfinite(some.known).any(axis=1))
    return found.replaced(own, posterior(some.take(own))) if len(own) else found


class _Before:
    """Visits that were drawn before, and what they tell of the next; D is the slowest axis of what is kept."""

    def __init__(self, doubt: Doubt, people: People, targets: Targets, draws: int) -> None:
        assert people.history is not None
        self.doubt, self.targets = doubt, targets
        self.missing = np.isnan(people.history.visits)
        self.residual = empty((self.missing.shape[2], len(targets), draws), np.float32)
        self.covariates: np.ndarray | None = None
        # The row of each turn of each person.
        self.row_of = np.full((len(people), int(targets.turn.max()) + 1), -1)
        rows = np.flatnonzero(~targets.alone)
        self.row_of[targets.person[rows], targets.turn[rows]] = rows

    def keep(self, rows: np.ndarray, drawn: Drawn) -> None:
        """Keep what was drawn of some targets."""
        assert drawn.residual is not None
        self.residual[:, rows] = drawn.residual.transpose(2, 1, 0)
        if self.covariates is None and drawn.covariates is not None:
            # Of the first turn, which everybody has.
            self.covariates = np.empty((len(drawn.residual), len(self.targets), drawn.covariates.shape[2]))
            self.covariates[:, rows] = drawn.covariates

    def conditional(self, rows: np.ndarray, turn: int) -> Conditional:
        """Of the targets (r,) of a turn, given those of all turns before it."""
        person = self.targets.person[rows]
        earlier = self.row_of[person, :turn].T
        first, own = self.doubt.take(person), self._missing(rows)
        measured = np.stack([own & self._missing(row) for row in earlier])
        times, time = np.stack([self._time(row) for row in earlier]), self._time(rows)
        left, variance = first.given(times, measured), first.at(time)
        share = np.where(own, np.sqrt(left.at(time) / variance), 1.0)
        weights = [
            (cells * left.shared(time, then) / first.s2 * np.sqrt(first.at(then) / variance)).T.astype(np.float32)
            for then, cells in zip(times, measured, strict=True)
        ]
        mean = empty((len(self.residual), len(rows), self.residual.shape[2]), np.float32)
        for block in slices(len(mean), AT_ONCE):
            parts = [
                w[block, :, None] * self.residual[block].take(row, axis=1)
                for w, row in zip(weights, earlier, strict=True)
            ]
            mean[block] = np.add.reduce(parts)
        covariates = None if self.covariates is None else self.covariates[:, earlier[0]]
        return Conditional(mean.transpose(2, 1, 0), share, covariates)

    def _time(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.targets.times[self.targets.person[rows], self.targets.slot[rows]])

    def _missing(self, rows: np.ndarray) -> np.ndarray:
        """(r, D) cells that are drawn: a measured one has told its own already."""
        return np.asarray(self.missing[self.targets.person[rows], self.targets.slot[rows]])


def conditioned(people: People, targets: Targets, rows: np.ndarray) -> People:
    """One person a target, of whom all known visits but that one are shown; what is known of it is kept."""
    assert people.history is not None
    person, slot = targets.person[rows], targets.slot[rows]
    each = np.arange(len(rows))
    some = people.take(person)
    assert some.history is not None
    values = some.history.visits.copy()
    known = values[each, slot]
    known[targets.alone[rows]] = np.nan
    values[each, slot] = np.nan
    keys = person_keys(some.ids, [targets.labels[place] for place in slot])
    times = targets.times[person]
    at = times[each, slot]
    history = History(values, times, at, some.history.sites)
    return replace(some, keys=keys, known=known, gap=at - times[:, 0], history=history)
