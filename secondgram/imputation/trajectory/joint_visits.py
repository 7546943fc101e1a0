"""Several missing visits of a person, drawn together: each given what was known and what its draw has filled already.

    p(y_1, ..., y_k | known) = p(y_1 | known) p(y_2 | known, y_1) ... p(y_k | known, y_1, ..., y_k-1)

by the model of one missing visit, which is conditioned on any number of others. The visit nearest to a known one comes
first, because it is told best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...diffusion.noise import person_keys
from ..history import History
from ..model_data import People
from .targets import Targets


def draw_visits(
    draw: Callable[[People, np.ndarray], np.ndarray], people: People, targets: Targets, numbers: np.ndarray
) -> np.ndarray:
    """Draws (M, R, D) of targets, in original units; the history of people (N) has a slot for each of theirs.

    draw : draws (M, n, D) of people who miss one visit each, of some of the numbers (M,).
    """
    assert people.history is not None
    visits = people.history.visits
    found = np.empty((len(numbers), len(targets), visits.shape[2]), dtype=visits.dtype)
    filled: np.ndarray | None = None
    for turn in range(int(targets.turn.max(initial=-1)) + 1):
        rows = np.flatnonzero(targets.turn == turn)
        if turn == 0:
            found[:, rows] = draw(conditioned(people, targets, rows, visits), numbers)
        else:
            assert filled is not None
            base = conditioned(people, targets, rows, visits)
            assert base.history is not None
            for place in range(len(numbers)):
                # All but what this draw has filled is the same for each.
                values = _without(filled[place], targets, rows)
                one = replace(base, history=replace(base.history, visits=values))
                found[place, rows] = draw(one, numbers[place : place + 1])[0]
        if turn == targets.turn.max():
            break
        if filled is None:
            filled = np.repeat(visits[None], len(numbers), axis=0)
        telling = rows[~targets.alone[rows]]
        filled[:, targets.person[telling], targets.slot[telling]] = found[:, telling]
    return found


def conditioned(people: People, targets: Targets, rows: np.ndarray, visits: np.ndarray) -> People:
    """One person a target, of whom all visits (N, W, D) but that one are shown; what is known of it is kept."""
    assert people.history is not None
    person, slot = targets.person[rows], targets.slot[rows]
    each = np.arange(len(rows))
    some = people.take(person)
    assert some.history is not None
    known = some.history.visits[each, slot]
    known[targets.alone[rows]] = np.nan
    values = _without(visits, targets, rows)
    keys = person_keys(some.ids, [targets.labels[place] for place in slot])
    times = targets.times[person]
    at = times[each, slot]
    history = History(values, times, at, some.history.sites)
    return replace(some, keys=keys, known=known, gap=at - times[:, 0], history=history)


def _without(visits: np.ndarray, targets: Targets, rows: np.ndarray) -> np.ndarray:
    """Visits (N, W, D) of the people of some targets, without these: (n, W, D)."""
    values = visits[targets.person[rows]]
    values[np.arange(len(rows)), targets.slot[rows]] = np.nan
    return values
