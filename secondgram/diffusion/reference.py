"""Reference implementation of the denoiser, its training target and a solver step, in plain torch and any dtype.

Every faster backend is tested against these functions in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

Weights = Mapping[str, Tensor]


class Dropout(NamedTuple):
    """Training-time dropout of the blocks' outputs: the share dropped, and where its randomness comes from."""

    share: float
    generator: torch.Generator

    def __call__(self, h: Tensor) -> Tensor:
        return h * (self.numbers(h.shape, h) >= self.share) / (1.0 - self.share)

    def numbers(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uniform numbers of the dtype and on the device of `like`, drawn where the generator is: the same anywhere."""
        drawn = torch.rand(tuple(shape), generator=self.generator, dtype=like.dtype, device=self.generator.device)
        return drawn.to(like.device, non_blocking=True)


def time_features(t: Tensor, features: int) -> Tensor:
    """sincos(t) of docs/design.md#network: t (B,) real -> (B, features), the first ones of [sin(t f), cos(t f)]."""
    half = (features + 1) // 2
    frequency = torch.exp(
        torch.arange(half, dtype=t.dtype, device=t.device) * (-2.0 * math.log(100.0) / features)
    )  # [half]
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :features]


def dense(weights: Weights, name: str, x: Tensor) -> Tensor:
    """One Linear layer: x (B, in) -> (B, out)."""
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def embedding(weights: Weights, t: Tensor, c: Tensor, features: int) -> Tensor:
    """emb = time_mlp(sincos(t)) + cond_mlp(c): t (B,), c (B, conditions) -> (B, E)."""
    time = dense(weights, "time_embed.2", silu(dense(weights, "time_embed.0", time_features(t, features))))
    return time + dense(weights, "cond_embed.2", silu(dense(weights, "cond_embed.0", c)))


def block(weights: Weights, name: str, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
    """SiLU(Wo (Wi SiLU(W1 LN(h)) + We SiLU(W2 emb) + skip)): h (B, in), emb (B, E), skip (B, out) -> (B, out)."""
    normed = layer_norm(h, h.shape[1:], weights[f"{name}.ln.weight"], weights[f"{name}.ln.bias"])
    image = dense(weights, f"{name}.imgOut", silu(dense(weights, f"{name}.imgFC", normed)))
    context = dense(weights, f"{name}.embdOut", silu(dense(weights, f"{name}.embdFC", emb)))
    joined = image + context if skip is None else image + context + skip
    return silu(dense(weights, f"{name}.outFC", joined))


def bottleneck(weights: Weights, name: str, h: Tensor) -> Tensor:
    """h + SiLU(V2 SiLU(V1 h)): h (B, width) -> (B, width)."""
    return h + silu(dense(weights, f"{name}.fc2", silu(dense(weights, f"{name}.fc1", h))))


def denoise(weights: Weights, x: Tensor, t: Tensor, c: Tensor, dropout: Dropout | None = None) -> Tensor:
    """The network of docs/design.md#network: x (B, D), t (B,), c (B, conditions) -> (B, D), its prediction."""
    drop = dropout or (lambda h: h)
    emb = embedding(weights, t, c, x.shape[1])
    first = drop(block(weights, "down1", x, emb))
    second = drop(block(weights, "down2", first, emb))
    h = drop(block(weights, "down3", second, emb))
    h = bottleneck(weights, "bot2", bottleneck(weights, "bot1", h))
    h = drop(block(weights, "up1", h, emb, second))
    h = drop(block(weights, "up2", h, emb, first))
    h = block(weights, "up3", h, emb, x)
    return dense(weights, "out", h)


def add_noise(x0: Tensor, z: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """x_t = signal x_0 + noise z: x0 and z (B, D), signal and noise (B,)."""
    return signal[:, None] * x0 + noise[:, None] * z


def training_target(x0: Tensor, z: Tensor, signal: Tensor, noise: Tensor, prediction: str) -> Tensor:
    """The target of a prediction: z itself, or v = signal z - noise x_0 (Salimans and Ho 2022)."""
    return z if prediction == "noise" else signal[:, None] * z - noise[:, None] * x0


def solver_step(
    row: tuple[float, ...], x: Tensor, output: Tensor, before: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One row of a `SolverTable` applied: (next state, data estimate), each (B, D)."""
    _, from_state, from_output, keep, now, last, fresh = row
    x0 = from_state * x + from_output * output
    following = keep * x + now * x0 + last * before
    return (following if z is None else following + fresh * z), x0
