"""The methods every claim is held against: simple ones, other libraries, and the arms of the published method."""

from __future__ import annotations

from typing import Any

from .base import Baseline
from .gan import WassersteinGAN
from .linear import (
    CarryForward,
    CarryForwardGaussian,
    FeatureRidge,
    MeanChange,
    PartialLeastSquares,
    Ridge,
    RidgeEmpirical,
    RidgeGaussian,
)
from .mixed import MixedModel
from .peers import BoostedTrees, HyperImputer, IterativeBayes, Miceforest

BASELINES: dict[str, type[Baseline]] = {
    "carry-forward": CarryForward,
    "mean-change": MeanChange,
    "ridge": Ridge,
    "ridge-gaussian": RidgeGaussian,
    "ridge-empirical": RidgeEmpirical,
}
# Further ones, most of which take longer.
RIVALS: dict[str, type[Baseline]] = {
    "carry-forward-gaussian": CarryForwardGaussian,
    "feature-ridge": FeatureRidge,
    "pls": PartialLeastSquares,
    "mixed-model": MixedModel,
    "wgan-gp": WassersteinGAN,
}
# Methods that rest on other libraries.
PEERS: dict[str, type[Any]] = {
    "lightgbm": BoostedTrees,
    "iterative-imputer": IterativeBayes,
    "miceforest": Miceforest,
    "hyperimpute": HyperImputer,
}
# Presets with options that leave out a part of the published method, or project the gradients of its tasks.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper-vanilla": ("paper", {"self_conditioning": False, "gradients": "none"}),
    "paper-pretrained": ("paper", {"self_conditioning": False, "gradients": "none", "pretraining": 100}),
    "paper-no-gradient": ("paper", {"gradients": "none"}),
    "paper-no-self": ("paper", {"self_conditioning": False}),
    "paper-pcgrad": ("paper", {"gradients": "pcgrad"}),
    "paper-upgrad": ("paper", {"gradients": "upgrad"}),
}
__all__ = ["ARMS", "BASELINES", "PEERS", "RIVALS", "Baseline"]
