"""The sampler's peers on a device: the reverse chain of the folded network in torch, each step one recorded or compiled
function.

They do the products that ours does, in bfloat16 with sums and state in float32, and draw noise by torch's generator. On
a CPU the same code runs as it is written, so that its mathematics is tested there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from chains import FoldedNet
from exact import Noise
from torch import Tensor
from torch.nn.functional import silu

from secondgram.diffusion.folding import FoldedDenoiser
from secondgram.diffusion.reference import solver_step

# x (n, D), before (n, D), z (n, D), emb (n, E), row of the table (7,) -> x, before
Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class AddmmNet(FoldedNet):
    """The folded network with each sum given to the product it belongs to, as an epilogue of cuBLASLt."""

    def _bottleneck(self, h: Tensor, layers: list[tuple[str, str]]) -> Tensor:
        (one, one_bias), (two, two_bias) = layers
        inner = silu(torch.addmm(self.w(one_bias), h, self.w(one)))
        return h + silu(torch.addmm(self.w(two_bias), inner, self.w(two)))

    def _last(self, h: Tensor) -> Tensor:
        return torch.addmm(self.w(self.out[1]), h, self.w(self.out[0]))

    def _block(self, name: str, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        part = {key: self.w(value) for key, value in self.blocks[name].items()}
        inner = silu(torch.addcmul(part["inner_bias"], self._rstd(h), h @ part["inner"]))
        shared = silu(torch.addmm(part["embed_bias"], emb, part["embed"]))
        context = torch.addmm(part["bias"], shared, part["context"])
        total = torch.addmm(context if self.draws == 1 else context.repeat(self.draws, 1), inner, part["image"])
        return silu(total if skip is None else torch.addmm(total, skip, part["join"]))


class Chain:
    """All steps of some people with one draw each: conditions (n, C), table (S, 7)."""

    def __init__(
        self,
        folded: FoldedDenoiser,
        conditions: Tensor,
        table: np.ndarray,
        *,
        addmm: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        wrap: Callable[[Step], Step] = lambda step: step,
    ) -> None:
        """wrap : what compiles a step;  addmm : `AddmmNet` in place of `FoldedNet`."""
        place = conditions.device
        self.folded, self.conditions, self.table, self.dtype = folded, conditions, table, dtype
        self.net = (AddmmNet if addmm else FoldedNet)(folded, draws=1).eval().to(place, dtype)
        self.shown = [
            (torch.from_numpy(layer.weight).float().to(place), torch.from_numpy(layer.bias).float().to(place))
            for layer in folded.conditions
        ]
        self.times = torch.from_numpy(folded.embedding_of_times(table[:, 0])).float().to(place)
        self.rows = torch.from_numpy(table).float().to(place)
        # The last step adds none.
        self.fresh = [bool(row[-1]) for row in table]
        self.step = wrap(self._step)

    def _step(self, x: Tensor, before: Tensor, z: Tensor, emb: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        output = self.net(x.to(self.dtype), emb.to(self.dtype)).float()
        # Tensors, because Python numbers would make torch compile every step anew.
        coefficients: Any = row.unbind()
        return solver_step(coefficients, x, output, before, z)

    def _noise(self) -> Tensor:
        return torch.randn(len(self.conditions), self.folded.features, device=self.conditions.device)

    def run(self, seen: Callable[[Tensor], object] = lambda z: None) -> Tensor:
        """Draws (n, D). seen : called with all noise, the start's first, to check the result."""
        with torch.inference_mode():
            (one, one_bias), (two, two_bias) = self.shown
            condition = torch.addmm(two_bias, silu(torch.addmm(one_bias, self.conditions, one)), two)
            x = self._noise()
            seen(x)
            before, nothing = torch.zeros_like(x), torch.zeros_like(x)
            for number, fresh in enumerate(self.fresh):
                z = self._noise() if fresh else nothing
                seen(z)
                x, before = self.step(x, before, z, condition + self.times[number], self.rows[number])
            return x


class Witness:
    """Keeps the noise of the first few rows, so that float64 can go the same way."""

    def __init__(self, few: int = 8) -> None:
        self.few = few
        self.kept: list[Tensor] = []

    def __call__(self, z: Tensor) -> None:
        self.kept.append(z[: self.few].clone())

    def noise(self) -> Noise:
        return lambda step: self.kept[0 if step is None else step + 1].double().cpu().numpy()


@contextmanager
def blas(library: str) -> Iterator[None]:
    """torch's products by "cublas" or "cublaslt" while it lasts."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)
