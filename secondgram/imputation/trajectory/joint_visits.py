"""Several missing visits of a person, drawn together: each given what was known and what its draw has filled already.

    p(y_1, ..., y_k | known) = p(y_1 | known) p(y_2 | known, y_1) ... p(y_k | known, y_1, ..., y_k-1)

by the model of one missing visit, which is conditioned on any number of others. The visit nearest to a known one comes
first, because it is told best.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...diffusion.noise import person_keys
from ..history import History
from ..interfaces import FollowupModel
from ..model_data import People
from .targets import Targets


def draw_visits(
    model: FollowupModel,
    people: People,
    targets: Targets,
    draws: np.ndarray,
    seed: int,
    solver: str | None = None,
    steps: int | None = None,
) -> np.ndarray:
    """Draws (M, R, D) of targets, in original units; the history of people (N) has a slot for each of theirs."""
    assert people.history is not None
    visits = people.history.visits
    found = np.empty((len(draws), len(targets), visits.shape[2]), dtype=visits.dtype)
    filled: np.ndarray | None = None
    for turn in range(int(targets.turn.max(initial=-1)) + 1):
        rows = np.flatnonzero(targets.turn == turn)
        if turn == 0:
            found[:, rows] = model.draw(conditioned(people, targets, rows, visits), draws, seed, solver, steps)
        else:
            assert filled is not None
            for number in range(len(draws)):
                one = conditioned(people, targets, rows, filled[number])
                found[number, rows] = model.draw(one, draws[number : number + 1], seed, solver, steps)[0]
        if turn == targets.turn.max():
            break
        if filled is None:
            filled = np.repeat(visits[None], len(draws), axis=0)
        telling = rows[~targets.alone[rows]]
        filled[:, targets.person[telling], targets.slot[telling]] = found[:, telling]
    return found


def mean_visits(
    model: FollowupModel,
    people: People,
    targets: Targets,
    draws: np.ndarray,
    seed: int,
    solver: str | None = None,
    steps: int | None = None,
) -> np.ndarray:
    """Posterior means (R, D) given what is known."""
    assert people.history is not None
    every = conditioned(people, targets, np.arange(len(targets)), people.history.visits)
    return model.mean(every, draws, seed, solver, steps)


def conditioned(people: People, targets: Targets, rows: np.ndarray, visits: np.ndarray) -> People:
    """One person a target, of whom all visits (N, W, D) but that one are shown; what is known of it is kept."""
    assert people.history is not None
    person, slot = targets.person[rows], targets.slot[rows]
    each = np.arange(len(rows))
    some = people.take(person)
    assert some.history is not None
    known = some.history.visits[each, slot]
    known[targets.alone[rows]] = np.nan
    values = visits[person]
    values[each, slot] = np.nan
    keys = person_keys(some.ids, [targets.labels[place] for place in slot])
    times = targets.times[person]
    at = times[each, slot]
    history = History(values, times, at, some.history.sites)
    return replace(some, keys=keys, known=known, gap=at - times[:, 0], history=history)
