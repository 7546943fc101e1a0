"""A training step on the CPU: rows, noise, forward, gradients of three tasks, PCGrad, clip and Adam.

Ours is an epoch of one batch of the trainer. Peers take the same rows through the same losses: one backward pass a
task, TorchJD, and, as a floor without any handling of tasks, eager torch and torch.compile. The gradients of ours are
checked against one backward pass a task. `test_gradients.py` has the gradients alone, at the paper's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interleaved import interleaved
from torch import Tensor

from secondgram import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.training.gradients import TaskGradients, aggregate, task_gradients, write_gradients
from secondgram.training.tasks import TASKS, Batch, TaskRows
from secondgram.training.trainer import Trainer, TrainingOptions

# features, covariates, embedding, widths, rows of a batch, rounds
SIZES: dict[str, Any] = {
    "small": (32, 6, 64, (64, 32, 16), 96, 15),
    "published": (769, 14, 256, (512, 256, 128), 256, 31),
}
GATE = 1e-5
CLIP = 0.3


class Case:
    """A network, one batch of rows with a fifth of pairs, and an optimiser."""

    def __init__(self, name: str, gradients: str = "pcgrad") -> None:
        features, covariates, embedding, widths, rows, self.rounds = SIZES[name]
        generator = torch.Generator().manual_seed(0)
        self.net = Denoiser(
            features, covariates + features, embedding=embedding, widths=widths, generator=generator
        ).train()
        self.parameters = list(self.net.parameters())
        pairs = rows // 5

        def made(count: int, width: int) -> Tensor:
            return torch.randn(count, width, generator=generator)

        target, visit = made(pairs, features), made(rows - pairs, features)
        data = TaskRows(
            *(target, torch.ones_like(target), made(pairs, covariates + features)),
            *(visit, torch.ones_like(visit), made(rows - pairs, covariates)),
            (0.99, 0.12),
        )
        options = TrainingOptions(gradients=gradients, batch=rows, clip=CLIP)
        self.trainer = Trainer(self.net, Schedule.make("linear"), data, options, seed=0)
        self.optimiser = torch.optim.Adam(self.parameters, 1e-3, fused=True)

    def losses(self, seed: int | None = None) -> list[Tensor]:
        """The three losses of a new batch and noise."""
        generator = torch.Generator()
        generator.manual_seed(seed) if seed is not None else generator.seed()
        rows = self.trainer.rows
        order, clean = rows.plan(generator)
        return self.losses_of(rows.batch(order, clean, generator), generator)

    def losses_of(self, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """The same of a batch that is there."""
        return self.trainer._losses(self.trainer._draw(batch, generator), None)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step()


def gate(case: Case) -> float:
    """Largest relative distance of a task's gradient, by one backward pass of all, from its own backward pass."""
    engine = TaskGradients(case.net, len(TASKS))
    J = task_gradients(case.losses(1), case.parameters)
    generator = torch.Generator().manual_seed(1)
    rows = case.trainer.rows
    order, clean = rows.plan(generator)
    batch = rows.batch(order, clean, generator)
    engine.clear()
    with engine.rows(batch.offsets):
        torch.stack(case.losses_of(batch, generator)).sum().backward()
    engine.gram()
    worst = 0.0
    for task in range(len(TASKS)):
        only = torch.zeros(len(TASKS), dtype=torch.float64)
        only[task] = 1.0
        worst = max(worst, float((engine.combine(only) - J[task]).norm() / J[task].norm()))
    return worst


def gradients_alone(case: Case) -> dict[str, Callable[[], None]]:
    """From one fixed batch to the combined gradient (P,): ours first, then its peers."""
    engine, order = TaskGradients(case.net, len(TASKS)), torch.arange(len(TASKS))
    generator = torch.Generator()
    rows = case.trainer.rows
    batch = rows.batch(*rows.plan(generator), generator)
    loss = lambda: case.losses_of(batch, generator.manual_seed(2))  # noqa: E731

    def one_pass() -> None:
        engine.clear()
        with engine.rows(batch.offsets):
            torch.stack(loss()).sum().backward()
        engine.combine(aggregate(engine.gram(), "pcgrad", order=order))

    def backwards() -> None:
        J = task_gradients(loss(), case.parameters)
        wide = J.double()
        aggregate(wide @ wide.T, "pcgrad", order=order).float() @ J

    def plain_pass() -> None:
        torch.autograd.grad(torch.stack(loss()).sum(), case.parameters)

    return {"ours": one_pass, "T backwards, PCGrad": backwards, "one plain backward pass": plain_pass}


@pytest.mark.parametrize("name", ["small"])
def test_task_gradients(benchmark: Any, name: str, threads: int) -> None:
    case = Case(name)
    distance = gate(case)
    assert distance <= GATE
    ways = gradients_alone(case)
    interleaved(
        benchmark,
        ways.pop("ours"),
        ways,
        rounds=case.rounds,
        group=f"gradients of three tasks, {name}",
        threads=threads,
        distance=distance,
    )


def separate(case: Case) -> Callable[[], None]:
    """One backward pass a task, PCGrad on their Gram matrix."""
    order = torch.arange(len(TASKS))

    def step() -> None:
        J = task_gradients(case.losses(), case.parameters)
        wide = J.double()
        write_gradients(case.parameters, aggregate(wide @ wide.T, "pcgrad", order=order).float() @ J)
        case.update()

    return step


def torchjd(case: Case) -> Callable[[], None]:
    from torchjd import autojac
    from torchjd.aggregation import PCGrad

    method = PCGrad()

    def step() -> None:
        autojac.backward(case.losses())
        autojac.jac_to_grad(case.parameters, method)
        case.update()
        case.optimiser.zero_grad()

    return step


def plain(case: Case) -> Callable[[], None]:
    """The sum of the losses, no handling of tasks."""

    def step() -> None:
        case.optimiser.zero_grad()
        torch.stack(case.losses()).sum().backward()
        case.update()

    return step


def compiled(case: Case) -> Callable[[], None]:
    case.trainer.net = torch.compile(case.net)  # type: ignore[assignment]
    return plain(case)


@pytest.mark.parametrize("name", SIZES)
def test_training_step(benchmark: Any, name: str, threads: int) -> None:
    case = Case(name)
    distance = gate(case)
    assert distance <= GATE
    makers = {
        "T backwards, PCGrad": separate,
        "TorchJD, PCGrad": torchjd,
        "eager torch, no handling of tasks": plain,
        "torch.compile, no handling of tasks": compiled,
    }
    peers: dict[str, Callable[[], None]] = {}
    for label, make in makers.items():
        try:
            peers[label] = make(Case(name))
        except ModuleNotFoundError as error:
            print(f"{label}: left out, {error.name} is not installed")
    interleaved(
        benchmark,
        lambda: case.trainer._epoch(0),
        peers,
        rounds=case.rounds,
        group=f"training step, {name}",
        threads=threads,
        distance=distance,
        rows=len(case.trainer.rows),
    )
