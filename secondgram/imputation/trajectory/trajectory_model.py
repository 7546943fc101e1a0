"""The ladder on the anchor of a trajectory: every scan of a person conditions the visit that is missing.

What a linear mixed model expects at the time of that visit, given all known visits, takes the baseline's place in the
preset `default`; all that follows (mean, spread, correlation, shape and their judgement) is as there. Visits to learn
from are hidden as they are missing in the cohort, and their anchors come from people without their own fold.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...cohort.scaling import CovariateEncoder, SharedScaling
from ...cohort.table import Cohort
from ...diffusion.noise import person_keys
from ...training.trainer import Run
from ..default.model import DefaultModel, DefaultOptions
from ..folds import unit_folds
from ..history import History, filled_times, first_cells, usual_times
from ..kinds.feature_kinds import FeatureKinds, notes_of
from ..kinds.recognise import recognised
from ..kinds.relations import found_relations
from ..model_data import People, WeightedCohort
from ..provenance import tree_digest
from .anchor import MOST, Anchor
from .attendance import Attendance
from .hidden import Hidden
from .trends import trend_basis

# Robust spreads at which a cell is cut, as where the ladder learns.
FARTHEST = 25.0
# The gap to the nearest known visit is above zero.
SHORTEST = 1e-3
# Inputs of the ladder beside covariates: log of the number of known visits; 1 where the visit is after all of them, -1
# where it is before; mean log of the anchor's standard deviation. After these come trends.
INPUTS = ("known visits", "outside of the known visits", "doubt about the anchor")


@dataclass(eq=False)
class TrajectoryModel:
    """A fitted anchor and the ladder on it; draws and means in original units.

    scaling, encoder : of visits and covariates, on people's first measured visits.
    usual : (V,) median years of each visit since a person's first recorded time.
    longest : years to the nearest known visit, of the hidden visits that taught; None where a model does not say.
    usual_doubt : (D,) median standard deviation of the anchor, scaled; a change is learned in units of it, so that
    errors are as wide as the anchor is in doubt. None where a model does not say, and changes are as they are.
    trends : (D, K) directions of slopes that are inputs of the ladder; None where a model does not say.
    """

    anchor: Anchor
    scaling: SharedScaling
    encoder: CovariateEncoder
    usual: np.ndarray
    ladder_model: DefaultModel
    longest: float | None = None
    usual_doubt: np.ndarray | None = None
    trends: np.ndarray | None = None

    @classmethod
    def fit(cls, cohort: Cohort, options: DefaultOptions, *, seed: int, run: Run) -> TrajectoryModel:
        """The anchor by maximum likelihood on everybody, and the ladder on visits that were hidden."""
        scaling = SharedScaling.fit(first_cells(cohort), cohort.site, robust=True)
        parts = _Parts(scaling, CovariateEncoder.fit(cohort.covariate_table), usual_times(cohort))
        hidden = Hidden.of(cohort)
        rows = hidden.people(cohort)
        anchored: Anchored | None = None
        fold = unit_folds(cohort.units().astype(str), seed)
        values, person = parts.seen(cohort)
        weight = np.ones(len(rows))
        # A person's own visits teach no anchor that the ladder learns from or is judged by.
        for number in np.unique(fold):
            own, trends = parts.fit(cohort, fold != number)
            mine = np.flatnonzero(fold[hidden.person] == number)
            attendance = Attendance.fit(values, person, fold != number)
            if attendance is not None:
                weight[mine] = attendance.weights(hidden, mine, values, person)
            made = parts.anchored(own, rows.take(mine), trends)
            anchored = Anchored.empty(len(rows), made) if anchored is None else anchored
            anchored.put(mine, made)
        assert anchored is not None
        anchor, trends = parts.fit(cohort, np.ones(len(cohort), dtype=bool))
        usual_doubt = np.median(anchored.deviation[hidden.measured], axis=0)
        pairs = _as_pairs(cohort, hidden, rows, anchored, anchored.deviation / usual_doubt, weight)
        ladder = DefaultModel.fit(pairs, options, seed=seed, run=run)
        ladder.record["cautions"] += kinds_notes(cohort)
        longest = float(anchored.gap[hidden.measured].max())
        return cls(anchor, scaling, parts.encoder, parts.usual, ladder, longest, usual_doubt, trends)

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

    def anchored(self, people: People) -> People:
        """The same people, the anchor as their baseline and the years to the nearest known visit as gap."""
        return self._anchored(people)[0]

    def _anchored(self, people: People) -> tuple[People, np.ndarray | None]:
        """`anchored`, and (N, D) how much more or less than usual each anchor is in doubt."""
        kept, made = self.__dict__.get("_made", (None, None))
        # Draws are made in two steps, which ask for the same.
        if kept is None or kept() is not people:
            found = self._parts.anchored(self.anchor, people, self.trends)
            doubt = None if self.usual_doubt is None else found.deviation / self.usual_doubt
            made = _with_anchor(people, found, doubt), doubt
            self._made = weakref.ref(people), made
        assert made is not None
        return made

    def _changes(self, people: People, values: np.ndarray) -> np.ndarray:
        """Values (..., N, D) of the ladder in original units, each change in units of its anchor's doubt no more."""
        inner, doubt = self._anchored(people)
        if doubt is None:
            return values
        found = (inner.baseline + doubt * (values - inner.baseline)).astype(values.dtype)
        return people.with_known(found) if found.ndim == 3 else people.with_known(found[None])[0]

    def expected(self, people: People) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (N, D) by the anchor alone, a mixed model of each feature."""
        anchored = self._parts.anchored(self.anchor, people, None)
        unit = self.scaling.original_scale(len(people), people.site)[1]
        return anchored.baseline, unit * anchored.deviation

    @property
    def _parts(self) -> _Parts:
        return _Parts(self.scaling, self.encoder, self.usual)

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D)."""
        return self._changes(people, self.ladder_model.mean(self.anchored(people), draws, seed, solver, steps))

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D), M the numbers of the draws."""
        return self._changes(people, self.ladder_model.draw(self.anchored(people), draws, seed, solver, steps))

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The components that come from the denoiser: (M, N, k) float32."""
        return self.ladder_model.sample(self.anchored(people), draws, seed, solver, steps)

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """Draws (M, N, D) from what `sample` gave."""
        return self._changes(people, self.ladder_model.finish(self.anchored(people), draws, seed, sampled))

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
        beyond = 0 if self.longest is None else int((gap > self.longest + SHORTEST).sum())
        if not beyond:
            return []
        return [
            f"{beyond} visits are up to {gap.max():.1f} years from any known visit of the person, and the longest that "
            f"the model learned from is {self.longest:.1f}: beyond it the mixed model's slopes alone decide"
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
                **({} if self.longest is None else {"longest": self.longest}),
                **({} if self.usual_doubt is None else {"usual_doubt": self.usual_doubt}),
                **({} if self.trends is None else {"trends": self.trends}),
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
            own.get("longest"),
            own.get("usual_doubt"),
            own.get("trends"),
        )


@dataclass(frozen=True, eq=False)
class Anchored:
    """baseline : (T, D) the anchor, original units;  gap : (T,) years to the nearest known visit;  inputs : (T, 3 + K);
    deviation : (T, D) of the anchor, scaled."""

    baseline: np.ndarray
    gap: np.ndarray
    inputs: np.ndarray
    deviation: np.ndarray

    @classmethod
    def empty(cls, rows: int, like: Anchored) -> Anchored:
        """Of so many rows, to be put in."""
        parts = (like.baseline, like.gap, like.inputs, like.deviation)
        return cls(*(np.empty((rows, *part.shape[1:]), part.dtype) for part in parts))

    def put(self, rows: np.ndarray, made: Anchored) -> None:
        """These rows."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(made, each.name)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What turns people into the scales of an anchor."""

    scaling: SharedScaling
    encoder: CovariateEncoder
    usual: np.ndarray

    def fit(self, cohort: Cohort, rows: np.ndarray) -> tuple[Anchor, np.ndarray]:
        """The anchor and the directions (D, K) of slopes, from the people of a mask (N,).

        Of a large cohort some, as their ids decide.
        """
        chosen = np.flatnonzero(rows)
        keys = person_keys(cohort.ids[chosen], "anchor")
        several = np.isfinite(cohort.visits[chosen]).any(axis=2).sum(axis=1) > 1
        kept = [
            part[np.argsort(keys[part], kind="stable")[:MOST]]
            for part in (np.flatnonzero(m) for m in (several, ~several))
        ]
        some = cohort.take(np.sort(chosen[np.concatenate(kept)]))
        history = History.of(some, hide=False)
        values, person = self._scaled(history, some.site), self._person(some.covariate_table, some.source)
        times = filled_times(history.times, self.usual)
        anchor = Anchor.fit(values, times, person)
        again = history.known.sum(axis=1) > 1
        posterior = anchor.posterior(values[again], times[again], person[again])
        return anchor, trend_basis(anchor.own_slope(posterior, person[again]))

    def anchored(self, anchor: Anchor, people: People, trends: np.ndarray | None) -> Anchored:
        """What the anchor expects of each person's missing visit.

        trends : (D, K) directions in which people's slopes are inputs, times the years from their known visits.
        """
        history = people.history or History.first(people.baseline, people.gap)
        times = filled_times(history.times, self.usual)
        at = np.where(np.isfinite(history.at), history.at, times[:, 0] + people.gap)
        known = history.known
        values = self._scaled(history, people.site)
        person = self._person(people.table, people.source)
        posterior = anchor.posterior(values, times, person)
        deviation = np.sqrt(anchor.variance(posterior, at))
        away = np.where(known, times - at[:, None], np.nan)
        with np.errstate(all="ignore"):
            nearest = np.fmin.reduce(np.abs(away), axis=1)
            beyond = np.where(
                np.fmax.reduce(away, axis=1) < 0, 1.0, np.where(np.fmin.reduce(away, axis=1) > 0, -1.0, 0.0)
            )
        inputs = np.stack([np.log(np.maximum(known.sum(axis=1), 1)), beyond, np.log(deviation).mean(axis=1)], axis=1)
        if trends is not None:
            middle = np.where(known, times, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
            own = anchor.own_slope(posterior, person) @ trends
            inputs = np.concatenate([inputs, own * (at - middle)[:, None]], axis=1)
        baseline = self.scaling.invert(posterior.at(at), people.site)
        return Anchored(baseline.astype(people.baseline.dtype), np.maximum(nearest, SHORTEST), inputs, deviation)

    def seen(self, cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
        """All visits (N, V, D), scaled, and what is known of people (N, p)."""
        history = History.of(cohort, hide=False)
        return self._scaled(history, cohort.site), self._person(cohort.covariate_table, cohort.source)

    def _scaled(self, history: History, site: np.ndarray | None) -> np.ndarray:
        """(N, V, D), each visit within its own site; cells beyond `FARTHEST` count as that far."""
        scaled = [
            self.scaling.apply(history.visits[:, visit], site if history.sites is None else history.sites[:, visit])
            for visit in range(history.visits.shape[1])
        ]
        return np.clip(np.stack(scaled, axis=1), -FARTHEST, FARTHEST)

    def _person(self, table: pd.DataFrame, source: str | None) -> np.ndarray:
        covariates = self.encoder.transform(table, source)
        return np.concatenate([np.ones((len(covariates), 1)), covariates], axis=1)


def kinds_notes(cohort: Cohort) -> list[str]:
    """On features whose draws leave what they can be, because kinds and sums are not kept to here."""
    found = notes_of(FeatureKinds(cohort.features, recognised(cohort, {})))
    found += [each.text(cohort.features) for each in found_relations(cohort, [])[0][:3]]
    if not found:
        return []
    return [f"with history='all' draws are any numbers, and these are not kept to: {'; '.join(found)}"]


def _with_anchor(people: People, anchored: Anchored, doubt: np.ndarray | None = None) -> People:
    """doubt : (N, D) that known changes are told in units of."""
    names = [*INPUTS, *(f"trend {number}" for number in range(anchored.inputs.shape[1] - len(INPUTS)))]
    added = pd.DataFrame(anchored.inputs, columns=names, index=people.table.index)
    table = pd.concat([people.table, added], axis=1)
    known, baseline = people.known, anchored.baseline
    if doubt is not None and np.isfinite(known).any():
        known = (baseline + (known - baseline) / doubt).astype(known.dtype)
    return replace(people, baseline=baseline, known=known, gap=anchored.gap, table=table, history=None)


def _as_pairs(
    cohort: Cohort, hidden: Hidden, rows: People, anchored: Anchored, doubt: np.ndarray, weight: np.ndarray
) -> WeightedCohort:
    """A cohort of T people who are hidden visits: the anchor is the baseline, the visit the follow-up.

    Who is yet to be imputed has no follow-up, and shows what such anchors are like. weight : (T,), by attendance.
    """
    people = _with_anchor(rows, anchored)
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
