"""From the Gram matrix on a device to the weights of the tasks: nothing waits for the device.

Tensors have no values, and whatever asks for one raises: on the device "meta", and as fake tensors on "cuda" where
torch is built for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from secondgram.training.gradients import METHODS, aggregate, gate_and_clip_on_device
from secondgram.training.trainer import _Look

fake = pytest.importorskip("torch._subclasses.fake_tensor", reason="this torch has no fake tensors")


@pytest.fixture(params=["meta", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """One whose tensors have no values."""
    if request.param == "cuda" and not torch.backends.cuda.is_built():
        pytest.skip("torch is not built for CUDA, so there are no fake tensors of it")
    with fake.FakeTensorMode() if request.param == "cuda" else nullcontext():
        yield torch.device(request.param)


def _gram(tasks: int, device: torch.device) -> Tensor:
    return torch.empty(tasks, tasks, dtype=torch.float64, device=device)


@pytest.mark.parametrize("tasks", [1, 3, 9])
@pytest.mark.parametrize("method", METHODS)
def test_no_aggregation_waits(method: str, tasks: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.zeros_like(_gram(tasks, device)) if method == "gradvac" else None
    orders: torch.Generator | None
    for orders in (torch.Generator().manual_seed(0), None):
        if orders is None:
            # What is made of Python's numbers has to be sent, which waits as well.
            monkeypatch.setattr(torch, "tensor", None)
        w = aggregate(_gram(tasks, device), method, generator=orders, targets=targets)
        assert (w.shape, w.dtype, w.device.type) == ((tasks,), torch.float64, device.type)


def test_neither_the_gate_nor_the_record_of_a_step_waits(device: torch.device) -> None:
    K = _gram(3, device)
    _Look(device).add(K)
    factor, skip = gate_and_clip_on_device(K.sum(), 1.8, 0.3)
    assert factor.device.type == skip.device.type == device.type


def test_a_wait_would_be_seen(device: torch.device) -> None:
    with pytest.raises((fake.DataDependentOutputException, RuntimeError)):
        bool(_gram(3, device).isfinite().all())
