"""The denoiser as a torch module: it holds the parameters and calls `ops.denoise`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .diffusion.reference import Dropout
from .errors import InputError
from .ops.denoise import denoise


class _Embedding(nn.Sequential):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(inputs)
        self.imgFC = nn.Linear(inputs, width)
        self.embdFC = nn.Linear(width, width)
        self.imgOut = nn.Linear(width, outputs)
        self.embdOut = nn.Linear(width, outputs)
        self.outFC = nn.Linear(outputs, outputs)


class _Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)


class Denoiser(nn.Module):
    """The conditional denoiser of docs/design.md#network; parameter names are those of docs/design.md#parameter-names.

    Parameters
    ----------
    features : D, width of the state.
    conditions : width of the conditioning vector, covariates first, then the conditioning visit.
    embedding : E; widths : the three widths on the way down.
    zero_output : start with an output layer of zeros, so that the network predicts zero before training.
    backend, precision : how it is computed, see `ops.denoise`: `reference`, `triton` (fused kernels, with products in
        `bf16`, `fp16`, `tf32` or `fp32`) or `auto`.
    generator : where the initial weights come from; None takes torch's global generator.

    `Denoiser(features=769, conditions=783)` has 4,727,688 parameters.
    """

    def __init__(
        self,
        features: int,
        conditions: int,
        *,
        embedding: int = 256,
        widths: tuple[int, int, int] = (512, 256, 128),
        zero_output: bool = False,
        backend: str = "auto",
        precision: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if features < 1 or conditions < 1 or embedding < 1 or len(widths) != 3 or min(widths) < 1:
            raise InputError(
                f"a denoiser of {features} features, {conditions} conditions, embedding {embedding}, widths {widths}",
                mend="Every size is 1 or more, and there are three widths",
            )
        self.features, self.conditions = features, conditions
        self.backend, self.precision = backend, precision
        self.embedding, self.widths = embedding, (int(widths[0]), int(widths[1]), int(widths[2]))
        wide, middle, narrow = self.widths
        self.time_embed = _Embedding(features, embedding)
        self.cond_embed = _Embedding(conditions, embedding)
        self.down1 = _Block(features, wide, embedding)
        self.down2 = _Block(wide, middle, embedding)
        self.down3 = _Block(middle, narrow, embedding)
        self.bot1 = _Bottleneck(narrow)
        self.bot2 = _Bottleneck(narrow)
        self.up1 = _Block(narrow, middle, embedding)
        self.up2 = _Block(middle, wide, embedding)
        self.up3 = _Block(wide, features, embedding)
        self.out = nn.Linear(features, features)
        if generator is not None:
            self._initialise(generator)
        if zero_output:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        # torch's own default for Linear, from a generator of ours, so that a seed decides the weights.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, t: Tensor | float, c: Tensor, dropout: Dropout | None = None) -> Tensor:
        """x (B, D), t (B,) or one step for all, c (B, conditions) -> (B, D), in the dtype of x."""
        time = t if isinstance(t, Tensor) else torch.tensor(float(t), dtype=x.dtype, device=x.device)
        weights = dict(self.named_parameters())
        return denoise(
            weights,
            x,
            time,
            c,
            conditions=self.conditions,
            backend=self.backend,
            precision=self.precision,
            dropout=dropout,
        )

    @property
    def configuration(self) -> dict[str, object]:
        """Arguments of a denoiser of the same shape: `Denoiser(**configuration)`."""
        return {
            "features": self.features,
            "conditions": self.conditions,
            "embedding": self.embedding,
            "widths": list(self.widths),
        }

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], source: object = None) -> Denoiser:
        """A denoiser of the shape its weights have. Raises `InputError` where names or shapes do not fit."""
        try:
            net = cls(
                features=weights["out.weight"].shape[0],
                conditions=weights["cond_embed.0.weight"].shape[1],
                embedding=weights["cond_embed.2.weight"].shape[0],
                widths=tuple(weights[f"down{k}.outFC.weight"].shape[0] for k in (1, 2, 3)),  # type: ignore[arg-type]
            )
            net.load_state_dict({name: value.float() for name, value in weights.items()})
        except (KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"does not hold the weights of this denoiser ({str(error).splitlines()[0]})",
                file=source,
                mend="Expected the parameter names that docs/design.md#parameter-names lists",
            ) from error
        return net

    @classmethod
    def from_reference_checkpoint(cls, path: str | os.PathLike[str]) -> Denoiser:
        """Read a checkpoint of the paper's published code: a torch.save file whose entry `model` is a state dict.

        Only tensors are read; code inside the file is never run. Raises `InputError` for anything else.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("there is no such file", file=path, mend="Check the path")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types, depending on the damaged byte
            raise InputError(
                f"is no readable checkpoint ({type(error).__name__})",
                file=path,
                mend="Expected a file written by torch.save that holds tensors only; nothing in it was run",
            ) from error
        weights = content.get("model") if isinstance(content, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise InputError("has no entry 'model' with a state dict of tensors", file=path)
        return cls.from_weights(weights, path)
