"""Memory layout of a denoiser: its padded sizes, packed weights and biases, and the arenas of activations.

The order of the parameters is that of `secondgram.Denoiser`. Widths are padded to multiples of 64, the narrowest to a
power of two, with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .bottleneck import WIDEST

PAD = 64
DOWN, UP = ("down1", "down2", "down3"), ("up1", "up2", "up3")
BLOCKS = (*DOWN, *UP)
BOTTLENECKS = ("bot1", "bot2")
PARTS = ("ln", "imgFC", "embdFC", "imgOut", "embdOut", "outFC")


def padded(width: int) -> int:
    """The next multiple of 64."""
    return -(-width // PAD) * PAD


class Ends(NamedTuple):
    """A block: its padded and true widths, and the buffers it reads (`source`, `skip`) and writes (`target`)."""

    inputs: int
    outputs: int
    true_inputs: int
    true_outputs: int
    source: str
    skip: str | None
    target: str


@dataclass(frozen=True)
class Size:
    """Sizes of a denoiser: D, width of the conditions, E, and the three widths on the way down."""

    features: int
    conditions: int
    embedding: int
    widths: tuple[int, int, int]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Size:
        """The sizes that weights have; where a compiler traces symbols, their values."""
        return cls(
            int(weights["out.bias"].shape[0]),
            int(weights["cond_embed.0.weight"].shape[1]),
            int(weights["cond_embed.2.bias"].shape[0]),
            tuple(int(weights[f"{name}.outFC.bias"].shape[0]) for name in DOWN),  # type: ignore[arg-type]
        )

    @property
    def reason_unavailable(self) -> str | None:
        """Why the kernels cannot run this size, or None."""
        if self.widths[2] > WIDEST:
            return f"they hold a narrowest width of at most {WIDEST}, and this denoiser has {self.widths[2]}"
        return None

    @cached_property
    def d(self) -> int:
        """Padded features."""
        return padded(self.features)

    @cached_property
    def c(self) -> int:
        """Padded conditions."""
        return padded(self.conditions)

    @cached_property
    def e(self) -> int:
        """Padded embedding."""
        return padded(self.embedding)

    @cached_property
    def narrow(self) -> int:
        """Padded narrowest width."""
        return max(PAD, 1 << (self.widths[2] - 1).bit_length())

    @cached_property
    def ends(self) -> dict[str, Ends]:
        """Every block by name."""
        wide, middle, narrow = self.widths
        w, m, n, d = padded(wide), padded(middle), self.narrow, self.d
        return {
            "down1": Ends(d, w, self.features, wide, "x", None, "down1.h"),
            "down2": Ends(w, m, wide, middle, "down1.h", None, "down2.h"),
            "down3": Ends(m, n, middle, narrow, "down2.h", None, "bottom"),
            "up1": Ends(n, m, narrow, middle, "bottom", "down2.h", "up1.h"),
            "up2": Ends(m, w, middle, wide, "up1.h", "down1.h", "up2.h"),
            "up3": Ends(w, d, wide, self.features, "up2.h", "x", "up3.h"),
        }

    @cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters, in order."""
        return dict(self._parameters())

    def _parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        def dense(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            yield f"{name}.weight", (outputs, inputs)
            yield f"{name}.bias", (outputs,)

        def block(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
            inputs, outputs = self.ends[name].true_inputs, self.ends[name].true_outputs
            yield f"{name}.ln.weight", (inputs,)
            yield f"{name}.ln.bias", (inputs,)
            yield from dense(f"{name}.imgFC", self.embedding, inputs)
            yield from dense(f"{name}.embdFC", self.embedding, self.embedding)
            yield from dense(f"{name}.imgOut", outputs, self.embedding)
            yield from dense(f"{name}.embdOut", outputs, self.embedding)
            yield from dense(f"{name}.outFC", outputs, outputs)

        yield from dense("time_embed.0", self.embedding, self.features)
        yield from dense("time_embed.2", self.embedding, self.embedding)
        yield from dense("cond_embed.0", self.embedding, self.conditions)
        yield from dense("cond_embed.2", self.embedding, self.embedding)
        for name in DOWN:
            yield from block(name)
        for name in BOTTLENECKS:
            yield from dense(f"{name}.fc1", self.widths[2], self.widths[2])
            yield from dense(f"{name}.fc2", self.widths[2], self.widths[2])
        for name in UP:
            yield from block(name)
        yield from dense("out", self.features, self.features)

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where each parameter begins when all are laid end to end."""
        starts, total = {}, 0
        for name, shape in self.parameters.items():
            starts[name] = total
            total += torch.Size(shape).numel()
        return starts

    @cached_property
    def total(self) -> int:
        """Number of parameters."""
        return sum(torch.Size(shape).numel() for shape in self.parameters.values())


class Matrix(NamedTuple):
    """A packed weight (rows, columns): where it begins, and where its bias begins."""

    start: int
    rows: int
    columns: int
    bias: int


class Source(NamedTuple):
    """A parameter's place in a packed weight: rows from `row`, columns from `column`, filling `rows` x `columns`.

    Its bias, with a second one added to it, goes to `bias_row` of the weight's biases; `norm` is the layer norm before
    it.
    """

    matrix: str
    row: int
    column: int
    rows: int
    columns: int
    weight: str
    biases: tuple[str, ...]
    norm: str | None = None
    bias_row: int = 0


@lru_cache(maxsize=64)
def packing(size: Size) -> tuple[dict[str, Matrix], list[Source]]:
    """Packed weights of the denoiser as written, in the order of reading, and the parameters that fill them."""
    d, c, e, n = size.d, size.c, size.e, size.narrow
    shapes = {"embed1": (e, d + c), "embed2": (e, 2 * e), "context": (len(BLOCKS) * e, e)}
    sources = [
        Source("embed1", 0, 0, e, d, "time_embed.0", ("time_embed.0",)),
        Source("embed1", 0, d, e, c, "cond_embed.0", ("cond_embed.0",), bias_row=e),
        Source("embed2", 0, 0, e, e, "time_embed.2", ("time_embed.2", "cond_embed.2")),
        Source("embed2", 0, e, e, e, "cond_embed.2", ()),
    ]
    for number, (name, ends) in enumerate(size.ends.items()):
        i, o = ends.inputs, ends.outputs
        shapes |= {f"{name}.inner": (e, i), f"{name}.mid": (o, 2 * e), f"{name}.last": (o, o)}
        sources += [
            Source("context", number * e, 0, e, e, f"{name}.embdFC", (f"{name}.embdFC",), bias_row=number * e),
            Source(f"{name}.inner", 0, 0, e, i, f"{name}.imgFC", (f"{name}.imgFC",), f"{name}.ln"),
            Source(f"{name}.mid", 0, 0, o, e, f"{name}.imgOut", (f"{name}.imgOut", f"{name}.embdOut")),
            Source(f"{name}.mid", 0, e, o, e, f"{name}.embdOut", ()),
            Source(f"{name}.last", 0, 0, o, o, f"{name}.outFC", (f"{name}.outFC",)),
        ]
    shapes |= {"bottom": (4 * n, n), "out": (d, d)}
    for number, layer in enumerate(f"{name}.{part}" for name in BOTTLENECKS for part in ("fc1", "fc2")):
        sources.append(Source("bottom", number * n, 0, n, n, layer, (layer,), bias_row=number * n))
    sources.append(Source("out", 0, 0, d, d, "out", ("out",)))
    return place(shapes, {"embed1": 2 * e}), sources


def place(shapes: Mapping[str, tuple[int, int]], biases: Mapping[str, int] | None = None) -> dict[str, Matrix]:
    """Packed weights end to end; a bias is as long as its weight is high, or as `biases` has it."""
    matrices, start, bias = {}, 0, 0
    for name, (rows, columns) in shapes.items():
        matrices[name] = Matrix(start, rows, columns, bias)
        start += rows * columns
        bias += (biases or {}).get(name, rows)
    return matrices


def packed_sizes(matrices: Mapping[str, Matrix]) -> tuple[int, int]:
    """Values of all packed weights, and of all biases ("embed1" has two, one for each half of its columns)."""
    last = list(matrices.values())[-1]
    return last.start + last.rows * last.columns, last.bias + last.rows


class Arena:
    """Buffers of `rows` rows in one tensor; each begins on a multiple of 64 values.

    widths : by name; a name "a:3" is the columns 3 * e .. 4 * e of buffer "a", e being `slot`.
    """

    def __init__(self, widths: Mapping[str, int], rows: int, flat: Tensor, slot: int = 0) -> None:
        self.widths, self.rows, self.flat, self.slot = widths, rows, flat, slot
        self.begins = begins(widths)

    def __getitem__(self, name: str) -> Tensor:
        """A buffer or slot, (rows, width)."""
        buffer, _, slot = name.partition(":")
        width = self.widths[buffer]
        at, wide = self.flat.storage_offset() + self.begins[buffer] * self.rows, width
        if slot:
            at, wide = at + int(slot) * self.slot, self.slot
        return self.flat.as_strided((self.rows, wide), (width, 1), at)


def begins(widths: Mapping[str, int]) -> dict[str, int]:
    """Where each buffer begins, in columns of the arena."""
    starts, total = {}, 0
    for name, width in widths.items():
        starts[name] = total
        total += width
    return starts
