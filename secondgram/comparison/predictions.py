"""What each of the methods that are compared predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cohort.simulated import SimulatedCohort
from ..cohort.table import Cohort
from ..cohort.value_findings import WARN
from ..imputation.imputer import SecondgramImputer
from ..imputation.interfaces import FollowupModel
from ..imputation.model_data import People
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

    fitted : told the name and the model of a preset once it is trained.
    """
    # An unknown name is refused as a preset.
    method = BY_NAME.get(name, Method(name, "", preset=name))
    if method.learner is not None:
        model = method.learner().fit(learn, seed)
        people, numbers = People.of(judge, keep_known=False), np.arange(draws)
        return model.mean(people, numbers, seed), model.draw(people, numbers, seed)
    if method.preset is None:
        assert isinstance(judge, SimulatedCohort)
        return np.asarray(judge.posterior_mean), judge.posterior_draws(draws, seed)
    imputer = SecondgramImputer(method.preset, seed=seed, **method.options).fit(learn, show=False)
    if fitted is not None:
        fitted(name, imputer.model_)
    # Values were judged when the cohort was read; every method predicts the same people.
    imputed = imputer.impute(judge, draws=draws, seed=seed, who="all", checks=WARN)
    # The order of the people is that of `judge`: every one of them has a baseline.
    return (imputed.draws.mean(axis=0) if method.preset == "paper" else imputed.mean), imputed.draws
