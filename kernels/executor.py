"""The denoiser on Triton kernels, forward and backward, as written and folded: runs the programs of `launch_plan.py`.

Reference implementations: `denoise` in `secondgram/diffusion/reference.py`, and `FoldedDenoiser` in
`secondgram/diffusion/folding.py`. Arguments are checked in `secondgram/ops/`, not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch_plan, tuning
from .bottleneck import narrow_backward_kernel, narrow_kernel
from .gemm import backward_kernel, forward_kernel, step_kernel
from .launch_plan import Launch, Program
from .launches import described_architecture
from .launches import launch as start
from .layout import BOTTLENECKS, Arena, Matrix, Size, begins, packed_sizes, packing, padded
from .owned import Owned
from .pack import pack_kernel
from .weights import norm_kernel, weights_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Precision(NamedTuple):
    """The dtype of activations and packed weights, and how Triton multiplies float32."""

    dtype: torch.dtype
    products: str


PRECISIONS = {
    "bf16": Precision(torch.bfloat16, "ieee"),
    "fp16": Precision(torch.float16, "ieee"),
    "tf32": Precision(torch.float32, "tf32"),
    "fp32": Precision(torch.float32, "tf32x3"),
}
ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Rows and columns that a program takes at a time: of a weight to pack, of the layer norms' gradients.
PACK_TILE = (64, 256) if INTERPRETED else (16, 128)
NORM_TILE = (256, 256) if INTERPRETED else (32, 64)
# Depths that the narrow backward kernel multiplies at a time where it reads rows back: registers decide.
BACK_DEPTH = 16


def architecture(device: torch.device) -> int | None:
    """The compute capability of a device, 90 say; None where kernels are interpreted."""
    if described_architecture() is not None:
        return described_architecture()
    if INTERPRETED or device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def statistics_widths(size: Size) -> dict[str, int]:
    """Numbers a row in the statistics: two for each tile of 64 columns or more that a layer norm's input has."""
    true = {"x": size.features} | {ends.target: ends.true_outputs for ends in size.ends.values()}
    return {name: 2 * (padded(true[name]) // 64) for name in dict.fromkeys(e.source for e in size.ends.values())}


def arena_size(widths: dict[str, int], rows: int) -> int:
    """Values of an arena of these buffers."""
    return sum(widths.values()) * rows


@cache
def _frequencies(features: int, device: torch.device) -> Tensor:
    """f_k of the time features, [half of features] float32, rounded from float64; never let go, as graphs read it."""
    half = torch.arange((features + 1) // 2, dtype=torch.float64)
    return torch.pow(100.0, -2.0 * half / features).float().to(device)


def _packing_tables(size: Size, pointers: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Table and programs of `pack_kernel`, for parameters at these addresses: the weights it packs."""
    at = dict(zip(size.parameters, pointers, strict=True))
    matrices, sources = packing(size)
    table, programs = [], []
    for number, source in enumerate(sources):
        matrix = matrices[source.matrix]
        biases = [at[f"{name}.bias"] for name in source.biases] + [0, 0]
        norm = [at[f"{source.norm}.{part}"] for part in ("weight", "bias")] if source.norm else [0, 0]
        table.append(
            [
                at[f"{source.weight}.weight"],
                *biases[:2],
                *norm,
                *size.parameters[f"{source.weight}.weight"],
                source.rows,
                source.columns,
                matrix.start + source.row * matrix.columns + source.column,
                matrix.columns,
                matrix.bias + source.bias_row if source.biases else -1,
            ]
        )
        programs += [[number, top] for top in range(0, source.rows, PACK_TILE[0])]
    return (
        torch.tensor(table, dtype=torch.int64, device=device),
        torch.tensor(programs, dtype=torch.int32, device=device),
    )


class _WeightTables(NamedTuple):
    table: Tensor
    programs: Tensor
    norms: Tensor
    norm_programs: Tensor
    products: int


def _weight_tables(
    size: Size, pointers: tuple[int, ...], device: torch.device, outputs: int, inputs: int
) -> _WeightTables:
    """Tables and programs of `weights_kernel` and `norm_kernel`: their products, in tiles of outputs x inputs."""
    at = dict(zip(size.parameters, pointers, strict=True))
    arenas = (launch_plan.forward(size, True).widths, launch_plan.backward(size, False, False).widths)
    places = tuple(begins(widths) for widths in arenas)
    e, n = size.e, size.narrow
    table: list[list[int]] = []
    products = 0
    norms, norm_programs = [], []

    def spot(arena: int, buffer: str, column: int = 0, slab: int | None = None) -> list[int]:
        # A slab buffer holds matrices of the narrow width one after the other.
        if slab is not None:
            return [arena, places[arena][buffer] + slab * n, 0, n]
        return [arena, places[arena][buffer], column, arenas[arena][buffer]]

    def add(layer: str, dY: list[int], X: list[int], result: int | None = None) -> None:
        o, i = size.parameters[f"{layer}.weight"]
        to = [0, size.starts[f"{layer}.weight"]] if result is None else [1, result]
        table.append([*dY, *X, o, i, *to, size.starts[f"{layer}.bias"]])

    add("time_embed.0", spot(1, "embed1.d"), spot(0, "waves"))
    add("cond_embed.0", spot(1, "embed1.d", e), spot(0, "c"))
    add("time_embed.2", spot(1, "emb.d"), spot(0, "embed1"))
    add("cond_embed.2", spot(1, "emb.d"), spot(0, "embed1", e))
    for number, (name, ends) in enumerate(size.ends.items()):
        hat = spot(0, "x.hat") if ends.source == "x" else spot(1, f"{name}.hat")
        add(f"{name}.imgFC", spot(1, f"{name}.inner.d"), hat, products)
        norms.append(
            [
                products,
                *(at[f"{name}.{part}"] for part in ("imgFC.weight", "ln.weight", "ln.bias")),
                *(size.starts[f"{name}.{part}"] for part in ("imgFC.weight", "ln.weight", "ln.bias", "imgFC.bias")),
                ends.true_inputs,
            ]
        )
        norm_programs += [[number, column] for column in range(0, ends.true_inputs, NORM_TILE[1])]
        products += size.embedding * ends.true_inputs
        add(f"{name}.embdFC", spot(1, "context.d", number * e), spot(0, "emb"))
        add(f"{name}.imgOut", spot(1, f"{name}.mid.d"), spot(0, f"{name}.inner"))
        add(f"{name}.embdOut", spot(1, f"{name}.mid.d"), spot(0, "context", number * e))
        add(f"{name}.outFC", spot(1, f"{name}.d"), spot(0, f"{name}.mid"))
    layers = [f"{name}.{part}" for name in BOTTLENECKS for part in ("fc1", "fc2")]
    for slab, layer in enumerate(layers):
        add(layer, spot(1, "bottom.gradients", slab=slab), spot(1, "bottom.inputs", slab=slab))
    add("out", spot(1, "g"), spot(0, "up3.h"))
    programs = [
        [number, o, i]
        for number, row in enumerate(table)
        for o in range(0, row[8], outputs)
        for i in range(0, row[9], inputs)
    ]
    return _WeightTables(
        torch.tensor(table, dtype=torch.int64, device=device),
        torch.tensor(programs, dtype=torch.int32, device=device),
        torch.tensor(norms, dtype=torch.int64, device=device),
        torch.tensor(norm_programs, dtype=torch.int32, device=device),
        products,
    )


_packed_of: Owned[tuple[Tensor, Tensor]] = Owned()
_gradients_of: Owned[_WeightTables] = Owned()


class Tables(NamedTuple):
    """For folded rows: a step's row of the time tables [blocks * E], and the people's tables [people, blocks * E]."""

    time: Tensor
    people: Tensor


class Noise(NamedTuple):
    """Keys of the noise of a solver's step: keys [people] int64, draws [M] int32, and the counter's other words."""

    keys: Tensor
    draws: Tensor
    seed: int
    purpose: int
    step: int


class Drops(NamedTuple):
    """Dropout: the share dropped, and uniform numbers [rows, width] for the outputs of `DROPPED`, in order."""

    share: float
    numbers: tuple[Tensor, ...]

    def of(self, name: str) -> Tensor | None:
        """The numbers of a block, or None."""
        return self.numbers[DROPPED.index(name)] if self.numbers and name in DROPPED else None


# Blocks that dropout follows.
DROPPED = ("down1", "down2", "down3", "up1", "up2")
NO_DROPS = Drops(0.0, ())


class Pass:
    """One program with the tensors it works on."""

    def __init__(
        self,
        program: Program,
        precision: str,
        rows: int,
        *,
        matrices: dict[str, Matrix],
        packed: Tensor,
        vectors: Tensor,
        arena: Arena,
        statistics: Tensor,
        users: dict[str, Tensor],
        earlier: Arena | None = None,
        weights: Sequence[Tensor] = (),
        tables: Tables | None = None,
        noise: Noise | None = None,
        coefficients: Tensor | None = None,
        offsets: Tensor | None = None,
        drops: Drops = NO_DROPS,
    ) -> None:
        self.program, self.size, self.precision, self.rows = program, program.size, precision, rows
        self.matrices, self.packed, self.vectors = matrices, packed, vectors
        self.arena, self.earlier, self.statistics, self.users = arena, earlier, statistics, users
        self.weights, self.tables, self.noise = weights, tables, noise
        self.coefficients, self.offsets, self.drops = coefficients, offsets, drops
        # At first the moments of x come from `pack_kernel`, which takes whole rows; then from `step_kernel`.
        self.first_step = True
        self.products = PRECISIONS[precision].products
        self.architecture = architecture(packed.device)
        self.statistics_begin = begins(statistics_widths(self.size))
        self.dots: dict[str, Tensor] = {}

    def run(self) -> None:
        """Every launch, in order."""
        device = self.packed.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            if tuning.wanted() and self.architecture is not None:
                self.tune(_milliseconds)
            for launch in self.program.launches:
                self.launch(launch)

    def launch(self, launch: Launch, tile: tuning.Tile | None = None) -> None:
        """One launch, on the tile of the table unless another is given."""
        chosen = self._tile(launch) if tile is None else tile.dividing(launch.halves) if launch.halves else tile
        {
            "pack": self._pack,
            "forward": self._forward,
            "backward": self._backward,
            "narrow": self._narrow,
            "step": self._step,
            "weights": self._weights,
            "norms": self._norms,
        }[launch.kernel](launch, chosen)

    def tune(self, measure: Callable[[Callable[[], None]], float]) -> None:
        """Search the tiles of every class of launches that this process has not searched; `measure` times a call."""
        assert self.architecture is not None
        classes: dict[tuple[str, str], list[Launch]] = {}
        for launch in self.program.launches:
            if launch.kernel in tuning.KERNELS:
                name = tuning.shape_class(self.rows, self._columns(launch))
                classes.setdefault((launch.kernel, name), []).append(launch)
        # A solver's step overwrites its inputs.
        state = {name: self.users[name].clone() for name in ("state", "before") if name in self.users}
        for (kernel, name), launches in classes.items():

            def measured(tile: tuning.Tile, launches: list[Launch] = launches) -> float:
                return sum(measure(partial(self.launch, launch, tile)) for launch in launches)

            tuning.search(self.architecture, self.precision, kernel, name, measured)
        for name, value in state.items():
            self.users[name].copy_(value)

    # -- places -------------------------------------------------------------------------

    def _tile(self, launch: Launch) -> tuning.Tile:
        if launch.kernel in ("pack", "norms"):
            return tuning.INTERPRETED
        tile = tuning.tile(self.architecture, self.precision, launch.kernel, self.rows, self._columns(launch))
        if self.architecture is None and launch.columns:
            tile = tile._replace(columns=min(tile.columns, triton.next_power_of_2(launch.columns)))
        return tile.dividing(launch.halves) if launch.halves else tile

    def _columns(self, launch: Launch) -> int:
        return max(self.size.e, self.size.d) if launch.kernel == "weights" else launch.columns

    def _at(self, name: str) -> Tensor | None:
        if not name:
            return None
        if name.startswith("user:"):
            return self.users[name[5:]]
        if name.startswith("f:"):
            assert self.earlier is not None
            return self.earlier[name[2:]]
        return self.arena[name]

    def _moments(self, name: str) -> Tensor | None:
        return self.statistics[self.statistics_begin[name] * self.rows :] if name else None

    def _tile_width(self, source: str) -> int:
        """Columns of the tiles whose moments were written for a layer norm's input."""
        if source == "bottom":
            return self.size.narrow
        if source == "x" and (self.first_step or self.program.launches[-1].kernel != "step"):
            return self.size.features
        ahead = launch_plan.forward(self.size, True) if self.earlier else self.program
        maker = next(made for made in ahead.launches if made.written("moments") == source)
        return self._tile(maker).columns

    def _rounds(self, launch: Launch) -> bool:
        """Whether the output of a launch is an operand of TF32 products."""
        return self.products == "tf32" and not launch.written("out").startswith("user:")

    def _matrix(self, name: str, column: int = 0) -> tuple[Tensor, Tensor, int]:
        matrix = self.matrices[name]
        return self.packed[matrix.start + column :], self.vectors[matrix.bias :], matrix.columns

    def _grid(self, launch: Launch, tile: tuning.Tile) -> tuple[int, ...]:
        return (triton.cdiv(self.rows, tile.rows) * triton.cdiv(launch.columns, tile.columns),)

    # -- kernels ------------------------------------------------------------------------

    def _pack(self, launch: Launch, tile: tuning.Tile) -> None:
        size, packs = self.size, launch.weight == "all"
        x, out_x = self.users[launch.read("x")[5:]], self._at(launch.written("x"))
        assert out_x is not None
        t, c = (self.users.get(launch.read(role)[5:]) for role in ("t", "c"))
        table = programs = None
        if packs:
            places = size, tuple(w.data_ptr() for w in self.weights), self.packed.device
            table, programs = _packed_of.get(places, self.weights, lambda: _packing_tables(*places))
        start(
            launch.name,
            pack_kernel,
            (self.rows + (len(programs) if programs is not None else 0),),
            out_x=out_x,
            out_hat=self._at(launch.written("hat")),
            out_waves=self._at(launch.written("waves")),
            out_c=self._at(launch.written("c")),
            moments=self._moments("x" if launch.name == "pack" else ""),
            packed=self.packed if packs else None,
            vectors=self.vectors if packs else None,
            x=x,
            t=t,
            c=c,
            frequencies=_frequencies(size.features, x.device) if t is not None else None,
            table=table,
            programs=programs,
            rows=self.rows,
            features=size.features,
            conditions=size.conditions,
            padded_features=size.d,
            padded_conditions=size.c,
            x_stride=x.stride(0),
            x_step=x.stride(1),
            t_stride=t.stride(0) if t is not None else 0,
            c_stride=c.stride(0) if c is not None else 0,
            c_step=c.stride(1) if c is not None else 0,
            out_x_stride=out_x.stride(0),
            WIDE=triton.next_power_of_2(size.d),
            DTYPE=ELEMENTS[self.weights[0].dtype] if packs else None,
            ROUND=self.products == "tf32",
            HEIGHT=PACK_TILE[0],
            COLUMNS=PACK_TILE[1],
        )

    def _forward(self, launch: Launch, tile: tuning.Tile) -> None:
        first, second = self._at(launch.read("first")), self._at(launch.read("second"))
        out, kept = self._at(launch.written("out")), self._at(launch.written("kept"))
        residual, source = self._at(launch.read("residual")), launch.read("moments")
        assert first is not None
        assert out is not None
        weight, bias, weight_stride = self._matrix(launch.weight)
        table = self._table(launch)
        split = first.stride(0) if launch.halved or second is not None else launch.depth
        stop = launch.depth - (self.size.e if table else 0)
        start(
            launch.name,
            forward_kernel,
            self._grid(launch, tile),
            out=out,
            kept=kept,
            moments_out=self._moments(launch.written("moments")),
            first=first,
            second=second,
            weight=weight,
            bias=bias,
            moments=self._moments(source),
            residual=residual,
            time=table.time if table else None,
            people=table.people if table else None,
            drop=self.drops.of(launch.name.removesuffix(".last")),
            share=self.drops.share,
            rows=self.rows,
            columns=launch.columns,
            limit=out.shape[1],
            half=launch.halves,
            split=split,
            stop=stop,
            table=self.size.e if table else 0,
            number=len(table.people) if table else 1,
            width=launch.width,
            tile_width=self._tile_width(source) if source else 1,
            out_width=launch.width,
            first_stride=first.stride(0),
            second_stride=second.stride(0) if second is not None else 0,
            weight_stride=weight_stride,
            residual_stride=residual.stride(0) if residual is not None else 0,
            people_stride=table.people.stride(0) if table else 0,
            out_stride=out.stride(0),
            out_step=out.stride(1),
            HALVES=launch.halved,
            ACTIVATE=launch.activate,
            ROUND=self._rounds(launch),
            PRECISION=self.products,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            **tile.options(),
        )

    def _table(self, launch: Launch) -> Tables | None:
        number = launch.read("table")
        if not number:
            return None
        assert self.tables is not None
        part = slice(int(number) * self.size.e, (int(number) + 1) * self.size.e)
        return Tables(self.tables.time[part], self.tables.people[:, part])

    def _backward(self, launch: Launch, tile: tuning.Tile) -> None:
        first, out, other = (
            self._at(launch.read("first")),
            self._at(launch.written("out")),
            self._at(launch.written("other")),
        )
        z, other_z, h = (self._at(launch.read(role)) for role in ("z", "other_z", "h"))
        extra, hat = self._at(launch.read("extra")), self._at(launch.written("hat"))
        assert first is not None
        assert out is not None
        source, dots, dots_out = launch.read("moments"), launch.read("dots"), launch.written("dots")
        # The gradient of c goes through the second half of the columns of the first layers' weights.
        weight, _, weight_stride = self._matrix(launch.weight, self.size.d if launch.name == "c.back" else 0)
        bias = None
        if dots_out:
            bias = self.vectors[self.matrices[f"{dots_out}.inner"].bias :]
            tiles = self.size.e // tile.columns
            self.dots[dots_out] = torch.empty((tiles, self.rows), dtype=torch.float32, device=first.device)

        def stride(tensor: Tensor | None) -> int:
            return 0 if tensor is None else tensor.stride(0)

        start(
            launch.name,
            backward_kernel,
            self._grid(launch, tile),
            out=out,
            other=other,
            first=first,
            weight=weight,
            z=z,
            other_z=other_z,
            bias=bias,
            dots_out=self.dots[dots_out] if dots_out else None,
            h=h,
            moments=self._moments(source),
            dots=self.dots[dots] if dots else None,
            hat=hat,
            extra=extra,
            drop=self.drops.of(launch.written("out").removesuffix(".d")) if source else None,
            share=self.drops.share,
            rows=self.rows,
            columns=launch.columns,
            limit=launch.columns if other is not None else out.shape[1],
            half=launch.halves,
            stop=launch.depth,
            width=launch.width,
            tile_width=self._tile_width(source) if source else 1,
            dot_tiles=len(self.dots[dots]) if dots else 0,
            first_stride=stride(first),
            weight_stride=weight_stride,
            z_stride=stride(z),
            other_z_stride=stride(other_z),
            h_stride=stride(h),
            hat_stride=stride(hat),
            extra_stride=stride(extra),
            out_stride=stride(out),
            out_step=out.stride(1),
            other_stride=stride(other),
            ROUND=self._rounds(launch),
            PRECISION=self.products,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            **tile.options(),
        )

    def _narrow(self, launch: Launch, tile: tuning.Tile) -> None:
        bottom, bottom_bias, _ = self._matrix("bottom")
        grid = (triton.cdiv(self.rows, tile.rows),)
        shared: dict[str, Any] = dict(
            drop=self.drops.of("down3"),
            share=self.drops.share,
            rows=self.rows,
            PRECISION=self.products,
            ROWS=tile.rows,
            WIDTH=self.size.narrow,
            **tile.options(),
        )
        if launch.name == "bottom.back":
            start(
                launch.name,
                narrow_backward_kernel,
                grid,
                gradient=self._at(launch.read("gradient")),
                z=self._at(launch.read("z")),
                kept=self._at(launch.read("kept")),
                last=self._matrix("down3.last")[0],
                weights=bottom,
                inputs=self._at(launch.written("inputs")),
                gradients=self._at(launch.written("gradients")),
                z_gradient=self._at(launch.written("z")),
                mid_gradient=self._at(launch.written("mid")),
                width=launch.width,
                DEPTH=BACK_DEPTH,
                **shared,
            )
            return
        first, second = self._at(launch.read("first")), self._at(launch.read("second"))
        assert first is not None
        weight, bias, weight_stride = self._matrix(launch.weight)
        last, last_bias = self._matrix("down3.last")[:2] if "down3.last" in self.matrices else (None, None)
        table = self._table(launch)
        start(
            launch.name,
            narrow_kernel,
            grid,
            out=self._at(launch.written("out")),
            moments_out=self._moments("bottom"),
            mid=self._at(launch.written("mid")),
            z=self._at(launch.written("z")),
            kept=self._at(launch.written("kept")),
            first=first,
            second=second,
            weight=weight,
            bias=bias,
            last=last,
            last_bias=last_bias,
            weights=bottom,
            biases=bottom_bias,
            time=table.time if table else None,
            people=table.people if table else None,
            split=self.size.e,
            stop=launch.depth - (self.size.e if table else 0),
            table=self.size.e if table else 0,
            number=len(table.people) if table else 1,
            out_width=launch.width,
            first_stride=first.stride(0),
            second_stride=second.stride(0) if second is not None else 0,
            weight_stride=weight_stride,
            people_stride=table.people.stride(0) if table else 0,
            DEPTH=tile.depth,
            **shared,
        )

    def _step(self, launch: Launch, tile: tuning.Tile) -> None:
        x, state, first = self._at("x"), self.users["state"], self._at(launch.read("first"))
        assert x is not None
        assert first is not None
        weight, bias, weight_stride = self._matrix(launch.weight)
        noise = self.noise
        start(
            launch.name,
            step_kernel,
            self._grid(launch, tile),
            x=x,
            state=state,
            before=self.users["before"],
            moments_out=self._moments("x"),
            first=first,
            weight=weight,
            bias=bias,
            coefficients=self.coefficients,
            keys=noise.keys if noise else None,
            draws=noise.draws if noise else None,
            seed=noise.seed if noise else 0,
            purpose=noise.purpose if noise else 0,
            step=noise.step if noise else 0,
            rows=self.rows,
            columns=launch.columns,
            width=launch.width,
            stop=launch.depth,
            number=len(noise.keys) if noise else 1,
            x_stride=x.stride(0),
            state_stride=state.stride(0),
            first_stride=first.stride(0),
            weight_stride=weight_stride,
            PRECISION=self.products,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            **tile.options(),
        )

    def _weights(self, launch: Launch, tile: tuning.Tile) -> None:
        assert self.earlier is not None
        gradients = self.users["gradients"]
        tables = self._gradient_tables(tile)
        products = torch.empty((len(gradients), tables.products), dtype=torch.float32, device=gradients.device)
        self.users["products"] = products
        start(
            launch.name,
            weights_kernel,
            (len(tables.programs), len(gradients)),
            gradients=gradients,
            products=products,
            forward=self.earlier.flat,
            backward=self.arena.flat,
            offsets=self.offsets,
            table=tables.table,
            programs=tables.programs,
            rows=self.rows,
            gradient_stride=gradients.stride(0),
            product_stride=products.stride(0),
            PRECISION=self.products,
            OUTPUTS=tile.rows,
            INPUTS=tile.columns,
            DEPTH=tile.depth,
            **tile.options(),
        )

    def _gradient_tables(self, tile: tuning.Tile) -> _WeightTables:
        pointers = tuple(w.data_ptr() for w in self.weights)
        places = self.size, pointers, self.packed.device, tile.rows, tile.columns
        return _gradients_of.get(places, self.weights, lambda: _weight_tables(*places))

    def _norms(self, launch: Launch, tile: tuning.Tile) -> None:
        weights = next(made for made in self.program.launches if made.kernel == "weights")
        tables = self._gradient_tables(self._tile(weights))
        gradients, products = self.users["gradients"], self.users["products"]
        start(
            launch.name,
            norm_kernel,
            (len(tables.norm_programs), len(gradients)),
            gradients=gradients,
            products=products,
            table=tables.norms,
            programs=tables.norm_programs,
            outputs=self.size.embedding,
            gradient_stride=gradients.stride(0),
            product_stride=products.stride(0),
            DTYPE=ELEMENTS[self.weights[0].dtype],
            HEIGHT=NORM_TILE[0],
            COLUMNS=NORM_TILE[1],
        )


def _milliseconds(call: Callable[[], None]) -> float:
    return float(triton.testing.do_bench(call, warmup=5, rep=20))


class Kept(NamedTuple):
    """Tensors that the backward pass needs: packed weights, biases, activations and moments."""

    packed: Tensor
    vectors: Tensor
    activations: Tensor
    statistics: Tensor


def kept_sizes(size: Size, rows: int, keep: bool) -> tuple[int, int, int, int]:
    """Values of each part of `Kept`."""
    weights, biases = packed_sizes(packing(size)[0])
    widths = launch_plan.forward(size, keep).widths
    return weights, biases, arena_size(widths, rows), arena_size(statistics_widths(size), rows)


def denoise(
    size: Size,
    precision: str,
    x: Tensor,
    t: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    keep: bool,
    drops: Drops = NO_DROPS,
) -> tuple[Tensor, Kept]:
    """x (B, D), t (B,), c (B, conditions) and the parameters in order, contiguous and of one dtype.

    Returns (B, D) in the dtype of x, and `Kept` for `gradients` where `keep`.
    """
    rows = len(x)
    sizes = kept_sizes(size, rows, keep)
    kept = Kept(*(torch.empty(n, dtype=d, device=x.device) for n, d in zip(sizes, kept_dtypes(precision), strict=True)))
    out = torch.empty((rows, size.features), dtype=x.dtype, device=x.device)
    if rows == 0:
        return out, kept
    program = launch_plan.forward(size, keep)
    work = Pass(
        program,
        precision,
        rows,
        matrices=packing(size)[0],
        packed=kept.packed,
        vectors=kept.vectors,
        arena=Arena(program.widths, rows, kept.activations, size.e),
        statistics=kept.statistics,
        users={"x": x, "t": t, "c": c, "out": out},
        weights=weights,
        drops=drops,
    )
    work.run()
    return out, kept


def kept_dtypes(precision: str) -> tuple[torch.dtype, ...]:
    """The dtype of each part of `Kept`."""
    dtype = PRECISIONS[precision].dtype
    return dtype, torch.float32, dtype, torch.float32


def gradients(
    size: Size,
    precision: str,
    gradient: Tensor,
    kept: Kept,
    weights: Sequence[Tensor],
    *,
    x_gradient: bool = False,
    c_gradient: bool = False,
    offsets: Tensor | None = None,
    drops: Drops = NO_DROPS,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """From the gradient of the output (B, D): (tasks, P) float32 of all parameters end to end, and of x and c.

    offsets : (tasks + 1,) int: rows offsets[i] .. offsets[i + 1] are task i's; None for one task.
    """
    rows, device = len(gradient), gradient.device
    tasks = 1 if offsets is None else len(offsets) - 1
    users = {"g": gradient}
    users["gradients"] = torch.empty((tasks, size.total), dtype=torch.float32, device=device)
    if x_gradient:
        users["x"] = torch.empty((rows, size.features), dtype=gradient.dtype, device=device)
    if c_gradient:
        users["c"] = torch.empty((rows, size.conditions), dtype=gradient.dtype, device=device)
    if rows == 0:
        return users["gradients"].zero_(), users.get("x"), users.get("c")
    program = launch_plan.backward(size, x_gradient, c_gradient)
    ahead = launch_plan.forward(size, True)
    flat = torch.empty(arena_size(program.widths, rows), dtype=PRECISIONS[precision].dtype, device=device)
    work = Pass(
        program,
        precision,
        rows,
        matrices=packing(size)[0],
        packed=kept.packed,
        vectors=kept.vectors,
        arena=Arena(program.widths, rows, flat, size.e),
        earlier=Arena(ahead.widths, rows, kept.activations, size.e),
        statistics=kept.statistics,
        users=users,
        weights=weights,
        offsets=offsets,
        drops=drops,
    )
    work.run()
    return users["gradients"], users.get("x"), users.get("c")
