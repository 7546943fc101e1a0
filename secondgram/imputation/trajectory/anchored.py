"""What an anchor expects of people's missing visits, in the scales that it was fitted in, and which kind of anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from ...cohort.scaling import CovariateEncoder, SharedScaling
from ...cohort.table import Cohort
from ...ops.thread_pool import in_parallel
from ..default.design import FARTHEST
from ..history import History, filled_times
from ..model_data import People
from ..scores import normal_crps
from .anchor import Anchor
from .hidden import Hidden, of_each_kind
from .posterior import Posterior

# The gap to the nearest known visit is above zero.
SHORTEST = 1e-3
# Inputs of the ladder beside covariates: log of the number of known visits; 1 where the visit is after all of them, -1
# where it is before; mean log of the anchor's standard deviation.
INPUTS = ("known visits", "outside of the known visits", "doubt about the anchor")

# Of the factors by which features tell of each other, one of which is chosen on people held out; None for no factors.
PENALTIES = (None, 3.0, 30.0)
# People whose anchors are made at once.
AT_ONCE = 2048
# People that factors are learned from at most, who came back and who did not.
MOST_OF_FACTORS = 2000


@dataclass(frozen=True, eq=False)
class Anchored:
    """baseline : (T, D) the anchor, original units;  gap : (T,) years to the nearest known visit;  inputs : (T, 3);
    deviation : (T, D) of the anchor, scaled."""

    baseline: np.ndarray
    gap: np.ndarray
    inputs: np.ndarray
    deviation: np.ndarray

    @classmethod
    def joined(cls, parts: list[Anchored], order: np.ndarray | None = None) -> Anchored:
        """One after the other; order : (T,) where in the result each row belongs, None as they are."""
        made = []
        for each in fields(cls):
            whole = np.concatenate([getattr(part, each.name) for part in parts])
            if order is not None:
                whole[order] = whole.copy()
            made.append(whole)
        return cls(*made)


@dataclass(frozen=True, eq=False)
class Seen:
    """values : (N, V, D) all visits, scaled;  times : (N, V), none unknown;  person : (N, p), known of them."""

    ids: np.ndarray
    values: np.ndarray
    times: np.ndarray
    person: np.ndarray

    def take(self, rows: np.ndarray) -> Seen:
        """Of the people at these positions, or where this mask is true."""
        return Seen(self.ids[rows], self.values[rows], self.times[rows], self.person[rows])


@dataclass(frozen=True, eq=False)
class Anchoring:
    """What turns people into the scales of an anchor."""

    scaling: SharedScaling
    encoder: CovariateEncoder
    usual: np.ndarray

    def fit(self, seen: Seen, rows: np.ndarray, penalties: Sequence[float | None] = PENALTIES) -> list[Anchor]:
        """Anchors from the people of a mask (N,), of factors by each penalty, None for none, as far as there are any.

        Factors are learned from some of very many people, as their ids decide.
        """
        some = seen.take(rows)
        plain = Anchor.fit(some.values, some.times, some.person)
        if penalties == (None,):
            return [plain]
        few = some.take(of_each_kind(some.ids, some.values, MOST_OF_FACTORS, "factors"))
        of_few = few.values, few.times, few.person

        def of_penalty(penalty: float | None) -> Anchor:
            return plain if penalty is None else plain.with_factors(*of_few, penalty) or plain

        return in_parallel(of_penalty, penalties)

    def anchored(self, anchor: Anchor, people: People, posterior: Posterior | None = None) -> Anchored:
        """What the anchor expects of each person's missing visit; posterior : where it was made already."""
        if posterior is not None or len(people) <= AT_ONCE:
            return self._of(anchor, people, posterior)
        starts = range(0, len(people), AT_ONCE)
        return Anchored.joined([self._of(anchor, people.take(slice(k, k + AT_ONCE))) for k in starts])

    def of_hidden(self, anchor: Anchor, cohort: Cohort, hidden: Hidden) -> Anchored:
        """What the anchor expects of hidden visits, whose known visits are copied a few at a time."""
        starts = range(0, max(len(hidden), 1), AT_ONCE)
        some = (hidden.take(np.arange(k, min(k + AT_ONCE, len(hidden)))) for k in starts)
        everyone = People.of(cohort, keep_known=False)
        return Anchored.joined([self._of(anchor, each.people(cohort, everyone)) for each in some])

    def posterior(self, anchor: Anchor, people: People) -> Posterior:
        """Levels and slopes given each person's known visits."""
        history = people.history or History.first(people.baseline, people.gap)
        times = filled_times(history.times, self.usual)
        person = self._person(people.table, people.source)
        return anchor.posterior(self._scaled(history, people.site), times, person)

    def _of(self, anchor: Anchor, people: People, posterior: Posterior | None = None) -> Anchored:
        history = people.history or History.first(people.baseline, people.gap)
        times = filled_times(history.times, self.usual)
        posterior = posterior or self.posterior(anchor, people)
        at = np.where(np.isfinite(history.at), history.at, times[:, 0] + people.gap)
        known = history.known
        deviation = np.sqrt(anchor.variance(posterior, at))
        away = np.where(known, times - at[:, None], np.nan)
        with np.errstate(all="ignore"):
            nearest = np.fmin.reduce(np.abs(away), axis=1)
            beyond = np.where(
                np.fmax.reduce(away, axis=1) < 0, 1.0, np.where(np.fmin.reduce(away, axis=1) > 0, -1.0, 0.0)
            )
        inputs = np.stack([np.log(np.maximum(known.sum(axis=1), 1)), beyond, np.log(deviation).mean(axis=1)], axis=1)
        baseline = self.scaling.invert(posterior.at(at), people.site)
        return Anchored(baseline.astype(people.baseline.dtype), np.maximum(nearest, SHORTEST), inputs, deviation)

    def score(self, anchor: Anchor, cohort: Cohort, hidden: Hidden) -> np.ndarray:
        """(T,) CRPS of what the anchor expects of measured visits that are hidden, scaled, averaged over features."""
        made = self.of_hidden(anchor, cohort, hidden)
        first, own = (None if cohort.site is None else cohort.site[hidden.person]), None
        if cohort.visit_sites is not None:
            own = cohort.visit_sites[hidden.person, hidden.visit]
        true = self.scaling.apply(cohort.visits[hidden.person, hidden.visit], first if own is None else own)
        expected = self.scaling.apply(made.baseline, first)
        error = np.clip(true, -FARTHEST, FARTHEST) - np.clip(expected, -FARTHEST, FARTHEST)
        return np.asarray(np.nanmean(normal_crps(error, made.deviation), axis=1))

    def seen(self, cohort: Cohort) -> Seen:
        """What everybody showed."""
        history = History.of(cohort, hide=False)
        times = filled_times(history.times, self.usual)
        person = self._person(cohort.covariate_table, cohort.source)
        # Far cells are to decide little of what is learned; whoever is far off is so in full where they are imputed.
        values = np.clip(self._scaled(history, cohort.site), -FARTHEST, FARTHEST)
        return Seen(cohort.ids, values, times, person)

    def _scaled(self, history: History, site: np.ndarray | None) -> np.ndarray:
        """(N, V, D), each visit within its own site."""
        scaled = [
            self.scaling.apply(history.visits[:, visit], site if history.sites is None else history.sites[:, visit])
            for visit in range(history.visits.shape[1])
        ]
        return np.stack(scaled, axis=1)

    def _person(self, table: pd.DataFrame, source: str | None) -> np.ndarray:
        covariates = self.encoder.transform(table, source)
        return np.concatenate([np.ones((len(covariates), 1)), covariates], axis=1)
