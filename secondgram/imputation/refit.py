"""Draws that also hold what is uncertain about the model: one model a draw, each fitted to people drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError
from ..progress import progress
from .imputer import SecondgramImputer
from .result import Imputation


def resampled(cohort: Cohort, seed: int) -> Cohort:
    """People drawn with replacement, groups whole; as many groups with and without a follow-up as before.

    Copies of a person have ids of their own and share the person's group, so that no split separates them.
    """
    names, member = np.unique(cohort.units().astype(str), return_inverse=True)
    paired = np.bincount(member, cohort.paired, minlength=len(names)) > 0
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.choice(part, len(part)) for part in map(np.flatnonzero, (paired, ~paired))])
    order = np.argsort(member, kind="stable")
    start = np.searchsorted(member[order], np.arange(len(names) + 1))
    rows = [order[start[unit] : start[unit + 1]] for unit in chosen]
    copy = np.repeat(np.arange(len(chosen)), [len(each) for each in rows])
    index = np.concatenate(rows)
    ids = np.array([f"{cohort.ids[row]}#{number}" for row, number in zip(index, copy, strict=True)], dtype=object)
    # Not by replacing fields: a simulated cohort has more of them, which no model is shown.
    return Cohort(
        ids,
        cohort.visits[index],
        cohort.features,
        cohort.visit_labels,
        cohort.times[index],
        cohort.covariate_table.iloc[index],
        cohort.outcomes.iloc[index],
        names[member[index]],
        None if cohort.site is None else cohort.site[index],
        cohort.target,
        cohort.source,
        cohort.notes,
        visit_sites=None if cohort.visit_sites is None else cohort.visit_sites[index],
    )


def impute_refitted(
    imputer: SecondgramImputer,
    cohort: Cohort,
    draws: int = 20,
    seed: int = 7,
    *,
    show: bool = True,
    **options: Any,
) -> list[Imputation]:
    """Impute each draw from a model of its own, fitted to a bootstrap of the cohort's people.

    Draws of one fitted model differ as people differ; they do not show that the model might have come out differently.
    Rubin's rules need both, above all where few people have a follow-up (Rubin 1987, chapter 4, calls such draws
    proper; the bootstrap is that of Efron, Missing data, imputation, and the bootstrap, JASA 89, 1994). It takes
    `draws` times the fit. `fit_pooled` and `completed_tables` take the list.

    imputer : gives preset and options; it need not be fitted.
    cohort, draws, options : as in `SecondgramImputer.impute`, `who=` and `gap=` say.
    seed : decides people and draws.

    Raises `InputError` as `fit` and `impute` do, and for fewer than two draws.
    """
    if not isinstance(draws, (int, np.integer)) or draws < 2:
        raise InputError(f"draws={draws!r}", mend="Use a whole number, 2 or more")
    found = []
    with progress("fitting and imputing", int(draws), show) as advance:
        for number in range(draws):
            # Noise is keyed by seed, person and draw: another seed for every model, or all would share their noise.
            own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            fresh = SecondgramImputer(**imputer.get_params()).fit(resampled(cohort, own), show=False)
            found.append(fresh.impute(cohort, draws=1, seed=own, show=False, **options))
            advance(1)
    return found
