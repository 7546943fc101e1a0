"""Updates that wait for nothing, and a trainer that takes any method, logs what it saw and counts what it skipped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secondgram.denoiser import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.errors import InputError
from secondgram.training.gradients import (
    METHODS,
    gate_and_clip,
    gate_and_clip_on_device,
    step_on_device,
    write_gradients,
)
from secondgram.training.tasks import TASKS, TaskRows
from secondgram.training.trainer import GRADIENTS, History, Run, Trainer, TrainingOptions


def _rows(people: int = 12) -> TaskRows:
    generator = torch.Generator().manual_seed(0)

    def made(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, generator=generator)

    ones = torch.ones
    return TaskRows(made(8, 3), ones(8, 3), made(8, 5), made(people, 3), ones(people, 3), made(people, 2), (0.9, 0.4))


def _trainer(rows: TaskRows | None = None, run: Run | None = None, **change: Any) -> Trainer:
    net = Denoiser(3, 5, embedding=6, widths=(8, 6, 4), generator=torch.Generator().manual_seed(0))
    options = TrainingOptions(**{"epochs": 3, "batch": 10, "gate": 1e9, **change})
    return Trainer(net, Schedule.make("linear"), rows or _rows(), options, seed=0, run=run)


def _state(trainer: Trainer) -> Tensor:
    return torch.cat([value.flatten() for value in trainer.net.state_dict().values()])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_repeatably_and_logs_what_it_saw(method: str) -> None:
    first, again = _trainer(gradients=method), _trainer(gradients=method)
    before = _state(first).clone()
    history = first.fit()
    assert again.fit() == history
    assert torch.equal(_state(first), _state(again))
    assert not torch.equal(_state(first), before)
    for epoch in history.epochs:
        assert len(epoch.cosines) == 3
        assert all(-1 <= cosine <= 1 for cosine in epoch.cosines)
        assert len(epoch.norms) == len(TASKS)
        assert min(epoch.norms) > 0
        assert epoch.skipped == 0
    assert History.from_json(history.as_json()) == history


def test_the_sum_of_task_gradients_trains_as_the_plain_gradient() -> None:
    plain, summed = _trainer(gradients="gate"), _trainer(gradients="sum")
    plain.fit()
    summed.fit()
    torch.testing.assert_close(_state(plain), _state(summed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", GRADIENTS)
def test_a_loss_that_is_no_number_is_skipped_and_counted(method: str) -> None:
    rows = _rows()
    rows.self_visit[2, 1] = math.inf
    trainer = _trainer(rows, gradients=method)
    history = trainer.fit()
    assert [epoch.skipped for epoch in history.epochs] == [1] * 3
    assert trainer.updates == 3
    assert torch.isfinite(_state(trainer)).all()
    assert all(math.isfinite(value) for epoch in history.epochs for value in (*epoch.cosines, *epoch.norms))


def test_states_of_gradvac_go_on_with_its_targets(tmp_path: Path) -> None:
    whole = _trainer(gradients="gradvac", epochs=4)
    whole.fit()
    run = Run(state_folder=tmp_path / "state", state_every=0.0, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_finished", lambda self: len(self.history.epochs) >= 2)
        _trainer(run=run, gradients="gradvac", epochs=4).fit()
    resumed = _trainer(run=run, gradients="gradvac", epochs=4)
    resumed.fit()
    assert resumed.targets is not None
    assert resumed.targets.abs().sum() > 0
    assert torch.equal(_state(resumed), _state(whole))


def test_a_history_without_norms_is_read() -> None:
    old = _trainer().fit().as_json()
    for epoch in old["epochs"]:
        del epoch["norms"]
    assert [epoch.norms for epoch in History.from_json(old).epochs] == [[]] * 3


# -- updates on a device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [0.0, 1e-30, 0.2, 0.3, 0.6, 1.8, 1.8001, math.inf, math.nan])
@pytest.mark.parametrize("gate", [1.8, math.inf])
def test_gate_and_clip_are_the_same_on_a_device(norm: float, gate: float) -> None:
    factor, skip = gate_and_clip_on_device(torch.tensor(norm, dtype=torch.float64), gate, 0.3)
    expected = gate_and_clip(norm, gate, 0.3)
    assert bool(skip) == (expected == 0.0)
    assert float(factor) == pytest.approx(expected or 1.0, rel=1e-6)


def test_a_step_on_a_device_updates_clips_skips_and_counts() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    fused, plain = (torch.optim.Adam(net.parameters(), 1e-2, fused=True) for net in (one, other))
    counts = torch.zeros(2, dtype=torch.int64)
    for scale in (0.1, 5.0, math.nan, 0.5, math.inf, 0.01):
        g = torch.randn(8) * scale
        norm = torch.linalg.vector_norm(g)
        write_gradients(list(one.parameters()), g.clone())
        skip = step_on_device(fused, norm, 4.0, 0.3, counts)
        factor = gate_and_clip(float(norm), 4.0, 0.3)
        assert bool(skip) == (factor == 0.0)
        if factor:
            write_gradients(list(other.parameters()), g * factor)
            plain.step()
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-5, atol=1e-7)
    updates = int(fused.state[one.weight]["step"])
    assert counts.tolist() == [updates, 6 - updates]
    assert 0 < updates < 5


def test_an_optimiser_that_is_not_fused_is_refused() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(InputError, match="not fused"):
        step_on_device(torch.optim.Adam(net.parameters()), torch.ones(()), 1.0, 1.0)
