"""The denoiser folded for sampling: the same function with fewer products, exactly (docs/design.md#folded-weights).

- Nothing nonlinear stands between Wi, We and Wo of a block: Wo Wi and Wo We are one matrix each.
- The scale, shift and centring of a layer norm are linear: they fold into W1, and only a row's 1 / std remains.
- W2 emb = W2 time(t) + W2 cond(c): one table over steps, one over people. The embedding's term of a block depends on
  person and step, not on the draw, and is shared by all draws of a person.

In numpy and float64, so that a backend without torch can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Names of the blocks, in the order in which they run.
BLOCKS = ("down1", "down2", "down3", "up1", "up2", "up3")
BOTTLENECKS = ("bot1", "bot2")
LAYER_NORM_EPSILON = 1e-5

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class FoldedBlock:
    """SiLU(i @ image + SiLU(emb @ embed + embed_bias) @ context + skip @ join + bias).

    i = SiLU(rstd(h) (h @ inner) + inner_bias).

    inner (in, E), inner_bias (E,), image and context (E, out), embed (E, E), embed_bias (E,), join (out, out) or None
    where the block has no skip, bias (out,). rstd(h) = 1 / sqrt(variance of the row + 1e-5).
    """

    inner: np.ndarray
    inner_bias: np.ndarray
    image: np.ndarray
    embed: np.ndarray
    embed_bias: np.ndarray
    context: np.ndarray
    join: np.ndarray | None
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class Dense:
    """x @ weight + bias: weight (in, out), bias (out,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


@dataclass(frozen=True, eq=False)
class FoldedDenoiser:
    """The weights of a forward pass, float64; also the reference implementation of the folded network.

    time, conditions : the two layers of each embedding;  blocks : by name, in the order of `BLOCKS`;  bottlenecks : the
    two layers of each;  out : the last layer.
    """

    time: tuple[Dense, Dense]
    conditions: tuple[Dense, Dense]
    blocks: dict[str, FoldedBlock]
    bottlenecks: tuple[tuple[Dense, Dense], ...]
    out: Dense

    @property
    def features(self) -> int:
        """D."""
        return len(self.out.bias)

    def embedding_of_times(self, t: np.ndarray) -> np.ndarray:
        """time_mlp(sincos(t)) for times t (S,): (S, E)."""
        half = (self.features + 1) // 2
        angle = t[:, None] * np.exp(np.arange(half) * (-2.0 * np.log(100.0) / self.features))
        waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, : self.features]
        return self.time[1](silu(self.time[0](waves)))

    def embedding_of_conditions(self, c: np.ndarray) -> np.ndarray:
        """cond_mlp(c) for conditions c (N, conditions): (N, E)."""
        return self.conditions[1](silu(self.conditions[0](c)))

    def context(self, emb: np.ndarray) -> dict[str, np.ndarray]:
        """The term of each block that the embedding emb (n, E) gives, before the last SiLU: (n, out) by name."""
        return {name: silu(emb @ b.embed + b.embed_bias) @ b.context + b.bias for name, b in self.blocks.items()}

    def __call__(self, x: np.ndarray, context: dict[str, np.ndarray]) -> np.ndarray:
        """x (n, D) and the context of its rows -> the prediction (n, D)."""
        first = self._block("down1", x, context)
        second = self._block("down2", first, context)
        h = self._block("down3", second, context)
        for one, two in self.bottlenecks:
            h = h + silu(two(silu(one(h))))
        h = self._block("up1", h, context, second)
        h = self._block("up2", h, context, first)
        return self.out(self._block("up3", h, context, x))

    def chain(self, c: np.ndarray, table: np.ndarray, noise: Callable[[int | None], np.ndarray]) -> np.ndarray:
        """The last state (n, D) of a reverse chain in float64: reference implementation of a sampler of this network.

        c (n, conditions);  table (S, 7), as `SolverTable.rows`.
        noise : gives the first state (n, D) for None, and for the number of a step its standard normals (n, D).
        """
        embedded, times = self.embedding_of_conditions(c.astype(np.float64)), self.embedding_of_times(table[:, 0])
        x = noise(None)
        before = np.zeros_like(x)
        for number, (_, from_state, from_output, keep, now, last, fresh) in enumerate(table):
            x0 = from_state * x + from_output * self(x, self.context(embedded + times[number]))
            x = keep * x + now * x0 + last * before
            if fresh:
                x = x + fresh * noise(number)
            before = x0
        return x

    def _block(
        self, name: str, h: np.ndarray, context: dict[str, np.ndarray], skip: np.ndarray | None = None
    ) -> np.ndarray:
        block = self.blocks[name]
        rstd = 1.0 / np.sqrt(h.var(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
        total = silu(rstd * (h @ block.inner) + block.inner_bias) @ block.image + context[name]
        if skip is not None:
            assert block.join is not None
            total = total + skip @ block.join
        return silu(total)


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)), without overflow."""
    return 0.5 * x * (1.0 + np.tanh(0.5 * x))


def fold(weights: Arrays) -> FoldedDenoiser:
    """Fold weights of any floating dtype, in float64; names are those of docs/design.md#parameter-names."""

    def dense(name: str) -> Dense:
        return Dense(weights[f"{name}.weight"].astype(np.float64).T, weights[f"{name}.bias"].astype(np.float64))

    blocks = {}
    for name in BLOCKS:
        one, two = dense(f"{name}.imgFC"), dense(f"{name}.embdFC")
        image, context, last = dense(f"{name}.imgOut"), dense(f"{name}.embdOut"), dense(f"{name}.outFC")
        scale, shift = (weights[f"{name}.ln.{part}"].astype(np.float64) for part in ("weight", "bias"))
        inner = scale[:, None] * one.weight
        blocks[name] = FoldedBlock(
            inner=inner - inner.mean(axis=0),
            inner_bias=shift @ one.weight + one.bias,
            image=image.weight @ last.weight,
            embed=two.weight,
            embed_bias=two.bias,
            context=context.weight @ last.weight,
            join=last.weight if name.startswith("up") else None,
            bias=(image.bias + context.bias) @ last.weight + last.bias,
        )
    return FoldedDenoiser(
        (dense("time_embed.0"), dense("time_embed.2")),
        (dense("cond_embed.0"), dense("cond_embed.2")),
        blocks,
        tuple((dense(f"{name}.fc1"), dense(f"{name}.fc2")) for name in BOTTLENECKS),
        dense("out"),
    )


def flops(
    features: int, conditions: int, embedding: int, widths: tuple[int, int, int], draws: int | None = None
) -> int:
    """Floating-point operations (a product and a sum count two) of the matrix products of one row and step.

    draws : M when folded, the part of the embedding being shared by M draws and its tables not counted; None for the
    network as written.
    """
    wide, middle, narrow = widths
    ends = [(features, wide), (wide, middle), (middle, narrow), (narrow, middle), (middle, wide), (wide, features)]
    total = 4 * narrow * narrow + features * features
    if draws is None:
        total += (features + conditions + 2 * embedding) * embedding
        total += sum(i * embedding + embedding * embedding + 2 * embedding * o + o * o for i, o in ends)
        return 2 * total
    total += sum(i * embedding + embedding * o for i, o in ends) + sum(o * o for _, o in ends[3:])
    return 2 * total + round(2 * sum(embedding * o for _, o in ends) / draws)
