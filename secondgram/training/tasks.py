"""The rows a denoiser learns from: pairs, and people with one scan as their own condition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TASKS = ("paired", "self_clean", "self_noised")
# The paper noises the conditioning visit of a self row to this step of its schedule (sigma about 0.12).
SELF_NOISE_STEP = 6


@dataclass(eq=False)
class Batch:
    """target, mask (B, D), condition (B, C + D'), task (B,) positions in `TASKS`; a masked-out cell carries no loss."""

    target: Tensor
    condition: Tensor
    mask: Tensor
    task: Tensor

    @property
    def offsets(self) -> Tensor:
        """(T + 1,): the rows of task t are offsets[t] .. offsets[t + 1]."""
        return torch.searchsorted(self.task, torch.arange(len(TASKS) + 1, device=self.task.device))

    def to(self, device: torch.device) -> Batch:
        """The batch on another device; copied without waiting."""
        moved = (each.to(device, non_blocking=True) for each in (self.target, self.condition, self.mask, self.task))
        return Batch(*moved)


@dataclass(eq=False)
class TaskRows:
    """Training rows in float32: P pairs and N people who are their own condition (N may be 0).

    paired_target (P, D), paired_mask (P, D), paired_condition (P, C + D'): follow-up, where it is known, and
        [covariates, baseline].
    self_visit (N, D), self_mask (N, D), self_static (N, C): baseline, where it is known, and covariates.
    self_noise : (signal, noise) of the noised conditioning visit.
    """

    paired_target: Tensor
    paired_mask: Tensor
    paired_condition: Tensor
    self_visit: Tensor
    self_mask: Tensor
    self_static: Tensor
    self_noise: tuple[float, float] = (1.0, 0.0)

    def __len__(self) -> int:
        return len(self.self_visit) + len(self.paired_target)

    def plan(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One epoch: every row once in a random order, and a fair coin per row (clean or noised self row)."""
        order = torch.randperm(len(self), generator=generator)
        return order, torch.rand(len(self), generator=generator) < 0.5

    def batch(self, rows: Tensor, clean: Tensor, generator: torch.Generator) -> Batch:
        """The rows at these positions (self rows first, then pairs), sorted by task."""
        people = len(self.self_visit)
        task = torch.where(rows >= people, 0, torch.where(clean[rows], 1, 2))
        rows = rows[torch.argsort(task, stable=True)]
        task = task.sort(stable=True).values
        pair, own = rows[task == 0] - people, rows[task > 0]
        visit = self.self_visit[own]
        signal, noise = self.self_noise
        blurred = signal * visit + noise * torch.randn(visit.shape, generator=generator)
        condition = torch.where((task[task > 0] == 1)[:, None], visit, blurred)
        own_condition = torch.cat([self.self_static[own], condition], dim=1) if len(own) else self.paired_condition[:0]
        return Batch(
            torch.cat([self.paired_target[pair], visit]),
            torch.cat([self.paired_condition[pair], own_condition]),
            torch.cat([self.paired_mask[pair], self.self_mask[own]]),
            task,
        )


def pairs_only(target: Tensor, mask: Tensor, condition: Tensor) -> TaskRows:
    """Rows without self-conditioning: target and mask (P, D), condition (P, conditions)."""
    return TaskRows(target, mask, condition, target[:0], mask[:0], condition[:0])


def task_losses(error: Tensor, batch: Batch) -> list[Tensor]:
    """L_t = squared error over the rows of task t / (B D), B the whole batch: their sum is the plain mean."""
    per_row = (error.square() * batch.mask).sum(dim=1) / error.numel()
    # Of one shape whatever the tasks' sizes, so that a step can be recorded once and repeated.
    return [torch.where(batch.task == task, per_row, 0.0).sum() for task in range(len(TASKS))]
