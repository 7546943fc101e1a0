"""What a model of the follow-up is conditioned on: baseline, covariates and gap, put on common scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cohort.scaling import FAR, CovariateEncoder, SharedScaling
from ..cohort.table import Cohort
from ..diffusion.noise import person_keys
from .missing import MissingCells
from .people import People, TrainingPairs


def levels(cohort: Cohort) -> np.ndarray:
    """(N, D) baselines; of a feature that nobody's baseline has, each person's first measured value."""
    absent = ~np.isfinite(cohort.baseline).any(axis=0)
    if not absent.any():
        return cohort.baseline
    later = cohort.visits[:, :, absent]
    place = np.isfinite(later).argmax(axis=1)
    values = cohort.baseline.copy()
    values[:, absent] = np.take_along_axis(later, place[:, None], axis=1)[:, 0]
    return values


@dataclass(eq=False)
class Context:
    """What the mean and the shape are conditioned on: X (N, D + C + 1) is [baseline, covariates, gap], all scaled."""

    encoder: CovariateEncoder
    scaling: SharedScaling
    missing: MissingCells
    gap_mean: float
    gap_spread: float

    @classmethod
    def fit(cls, cohort: Cohort, pairs: TrainingPairs, holes: bool = True) -> Context:
        """From the baselines and covariates of all training people, and the gaps of the pairs.

        holes : whether a missing cell is ever to be filled; what fills them is not learned without.
        """
        first = cohort.take(cohort.scanned)
        scaling = SharedScaling.fit(levels(first), first.site, robust=True)
        if holes:
            keys = person_keys(first.ids, first.visit_labels[0])
            cells = MissingCells.fit(np.clip(scaling.apply(first.baseline, first.site), -FAR, FAR), keys)
        else:
            cells = MissingCells(np.eye(len(cohort.features)))
        gap = pairs.people.gap[np.isfinite(pairs.people.gap)]
        spread = float(gap.std()) if len(gap) else 0.0
        return cls(
            CovariateEncoder.fit(first.covariate_table),
            scaling,
            cells,
            float(gap.mean()) if len(gap) else 0.0,
            spread if spread > 1e-9 else 1.0,
        )

    def inputs(self, people: People) -> np.ndarray:
        baseline = self._filled(self.scaling.apply(people.baseline, people.site))
        gap = (people.gap - self.gap_mean) / self.gap_spread
        covariates = self.encoder.transform(people.table, people.source)
        return np.concatenate([baseline, covariates, np.where(np.isfinite(gap), gap, 0.0)[:, None]], axis=1)

    def _filled(self, scaled: np.ndarray) -> np.ndarray:
        # What a far cell says of others is cut, what it is itself is not.
        if not np.isnan(scaled).any():
            return scaled
        filled = self.missing.fill(np.clip(scaled, -FAR, FAR))
        return np.where(np.isnan(scaled), filled, scaled)

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state(),
            "scaling": self.scaling.state(),
            "missing": self.missing.state(),
            "gap": [self.gap_mean, self.gap_spread],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Context:
        return cls(
            CovariateEncoder.from_state(state["encoder"]),
            SharedScaling.from_state(state["scaling"]),
            MissingCells.from_state(state["missing"]),
            *state["gap"],
        )
