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
    if not x.is_floating_point():
        raise InputError(f"the denoiser got {x.dtype}", mend="Use a floating-point tensor")
    if backend not in ("auto", "reference"):
        raise InputError(f"the denoiser has no backend {backend!r} here", mend="Use 'auto' or 'reference'")
    time = t.to(dtype=x.dtype, device=x.device).expand(len(x))
    return reference.denoise(weights, x, time, c, dropout)
