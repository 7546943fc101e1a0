"""Simulated cohorts whose hidden follow-ups are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from .simulate_brain import draw_brain, healthy_direction
from .simulate_linear import (
    draw_converters,
    draw_gaussian,
    linear_model,
)
from .simulate_people import People, draw_people, health, returning, streams
from .simulate_trajectories import TrajectoryWorld, attended, visit_sites, visit_times
from .simulated import SimulatedCohort, SimulatedTrajectories
from .table import MOST_VISITS

MODES = ("cohort", "gaussian", "converters", "trajectories")
SELECTIONS = ("random", "health")
LINEAR_RELIABILITY = (0.75, 0.97)
# What mode `trajectories` takes where nobody says otherwise.
TRAJECTORIES: dict[str, Any] = {"visits": 5, "slope": 0.06, "wander": 0.0, "sites": 1, "dropout": 0.0}
MOST_SITES = 26
# From this many cells of `visits` on, arrays are float32.
FLOAT32_CELLS = 200_000_000


def simulate(
    subjects: int = 5000,
    features: int = 128,
    paired: float = 0.12,
    seed: int = 0,
    mode: str = "cohort",
    selection: str = "random",
    reliability: tuple[float, float] | None = None,
    *,
    visits: int | None = None,
    slope: float | None = None,
    wander: float | None = None,
    sites: int | None = None,
    dropout: float | None = None,
) -> SimulatedCohort:
    """A cohort of which every follow-up is known.

    Parameters
    ----------
    subjects, features : N >= 2 and D >= 1.
    paired : share of people whose follow-up is observed, exactly round(paired * N) of them; in mode `trajectories`
        share of those who come back at all, fewer where people drop out.
    seed : the same arguments and seed give the same cohort; `paired` and `selection` change only who is observed.
    mode : `gaussian`, where the posterior is Gaussian and given exactly; `converters`, where some people lose tissue
        along an axis; `cohort`, named regions in mm3, mm2 and mm with sites, a diagnosis and missing cells;
        `trajectories`, several visits with holes, and the exact posterior of any given any others.
    selection : who returns. `random`, or `health`: the odds fall by e per disease and per 22 years of age and rise by
        sqrt(e) per SD of the mean measured baseline feature. It looks at observed values alone (in mode `cohort` not at
        the diagnosis), so that follow-ups are missing at random and the posterior stays exact.
    reliability : (low, high), range of a feature's reliability r; the error variance is (1 - r) / r of the true one.
        None: .75 to .97, in mode `cohort` by modality.
    visits : of mode `trajectories`, as are all below; 5 of them, 1.5 years apart. Whoever comes back misses 15 %.
    slope : SD of a person's change, in SD of the true baseline a year; .06.
    wander : SD of an Ornstein-Uhlenbeck part that forgets within two years, in the same SD; 0.
    sites : scanners, each with an offset of its own, and one visit in ten is the first on another; 1.
    dropout : people leave for good, at a tenth per visit for those of average health, with log odds that fall by this
        for every SD of the health that was last seen; 0, and nobody leaves.

    Raises `InputError` for arguments that make no cohort.
    """
    _check(subjects, features, paired, seed, mode, selection, reliability)
    more = {"visits": visits, "slope": slope, "wander": wander, "sites": sites, "dropout": dropout}
    if mode == "trajectories":
        return _trajectories(subjects, features, paired, seed, selection, reliability or LINEAR_RELIABILITY, more)
    _check_alone(mode, more)
    random = streams(seed)
    people = draw_people(subjects, random)
    dtype = np.float32 if 2 * subjects * features >= FLOAT32_CELLS else np.float64
    values, truth = np.empty((subjects, 2, features), dtype), np.empty((subjects, features), dtype)
    if mode == "cohort":
        fields = draw_brain(people, random, values, truth, reliability)
    else:
        fields = _draw_linear(mode, people, random, values, truth, reliability or LINEAR_RELIABILITY)
    table = fields["covariate_table"] = _covariates(people, fields.pop("covariate"))
    direction = healthy_direction(features) if mode == "cohort" else np.ones(features)
    appeal = _appeal(selection, people, values[:, 0], direction, "disease" in table)
    values[~returning(round(paired * subjects), appeal, random["selection"]), 1] = np.nan
    return SimulatedCohort(
        ids=_ids(subjects),
        visits=values,
        times=np.stack([np.zeros(subjects), people.gap], axis=1),
        truth=truth,
        notes=(f"simulated: mode {mode}, selection {selection}, seed {seed}",),
        **fields,
    )


def _trajectories(
    subjects: int,
    features: int,
    paired: float,
    seed: int,
    selection: str,
    reliability: tuple[float, float],
    more: dict[str, Any],
) -> SimulatedTrajectories:
    given = TRAJECTORIES | {name: value for name, value in more.items() if value is not None}
    _check_trajectories(**given)
    random = streams(seed)
    people, count = draw_people(subjects, random), int(given["visits"])
    world = TrajectoryWorld.drawn(features, reliability, given["slope"], given["wander"], given["sites"], random)
    times = visit_times(subjects, count, random["gap"])
    places = visit_sites(world.sites, subjects, count, random["site"])
    dtype = np.float32 if count * subjects * features >= FLOAT32_CELLS else np.float64
    complete = np.empty((subjects, count, features), dtype)
    world.draw(people, times, places, random, complete)
    appeal = _appeal(selection, people, complete[:, 0], np.ones(features), True)
    returns = returning(round(paired * subjects), appeal, random["selection"])
    seen = np.stack([health(complete[:, visit], np.ones(features)) for visit in range(count)], axis=1)
    came = attended(subjects, count, returns, seen, given["dropout"], random["missing"])
    values = np.where(came[:, :, None], complete, np.array(np.nan, dtype))
    width = len(str(features))
    return SimulatedTrajectories(
        ids=_ids(subjects),
        visits=values,
        features=tuple(f"feature_{number:0{width}d}" for number in range(1, features + 1)),
        visit_labels=tuple(str(visit) for visit in range(count)),
        times=times,
        covariate_table=_covariates(people, {"disease": people.disease}),
        visit_sites=places,
        truth=complete[:, 1],
        notes=(f"simulated: mode trajectories, selection {selection}, seed {seed}",),
        complete=complete,
        world=world,
    )


def _appeal(selection: str, people: People, baseline: np.ndarray, direction: np.ndarray, disease: bool) -> np.ndarray:
    """(N,) log odds of coming back."""
    if selection == "random":
        return np.zeros(len(people))
    ill = people.disease if disease else 0.0
    return np.asarray(0.5 * health(baseline, direction) - 0.8 * people.years - ill)


def _ids(count: int) -> np.ndarray:
    return np.array([f"S{number:07d}" for number in range(1, count + 1)], dtype=object)


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


def _check_alone(mode: str, more: dict[str, Any]) -> None:
    for name, value in more.items():
        if value is not None:
            raise InputError(f"{name}={value!r} belongs to mode 'trajectories'", mend=f"Leave it out, or mode={mode!r}")


def _check_trajectories(visits: int, slope: float, wander: float, sites: int, dropout: float) -> None:
    for name, count, least, most in (("visits", visits, 2, MOST_VISITS), ("sites", sites, 1, MOST_SITES)):
        if not isinstance(count, (int, np.integer)) or not least <= count <= most:
            raise InputError(f"{name}={count!r} cannot be used", mend=f"Use a whole number from {least} to {most}")
    for name, value in (("slope", slope), ("wander", wander), ("dropout", dropout)):
        if not 0 <= value < np.inf:
            raise InputError(f"{name}={value!r} cannot be used", mend="Use a number of 0 or more")
