"""What each of the methods that are compared predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cohort.simulate import SimulatedCohort
from ..cohort.table import Cohort
from ..imputation.imputer import SecondgramImputer
from ..imputation.model import FollowupModel
from ..imputation.people import People
from .baselines import ARMS, BASELINES, PEERS, RIVALS


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
    if name == "exact-posterior":
        assert isinstance(judge, SimulatedCohort)
        return np.asarray(judge.posterior_mean), judge.posterior_draws(draws, seed)
    learners = BASELINES | RIVALS | PEERS
    if name in learners:
        model = learners[name]().fit(learn, seed)
        people, numbers = People.of(judge, keep_known=False), np.arange(draws)
        return model.mean(people, numbers, seed), model.draw(people, numbers, seed)
    preset, overrides = ARMS.get(name, (name, {}))
    imputer = SecondgramImputer(preset, seed=seed, **overrides).fit(learn, show=False)
    if fitted is not None:
        fitted(name, imputer.model_)
    imputed = imputer.impute(judge, draws=draws, seed=seed, who="all")
    # The order of the people is that of `judge`: every one of them has a baseline.
    return (imputed.draws.mean(axis=0) if preset == "paper" else imputed.mean), imputed.draws
