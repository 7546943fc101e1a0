"""Visits that are hidden so that a model learns to tell them from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...cohort.table import Cohort
from ...diffusion.noise import person_keys
from ..default.design import LONG
from ..history import History, years
from ..model_data import People

# People who came back, people who did not, and hidden visits that are learned from: at least so many of each, and as
# many as keep a product of all features with each other from taking long.
FEWEST = 6000


def enough(cohort: Cohort) -> Cohort:
    """The cohort, or of a large one people enough to learn from, as their ids decide."""
    most = _most(cohort)
    return cohort if len(cohort) <= most else cohort.take(of_each_kind(cohort.ids, cohort.visits, most, "anchor"))


def of_each_kind(ids: np.ndarray, visits: np.ndarray, most: int, purpose: str) -> np.ndarray:
    """Positions of people (N,), at most so many who came back by visits (N, V, D) and as many who did not, in order.

    Ids decide, for each purpose anew.
    """
    several = np.isfinite(visits).any(axis=2).sum(axis=1) > 1
    order = np.argsort(person_keys(ids, purpose), kind="stable")
    return np.sort(np.concatenate([order[several[order] == came][:most] for came in (True, False)]))


def _most(cohort: Cohort) -> int:
    return int(max(FEWEST, LONG / len(cohort.features) ** 2))


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
        after it (as of somebody who was first seen then), and from the first one (as of somebody who was seen once). Of
        very many some, as ids decide.
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
        every = cls(*(np.concatenate(each) for each in zip(*found, strict=True)))
        learned = every.some(np.flatnonzero(every.measured), cohort, _most(cohort))
        return every.take(np.sort(np.concatenate([learned, np.flatnonzero(~every.measured)])))

    def some(self, rows: np.ndarray, cohort: Cohort, most: int) -> np.ndarray:
        """Of positions (n,) at most so many, as ids, visits and what is shown decide."""
        if len(rows) <= most:
            return rows
        known = [np.flatnonzero(each) for each in self.known[rows]]
        names = [f"{cohort.ids[self.person[row]]} {self.visit[row]} {of}" for row, of in zip(rows, known, strict=True)]
        order = np.argsort(person_keys(np.array(names, dtype=object), "hidden"), kind="stable")
        return np.asarray(rows[order[:most]])

    def __len__(self) -> int:
        return len(self.person)

    def take(self, rows: np.ndarray) -> Hidden:
        """These of them."""
        return Hidden(self.person[rows], self.visit[rows], self.known[rows], self.measured[rows])

    def rows(self, everyone: People) -> People:
        """T of these people, one a hidden visit, without what they showed; ids have the number of the row."""
        people = everyone.take(self.person)
        return replace(people, ids=np.array([f"{name}#{row}" for row, name in enumerate(people.ids)], dtype=object))

    def people(self, cohort: Cohort, everyone: People) -> People:
        """T of these people, which are the cohort's, one a hidden visit, with what is shown of them."""
        times = years(cohort)[self.person]
        visits = np.where(self.known[:, :, None], cohort.visits[self.person], np.nan)
        there = np.minimum(self.visit, times.shape[1] - 1)
        at = np.where(self.visit < times.shape[1], times[np.arange(len(times)), there], np.nan)
        sites = None if cohort.visit_sites is None else cohort.visit_sites[self.person]
        return replace(self.rows(everyone), history=History(visits, times, at, sites))
