"""Data that a model may see: people to impute, and pairs of visits to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..cohort.table import Cohort
from ..cohort.visit_sites import followup_sites
from ..diffusion.noise import person_keys
from .history import History
from .scanner_moves import placeable


@dataclass(frozen=True, eq=False)
class People:
    """N people whose follow-up is to be imputed; the follow-up itself is not in here, except for `known` cells.

    ids : (N,) text;  keys : (N,) uint64, of the noise;  baseline : (N, D) original units, NaN where missing.
    table : N rows of covariates;  gap : (N,) years, NaN where unknown;  site : (N,) text or None.
    known : (N, D) cells of the follow-up that were measured and are kept as they are, NaN elsewhere.
    later_site : (N,) text, the site of the follow-up where it is known and shown; None where all are those of `site`.
    history : every other visit, for a model that is conditioned on them; None where the baseline is all.
    change_unit : (N, D) that changes from the baseline are told in; None for original units.
    """

    ids: np.ndarray
    keys: np.ndarray
    baseline: np.ndarray
    table: pd.DataFrame
    gap: np.ndarray
    site: np.ndarray | None
    known: np.ndarray
    source: str | None = None
    later_site: np.ndarray | None = None
    history: History | None = None
    change_unit: np.ndarray | None = None

    @classmethod
    def of(cls, cohort: Cohort, keep_known: bool, visit: str | None = None, history: bool = False) -> People:
        """The people of a cohort, each with a baseline; keep_known shows the measured follow-up cells.

        visit : label that keys their noise, None for the cohort's own.  history : show all other visits too.
        """
        sites, later = cohort.visit_sites, None
        if keep_known and sites is not None and not cohort.same_site.all():
            later = followup_sites(sites, cohort.target, np.isfinite(cohort.followup).any(axis=1))
        return cls(
            cohort.ids,
            person_keys(cohort.ids, cohort.followup_label if visit is None else visit),
            cohort.baseline,
            cohort.covariate_table,
            cohort.gap,
            cohort.site,
            cohort.followup if keep_known else _nothing(cohort.baseline),
            cohort.source,
            later,
            History.of(cohort) if history else None,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: slice | np.ndarray) -> People:
        """The people at these positions."""
        return replace(
            self,
            ids=self.ids[rows],
            keys=self.keys[rows],
            baseline=self.baseline[rows],
            table=self.table.iloc[rows],
            gap=self.gap[rows],
            site=None if self.site is None else self.site[rows],
            known=self.known[rows],
            later_site=None if self.later_site is None else self.later_site[rows],
            history=None if self.history is None else self.history.take(rows),
            change_unit=None if self.change_unit is None else self.change_unit[rows],
        )

    @property
    def moved(self) -> np.ndarray:
        """(N,) bool: the follow-up is on another site than the baseline."""
        if self.later_site is None or self.site is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(self.later_site != self.site)

    def with_known(self, values: np.ndarray) -> np.ndarray:
        """values (M, N, D), in which cells that were measured are put back as they are."""
        rows = np.flatnonzero(np.isfinite(self.known).any(axis=1))
        if len(rows):
            known = self.known[rows]
            values[:, rows] = np.where(np.isfinite(known), known, values[:, rows])
        return values


def _nothing(like: np.ndarray) -> np.ndarray:
    """NaN of this shape and dtype, one cell of memory shown everywhere."""
    return np.broadcast_to(np.asarray(np.nan, dtype=like.dtype), like.shape)


@dataclass(frozen=True, eq=False, repr=False)
class WeightedCohort(Cohort):
    """A cohort whose N people count as much as `row_weight` (N,) says."""

    row_weight: np.ndarray = None  # type: ignore[assignment]

    def take(self, rows: Sequence[int] | np.ndarray) -> WeightedCohort:
        """The people at these positions, or where this mask is true, in this order."""
        return replace(super().take(rows), row_weight=self.row_weight[np.asarray(rows)])


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """P pairs of visits: `people` holds the earlier visit as baseline, `later` (P, D) the other one.

    Pairs on two sites take part where these can be put on one scale; see `scanner_moves`.

    weight : (P,) so that every person counts once, however many pairs they have.
    unit : (P,) text; pairs of one unit stay on one side of every internal split.
    wanted : (P,) bool, of the first visit and the target.  slots : (P, 2) positions of both visits.
    """

    people: People
    later: np.ndarray
    weight: np.ndarray
    unit: np.ndarray
    wanted: np.ndarray
    slots: np.ndarray = None  # type: ignore[assignment]

    @classmethod
    def of(cls, cohort: Cohort, every: bool) -> TrainingPairs:
        """Every earlier-later pair of each person, or only the first visit with the target."""
        pairs = cohort.pairs()
        wanted = (pairs.earlier == 0) & (pairs.later == cohort.target)
        rows = np.arange(len(pairs)) if every else np.flatnonzero(wanted)
        sites = cohort.visit_sites
        if sites is not None:
            person = pairs.person[rows]
            weight = 1.0 / np.bincount(person, minlength=len(cohort))[person]
            earlier, later = sites[person, pairs.earlier[rows]], sites[person, pairs.later[rows]]
            # Of the people who were scanned there first.
            usable = placeable(earlier, later, weight, sites[cohort.scanned, 0])
            rows = rows[usable]
        person = pairs.person[rows]
        first = People.of(cohort, keep_known=False).take(person)
        people = replace(first, baseline=cohort.visits[person, pairs.earlier[rows]], gap=pairs.gap[rows])
        if sites is not None:
            earlier, later = sites[person, pairs.earlier[rows]], sites[person, pairs.later[rows]]
            people = replace(people, site=earlier, later_site=None if (earlier == later).all() else later)
        count = np.bincount(person, minlength=len(cohort))[person]
        later, unit = cohort.visits[person, pairs.later[rows]], cohort.units()[person].astype(str)
        weight = 1.0 / count
        if isinstance(cohort, WeightedCohort):
            weight = weight * cohort.row_weight[person]
        slots = np.stack([pairs.earlier[rows], pairs.later[rows]], axis=1)
        return cls(people, later, weight, unit, wanted[rows], slots)

    def __len__(self) -> int:
        return len(self.later)

    def take(self, rows: np.ndarray) -> TrainingPairs:
        """The pairs at these positions."""
        return TrainingPairs(
            self.people.take(rows),
            self.later[rows],
            self.weight[rows],
            self.unit[rows],
            self.wanted[rows],
            None if self.slots is None else self.slots[rows],
        )
