"""People that models are tried on: everything that a real cohort has of missing cells, on a few people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..cohort.simulate import simulate
from ..cohort.table import Cohort

# So many with and without a follow-up are taken of a cohort.
OF_EACH = 12


def study() -> Cohort:
    """160 people of two sites, in families of two, 4 features; half of the people have a follow-up."""
    made = simulate(160, 4, 0.5, seed=3, mode="gaussian")
    number = np.arange(len(made))
    return Cohort(
        ids=np.array([f"{place:03}" for place in number], dtype=object),
        visits=made.visits,
        features=("left hippocampus", "right_hippocampus", "Äquator 1", "x[3]"),
        visit_labels=made.visit_labels,
        times=made.times,
        covariate_table=made.covariate_table,
        groups=np.array([f"family {place // 2}" for place in number], dtype=object),
        site=np.where(number % 3 == 0, "Oslo", "Bergen").astype(object),
    )


def people_to_impute(cohort: Cohort) -> Cohort:
    """At most 24 people of a cohort, in a mixed order, with what is missing in real ones.

    Some of their follow-ups are whole, some half measured, some missing; some baselines have a hole, two people have no
    baseline, and some have no recorded time of the follow-up.
    """
    rng = np.random.default_rng(0)
    rows = []
    for which in (cohort.paired, cohort.scanned & ~cohort.paired):
        found = np.flatnonzero(which)
        rows.append(rng.permutation(found)[:OF_EACH])
    seen, unseen = (np.arange(len(part)) for part in rows)
    unseen = unseen + len(seen)
    people = cohort.take(np.concatenate(rows))
    visits, times = people.visits.copy(), people.times.copy()
    width = visits.shape[2]
    there = people.target < visits.shape[1]
    if width > 1:
        for place in seen[: 2 * len(seen) // 3] if there else []:
            visits[place, people.target, np.arange(width) % 2 == place % 2] = np.nan
        for place in unseen[1:4]:
            visits[place, 0, place % width] = np.nan
    for place in [*unseen[4:5], *seen[-1:]]:
        visits[place, 0] = np.nan
    if there:
        times[unseen[5:8], people.target] = np.nan
    people = replace(people, visits=visits, times=times)
    return people.take(rng.permutation(len(people)))
