"""Sum and products of one layer's task gradients: the extension does what torch's products in float64 do."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor

from secondgram.ops import native
from secondgram.ops.gradients import openmp_team, weight_gradients
from secondgram.ops.layer_sums import Layer, layer_sums
from secondgram.training.gradients import TaskGradients, aggregate

needs_extension = pytest.mark.skipif(
    native.task_sums_reason_unavailable() is not None, reason=str(native.task_sums_reason_unavailable())
)
ROWS = {"one task": [9], "one row": [1], "ragged": [25, 0, 1, 60], "none": [0, 0], "nine": [3] * 9, "many": [2] * 20}


def _layer(outputs: int, inputs: int, sizes: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, list[int]]:
    generator = torch.Generator().manual_seed(outputs * inputs)
    dY, X = (torch.randn(sum(sizes), n, generator=generator, dtype=torch.float64).to(dtype) for n in (outputs, inputs))
    return dY, X, [0, *accumulate(sizes)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (6, 64), (5, 16), (13, 65), (400, 33), (97, 129)])
def test_sum_and_products_are_those_of_the_slices(
    outputs: int, inputs: int, sizes: list[int], dtype: torch.dtype
) -> None:
    dY, X, ends = _layer(outputs, inputs, sizes, dtype)
    out = torch.full((outputs, inputs), torch.nan, dtype=dtype)
    K = layer_sums([Layer(dY, X, ends, out)], len(sizes))
    W = weight_gradients(dY.double(), X.double(), ends)
    rows = W.flatten(1)
    exact = rows @ rows.T
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert K.dtype == torch.float64
    assert torch.equal(K, K.T)
    torch.testing.assert_close(K, exact, rtol=0, atol=tolerance * float(exact.diagonal().max()))
    torch.testing.assert_close(out.double(), W.sum(dim=0), rtol=0, atol=10 * tolerance * float(W.abs().max()))


@needs_extension
@pytest.mark.parametrize("sizes", ROWS.values(), ids=ROWS)
def test_threads_change_nothing_and_layers_add_up(sizes: list[int]) -> None:
    made = [_layer(outputs, inputs, sizes, torch.float32) for outputs, inputs in ((400, 129), (5, 7), (700, 64))]
    found: list[tuple[np.ndarray, ...]] = []
    for threads, team in ((1, 0), (3, 0), (2, openmp_team())):
        out = [np.empty((dY.shape[1], X.shape[1]), np.float32) for dY, X, _ in made]
        layers = [
            native.TaskLayer(dY.numpy(), X.numpy(), np.array(ends), each)
            for (dY, X, ends), each in zip(made, out, strict=True)
        ]
        found.append((native.task_sums(layers, len(sizes), threads, team), *out))
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, again)
    parts = np.stack([native.task_sums([layer], len(sizes)) for layer in layers])
    np.testing.assert_allclose(found[0][0], parts.sum(axis=0), rtol=1e-14, atol=1e-12)


@needs_extension
def test_wrong_layouts_are_refused() -> None:
    dY, X, out = np.zeros((4, 3), np.float32), np.zeros((4, 5), np.float32), np.zeros((3, 5), np.float32)
    ends = np.array([0, 4])
    for bad in (dY.astype(float), np.zeros((3, 4), np.float32).T, dY[0]):
        with pytest.raises(ValueError, match="contiguous matrices of float32"):
            native.task_sums([native.TaskLayer(bad, X, ends, out)], 1)
    with pytest.raises(ValueError, match="do not belong together"):
        native.task_sums([native.TaskLayer(dY, X, ends, out[:2].copy())], 1)
    for wrong in ([0, 3], [1, 4], [0, 4, 2, 4], [0, 2, 4]):
        with pytest.raises(ValueError, match="4 rows"):
            native.task_sums([native.TaskLayer(dY, X, np.array(wrong), out)], 1)
    with pytest.raises(ValueError, match="0 tasks"):
        native.task_sums([], 0)
    assert native.task_sums([], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("own", [False, True])
def test_weights_may_be_asked_for_one_after_the_other(own: bool) -> None:
    """Whatever was combined before, and wherever it went, the next weights see all task gradients."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(7, 20), torch.nn.LayerNorm(20), torch.nn.SiLU(), torch.nn.Linear(20, 3))
    x = torch.randn(12, 7)
    found = TaskGradients(net, 3, "sums")
    for _ in range(2):
        found.clear()
        with found.rows([0, 5, 5, 12]):
            net(x).square().sum().backward()
        J, K = found.J, found.gram()
        for w in ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, 0.0, 2.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]):
            weights = torch.tensor(w, dtype=torch.float64)
            g = found.combine(weights, out=found.g if own else None)
            torch.testing.assert_close(g, weights.float() @ J, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(found.gram(), K, rtol=1e-6, atol=0)
        assert aggregate(K, "sum").tolist() == [1.0, 1.0, 1.0]
