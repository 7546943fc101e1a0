"""The `default` preset: a mean, a spread, a correlation and a shape, each a part that is fitted on what came before.

    follow-up = baseline + predicted change + spread * (components' loading of standardised components)

All of it happens in units of the baseline's spread, within site where sites are declared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..cohort.scaling import CovariateEncoder, SharedScaling
from ..cohort.table import Cohort
from ..diffusion.noise import Purpose
from ..errors import InputError
from ..ops.noise import normals
from ..ops.tiles import matmul
from ..training.trainer import Run, TrainingOptions
from .base import CANDIDATES, MeanPredictor, fit_mean
from .missing import MissingCells
from .people import People, TrainingPairs
from .residual import ResidualComponents, condition_on_known
from .shape import Shape, ShapeOptions, fit_shape

SHAPES = ("auto", "off")
PAIRS = ("all", "first")


@dataclass(frozen=True)
class DefaultOptions:
    """What `SecondgramImputer(preset="default", ...)` accepts.

    shape : `auto` keeps the denoiser where held-back people gain by it, `off` never trains it.
    components : how many leading components of the residual the denoiser draws.
    pairs : learn from `all` earlier-later pairs of a person or only the `first` visit with the target.
    solver, steps : how the denoiser is sampled; steps are network evaluations.
    The others are those of training.
    """

    shape: str = "auto"
    components: int = 16
    pairs: str = "all"
    solver: str = "dpm++2m"
    steps: int = 20
    embedding: int = 64
    widths: tuple[int, int, int] = (128, 64, 32)
    epochs: int = 400
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.0
    dropout: float = 0.1
    average: float = 0.99
    patience: int = 40
    gradients: str = "gate"
    gate: float = 1e9
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES or self.pairs not in PAIRS:
            raise InputError(
                f"shape={self.shape!r}, pairs={self.pairs!r}",
                mend=f"shape is one of {', '.join(SHAPES)}; pairs one of {', '.join(PAIRS)}",
            )
        if self.components < 1:
            raise InputError(f"components={self.components}", mend="Use 1 or more, or shape='off'")
        object.__setattr__(self, "widths", tuple(self.widths))
        self.training()

    def training(self) -> TrainingOptions:
        return TrainingOptions.of(self, prediction="v", whole_steps=False)

    def shaping(self) -> ShapeOptions:
        return ShapeOptions(self.components, self.embedding, self.widths, self.solver, self.steps, self.training())


@dataclass(eq=False)
class Context:
    """What the mean and the shape are conditioned on: X (N, D + C + 1) is [baseline, covariates, gap], all scaled."""

    encoder: CovariateEncoder
    scaling: SharedScaling
    missing: MissingCells
    gap_mean: float
    gap_spread: float

    @classmethod
    def fit(cls, cohort: Cohort, pairs: TrainingPairs) -> Context:
        """From the baselines and covariates of all training people, and the gaps of the pairs."""
        first = cohort.take(cohort.scanned)
        scaling = SharedScaling.fit(first.baseline, first.site)
        gap = pairs.people.gap[np.isfinite(pairs.people.gap)]
        spread = float(gap.std()) if len(gap) else 0.0
        return cls(
            CovariateEncoder.fit(first.covariate_table),
            scaling,
            MissingCells.fit(scaling.apply(first.baseline, first.site)),
            float(gap.mean()) if len(gap) else 0.0,
            spread if spread > 1e-9 else 1.0,
        )

    def inputs(self, people: People) -> np.ndarray:
        baseline = self.missing.fill(self.scaling.apply(people.baseline, people.site))
        gap = (people.gap - self.gap_mean) / self.gap_spread
        covariates = self.encoder.transform(people.table, people.source)
        return np.concatenate([baseline, covariates, np.where(np.isfinite(gap), gap, 0.0)[:, None]], axis=1)

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state(),
            "scaling": self.scaling.state(),
            "missing": self.missing.state(),
            "gap": [self.gap_mean, self.gap_spread],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Context:
        return cls(
            CovariateEncoder.from_state(state["encoder"]),
            SharedScaling.from_state(state["scaling"]),
            MissingCells.from_state(state["missing"]),
            *state["gap"],
        )


@dataclass(eq=False)
class Ladder:
    """A fitted `default` model; draws and means in original units."""

    options: DefaultOptions
    context: Context
    mean_change: MeanPredictor
    residual: ResidualComponents
    shape: Shape | None
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        options: DefaultOptions,
        *,
        seed: int,
        run: Run,
    ) -> Ladder:
        """Fit every part on training people; see the parts for how each is chosen."""
        pairs = TrainingPairs.of(cohort, every=options.pairs == "all")
        context = Context.fit(cohort, pairs)
        X = context.inputs(pairs.people)
        width = len(cohort.features)
        change = context.scaling.apply(pairs.later, pairs.people.site) - X[:, :width]
        mean_change, left = fit_mean(X, change, pairs.weight, pairs.unit, seed)
        residual = ResidualComponents.fit(left, pairs.weight)
        model = cls(options, context, mean_change, residual, None)
        if options.shape == "off":
            model.record["shape"] = {"kept": False, "reason": "switched off by shape='off'"}
            return model
        model.shape, model.record["shape"] = fit_shape(
            residual.components(left),
            model._conditions(X),
            pairs.people.keys,
            pairs.unit,
            options.shaping(),
            seed=seed,
            run=run,
        )
        return model

    @property
    def encoder(self) -> CovariateEncoder:
        """How covariates become numbers."""
        return self.context.encoder

    def _conditions(self, X: np.ndarray) -> np.ndarray:
        """(N, K + C + 1): the baseline's leading components, covariates and gap."""
        width = len(self.residual.spread)
        lead = self.residual.vectors[:, : min(self.options.components, width)]
        # Unit variance for features of unit variance and any correlation is out of reach; the square root of the
        # component's variance brings it near.
        baseline = matmul(X[:, :width], lead) / np.sqrt(self.residual.variances[: lead.shape[1]])
        return np.concatenate([baseline, X[:, width:]], axis=1)

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D). Exact for the Gaussian part; the denoiser's components are averaged over the draws."""
        X = self.context.inputs(people)
        scaled = self._scaled_mean(X)
        if self.shape is not None:
            lead = self._shape_draws(X, people, draws, seed, solver, steps).mean(axis=0)
            scaled = scaled + matmul(lead.astype(float), self.residual.loading[: self.shape.width])
        if np.isfinite(people.known).any():
            scaled = self._conditioned(scaled[None], scaled, people)[0]
        return self._finish(scaled, people)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D), M the numbers of the draws."""
        X = self.context.inputs(people)
        width = len(self.residual.spread)
        z = normals(people.keys, width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
        if self.shape is not None:
            z[:, :, : self.shape.width] = self._shape_draws(X, people, draws, seed, solver, steps)
        loading = self.residual.loading.astype(np.float32)
        mean = self._scaled_mean(X)
        drawn = mean + matmul(z.reshape(-1, width), loading).reshape(z.shape)
        if np.isfinite(people.known).any():
            drawn = self._conditioned(drawn, mean, people)
        return self._finish(drawn, people)

    def _scaled_mean(self, X: np.ndarray) -> np.ndarray:
        return X[:, : len(self.residual.spread)] + self.mean_change.change(X)

    def _shape_draws(
        self, X: np.ndarray, people: People, draws: np.ndarray, seed: int, solver: str | None, steps: int | None
    ) -> np.ndarray:
        assert self.shape is not None
        solver, steps = solver or self.options.solver, steps or self.options.steps
        return self.shape.draw(self._conditions(X), people.keys, draws, seed, solver, steps)

    def _conditioned(self, drawn: np.ndarray, mean: np.ndarray, people: People) -> np.ndarray:
        """Draws given the follow-up cells that were measured; drawn (M, N, D), mean (N, D), scaled."""
        known = self.context.scaling.apply(people.known, people.site) - mean
        covariance = self.residual.covariance()
        for person in np.flatnonzero(np.isfinite(known).any(axis=1)):
            drawn[:, person] = mean[person] + condition_on_known(
                drawn[:, person] - mean[person], known[person], covariance
            )
        return drawn

    def _finish(self, scaled: np.ndarray, people: People) -> np.ndarray:
        values = self.context.scaling.invert(scaled, people.site)
        # Measured cells come back as they are, not as scaled and unscaled.
        return np.where(np.isfinite(people.known), people.known, values).astype(people.baseline.dtype)

    def summary(self) -> list[str]:
        """What was chosen and why, one sentence each."""
        mean = self.mean_change
        count = Counter(mean.chosen)
        gain, error = mean.gain[mean.winner]
        features = ", ".join(f"{name} for {count[name]}" for name in CANDIDATES if count[name])
        return [
            f"mean: {mean.winner} overall, squared error {gain:.4f} +- {error:.4f} below carry-forward's on people it "
            f"was not fitted on; features: {features}",
            f"shape: {'kept' if self.shape else 'not used'}, {self.record['shape']['reason']}",
        ]

    def state(self) -> dict[str, Any]:
        return {
            "context": self.context.state(),
            "mean_change": self.mean_change.state(),
            "residual": self.residual.state(),
            "shape": None if self.shape is None else self.shape.state(),
            "record": self.record,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], options: DefaultOptions) -> Ladder:
        return cls(
            options,
            Context.from_state(state["context"]),
            MeanPredictor.from_state(state["mean_change"]),
            ResidualComponents.from_state(state["residual"]),
            None if state["shape"] is None else Shape.from_state(state["shape"]),
            state["record"],
        )
