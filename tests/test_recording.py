"""Recorded training steps: what is played again is what would have been done, told by a recording that a processor can
make. Like a CUDA graph, it keeps operations and the memory they work on, and no Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secondgram.denoiser import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.ops import gradients as ops_gradients
from secondgram.training import recording
from secondgram.training.recording import WARM, Recorder, Tensors
from secondgram.training.tasks import TaskRows
from secondgram.training.trainer import Run, Trainer, TrainingOptions

READS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}


class Tape(TorchDispatchMode):
    """Operations as they reach the memory, with their tensors; `play` makes them again in the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._schema.name not in READS:
            self.made.append((func, args, kwargs, out))
        return out

    def play(self) -> None:
        for func, args, kwargs, out in self.made:
            again = func(*args, **kwargs)
            kept, new = (list(each) if isinstance(each, (tuple, list)) else [each] for each in (out, again))
            for returned, place, value in zip(func._schema.returns, kept, new, strict=False):
                # A view shows what is there already, and what is written in place was.
                if returned.alias_info is None and isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    # Some results lose an axis in place afterwards.
                    place.copy_(value.view_as(place))


def tape(call: Callable[[], None]) -> Callable[[], None]:
    made = Tape()
    with made:
        call()

    def play() -> None:
        with torch.no_grad():
            made.play()

    return play


def untaped(call: Callable[[], None]) -> Callable[[], None]:
    """Records nothing: every step is made by Python, on the way that a device goes."""
    call()
    return call


def _rows(people: int = 14) -> TaskRows:
    generator = torch.Generator().manual_seed(5)
    visit, target = torch.randn(people, 5, generator=generator), torch.randn(9, 5, generator=generator)
    condition, static = torch.randn(9, 7, generator=generator), torch.randn(people, 2, generator=generator)
    return TaskRows(target, torch.ones(9, 5), condition, visit, torch.ones(people, 5), static, (0.9, 0.4))


def _trained(record: Any, backend: str = "reference", device: str = "cpu", **change: Any) -> tuple[Trainer, Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = Denoiser(5, 7, embedding=6, widths=(8, 6, 4), generator=generator, backend=backend).to(device)
    options = TrainingOptions(**{"epochs": 7, "batch": 10, "gate": 1e9, "patience": 99, **change})
    trainer = Trainer(net, Schedule.make(), _rows(), options, seed=1, run=Run(show=False), record=record)
    trainer.fit()
    return trainer, torch.cat([value.detach().reshape(-1) for value in net.parameters()])


def _same(played: Trainer, plain: Trainer) -> None:
    assert [vars(epoch) for epoch in played.history.epochs] == [vars(epoch) for epoch in plain.history.epochs]
    assert int(played.updates) == int(plain.updates)
    for name, value in plain.average.items():
        assert torch.equal(played.average[name], value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gradients": "none", "whole_steps": False},
        {"gate": 1.0},
        {"gate": 0.0},
        {"average": 0.9, "gate": 1.0, "clip": 0.01},
        {"prediction": "v", "decay": 0.1},
    ],
)
def test_training_that_is_played_gives_the_bits_of_training_that_is_made(change: dict[str, Any]) -> None:
    played, weights = _trained(tape, **change)
    assert played.recorder is not None
    assert played.recorder.reason is None
    # Whole batches and the rest, each recorded once.
    assert len(played.recorder._played) == 2
    plain, wanted = _trained(untaped, **change)
    assert torch.equal(weights, wanted)
    _same(played, plain)


@pytest.mark.slow
@pytest.mark.interpreted
def test_a_step_by_tasks_on_the_fused_kernels_is_played_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    # A tape sees torch's operations alone.
    monkeypatch.setattr(ops_gradients.native, "sampler_reason_unavailable", lambda: "not on a tape")
    # The interpreter takes seconds a step.
    monkeypatch.setattr(recording, "WARM", 1)
    change: dict[str, Any] = {"gradients": "mean", "batch": 23, "epochs": 3, "clip": 0.1}
    played, weights = _trained(tape, "triton", **change)
    assert played.recorder is not None
    assert len(played.recorder._played) == 1
    plain, wanted = _trained(untaped, "triton", **change)
    assert torch.equal(weights, wanted)
    _same(played, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("gradients", ["gate", "pcgrad", "gradvac", "aligned-mtl"])
def test_a_graph_gives_the_bits_of_steps_that_are_made_on_the_device(gradients: str, backend: str) -> None:
    played, weights = _trained(None, backend, "cuda", gradients=gradients, average=0.9)
    assert played.recorder is not None
    assert played.recorder.reason is None
    assert len(played.recorder._played) == 2
    plain, wanted = _trained(untaped, backend, "cuda", gradients=gradients, average=0.9)
    assert torch.equal(weights, wanted)
    _same(played, plain)


@pytest.mark.parametrize("gradients", ["gate", "pcgrad", "gradvac"])
def test_the_way_of_a_device_trains_as_that_of_a_processor(gradients: str) -> None:
    _, weights = _trained(untaped, gradients=gradients, average=0.9)
    _, wanted = _trained(None, gradients=gradients, average=0.9)
    torch.testing.assert_close(weights, wanted, rtol=1e-4, atol=1e-5)


def test_a_processor_records_nothing_and_dropout_is_not_recorded() -> None:
    assert _trained(None, epochs=1)[0].recorder is None
    assert _trained(tape, epochs=1, dropout=0.1)[0].recorder is None


# -- the recorder alone -----------------------------------------------------------------------------------------------


def _doubling(total: Tensor) -> Callable[[Tensors], Tensors]:
    def step(inputs: Tensors) -> Tensors:
        total.add_(inputs["x"].sum())
        return {"twice": 2 * inputs["x"]}

    return step


def test_every_shape_is_recorded_once_after_its_warm_steps() -> None:
    total = torch.zeros(())
    recorded: list[int] = []

    def counting(call: Callable[[], None]) -> Callable[[], None]:
        recorded.append(len(recorded))
        return tape(call)

    recorder = Recorder(_doubling(total), counting, torch.device("cpu"))
    expected = 0.0
    for number in range(1, WARM + 4):
        for rows in (2, 3):
            x = torch.full((rows,), float(number))
            assert torch.equal(recorder({"x": x})["twice"], 2 * x)
            # What was given may be used for something else.
            x.fill_(torch.nan)
            expected += rows * number
        assert len(recorded) == (0 if number <= WARM else 2)
    assert float(total) == expected


def test_a_step_that_cannot_be_recorded_is_made_with_a_warning_that_says_why() -> None:
    total = torch.zeros(())

    def refusing(call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    recorder = Recorder(_doubling(total), refusing, torch.device("cpu"))
    for _ in range(WARM):
        recorder({"x": torch.ones(2)})
    with pytest.warns(RuntimeWarning, match="not recorded, which costs time alone: operation not permitted when"):
        recorder({"x": torch.ones(2)})
    assert torch.equal(recorder({"x": torch.ones(2)})["twice"], torch.full((2,), 2.0))
    assert recorder.reason == "operation not permitted when stream is capturing"
    assert float(total) == 2 * (WARM + 2)
