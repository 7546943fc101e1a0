"""The `paper` preset: the published method without the defects of its sampler (docs/design.md#published-sampler)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..cohort.scaling import CovariateEncoder, RangeScaling, SharedScaling
from ..cohort.table import Cohort
from ..denoiser import Denoiser
from ..diffusion.noise import NoiseRequest, Purpose
from ..diffusion.schedule import Schedule
from ..diffusion.solvers import solver_table
from ..errors import InputError
from ..sampling.postprocess import Postprocess
from ..sampling.sampler import STARTS, Sampler, common_precision
from ..training.tasks import SELF_NOISE_STEP, TaskRows, pairs_only
from ..training.trainer import Run, Trainer, TrainingOptions
from .folds import among
from .model_data import People, TrainingPairs
from .provenance import tree_digest

VALIDATION_SHARE = 0.2
# Draws made at a time when only their average is wanted.
MEAN_DRAWS_AT_ONCE = 4


@dataclass(frozen=True)
class PaperOptions:
    """What `SecondgramImputer(preset="paper", ...)` accepts; the defaults are the published ones.

    self_conditioning : learn from people with one scan too.
    pretraining : epochs on everybody's baselines, with no conditioning visit, before the training; 0 for none.
    start : `normal` as published, or `baseline` (see `Sampler.sample`).
    solver, steps : None for steps takes every step of the schedule.
    validate_every : published is 1; a validation draws every held-back pair through 99 steps, which costs more than the
        epoch it follows, and patience is counted in epochs either way.
    The others are those of training.
    """

    self_conditioning: bool = True
    pretraining: int = 0
    start: str = "normal"
    solver: str = "ddpm"
    steps: int | None = None
    embedding: int = 256
    widths: tuple[int, int, int] = (512, 256, 128)
    epochs: int = 1000
    batch: int = 256
    rate: float = 1e-3
    patience: int = 50
    validate_every: int = 5
    gradients: str = "gate"
    gate: float = 1.8
    clip: float = 0.3

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise InputError(f"unknown start {self.start!r}", mend=f"Use one of {', '.join(STARTS)}")
        if self.pretraining < 0:
            raise InputError(f"pretraining={self.pretraining}", mend="Use a number of epochs, 0 or more")
        object.__setattr__(self, "widths", tuple(self.widths))
        self.training()

    def training(self) -> TrainingOptions:
        return TrainingOptions.of(self)


@dataclass(eq=False)
class PaperModel:
    """A fitted `paper` model; draws and means in original units.

    before, after : ranges of the baseline and of the follow-up, each fitted on its own as published; where sites are
        declared, within site.
    """

    options: PaperOptions
    encoder: CovariateEncoder
    before: RangeScaling
    after: RangeScaling
    net: Denoiser
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        options: PaperOptions,
        *,
        seed: int,
        run: Run,
    ) -> PaperModel:
        """Train on all people, validating on the pairs of a fifth of the people who have one."""
        # Levels on two scanners would be one feature to it.
        first = cohort.with_baseline().on_one_site()
        pairs = TrainingPairs.of(first, every=False)
        model = cls(
            options,
            CovariateEncoder.fit(first.covariate_table, unit_range=True),
            *_ranges(first, pairs),
            None,  # type: ignore[arg-type]
        )
        held = among(pairs.unit, _held_back(pairs.unit, seed))
        train_person = ~among(first.units().astype(str), pairs.unit[held])
        rows = model._rows(pairs, ~held, first.take(train_person))
        width = rows.paired_target.shape[1]
        model.net = Denoiser(
            width,
            rows.paired_condition.shape[1],
            embedding=options.embedding,
            widths=options.widths,
            generator=torch.Generator().manual_seed(seed),
        )
        if options.pretraining:
            model._pretrain(first.take(train_person), seed, run.child("pretraining"))
            run = run.child("training")
        trainer = Trainer(
            model.net,
            Schedule.make("linear"),
            rows,
            options.training(),
            seed=seed,
            validate=model._validation(pairs, held, seed),
            run=run,
        )
        model.record["history"] = trainer.fit().as_json()
        return model

    @classmethod
    def around(cls, net: Denoiser, cohort: Cohort) -> PaperModel:
        """A model around published weights: ranges and covariates from a cohort of training people."""
        first = cohort.with_baseline().on_one_site()
        pairs = TrainingPairs.of(first, every=False)
        encoder = CovariateEncoder.fit(first.covariate_table, unit_range=True)
        if (net.features, net.conditions) != (len(cohort.features), encoder.width + len(cohort.features)):
            raise InputError(
                f"the checkpoint has {net.features} features and {net.conditions - net.features} covariates, "
                f"the cohort {len(cohort.features)} and {encoder.width}",
                file=cohort.source,
                mend="Name the features and covariates it was trained on, in its order",
            )
        options = PaperOptions(embedding=net.embedding, widths=net.widths)
        return cls(options, encoder, *_ranges(first, pairs), net)

    def _pretrain(self, everyone: Cohort, seed: int, run: Run) -> None:
        """Baselines as targets, told covariates and an empty visit: the middle of every range."""
        visit = self.before.apply(everyone.baseline, everyone.site)
        static = self.encoder.transform(everyone.covariate_table, everyone.source)
        condition = np.concatenate([static, np.zeros_like(visit)], axis=1)
        rows = pairs_only(_tensor(visit), _tensor(np.isfinite(visit)), _tensor(condition))
        options = replace(self.options.training(), epochs=self.options.pretraining)
        history = Trainer(self.net, Schedule.make("linear"), rows, options, seed=seed, run=run).fit()
        self.record["pretraining"] = history.as_json()

    def _rows(self, pairs: TrainingPairs, train: np.ndarray, everyone: Cohort) -> TaskRows:
        later = self.after.apply(pairs.later, pairs.people.site)[train]
        visit = self.before.apply(everyone.baseline, everyone.site)
        static = self.encoder.transform(everyone.covariate_table, everyone.source)
        if not self.options.self_conditioning:
            visit, static = visit[:0], static[:0]
        schedule = Schedule.make("linear")
        blur = schedule.signal[SELF_NOISE_STEP], schedule.noise_at(SELF_NOISE_STEP)
        return TaskRows(
            _tensor(later),
            _tensor(np.isfinite(later)),
            _tensor(self._conditions(pairs.people)[train]),
            _tensor(visit),
            _tensor(np.isfinite(visit)),
            _tensor(static),
            (float(blur[0]), float(blur[1])),
        )

    def _conditions(self, people: People) -> np.ndarray:
        """(N, C + D): covariates in [0, 1], baseline in [-1, 1]; a missing cell is the middle of its range."""
        baseline = self.before.apply(people.baseline, people.site)
        baseline = np.where(np.isfinite(baseline), baseline, 0.0)
        return np.concatenate([self.encoder.transform(people.table, people.source), baseline], axis=1)

    def _validation(self, pairs: TrainingPairs, held: np.ndarray, seed: int) -> Callable[[Denoiser], float] | None:
        """Mean over features of the Pearson r of one draw with the follow-up, on the held-back pairs."""
        if held.sum() < 3:
            return None
        conditions, keys = self._conditions(pairs.people)[held], pairs.people.keys[held]
        truth = self.after.apply(pairs.later, pairs.people.site)[held]

        precision = Sampler(self.net, "linear").resolve_precision().precision

        def score(net: Denoiser) -> float:
            drawn = Sampler(net, "linear", precision=precision).sample(conditions, keys, 1, seed, keys=keys)[0]
            return mean_correlation(np.clip(drawn, -1.0, 1.0), truth)

        return score

    def mean(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Average of the draws (N, D)."""
        total = np.zeros(people.baseline.shape)
        for place in range(0, len(draws), MEAN_DRAWS_AT_ONCE):
            some = draws[place : place + MEAN_DRAWS_AT_ONCE]
            total += self.draw(people, some, seed, solver, steps).sum(axis=0, dtype=float)
        # An average of equal values is not always that value.
        values = np.where(np.isfinite(people.known), people.known, total / len(draws))
        return values.astype(people.baseline.dtype)

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """Draws (M, N, D), M the numbers of the draws."""
        return self.finish(people, draws, seed, self.sample(people, draws, seed, solver, steps))

    def sample(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        """The network's draws of the scaled follow-up: (M, N, D) float32."""
        return Sampler(self.net, "linear").sample(
            self._conditions(people),
            people.keys,
            draws,
            seed,
            solver or self.options.solver,
            steps or self.options.steps,
            start=self.options.start,
            keys=people.keys,
        )

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """Draws (M, N, D) in original units from what `sample` gave."""
        noise = NoiseRequest.of(people.keys, self.net.features, seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
        units = self.after.original_scale(len(people), people.site)
        postprocess = Postprocess(self.net.features, clip=1.0)
        return people.with_known(postprocess.draws(*units, noise, sampled, dtype=people.baseline.dtype))

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that features are scaled within."""
        return () if self.before.within is None else self.before.within.sites

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it learned."""
        return tree_digest(self.state())

    def resolved_precision(self) -> str:
        """The precision that `auto` resolves to on this processor."""
        sampler = Sampler(self.net, "linear").resolve_precision(self.options.solver, self.options.steps)
        return common_precision([sampler.precision])

    def check(self, solver: str | None, steps: int | None) -> None:
        """Raise `InputError` for a solver or a number of steps that it cannot be sampled with."""
        solver_table(Schedule.make("linear"), solver or self.options.solver, steps or self.options.steps)

    def notes(self, people: People) -> list[str]:
        """What is to be told about people who are imputed: nothing."""
        return []

    def summary(self) -> list[str]:
        """How training went, one sentence each."""
        history = self.record.get("history")
        if history is None:
            return ["weights as they were imported"]
        epochs, best = history["epochs"], history["best"]
        kept = "the last" if best < 0 else f"epoch {best + 1}, where one draw had r {epochs[best]['score']:.3f}"
        return [
            f"{len(epochs)} epochs; kept {kept}",
            f"{sum(epoch['skipped'] for epoch in epochs)} updates skipped by the gate",
        ]

    def cautions(self) -> list[str]:
        """What whoever uses its draws has to know of them: nothing."""
        return []

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state(),
            "before": self.before.state(),
            "after": self.after.state(),
            "net": self.net.configuration,
            "weights": {name: value.detach().numpy() for name, value in self.net.state_dict().items()},
            "record": self.record,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], options: PaperOptions) -> PaperModel:
        net = Denoiser(**state["net"])
        net.load_state_dict({name: torch.from_numpy(value) for name, value in state["weights"].items()})
        return cls(
            options,
            CovariateEncoder.from_state(state["encoder"]),
            RangeScaling.from_state(state["before"]),
            RangeScaling.from_state(state["after"]),
            net,
            state["record"],
        )


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(np.isfinite(values), values, 0.0)).float()


def _ranges(first: Cohort, pairs: TrainingPairs) -> tuple[RangeScaling, RangeScaling]:
    """Ranges of the baseline and of the follow-up of training people."""
    never = ~np.isfinite(pairs.later).any(axis=0)
    if never.any():
        raise InputError(
            "was measured at no follow-up, and preset paper learns each feature's range from those",
            file=first.source,
            column=first.features[int(np.flatnonzero(never)[0])],
            mend="Leave the feature out, or use preset default",
        )
    within = None if first.site is None else SharedScaling.fit(first.baseline, first.site)
    return (
        RangeScaling.fit(first.baseline, first.site, within),
        RangeScaling.fit(pairs.later, pairs.people.site, within),
    )


def _held_back(unit: np.ndarray, seed: int) -> np.ndarray:
    names = np.unique(unit)
    return np.random.default_rng([seed, 1]).permutation(names)[: max(1, round(VALIDATION_SHARE * len(names)))]


def mean_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Mean over features of the Pearson r between two (N, D) arrays, over the cells both have; NaN counts as 0."""
    seen = np.isfinite(left) & np.isfinite(right)
    count = np.maximum(seen.sum(axis=0), 1)
    a, b = (np.where(seen, values, 0.0) for values in (left, right))
    a, b = (np.where(seen, values - values.sum(axis=0) / count, 0.0) for values in (a, b))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    r = np.divide((a * b).sum(axis=0), scale, out=np.zeros(len(scale)), where=scale > 0)
    return float(r.mean())
