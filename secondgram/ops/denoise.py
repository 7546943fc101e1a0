"""The denoiser's forward pass, by the backend that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion import reference
from ..errors import InputError
from .registry import AUTO, Candidate, resolve

# On a processor the plain one is best: the kernels would be interpreted.
ON_PROCESSOR = (Candidate("reference"), Candidate("triton"))


def denoise(
    weights: reference.Weights,
    x: Tensor,
    t: Tensor,
    c: Tensor,
    *,
    conditions: int,
    backend: str = AUTO,
    precision: str = AUTO,
    dropout: reference.Dropout | None = None,
) -> Tensor:
    """Validate, choose a backend, call it: x (B, D), t (B,) or a number, c (B, conditions) -> (B, D).

    backend : "triton" (fused kernels on a CUDA device, or interpreted where TRITON_INTERPRET is 1), "reference" (plain
        torch, in the dtype of x) or "auto", which takes the kernels for tensors on a CUDA device where they can run. It
        is chosen before autograd records anything.
    precision : of the fused kernels' products, see `triton_kernels.Call.resolve_precision`.

    Raises `InputError` for a wrong shape, dtype or device, or an unknown backend, and `BackendUnavailableError` for one
    that was asked for by name and cannot run this call.
    """
    if x.ndim != 2 or c.ndim != 2 or c.shape != (len(x), conditions):
        raise InputError(
            f"the denoiser got x {tuple(x.shape)} and c {tuple(c.shape)}, expected (B, D) and (B, {conditions})"
        )
    features = len(weights["out.bias"])
    if x.shape[1] != features or t.shape not in ((), (1,), (len(x),)):
        raise InputError(
            f"the denoiser got x {tuple(x.shape)} and t {tuple(t.shape)}, expected (B, {features}) and (B,) or a number"
        )
    if not x.is_floating_point() or c.dtype != x.dtype:
        raise InputError(
            f"the denoiser got x of {x.dtype} and c of {c.dtype}", mend="Use floating-point tensors of one dtype"
        )
    if c.device != x.device:
        raise InputError(f"the denoiser got x on {x.device} and c on {c.device}", mend="Move them to one device")
    time = t.to(dtype=x.dtype, device=x.device).expand(len(x))
    # `triton_kernels` imports triton and torch's compiler: only where the kernels may run.
    plain = x.device.type == "cpu" and precision == AUTO and not torch.compiler.is_compiling()
    if plain and resolve("the denoiser", ON_PROCESSOR, backend) == "reference":
        return reference.denoise(weights, x, time, c, dropout)
    from . import triton_kernels

    chosen, precision = triton_kernels.choose(weights, x, precision, backend)
    if chosen == "triton":
        return triton_kernels.denoise(weights, x, t.to(device=x.device).expand(len(x)), c, precision, dropout)
    return reference.denoise(weights, x, time, c, dropout)
