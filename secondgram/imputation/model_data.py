"""Data that a model may see: people to impute, and pairs of visits to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..cohort.table import Cohort
from ..diffusion.noise import person_keys
from ..errors import InputError, some
from .history import History
from .scanner_moves import FEWEST_PEOPLE, move_notes, placeable, told_by_pairs


@dataclass(frozen=True, eq=False)
class People:
    """N people whose follow-up is to be imputed; the follow-up itself is not in here, except for `known` cells.

    ids : (N,) text;  keys : (N,) uint64, of the noise;  baseline : (N, D) original units, NaN where missing.
    table : N rows of covariates;  gap : (N,) years, NaN where unknown;  site : (N,) text or None.
    known : (N, D) cells of the follow-up that were measured and are kept as they are, NaN elsewhere.
    later_site : (N,) text, the site of the follow-up where it is known and shown; None where all are those of `site`.
    history : every other visit, for a model that is conditioned on them; None where the baseline is all.
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

    @classmethod
    def of(cls, cohort: Cohort, keep_known: bool, visit: str | None = None, history: bool = False) -> People:
        """The people of a cohort, each with a baseline; keep_known shows the measured follow-up cells.

        visit : label that keys their noise, None for the cohort's own.  history : show all other visits too.
        """
        sites, later = cohort.visit_sites, None
        if keep_known and sites is not None and not cohort.same_site.all():
            # A visit of which nothing is measured is imputed as on the site of the baseline.
            measured = np.isfinite(cohort.followup).any(axis=1)
            later = np.where(measured, sites[:, cohort.target], sites[:, 0])
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


FEWEST_PAIRS = 10
# Of the range of baselines: changes that differ by less differ by rounding.
ROUNDING = 1e-8
# Looked at together.
FEATURES_AT_ONCE = 64


def check_trainable(cohort: Cohort) -> None:
    """Raise `InputError` for a cohort that no model can learn from, naming the column or what is missing."""
    values = cohort.visits.reshape(-1, len(cohort.features))
    # These leave out what is missing, and a large cohort is not copied.
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    empty = np.isnan(low)
    if empty.any():
        raise InputError(
            "has no measured value at any visit",
            file=cohort.source,
            column=cohort.features[int(np.flatnonzero(empty)[0])],
            mend="Leave the feature out, or check the file",
        )
    constant = np.flatnonzero(high == low)
    if len(constant):
        raise InputError(
            f"is constant: every measured value is {low[constant[0]]:g}"
            + (f" (also {some(np.array(cohort.features)[constant[1:]])})" if len(constant) > 1 else ""),
            file=cohort.source,
            column=cohort.features[int(constant[0])],
            mend="Leave the feature out with --features or features=",
        )
    _check_baselines(cohort)
    count = int(cohort.paired.sum())
    if count == 0:
        raise InputError(
            f"no person has both visit {cohort.visit_labels[0]} and visit {cohort.followup_label}",
            file=cohort.source,
            mend="A model learns change from people who were scanned twice; check the visit column or the target",
        )
    if count < FEWEST_PAIRS:
        raise InputError(
            f"only {count} people have a follow-up",
            file=cohort.source,
            mend=f"At least {FEWEST_PAIRS} are needed to learn from",
        )
    _check_sites(cohort, count)
    if len(set(cohort.units()[cohort.paired])) == 1:
        raise InputError(
            f"all {count} people who have a follow-up are of one group",
            file=cohort.source,
            mend="A model is checked on groups it has not seen; check the column of the groups",
        )
    cohort.pairs()
    _check_followups(cohort)


def _check_baselines(cohort: Cohort) -> None:
    low, high = np.fmin.reduce(cohort.baseline, axis=0), np.fmax.reduce(cohort.baseline, axis=0)
    constant = np.flatnonzero(high == low)
    if len(constant):
        raise InputError(
            f"is constant at visit {cohort.visit_labels[0]}: every measured baseline is {low[constant[0]]:g}"
            + (f" (also {some(np.array(cohort.features)[constant[1:]])})" if len(constant) > 1 else ""),
            file=cohort.source,
            column=cohort.features[int(constant[0])],
            mend="A change is told in units of the baselines' spread: leave the feature out, or check the file",
        )


def _check_followups(cohort: Cohort) -> None:
    rows = np.flatnonzero(cohort.paired)
    changes = False
    first: tuple[int, float] | None = None
    # A few features at a time, so that a large cohort is not copied.
    for start in range(0, len(cohort.features), FEATURES_AT_ONCE):
        columns = slice(start, start + FEATURES_AT_ONCE)
        later = cohort.followup[rows, columns]
        low, high = np.fmin.reduce(later, axis=0), np.fmax.reduce(later, axis=0)
        known = np.isfinite(later).sum(axis=0) >= FEWEST_PAIRS
        for place in np.flatnonzero((low == high) & known):
            if not (cohort.baseline[:, start + place] == low[place]).any():
                raise InputError(
                    f"is {low[place]:g} for everybody at visit {cohort.followup_label}, and for nobody at the baseline",
                    file=cohort.source,
                    column=cohort.features[start + int(place)],
                    mend="Leave the cells empty if that is a code for missing, or leave the feature out",
                )
        baseline = cohort.baseline[rows, columns]
        change = later - baseline
        low, high = np.fmin.reduce(change, axis=0), np.fmax.reduce(change, axis=0)
        apart = np.fmax.reduce(baseline, axis=0) - np.fmin.reduce(baseline, axis=0)
        changes = changes or bool((high - low > ROUNDING * apart).any())
        if first is None and np.isfinite(low).any():
            at = int(np.flatnonzero(np.isfinite(low))[0])
            first = start + at, float(low[at])
    if first is not None and not changes:
        raise InputError(
            f"everybody's change is the same: {first[1]:g}",
            file=cohort.source,
            column=cohort.features[first[0]],
            mend="Check that follow-ups are no copies of the baselines",
        )


def _check_sites(cohort: Cohort, count: int) -> None:
    if cohort.same_site.all():
        return
    pairs = TrainingPairs.of(cohort, every=False)
    people, site = pairs.people, pairs.people.site
    enough = len(pairs) >= FEWEST_PAIRS
    if enough and people.later_site is not None and site is not None:
        # By the pairs, or else by many baselines.
        enough = told_by_pairs(site, people.later_site, pairs.weight, FEWEST_PEOPLE) or not told_by_pairs(
            site, people.later_site, pairs.weight
        )
    if not enough:
        changed = int((~cohort.same_site & cohort.paired).sum())
        raise InputError(
            f"{changed} of {count} people came back on another site, and the offset of those sites cannot be told from "
            "change",
            file=cohort.source,
            column=cohort.columns.get("site", "site"),
            mend=f"Add {FEWEST_PAIRS} people or more who stayed on one site, or who changed the other way; or people "
            "with a baseline on each site, a hundred or more. Without sites, an offset would be taken for change",
        )


def site_notes(cohort: Cohort, used: TrainingPairs, every: bool) -> list[str]:
    """What to tell of pairs on two sites; used : the pairs of this cohort that teach."""
    sites = cohort.visit_sites
    if sites is None:
        return []
    pairs = cohort.pairs()
    here = np.ones(len(pairs), dtype=bool) if every else (pairs.earlier == 0) & (pairs.later == cohort.target)
    person = pairs.person[here]
    changed = int((sites[person, pairs.earlier[here]] != sites[person, pairs.later[here]]).sum())
    people = used.people
    by_pairs = people.later_site is None or told_by_pairs(people.site, people.later_site, used.weight)  # type: ignore[arg-type]
    return move_notes(changed, int(people.moved.sum()), len(person), by_pairs)
