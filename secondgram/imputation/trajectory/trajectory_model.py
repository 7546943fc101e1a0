"""The ladder on the anchor of a trajectory: every scan of a person conditions the visit that is missing.

What a linear mixed model expects at the time of that visit, given all known visits, takes the baseline's place in the
preset `default`; all that follows (mean, spread, correlation, shape and their judgement) is as there. Visits to learn
from are hidden as they are missing in the cohort, and their anchors come from people without their own fold.
"""

from __future__ import annotations

import weakref
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...cohort.scaling import CovariateEncoder, SharedScaling
from ...cohort.table import Cohort
from ...ops.thread_pool import in_parallel
from ...training.trainer import Run
from ..default.design import takes_long
from ..default.model import DefaultModel, DefaultOptions
from ..folds import unit_folds
from ..history import first_cells, usual_times
from ..kinds.feature_kinds import FeatureKinds, notes_of
from ..kinds.recognise import recognised
from ..kinds.relations import found_relations
from ..model_data import People, WeightedCohort
from ..provenance import tree_digest
from .anchor import Anchor
from .anchored import INPUTS, PENALTIES, SHORTEST, Anchored, Anchoring, Seen
from .attendance import Attendance
from .hidden import Hidden, enough
from .posterior import Posterior

# Hidden visits of a fold that anchors are judged by.
MOST_JUDGED = 2000


@dataclass(eq=False)
class TrajectoryModel:
    """A fitted anchor and the ladder on it; draws and means in original units.

    scaling, encoder : of visits and covariates, on people's first measured visits.
    usual : (V,) median years of each visit since a person's first recorded time.
    usual_doubt : (D,) median standard deviation of the anchor, scaled; a change is learned in units of it, so that
    errors are as wide as the anchor is in doubt. None where a model does not say, and changes are as they are.
    """

    anchor: Anchor
    scaling: SharedScaling
    encoder: CovariateEncoder
    usual: np.ndarray
    ladder_model: DefaultModel
    usual_doubt: np.ndarray | None = None

    @classmethod
    def fit(cls, cohort: Cohort, options: DefaultOptions, *, seed: int, run: Run) -> TrajectoryModel:
        """The anchor by maximum likelihood on everybody, and the ladder on visits that were hidden."""
        scaling = SharedScaling.fit(first_cells(cohort), cohort.site, robust=True)
        parts = Anchoring(scaling, CovariateEncoder.fit(cohort.covariate_table), usual_times(cohort))
        notes = kinds_notes(cohort)
        cohort = enough(cohort)
        hidden = Hidden.of(cohort)
        fold = unit_folds(cohort.units().astype(str), seed)
        # A person's own visits teach no anchor that the ladder learns from or is judged by.
        others = [fold != number for number in np.unique(fold)]
        mine = [np.flatnonzero(~each[hidden.person]) for each in others]
        seen = parts.seen(cohort)
        # Which kind of anchor is decided by every fold, or by the first where that takes long.
        judged = 1 if takes_long(cohort) else len(others)
        every_kind = in_parallel(lambda each: parts.fit(seen, each), others[:judged])
        best = _best(parts, every_kind, cohort, hidden, mine[:judged])
        kind = PENALTIES[best : best + 1]
        rest = in_parallel(lambda each: parts.fit(seen, each, kind), others[judged:])
        anchors = [each[best] for each in every_kind] + [each for (each,) in rest]
        # By itself, because what is fitted beside others has but its share of the processors.
        (anchor,) = parts.fit(seen, np.ones(len(cohort), dtype=bool), kind)
        found = in_parallel(lambda own, rows: parts.of_hidden(own, cohort, hidden.take(rows)), anchors, mine)
        anchored = Anchored.joined(found, np.concatenate(mine))
        weight = _attendance_weights(seen, hidden, others, mine)
        usual_doubt = np.median(anchored.deviation[hidden.measured], axis=0)
        pairs = _as_pairs(cohort, hidden, anchored, anchored.deviation / usual_doubt, weight)
        ladder = DefaultModel.fit(pairs, options, seed=seed, run=run)
        ladder.record["cautions"] += notes
        assert ladder.growth is not None
        # The anchor's doubt grows by itself, and what is left is in units of it.
        ladder.growth = replace(ladder.growth, share=0.0)
        return cls(anchor, scaling, parts.encoder, parts.usual, ladder, usual_doubt)

    @property
    def options(self) -> DefaultOptions:
        return self.ladder_model.options

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that features are scaled within."""
        return self.scaling.sites

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it learned."""
        return tree_digest(self.state())

    def resolved_precision(self) -> str:
        """The precision that `auto` resolves to on this processor."""
        return self.ladder_model.resolved_precision()

    def check(self, solver: str | None, steps: int | None) -> None:
        """Raise `InputError` for a solver or a number of steps that it cannot be sampled with."""
        self.ladder_model.check(solver, steps)

    def anchored(self, people: People, posterior: Posterior | None = None) -> People:
        """The same people, the anchor as their baseline and the years to the nearest known visit as gap.

        posterior : of levels and slopes given what is known, where it was made already.
        """
        kept, made = self.__dict__.get("_made", (None, None))
        # Draws are made in two steps, which ask for the same.
        if kept is None or kept() is not people:
            found = self._anchoring.anchored(self.anchor, people, posterior)
            doubt = None if self.usual_doubt is None else found.deviation / self.usual_doubt
            made = _with_anchor(people, found, self.encoder.columns, doubt)
            self._made = weakref.ref(people), made
        assert made is not None
        return made

    @property
    def _anchoring(self) -> Anchoring:
        return Anchoring(self.scaling, self.encoder, self.usual)

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D)."""
        return self.ladder_model.mean(self.anchored(people), draws, seed, solver, steps)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D), M the numbers of the draws."""
        return self.ladder_model.draw(self.anchored(people), draws, seed, solver, steps)

    def posterior(self, people: People) -> Posterior:
        """Levels and slopes, scaled, given what is known of people."""
        return self._anchoring.posterior(self.anchor, people)

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The components that come from the denoiser: (M, N, k) float32."""
        # Without a denoiser nothing is asked of people.
        inner = people if self.ladder_model.joint.shape is None else self.anchored(people)
        return self.ladder_model.sample(inner, draws, seed, solver, steps)

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """Draws (M, N, D) from what `sample` gave."""
        return self.ladder_model.finish(self.anchored(people), draws, seed, sampled)

    def covariates(self, people: People, draws: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """By covariate (M, N), missing ones drawn."""
        drawn = self.ladder_model.covariates(self.anchored(people), draws, seed)
        return {name: drawn[name] for name in drawn if name in self.encoder.columns}

    def ladder(self) -> pd.DataFrame:
        """What each rung earned on the anchor; carry-forward is the anchor alone."""
        return self.ladder_model.ladder()

    def verdict(self) -> pd.DataFrame:
        """What is used for each feature and why."""
        return self.ladder_model.verdict()

    def summary(self) -> list[str]:
        """What was chosen and why, one sentence each."""
        return [
            "every known visit of a person conditions the one that is missing, by an anchor that is judged below",
            *self.ladder_model.summary(),
        ]

    def cautions(self) -> list[str]:
        """What whoever uses its draws has to know of them, one sentence each."""
        return self.ladder_model.cautions()

    def notes(self, people: People) -> list[str]:
        """What is to be told about people who are imputed, one sentence each."""
        return self.beyond_notes(self.anchored(people).gap)

    def beyond_notes(self, gap: np.ndarray) -> list[str]:
        """On visits that are so many years (R,) from what is known, where training had none so far."""
        growth = self.ladder_model.growth
        beyond = 0 if growth is None else int((gap > growth.longest + SHORTEST).sum())
        if growth is None or not beyond:
            return []
        return [
            f"{beyond} visits are up to {gap.max():.1f} years from any known visit of the person, and the longest that "
            f"the model learned from is {growth.longest:.1f}: beyond it the mixed model's slopes alone decide"
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    def state(self) -> dict[str, Any]:
        return {
            "trajectory": {
                "anchor": self.anchor.state(),
                "scaling": self.scaling.state(),
                "encoder": self.encoder.state(),
                "usual": self.usual,
                **({} if self.usual_doubt is None else {"usual_doubt": self.usual_doubt}),
            },
            **self.ladder_model.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], options: DefaultOptions) -> TrajectoryModel:
        own = state["trajectory"]
        return cls(
            Anchor.from_state(own["anchor"]),
            SharedScaling.from_state(own["scaling"]),
            CovariateEncoder.from_state(own["encoder"]),
            own["usual"],
            DefaultModel.from_state(state, options),
            own.get("usual_doubt"),
        )


def _best(parts: Anchoring, anchors: list[list[Anchor]], cohort: Cohort, hidden: Hidden, mine: list[np.ndarray]) -> int:
    """Which anchor tells hidden visits of people that it was not fitted to best, by CRPS; anchors and rows by fold."""
    loss = np.zeros(len(PENALTIES))
    for of_fold, rows in zip(anchors, mine, strict=True):
        some = hidden.take(hidden.some(rows[hidden.measured[rows]], cohort, MOST_JUDGED))
        if not len(some):
            continue
        share = 1.0 / np.bincount(some.person)[some.person]
        scores = in_parallel(lambda anchor, some=some: parts.score(anchor, cohort, some), of_fold)
        loss += [float(share @ score) for score in scores]
    return int(loss.argmin())


def _attendance_weights(seen: Seen, hidden: Hidden, others: list[np.ndarray], mine: list[np.ndarray]) -> np.ndarray:
    """(T,) weights of hidden visits by who stayed, each from other people."""
    weight, values, person = np.ones(len(hidden)), seen.values, seen.person
    each = in_parallel(lambda learned: Attendance.fit(values, person, learned), others)
    for rows, attendance in zip(mine, each, strict=True):
        if attendance is not None:
            weight[rows] = attendance.weights(hidden, rows, values, person)
    return weight


def kinds_notes(cohort: Cohort) -> list[str]:
    """On features whose draws leave what they can be, because kinds and sums are not kept to here."""
    found = notes_of(FeatureKinds(cohort.features, recognised(cohort, {})))
    found += [each.text(cohort.features) for each in found_relations(cohort, [])[0][:3]]
    if not found:
        return []
    return [f"with history='all' draws are any numbers, and these are not kept to: {'; '.join(found)}"]


def _with_anchor(
    people: People, anchored: Anchored, covariates: Container[str], doubt: np.ndarray | None = None
) -> People:
    """covariates : names of the model's;  doubt : (N, D), the unit of changes."""
    own = [name for name in people.table if name in covariates]
    names = list(INPUTS)
    for place, name in enumerate(names):
        while name in covariates:
            name += "'"
        names[place] = name
    added = pd.DataFrame(anchored.inputs, columns=names, index=people.table.index)
    table = pd.concat([people.table[own], added], axis=1)
    return replace(people, baseline=anchored.baseline, gap=anchored.gap, table=table, history=None, change_unit=doubt)


def _as_pairs(
    cohort: Cohort, hidden: Hidden, anchored: Anchored, doubt: np.ndarray, weight: np.ndarray
) -> WeightedCohort:
    """A cohort of T people who are hidden visits: the anchor is the baseline, the visit the follow-up.

    Who is yet to be imputed has no follow-up, and shows what such anchors are like. weight : (T,), by attendance.
    """
    people = _with_anchor(hidden.rows(People.of(cohort, keep_known=False)), anchored, cohort.covariate_table)
    visits = np.full((len(people), 2, len(cohort.features)), np.nan, people.baseline.dtype)
    visits[:, 0] = anchored.baseline
    learned = np.flatnonzero(hidden.measured)
    change = cohort.visits[hidden.person[learned], hidden.visit[learned]] - visits[learned, 0]
    visits[learned, 1] = visits[learned, 0] + change / doubt[learned]
    sites = None
    if cohort.visit_sites is not None and people.site is not None:
        # Whoever is yet to be imputed is so on the site of the first visit.
        sites = np.stack([people.site, people.site], axis=1)
        sites[learned, 1] = cohort.visit_sites[hidden.person[learned], hidden.visit[learned]]
    count = np.bincount(hidden.person[learned], minlength=len(cohort))[hidden.person]
    return WeightedCohort(
        ids=people.ids,
        visits=visits,
        features=cohort.features,
        visit_labels=("anchor", "hidden"),
        times=np.stack([np.zeros(len(people)), anchored.gap], axis=1),
        covariate_table=people.table,
        groups=cohort.units()[hidden.person],
        site=people.site,
        visit_sites=sites,
        source=cohort.source,
        row_weight=weight / np.maximum(count, 1),
    )
