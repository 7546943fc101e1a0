"""From a combined gradient to an update: gate, clip and skip, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import InputError


def gate_and_clip(norm: float, gate: float, clip: float) -> float:
    """The factor for an update of this norm: 0 (skip it) above the gate or for NaN, else at most clip / norm."""
    if not norm <= gate or norm == float("inf"):
        return 0.0
    return min(1.0, clip / norm) if norm > 0 else 1.0


def gate_and_clip_on_device(norm: Tensor, gate: float, clip: float) -> tuple[Tensor, Tensor]:
    """As `gate_and_clip` for a norm () on any device: (factor, skip), float32 and bool; factor 1 where skipped."""
    skip = ~(norm <= gate) | ~norm.isfinite()
    factor = torch.where(norm > clip, clip / norm, 1.0)
    return torch.where(skip, 1.0, factor).float(), skip


def write_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Let each parameter's `.grad` be its part of a flat gradient (P,), without a copy."""
    place = 0
    for parameter in parameters:
        parameter.grad = flat[place : place + parameter.numel()].view_as(parameter)
        place += parameter.numel()


def step_on_device(
    optimiser: torch.optim.Adam, norm: Tensor, gate: float, clip: float, counts: Tensor | None = None
) -> Tensor:
    """One step of a fused Adam on the gradients in `.grad`, gated and clipped by their norm (), without waiting.

    A step above the gate, or of a norm that is no finite number, changes neither parameters nor moments nor their step
    count. counts : int64 (2,), updates and skips, added to in place. Returns whether it was skipped, () bool.

    Raises `InputError` for an optimiser that is not fused: only that one takes a scale and a skip on the device.
    """
    if not all(group.get("fused") for group in optimiser.param_groups):
        raise InputError("the optimiser is not fused", mend="Use torch.optim.Adam(..., fused=True)")
    factor, skip = gate_and_clip_on_device(norm, gate, clip)
    # As torch's gradient scalers do: gradients are divided by `grad_scale`, and `found_inf` skips the step.
    optimiser.grad_scale, optimiser.found_inf = 1.0 / factor, skip.float()  # type: ignore[attr-defined]
    try:
        optimiser.step()
    finally:
        del optimiser.grad_scale, optimiser.found_inf  # type: ignore[attr-defined]
    if counts is not None:
        counts += torch.stack([~skip, skip]).to(counts.dtype)
    return skip
