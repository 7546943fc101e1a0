"""The `default` preset for features that cannot have every value: draws keep to the support of each.

Everything but the last step happens on the scale of the model, where a draw can be any number. What has levels, counts,
zeros or a ceiling of its own chance takes its value from a cumulative probit model, by the same normal score, so that
features stay as correlated as they are.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from ...cohort.table import Cohort
from ...diffusion.noise import Purpose
from ...errors import InputError
from ...ops.noise import normals
from ...sampling.quantile_map import KNOTS
from ...training.trainer import Run
from ..default.model import DefaultModel, DefaultOptions
from ..model_data import People
from .choice import chosen_maps
from .declared import Declared
from .feature_kinds import FeatureKinds, notes_of
from .judged import TrainingRows, judged_features, training_rows
from .levelled import MIDPOINTS, nearest_level, score_of
from .passive import PassiveFeatures
from .recognise import BOUNDED, POSITIVE, Kind, recognised
from .relations import found_relations
from .support import SoftBounds

# Draws that a mean is taken over where what is known of a person leaves no simple distribution.
MEAN_DRAWS = 100
# Of a feature, from which the chances of its levels are learned.
FEWEST_PAIRS = 10
PEOPLE_AT_ONCE = 64
# Normal scores end where a quantile map does.
LEAST_CHANCE = tuple(ndtr(KNOTS[[0, -1]]))


def fit_supported(cohort: Cohort, options: DefaultOptions, declared: Declared, *, seed: int, run: Run) -> DefaultModel:
    """A `default` model whose draws keep to the support of each feature, and to what holds between features.

    What is not declared is recognised. Where all features are plain, and none determines another, the model is one
    without kinds, and its numbers are the same.
    """
    every_kind = recognised(cohort, declared.kinds)
    passive, learned, notes = _passive(cohort, every_kind, declared)
    if all(kind.plain for kind in every_kind) and not passive.relations:
        plain = DefaultModel.fit(cohort, options, seed=seed, run=run)
        plain.record["cautions"] += notes
        return plain
    cohort = learned
    kinds = FeatureKinds(tuple(cohort.features), [every_kind[place] for place in passive.learned])
    for place, kind in enumerate(kinds.kinds):
        if kind.by_levels and _pairs(cohort, place) >= FEWEST_PAIRS:
            values = cohort.visits[:, :, place]
            kinds.scores[place] = score_of(kind, values[np.isfinite(values)].astype(float))
        elif kind.by_levels:
            # Too few people tell of it: what is borrowed for it is rounded to what it can be.
            kinds.maps[place] = SoftBounds(kind.low, kind.high, 0.0, (kind.low, kind.high))
    every = options.pairs == "all"
    bounded = {
        place: kind for place, kind in enumerate(kinds.kinds) if kind.name in (POSITIVE, BOUNDED) and not kind.by_levels
    }
    kinds.maps |= chosen_maps(cohort, bounded, every, options.self_conditioning, seed)
    model, errors = DefaultModel.fit_with_errors(
        kinds.cohort(cohort),
        options,
        seed=seed,
        run=run,
        levelled=lambda errors: fit_levels(kinds, training_rows(kinds, cohort, errors), seed),
    )
    parts = {each.name: getattr(model, each.name) for each in fields(model)}
    supported = SupportedModel(**parts, kinds=kinds, passive=passive)
    judged_features(supported.record["features"], kinds, cohort, errors)
    supported.record["cautions"] += notes
    return supported


def _passive(cohort: Cohort, kinds: list[Kind], declared: Declared) -> tuple[PassiveFeatures, Cohort, list[str]]:
    """What is computed from other features, the cohort without it, and notes on what holds and is not kept to."""
    relations, steps = found_relations(cohort, declared.relations)
    names = tuple(cohort.features)
    whole = tuple(name for name, kind in zip(names, kinds, strict=True) if kind.whole)
    passive = PassiveFeatures(names, tuple(relations), steps, whole)
    learned = passive.cohort(cohort)
    if learned.paired.sum() >= max(FEWEST_PAIRS, cohort.paired.sum() / 2):
        return passive, learned, []
    # What others determine is all that most people have at the baseline, say: it is learned itself.
    passive = replace(passive, relations=tuple(each for each in relations if each in declared.relations))
    learned = passive.cohort(cohort)
    count = learned.paired.sum()
    if count < FEWEST_PAIRS:
        raise InputError(
            f"without what is declared to be determined, {count} people have baseline and follow-up",
            file=cohort.source,
            mend=f"Leave out the declaration {passive.relations[0].text(names)!r}",
        )
    why = "holds in every row and is not kept to: most people have nothing else at the baseline or the follow-up"
    return passive, learned, [f"{each.text(names)} {why}" for each in relations if each not in passive.relations]


def _pairs(cohort: Cohort, place: int) -> int:
    """People of whom this feature was measured at two visits or more."""
    return int((np.isfinite(cohort.visits[:, :, place]).sum(axis=1) > 1).sum())


def fit_levels(kinds: FeatureKinds, rows: TrainingRows, seed: int) -> dict[int, np.ndarray]:
    """Learn the distributions of features with levels, and give the normal scores (P,) of the pairs' follow-ups.

    A value that has a chance of its own is anywhere within it.
    """
    keys = rows.errors.design.pairs.people.keys
    shares = ndtr(normals(keys, len(kinds.kinds), seed=seed, purpose=Purpose.TRAINING, draws=np.arange(1))[0])
    scores = {}
    for place in kinds.scores:
        levelled = kinds.levelled[place] = rows.fitted(place)
        ends = levelled.predicted(rows.centre[:, place], rows.baseline[:, place])
        below, upto = levelled.chances(rows.later[:, place], *ends)
        within = below + shares[:, place].astype(float) * (upto - below)
        scores[place] = ndtri(np.clip(within, *LEAST_CHANCE))
    return scores


@dataclass(eq=False)
class SupportedModel(DefaultModel):
    """A fitted `default` model on the scale of its `kinds`; draws and means in original units, within the support.

    passive : what is computed from other features, and not learned.
    """

    kinds: FeatureKinds = field(default_factory=lambda: FeatureKinds((), []))
    passive: PassiveFeatures = field(default_factory=lambda: PassiveFeatures((), (), np.zeros(0)))

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D), over the distribution in original units; of products and ratios that of the draws."""
        learned = self._learned(people)
        values = self._mean(learned, draws, seed, solver, steps)
        if not self.passive.relations:
            return values
        found = self.passive.expanded(values[None], rounded=False)[0]
        product = [each.target for each in self.passive.relations if self.passive.by_product(each)]
        if product:
            rows = np.arange(len(people))
            for start in range(0, len(rows), PEOPLE_AT_ONCE):
                some = rows[start : start + PEOPLE_AT_ONCE]
                drawn = self.draw(people.take(some), np.arange(MEAN_DRAWS), seed, solver, steps)
                found[some[:, None], product] = drawn[:, :, product].mean(axis=0, dtype=float)
        return np.asarray(people.with_known(found[None])[0])

    def _mean(self, people: People, draws: np.ndarray, seed: int, solver: str | None, steps: int | None) -> np.ndarray:
        """`mean` of the features that are learned."""
        inner = self._on_scale(people)
        values = super().mean(inner, draws, seed, solver, steps)
        moved = [place for place, each in self.kinds.maps.items() if each.scale]
        if moved or self.kinds.levelled:
            centre, spread = self._predicted(inner)
            for place in moved:
                # Of the model's scale, whose own mean holds what the denoiser adds.
                around = self._residuals(place)
                found = np.zeros(len(values))
                for residual in around - around.mean():
                    found += self.kinds.maps[place].to_original(values[:, place] + spread[:, place] * residual)
                values[:, place] = found / len(around)
            for place, levelled in self.kinds.levelled.items():
                values[:, place] = levelled.mean(*levelled.predicted(centre[:, place], people.baseline[:, place]))
            self._mean_of_draws(values, people, [*moved, *self.kinds.levelled], seed, solver, steps)
        return np.asarray(people.with_known(values[None])[0])

    def _mean_of_draws(
        self,
        values: np.ndarray,
        people: People,
        places: list[int],
        seed: int,
        solver: str | None,
        steps: int | None,
    ) -> None:
        """Means of these features, in place, of people who lack cells, or of whose follow-up some are known."""
        unlike = self.context.gone(people).any(axis=1) | np.isfinite(people.known).any(axis=1)
        rows = np.flatnonzero(unlike)
        for start in range(0, len(rows), PEOPLE_AT_ONCE):
            some = rows[start : start + PEOPLE_AT_ONCE]
            few, numbers = people.take(some), np.arange(MEAN_DRAWS)
            drawn = self._finished(few, numbers, seed, self._sampled(few, numbers, seed, solver, steps))
            values[some[:, None], places] = drawn[:, :, places].mean(axis=0, dtype=float)

    def covariates(self, people: People, draws: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """By covariate (M, N), missing ones drawn, as those of `DefaultModel`."""
        return super().covariates(self._on_scale(self._learned(people)), draws, seed)

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The components that come from the denoiser: (M, N, k) float32."""
        return self._sampled(self._learned(people), draws, seed, solver, steps)

    def _sampled(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None, steps: int | None
    ) -> np.ndarray:
        return super().sample(self._on_scale(people), draws, seed, solver, steps)

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """Draws (M, N, D) within the support, from what `sample` gave."""
        values = self._finished(self._learned(people), draws, seed, sampled)
        return people.with_known(self.passive.expanded(values)) if self.passive.relations else values

    def _finished(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """`finish` of the features that are learned."""
        inner = self._on_scale(people)
        values = super().finish(inner, draws, seed, sampled)
        for place, each in self.kinds.maps.items():
            values[:, :, place] = each.to_original(values[:, :, place])
        if self.kinds.levelled:
            centre, spread = self._predicted(inner)
            for place, levelled in self.kinds.levelled.items():
                z = (values[:, :, place] - centre[:, place]) / spread[:, place]
                ends = levelled.predicted(centre[:, place], people.baseline[:, place])
                values[:, :, place] = levelled.values(z, *ends)
        for place, kind in enumerate(self.kinds.kinds):
            if (kind.whole or kind.levels) and place not in self.kinds.levelled:
                values[:, :, place] = self._rounded(place, values[:, :, place])
        return people.with_known(values)

    def _rounded(self, place: int, values: np.ndarray) -> np.ndarray:
        levels = self.kinds.kinds[place].levels
        if levels is not None:
            return nearest_level(levels, values)
        whole = np.rint(values)
        if place in self.kinds.maps:
            low, high = self.kinds.maps[place].floor
            whole = np.clip(whole, np.ceil(low), np.floor(high))
        return np.asarray(whole)

    def _learned(self, people: People) -> People:
        """These people with the features that are learned; those of the last call once more."""
        if not self.passive.relations:
            return people
        whose, learned = self.__dict__.get("_reduced", (None, None))
        if whose is None or whose() is not people:
            learned = self.passive.people(people)
            self._reduced = weakref.ref(people), learned
        return learned  # type: ignore[return-value]

    def notes(self, people: People) -> list[str]:
        """What is to be told about people who are imputed, one sentence each."""
        return super().notes(people) + self.passive.notes(people)

    def verdict(self) -> pd.DataFrame:
        """What is used for each feature and why; see `verdict.verdict_table`."""
        table = super().verdict()
        if not self.passive.relations:
            return table
        table = table.reindex(list(self.passive.features))
        table.index.name = "feature"
        for each in self.passive.relations:
            name = self.passive.features[each.target]
            table.loc[name, "mean"] = "passive"
            table.loc[name, "verdict"] = f"computed: {each.text(self.passive.features)}"
        return table

    def _on_scale(self, people: People) -> People:
        """These people on the scale of the model; those of the last call once more, where they are the same."""
        whose, inner = self.__dict__.get("_last", (None, None))
        if whose is not None and whose() is people:
            return inner  # type: ignore[no-any-return]
        inner = self.kinds.people(people)
        own = [place for place in self.kinds.levelled if np.isfinite(people.known[:, place]).any()]
        if own:
            inner = replace(inner, known=np.array(inner.known))
            centre, spread = self._predicted(inner)
            for place in own:
                levelled = self.kinds.levelled[place]
                ends = levelled.predicted(centre[:, place], people.baseline[:, place])
                z = levelled.known(people.known[:, place].astype(float), *ends)
                inner.known[:, place] = centre[:, place] + spread[:, place] * z
        self._last = weakref.ref(people), inner
        return inner

    def _predicted(self, inner: People) -> tuple[np.ndarray, np.ndarray]:
        """Centre and spread (N, D) of the predictions, on the scale of the model."""
        at = self._prediction(inner, self.context.inputs(inner))
        return at.centre, at.spread

    def _residuals(self, place: int) -> np.ndarray:
        """(Q,) standardised residuals of a feature at the middles of equal shares."""
        margins = self.joint.margins
        return MIDPOINTS if margins is None else np.interp(MIDPOINTS, KNOTS, margins.end[:, place])

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the features whose draws are whole numbers."""
        return self.passive.whole

    def summary(self) -> list[str]:
        """What was chosen and why, one sentence each."""
        passive = [f"computed: {each.text(self.passive.features)}" for each in self.passive.relations]
        return super().summary() + notes_of(self.kinds) + passive

    def state(self) -> dict[str, Any]:
        return super().state() | {"kinds": self.kinds.state(), "passive": self.passive.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any], options: DefaultOptions) -> SupportedModel:
        model = DefaultModel.from_state(state, options)
        parts = {each.name: getattr(model, each.name) for each in fields(model)}
        kinds, passive = FeatureKinds.from_state(state["kinds"]), PassiveFeatures.from_state(state["passive"])
        return cls(**parts, kinds=kinds, passive=passive)


def default_from_state(state: dict[str, Any], options: DefaultOptions) -> DefaultModel:
    """The model that a state is of, with kinds of features or without."""
    return (SupportedModel if "kinds" in state else DefaultModel).from_state(state, options)
