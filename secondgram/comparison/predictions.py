"""What each of the methods that are compared predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cohort.simulate_trajectories import TrajectoryPosterior
from ..cohort.simulated import SimulatedCohort, SimulatedTrajectories, people_of
from ..cohort.table import Cohort
from ..cohort.value_findings import WARN
from ..imputation.imputer import SecondgramImputer
from ..imputation.interfaces import FollowupModel
from ..imputation.model_data import People
from .hidden_visits import HiddenVisits
from .methods.method_catalogue import BY_NAME, Method


def predictions(
    name: str,
    learn: Cohort,
    judge: Cohort,
    draws: int,
    seed: int,
    fitted: Callable[[str, FollowupModel], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, D) and draws (M, N, D) of a method for people it has not seen, original units.

    Hidden visits (`HiddenVisits`) are told from the nearest that is shown, or from all by a method that reads them.

    fitted : told the name and the model of a preset once it is trained.
    """
    # An unknown name is refused as a preset.
    method = BY_NAME.get(name, Method(name, "", preset=name))
    if isinstance(learn, HiddenVisits) and isinstance(judge, HiddenVisits):
        if method.history:
            return _of_hidden(method, learn, judge, draws, seed, fitted)
        if method.between:
            learn, judge = learn.between(), judge.between()
        learn, judge = learn.plain(), judge.plain()
    if method.learner is not None:
        model = method.learner().fit(learn, seed)
        people, numbers = People.of(judge, keep_known=False), np.arange(draws)
        return model.mean(people, numbers, seed), model.draw(people, numbers, seed)
    if method.preset is None:
        assert isinstance(judge, SimulatedCohort)
        if isinstance(judge, SimulatedTrajectories):
            found = judge.without_followup().posterior(np.full((len(judge), 1), judge.target))
            return found.mean[:, 0], found.draws(draws, seed)[:, :, 0]
        return np.asarray(judge.posterior_mean), judge.posterior_draws(draws, seed)
    imputer = SecondgramImputer(method.preset, seed=seed, **method.options).fit(learn, show=False)
    if fitted is not None:
        fitted(name, imputer.model_)
    # Values were judged when the cohort was read; every method predicts the same people.
    result = imputer.impute(judge, draws=draws, seed=seed, who="all", checks=WARN)
    # The order of the people is that of `judge`: every one of them has a baseline.
    return (result.draws.mean(axis=0) if method.preset == "paper" else result.mean), result.draws


def _of_hidden(
    method: Method,
    learn: HiddenVisits,
    judge: HiddenVisits,
    draws: int,
    seed: int,
    fitted: Callable[[str, FollowupModel], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of a method that reads every visit that is shown."""
    if method.learner is not None:
        model = method.learner().fit(learn.whole, seed)
        people, numbers = judge.people(), np.arange(draws)
        return model.mean(people, numbers, seed), model.draw(people, numbers, seed)
    if method.preset is None:
        found = exact_posterior(judge)
        return found.mean[:, 0], found.draws(draws, seed)[:, :, 0]
    imputer = SecondgramImputer(method.preset, seed=seed, history="all", **method.options).fit(learn.whole, show=False)
    if fitted is not None:
        fitted(method.name, imputer.model_)
    return imputed(imputer, judge, draws, seed)


def imputed(imputer: SecondgramImputer, judge: HiddenVisits, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (T, D) and draws (M, T, D) of hidden visits by a model of all visits."""
    mean, drawn = np.empty(judge.baseline.shape), np.empty((draws, *judge.baseline.shape))
    for rows, visit, part in judge.by_visit():
        found = imputer.impute(part, draws=draws, seed=seed, visits=[visit], checks=WARN, show=False)
        mean[rows], drawn[:, rows] = found.mean, found.draws
    return mean, drawn


def exact_posterior(judge: HiddenVisits) -> TrajectoryPosterior:
    """Of hidden visits of a simulation in mode `trajectories`, one of each row."""
    whole, person, slot = judge.whole, judge.person, judge.slot
    assert isinstance(whole, SimulatedTrajectories)
    rows, on = np.arange(len(judge)), whole.scanned_on
    sites = None if on is None else on[person]
    return whole.world.posterior(
        people_of(whole.covariate_table.iloc[person]),
        judge.history().visits,
        whole.times[person],
        whole.times[person, slot][:, None],
        sites,
        None if sites is None else sites[rows, slot][:, None],
    )
