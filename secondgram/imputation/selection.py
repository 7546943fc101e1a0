"""Whom to impute, and what the model is told about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError, some
from .people import People

WHO = ("missing", "all")


def select_people(
    cohort: Cohort, who: str, features: list[str], gap: float | None, usual_gap: float | None
) -> tuple[People, list[str]]:
    """The people to impute, their features in the model's order, and what to tell about it, one sentence each.

    who : `missing` shows measured follow-up cells, `all` hides them.
    gap : years after baseline for people without a recorded time; None takes `usual_gap`, and that None leaves it open.

    Raises `InputError` for an unknown `who`, an absent feature, no one to impute, a recorded gap of zero or less.
    """
    if who not in WHO:
        raise InputError(f"who={who!r}", mend="Use 'missing' or 'all'")
    columns = feature_order(cohort, features)
    rows = cohort.scanned if who == "all" else cohort.scanned & ~complete(cohort, columns)
    if not rows.any():
        raise InputError(
            "there is no one to impute: every person with a baseline has a complete follow-up"
            if cohort.scanned.any()
            else "there is no one to impute: no person has a baseline visit",
            file=cohort.source,
            mend="Use who='all' to impute everyone as if no follow-up had been measured",
        )
    # A large cohort is copied only where somebody is left out.
    chosen = cohort if rows.all() else cohort.take(rows)
    people = People.of(chosen, keep_known=who == "missing")
    notes = []
    without = int((~cohort.scanned).sum())
    if without:
        notes.append(f"{without} people have no baseline visit and are not imputed")
    if columns != list(range(len(cohort.features))):
        notes.append("the features were matched by name: the cohort has others too, or another order than in training")
        people = replace(people, baseline=people.baseline[:, columns], known=people.known[:, columns])
    return _with_gap(people, gap, usual_gap, notes), notes


def feature_order(cohort: Cohort, features: list[str]) -> list[int]:
    """Positions in the cohort of the features a model was trained on; `InputError` where one is absent."""
    place = {name: index for index, name in enumerate(cohort.features)}
    absent = [name for name in features if name not in place]
    if len(absent) == len(features):
        raise InputError(
            f"the model is of another cohort: none of its {len(absent)} features ({some(absent, 3)}) is here",
            file=cohort.source,
            mend="Use the model that was trained on these features",
        )
    if absent:
        raise InputError(
            f"the model was trained with {some(absent)}, which this cohort does not have",
            file=cohort.source,
            column=absent[0],
            mend="Add the column (empty cells are fine), or train a model without it",
        )
    return [place[name] for name in features]


def complete(cohort: Cohort, columns: list[int]) -> np.ndarray:
    """(N,) bool: every one of these features was measured at the follow-up."""
    return np.isfinite(cohort.followup[:, columns]).all(axis=1)


def _with_gap(people: People, gap: float | None, usual: float | None, notes: list[str]) -> People:
    if (people.gap <= 0).any():
        first = int(np.flatnonzero(people.gap <= 0)[0])
        raise InputError(
            f"subject {people.ids[first]}: the follow-up is recorded {people.gap[first]:g} years after baseline",
            file=people.source,
            column="time",
            mend="Correct the times, or leave them out",
        )
    unknown = ~np.isfinite(people.gap)
    filled = usual if gap is None else gap
    if filled is None or not unknown.any():
        return people
    origin = "the median of the training pairs" if gap is None else "as asked"
    notes.append(f"{int(unknown.sum())} people have no recorded time gap: {filled:g} years, {origin}")
    return replace(people, gap=np.where(unknown, filled, people.gap))
