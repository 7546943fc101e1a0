"""Gradients of tasks from a denoiser on its fused kernels, against the same from its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secondgram.denoiser import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.errors import InputError
from secondgram.training.gradients import TaskGradients
from secondgram.training.tasks import TaskRows
from secondgram.training.trainer import Run, Trainer, TrainingOptions

pytest.importorskip("triton", reason="triton is not installed")
launches = pytest.importorskip("secondgram.kernels.launches")
engine = pytest.importorskip("secondgram.training.gradients.engine")

ENDS = [0, 2, 2, 5]
WEIGHTS = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)


class _Behind(nn.Module):
    """A denoiser between two layers of torch's own."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.before, self.net, self.after = nn.Linear(5, 5), _net(backend), nn.Linear(5, 5)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for layer in (self.before, self.after):
                layer.weight.copy_(torch.randn(5, 5, generator=generator))
                layer.bias.copy_(torch.randn(5, generator=generator))

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return self.after(self.net(self.before(x), t, c))  # type: ignore[no-any-return]


def _net(backend: str) -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    return Denoiser(5, 7, embedding=6, widths=(8, 6, 4), generator=generator, backend=backend)


def _batch(rows: int = 5, device: str = "cpu") -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    x, c, z = (torch.randn(rows, width, generator=generator).to(device) for width in (5, 7, 5))
    return x, torch.arange(1.0, rows + 1).to(device), c, z


def _take(found: TaskGradients, batch: tuple[Tensor, ...], ends: Any = ENDS) -> TaskGradients:
    x, t, c, z = batch
    with found.rows(ends):
        (found.net(x, t, c) - z).square().sum().backward()
    return found


def _agree(fused: TaskGradients, plain: TaskGradients) -> None:
    torch.testing.assert_close(fused.J, plain.J, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.gram(), plain.gram(), rtol=1e-4, atol=1e-5)
    w = WEIGHTS.to(fused.device)
    torch.testing.assert_close(fused.combine(w), plain.combine(w), rtol=1e-4, atol=1e-4)


@pytest.mark.interpreted
@pytest.mark.parametrize("mode", ["auto", pytest.param("jac", marks=pytest.mark.slow)])
def test_one_backward_pass_of_the_kernels_gives_the_jacobian(mode: str) -> None:
    fused, plain = TaskGradients(_net("triton"), 3, mode), TaskGradients(_net("reference"), 3, "jac")
    with launches.counted() as made:
        _take(fused, _batch())
    assert made.count("weights") == 1
    _agree(fused, _take(plain, _batch()))
    assert not fused.J[1].any()
    assert all(value.grad is None for value in fused.parameters)
    # A step later, a batch of other rows: nothing of the first is left.
    for found in (fused, plain):
        found.clear()
        _take(found, _batch(4), [0, 1, 3, 4])
    _agree(fused, plain)


@pytest.mark.interpreted
def test_parts_of_a_batch_add_up() -> None:
    fused, plain = TaskGradients(_net("triton"), 3), TaskGradients(_net("reference"), 3, "jac")
    for found in (fused, plain):
        _take(_take(found, _batch()), _batch(4), [0, 0, 3, 4])
    _agree(fused, plain)


@pytest.mark.interpreted
@pytest.mark.parametrize("frozen", [(), ("net.down1.ln.weight", "net.out.bias", "before.weight")])
def test_layers_around_a_fused_denoiser_are_taken_as_ever(frozen: tuple[str, ...]) -> None:
    found = []
    for backend in ("triton", "reference"):
        net = _Behind(backend)
        for name, value in net.named_parameters():
            value.requires_grad_(name not in frozen)
        found.append(_take(TaskGradients(net, 3, "auto" if backend == "triton" else "jac"), _batch()))
    _agree(*found)


@pytest.mark.interpreted
def test_parameters_may_move_after_the_engine_is_made() -> None:
    fused, plain = TaskGradients(_net("triton"), 3), TaskGradients(_net("reference"), 3, "jac")
    for value in fused.parameters:
        value.data = value.data.clone()
    _agree(_take(fused, _batch()), _take(plain, _batch()))


@pytest.mark.interpreted
@pytest.mark.parametrize("mode", ["layer", "ghost"])
def test_modes_without_a_jacobian_keep_the_reference(mode: str) -> None:
    found = TaskGradients(_net("auto"), 3, mode)
    with launches.counted() as made:
        _take(found, _batch())
    assert not made
    assert found._chosen == mode


@pytest.mark.interpreted
def test_a_jacobian_too_large_to_keep_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    found = TaskGradients(_net("auto"), 3)
    assert found._takes_fused()
    monkeypatch.setattr(engine, "LARGEST_JACOBIAN", 4 * 3 * found.size - 1)
    assert not found._takes_fused()
    assert TaskGradients(_net("auto"), 3, "jac")._takes_fused()


@pytest.mark.interpreted
def test_other_rows_than_the_tasks_have_are_refused() -> None:
    with pytest.raises(InputError, match="the denoiser was given 5 rows, the tasks have 4"):
        _take(TaskGradients(_net("triton"), 3), _batch(), [0, 1, 1, 4])


@pytest.mark.interpreted
def test_a_pass_without_a_way_back_is_refused() -> None:
    found = TaskGradients(_net("triton"), 3)
    with pytest.raises(InputError, match="no gradient reached"), found.rows(ENDS):
        found.net(*_batch()[:3])


def _trained(backend: str) -> tuple[list[float], Tensor]:
    generator = torch.Generator().manual_seed(5)
    visit, mask = torch.randn(6, 5, generator=generator), torch.ones(6, 5)
    rows = TaskRows(
        visit[:3], mask[:3], torch.randn(3, 7, generator=generator), visit, mask, torch.randn(6, 2, generator=generator)
    )
    net = _net(backend)
    options = TrainingOptions(epochs=2, batch=9, rate=1e-3, gradients="pcgrad", gate=1e9, clip=1e9)
    history = Trainer(net, Schedule.make(), rows, options, seed=1, run=Run(show=False)).fit()
    return [epoch.loss for epoch in history.epochs], torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.mark.interpreted
@pytest.mark.slow
def test_training_by_tasks_on_the_kernels_follows_the_reference() -> None:
    with launches.counted() as made:
        losses, weights = _trained("triton")
    assert made.count("weights") == 2
    wanted, plain = _trained("reference")
    assert losses == pytest.approx(wanted, rel=1e-4)
    # Adam's first steps are as long as the rate whatever the gradient, so a tiny one may turn.
    assert float((weights - plain).norm()) <= 1e-3 * float((weights - _flat(_net("reference"))).norm())


def _flat(net: nn.Module) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in net.parameters()])


@pytest.mark.gpu
def test_the_kernels_give_the_jacobian_on_the_device() -> None:
    fused, plain = (TaskGradients(_net(name).cuda(), 3, "jac") for name in ("auto", "reference"))
    with launches.counted() as made:
        _take(fused, _batch(device="cuda"), torch.tensor(ENDS, device="cuda"))
    assert made.count("weights") == 1
    _agree(fused, _take(plain, _batch(device="cuda"), torch.tensor(ENDS, device="cuda")))
