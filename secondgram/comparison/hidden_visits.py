"""Visits of people that were measured and are hidden from the methods that are compared, by task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError
from ..imputation.history import History, filled_times, usual_times, years
from ..imputation.model_data import People

FIRST = "first"
TASKS = {
    FIRST: "the follow-up, from the first visit alone",
    "forecast": "every visit but a person's first, from all visits before it",
    "interpolate": "every visit between two others, from all others of the person",
    "backcast": "a person's first visit, from all later ones",
    "as-missing": "visits that another person of the cohort missed, from those that this one came to",
}
# Patterns of other people that are tried for one that hides a visit and shows another.
TRIES = 32
# Years to a visit on the same day.
SHORTEST = 1e-3
NEAREST, HIDDEN = "nearest", "hidden"


@dataclass(frozen=True, eq=False, repr=False)
class HiddenVisits(Cohort):
    """T hidden visits as a cohort of two: of each feature the nearest cell that is shown, and the hidden visit.

    Ids are those of the people with the number of the row; groups are the people's, or they themselves. Covariates are
    the people's, and how many visits are shown. Unknown times are usual ones; cells of another site than the person's
    first are neither nearest nor hidden, and are shown to methods that read all visits.

    whole : the people, with all of their visits.   person : (T,) their rows;  slot : (T,) the hidden visit;
    known : (T, V) bool, visits that the hidden one is told from.
    """

    whole: Cohort = None  # type: ignore[assignment]
    person: np.ndarray = None  # type: ignore[assignment]
    slot: np.ndarray = None  # type: ignore[assignment]
    known: np.ndarray = None  # type: ignore[assignment]

    @classmethod
    def of(cls, cohort: Cohort, task: str, seed: int = 0) -> HiddenVisits:
        """All of a task.

        seed : of the people whose patterns are copied. Raises `InputError` where nothing is to be hidden.
        """
        if len(cohort.visit_labels) < 3:
            raise InputError(
                f"a cohort of {len(cohort.visit_labels)} visits has no task {task!r}",
                file=cohort.source,
                mend=f"Use task={FIRST!r}, or a cohort of three visits or more",
            )
        seen = np.isfinite(cohort.visits).any(axis=2)
        found = list(_chosen(seen, task, seed))
        if found:
            person, slot, known = (np.array(each) for each in zip(*found, strict=True))
            kept = _told_on_one_site(cohort, person, slot, known)
            person, slot, known = person[kept], slot[kept], known[kept]
        if not found or not len(person):
            raise InputError(
                f"nobody has visits for task {task!r}: {TASKS[task]}",
                file=cohort.source,
                mend=f"Use another task, {FIRST!r} say",
            )
        return cls._made(cohort, person, slot, known)

    @classmethod
    def _made(cls, cohort: Cohort, person: np.ndarray, slot: np.ndarray, known: np.ndarray) -> HiddenVisits:
        times, rows = dated(cohort)[person], np.arange(len(person))
        there = known & _on_first_site(cohort)[person]
        values = np.where(there[:, :, None], cohort.visits[person], np.nan)
        at = times[rows, slot]
        table = cohort.covariate_table.iloc[person].reset_index(drop=True)
        shows = known.sum(axis=1)
        if shows.max() > shows.min():
            table = table.assign(**{"known visits": np.log(shows)})
        away = np.where(there, np.abs(times - at[:, None]), np.inf).min(axis=1)
        return cls(
            ids=np.array([f"{name}#{row}" for row, name in enumerate(cohort.ids[person])], dtype=object),
            visits=np.stack([nearest(values, times, at), cohort.visits[person, slot]], axis=1),
            features=cohort.features,
            visit_labels=(NEAREST, HIDDEN),
            times=np.stack([np.zeros(len(person)), np.maximum(away, SHORTEST)], axis=1),
            covariate_table=table,
            outcomes=None,
            groups=cohort.units()[person],
            site=None if cohort.site is None else cohort.site[person],
            source=cohort.source,
            notes=cohort.notes,
            findings=cohort.findings,
            whole=cohort,
            person=person,
            slot=slot,
            known=known,
        )

    def take(self, rows: Sequence[int] | np.ndarray) -> HiddenVisits:
        """The hidden visits at these positions, or where this mask is true, in this order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        parts = {name: getattr(self, name)[index] for name in ("person", "slot", "known")}
        return replace(super().take(index), **parts)

    def without(self, units: np.ndarray) -> HiddenVisits:
        """The same hidden visits, and among their people nobody of these units."""
        kept = ~np.isin(self.whole.units().astype(str), np.unique(units.astype(str)))
        return replace(self, whole=self.whole.take(kept), person=(np.cumsum(kept) - 1)[self.person])

    def history(self) -> History:
        """What is shown of each person; the site of a visit is its own."""
        times, sites = dated(self.whole)[self.person], self.whole.visit_sites
        visits = np.where(self.known[:, :, None], self.whole.visits[self.person], np.nan)
        at = times[np.arange(len(times)), self.slot]
        return History(visits, times, at, None if sites is None else sites[self.person])

    def people(self) -> People:
        """For a method that reads all visits: the hidden one is the target, the others are in the history."""
        table = self.whole.covariate_table.iloc[self.person].reset_index(drop=True)
        return replace(People.of(self, keep_known=False), table=table, history=self.history())

    def between(self) -> HiddenVisits:
        """The same, with the line through the two neighbours that are shown in place of the nearest visit."""
        history = self.history()
        there = _on_first_site(self.whole)[self.person]
        known = np.where(there[:, :, None], history.visits, np.nan)
        visits = self.visits.copy()
        visits[:, 0] = interpolated(known, history.times, history.at)
        return replace(self, visits=visits)

    def plain(self) -> Cohort:
        """The two visits alone, for a method that reads no others."""
        return Cohort(**{each.name: getattr(self, each.name) for each in fields(Cohort)})

    def by_visit(self) -> Iterator[tuple[np.ndarray, str, Cohort]]:
        """Rows of one hidden visit, its label, and the cohort of these people in which it is the target and hidden."""
        for slot in np.unique(self.slot):
            rows = np.flatnonzero(self.slot == slot)
            people = self.person[rows]
            visits = np.where(self.known[rows][:, :, None], self.whole.visits[people], np.nan)
            part = replace(self.whole.take(people), visits=visits, target=max(int(slot), 1))
            yield rows, str(self.whole.visit_labels[slot]), part


def dated(cohort: Cohort) -> np.ndarray:
    """(N, V) years since a person's first recorded time; an unknown one is usual for its visit."""
    return filled_times(years(cohort), usual_times(cohort))


def nearest(visits: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(T, D) each feature's measured cell that is nearest in time: visits (T, V, D), times (T, V), at (T,)."""
    away = np.abs(times - at[:, None])[:, :, None]
    away = np.where(np.isfinite(visits), np.where(np.isnan(away), np.inf, away), np.inf)
    place = away.argmin(axis=1)
    known = np.isfinite(visits).any(axis=1)
    # Where no time is known, any measured cell.
    place = np.where(np.isinf(away.min(axis=1)), np.isfinite(visits).argmax(axis=1), place)
    return np.where(known, np.take_along_axis(visits, place[:, None], axis=1)[:, 0], np.nan)


def interpolated(visits: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(T, D) the line through each feature's neighbours in time, the nearest where there is one on one side alone."""
    shape = visits.shape[0], visits.shape[2]
    left, right = np.full(shape, -np.inf), np.full(shape, np.inf)
    below, above = np.full(shape, np.nan), np.full(shape, np.nan)
    for visit in range(visits.shape[1]):
        time, value = np.broadcast_to(times[:, visit, None], shape), visits[:, visit]
        before = np.isfinite(value) & (time <= at[:, None]) & (time > left)
        after = np.isfinite(value) & (time > at[:, None]) & (time < right)
        left, below = np.where(before, time, left), np.where(before, value, below)
        right, above = np.where(after, time, right), np.where(after, value, above)
    both = np.isfinite(left) & np.isfinite(right)
    with np.errstate(invalid="ignore"):
        line = below + (at[:, None] - left) / (right - left) * (above - below)
    return np.where(both, line, nearest(visits, times, at))


Row = tuple[int, int, np.ndarray]


def _chosen(seen: np.ndarray, task: str, seed: int) -> Iterator[Row]:
    """Person, hidden visit and what is shown (V,), of attendance (N, V)."""
    slot = np.arange(seen.shape[1])
    rng = np.random.default_rng(seed)
    lacking = np.flatnonzero(seen.any(axis=1) & ~seen.all(axis=1))
    for person, mine in enumerate(seen):
        visits = np.flatnonzero(mine)
        if len(visits) < 2:
            continue
        if task == "forecast":
            yield from ((person, int(at), mine & (slot < at)) for at in visits[1:])
        elif task == "interpolate":
            yield from ((person, int(at), mine & (slot != at)) for at in visits[1:-1])
        elif task == "backcast":
            yield person, int(visits[0]), mine & (slot > visits[0])
        elif len(lacking):
            for other in rng.choice(lacking, size=TRIES):
                left, hidden = mine & seen[other], np.flatnonzero(mine & ~seen[other])
                if left.any() and len(hidden):
                    yield from ((person, int(at), left) for at in hidden)
                    break


def _on_first_site(cohort: Cohort) -> np.ndarray:
    """(N, V) bool: visits on the site of the person's first."""
    if cohort.visit_sites is None or cohort.site is None:
        return np.ones(cohort.visits.shape[:2], dtype=bool)
    return np.asarray(cohort.visit_sites == cohort.site[:, None])


def _told_on_one_site(cohort: Cohort, person: np.ndarray, slot: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(T,) bool: the hidden visit, and some that are shown, are on the site of the person's first."""
    there = _on_first_site(cohort)[person]
    return np.asarray(there[np.arange(len(slot)), slot] & (known & there).any(axis=1))
