"""Rung 4, the shape: denoisers of the leading components, for joint, skewed and multimodal distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from ...denoiser import Denoiser
from ...diffusion.reference import add_noise, training_target
from ...diffusion.schedule import Schedule
from ...sampling.packed import learned
from ...sampling.quantile_map import SHARES, QuantileMap, quantile_crps
from ...sampling.sampler import Sampler
from ...training.tasks import pairs_only
from ...training.trainer import Run, Trainer, TrainingOptions
from ..folds import standard_error, standard_errors, unit_folds, unit_sums
from ..scores import crps

VALIDATION_DRAWS = 100
# Below this many pairs a network over the residual has nothing to learn from and nothing to be judged on.
FEWEST_PAIRS = 60
# The chance that any component is let in where none gains.
FALSE_GAIN = 0.05


@dataclass(eq=False)
class Shape:
    """Trained denoisers of the K leading standardised components; draws take turns between them.

    kept : (k,) positions of the components drawn from them; the others are better off, or as well, without.
    """

    nets: list[Denoiser]
    schedule: Schedule
    kept: np.ndarray

    def draw(
        self, conditions: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
    ) -> np.ndarray:
        """conditions (N, c) -> the kept components (M, N, k) float32."""
        numbers = np.asarray(draws)
        drawn = np.empty((len(numbers), len(conditions), len(self.kept)), dtype=np.float32)
        for turn, net in enumerate(self.nets):
            mine = numbers % len(self.nets) == turn
            if mine.any():
                made = Sampler(learned(net), self.schedule, prediction="v").sample(
                    conditions, keys, numbers[mine], seed, solver, steps, keys=keys
                )
                drawn[mine] = made[:, :, self.kept]
        return drawn

    def samplers(self) -> list[Sampler]:
        """One for each network."""
        return [Sampler(net, self.schedule, prediction="v") for net in self.nets]

    def state(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "net": self.nets[0].configuration,
            "schedule": [self.schedule.name, self.schedule.steps, self.schedule.zero_terminal],
            "weights": [{name: value.numpy() for name, value in net.state_dict().items()} for net in self.nets],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shape:
        nets = []
        for weights in state["weights"]:
            net = Denoiser(**state["net"])
            net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
            nets.append(net)
        return cls(nets, Schedule.make(*state["schedule"]), state["kept"])


@dataclass(frozen=True)
class ShapeOptions:
    """components : K at most;  networks : how many;  schedule : of the noise;  embedding, widths : size of a network;
    solver, steps : how it is sampled.
    """

    components: int
    networks: int
    schedule: str
    embedding: int
    widths: tuple[int, int, int]
    solver: str
    steps: int
    training: TrainingOptions


def fit_shape(
    components: np.ndarray,
    size: np.ndarray,
    conditions: np.ndarray,
    unit: np.ndarray,
    plain: QuantileMap | None,
    options: ShapeOptions,
    *,
    seed: int,
    run: Run,
) -> tuple[Shape | None, dict[str, Any]]:
    """Train networks, each without a part of the units, and keep those components that these parts say gain by it.

    components (P, D), size (D,) their standard deviations, conditions (P, c), unit (P,). plain : distribution of the
    components without the denoiser, None for normal. A component is kept where its CRPS on held-back units is below
    that of `plain` by more standard errors than chance gives any of K components (Bonferroni). Returns the shape, or
    None where no component is, and why.
    """
    record: dict[str, Any] = {"pairs": len(components), "kept": False}
    if len(components) < FEWEST_PAIRS:
        return None, record | {"reason": f"{len(components)} pairs, fewer than {FEWEST_PAIRS}"}
    width = min(options.components, components.shape[1])
    components = components[:, :width]
    part = unit_folds(unit, seed, options.networks)
    shape = Shape([], Schedule.make(options.schedule, 100, zero_terminal=True), np.arange(width))
    histories, falls, before = [], [], []
    for k in range(part.max() + 1):
        held = part == k
        child = run.child(f"network-{k}")
        net, history = _train(components, conditions, held, options, shape.schedule, seed + k, child)
        fall, start = _fall(net, shape.schedule, components[held], conditions[held], unit[held], plain, options, seed)
        shape.nets.append(net)
        histories.append(history)
        falls.append(fall)
        before.append(start)
    gain = np.concatenate(falls)
    error = standard_errors(gain)
    shape.kept = np.flatnonzero(gain.mean(axis=0) > ndtri(1.0 - FALSE_GAIN / width) * error)
    record |= {"histories": histories, "components": shape.kept.tolist()}
    record |= {"component_gain": gain.mean(axis=0).tolist(), "component_error": error.tolist()}
    if not len(shape.kept):
        return None, record | {"reason": f"none of {width} components gains clearly on held-back pairs"}
    # In the units of the residual: a gain in a component of little variance is a small one.
    total = (gain * size[:width])[:, shape.kept].sum(axis=1) / (
        np.concatenate(before).mean(axis=0) * size[:width]
    ).sum()
    reason = (
        f"{len(shape.kept)} of {width} components gain on held-back pairs: CRPS of the {width} "
        f"{-100 * total.mean():+.1f} % +- {100 * standard_error(total):.1f}"
    )
    return shape, record | {
        "kept": True,
        "gain": float(total.mean()),
        "error": standard_error(total),
        "reason": reason,
    }


def _train(
    components: np.ndarray,
    conditions: np.ndarray,
    held: np.ndarray,
    options: ShapeOptions,
    schedule: Schedule,
    seed: int,
    run: Run,
) -> tuple[Denoiser, dict[str, Any]]:
    """A denoiser trained without the held-back pairs, stopped by its loss on them; and how that went."""
    net = Denoiser(
        components.shape[1],
        conditions.shape[1],
        embedding=options.embedding,
        widths=options.widths,
        zero_output=True,
        generator=torch.Generator().manual_seed(seed),
    )
    target, condition = torch.from_numpy(components).float(), torch.from_numpy(conditions).float()
    rows = pairs_only(target[~held], torch.ones_like(target[~held]), condition[~held])
    validate = _held_back_loss(target[held], condition[held], schedule, seed)
    history = Trainer(net, schedule, rows, options.training, seed=seed, validate=validate, run=run).fit()
    return net, history.as_json()


def _held_back_loss(target: Tensor, conditions: Tensor, schedule: Schedule, seed: int) -> Callable[[Denoiser], float]:
    """Minus the loss at noise levels and noise that are the same in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    repeats = 8
    target = target.repeat(repeats, 1)
    conditions = conditions.repeat(repeats, 1)
    t = (torch.arange(len(target)) % 32 + 0.5) / 32 * schedule.last
    signal = torch.from_numpy(schedule.signal_at(t.numpy())).float()
    noise = torch.from_numpy(schedule.noise_at(t.numpy())).float()
    z = torch.randn(target.shape, generator=generator)
    noisy, wanted = add_noise(target, z, signal, noise), training_target(target, z, signal, noise, "v")
    return lambda net: -float((net(noisy, t, conditions) - wanted).square().mean())


def _fall(
    net: Denoiser,
    schedule: Schedule,
    components: np.ndarray,
    conditions: np.ndarray,
    unit: np.ndarray,
    plain: QuantileMap | None,
    options: ShapeOptions,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Fall of the CRPS against the plain distribution, and what it fell from, both (units, K)."""
    width = components.shape[1]
    rows = np.arange(len(components), dtype=np.uint64)
    drawn = Shape([net], schedule, np.arange(width)).draw(
        conditions, rows, np.arange(VALIDATION_DRAWS), seed, options.solver, options.steps
    )
    z = np.repeat(SHARES[:, None], width, axis=1)
    if plain is not None:
        z = QuantileMap(plain.start[:, :width], plain.end[:, :width]).forward(z)
    before = quantile_crps(z, components)
    count = unit_sums(np.ones(len(unit)), unit)[:, None]
    return unit_sums(before - crps(drawn, components), unit) / count, unit_sums(before, unit) / count
