"""The methods that are compared, and what each predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cohort.simulate import SimulatedCohort
from ..cohort.table import Cohort
from ..imputation.imputer import SecondgramImputer
from ..imputation.model import FollowupModel
from ..imputation.people import People
from .baselines import ARMS, BASELINES, PEERS, RIVALS

METHODS: dict[str, str] = {
    "carry-forward": "the follow-up equals the baseline",
    "carry-forward-gaussian": "the same, with draws from a Gaussian of its errors on the training pairs",
    "mean-change": "baseline plus the change expected from covariates and gap",
    "feature-ridge": "every feature from its own baseline, covariates and gap by ridge, with Gaussian residuals",
    "ridge": "baseline plus a ridge on all features, covariates and gap",
    "ridge-gaussian": "ridge, with draws from a Gaussian of its out-of-fold residuals",
    "ridge-empirical": "the same, with every principal component of the residuals distributed as it was",
    "pls": "partial least squares on all features, covariates and gap, with Gaussian residuals",
    "mixed-model": "a linear mixed model for each feature: random intercept and slope of every person",
    "lightgbm": "boosted trees on what a ridge leaves of each feature, with Gaussian residuals",
    "iterative-imputer": "scikit-learn's IterativeImputer, drawing from the posterior of Bayesian ridges",
    "miceforest": "multiple imputation by chained equations with boosted trees and mean matching",
    "hyperimpute": "HyperImpute with linear learners, one draw",
    "wgan-gp": "a conditional Wasserstein GAN with gradient penalty",
    "paper-vanilla": "the published network on pairs alone, without gradient manipulation",
    "paper-pretrained": "the same, trained on the baselines of everyone before",
    "paper-no-gradient": "the published method without gradient manipulation",
    "paper-no-self": "the published method without self-conditioning",
    "paper-pcgrad": "the published method, conflicting task gradients projected by PCGrad",
    "paper-upgrad": "the published method, task gradients combined by UPGrad",
    "paper": "the published method",
    "default": "this library",
    "exact-posterior": "the simulator's own posterior, the best possible (mode gaussian)",
}


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
