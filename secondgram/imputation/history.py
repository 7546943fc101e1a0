"""What people showed at visits other than the one that is imputed, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..cohort.table import Cohort


@dataclass(frozen=True, eq=False)
class History:
    """Other visits of N people.

    visits : (N, V, D) original units, NaN where not known, and at the visit that is imputed.
    times : (N, V) years since each person's first recorded time, NaN where unknown;  at : (N,) of the imputed visit.
    sites : (N, V) text, of each visit; None where all are those of the person.
    """

    visits: np.ndarray
    times: np.ndarray
    at: np.ndarray
    sites: np.ndarray | None = None

    @classmethod
    def of(cls, cohort: Cohort, hide: bool = True) -> History:
        """Of everyone. hide : the target is not shown."""
        times = years(cohort)
        if not hide or cohort.target >= times.shape[1]:
            return cls(cohort.visits, times, np.full(len(cohort), np.nan), cohort.visit_sites)
        visits = cohort.visits.copy()
        visits[:, cohort.target] = np.nan
        return cls(visits, times, times[:, cohort.target], cohort.visit_sites)

    @classmethod
    def first(cls, baseline: np.ndarray, gap: np.ndarray) -> History:
        """The baseline (N, D) alone, so many years (N,) before the visit that is imputed."""
        return cls(baseline[:, None], np.zeros((len(baseline), 1)), gap)

    def take(self, rows: slice | np.ndarray) -> History:
        """Of the people at these positions."""
        sites = None if self.sites is None else self.sites[rows]
        return History(self.visits[rows], self.times[rows], self.at[rows], sites)

    def with_features(self, columns: list[int]) -> History:
        """With these features, in this order."""
        return replace(self, visits=self.visits[:, :, columns])

    @property
    def known(self) -> np.ndarray:
        """(N, V) bool: visits with any measured feature."""
        return np.isfinite(self.visits).any(axis=2)


def years(cohort: Cohort) -> np.ndarray:
    """(N, V) years since each person's first recorded time; where a cohort records none, the number of the visit."""
    times = np.asarray(cohort.times, dtype=float)
    recorded = np.isfinite(times)
    if not recorded[:, 1:].any():
        return np.broadcast_to(np.arange(times.shape[1], dtype=float), times.shape).copy()
    first = recorded.argmax(axis=1)
    return np.asarray(times - times[np.arange(len(times)), first][:, None])


def usual_times(cohort: Cohort) -> np.ndarray:
    """(V,) median years of each visit since a person's first recorded time; of one without any, as its neighbours."""
    times = years(cohort)
    known = np.isfinite(times).any(axis=0)
    usual = np.zeros(times.shape[1])
    usual[known] = np.nanmedian(times[:, known], axis=0)
    slot = np.arange(len(usual))
    return np.interp(slot, slot[known], usual[known])


def filled_times(times: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """times (N, V) in which an unknown one is usual (V,), moved by how far the person's others are from it."""
    unknown = np.isnan(times)
    if not unknown.any():
        return times
    away = np.where(unknown, 0.0, times - usual).sum(axis=1) / np.maximum((~unknown).sum(axis=1), 1)
    return np.where(unknown, usual + away[:, None], times)


def first_cells(cohort: Cohort) -> np.ndarray:
    """(N, D) each feature's first measured value of each person."""
    place = np.isfinite(cohort.visits).argmax(axis=1)
    return np.take_along_axis(cohort.visits, place[:, None], axis=1)[:, 0]
