"""Visits that are hidden so that a model learns to tell them from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...cohort.table import Cohort
from ..history import History, years
from ..model_data import People


@dataclass(frozen=True, eq=False)
class Hidden:
    """T visits, each to be told from some other visits of the same person.

    person, visit : (T,).  known : (T, V) bool, the visits that are shown.  measured : (T,) bool, whether what the visit
    showed is known, so that it can teach.
    """

    person: np.ndarray
    visit: np.ndarray
    known: np.ndarray
    measured: np.ndarray

    @classmethod
    def of(cls, cohort: Cohort) -> Hidden:
        """Every measured visit of everyone who has two or more, and the target of everyone who lacks it.

        A measured one is told from all others, from those before it (as of somebody who was last seen then), from those
        after it (as of somebody who was first seen then), and from the first one (as of somebody who was seen once).
        """
        seen = np.isfinite(cohort.visits).any(axis=2)
        slot = np.arange(seen.shape[1])
        found = []

        def add(person: np.ndarray, visit: int, known: np.ndarray, measured: bool) -> None:
            found.append((person, np.full(len(person), visit), known, np.full(len(person), measured)))

        for visit in slot:
            person = np.flatnonzero(seen[:, visit])
            others = seen[person] & (slot != visit)
            before = others & (slot < visit)
            once = before & (slot == before.argmax(axis=1)[:, None])
            ways = (others, before, others & (slot > visit), once)
            for number, known in enumerate(ways):
                # Of two ways that show the same visits, one is enough.
                some = known.any(axis=1)
                for earlier in ways[:number]:
                    some &= (known != earlier).any(axis=1)
                add(person[some], int(visit), known[some], measured=True)
        lacking = ~seen[:, cohort.target] if cohort.target < len(slot) else np.ones(len(seen), dtype=bool)
        rest = np.flatnonzero(lacking & seen.any(axis=1))
        add(rest, cohort.target, seen[rest], measured=False)
        return cls(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def people(self, cohort: Cohort) -> People:
        """T people, one a hidden visit; ids are those of the people with the number of the row."""
        times = years(cohort)[self.person]
        visits = np.where(self.known[:, :, None], cohort.visits[self.person], np.nan)
        there = np.minimum(self.visit, times.shape[1] - 1)
        at = np.where(self.visit < times.shape[1], times[np.arange(len(times)), there], np.nan)
        people = People.of(cohort, keep_known=False).take(self.person)
        ids = np.array([f"{name}#{row}" for row, name in enumerate(people.ids)], dtype=object)
        sites = None if cohort.visit_sites is None else cohort.visit_sites[self.person]
        return replace(people, ids=ids, history=History(visits, times, at, sites))
