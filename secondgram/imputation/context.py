"""The condition of a model of the follow-up: baseline, covariates and gap, on common scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..cohort.scaling import FAR, CovariateEncoder, SharedScaling
from ..cohort.table import Cohort
from ..diffusion.noise import person_keys
from .levels import MixedCells, groups
from .missing import MissingCells
from .model_data import People, TrainingPairs
from .scanner_moves import FAR_BASELINE, ScannerMoves

# People whose missing cells are filled together: memory for those of a large cohort is scarce.
AT_ONCE = 8192
# Spreads beyond which a change on two sites counts as that far.
FARTHEST = 25.0


def levels(cohort: Cohort) -> np.ndarray:
    """(N, D) baselines; of a feature that nobody's baseline has, each person's first measured value, on that site."""
    cohort = cohort.on_one_site()
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
    """The condition of mean, spread and shape: X (N, D + C + 1) is [baseline, covariates, gap], all scaled.

    missing : of the D cells of a baseline and the C encoded covariates of its person, a Gaussian.
    moves : of visits from site to site, None where nobody moved.
    """

    encoder: CovariateEncoder
    scaling: SharedScaling
    missing: MissingCells
    gap_mean: float
    gap_spread: float
    moves: ScannerMoves | None = None

    @classmethod
    def fit(cls, cohort: Cohort, pairs: TrainingPairs, holes: bool = True, most: int | None = None) -> Context:
        """From the baselines and covariates of all training people, and the gaps of the pairs.

        holes : whether a missing cell is ever to be filled; without any, the Gaussian that fills them is not learned.
        most : number of people that it is learned from, None for all; their ids decide which.
        """
        first = cohort.with_baseline()
        scaling = SharedScaling.fit(levels(first), first.site, robust=True)
        encoder = CovariateEncoder.fit(first.covariate_table)
        if holes:
            keys = person_keys(first.ids, first.visit_labels[0])
            chosen = np.sort(np.argsort(keys, kind="stable")[:most])
            site = None if first.site is None else first.site[chosen]
            baseline = scaling.apply(first.baseline[chosen], site)
            covariates = encoder.encode(first.covariate_table.iloc[chosen])
            cells = MissingCells.fit(_near(encoder, baseline, covariates), keys[chosen])
        else:
            cells = MissingCells(np.eye(len(cohort.features) + encoder.width))
        gap = pairs.people.gap[np.isfinite(pairs.people.gap)]
        spread = float(gap.std()) if len(gap) else 0.0
        made = cls(encoder, scaling, cells, float(gap.mean()) if len(gap) else 0.0, spread if spread > 1e-9 else 1.0)
        if pairs.people.later_site is not None:
            made.moves = made._moves(pairs)
        return made

    def _moves(self, pairs: TrainingPairs) -> ScannerMoves:
        people, site = pairs.people, pairs.people.site
        x = self.scaling.apply(people.baseline, site)
        y = self.scaling.apply(pairs.later, people.later_site) - x
        shared = self.inputs(people)[:, x.shape[1] :]
        assert site is not None
        assert people.later_site is not None
        return ScannerMoves.fit(x, np.clip(y, -FARTHEST, FARTHEST), shared, site, people.later_site, pairs.weight)

    def unplaced(self, people: People) -> np.ndarray:
        """(N,) bool: whose follow-up is on another site than the baseline, by an offset that is not known."""
        moved = people.moved
        if not moved.any() or self.moves is None or people.site is None or people.later_site is None:
            return moved
        known = np.asarray(self.moves.sites, dtype=object)
        return np.asarray(moved & ~(np.isin(people.site, known) & np.isin(people.later_site, known)))

    def inputs(self, people: People) -> np.ndarray:
        """X, in which missing cells and covariates are their expectations given the others, and unknown gaps usual.

        So are the baselines of people whose site was not seen: how much of them is the site's offset cannot be told
        from one person, and a statistic of the people in a call would let draws depend on who else is in it.
        """
        covariates = self.encoder.encode(people.table, people.source)
        width = people.baseline.shape[1]
        X = np.empty((len(people), width + covariates.shape[1] + 1))
        X[:, width:-1] = covariates
        strange = self.scaling.unknown(len(people), people.site)
        for start in range(0, len(people), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            X[rows, :width] = self.scaling.apply(
                people.baseline[rows], None if people.site is None else people.site[rows]
            )
            X[rows, :width][strange[rows]] = np.nan
            values = X[rows, :-1]
            gone = np.isnan(values)
            if gone.any():
                # An outlying cell is cut where it predicts others, and stays as it is itself.
                near = _near(self.encoder, values[:, :width], values[:, width:])
                X[rows, :-1] = np.where(gone, self.missing.fill(near), values)
        gap = (people.gap - self.gap_mean) / self.gap_spread
        X[:, -1] = np.where(np.isfinite(gap), gap, 0.0)
        return X

    def units(self, people: People, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale (N, D) of people whose inputs are X: original units are location + scale * scaled value.

        Where a site was not seen, a location is what puts a measured baseline at its expectation in X, so that a change
        starts from the baseline whatever the site's offset. Those of a follow-up on another site are that site's, where
        its offset is known. Where changes have a unit of their own, it is theirs alone.
        """
        location, scale = self.scaling.original_scale(len(people), people.site)
        rows = np.flatnonzero(self.scaling.unknown(len(people), people.site))
        if len(rows):
            baseline = people.baseline[rows]
            seen = np.isfinite(baseline)
            if self.scaling.whole is not None:
                # What was not measured scatters between sites, too.
                scale[rows] = np.where(seen, scale[rows], self.scaling.whole)
            expected = scale[rows] * X[rows, : baseline.shape[1]]
            location[rows] = np.where(seen, baseline - expected, location[rows])
        rows = np.flatnonzero(people.moved & ~self.unplaced(people))
        if len(rows):
            assert self.moves is not None
            assert people.site is not None
            assert people.later_site is not None
            site, later = people.site[rows], people.later_site[rows]
            own = self.scaling.apply(people.baseline[rows], site)
            expected = X[rows, : own.shape[1]]
            own = np.where(np.isnan(own), expected, own)
            offset, slope = self.moves.between(site, later)
            location[rows], scale[rows] = self.scaling.original_scale(len(rows), later)
            # So that a scaled value of the expectation and a change is own + change, moved.
            near = np.clip(own, -FAR_BASELINE, FAR_BASELINE)
            location[rows] += scale[rows] * (own - expected + offset + slope * near)
        if people.change_unit is not None:
            location = people.baseline + people.change_unit * (location - people.baseline)
            scale = people.change_unit * scale
        return location, scale

    def original(self, scaled: np.ndarray, people: People, X: np.ndarray) -> np.ndarray:
        """Scaled values (..., N, D) of people whose inputs are X, in original units."""
        location, scale = self.units(people, X)
        return scaled * scale + location

    def later(self, pairs: TrainingPairs, X: np.ndarray) -> np.ndarray:
        """(P, D) later visits of pairs whose inputs are X, scaled; NaN where the offset of their site is not known."""
        location, scale = self.units(pairs.people, X)
        later = np.asarray((pairs.later - location) / scale)
        later[self.unplaced(pairs.people)] = np.nan
        return later

    @cached_property
    def within_visit(self) -> np.ndarray:
        """(D, D) covariance of scaled baselines given the covariates."""
        width = self.scaling.location.shape[1]
        return np.asarray(np.linalg.inv(self.missing.precision[:width, :width]))

    def gone(self, people: People) -> np.ndarray:
        """(N, D + C) bool: missing cells of baselines, and encoded columns of missing covariates."""
        lacking = np.isnan(self.encoder.encode(people.table, people.source))
        return np.concatenate([np.isnan(people.baseline), lacking], axis=1)

    def levelled(self, gone: np.ndarray) -> np.ndarray:
        """(N,) bool: who lacks a covariate that has levels; gone (N, D + C)."""
        return np.asarray(gone[:, gone.shape[1] - self.encoder.width :][:, self.encoder.discrete].any(axis=1))

    def cells(self, X: np.ndarray, gone: np.ndarray, linear: np.ndarray, quadratic: np.ndarray) -> MixedCells:
        """The n missing cells of one person, whose expectations are in X (D + C + 1,); gone (D + C,) bool.

        linear (n,), quadratic (n, n) : what else is known of them, see `MixedCells`.
        """
        width = len(gone) - self.encoder.width
        mine = groups(self.encoder, gone[width:], X[width:-1], int(gone[:width].sum()))
        return MixedCells(self.missing.precision[np.ix_(gone, gone)], linear, quadratic, mine)

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state(),
            "scaling": self.scaling.state(),
            "missing": self.missing.state(),
            "gap": [self.gap_mean, self.gap_spread],
        } | ({} if self.moves is None else {"moves": self.moves.state()})

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Context:
        encoder = CovariateEncoder.from_state(state["encoder"])
        scaling = SharedScaling.from_state(state["scaling"])
        cells = MissingCells.from_state(state["missing"]).widened(scaling.location.shape[1] + encoder.width)
        moves = ScannerMoves.from_state(state["moves"]) if "moves" in state else None
        gap_mean, gap_spread = state["gap"]
        return cls(encoder, scaling, cells, gap_mean, gap_spread, moves)


def _near(encoder: CovariateEncoder, baseline: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """[baseline, covariates] cut to +-`FAR`, levels as they are: a rare one is far from the mean."""
    numbers = np.where(encoder.discrete, covariates, np.clip(covariates, -FAR, FAR))
    return np.concatenate([np.clip(baseline, -FAR, FAR), numbers], axis=1)
