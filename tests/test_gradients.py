"""Gradients of tasks: exact Gram matrices, and PCGrad in Gram space against PCGrad on the gradients themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secondgram.errors import InputError
from secondgram.training.gradients import (
    METHODS,
    aggregate,
    combine,
    cosine_matrix,
    gate_and_clip,
    gram,
    task_gradients,
)

TASK_COUNTS = [1, 2, 3, 8]


def _gradients(tasks: int, seed: int = 0, parameters: int = 40) -> Tensor:
    """Rows that conflict about as often as they agree."""
    return torch.randn(tasks, parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _orders(tasks: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tasks, generator=generator) for _ in range(tasks)])


def _pcgrad_on_gradients(J: Tensor, orders: Tensor) -> Tensor:
    """Yu et al. 2020, algorithm 1, on vectors of all parameters: project, one conflict after the other, then add."""
    total = torch.zeros_like(J[0])
    for task in range(len(J)):
        g = J[task].clone()
        for other in orders[task].tolist():
            if other == task:
                continue
            overlap = float(g @ J[other])
            if overlap < 0:
                g -= overlap / float(J[other] @ J[other]) * J[other]
        total += g
    return total


def _network() -> tuple[torch.nn.Module, list[Tensor], list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    losses = [net(x[place : place + 3]).square().sum() for place in (0, 3, 6)]
    return net, losses, list(net.parameters())


def test_task_gradients_are_those_of_separate_backward_passes() -> None:
    net, losses, parameters = _network()
    J = task_gradients(losses, parameters, retain_graph=True)
    assert J.shape == (3, sum(parameter.numel() for parameter in parameters))
    for row, loss in zip(J, losses, strict=True):
        net.zero_grad()
        loss.backward(retain_graph=True)
        separate = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
        torch.testing.assert_close(row, separate, rtol=0, atol=0)


def test_a_parameter_that_a_task_does_not_touch_has_gradient_zero() -> None:
    used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    J = task_gradients([used.sum(), (used * unused).sum()], [used, unused])
    torch.testing.assert_close(J, torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))


def test_the_graph_is_kept_only_on_request() -> None:
    _, losses, parameters = _network()
    kept = task_gradients(losses, parameters, retain_graph=True)
    torch.testing.assert_close(task_gradients(losses, parameters), kept)
    with pytest.raises(RuntimeError, match="second time"):
        task_gradients(losses, parameters)


def test_no_task_is_refused() -> None:
    with pytest.raises(InputError, match="no task"):
        task_gradients([], [torch.ones(1, requires_grad=True)])


def test_gram_is_exact_for_nearly_opposite_float32_gradients() -> None:
    first = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    J = torch.stack([first, -first * (1 + 1e-4)])
    K = gram(J)
    assert K.dtype == torch.float64
    exact = float((J[0].double() + J[1].double()).norm())
    assert math.sqrt(float(K.sum())) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    "J", [torch.zeros(3), torch.zeros(0, 3), torch.ones(2, 2, dtype=torch.int64)], ids=["vector", "empty", "whole"]
)
def test_gram_refuses_what_is_no_matrix_of_gradients(J: Tensor) -> None:
    with pytest.raises(InputError):
        gram(J)


@pytest.mark.parametrize("tasks", TASK_COUNTS)
@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_equals_projection_of_the_gradients(tasks: int, seed: int) -> None:
    J, orders = _gradients(tasks, seed), _orders(tasks, seed)
    got = combine(J, aggregate(gram(J), "pcgrad", order=orders))
    torch.testing.assert_close(got, _pcgrad_on_gradients(J, orders), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tasks", TASK_COUNTS)
def test_pcgrad_equals_projection_where_every_pair_conflicts(tasks: int) -> None:
    # Differences from their mean have only negative cosines.
    J = _gradients(tasks + 1, 3, parameters=tasks + 1)
    J = 10 * torch.eye(tasks + 1, dtype=torch.float64) + 0.1 * J
    J = (J - J.mean(dim=0))[:tasks]
    orders = _orders(tasks, 2)
    if tasks > 1:
        assert (gram(J).tril(-1) <= 0).all()
    got = combine(J, aggregate(gram(J), "pcgrad", order=orders))
    torch.testing.assert_close(got, _pcgrad_on_gradients(J, orders), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tasks", TASK_COUNTS)
def test_one_order_for_all_tasks_is_that_order_in_every_row(tasks: int) -> None:
    K, order = gram(_gradients(tasks)), _orders(tasks)[0]
    assert torch.equal(
        aggregate(K, "pcgrad", order=order), aggregate(K, "pcgrad", order=order.expand(tasks, tasks).clone())
    )
    assert torch.equal(aggregate(K, "pcgrad"), aggregate(K, "pcgrad", order=torch.arange(tasks)))


def test_the_order_of_projection_matters() -> None:
    J = _gradients(3, 1, parameters=3)
    J[2] = -J[0] - 0.5 * J[1]
    K = gram(J)
    assert not torch.allclose(
        aggregate(K, "pcgrad", order=torch.tensor([0, 1, 2])), aggregate(K, "pcgrad", order=torch.tensor([2, 1, 0]))
    )


def test_two_conflicting_tasks_have_a_closed_form() -> None:
    K = torch.tensor([[4.0, -1.5], [-1.5, 9.0]], dtype=torch.float64)
    expected = torch.tensor([1 + 1.5 / 4, 1 + 1.5 / 9], dtype=torch.float64)
    torch.testing.assert_close(aggregate(K, "pcgrad"), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("tasks", TASK_COUNTS)
def test_tasks_without_conflict_keep_weights_of_exactly_one(tasks: int) -> None:
    w = aggregate(gram(_gradients(tasks).abs()), "pcgrad", order=_orders(tasks))
    assert torch.equal(w, torch.ones(tasks, dtype=torch.float64))


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_renumbering_the_tasks_renumbers_the_weights(tasks: int) -> None:
    J, orders = _gradients(tasks, 4), _orders(tasks, 4)
    new = torch.randperm(tasks, generator=torch.Generator().manual_seed(9))
    place = torch.argsort(new)
    renumbered = aggregate(gram(J[new]), "pcgrad", order=place[orders[new]])
    torch.testing.assert_close(renumbered, aggregate(gram(J), "pcgrad", order=orders)[new], rtol=1e-12, atol=1e-12)


def test_an_almost_dead_conflicting_task_gives_no_infinity() -> None:
    for dtype in (torch.float32, torch.float64):
        J = torch.tensor([[1.0, 0.0], [-1e-23, 1e-24]], dtype=dtype)
        w = aggregate(gram(J), "pcgrad")
        g = combine(J.double(), w)
        assert torch.isfinite(g).all()
        # The first gradient loses its part along the second, whatever the second's size.
        torch.testing.assert_close(
            g, _pcgrad_on_gradients(J.double(), _orders(2) * 0 + torch.arange(2)), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tasks", TASK_COUNTS)
def test_tasks_without_gradient_change_nothing(method: str, tasks: int) -> None:
    J = _gradients(tasks)
    dead = torch.cat([J, torch.zeros(2, J.shape[1], dtype=J.dtype)])
    w = aggregate(gram(dead), method)
    assert torch.isfinite(w).all()
    # A mean counts every task.
    scale = tasks / (tasks + 2) if method in ("mean", "upgrad", "cagrad", "aligned-mtl") else 1.0
    expected = scale * combine(J, aggregate(gram(J), method))
    # CAGrad's solver states 1e-6.
    tolerance = 1e-6 if method == "cagrad" else 1e-9
    assert float((combine(dead, w) - expected).norm()) <= tolerance * float(expected.norm())
    nothing = torch.zeros(tasks, 5)
    assert not combine(nothing, aggregate(gram(nothing), method)).any()


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_every_row_may_have_its_own_scale(tasks: int, seed: int) -> None:
    scale = torch.logspace(-12, 12, tasks, dtype=torch.float64)[_orders(tasks, seed)[0]]
    J, orders = _gradients(tasks, seed) * scale[:, None], _orders(tasks, seed)
    got, expected = combine(J, aggregate(gram(J), "pcgrad", order=orders)), _pcgrad_on_gradients(J, orders)
    assert float((got - expected).norm() / expected.norm()) < 1e-12


@pytest.mark.parametrize("tasks", [1, 3])
def test_sum_and_mean(tasks: int) -> None:
    K = gram(_gradients(tasks))
    assert aggregate(K).tolist() == [1.0] * tasks
    assert aggregate(K, "mean").tolist() == [1.0 / tasks] * tasks


def test_a_generator_decides_the_order_and_repeats_it() -> None:
    K = gram(_gradients(8, 2, parameters=9))

    def weights(seed: int) -> Tensor:
        return aggregate(K, "pcgrad", generator=torch.Generator().manual_seed(seed))

    assert torch.equal(weights(0), weights(0))
    assert torch.equal(weights(0), aggregate(K, "pcgrad", order=_orders(8, 0)))
    assert any(not torch.equal(weights(0), weights(seed)) for seed in range(1, 5))


@pytest.mark.parametrize(
    "order",
    [
        torch.tensor([0, 1]),
        torch.tensor([0, 1, 1]),
        torch.tensor([1, 2, 3]),
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([[0, 1, 2], [0, 1, 2]]),
        torch.tensor([[0, 1, 2], [0, 1, 2], [0, 0, 2]]),
        torch.tensor(0),
    ],
    ids=["short", "repeated", "shifted", "real", "two rows", "one bad row", "number"],
)
def test_an_order_that_is_no_permutation_is_refused(order: Tensor) -> None:
    with pytest.raises(InputError, match="no permutation of 3 tasks"):
        aggregate(gram(_gradients(3)), "pcgrad", order=order)


@pytest.mark.parametrize(
    ("K", "method", "message"),
    [
        (torch.ones(2, 3), "sum", "shape"),
        (torch.ones(0, 0), "sum", "shape"),
        (torch.ones(3), "sum", "shape"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "sum", "no finite numbers"),
        (torch.tensor([[math.inf]]), "pcgrad", "no finite numbers"),
        (torch.ones(2, 2, dtype=torch.int64), "pcgrad", "no finite numbers"),
        (torch.eye(2), "graddrop", "unknown method 'graddrop'"),
    ],
)
def test_a_gram_matrix_that_cannot_be_used_is_refused(K: Tensor, method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregate(K, method)


def test_combine_is_the_weighted_sum_in_the_dtype_of_the_gradients() -> None:
    J, w = _gradients(3), torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(combine(J, w), 0.5 * J[0] - 2.0 * J[1] + 3.0 * J[2])
    assert combine(J.float(), w).dtype == torch.float32
    # The norm follows from the Gram matrix alone.
    assert float(combine(J, w).norm()) == pytest.approx(math.sqrt(float(w @ gram(J) @ w)), rel=1e-12)
    for wrong in (w[:2], w.long(), w.to("meta")):
        with pytest.raises(InputError, match="for 3 tasks"):
            combine(J, wrong)


def test_cosines_are_those_of_the_gradients_and_zero_for_a_dead_task() -> None:
    J = _gradients(3)
    J[1] = 0.0
    cosines = cosine_matrix(gram(J))
    expected = float(J[0] @ J[2] / J[0].norm() / J[2].norm())
    assert float(cosines[0, 2]) == pytest.approx(expected, abs=1e-14)
    assert float(cosines[0, 0]) == pytest.approx(1.0)
    assert not cosines[1].any()
    assert not cosines[:, 1].any()


@pytest.mark.parametrize(
    ("norm", "factor"),
    [
        (0.0, 1.0),
        (0.2, 1.0),
        (0.3, 1.0),
        (0.6, 0.5),
        (1.8, 0.3 / 1.8),
        (1.8001, 0.0),
        (math.inf, 0.0),
        (math.nan, 0.0),
    ],
)
def test_gate_and_clip(norm: float, factor: float) -> None:
    assert gate_and_clip(norm, gate=1.8, clip=0.3) == pytest.approx(factor, abs=1e-15)


def test_an_open_gate_still_skips_what_is_not_finite() -> None:
    assert gate_and_clip(math.inf, gate=math.inf, clip=1.0) == 0.0
    assert gate_and_clip(math.nan, gate=math.inf, clip=1.0) == 0.0
    assert gate_and_clip(1e30, gate=math.inf, clip=1.0) == pytest.approx(1e-30)
