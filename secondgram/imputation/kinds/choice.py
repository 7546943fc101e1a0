"""The scale of a bounded feature, chosen by how well people are predicted who were not learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...cohort.table import Cohort
from ...diffusion.noise import person_keys
from ...sampling.quantile_map import quantile_crps
from ..default.design import Design, fit_folds, most_for_fill
from ..default.judgement import follow
from ..default.margins import at_shares
from ..default.mean import fit_means
from ..folds import standard_error, unit_averages
from ..model_data import TrainingPairs
from .passive import with_features
from .recognise import Kind
from .support import LOGARITHM, SoftBounds, soft_bounds

IDENTITY = "identity"
# Standard errors of its gain by which a scale takes the place of the plain one.
CLEARLY = 2.0
# Share of the plain scale's draws that may lie beyond the support, and are put at its end.
BEYOND = 0.002
# People with a follow-up who say enough.
ENOUGH, FEWEST = 4000, 10
MEAN, FOLDS = "blend", 3
# Of 99 quantiles.
QUARTERS = 24, 74
PLAIN = SoftBounds(-np.inf, np.inf, 0.0, (-np.inf, np.inf))


@dataclass(frozen=True, eq=False)
class Scores:
    """Of one feature: CRPS (P,) in original units on people not learned from, NaN where unknown; width (P,) of half of
    the distribution; share of draws that are beyond the support.  pair : the P pairs, by person and visits.
    """

    crps: np.ndarray
    width: np.ndarray
    beyond: float
    weight: np.ndarray
    unit: np.ndarray
    pair: pd.Index

    def of(self, pair: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        """CRPS and width of these pairs, NaN for one that is not among the scored ones.

        Scales are scored with the features that are still open, and a visit where none of these was measured is none.
        """
        rows = self.pair.get_indexer(pair)
        there = rows >= 0
        return np.where(there, self.crps[rows], np.nan), np.where(there, self.width[rows], np.nan)


def chosen_maps(
    cohort: Cohort, kinds: dict[int, Kind], every: bool, self_conditioning: bool, seed: int
) -> dict[int, SoftBounds]:
    """By position, the map of each feature of these kinds, which all have an end; the plain scale is one of scale 0.

    every, self_conditioning, seed : as the model is fitted.
    """
    places = list(kinds)
    if not places:
        return {}
    maps: dict[int, dict[str, SoftBounds]] = {}
    for place in places:
        values = cohort.visits[:, :, place]
        offered = soft_bounds(values[np.isfinite(values)].astype(float), kinds[place].low, kinds[place].high)
        plain = next(iter(offered.values()))
        maps[place] = {IDENTITY: SoftBounds(plain.low, plain.high, 0.0, plain.floor)} | offered
    ends = (IDENTITY, LOGARITHM)
    scores: dict[int, dict[str, Scores]] = {place: {} for place in places}

    def score(name: str, places: list[int]) -> None:
        if places:
            beside = _beside(cohort, places)
            small = _some(cohort, places + beside)
            used = [maps[place][name] for place in places] + [PLAIN] * len(beside)
            found = _scores(small, used, every, self_conditioning, seed)
            for place, each in zip(places, found[: len(places)], strict=True):
                scores[place][name] = each

    for name in ends:
        score(name, places)
    # Where the farthest is no better, those between are not.
    left = [place for place in places if _gains(scores[place], *ends)[0][0] > 0 or _leaves(scores[place])]
    for name in maps[places[0]]:
        if name not in ends:
            score(name, left)
    return {place: maps[place][_chosen(scores[place], list(maps[place]))] for place in places}


def _beside(cohort: Cohort, places: list[int]) -> list[int]:
    """Features that these are told from where next to nobody has one of them at the baseline: all others with one."""
    based = np.isfinite(cohort.baseline)
    if (based[:, places].any(axis=1) & cohort.paired).sum() >= FEWEST * FOLDS:
        return []
    others = based.any(axis=0)
    others[places] = False
    return [int(place) for place in np.flatnonzero(others)]


def _some(cohort: Cohort, places: list[int]) -> Cohort:
    """These features of people with a follow-up, and of others as many; their ids decide which."""
    keys = person_keys(cohort.ids, "scale")
    order = np.argsort(keys, kind="stable")
    chosen = np.concatenate(
        [order[which[order]][:ENOUGH] for which in (cohort.paired, cohort.scanned & ~cohort.paired)]
    )
    some = cohort.take(np.sort(chosen))
    names = tuple(cohort.features[place] for place in places)
    return with_features(some, np.ascontiguousarray(some.visits[:, :, places]), names)


def _scores(cohort: Cohort, maps: list[SoftBounds], every: bool, self_conditioning: bool, seed: int) -> list[Scores]:
    """What the preset's mean, spread and margins make of these features on these scales."""
    visits = np.stack([each.to_model(cohort.visits[:, :, column]) for column, each in enumerate(maps)], axis=2)
    scaled = with_features(cohort, visits, cohort.features)
    whole = Design.of(scaled, every, most=most_for_fill(len(maps)))
    folds, fold = fit_folds(scaled, whole, every, seed, FOLDS)
    mean, left = fit_means(whole, folds, (MEAN,), self_conditioning)[MEAN]
    stage = follow(whole, mean, left, fold)
    X = whole.context.inputs(whole.pairs.people)
    location, unit = whole.context.units(whole.pairs.people, X)
    centre = location + unit * (whole.context.later(whole.pairs, X) - left)
    spread = unit * stage.spread.scale(whole.X)
    ends = at_shares(stage.margins.map, len(maps))
    true = TrainingPairs.of(cohort, every).later
    pairs = whole.pairs
    pair = pd.MultiIndex.from_arrays([pairs.people.ids, pairs.slots[:, 0], pairs.slots[:, 1]])
    found = []
    for column, each in enumerate(maps):
        crps, width = np.full((2, len(true)), np.nan)
        seen = np.isfinite(true[:, column]) & np.isfinite(centre[:, column])
        drawn = centre[seen, column] + ends[:, column, None] * spread[seen, column]  # [99, pairs]
        # Where next to nobody was measured twice, nothing tells that it stays within.
        known = seen.sum() >= FEWEST
        beyond = 0.0 if each.scale else float(((drawn <= each.low) | (drawn >= each.high)).mean()) if known else 1.0
        drawn = each.to_original(drawn)
        crps[seen] = quantile_crps(drawn, true[seen, column][None])[0]
        width[seen] = drawn[QUARTERS[1]] - drawn[QUARTERS[0]]
        found.append(Scores(crps, width, beyond, whole.weight, pairs.unit, pair))
    return found


def _leaves(scores: dict[str, Scores]) -> bool:
    return scores[IDENTITY].beyond > BEYOND


def _gains(scores: dict[str, Scores], name: str, other: str) -> list[tuple[float, float]]:
    """By how much the CRPS of the second is below that of the first, and the standard error over people.

    First as a share of the usual width of each person's distribution, since the large values of a skewed feature would
    decide alone; then in original units.
    """
    one = scores[name]
    placed = {each: of.of(one.pair) for each, of in scores.items()}
    fall = one.crps - placed[other][0]
    width = np.median([width for _, width in placed.values()], axis=0)
    seen = np.isfinite(fall) & np.isfinite(width)
    if not seen.any():
        return [(0.0, np.inf)] * 2
    fall, width = fall[seen], width[seen]
    found = []
    for size in (np.maximum(width, 1e-3 * max(float(np.median(width)), 1e-300)), 1.0):
        per_unit = unit_averages(fall / size, one.weight[seen], one.unit[seen])
        found.append((float(per_unit.mean()), standard_error(per_unit)))
    return found


def _chosen(scores: dict[str, Scores], names: list[str]) -> str:
    """The plain scale, unless its draws leave the support or another is clearly better; else the best of the others.

    None is taken whose CRPS in original units is higher than the plain scale's, by more than a standard error where
    that leaves the support.
    """
    best, most = names[0], -np.inf
    for name in [name for name in names[1:] if name in scores]:
        (gain, error), (plain_gain, plain_error) = _gains(scores, names[0], name)
        if _leaves(scores):
            taken = plain_gain > -plain_error
        else:
            taken = gain > CLEARLY * error and plain_gain > 0
        if taken and gain > most:
            best, most = name, gain
    return names[1] if best == names[0] and _leaves(scores) else best
