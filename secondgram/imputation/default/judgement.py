"""How the ladder does on people that nothing of it has seen: the choice of its mean, and the figures it tells.

The whole ladder but its denoiser is fitted again without a fifth of the people (and their groups, their baselines
too), and scored on them, one fifth after the other. Inside, the ladder cross-validates as it always does, so that what
is told here is out of reach of its own choices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...cohort.scaling import SharedScaling, quantiles
from ...cohort.table import Cohort
from ...ops.thread_pool import in_parallel
from ...sampling.quantile_map import QuantileMap, quantile_crps
from ..context import levels
from ..folds import FOLDS, standard_error, standard_errors, unit_averages, unit_folds, unit_sums
from ..scores import normal_crps
from .borrowing import same_change
from .design import Design, Fold, fit_folds, fold_of, takes_long, without
from .margins import Margins, at_shares, fit_margins, margins_as
from .mean import MeanPredictor, fit_means
from .spread import FARTHEST, Spread, fit_spread, spread_as

RUNGS = ("carry-forward", "mean", "spread", "margins")
# Of these, from simple to rich, one is used.
CHOICES = ("carry_forward", "own", "blend")
# All features leave the blend for a gain of this many standard errors.
CLEARLY = 2.0
# A feature leaves the choice of all features for a gain of this many standard errors.
DEVIATION = 3.0
# Judging costs a fit a fold. Where that takes long, one fold of people says enough, and so few inside.
FEW_FOLDS = 2
FEWEST_UNITS = 20
# Of each feature's own, an intercept and a slope, so that an error's variance is 1 + 2 / n times that of none learned.
OWN_COEFFICIENTS = 2
# To learn from, where others are judged: with large groups a part may leave next to nobody.
FEWEST_PEOPLE = 5


@dataclass(frozen=True, eq=False)
class Stage:
    """A mean and what follows from it.

    standard : (P, D) errors on people it was not fitted on, as shares of their spread `scale` (P, D), far ones cut.
    """

    mean: MeanPredictor
    spread: Spread
    margins: Margins
    standard: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Judgement:
    """CRPS (P, D) by choice and rung in baseline SD, NaN where nobody was judged, and errors of the mean.

    CRPS is what learning from everybody leads to: people are judged by fewer, which costs most where these are few.

    change : (P, D), true, in baseline SD, NaN likewise.
    """

    scores: dict[str, dict[str, np.ndarray]]
    errors: dict[str, np.ndarray]
    change: np.ndarray
    weight: np.ndarray
    unit: np.ndarray

    def average(self, score: np.ndarray) -> np.ndarray:
        """(units,) over features, of the people judged."""
        rows = np.isfinite(score).any(axis=1)
        if not rows.any():
            return np.full(1, np.nan)
        return unit_averages(np.nanmean(score[rows], axis=1), self.weight[rows], self.unit[rows])

    def winner(self) -> str:
        """The richest choice, unless a simpler one's CRPS is clearly lower; the simplest where nobody could be judged.

        Few people tell little about which is better, and the blend has weighed the others already.
        """
        if not np.isfinite(self.change).any():
            return CHOICES[0]
        carried = self.scores[CHOICES[0]]["margins"]
        # One far cell would decide for all.
        (usual,) = quantiles(carried, 0.5)
        cap = FARTHEST * np.where(usual > 0, usual, np.inf)
        loss = {name: self.average(np.minimum(self.scores[name]["margins"], cap)) for name in CHOICES}
        winner = CHOICES[-1]
        for name in reversed(CHOICES[:-1]):
            fall = loss[winner] - loss[name]
            if fall.mean() > CLEARLY * standard_error(fall):
                winner = name
        return winner

    def chosen(self) -> list[str]:
        """Of each feature: the winner, or another choice that is clearly better there."""
        winner = self.winner()
        width = self.change.shape[1]
        chosen, best = np.full(width, winner, dtype=object), np.full(width, DEVIATION)
        for name, each in self.scores.items():
            fall = (self.scores[winner]["margins"] - each["margins"]) * self.weight[:, None]
            rows = np.isfinite(fall).any(axis=1)
            if name == winner or not rows.any():
                continue
            per_unit = unit_sums(np.where(np.isfinite(fall[rows]), fall[rows], 0.0), self.unit[rows])
            deviation = standard_errors(per_unit)
            strength = np.divide(per_unit.mean(axis=0), deviation, out=np.zeros(width), where=deviation > 0)
            chosen, best = np.where(strength > best, name, chosen), np.maximum(strength, best)
        return [str(name) for name in chosen]


def fit_stages(whole: Design, folds: list[Fold], fold: np.ndarray, self_conditioning: bool) -> dict[str, Stage]:
    """What follows from each mean that may be chosen; the kinds of spread and margins are those of the richest."""
    means = fit_means(whole, folds, CHOICES, self_conditioning)
    richest = CHOICES[-1]
    like = follow(whole, *means[richest], fold)
    simpler = CHOICES[:-1]
    return {richest: like} | dict(
        zip(simpler, in_parallel(lambda name: follow(whole, *means[name], fold, like), simpler), strict=True)
    )


def follow(whole: Design, mean: MeanPredictor, left: np.ndarray, fold: np.ndarray, like: Stage | None = None) -> Stage:
    """Spread and margins of what a mean leaves, of the kinds of another stage where one is given."""
    weight, unit = whole.weight, whole.pairs.unit
    left = whole.less_doubt(whole.own_baseline(left), mean.map)
    same = same_change(whole.change)
    if same.any():
        # They would leave a spread of nothing.
        left = np.where(same, np.nan, left)
    if like is None:
        spread = fit_spread(whole.X, left, weight, unit, fold)
    else:
        spread = spread_as(like.spread.candidate, whole.X, left, weight)
    scale = spread.fitted(whole.X)
    standard = np.clip(left / scale, -FARTHEST, FARTHEST)
    spread = spread.for_wanted(standard, weight, unit, whole.pairs.wanted)
    if like is None:
        margins = fit_margins(standard, scale, weight, unit, fold)
    else:
        margins = margins_as(like.margins.choice, standard, weight)
    return Stage(mean, spread, margins, standard, scale)


def with_normal_scores(whole: Design, stage: Stage, scores: dict[int, np.ndarray], fold: np.ndarray) -> Stage:
    """The same with other errors of some features, by position (P,), which are normal ones of spread 1."""
    if not scores:
        return stage
    standard = stage.standard.copy()
    for place, each in scores.items():
        standard[:, place] = each
    margins = fit_margins(standard, stage.scale, whole.weight, whole.pairs.unit, fold)
    found = QuantileMap.identity(whole.width) if margins.map is None else margins.map
    own = list(scores)
    found.end[:, own] = found.start[:, own]
    return replace(stage, standard=standard, margins=replace(margins, map=found))


def judge(cohort: Cohort, whole: Design, every: bool, self_conditioning: bool, seed: int) -> Judgement:
    """Score every choice on people held out whole."""
    pairs = whole.pairs
    asked = _asked(whole)
    part = unit_folds(pairs.unit, seed + 1)
    yardstick = SharedScaling.fit(levels(cohort), cohort.site)
    usual = whole.context.scaling.original_scale(len(pairs), pairs.people.site)[1]
    usual = usual / yardstick.original_scale(len(pairs), pairs.people.site)[1]
    shape = whole.change.shape
    scores = {name: {rung: np.full(shape, np.nan) for rung in RUNGS} for name in CHOICES}
    errors = {name: np.full(shape, np.nan) for name in CHOICES}
    change = np.full(shape, np.nan)
    long = takes_long(cohort)
    for k in range(1 if long else part.max() + 1):
        if len(np.unique(pairs.people.ids[part != k])) < FEWEST_PEOPLE:
            continue
        mine = np.flatnonzero(part == k)
        others = without(cohort, whole, mine)
        # Far cells in full, as people will have them.
        held = fold_of(others, whole, mine, every, cut=False)
        folds, fold = fit_folds(others, held.design, every, seed, FEW_FOLDS if long else FOLDS)
        judged = asked[held.rows]
        X, true, rows = held.X[judged], held.change[judged], held.rows[judged]
        unit = held.unit[judged] * usual[rows]
        change[rows] = true * unit
        known = held.design.own_baseline(held.design.change)
        carried = spread_as("constant", held.design.X, known, held.design.weight).scale(X)
        learned = as_of_all(len(np.unique(held.design.pairs.unit)), len(np.unique(pairs.unit)))
        for name, stage in fit_stages(held.design, folds, fold, self_conditioning).items():
            error = true - stage.mean.change(X)
            constant = spread_as("constant", held.design.X, stage.standard * stage.scale, held.design.weight).scale(X)
            scale = stage.spread.scale(X)
            ends = at_shares(stage.margins.map, shape[1])
            errors[name][rows] = error * unit
            for rung, score in (
                ("carry-forward", normal_crps(true, carried)),
                ("mean", normal_crps(error, constant)),
                ("spread", normal_crps(error, scale)),
                ("margins", quantile_crps(ends, error / scale) * scale),
            ):
                # Carrying forward learns no mean.
                plain = name == CHOICES[0] or rung == RUNGS[0]
                scores[name][rung][rows] = score * unit * (1.0 if plain else learned)
    return Judgement(scores, errors, change, pairs.weight, pairs.unit)


def as_of_all(some: int, every: int) -> float:
    """By how much errors shrink that regressions on some units leave, when they are learned from every unit."""
    return float(np.sqrt((1.0 + OWN_COEFFICIENTS / every) / (1.0 + OWN_COEFFICIENTS / some)))


def _asked(whole: Design) -> np.ndarray:
    """(P,) bool: pairs like those that are imputed, the first visit and the target, or all where these are few."""
    wanted = whole.pairs.wanted
    return wanted if len(np.unique(whole.pairs.unit[wanted])) >= FEWEST_UNITS else np.ones_like(wanted)
