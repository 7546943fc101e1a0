"""The cohort: people, their covariates, and their visits as one array."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from ..errors import InputError, some
from .cells import LARGEST, beyond_largest, no_measurement
from .checking import find_values
from .value_findings import Finding
from .visit_sites import agreed_sites
from .writing import write_cohort

C = TypeVar("C", bound="Cohort")


# Every two visits of a person teach; more than these are rows of something else.
MOST_VISITS = 1000


@dataclass(frozen=True)
class Pairs:
    """Every earlier-later pair of observed visits of one person; P pairs.

    person, earlier, later : (P,) integers, row of the cohort and positions on its visit axis.
    gap : (P,) years between the two visits, NaN where a time is unknown.
    """

    person: np.ndarray
    earlier: np.ndarray
    later: np.ndarray
    gap: np.ndarray

    def __len__(self) -> int:
        return len(self.person)

    def take(self, rows: np.ndarray) -> Pairs:
        """Those at these positions, or where this mask is true."""
        return Pairs(self.person[rows], self.earlier[rows], self.later[rows], self.gap[rows])

    def out_of_order(self, target: int) -> np.ndarray:
        """Positions of gaps below zero, or of zero between the first visit and the target."""
        return np.flatnonzero((self.gap < 0) | ((self.gap == 0) & (self.earlier == 0) & (self.later == target)))


@dataclass(frozen=True, eq=False)
class Cohort:
    """N people, V visits, D imaging features. Missing is NaN everywhere.

    Attributes
    ----------
    ids : (N,) text, one per person, unique.
    visits : (N, V, D) float, original units; the visit axis is ordered as `visit_labels`.
    features : the D feature names.
    visit_labels : the V labels, earliest first.
    times : (N, V) years on any common origin per person.
    covariate_table : N rows of static covariates as they were given, numeric (float64) or categorical columns.
    outcomes : N rows of declared outcomes; they never condition a model.
    groups : (N,) text or None; people who share a value stay on one side of every split.
    site : (N,) text or None, of the baseline; features may be scaled within site.
    target : position on the visit axis of the follow-up that is imputed (the baseline is position 0).
    source : the file the cohort came from, for messages.
    notes : decisions made while reading it, one sentence each.
    earlier_labels : labels of visits before the baseline, which are not among these.
    columns : names of `id`, `visit`, `time` and `site` in the table it was read from; `decimal` where it had commas.
    missing : codes that stood for missing in that table, as `read_cohort` takes them.
    time_unit : how its time column was read: days, weeks, months, years, dates, or an order of dates (DD/MM/YYYY).
    visit_sites : (N, V) text, the site of each visit, or None where nobody's changes. A visit without one is taken to
        be on the site of the baseline.
    findings : values that may not be right, with their rows; None where nobody looked, see `check`.
    """

    ids: np.ndarray
    visits: np.ndarray
    features: tuple[str, ...]
    visit_labels: tuple[str, ...] = ("0", "1")
    times: np.ndarray = None  # type: ignore[assignment]
    covariate_table: pd.DataFrame = None  # type: ignore[assignment]
    outcomes: pd.DataFrame = None  # type: ignore[assignment]
    groups: np.ndarray | None = None
    site: np.ndarray | None = None
    target: int = 1
    source: str | None = None
    notes: tuple[str, ...] = field(default=())
    earlier_labels: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    missing: tuple[str | float, ...] = ()
    time_unit: str | None = None
    visit_sites: np.ndarray | None = None
    findings: tuple[Finding, ...] | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        people = len(self.ids)
        put("ids", np.asarray([str(name) for name in self.ids], dtype=object))
        put("features", tuple(str(name) for name in self.features))
        put("visit_labels", tuple(str(label) for label in self.visit_labels))
        if self.times is None:
            put("times", np.full((people, len(self.visit_labels)), np.nan))
        for name in ("covariate_table", "outcomes"):
            table = getattr(self, name)
            put(name, pd.DataFrame(index=range(people)) if table is None else table.reset_index(drop=True))
        if self.visit_sites is not None:
            sites = np.asarray(self.visit_sites, dtype=object)
            if sites.shape != (people, len(self.visit_labels)):
                raise InputError(f"visit_sites has shape {sites.shape}", file=self.source)
            for name, value in zip(("site", "visit_sites"), agreed_sites(self.site, sites, self.source), strict=True):
                put(name, value)
        for name in ("groups", "site"):
            if getattr(self, name) is not None:
                put(name, np.asarray([str(value) for value in getattr(self, name)], dtype=object))
        self._check()

    def _check(self) -> None:
        people, slots, width = len(self.ids), len(self.visit_labels), len(self.features)
        if slots > MOST_VISITS:
            raise InputError(
                f"{slots} different visits ({some(self.visit_labels)}), and {MOST_VISITS} are the most",
                file=self.source,
                column="visit",
                mend="Name the right visit column where this is a running number or a time, or keep fewer visits",
            )
        expected = {"visits": (people, slots, width), "times": (people, slots)}
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                raise InputError(
                    f"{name} has shape {np.shape(getattr(self, name))}, expected {shape}", file=self.source
                )
        for name in ("covariate_table", "outcomes", "groups", "site"):
            value = getattr(self, name)
            if value is not None and len(value) != people:
                raise InputError(f"{name} has {len(value)} rows for {people} people", file=self.source)
        if len(set(self.ids)) != people:
            doubled = pd.Index(self.ids)
            raise InputError(
                f"people occur twice: {some(doubled[doubled.duplicated()].unique())}",
                file=self.source,
                mend="Give one row of arrays per person",
            )
        if slots < 1 or not 0 <= self.target:
            raise InputError("a cohort needs a baseline visit and a target of 0 or more", file=self.source)
        # Without a copy of a large cohort.
        ends = (np.fmin.reduce(self.visits, axis=None), np.fmax.reduce(self.visits, axis=None)) if people else ()
        if any(abs(float(end)) > LARGEST for end in ends):
            person, slot, feature = np.argwhere(beyond_largest(self.visits))[0]
            problem, mend = no_measurement(float(self.visits[person, slot, feature]))
            raise InputError(
                f"subject {self.ids[person]}, visit {self.visit_labels[slot]}: {problem}",
                file=self.source,
                column=self.features[feature],
                mend=mend,
            )

    # -- what a person asks first -------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} people, {len(self.features)} features, visits "
            f"{'/'.join(self.visit_labels)}, {int(self.paired.sum())} with follow-up)"
        )

    @property
    def baseline(self) -> np.ndarray:
        """(N, D) the first visit."""
        return self.visits[:, 0]

    @property
    def followup(self) -> np.ndarray:
        """(N, D) the target visit, NaN where unknown."""
        if self.target < len(self.visit_labels):
            return self.visits[:, self.target]
        return np.full_like(self.visits[:, 0], np.nan)

    @property
    def followup_label(self) -> str:
        """Label of the target visit; `next` where no person has one yet."""
        return self.visit_labels[self.target] if self.target < len(self.visit_labels) else "next"

    @property
    def gap(self) -> np.ndarray:
        """(N,) years from the first visit to the target visit, NaN where unknown."""
        if self.target < len(self.visit_labels):
            return self.times[:, self.target] - self.times[:, 0]
        return np.full(len(self), np.nan)

    @property
    def scanned(self) -> np.ndarray:
        """(N,) bool: the first visit has at least one measured feature."""
        return np.isfinite(self.baseline).any(axis=1)

    @property
    def paired(self) -> np.ndarray:
        """(N,) bool: the first visit and the target visit each have at least one measured feature."""
        return self.scanned & np.isfinite(self.followup).any(axis=1)

    @property
    def same_site(self) -> np.ndarray:
        """(N,) bool: the target visit is on the site of the first visit, as far as it is recorded."""
        if self.visit_sites is None or self.target >= len(self.visit_labels):
            return np.ones(len(self), dtype=bool)
        return np.asarray(self.visit_sites[:, self.target] == self.visit_sites[:, 0])

    def on_one_site(self: C) -> C:
        """The same people without visits that were on another site than their first."""
        if self.visit_sites is None:
            return self
        there = self.visit_sites == self.visit_sites[:, :1]
        return replace(self, visits=np.where(there[:, :, None], self.visits, np.nan), visit_sites=None)

    @property
    def static(self) -> np.ndarray:
        """(N, C) covariates as numbers: numeric as they are, categorical as one 0/1 column per level."""
        columns = [values for _, values in self._encoded()]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0))

    @property
    def covariates(self) -> tuple[str, ...]:
        """The C names of the columns of `static`."""
        return tuple(name for name, _ in self._encoded())

    def _encoded(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, column in self.covariate_table.items():
            if isinstance(column.dtype, pd.CategoricalDtype):
                known = column.notna().to_numpy()
                for level in column.cat.categories:
                    yield f"{name}={level}", np.where(known, (column == level).to_numpy(), np.nan).astype(float)
            else:
                yield str(name), column.to_numpy(dtype=float)

    def check(self) -> tuple[Finding, ...]:
        """Values that may not be what was measured: codes for missing, slips, two units in a column.

        Those that were found when the table was read, with rows; of a cohort that was made otherwise they are looked
        for now. See docs/cohorts.md#values-that-cannot-be-right.
        """
        return tuple(find_values(self)) if self.findings is None else self.findings

    def pairs(self, replicates: bool = False) -> Pairs:
        """Every earlier-later pair of measured visits of one person.

        replicates : those of one time too, which show no change but the error of a measurement.

        Raises `InputError` where a recorded gap is below zero, or zero between the first visit and the target.
        """
        pairs = self.all_pairs()
        wrong = pairs.out_of_order(self.target)
        if len(wrong):
            first = pairs.take(wrong[:1])
            raise InputError(
                f"subject {self.ids[first.person[0]]}: visit {self.visit_labels[first.later[0]]} is recorded "
                f"{first.gap[0]:g} years after visit {self.visit_labels[first.earlier[0]]}",
                file=self.source,
                column="time",
                mend="Correct the times, or leave out the time column",
            )
        return pairs if replicates else pairs.take(pairs.gap != 0)

    def all_pairs(self) -> Pairs:
        """Those of `pairs`, whatever the gap."""
        seen = np.isfinite(self.visits).any(axis=2)  # [people, visits]
        whose, visit = np.nonzero(seen)
        # Of every measured visit, those of the same person that follow it.
        following = np.cumsum(seen.sum(axis=1))[whose] - np.arange(len(whose)) - 1
        first = np.repeat(np.arange(len(whose)), following)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(following) - following, following)
        person, earlier, later = whose[first], visit[first], visit[second]
        gap = self.times[person, later] - self.times[person, earlier]
        return Pairs(person, earlier, later, gap)

    # -- parts of it -----------------------------------------------------------------

    def take(self: C, rows: Sequence[int] | np.ndarray) -> C:
        """The people at these positions, or where this mask is true, in this order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        return replace(
            self,
            ids=self.ids[index],
            visits=self.visits[index],
            times=self.times[index],
            covariate_table=self.covariate_table.iloc[index],
            outcomes=self.outcomes.iloc[index],
            groups=None if self.groups is None else self.groups[index],
            site=None if self.site is None else self.site[index],
            visit_sites=None if self.visit_sites is None else self.visit_sites[index],
            # Some are of others, and what is far off depends on who is there.
            findings=None,
        )

    def in_order(self: C) -> C:
        """The same people in the order of their ids; a cohort that is in order is not copied."""
        order = np.argsort(self.ids.astype(str), kind="stable")
        if np.array_equal(order, np.arange(len(self))):
            return self
        return replace(self.take(order), findings=self.findings)

    def with_baseline(self: C) -> C:
        """The people who have a baseline visit; a large cohort is copied only where somebody is left out."""
        return self if self.scanned.all() else self.take(self.scanned)

    def with_target(self: C, target: int) -> C:
        """The same cohort with another visit (position on the visit axis, 1 or more) as the follow-up."""
        if not 1 <= target:
            raise InputError(f"target={target} is no follow-up visit", mend="Use 1 for the visit after the baseline")
        return replace(self, target=int(target))

    def without_followup(self: C) -> C:
        """The same people with every visit but the first unknown, as a model may see test people."""
        visits = self.visits.copy()
        visits[:, 1:] = np.nan
        return replace(self, visits=visits)

    def units(self) -> np.ndarray:
        """(N,) text: the group of each person, or their id where there are no groups."""
        return self.ids if self.groups is None else self.groups

    def split(self: C, test: float = 0.25, seed: int = 0) -> tuple[C, C]:
        """Whole people, groups kept together: (train, test) with about the share `test` of people in the second."""
        if not 0 < test < 1:
            raise InputError(f"test={test} is no share of people", mend="Use a number between 0 and 1")
        side = self._shuffled_units(seed) < test
        if side.all() or not side.any():
            raise InputError("the cohort has too few people or groups to split", file=self.source)
        return self.take(~side), self.take(side)

    def folds(self, folds: int = 5, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Masks (train, test), each (N,) bool, of whole people, groups kept together."""
        count = len(set(self.units()))
        if not 2 <= folds <= count:
            raise InputError(f"{folds} folds do not go into {count} people or groups", file=self.source)
        which = np.minimum((self._shuffled_units(seed) * folds).astype(int), folds - 1)
        for fold in range(folds):
            yield which != fold, which == fold

    def _shuffled_units(self, seed: int) -> np.ndarray:
        # (N,) in [0, 1): the share of people in the units that come before one's own in a random order of units.
        names, member = np.unique(self.units().astype(str), return_inverse=True)
        order = np.random.default_rng(seed).permutation(len(names))
        size = np.bincount(member, minlength=len(names))[order]
        before = np.empty(len(names))
        before[order] = np.cumsum(size) - size
        return before[member] / len(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write one row per person and visit (long layout); the suffix chooses CSV, TSV, Parquet or Arrow."""
        write_cohort(self, path)
