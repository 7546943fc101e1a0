"""Gradients of tasks from one backward pass against one backward pass a row, summed by explicit loops in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from secondgram.denoiser import Denoiser
from secondgram.errors import InputError
from secondgram.ops.registry import BackendUnavailableError
from secondgram.training.gradients import MODES, TaskGradients, aggregate, gram, task_gradients, task_jacobian
from secondgram.training.gradients.engine import cheapest

EACH = MODES[1:]
# Tasks of equal, unequal, one and no rows.
ENDS = {
    1: [0, 9],
    2: [0, 1, 9],
    3: [0, 4, 4, 9],
    8: [0, 0, 2, 3, 3, 3, 7, 8, 9],
    64: [0] * 30 + list(range(0, 35)),
}
# Explicit loops over more take long; one backward pass a task holds these, too.
FEW = (1, 2, 3, 8)


def _batch(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    x, c, z = (torch.randn(rows, width, generator=generator, dtype=dtype) for width in (5, 7, 5))
    t = torch.randint(1, 100, (rows,), generator=generator).to(dtype)
    return x, t, c, z


def _denoiser(dtype: torch.dtype = torch.float64) -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    return Denoiser(5, 7, embedding=6, widths=(8, 6, 4), generator=generator).to(dtype)


def _row_losses(net: Denoiser, batch: tuple[Tensor, ...]) -> Tensor:
    x, t, c, z = batch
    return (net(x, t, c) - z).square().sum(dim=1)


def _taken(net: nn.Module, loss: Callable[[], Tensor], ends: Any, mode: str) -> TaskGradients:
    found = TaskGradients(net, len(ends) - 1, mode)
    with found.rows(ends):
        loss().backward()
    return found


def _oracle(net: nn.Module, rows: Tensor, ends: list[int]) -> Tensor:
    """J by one backward pass a row, rows added up one after the other."""
    J = torch.zeros(len(ends) - 1, sum(value.numel() for value in net.parameters()), dtype=torch.float64)
    for task, (start, stop) in enumerate(itertools.pairwise(ends)):
        for row in range(start, stop):
            parts = torch.autograd.grad(
                rows[row], list(net.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            J[task] += torch.cat([part.reshape(-1) for part in parts]).double()
    return J


def _products(J: Tensor) -> Tensor:
    K = torch.zeros(len(J), len(J), dtype=torch.float64)
    for i in range(len(J)):
        for j in range(len(J)):
            K[i, j] = sum((J[i] * J[j]).tolist())
    return K


def _weights(tasks: int) -> Tensor:
    return torch.randn(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def _agrees(found: TaskGradients, J: Tensor, tolerance: float) -> None:
    w, sizes = _weights(len(J)), J.norm(dim=1)
    K, scale = _products(J), float(sizes.max())
    assert float((found.J.double() - J).norm()) <= tolerance * float(J.norm())
    # Relative to the sizes of the two gradients of an entry, and of those that make up the sum.
    assert ((found.gram() - K).abs() <= tolerance * (sizes[:, None] * sizes + 1e-3 * scale**2)).all()
    assert float((found.combine(w).double() - w @ J).norm()) <= tolerance * float((w.abs() * sizes).sum())
    assert found.gram().dtype == torch.float64


@pytest.mark.parametrize("mode", EACH)
@pytest.mark.parametrize("tasks", [*FEW, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_one_pass_agrees_with_explicit_loops(tasks: int, mode: str, dtype: torch.dtype, tolerance: float) -> None:
    ends = ENDS[tasks]
    exact, batch = _denoiser(), _batch(ends[-1])
    net = _denoiser(dtype)
    found = _taken(net, lambda: _row_losses(net, tuple(each.to(dtype) for each in batch)).sum(), ends, mode)
    _agrees(found, _oracle(exact, _row_losses(exact, batch), ends), tolerance)
    assert all(value.grad is None for value in net.parameters())


@pytest.mark.parametrize("tasks", ENDS)
def test_one_pass_agrees_with_one_backward_pass_a_task(tasks: int) -> None:
    ends, net = ENDS[tasks], _denoiser()
    rows = _row_losses(net, _batch(ends[-1]))
    J = task_gradients([rows[a:b].sum() for a, b in itertools.pairwise(ends)], list(net.parameters()))
    found = _taken(net, lambda: _row_losses(net, _batch(ends[-1])).sum(), ends, "jac")
    torch.testing.assert_close(found.J, J, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.gram(), gram(J), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", EACH)
def test_parts_of_a_batch_add_up_before_they_are_multiplied(mode: str) -> None:
    net, batch = _denoiser(), _batch(9)
    whole = _taken(net, lambda: _row_losses(net, batch).sum(), [0, 4, 4, 9], mode)
    parts = TaskGradients(net, 3, mode)
    for rows, ends in (([0, 1, 4, 5, 6], [0, 2, 2, 5]), ([2, 3, 7, 8], [0, 2, 2, 4])):
        with parts.rows(ends):
            _row_losses(net, tuple(each[rows] for each in batch)).sum().backward()
    _agrees(parts, whole.J, 1e-12)


@pytest.mark.parametrize("mode", EACH)
def test_a_new_step_forgets_the_last_one(mode: str) -> None:
    net = _denoiser()
    found = TaskGradients(net, 2, mode)
    for rows in (6, 3):
        found.clear()
        with found.rows([0, 2, rows]):
            _row_losses(net, _batch(rows)).sum().backward()
    _agrees(found, _oracle(net, _row_losses(net, _batch(3)), [0, 2, 3]), 1e-12)


class _Odd(nn.Module):
    """A layer used twice, one without bias, one never used, a norm of two axes, and rows of several positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain = nn.Linear(3, 4), nn.Linear(4, 4, bias=False)
        self.norm, self.bare = nn.LayerNorm((2, 4)), nn.LayerNorm(4, elementwise_affine=False)
        self.unused, self.last = nn.Linear(2, 2), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(self.first(x)))  # (B, 2, 4)
        h = self.bare(self.plain(torch.relu(self.plain(h))))
        return self.last(h).flatten(1).sin()


@pytest.mark.parametrize("mode", EACH)
@pytest.mark.parametrize("stale", [False, True])
def test_layers_used_twice_never_or_on_several_positions(mode: str, stale: bool) -> None:
    torch.manual_seed(0)
    net, x, ends = _Odd().double(), torch.randn(7, 2, 3, dtype=torch.float64), [0, 3, 3, 7]
    found = TaskGradients(net, 3, mode)
    if stale:
        with found.rows([0, 1, 2, 3]):
            (net(x[:3]).sum() + net.unused(x[:3, 0, :2]).sum()).backward()
        assert found.J.abs().sum() > 0
        found.clear()
    with found.rows(ends):
        net(x).square().sum().backward()
    _agrees(found, _oracle(net, net(x).square().sum(dim=1), ends), 1e-12)
    J = task_jacobian(net, lambda out: out.square().sum(dim=1), x, offsets=ends, mode=mode)
    torch.testing.assert_close(J, found.J)


@pytest.mark.parametrize("mode", EACH)
def test_parameters_that_are_not_trained_are_left_out(mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 2)).double()
    for name in ("0.weight", "1.bias", "3.bias"):
        net.get_parameter(name).requires_grad_(False)
    x = torch.randn(6, 3, dtype=torch.float64)
    trained = [value for value in net.parameters() if value.requires_grad]
    rows = net(x).square().sum(dim=1)
    J = task_gradients([rows[:2].sum(), rows[2:].sum()], trained)
    _agrees(_taken(net, lambda: net(x).square().sum(), [0, 2, 6], mode), J, 1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", EACH)
def test_activation_checkpointing_changes_nothing(mode: str, reentrant: bool) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.SiLU(), nn.Linear(5, 4))
    net = nn.ModuleList([nn.Linear(3, 4), inner, nn.Linear(4, 2)]).double()
    x, ends = torch.randn(6, 3, dtype=torch.float64), [0, 1, 4, 6]

    def forward(recompute: bool) -> Tensor:
        h = net[0](x).tanh()
        h = checkpoint(net[1], h, use_reentrant=reentrant) if recompute else net[1](h)
        return net[2](h).square().sum(dim=1)

    J = _oracle(net, forward(False), ends)
    _agrees(_taken(net, lambda: forward(True).sum(), ends, mode), J, 1e-12)


def test_large_weights_are_taken_some_outputs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = _denoiser()
    whole = _taken(net, lambda: _row_losses(net, _batch(9)).sum(), [0, 4, 4, 9], "layer")
    monkeypatch.setattr("secondgram.training.gradients.engine.SLICES", 40)
    _agrees(whole, _oracle(net, _row_losses(net, _batch(9)), [0, 4, 4, 9]), 1e-12)
    assert whole._buffer.numel() <= 3 * 8 * 6


def test_the_same_input_gives_the_same_bits() -> None:
    net = _denoiser(torch.float32)
    batch = tuple(each.float() for each in _batch(9))
    for mode in EACH:
        first = _taken(net, lambda: _row_losses(net, batch).sum(), [0, 4, 4, 9], mode)
        w = aggregate(first.gram(), "pcgrad")
        for _ in range(20):
            again = _taken(net, lambda: _row_losses(net, batch).sum(), [0, 4, 4, 9], mode)
            assert torch.equal(again.gram(), first.gram())
            assert torch.equal(again.combine(w), first.combine(w))


def test_the_cheapest_mode_follows_its_rule() -> None:
    widths = [(512, 769), (256, 512), (769, 769)]
    assert cheapest(256, 3, widths) == "jac"
    assert cheapest(2048, 3, widths) == "jac"
    assert cheapest(16, 3, widths) == "ghost"
    assert cheapest(2048, 1000, widths) == "layer"
    net = _denoiser()
    small = _taken(net, lambda: _row_losses(net, _batch(2)).sum(), [0, 1, 2], "auto")
    _agrees(small, _oracle(net, _row_losses(net, _batch(2)), [0, 1, 2]), 1e-12)


# -- what is refused --------------------------------------------------------------------------------------------------


class _Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) * self.scale


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(3), r"the layer 1 \(BatchNorm1d\) mixes rows"),
        (nn.MultiheadAttention(3, 1), r"the layer 1 \(MultiheadAttention\) mixes rows"),
        (nn.GRU(3, 3), r"the layer 1 \(GRU\) mixes rows"),
        (_Centred(), "the layer 1 mixes rows"),
        (_Scaled(), r"the parameter 1\.scale is used by mul"),
        (nn.Conv1d(3, 3, 1), r"the parameter 1\.(weight|bias) is used by conv1d"),
    ],
    ids=["batch norm", "attention", "recurrent", "centred", "other parameter", "convolution"],
)
def test_a_layer_that_does_not_fit_is_refused_by_name(layer: nn.Module, message: str) -> None:
    x = torch.randn(6, 3, 1) if isinstance(layer, nn.Conv1d) else torch.randn(6, 3)
    net = nn.Sequential(nn.Identity() if x.ndim == 3 else nn.Linear(3, 3), layer)
    with pytest.raises(InputError, match=message):
        task_jacobian(net, lambda out: out.flatten(1).sum(dim=1), x, offsets=[0, 2, 6])


def test_a_layer_that_is_given_other_rows_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    found = TaskGradients(net, 2)
    with pytest.raises(InputError, match="1 was given 5 rows"), found.rows([0, 2, 6]):
        net(torch.randn(5, 3)).sum().backward()
    with pytest.raises(InputError, match="no gradient reached a layer"), found.rows([0, 2, 6]):
        pass
    with pytest.raises(InputError, match="was given no rows"), found.rows([0, 1, 3]):
        net(torch.randn(3)).sum().backward()


@pytest.mark.parametrize(
    "offsets",
    [[0, 6], [0, 4, 2], [1, 2, 6], torch.tensor([0.0, 2.0, 6.0]), torch.zeros(3, 1, dtype=torch.int64)],
    ids=["short", "falling", "late", "real", "matrix"],
)
def test_offsets_that_cannot_be_used_are_refused(offsets: Any) -> None:
    net = nn.Linear(3, 1)
    with pytest.raises(InputError, match="offsets"), TaskGradients(net, 2).rows(offsets):
        net(torch.randn(6, 3)).sum().backward()


def test_engines_that_cannot_be_built_are_refused() -> None:
    net = nn.Linear(3, 1)
    with pytest.raises(InputError, match="0 tasks"):
        TaskGradients(net, 0)
    with pytest.raises(InputError, match="unknown mode 'jacobian'"):
        TaskGradients(net, 1, "jacobian")
    with pytest.raises(InputError, match="no trained parameter"):
        TaskGradients(nn.SiLU(), 1)
    with pytest.raises(InputError, match="several devices or dtypes"):
        TaskGradients(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double()), 1)
    with pytest.raises(BackendUnavailableError, match="no kernel for"):
        TaskGradients(net.double(), 1, backend="triton")
    found = TaskGradients(net, 2, "layer")
    with pytest.raises(InputError, match="weights"):
        found.combine(torch.ones(3, dtype=torch.float64))
