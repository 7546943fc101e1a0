"""A simulated cohort and what it hides: follow-ups, missed visits, and their exact posterior."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..errors import InputError
from .simulate_linear import PosteriorCovariance
from .simulate_people import People, chunks
from .simulate_trajectories import TrajectoryPosterior, TrajectoryWorld
from .table import Cohort


# repr=False keeps the short text of `Cohort`.
@dataclass(frozen=True, eq=False, repr=False)
class SimulatedCohort(Cohort):
    """A cohort with its hidden truth. Fields that the mode does not have are None.

    Attributes
    ----------
    truth : (N, D) the measured follow-up of everyone, observed or not, without missing cells.
    posterior_mean : (N, D), mode `gaussian`: mean of the measured follow-up given the measured baseline, age, sex,
        disease and gap; exact.
    posterior_cov : mode `gaussian`: `posterior_cov[i]` is the exact (D, D) covariance that goes with it.
    axis : (D,), modes `converters` and `cohort`: loss per unit of a conversion, in SD of the true baseline (in mode
        `cohort` of its logarithm; negative where conversion enlarges).
    converted : (N,) bool, the same modes.
    """

    truth: np.ndarray = None  # type: ignore[assignment]
    posterior_mean: np.ndarray | None = None
    posterior_cov: PosteriorCovariance | None = None
    axis: np.ndarray | None = None
    converted: np.ndarray | None = None

    def take(self, rows: Sequence[int] | np.ndarray) -> SimulatedCohort:
        """The people at these positions, or where this mask is true, in this order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        return replace(
            super().take(index),
            truth=self.truth[index],
            posterior_mean=None if self.posterior_mean is None else self.posterior_mean[index],
            posterior_cov=None if self.posterior_cov is None else self.posterior_cov.take(index),
            converted=None if self.converted is None else self.converted[index],
        )

    def posterior_draws(self, draws: int, seed: int = 0) -> np.ndarray:
        """(M, N, D): `draws` exact draws of everyone's follow-up from the posterior.

        Raises `InputError` where the mode has no exact posterior.
        """
        if self.posterior_mean is None or self.posterior_cov is None:
            raise InputError("this cohort has no exact posterior", mend="Simulate it with mode='gaussian'")
        if draws < 1:
            raise InputError(f"draws={draws} is too few", mend="Use 1 or more")
        rng = np.random.default_rng(seed)
        out = np.empty((draws, *self.posterior_mean.shape), self.posterior_mean.dtype)
        for draw in range(draws):
            for rows in chunks(*self.posterior_mean.shape):
                out[draw, rows] = self.posterior_mean[rows] + self.posterior_cov.sample(rows, rng)
        return out

    def write_truth(self, path: str | os.PathLike[str]) -> None:
        """Write the measured baselines and the hidden follow-ups of everyone, as `Cohort.write` does."""
        Cohort(
            ids=self.ids,
            visits=np.stack([self.baseline, self.truth], axis=1),
            features=self.features,
            visit_labels=self.visit_labels,
            times=self.times,
            site=self.site,
        ).write(path)


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedTrajectories(SimulatedCohort):
    """A cohort of mode `trajectories`, with everything that its people missed.

    Attributes
    ----------
    complete : (N, V, D) what was or would have been measured at every visit, without missing cells.
    world : what it was drawn from, with the exact posterior of any visit given any others.
    """

    complete: np.ndarray = None  # type: ignore[assignment]
    world: TrajectoryWorld = None  # type: ignore[assignment]

    def take(self, rows: Sequence[int] | np.ndarray) -> SimulatedTrajectories:
        """The people at these positions, or where this mask is true, in this order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        found = super().take(index)
        assert isinstance(found, SimulatedTrajectories)
        return replace(found, complete=self.complete[index])

    def write_truth(self, path: str | os.PathLike[str]) -> None:
        """Write every visit of everyone, as `Cohort.write` does."""
        Cohort(
            ids=self.ids,
            visits=self.complete,
            features=self.features,
            visit_labels=self.visit_labels,
            times=self.times,
            visit_sites=self.visit_sites,
        ).write(path)

    def with_target(self, target: int) -> SimulatedTrajectories:
        """The same with another visit as the follow-up, whose truth is known too."""
        found = super().with_target(target)
        if target >= len(self.visit_labels):
            raise InputError(f"target={target}: there are visits 0 to {len(self.visit_labels) - 1}")
        return replace(found, truth=self.complete[:, target])

    def posterior(self, visits: np.ndarray | None = None, at: np.ndarray | None = None) -> TrajectoryPosterior:
        """Exact, of measurements given the observed visits of each person, as they are here.

        visits : (N, K) positions of the visits that are told; None for all V.  at : (N, K) years after the first visit
        instead, on the site of the first. A visit that was observed itself is told anew, as by a second scan then.
        """
        if visits is not None and at is not None:
            raise InputError("visits and at say the same in two ways", mend="Give one of them")
        rows = np.arange(len(self))[:, None]
        places = np.broadcast_to(np.arange(self.visits.shape[1]), self.times.shape) if visits is None else visits
        known = self.scanned_on
        times, sites = self.times[rows, places], None if known is None else known[rows, places]
        if at is not None:
            times = self.times[:, :1] + np.asarray(at, dtype=float)
            sites = None if known is None else np.repeat(known[:, :1], times.shape[1], axis=1)
        people = people_of(self.covariate_table)
        return self.world.posterior(people, self.visits, self.times, times, known, sites)

    @property
    def scanned_on(self) -> np.ndarray | None:
        """(N, V) the site of every visit; None of one scanner."""
        if self.visit_sites is not None or self.site is None:
            return self.visit_sites
        # Of people who all stay, a cohort keeps one site each.
        return np.repeat(self.site[:, None], self.visits.shape[1], axis=1)


def people_of(table: pd.DataFrame) -> People:
    """Those of a simulated table of covariates, each a year from a visit to the next."""
    male = (table["sex"] == "M").to_numpy().astype(float)
    return People(table["age"].to_numpy(), male, table["disease"].to_numpy(), np.ones(len(table)))
