"""How features that have a support are predicted, in original units, on people who were not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...cohort.scaling import SharedScaling
from ...cohort.table import Cohort
from ...sampling.quantile_map import quantile_crps
from ..context import levels
from ..default.margins import at_shares
from ..default.model import OutOfFold
from ..folds import standard_error, unit_sums
from ..model_data import TrainingPairs
from ..scores import normal_crps
from .feature_kinds import FeatureKinds
from .levelled import Levelled, fit_levelled


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Training pairs in original units, beside what is predicted of them out of fold on the scale of the model.

    baseline, later (P, D) original;  centre, spread (P, D) on the model's scale, NaN where unknown.
    """

    kinds: FeatureKinds
    cohort: Cohort
    errors: OutOfFold
    baseline: np.ndarray
    later: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    def fitted(self, place: int, rows: np.ndarray | None = None) -> Levelled:
        """The distribution of a feature with levels, learned from these pairs (P,) bool, or from all."""
        usual = self.cohort.visits[:, :, place]
        weight = self.errors.design.weight
        rows = np.ones(len(weight), dtype=bool) if rows is None else rows
        return fit_levelled(
            self.kinds.kinds[place],
            self.kinds.scores[place],
            self.later[rows, place],
            self.centre[rows, place],
            self.baseline[rows, place],
            weight[rows],
            usual[np.isfinite(usual)].astype(float),
        )

    def judged(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """CRPS and error of the mean (P,) of a feature, NaN where unknown."""
        later = self.later[:, place]
        seen = np.isfinite(later) & np.isfinite(self.centre[:, place])
        crps, error = np.full((2, len(later)), np.nan)
        if place in self.kinds.scores:
            for k in range(self.errors.fold.max() + 1):
                held = (self.errors.fold == k) & seen
                if not held.any():
                    continue
                levelled = self.fitted(place, (self.errors.fold != k))
                ends = levelled.predicted(self.centre[held, place], self.baseline[held, place])
                crps[held] = levelled.crps(later[held], *ends)
                error[held] = later[held] - levelled.mean(*ends)
            return crps, error
        shares = at_shares(self.errors.stage.margins.map, self.later.shape[1])[:, place, None]
        drawn = self.kinds.maps[place].to_original(self.centre[seen, place] + shares * self.spread[seen, place])
        crps[seen] = quantile_crps(drawn, later[seen][None])[0]
        error[seen] = later[seen] - drawn.mean(axis=0)
        return crps, error


def training_rows(kinds: FeatureKinds, cohort: Cohort, errors: OutOfFold) -> TrainingRows:
    """Of a cohort in original units, and the errors of a model that was fitted to it on the model's scale."""
    design = errors.design
    # The same pairs in the same order, in original units.
    every = len(design.pairs) != int(design.pairs.wanted.sum())
    pairs = TrainingPairs.of(cohort, every)
    X = design.context.inputs(design.pairs.people)
    location, unit = design.context.units(design.pairs.people, X)
    centre = location + unit * (design.context.later(design.pairs, X) - errors.left)
    spread = unit * errors.stage.spread.scale(design.X)
    return TrainingRows(
        kinds,
        cohort,
        errors,
        pairs.people.baseline.astype(float),
        pairs.later.astype(float),
        np.asarray(centre, dtype=float),
        spread,
    )


def judged_features(features: dict[str, list[Any]], kinds: FeatureKinds, cohort: Cohort, errors: OutOfFold) -> None:
    """Put figures in original units, as shares of the baseline's SD, in the place of those on the model's scale.

    features : columns of `verdict_table`, as `feature_columns` makes them.
    """
    rows = training_rows(kinds, cohort, errors)
    design = errors.design
    yardstick = SharedScaling.fit(levels(cohort), cohort.site)
    unit = yardstick.original_scale(len(rows.later), design.pairs.people.site)[1]
    for place in [*(each for each, found in kinds.maps.items() if found.scale), *kinds.scores]:
        change = rows.later[:, place] - rows.baseline[:, place]
        crps, error = rows.judged(place)
        seen = np.isfinite(change) & np.isfinite(crps) & design.pairs.wanted
        if not seen.any():
            continue
        size, weight, member = unit[seen, place], design.weight[seen], design.pairs.unit[seen]
        share = weight / weight.sum()
        usual = np.sqrt(share @ change[seen] ** 2)
        carried = normal_crps(change[seen], np.maximum(usual, 1e-12)) / size
        ours = crps[seen] / size
        fall = unit_sums((ours - carried) * share * len(np.unique(member)), member)
        figures = {
            "rmse_carry_forward": np.sqrt(share @ (change[seen] / size) ** 2),
            "rmse": np.sqrt(share @ (error[seen] / size) ** 2),
            "crps_carry_forward": share @ carried,
            "crps": share @ ours,
            "difference": fall.mean(),
            "error": standard_error(fall),
        }
        for name, figure in figures.items():
            features[name][place] = float(figure)
