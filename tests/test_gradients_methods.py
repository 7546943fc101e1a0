"""Methods that turn a Gram matrix into weights: conditions of optimality, TorchJD, and a table of what each keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secondgram.errors import InputError
from secondgram.training.gradients import METHODS, aggregate, combine, cosine_matrix, gram, quadratic

SIZES = [(1, 5), (2, 5), (3, 40), (3, 3), (8, 40), (8, 4), (64, 80), (64, 30)]
# What the solvers of each method state; the others are closed forms.
EXACT, STATED = 1e-11, {"mgda": 1e-6, "cagrad": 1e-6, "nash-mtl": 1e-8, "upgrad": 1e-8}


def _jacobian(tasks: int, parameters: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * tasks + parameters + seed)
    return torch.randn(tasks, parameters, generator=generator, dtype=torch.float64).to(dtype)


def _combined(J: Tensor, method: str, **more: Any) -> Tensor:
    return combine(J.double(), aggregate(gram(J), method, **more))


def _close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert torch.isfinite(got).all()
    assert float((got - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-300)


# -- conditions of optimality -----------------------------------------------------------------------------------------


def _degenerate() -> dict[str, Tensor]:
    a, b, c = _jacobian(3, 6)
    return {
        "opposite": torch.stack([a, -a]),
        "opposite and another": torch.stack([a, -a, b]),
        "twice the same": torch.stack([a, a, b]),
        "nearly opposite": torch.stack([a, -a * (1 + 1e-4) + 1e-6 * b]),
        "sum to zero": torch.stack([a, b, c, -a - b - c]),
        "a dead task": torch.stack([a, 0 * a, b - a]),
        "all dead": torch.zeros(3, 4, dtype=torch.float64),
        "very different sizes": torch.stack([1e-12 * a, b - a, 1e12 * (c - a)]),
    }


CASES = {f"{tasks} x {parameters}": _jacobian(tasks, parameters) for tasks, parameters in SIZES} | _degenerate()
each_case = pytest.mark.parametrize("J", CASES.values(), ids=CASES.keys())


@each_case
def test_upgrad_projects_every_gradient_onto_the_dual_cone(J: Tensor) -> None:
    alive = gram(J).diagonal() > 0
    C = cosine_matrix(gram(J)) + torch.diag((~alive).double())
    A = quadratic.cone_projections(C)
    moved, products = A - torch.eye(len(C), dtype=C.dtype), A @ C
    assert float(moved.min()) >= 0
    assert float(products.min()) >= -quadratic.ACCURACY
    assert float((moved * products).abs().max()) <= quadratic.ACCURACY
    units = J[alive] / J[alive].norm(dim=1, keepdim=True)
    assert float((A[alive][:, alive] @ units @ units.T).min() if alive.any() else 0) >= -quadratic.ACCURACY
    assert torch.isfinite(aggregate(gram(J), "upgrad")).all()


@each_case
def test_mgda_finds_the_shortest_convex_combination(J: Tensor) -> None:
    K = gram(J)
    alive = K.diagonal() > 0
    w = aggregate(K, "mgda")
    if not alive.any():
        return
    assert float(w.min()) >= 0
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-12)
    # No task's product with it is below its own square, to the accuracy of the smallest gradient.
    slack = (K @ w)[alive].min() - w @ K @ w
    assert float(slack) >= -STATED["mgda"] * float(K.diagonal()[alive].min())


@each_case
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrad_raises_the_worst_improvement_within_its_ball(J: Tensor, c: float) -> None:
    K, tasks = gram(J), len(J)
    w = aggregate(K, "cagrad", c=c)
    assert torch.isfinite(w).all()
    d, mean = w @ J, J.mean(dim=0)
    radius = c * float(mean.norm())
    largest = float(K.diagonal().max())
    assert float((d - mean).norm()) <= radius * (1 + 1e-6) + 1e-6 * largest**0.5
    more = w - 1 / tasks
    alive = K.diagonal() > 0
    if float(more.sum()) <= 0 or not alive.any():
        return
    # The dual: no direction within the ball improves the worst task by more than this.
    point = (more / more.sum()) @ J
    bound = float(point @ mean) + radius * float(point.norm())
    assert float((J @ d)[alive].min()) >= bound - STATED["cagrad"] * largest


@pytest.mark.parametrize("J", [CASES[name] for name in CASES if name[0].isdigit() and name not in ("8 x 4", "64 x 30")])
def test_nash_bargains_every_gain_to_its_weight(J: Tensor) -> None:
    w = aggregate(gram(J), "nash-mtl")
    gains = w * (gram(J) @ w)
    _close(gains, gains.mean().expand_as(gains), STATED["nash-mtl"])
    assert float(w.min()) > 0
    assert float(w.sum()) == pytest.approx(len(J))


@each_case
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_finite_whatever_the_gradients(J: Tensor, method: str) -> None:
    w = aggregate(gram(J), method)
    assert w.shape == (len(J),)
    assert w.dtype == torch.float64
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 64])
def test_rotations_find_the_eigenvalues(tasks: int) -> None:
    K = gram(_jacobian(tasks, max(1, tasks - 1)))
    values, vectors = quadratic.jacobi(K)
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, K, rtol=1e-12, atol=1e-12 * float(K.max()))
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(tasks, dtype=K.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(values.sort().values, torch.linalg.eigvalsh(K), rtol=1e-10, atol=1e-12 * float(K.max()))


# -- TorchJD ----------------------------------------------------------------------------------------------------------


def _peer(name: str, tasks: int) -> Callable[[Tensor], Tensor]:
    peers = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
    try:
        if name == "upgrad":
            from torchjd.linalg import QuadprogProjector

            # Without its regularisation, which moves the answer.
            return peers.UPGrad(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-15))  # type: ignore[no-any-return]
        made = {
            "pcgrad": lambda: peers.PCGrad(),
            "gradvac": lambda: peers.GradVac(beta=0.01, eps=0.0),
            "mgda": lambda: peers.MGDA(epsilon=1e-9, max_iters=20_000),
            "imtl-g": lambda: peers.IMTLG(),
            "aligned-mtl": lambda: peers.AlignedMTL(),
            "config": lambda: peers.ConFIG(),
            "cagrad": lambda: peers.CAGrad(c=0.5),
            "nash-mtl": lambda: peers.NashMTL(tasks, max_norm=0.0, update_weights_every=1, optim_niter=60),
        }
        return made[name]()  # type: ignore[no-any-return]
    except ImportError as error:
        pytest.skip(f"torchjd lacks a solver: {error}")


@pytest.mark.parametrize("tasks", [2, 3, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_pcgrad_is_that_of_torchjd_in_the_same_order(tasks: int, seed: int) -> None:
    J, peer = _jacobian(tasks, tasks + 2, seed), _peer("pcgrad", tasks)
    torch.manual_seed(seed)
    expected = peer(J)
    torch.manual_seed(seed)
    order = torch.stack([torch.randperm(tasks) for _ in range(tasks)])
    _close(_combined(J, "pcgrad", order=order), expected, 1e-12)


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_gradvac_is_that_of_torchjd_over_several_steps(tasks: int) -> None:
    peer, targets = _peer("gradvac", tasks), torch.zeros(tasks, tasks, dtype=torch.float64)
    for step in range(5):
        J = _jacobian(tasks, 6, step)
        torch.manual_seed(step)
        expected = peer(J)
        torch.manual_seed(step)
        order = torch.tensor([[(j + (j >= i)) for j in torch.randperm(tasks - 1).tolist()] + [i] for i in range(tasks)])
        _close(_combined(J, "gradvac", order=order, targets=targets, beta=0.01), expected, 1e-9)
    assert targets.abs().sum() > 0


# Relative: closed forms, a dual method's solver, and a conic solver whose objective is good to 1e-8.
AGREEMENT = {"imtl-g": 1e-9, "aligned-mtl": 1e-9, "config": 1e-9, "upgrad": 1e-7, "cagrad": 1e-3}


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("method", AGREEMENT)
def test_methods_agree_with_torchjd(method: str, tasks: int) -> None:
    J = _jacobian(tasks, 2 * tasks + 1, 3)
    _close(_combined(J, method), _peer(method, tasks)(J), AGREEMENT[method])


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_mgda_is_as_near_to_torchjd_as_its_solver_allows(tasks: int) -> None:
    J = _jacobian(tasks, 2 * tasks + 1, 3)
    ours, theirs = _combined(J, "mgda"), _peer("mgda", tasks)(J)
    # The shortest point g of a convex set: |h - g|^2 <= |h|^2 - |g|^2 for every h of it.
    left = float(theirs @ theirs - ours @ ours)
    assert left >= -1e-12
    assert float((theirs - ours).square().sum()) <= left + 1e-12
    assert left <= 1e-3 * float(ours @ ours)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
def test_nash_has_the_direction_of_torchjd(tasks: int, seed: int) -> None:
    J = _jacobian(tasks, 9, seed)
    ours, theirs = _combined(J, "nash-mtl"), _peer("nash-mtl", tasks)(J).double()
    _close(ours / ours.norm(), theirs / theirs.norm(), 1e-6)


def test_pcgrad_holds_where_torchjd_fails() -> None:
    peer, order = _peer("pcgrad", 2), torch.tensor([0, 1])
    tiny = torch.tensor([[1.0, 0.0], [-1e-23, 1e-24]])
    assert not torch.isfinite(peer(tiny)).all()
    # In exact arithmetic: u0 - (u0 . v) v along the second, and the second less its part along the first.
    v = tiny[1].double() / tiny[1].double().norm()
    expected = tiny[0].double() - (tiny[0].double() @ v) * v + torch.tensor([0.0, 1e-24], dtype=torch.float64)
    _close(_combined(tiny, "pcgrad", order=order), expected, 1e-6)
    a, b = _jacobian(2, 64)
    large = torch.stack([a, b - a])
    large = (1000 * large / large.norm(dim=1, keepdim=True)).half()
    # Their products overflow, and a conflict with an infinite gradient is none.
    assert not torch.allclose(peer(large).double(), peer(large.double()), rtol=0.05, atol=0)
    _close(_combined(large, "pcgrad", order=order), peer(large.double()), 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_holds_on_tiny_and_on_half_precision_rows(method: str) -> None:
    tiny = torch.tensor([[1.0, 0.0], [-1e-23, 1e-24]])
    assert torch.isfinite(_combined(tiny, method)).all()
    large = 1000 * torch.nn.functional.normalize(_jacobian(3, 64), dim=1)
    rounded = large.half()
    assert torch.isfinite(_combined(rounded, method)).all()
    _close(_combined(rounded, method), _combined(large, method), 0.02)


# -- what each method keeps -------------------------------------------------------------------------------------------

# A column holds where a method is named; elsewhere it is false, or true for some gradients only.
HOLDS: dict[str, tuple[str, ...]] = {
    # One task's gradient is left as it is. CAGrad goes (1 + c) times as far.
    "one task": tuple(method for method in METHODS if method != "cagrad"),
    # c J gives c g, from 1e-12 to 1e12. (Nash's bargain alone would not: here its weights sum to T.)
    "scale": METHODS,
    # A new size of one task leaves the direction of g.
    "row scale": ("imtl-g", "nash-mtl", "config"),
    # Renumbered tasks give renumbered weights.
    "permutation": METHODS,
    # g conflicts with no task.
    "no conflict": ("mgda", "upgrad", "nash-mtl", "config"),
    # Gradients that do not conflict give their plain sum, to the bit.
    "plain sum": ("sum", "pcgrad", "gradvac"),
    # ... or their mean.
    "plain mean": ("mean", "upgrad"),
    # Where one task comes twice, both have the same weight.
    "duplicates": METHODS,
    # A task and its opposite give nothing.
    "opposites": METHODS,
    # A dead task changes nothing but the number of tasks in a mean.
    "dead tasks": METHODS,
}
seeds = st.integers(0, 10**6)
few = settings(max_examples=12, deadline=None, derandomize=True)


def _tolerance(method: str) -> float:
    return max(EXACT, 100 * STATED.get(method, 0.0))


def _holding(name: str) -> Any:
    return pytest.mark.parametrize("method", HOLDS[name])


@_holding("one task")
@given(seed=seeds, exponent=st.integers(-12, 12))
@few
def test_one_task_is_left_as_it_is(method: str, seed: int, exponent: int) -> None:
    J = _jacobian(1, 5, seed) * 10.0**exponent
    _close(_combined(J, method), J[0], 1e-12)


def test_one_task_is_more_than_itself_for_cagrad() -> None:
    J = _jacobian(1, 5)
    _close(_combined(J, "cagrad", c=0.5), 1.5 * J[0], STATED["cagrad"])


@_holding("scale")
@given(seed=seeds, exponent=st.integers(-12, 12), tasks=st.sampled_from([1, 2, 3, 8]))
@few
def test_a_scale_of_all_gradients_is_that_of_the_update(method: str, seed: int, exponent: int, tasks: int) -> None:
    J, scale = _jacobian(tasks, 10, seed), 10.0**exponent
    _close(_combined(scale * J, method), scale * _combined(J, method), _tolerance(method))


@_holding("row scale")
@given(seed=seeds, exponents=st.lists(st.integers(-12, 12), min_size=3, max_size=3))
@few
def test_a_scale_of_one_task_leaves_the_direction(method: str, seed: int, exponents: list[int]) -> None:
    J = _jacobian(3, 10, seed)
    scaled = J * torch.tensor([10.0**exponent for exponent in exponents], dtype=torch.float64)[:, None]
    one, other = _combined(J, method), _combined(scaled, method)
    _close(other / other.norm(), one / one.norm(), 1e-7)


@_holding("permutation")
@given(seed=seeds, tasks=st.sampled_from([2, 3, 8]))
@few
def test_renumbered_tasks_give_renumbered_weights(method: str, seed: int, tasks: int) -> None:
    J, generator = _jacobian(tasks, 10, seed), torch.Generator().manual_seed(seed)
    new, order = torch.randperm(tasks, generator=generator), torch.randperm(tasks, generator=generator)
    place = torch.argsort(new)
    w = aggregate(gram(J), method, order=order)
    renumbered = aggregate(gram(J[new]), method, order=place[order])
    _close(renumbered, w[new], _tolerance(method))


@_holding("no conflict")
@given(seed=seeds, tasks=st.sampled_from([2, 3, 8]))
@few
def test_the_update_conflicts_with_no_task(method: str, seed: int, tasks: int) -> None:
    J = _jacobian(tasks, 10, seed)
    g = _combined(J, method)
    assert float((J @ g / J.norm(dim=1)).min()) >= -_tolerance(method) * float(J.norm())


@_holding("plain sum")
@given(seed=seeds, tasks=st.sampled_from([1, 2, 3, 8, 64]))
@few
def test_gradients_without_conflict_are_summed_to_the_bit(method: str, seed: int, tasks: int) -> None:
    J = _jacobian(tasks, 10, seed).abs().float()
    w = aggregate(gram(J), method, order=torch.randperm(tasks, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(w, torch.ones(tasks, dtype=torch.float64))
    assert torch.equal(combine(J, w), combine(J, aggregate(gram(J), "sum")))


@_holding("plain mean")
@given(seed=seeds, tasks=st.sampled_from([1, 2, 3, 8]))
@few
def test_gradients_without_conflict_are_averaged(method: str, seed: int, tasks: int) -> None:
    J = _jacobian(tasks, 10, seed).abs()
    _close(_combined(J, method), J.mean(dim=0), 1e-7)


@_holding("duplicates")
@given(seed=seeds)
@few
def test_a_task_that_comes_twice_has_its_direction(method: str, seed: int) -> None:
    a = _jacobian(1, 10, seed)
    g = _combined(torch.cat([a, a]), method)
    assert float(torch.cosine_similarity(g, a[0], dim=0)) == pytest.approx(1.0, abs=1e-9)


@_holding("opposites")
@given(seed=seeds)
@few
def test_a_task_and_its_opposite_give_nothing(method: str, seed: int) -> None:
    a = _jacobian(1, 10, seed)
    assert float(_combined(torch.cat([a, -a]), method).norm()) <= 1e-6 * float(a.norm())


@_holding("dead tasks")
@given(seed=seeds, tasks=st.sampled_from([1, 2, 3]))
@few
def test_a_dead_task_changes_nothing(method: str, seed: int, tasks: int) -> None:
    J = _jacobian(tasks, 10, seed)
    dead = torch.cat([J[:1], torch.zeros(2, 10, dtype=J.dtype), J[1:]])
    scale = tasks / (tasks + 2) if method in ("mean", "upgrad", "cagrad", "aligned-mtl") else 1.0
    _close(_combined(dead, method), scale * _combined(J, method), _tolerance(method))


@given(seed=seeds, c=st.floats(-0.999, -0.001), ratio=st.integers(-6, 6))
@few
def test_two_conflicting_tasks_have_a_closed_form(seed: int, c: float, ratio: int) -> None:
    sizes = torch.tensor([1.0, 10.0**ratio], dtype=torch.float64)
    K = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64) * sizes[:, None] * sizes
    expected = torch.stack([1 - K[0, 1] / K[0, 0], 1 - K[0, 1] / K[1, 1]])
    torch.testing.assert_close(aggregate(K, "pcgrad"), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_matrix_gives_the_same_bits(method: str) -> None:
    K = gram(_jacobian(8, 10))
    first = aggregate(K, method)
    assert all(torch.equal(aggregate(K, method), first) for _ in range(20))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("K", "message"),
    [
        (torch.ones(2, 3), "shape"),
        (torch.ones(0, 0), "shape"),
        (torch.full((2, 2), math.nan), "no finite numbers"),
        (torch.full((2, 2), math.inf), "no finite numbers"),
        (torch.ones(2, 2, dtype=torch.int64), "no finite numbers"),
    ],
    ids=["not square", "no task", "nan", "infinite", "whole"],
)
def test_a_matrix_that_cannot_be_used_is_refused(K: Tensor, message: str, method: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregate(K, method)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"c": 1.0}, "c is 1"),
        ({"c": -0.1}, "c is -0.1"),
        ({"beta": 1.5}, "beta 1.5"),
        ({"targets": torch.zeros(2, 2)}, "targets are torch.float32"),
        ({"targets": torch.zeros(3, 3, dtype=torch.float64)}, "targets are"),
        ({"order": torch.tensor([0, 1], device="meta")}, "K is on cpu, the order on meta"),
        ({"targets": torch.zeros(2, 2, dtype=torch.float64, device="meta")}, "K is on cpu, targets on meta"),
    ],
    ids=lambda part: str(part)[:12],
)
def test_arguments_out_of_range_or_elsewhere_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregate(torch.eye(2), "gradvac", **more)
