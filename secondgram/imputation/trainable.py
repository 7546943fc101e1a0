"""Whether a cohort can be learned from, and what of its pairs on two sites teaches."""

from __future__ import annotations

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError, some
from .model_data import TrainingPairs
from .scanner_moves import FEWEST_PEOPLE, move_notes, told_by_pairs

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
    what = "is constant: every measured value is"
    _refuse_constant(cohort, low, high, what, "Leave the feature out with --features or features=")
    low, high = np.fmin.reduce(cohort.baseline, axis=0), np.fmax.reduce(cohort.baseline, axis=0)
    what = f"is constant at visit {cohort.visit_labels[0]}: every measured baseline is"
    mend = "A change is told in units of the baselines' spread: leave the feature out, or check the file"
    _refuse_constant(cohort, low, high, what, mend)
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


def _refuse_constant(cohort: Cohort, low: np.ndarray, high: np.ndarray, what: str, mend: str) -> None:
    """Raise `InputError` where the least and the greatest value (D,) of a feature are one."""
    constant = np.flatnonzero(high == low)
    if len(constant):
        raise InputError(
            f"{what} {low[constant[0]]:g}"
            + (f" (also {some(np.array(cohort.features)[constant[1:]])})" if len(constant) > 1 else ""),
            file=cohort.source,
            column=cohort.features[int(constant[0])],
            mend=mend,
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
