"""The denoiser's forward pass, by the backend that was asked for."""

from __future__ import annotations

from torch import Tensor

from ..diffusion import reference
from ..errors import InputError


def denoise(
    weights: reference.Weights,
    x: Tensor,
    t: Tensor,
    c: Tensor,
    *,
    conditions: int,
    backend: str = "auto",
    dropout: reference.Dropout | None = None,
) -> Tensor:
    """Validate, choose a backend, call it: x (B, D), t (B,) or a number, c (B, conditions) -> (B, D).

    Raises `InputError` for a wrong shape or dtype, or a backend that this build does not have.
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
    if backend not in ("auto", "reference"):
        raise InputError(f"the denoiser has no backend {backend!r} here", mend="Use 'auto' or 'reference'")
    time = t.to(dtype=x.dtype, device=x.device).expand(len(x))
    return reference.denoise(weights, x, time, c, dropout)
