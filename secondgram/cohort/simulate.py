"""Simulated cohorts whose hidden follow-ups are known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from .simulate_brain import draw_brain, healthy_direction
from .simulate_linear import (
    PosteriorCovariance,
    draw_converters,
    draw_gaussian,
    linear_model,
)
from .simulate_people import People, chunks, draw_people, health, returning, streams
from .table import Cohort

MODES = ("cohort", "gaussian", "converters")
SELECTIONS = ("random", "health")
LINEAR_RELIABILITY = (0.75, 0.97)
# From this many cells of `visits` on, arrays are float32.
FLOAT32_CELLS = 200_000_000


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


def simulate(
    subjects: int = 5000,
    features: int = 128,
    paired: float = 0.12,
    seed: int = 0,
    mode: str = "cohort",
    selection: str = "random",
    reliability: tuple[float, float] | None = None,
) -> SimulatedCohort:
    """A cohort of which every follow-up is known.

    Parameters
    ----------
    subjects, features : N >= 2 and D >= 1.
    paired : share of people whose follow-up is observed; exactly round(paired * N) of them.
    seed : the same arguments and seed give the same cohort; `paired` and `selection` change only who is observed.
    mode : `gaussian`, where the posterior is Gaussian and given exactly; `converters`, where some people lose tissue
        along an axis; `cohort`, named regions in mm3, mm2 and mm with sites, a diagnosis and missing cells.
    selection : who returns. `random`, or `health`: the odds fall by e per disease and per 22 years of age and rise by
        sqrt(e) per SD of the mean measured baseline feature. It looks at observed values alone (in mode `cohort` not at
        the diagnosis), so that follow-ups are missing at random and the posterior stays exact.
    reliability : (low, high), range of a feature's reliability r; the error variance is (1 - r) / r of the true one.
        None: .75 to .97, in mode `cohort` by modality.

    Raises `InputError` for arguments that make no cohort.
    """
    _check(subjects, features, paired, seed, mode, selection, reliability)
    random = streams(seed)
    people = draw_people(subjects, random)
    dtype = np.float32 if 2 * subjects * features >= FLOAT32_CELLS else np.float64
    visits, truth = np.empty((subjects, 2, features), dtype), np.empty((subjects, features), dtype)
    if mode == "cohort":
        fields = draw_brain(people, random, visits, truth, reliability)
    else:
        fields = _draw_linear(mode, people, random, visits, truth, reliability or LINEAR_RELIABILITY)
    table = fields["covariate_table"] = _covariates(people, fields.pop("covariate"))
    appeal = np.zeros(subjects)
    if selection == "health":
        direction = healthy_direction(features) if mode == "cohort" else np.ones(features)
        ill = people.disease if "disease" in table else 0.0
        appeal = 0.5 * health(visits[:, 0], direction) - 0.8 * people.years - ill
    visits[~returning(round(paired * subjects), appeal, random["selection"]), 1] = np.nan
    return SimulatedCohort(
        ids=np.array([f"S{number:07d}" for number in range(1, subjects + 1)], dtype=object),
        visits=visits,
        times=np.stack([np.zeros(subjects), people.gap], axis=1),
        truth=truth,
        notes=(f"simulated: mode {mode}, selection {selection}, seed {seed}",),
        **fields,
    )


def _draw_linear(
    mode: str,
    people: People,
    random: dict[str, np.random.Generator],
    visits: np.ndarray,
    truth: np.ndarray,
    reliability: tuple[float, float],
) -> dict[str, Any]:
    # Fill visits [N, 2, D] and truth [N, D]; return the other fields of the cohort.
    width = truth.shape[1]
    model = linear_model(width, reliability, mode == "converters", random["model"])
    fields: dict[str, Any] = {
        "features": tuple(f"feature_{number:0{len(str(width))}d}" for number in range(1, width + 1)),
        "covariate": {"disease": people.disease},
    }
    if mode == "gaussian":
        mean, covariance = draw_gaussian(model, people, random, visits, truth)
        return fields | {"posterior_mean": mean, "posterior_cov": covariance}
    axis, converted = draw_converters(model, people, random, visits, truth)
    return fields | {"axis": axis, "converted": converted}


def _covariates(people: People, more: dict[str, np.ndarray]) -> pd.DataFrame:
    sex = pd.Categorical(np.where(people.male == 1, "M", "F"), categories=["F", "M"])
    return pd.DataFrame({"age": people.age, "sex": sex, **more})


def _check(
    subjects: int,
    features: int,
    paired: float,
    seed: int,
    mode: str,
    selection: str,
    reliability: tuple[float, float] | None,
) -> None:
    for name, value, least in (("subjects", subjects, 2), ("features", features, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{name}={value!r} cannot be used", mend=f"Use a whole number of {least} or more")
    if not 0 <= paired <= 1:
        raise InputError(f"paired={paired!r} is no share of people", mend="Use a number from 0 to 1")
    for name, choice, known in (("mode", mode, MODES), ("selection", selection, SELECTIONS)):
        if choice not in known:
            raise InputError(f"{name}={choice!r} is unknown", mend=f"Use one of {', '.join(known)}")
    if reliability is not None and not 0 < reliability[0] <= reliability[1] <= 1:
        raise InputError(f"reliability={reliability!r} is no range", mend="Use (low, high), above 0 and at most 1")
