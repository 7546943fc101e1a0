"""Every method that can be compared: what it is, and who makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .baseline import Baseline
from .gan import WassersteinGAN
from .linear import (
    CarryForward,
    CarryForwardGaussian,
    FeatureRidge,
    LinearInterpolation,
    MeanChange,
    PartialLeastSquares,
    Ridge,
    RidgeEmpirical,
    RidgeGaussian,
)
from .mixed import MixedModel
from .peers import BoostedTrees, HyperImputer, IterativeBayes, Miceforest


@dataclass(frozen=True)
class Method:
    """A method of a comparison; one without learner and preset is the simulator's own posterior.

    meaning : in a few words;  title : how a report names it, where that is not its name.
    learner : what learns from training people (`Baseline`, or a class like it around another library).
    simple : among the simple methods that a demonstration shows;  peer : it rests on another library, and learns in a
        process of its own.
    preset, options : of `SecondgramImputer`; options leave out a part of the published method, or combine the gradients
        of its tasks.
    usual : compared where nobody says which;  usual_hidden : where visits are hidden by task.
    history : it reads all visits of a person that are shown;  between : it starts from the line through two of them,
        and is of no use where the first alone is shown.
    """

    name: str
    meaning: str
    learner: type[Any] | None = None
    simple: bool = False
    peer: bool = False
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    usual: bool = False
    usual_hidden: bool = False
    history: bool = False
    between: bool = False
    title: str = ""


CATALOGUE = (
    Method(
        "carry-forward",
        "the follow-up equals the baseline, or the nearest visit that is shown",
        learner=CarryForward,
        simple=True,
        usual=True,
        usual_hidden=True,
    ),
    Method(
        "carry-forward-gaussian",
        "the same, with draws from a Gaussian of its errors on the training pairs",
        learner=CarryForwardGaussian,
    ),
    Method(
        "linear-interpolation",
        "the line through the two neighbouring visits, with Gaussian residuals",
        learner=LinearInterpolation,
        usual_hidden=True,
        between=True,
    ),
    Method(
        "mean-change",
        "baseline plus the change expected from covariates and gap",
        learner=MeanChange,
        simple=True,
        usual=True,
    ),
    Method(
        "feature-ridge",
        "every feature from its own baseline, covariates and gap by ridge, with Gaussian residuals",
        learner=FeatureRidge,
    ),
    Method(
        "ridge", "baseline plus a ridge on all features, covariates and gap", learner=Ridge, simple=True, usual=True
    ),
    Method(
        "ridge-gaussian",
        "ridge, with draws from a Gaussian of its out-of-fold residuals",
        learner=RidgeGaussian,
        simple=True,
        usual=True,
        usual_hidden=True,
    ),
    Method(
        "ridge-empirical",
        "the same, with every principal component of the residuals distributed as it was",
        learner=RidgeEmpirical,
        simple=True,
        usual=True,
        usual_hidden=True,
    ),
    Method(
        "pls",
        "partial least squares on all features, covariates and gap, with Gaussian residuals",
        learner=PartialLeastSquares,
    ),
    Method(
        "mixed-model",
        "a linear mixed model for each feature: random intercept and slope of every person",
        learner=MixedModel,
        usual_hidden=True,
        history=True,
    ),
    Method(
        "lightgbm",
        "boosted trees on what a ridge leaves of each feature, with Gaussian residuals",
        learner=BoostedTrees,
        peer=True,
    ),
    Method(
        "iterative-imputer",
        "scikit-learn's IterativeImputer, drawing from the posterior of Bayesian ridges",
        learner=IterativeBayes,
        peer=True,
    ),
    Method(
        "miceforest",
        "multiple imputation by chained equations with boosted trees and mean matching",
        learner=Miceforest,
        peer=True,
    ),
    Method("hyperimpute", "HyperImpute with linear learners, one draw", learner=HyperImputer, peer=True),
    Method("wgan-gp", "a conditional Wasserstein GAN with gradient penalty", learner=WassersteinGAN),
    Method(
        "paper-vanilla",
        "the published network on pairs alone, without gradient manipulation",
        preset="paper",
        options={"self_conditioning": False, "gradients": "none"},
    ),
    Method(
        "paper-pretrained",
        "the same, trained on the baselines of everyone before",
        preset="paper",
        options={"self_conditioning": False, "gradients": "none", "pretraining": 100},
    ),
    Method(
        "paper-no-gradient",
        "the published method without gradient manipulation",
        preset="paper",
        options={"gradients": "none"},
    ),
    Method(
        "paper-no-self",
        "the published method without self-conditioning",
        preset="paper",
        options={"self_conditioning": False},
        title="the published method without self-conditioning",
    ),
    Method(
        "paper-pcgrad",
        "the published method, conflicting task gradients projected by PCGrad",
        preset="paper",
        options={"gradients": "pcgrad"},
    ),
    Method(
        "paper-upgrad",
        "the published method, task gradients combined by UPGrad",
        preset="paper",
        options={"gradients": "upgrad"},
    ),
    Method("paper", "the published method", preset="paper", usual=True, title="the published method"),
    Method(
        "default",
        "this library",
        preset="default",
        usual=True,
        usual_hidden=True,
        history=True,
        title="secondgram",
    ),
    Method(
        "exact-posterior",
        "the simulator's own posterior, the best possible (modes gaussian and trajectories)",
        usual_hidden=True,
        history=True,
    ),
)
BY_NAME = {method.name: method for method in CATALOGUE}
METHODS: dict[str, str] = {method.name: method.meaning for method in CATALOGUE}
BETWEEN = frozenset(method.name for method in CATALOGUE if method.between)
HIDDEN_METHODS = tuple(method.name for method in CATALOGUE if method.usual_hidden)
DEFAULT_METHODS = tuple(method.name for method in CATALOGUE if method.usual)
TITLES: dict[str, str] = {method.name: method.title or method.name for method in CATALOGUE}
PEERS: dict[str, type[Any]] = {each.name: each.learner for each in CATALOGUE if each.learner and each.peer}
_OWN = [(each, each.learner) for each in CATALOGUE if each.learner and not each.peer]
BASELINES: dict[str, type[Baseline]] = {each.name: learner for each, learner in _OWN if each.simple}
# Further ones, most of which take longer.
RIVALS: dict[str, type[Baseline]] = {each.name: learner for each, learner in _OWN if not each.simple}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    each.name: (each.preset, dict(each.options)) for each in CATALOGUE if each.preset and each.options
}
