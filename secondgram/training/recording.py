"""A training step recorded once for each shape of batch and played again: on a device its launches take less time than
the Python that makes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
# From inputs to outputs; everything else it changes is changed in place.
Step = Callable[[Tensors], Tensors]
# Runs a call once while recording it, and returns a function that replays it.
Record = Callable[[Callable[[], None]], Callable[[], None]]
# Steps of a shape before it is recorded: compilers, workspaces and the optimiser's moments come with the first ones.
WARM = 3


def cuda_graph(call: Callable[[], None]) -> Callable[[], None]:
    """A `Record` of the kernels that a call launches."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    # Nothing has run yet.
    graph.replay()
    return graph.replay


class _Played(NamedTuple):
    inputs: Tensors
    outputs: Tensors
    play: Callable[[], None]


class Recorder:
    """A step that is recorded at its fourth call with inputs of one shape, and from then on played.

    Parameters
    ----------
    step : called with inputs by name; its outputs are tensors by name. Everything that it reads or changes besides is
        in one place for as long as this lives, and none of it decides what it does.
    record : `cuda_graph`, or its equivalent elsewhere.
    device : where the step works; inputs are sent there.

    A step that cannot be recorded is made as it stands, then and from then on; `reason` and a warning say why.
    """

    def __init__(self, step: Step, record: Record, device: torch.device) -> None:
        self.step, self.record, self.device = step, record, device
        self.reason: str | None = None
        self._seen: dict[tuple[object, ...], int] = {}
        self._played: dict[tuple[object, ...], _Played] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """The step's outputs, which stand until the next call."""
        shape = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        played = self._played.get(shape)
        if played is not None:
            for name, value in inputs.items():
                played.inputs[name].copy_(value, non_blocking=True)
            played.play()
            return played.outputs
        sent = {name: value.to(self.device, non_blocking=True, copy=True) for name, value in inputs.items()}
        seen = self._seen[shape] = self._seen.get(shape, 0) + 1
        if self.reason is not None or seen <= WARM:
            return self.step(sent)
        outputs: Tensors = {}
        try:
            play = self.record(lambda: outputs.update(self.step(sent)))
        except RuntimeError as error:
            self.reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"Training steps are not recorded, which costs time alone: {self.reason}", RuntimeWarning, stacklevel=2
            )
            return self.step(sent)
        self._played[shape] = _Played(sent, outputs, play)
        return outputs
