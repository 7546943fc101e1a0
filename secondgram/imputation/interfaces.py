"""Interfaces of fitted models of the follow-up, for presets and for the methods they are compared with."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from ..cohort.scaling import CovariateEncoder
from .model_data import People


class FollowupModel(Protocol):
    """Imputes people it is shown; every row of a result is independent of the other rows."""

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D) in original units."""
        ...

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D) in original units; `draws` holds their M numbers."""
        ...


class SampledModel(FollowupModel, Protocol):
    """A model that draws in two steps."""

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The sampler's part of draws: (M, N, k) float32, k = 0 where nothing is sampled. Slow to make, and small."""
        ...

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """`draw` of the same people, draws and seed, from what `sample` gave."""
        ...


class PresetModel(SampledModel, Protocol):
    """A model that an imputer keeps: it can be written down, and says what was chosen."""

    @property
    def encoder(self) -> CovariateEncoder:
        """How covariates become numbers."""
        ...

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that features are scaled within, none where the training had no sites."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of all that it learned."""
        ...

    def resolved_precision(self) -> str:
        """The precision that `auto` resolves to on this processor: `fp32`, `fp16` or `bf16`."""
        ...

    def check(self, solver: str | None, steps: int | None) -> None:
        """Raise `InputError` for a solver or a number of steps that it cannot be sampled with."""
        ...

    def notes(self, people: People) -> list[str]:
        """What is to be told about people who are imputed, one sentence each."""
        ...

    def summary(self) -> list[str]:
        """What was chosen and why, one sentence each."""
        ...

    def cautions(self) -> list[str]:
        """What whoever uses its draws has to know of them, one sentence each."""
        ...

    def state(self) -> dict[str, Any]:
        """Nested dict of JSON values and arrays that the class's `from_state` takes back."""
        ...


@runtime_checkable
class JudgedModel(FollowupModel, Protocol):
    """A model that judged its parts on people they were not fitted on."""

    def verdict(self) -> pd.DataFrame:
        """One row a feature."""
        ...

    def ladder(self) -> pd.DataFrame:
        """One row a rung."""
        ...


@runtime_checkable
class CovariateModel(FollowupModel, Protocol):
    """A model that draws what people lack of covariates, and draws the follow-up with it."""

    def covariates(self, people: People, draws: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """By covariate (M, N), known or drawn: numbers in original units, or levels as text."""
        ...


@runtime_checkable
class WholeModel(FollowupModel, Protocol):
    """A model that knows features of whole numbers."""

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the features whose draws are whole numbers."""
        ...
