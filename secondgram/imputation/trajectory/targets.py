"""Visits of several kinds that are imputed together, and the order in which one tells the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...cohort.table import Cohort
from ...errors import InputError, some
from ..history import filled_times, years

MISSING, ALL = "missing", "all"
# Years within which an asked time is that of a visit.
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Targets:
    """R visits of N people.

    person, slot, turn : (R,); those of a later turn are told from those of earlier ones too.  alone : (R,) bool, of
    measured visits, told from the other measured ones as if they were missing; they tell nothing.
    distance : (R,) years to the nearest other known visit.
    labels : (W,) of the slots, a cohort's visits first, then asked times.  times : (N, W) years since a person's first
    recorded time, known or usual.
    """

    person: np.ndarray
    slot: np.ndarray
    turn: np.ndarray
    alone: np.ndarray
    distance: np.ndarray
    labels: tuple[str, ...]
    times: np.ndarray

    @classmethod
    def of(
        cls, cohort: Cohort, usual: np.ndarray, visits: str | Sequence[str] | None, at: Sequence[float] | float = ()
    ) -> Targets:
        """Of everybody with a known visit.

        usual : (V,) years of the visits, for those without a time.  visits : `missing` for every visit that is not
        complete, `all` for measured ones too, or labels, of which those are imputed that are not complete.
        at : years after the first visit, of everybody who was not measured just then.

        Raises `InputError` for unknown labels, times that are none, and where nothing is to be imputed.
        """
        seen = np.isfinite(cohort.visits)
        known = seen.any(axis=2)
        there = known.any(axis=1)
        times = filled_times(years(cohort), usual)
        asked = _asked_times(at)
        wanted = ~seen.all(axis=2) & _chosen(cohort, visits)
        hidden = known & seen.all(axis=2) if visits == ALL else np.zeros_like(known)
        # Of a visit that stands alone there is nothing to tell it from.
        wanted &= (known.sum(axis=1)[:, None] - known) > 0
        hidden &= known.sum(axis=1)[:, None] > 1
        extra = times[:, :1] + asked
        # Who was measured at an asked time is not imputed at it.
        apart = (np.abs(times[:, :, None] - extra[:, None]) > SAME) | ~known[:, :, None]
        wanted = np.concatenate([wanted, there[:, None] & apart.all(axis=1)], axis=1)
        hidden = np.concatenate([hidden, np.zeros_like(extra, dtype=bool)], axis=1)
        person, slot = np.nonzero(wanted | hidden)
        if not len(person):
            raise InputError(
                "there is no visit to impute: every person's are complete, or stand alone",
                file=cohort.source,
                mend="Use visits='all' to impute measured ones as if they were missing, or at= for other times",
            )
        times = np.concatenate([times, extra], axis=1)
        labels = (*cohort.visit_labels, *(f"{time:g} years" for time in asked))
        alone = hidden[person, slot]
        distance = _distances(times, known)[person, slot]
        return cls(person, slot, _turns(person, slot, alone, distance), alone, distance, labels, times)

    def take(self, people: slice | np.ndarray) -> Targets:
        """Those of the people at these positions, which ascend."""
        places = np.arange(len(self.times))[people]
        mine = np.isin(self.person, places)
        parts = {name: getattr(self, name)[mine] for name in ("slot", "turn", "alone", "distance")}
        person = np.searchsorted(places, self.person[mine])
        return replace(self, person=person, times=self.times[people], **parts)

    def __len__(self) -> int:
        return len(self.person)


def _asked_times(at: Sequence[float] | float) -> np.ndarray:
    asked = np.atleast_1d(np.asarray(at, dtype=float))
    if asked.ndim != 1 or not np.isfinite(asked).all() or (asked < 0).any() or len(set(asked)) != len(asked):
        raise InputError(f"at={at!r}", mend="Use different numbers of years after the first visit, 0 or more")
    return asked


def _chosen(cohort: Cohort, visits: str | Sequence[str] | None) -> np.ndarray:
    """(V,) bool, by label."""
    labels = list(cohort.visit_labels)
    if visits is None:
        return np.zeros(len(labels), dtype=bool)
    if isinstance(visits, str) and visits in (MISSING, ALL):
        return np.ones(len(labels), dtype=bool)
    names = [visits] if isinstance(visits, str) else [str(name) for name in visits]
    unknown = [name for name in names if name not in labels]
    if unknown or not names:
        raise InputError(
            f"visits={some(unknown) if unknown else '[]'}: the model knows {some(labels)}",
            file=cohort.source,
            mend="Name some of these, 'missing' or 'all'",
        )
    return np.isin(labels, names)


def _distances(times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N, W) years to the nearest other known visit; the slots of `known` (N, V) come first."""
    found = np.full(times.shape, np.inf)
    for visit in range(known.shape[1]):
        away = np.where(known[:, visit : visit + 1], np.abs(times - times[:, visit : visit + 1]), np.inf)
        away[:, visit] = np.inf
        found = np.minimum(found, away)
    return found


def _turns(person: np.ndarray, slot: np.ndarray, alone: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(R,) from 0 on for each person: the nearest to what is known comes first."""
    turn = np.zeros(len(person), dtype=int)
    rows = np.flatnonzero(~alone)
    order = rows[np.lexsort((slot[rows], distance[rows], person[rows]))]
    start = np.searchsorted(person[order], np.unique(person[order]))
    turn[order] = np.arange(len(order)) - np.repeat(start, np.diff([*start, len(order)]))
    return turn
