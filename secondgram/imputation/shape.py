"""The denoiser over the leading components of the residual: what is joint, skewed or has several modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion.noise import Purpose
from ..diffusion.reference import add_noise, training_target
from ..diffusion.schedule import Schedule
from ..ops.noise import normals
from ..training.tasks import pairs_only
from ..training.trainer import Run, Trainer, TrainingOptions
from .sampler import Sampler
from .scores import crps

VALIDATION_SHARE = 0.25
VALIDATION_DRAWS = 50
# Below this many pairs a network over the residual has nothing to learn from and nothing to be judged on.
FEWEST_PAIRS = 60


@dataclass(eq=False)
class Shape:
    """A trained denoiser of standardised components; drawn from in place of independent normals."""

    net: Denoiser
    schedule: Schedule

    @property
    def width(self) -> int:
        """K, how many leading components it draws."""
        return self.net.features

    def draw(
        self, conditions: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
    ) -> np.ndarray:
        """conditions (N, c) -> (M, N, K) float32."""
        sampler = Sampler(self.net, self.schedule, prediction="v")
        return sampler.sample(conditions, keys, draws, seed, solver, steps, keys=keys)

    def state(self) -> dict[str, Any]:
        return {
            "net": self.net.configuration,
            "schedule": [self.schedule.name, self.schedule.steps, self.schedule.zero_terminal],
            "weights": {name: value.numpy() for name, value in self.net.state_dict().items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Shape:
        net = Denoiser(**state["net"])
        net.load_state_dict({name: torch.from_numpy(value) for name, value in state["weights"].items()})
        return cls(net, Schedule.make(*state["schedule"]))


@dataclass(frozen=True)
class ShapeOptions:
    """components: K at most;  embedding and widths: size of the network;  solver, steps: how it is sampled."""

    components: int
    embedding: int
    widths: tuple[int, int, int]
    solver: str
    steps: int
    training: TrainingOptions


def fit_shape(
    components: np.ndarray,
    conditions: np.ndarray,
    keys: np.ndarray,
    unit: np.ndarray,
    options: ShapeOptions,
    *,
    seed: int,
    run: Run,
) -> tuple[Shape | None, dict[str, Any]]:
    """Train on three quarters of the units, and keep the network only if the rest says so.

    components (P, D), conditions (P, c), keys (P,), unit (P,). The network is kept where its CRPS on the held-back
    units is below that of independent normals by more than one standard error. Returns it, or None, and why.
    """
    record: dict[str, Any] = {"pairs": len(components), "kept": False}
    if len(components) < FEWEST_PAIRS:
        return None, record | {"reason": f"{len(components)} pairs, fewer than {FEWEST_PAIRS}"}
    width = min(options.components, components.shape[1])
    held = _held_back(unit, seed)
    schedule = Schedule.make("linear", 100, zero_terminal=True)
    net = Denoiser(
        width,
        conditions.shape[1],
        embedding=options.embedding,
        widths=options.widths,
        zero_output=True,
        generator=torch.Generator().manual_seed(seed),
    )
    target = torch.from_numpy(components[:, :width]).float()
    shown = torch.from_numpy(conditions).float()
    rows = pairs_only(target[~held], torch.ones_like(target[~held]), shown[~held])
    trainer = Trainer(
        net,
        schedule,
        rows,
        options.training,
        seed=seed,
        validate=_held_back_loss(target[held], shown[held], schedule, seed),
        run=run,
    )
    record["history"] = trainer.fit().as_json()
    shape = Shape(net, schedule)
    gain, error = _gain(shape, components[held, :width], conditions[held], keys[held], unit[held], options, seed)
    kept = gain > error
    verdict = "gains" if kept else "does not gain"
    reason = f"{verdict} more than one standard error on held-back pairs: CRPS {-gain:+.4f} +- {error:.4f}"
    return shape if kept else None, record | {"kept": kept, "gain": gain, "error": error, "reason": reason}


def _held_back(unit: np.ndarray, seed: int) -> np.ndarray:
    names, member = np.unique(unit, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    return order[member] < max(1, round(VALIDATION_SHARE * len(names)))


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


def _gain(
    shape: Shape,
    components: np.ndarray,
    conditions: np.ndarray,
    keys: np.ndarray,
    unit: np.ndarray,
    options: ShapeOptions,
    seed: int,
) -> tuple[float, float]:
    """Mean fall of the CRPS against independent normals, and its standard error over units."""
    draws = np.arange(VALIDATION_DRAWS)
    drawn = shape.draw(conditions, keys, draws, seed, options.solver, options.steps)
    plain = normals(keys, shape.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
    fall = (crps(plain, components) - crps(drawn, components)).mean(axis=1)
    member = np.unique(unit, return_inverse=True)[1]
    per_unit = np.bincount(member, fall) / np.bincount(member)
    return float(per_unit.mean()), float(per_unit.std(ddof=1) / np.sqrt(len(per_unit)))
