"""Selection of the people to impute, their visits and features, as the model was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError, some
from .history import History
from .model_data import People
from .trajectory.targets import Targets

WHO = ("missing", "all")


def select_people(
    cohort: Cohort,
    who: str,
    features: list[str],
    gap: float | None,
    usual_gap: float | None,
    visit: str | None = None,
    history: bool = False,
) -> tuple[People, list[str]]:
    """The people to impute, their features in the model's order, and what to tell about it, one sentence each.

    cohort : as `as_trained` gives it;  visit : label that keys the noise, None for the cohort's own.
    who : `missing` shows measured follow-up cells, `all` hides them.
    gap : years after baseline for people without a recorded time; None takes `usual_gap`, and that None leaves it open.
    history : show every other visit, and impute whoever has any.

    Raises `InputError` for an unknown `who`, an absent feature, no one to impute, a recorded gap of zero or less.
    """
    if who not in WHO:
        raise InputError(f"who={who!r}", mend="Use 'missing' or 'all'")
    columns = feature_order(cohort, features)
    seen = _seen_elsewhere(cohort) if history else cohort.scanned
    rows = seen if who == "all" else seen & ~complete(cohort, columns)
    if not rows.any():
        raise InputError(
            "there is no one to impute: every person with a baseline has a complete follow-up"
            if seen.any()
            else "there is no one to impute: no person has a baseline visit",
            file=cohort.source,
            mend="Use who='all' to impute everyone as if no follow-up had been measured",
        )
    # A large cohort is copied only where somebody is left out.
    chosen = cohort if rows.all() else cohort.take(rows)
    people = People.of(chosen, keep_known=who == "missing", visit=visit, history=history)
    notes = []
    without = int((~seen).sum())
    if without:
        notes.append(f"{without} people have no {'other' if history else 'baseline'} visit and are not imputed")
    if columns != list(range(len(cohort.features))):
        notes.append("the features were matched by name: the cohort has others too, or another order than in training")
        people = replace(
            people,
            baseline=people.baseline[:, columns],
            known=people.known[:, columns],
            history=None if people.history is None else people.history.with_features(columns),
        )
    return _with_gap(people, gap, usual_gap, notes), notes


def select_visits(
    cohort: Cohort,
    features: list[str],
    usual: np.ndarray,
    visits: str | Sequence[str] | None,
    at: Sequence[float] | float,
) -> tuple[People, Targets, list[str]]:
    """People with all that is known of them, the visits to impute together, and what to tell about it.

    usual : (V,) years of the visits;  visits, at : as in `Targets.of`. Raises `InputError` as that and `feature_order`.
    """
    columns = feature_order(cohort, features)
    notes = []
    if columns != list(range(len(cohort.features))):
        notes.append("the features were matched by name: the cohort has others too, or another order than in training")
        # Whatever else was measured makes no visit known.
        cohort = replace(cohort, visits=cohort.visits[:, :, columns], features=tuple(features))
    targets = Targets.of(cohort, usual, visits, at)
    wanted = np.unique(targets.person)
    without = int((~np.isfinite(cohort.visits).any(axis=(1, 2))).sum())
    if without:
        notes.append(f"{without} people have no visit at all and are not imputed")
    if len(wanted) < len(cohort):
        cohort, targets = cohort.take(wanted), targets.take(wanted)
    for slot in range(len(cohort.visit_labels), len(targets.labels)):
        there = len(cohort) - int((targets.slot == slot).sum())
        if there:
            notes.append(f"{there} people were measured at {targets.labels[slot]}, and are not imputed at that time")
    people, slots = People.of(cohort, keep_known=False), cohort.visits
    more = len(targets.labels) - slots.shape[1]
    if more:
        slots = np.pad(slots, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
        # A view of the visits before would keep all of them.
        people = replace(people, baseline=slots[:, 0])
    sites = cohort.visit_sites
    if sites is not None:
        sites = np.concatenate([sites, np.repeat(sites[:, :1], more, axis=1)], axis=1)
    unknown = np.full(len(cohort), np.nan)
    return replace(people, history=History(slots, targets.times, unknown, sites)), targets, notes


def _seen_elsewhere(cohort: Cohort) -> np.ndarray:
    """(N,) bool: any visit but the target has a measured feature."""
    seen = np.isfinite(cohort.visits).any(axis=2)
    seen[:, cohort.target : cohort.target + 1] = False
    return np.asarray(seen.any(axis=1))


def as_trained(
    cohort: Cohort, visits: Sequence[str] | None, target: str, history: bool = False
) -> tuple[Cohort, str, list[str]]:
    """The cohort with the model's baseline first, the label of the visit to impute, and what to tell about it.

    history : with all of the model's visits, in their order.
    visits : the model's labels, earliest first, None for a model that does not say;  target : its follow-up among them.
    A person who was seen at the follow-up alone is thereby no baseline, whoever else is in the cohort. Raises
    `InputError` where none of the cohort's labels is the model's.
    """
    labels = list(cohort.visit_labels)
    if visits is None:
        own = cohort.followup_label if cohort.target < len(labels) else target
        return (
            cohort,
            own,
            ["the model does not say which visits it was trained on: they are taken from this cohort alone"],
        )
    if not set(labels) & set(visits):
        raise InputError(
            f"the model was trained on visits {some(visits)}, and the cohort has {some(labels)}",
            file=cohort.source,
            mend="Name them with --visits, the baseline first, or read the cohort with like= this model",
        )
    wanted = visits[cohort.target] if cohort.target < len(visits) else cohort.followup_label
    taken = [*visits, *([] if wanted in visits else [wanted])] if history else [visits[0], wanted]
    places = [labels.index(label) if label in labels else None for label in taken]
    follows = cohort.target if cohort.target < len(labels) else None
    if labels == taken if history else places[0] == 0 and places[1] == follows:
        return cohort, wanted, []

    def at_visits(values: np.ndarray) -> np.ndarray:
        # [people, visits, ...], NaN where nobody has one.
        nothing = np.full_like(values[:, 0], np.nan)
        return np.stack([nothing if place is None else values[:, place] for place in places], axis=1)

    sites = None if cohort.visit_sites is None else at_visits(cohort.visit_sites)
    aligned = Cohort(
        cohort.ids,
        at_visits(cohort.visits),
        cohort.features,
        tuple(taken),
        at_visits(cohort.times),
        cohort.covariate_table,
        cohort.outcomes,
        cohort.groups,
        cohort.site if sites is None else None,
        taken.index(wanted),
        cohort.source,
        cohort.notes,
        visit_sites=sites,
    )
    return aligned, wanted, [f"visit {visits[0]} is the baseline and {wanted} the follow-up, as in training"]


def check_sites(cohort: Cohort, sites: Sequence[str], column: str = "site", wanted: bool = False) -> list[str]:
    """Notes on sites that a model was not trained on; `sites` are those it scales features within.

    column : where the training's table had them.  wanted : the model cannot do without.

    Raises `InputError` where sites are wanted and the cohort says nothing of them.
    """
    if not sites:
        return []
    if cohort.site is None and wanted:
        raise InputError(
            f"the model scales features within sites ({some(sites)}), and the cohort has none",
            file=cohort.source,
            column=column,
            mend="Add the column, or name it with --site or site=; an empty cell is scaled as the average of all sites",
        )
    apart = "scaled as the average of its sites"
    if not wanted:
        apart = (
            "each is imputed from their own baseline as the level, with change and spread as within the sites of the "
            "model. Fit it with their baselines too, which needs no follow-up of theirs, to know the site"
        )
    if cohort.site is None:
        return [
            f"no site is known, and the model scales features within sites ({some(sites)}): {apart}; the column was "
            f"{column!r}, and --site or site= names another"
        ]
    strange = cohort.scanned & ~np.isin(cohort.site.astype(str), np.asarray(sites, dtype=str))
    if not strange.any():
        return []
    names = some(sorted(set(cohort.site[strange])))
    return [f"{int(strange.sum())} people are of sites unknown to the model ({names}): {apart}"]


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
