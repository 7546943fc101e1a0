"""The `default` preset: a mean, a spread, a correlation and a shape, each a part that is fitted on what came before.

    follow-up = baseline + predicted change + spread * standardised residual

All of it happens in units of the baseline's spread, within site where sites are declared. Each part is judged on people
it was not fitted on, and kept where they gain by it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...cohort.scaling import CovariateEncoder
from ...cohort.table import Cohort
from ...diffusion.noise import NoiseRequest, Purpose
from ...diffusion.schedule import Schedule
from ...diffusion.solvers import solver_table
from ...errors import InputError
from ...ops.buffers import empty
from ...ops.native import Moved
from ...ops.row_tiles import slices
from ...sampling.postprocess import Postprocess, moves
from ...sampling.sampler import common_precision
from ...training.trainer import Run, TrainingOptions
from ..context import Context
from ..model_data import People
from ..provenance import tree_digest
from ..trainable import site_notes
from .beyond import Growth
from .borrowing import borrowing_notes, learned_people, scarce
from .design import Design, fit_folds, most_for_fill
from .joint import Conditional, Drawn, Joint, Residuals, fit_joint
from .judgement import CHOICES, Stage, follow, judge, with_normal_scores
from .mean import MeanPredictor, by_feature, fit_means
from .missing_draws import Later, LostCells
from .shape import ShapeOptions
from .spread import Spread
from .verdict import feature_columns, ladder_rows, ladder_table, verdict_table

# Features whose draws are worked on at once, so that a temporary stays in a processor's cache.
AT_ONCE = 8
SHAPES = ("auto", "off")
PAIRS = ("all", "first")
HISTORIES = ("first", "all")


@dataclass(frozen=True)
class DefaultOptions:
    """What `SecondgramImputer(preset="default", ...)` accepts.

    self_conditioning : learn from people with one scan what a baseline says about the truth behind it.
    shape : `auto` keeps the denoiser where held-back people gain by it, `off` never trains it.
    components : how many leading components of the residual the denoiser learns; networks : how many denoisers share
        the draws, each trained without a part of the people and judged on it.
    schedule : of the denoiser's noise, `linear` or `cosine`, rescaled to end without signal.
    pairs : learn from `all` earlier-later pairs of a person or only the `first` visit with the target.
    history : what conditions the missing visit, the `first` one or `all` that are known; cohorts of three or more.
    solver, steps : how the denoiser is sampled; steps are network evaluations.
    The others are those of training.
    """

    self_conditioning: bool = True
    shape: str = "auto"
    components: int = 16
    networks: int = 4
    schedule: str = "linear"
    pairs: str = "all"
    history: str = "first"
    solver: str = "dpm++2m"
    steps: int = 8
    embedding: int = 64
    widths: tuple[int, int, int] = (128, 64, 32)
    epochs: int = 400
    batch: int = 512
    rate: float = 2e-3
    decay: float = 0.0
    dropout: float = 0.1
    average: float = 0.99
    patience: int = 40
    gradients: str = "gate"
    gate: float = 1e9
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("shape", SHAPES), ("pairs", PAIRS), ("history", HISTORIES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name}={getattr(self, name)!r}", mend=f"Use one of {', '.join(known)}")
        if self.components < 1 or self.networks < 2:
            raise InputError(
                f"components={self.components}, networks={self.networks}",
                mend="Use 1 or more components and 2 or more networks, or shape='off'",
            )
        Schedule.make(self.schedule)
        object.__setattr__(self, "widths", tuple(self.widths))
        self.training()

    def training(self) -> TrainingOptions:
        return TrainingOptions.of(self, prediction="v", whole_steps=False)

    def shaping(self) -> ShapeOptions:
        return ShapeOptions(
            self.components,
            self.networks,
            self.schedule,
            self.embedding,
            self.widths,
            self.solver,
            self.steps,
            self.training(),
        )


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What a model's training pairs show of it: `design` of everybody, what follows from the mean, and folds (P,).

    left : (P, D), errors of the mean on people it was not fitted on, in scaled units, NaN where unknown.
    """

    design: Design
    left: np.ndarray
    stage: Stage
    fold: np.ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The follow-up of N people: their inputs X (N, D + C + 1), and scaled mean and spread (N, D) of it.

    mean may differ from draw to draw, (M, N, D).  location, unit : (N, D), original units are location + unit * scaled.
    """

    people: People
    X: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    location: np.ndarray
    unit: np.ndarray

    def take(self, rows: np.ndarray) -> Prediction:
        """Of the people at these positions."""
        arrays = (getattr(self, name)[rows] for name in ("X", "mean", "scale", "location", "unit"))
        return Prediction(self.people.take(rows), *arrays)

    @property
    def centre(self) -> np.ndarray:
        """The mean in original units."""
        return self.location + self.unit * self.mean

    @property
    def spread(self) -> np.ndarray:
        """The spread in original units."""
        return self.unit * self.scale

    def original(self, scaled: np.ndarray) -> np.ndarray:
        """Scaled values (..., N, D) in original units; measured cells as they are, not as scaled and unscaled."""
        known = self.people.known
        values = scaled * self.unit + self.location
        return np.where(np.isfinite(known), known, values).astype(self.people.baseline.dtype)


@dataclass(eq=False)
class DefaultModel:
    """A fitted `default` model; draws and means in original units.

    growth : of the spread beyond the longest gap; None where a model does not say.
    """

    options: DefaultOptions
    context: Context
    mean_change: MeanPredictor
    spread: Spread
    joint: Joint
    record: dict[str, Any] = field(default_factory=dict)
    growth: Growth | None = None

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        options: DefaultOptions,
        *,
        seed: int,
        run: Run,
    ) -> DefaultModel:
        """Fit every part on training people; see the parts for how each is chosen."""
        return cls.fit_with_errors(cohort, options, seed=seed, run=run)[0]

    @classmethod
    def fit_with_errors(
        cls,
        cohort: Cohort,
        options: DefaultOptions,
        *,
        seed: int,
        run: Run,
        levelled: Callable[[OutOfFold], dict[int, np.ndarray]] | None = None,
    ) -> tuple[DefaultModel, OutOfFold]:
        """`fit`, and the errors out of fold that it rests on.

        levelled : given these, by position the normal scores (P,) of features that have a distribution of their own,
            NaN where unknown; their margins are normal.
        """
        every = options.pairs == "all"
        whole = Design.of(cohort, every, most=most_for_fill(len(cohort.features)))
        judgement = judge(cohort, whole, every, options.self_conditioning, seed)
        folds, fold = fit_folds(cohort, whole, every, seed)
        winner, chosen = judgement.winner(), judgement.chosen()
        means = fit_means(whole, folds, CHOICES, options.self_conditioning)
        del folds
        mean_change, left = by_feature(means, winner, chosen)
        stage = follow(whole, mean_change, left, fold)
        errors = OutOfFold(whole, left, stage, fold)
        if levelled is not None:
            stage = with_normal_scores(whole, stage, levelled(errors), fold)
        residuals = Residuals(stage.standard, stage.scale, whole.X, whole.weight, whole.pairs.unit, fold)
        shaping = options.shaping() if options.shape == "auto" else None
        joint, component_margins, shape = fit_joint(
            residuals, stage.margins.map, options.components, shaping, seed=seed, run=run
        )
        people = learned_people(whole.change, whole.weight)
        record = {
            "ladder": ladder_rows(judgement, mean_change, stage.spread, stage.margins, component_margins, shape),
            "features": feature_columns(judgement, cohort.features, mean_change, whole.absent, scarce(people)),
            "shape": shape,
            "cautions": borrowing_notes(cohort.features, people) + site_notes(cohort, whole.pairs, every),
        }
        growth = Growth.fit(whole.pairs.people.gap, left, whole.weight, whole.pairs.unit)
        model = cls(options, whole.context, mean_change, stage.spread, joint, record, growth)
        return model, errors

    @property
    def encoder(self) -> CovariateEncoder:
        """How covariates become numbers."""
        return self.context.encoder

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that features are scaled within."""
        return self.context.scaling.sites

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it learned."""
        return tree_digest(self.state())

    def resolved_precision(self) -> str:
        """The precision that `auto` resolves to on this processor."""
        shape = self.joint.shape
        found = [self._postprocess.resolved_precision()]
        if shape is not None:
            found += [sampler.resolve_precision(*self._sampling(None, None)).precision for sampler in shape.samplers()]
        return common_precision(found)

    def check(self, solver: str | None, steps: int | None) -> None:
        """Raise `InputError` for a solver or a number of steps that it cannot be sampled with."""
        if self.joint.shape is not None:
            solver_table(self.joint.shape.schedule, *self._sampling(solver, steps), "v")

    def _sampling(self, solver: str | None, steps: int | None) -> tuple[str, int]:
        return solver or self.options.solver, steps or self.options.steps

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Posterior mean (N, D). Exact but for the denoiser's components, which are averaged over the draws."""
        at = self._prediction(people, self.context.inputs(people))
        values = at.mean + at.scale * self.joint.expected(
            at.X, people.keys, draws, seed, *self._sampling(solver, steps)
        )
        rows = np.flatnonzero(np.isfinite(people.known).any(axis=1))
        if len(rows):
            some = at.take(rows)
            lost = self._lost(some)
            if lost is not None:
                some = replace(some, mean=some.mean + lost.expected(self._later(some)))
            z = self.joint.condition(np.zeros((1, *some.mean.shape)), self._known(some))
            values[rows] = some.mean + some.scale * self.joint.finish(z[0])
        return at.original(values)

    def covariates(self, people: People, draws: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """By covariate (M, N), missing ones drawn: numbers in original units, or levels as text.

        Those that draws of the follow-up of the same numbers, seed and people rest on; given whatever is known of it.
        """
        at = self._prediction(people, self.context.inputs(people))
        return self._cells(at).covariates(draws, seed, self._later(at))

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D), M the numbers of the draws."""
        return self.finish(people, draws, seed, self.sample(people, draws, seed, solver, steps))

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The components that come from the denoiser: (M, N, k) float32."""
        if self.joint.shape is None:
            return np.empty((len(draws), len(people), 0), dtype=np.float32)
        X = self.context.inputs(people)
        self._handed = weakref.ref(people), X
        return self.joint.sample(X, people.keys, draws, seed, *self._sampling(solver, steps))

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """Draws (M, N, D) from what `sample` gave."""
        return self.finish_given(people, draws, seed, sampled).values

    def finish_given(
        self,
        people: People,
        draws: np.ndarray,
        seed: int,
        sampled: np.ndarray,
        given: Conditional | None = None,
        tells: bool = False,
    ) -> Drawn:
        """`finish`, given other draws of the same people, or nothing but what is known of them.

        tells : whether others are to be drawn given these; without it there are the values alone.
        """
        at = self._prediction(people, self._inputs(people))
        moved = self._moved(at, draws, seed, given)
        values = self._values(at, draws, seed, sampled, moved, given)
        if not tells:
            return Drawn(values)
        centre, per = at.centre, 1.0 / at.spread
        residual = empty(values.shape[::-1], np.float32).T
        for block in slices(values.shape[2], AT_ONCE):
            residual[:, :, block] = (values[:, :, block] - centre[:, block]) * per[:, block]
        if moved is None:
            return Drawn(values, residual)
        residual -= moves(moved) / at.scale
        return Drawn(values, residual, self._cells(at).encoded(moved))

    def _moved(self, at: Prediction, draws: np.ndarray, seed: int, given: Conditional | None) -> Moved | None:
        """How draws of missing cells move the scaled mean; None where nobody lacks any."""
        lost = self._lost(at)
        if lost is None:
            return None
        if given is not None and given.covariates is not None:
            return lost.as_drawn(given.covariates)
        return lost.drawn(draws, seed, self._later(at) if np.isfinite(at.people.known).any() else None)

    def _values(
        self,
        at: Prediction,
        draws: np.ndarray,
        seed: int,
        sampled: np.ndarray,
        moved: Moved | None,
        given: Conditional | None,
    ) -> np.ndarray:
        """Draws (M, N, D) of residuals about the mean, or about what is expected of them given other draws."""
        people = at.people
        noise = NoiseRequest.of(people.keys, at.mean.shape[1], seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
        left = at.scale if given is None else at.scale * given.share
        values = self._postprocess.draws(
            at.centre,
            at.unit * left,
            noise,
            sampled,
            self.joint.sampled,
            None if moved is None else moved.weighted(1.0 / left),
            people.baseline.dtype,
        )
        if given is not None:
            spread = at.spread.astype(np.float32)
            for block in slices(values.shape[2], AT_ONCE):
                values[:, :, block] += spread[:, block] * given.mean[:, :, block]
        rows = np.flatnonzero(np.isfinite(people.known).any(axis=1))
        if len(rows):
            some = at.take(rows)
            mean = some.mean if moved is None else some.mean + moves(moved, rows)
            if given is not None:
                mean = mean + some.scale * given.mean[:, rows]
            some = replace(some, mean=mean, scale=left[rows])
            z = self.joint.rotated(some.people.keys, draws, seed, sampled[:, rows])
            z = self.joint.condition(z, self._known(some))
            values[:, rows] = some.original(some.mean + some.scale * self.joint.finish(z))
        self._bound(values, at)
        return values

    def _bound(self, values: np.ndarray, at: Prediction) -> None:
        """Cut draws (M, N, D) to the limits of what was seen, in place, where they might pass them."""
        limits, ends = self.mean_change.limits(at.X), self.joint.ends
        far = (at.mean + at.scale * ends[0] < limits[0]) | (at.mean + at.scale * ends[1] > limits[1])
        far &= np.isnan(at.people.known)
        if not far.any():
            return
        low, high = ((at.location + at.unit * limit)[far] for limit in limits)
        values[:, far] = np.clip(values[:, far], low, high)

    def _known(self, at: Prediction) -> np.ndarray:
        """Standardised residuals of what is known of the follow-up, NaN elsewhere."""
        people = at.people
        known = (
            np.where(self.context.unplaced(people)[:, None], np.nan, people.known)
            if people.moved.any()
            else people.known
        )
        return np.asarray(((known - at.location) / at.unit - at.mean) / at.scale)

    def _later(self, at: Prediction) -> Later:
        return Later(self.joint.scores(self._known(at)), at.scale, self.joint.components.correlation())

    def _prediction(self, people: People, X: np.ndarray) -> Prediction:
        mean = X[:, : self.joint.components.width] + self.mean_change.change(X)
        return Prediction(people, X, mean, self._scale(people, X), *self.context.units(people, X))

    def _scale(self, people: People, X: np.ndarray) -> np.ndarray:
        """Spread (N, D) of the follow-up, scaled; with what a baseline would have said of the change, where a site was
        not seen, and beyond the longest gap as slopes that differ make it.
        """
        scale = self.spread.scale(X)
        if self.growth is not None:
            scale *= self.growth.factor(people.gap)[:, None]
        rows = np.flatnonzero(self.context.scaling.unknown(len(people), people.site))
        if len(rows):
            gap = X[rows, -1:]
            plain, both, by_gap = self._unsaid
            unsaid = np.maximum(plain + 2.0 * gap * both + gap**2 * by_gap, 0.0)
            scale[rows] = np.sqrt(scale[rows] ** 2 + unsaid)
        return scale

    @cached_property
    def _unsaid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variance (D,) of the change that baselines predict: without the gap, with it, and with its square."""
        linear, width = self.mean_change.map, self.joint.components.width
        W, within = linear.W[:width], self.context.within_visit
        by_gap = np.zeros_like(W) if linear.by_gap is None else linear.by_gap[:width]
        return (W * (within @ W)).sum(0), (W * (within @ by_gap)).sum(0), (by_gap * (within @ by_gap)).sum(0)

    def _inputs(self, people: People) -> np.ndarray:
        """What the parts are conditioned on, as `sample` made it where that came before."""
        whose, X = self.__dict__.pop("_handed", (None, None))
        return X if whose is not None and whose() is people else self.context.inputs(people)

    def __getstate__(self) -> dict[str, Any]:
        # Without what was packed or made on the way.
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    @cached_property
    def _postprocess(self) -> Postprocess:
        joint = self.joint
        return Postprocess(joint.components.width, joint.components.loading, joint.component_margins, joint.margins)

    def _lost(self, at: Prediction) -> LostCells | None:
        """Missing cells of baselines and covariates, None where nobody lacks one."""
        cells = self._cells(at)
        return cells if cells.gone.any() else None

    def _cells(self, at: Prediction) -> LostCells:
        return LostCells(self.context, *self._map_of_cells, at.people.keys, at.X, self.context.gone(at.people))

    @cached_property
    def _map_of_cells(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(D + C, D) what a cell of baseline or covariates changes in the scaled mean, and that by unit of the gap."""
        linear, cells = self.mean_change.map, len(self.context.missing.precision)
        by_gap = None if linear.by_gap is None else np.ascontiguousarray(linear.by_gap[:cells], dtype=np.float32)
        W = linear.W[:cells].copy()
        W[np.diag_indices(self.joint.components.width)] += 1.0
        return np.ascontiguousarray(W, dtype=np.float32), by_gap

    def ladder(self) -> pd.DataFrame:
        """What each rung earned on training people it was not fitted on; see `verdict.ladder_table`."""
        return ladder_table(self.record["ladder"])

    def verdict(self) -> pd.DataFrame:
        """What is used for each feature and why; see `verdict.verdict_table`."""
        return verdict_table(self.record["features"])

    def notes(self, people: People) -> list[str]:
        """What is to be told about people who are imputed, one sentence each."""
        return [] if self.growth is None else self.growth.notes(people.gap)

    def summary(self) -> list[str]:
        """What was chosen and why, one sentence each."""
        rungs = [f"{rung['rung']}: {rung['choice']}. {rung['reason']}" for rung in self.record["ladder"][1:]]
        return rungs + self.cautions()

    def cautions(self) -> list[str]:
        """What whoever uses its draws has to know of them, one sentence each."""
        # A model of an earlier release has none.
        return list(self.record.get("cautions", []))

    def state(self) -> dict[str, Any]:
        return {
            "context": self.context.state(),
            "mean_change": self.mean_change.state(),
            "spread": self.spread.state(),
            "joint": self.joint.state(),
            "record": self.record,
            **({} if self.growth is None else {"growth": self.growth.state()}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], options: DefaultOptions) -> DefaultModel:
        return cls(
            options,
            Context.from_state(state["context"]),
            MeanPredictor.from_state(state["mean_change"]),
            Spread.from_state(state["spread"]),
            Joint.from_state(state["joint"]),
            state["record"],
            None if state.get("growth") is None else Growth(**state["growth"]),
        )
