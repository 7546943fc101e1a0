"""Launch lists of the passes of the denoiser, in order: buffers that each launch reads and writes, and its product.

`executor.py` runs these lists as they stand; `python -m secondgram.kernels.launch_plan` prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .layout import BLOCKS, BOTTLENECKS, DOWN, UP, Matrix, Size, packed_sizes, packing, place

BYTES = {"bf16": 2, "fp16": 2, "tf32": 4, "fp32": 4}


@dataclass(frozen=True)
class Launch:
    """One launch.

    kernel : which one, as in `tuning.KERNELS`, or "pack", "weights", "norms".
    reads, writes : buffers of `rows` rows by the role they play;  weight : the packed weight.
    columns, depth : of the product, padded;  activate : SiLU at the end;  width : true width of the rows whose moments
    are written or read;  halves : where the columns divide in two, 0 for nowhere;  halved : also the inputs do.
    """

    name: str
    kernel: str
    reads: tuple[tuple[str, str], ...] = ()
    writes: tuple[tuple[str, str], ...] = ()
    weight: str = ""
    columns: int = 0
    depth: int = 0
    activate: bool = False
    width: int = 0
    halves: int = 0
    halved: bool = False

    def read(self, role: str) -> str:
        """The buffer read in a role; empty for none."""
        return dict(self.reads).get(role, "")

    def written(self, role: str) -> str:
        """The buffer written in a role; empty for none."""
        return dict(self.writes).get(role, "")


def _roles(**buffers: str | None) -> tuple[tuple[str, str], ...]:
    return tuple((role, name) for role, name in buffers.items() if name)


@dataclass(frozen=True)
class Program:
    """The launches of one pass and the widths of the buffers that they use."""

    size: Size
    launches: tuple[Launch, ...]
    widths: dict[str, int]

    def __hash__(self) -> int:
        return hash((self.size, self.launches))


@lru_cache(maxsize=64)
def forward(size: Size, keep: bool) -> Program:
    """The denoiser as written; `keep` also keeps the activations that the backward pass needs."""
    d, c, e, n = size.d, size.c, size.e, size.narrow
    widths = {"x": d, "waves": d, "c": c, "embed1": 2 * e, "emb": e, "context": len(BLOCKS) * e}
    if keep:
        widths |= {"x.hat": d, "embed1.z": 2 * e, "context.z": len(BLOCKS) * e}

    def kept(name: str) -> str | None:
        return name if keep else None

    launches = [
        Launch(
            "pack",
            "pack",
            reads=_roles(x="user:x", t="user:t", c="user:c"),
            writes=_roles(x="x", hat=kept("x.hat"), waves="waves", c="c"),
            weight="all",
        ),
        Launch(
            "embed1",
            "forward",
            reads=_roles(first="waves", second="c"),
            writes=_roles(out="embed1", kept=kept("embed1.z")),
            weight="embed1",
            columns=2 * e,
            depth=d + c,
            activate=True,
            halves=e,
            halved=True,
        ),
        Launch(
            "embed2",
            "forward",
            reads=_roles(first="embed1"),
            writes=_roles(out="emb"),
            weight="embed2",
            columns=e,
            depth=2 * e,
        ),
        Launch(
            "context",
            "forward",
            reads=_roles(first="emb"),
            writes=_roles(out="context", kept=kept("context.z")),
            weight="context",
            columns=len(BLOCKS) * e,
            depth=e,
            activate=True,
        ),
    ]
    for number, (name, ends) in enumerate(size.ends.items()):
        i, o = ends.inputs, ends.outputs
        widths[f"{name}.inner"] = e
        if keep or name != "down3":
            widths[f"{name}.mid"] = o
        if keep:
            widths |= {f"{name}.inner.z": e, f"{name}.z": o}
        launches.append(
            Launch(
                f"{name}.inner",
                "forward",
                reads=_roles(first=ends.source, moments=ends.source),
                writes=_roles(out=f"{name}.inner", kept=kept(f"{name}.inner.z")),
                weight=f"{name}.inner",
                columns=e,
                depth=i,
                activate=True,
                width=ends.true_inputs,
            )
        )
        if name == "down3":
            widths |= {"bottom": n} | ({"bottom.kept": 4 * n} if keep else {})
            launches.append(
                Launch(
                    "bottom",
                    "narrow",
                    reads=_roles(first=f"{name}.inner", second=f"context:{number}"),
                    writes=_roles(
                        out="bottom",
                        moments="bottom",
                        mid=kept(f"{name}.mid"),
                        z=kept(f"{name}.z"),
                        kept=kept("bottom.kept"),
                    ),
                    weight=f"{name}.mid",
                    columns=n,
                    depth=2 * e,
                    width=ends.true_outputs,
                )
            )
            continue
        widths[ends.target] = o
        launches += [
            Launch(
                f"{name}.mid",
                "forward",
                reads=_roles(first=f"{name}.inner", second=f"context:{number}", residual=ends.skip),
                writes=_roles(out=f"{name}.mid"),
                weight=f"{name}.mid",
                columns=o,
                depth=2 * e,
            ),
            Launch(
                f"{name}.last",
                "forward",
                reads=_roles(first=f"{name}.mid"),
                writes=_roles(
                    out=ends.target,
                    kept=kept(f"{name}.z"),
                    moments=ends.target if name != "up3" else None,
                ),
                weight=f"{name}.last",
                columns=o,
                depth=o,
                activate=True,
                width=ends.true_outputs,
            ),
        ]
    launches.append(
        Launch(
            "out",
            "forward",
            reads=_roles(first="up3.h"),
            writes=_roles(out="user:out"),
            weight="out",
            columns=d,
            depth=d,
        )
    )
    return Program(size, tuple(launches), widths)


@lru_cache(maxsize=64)
def backward(size: Size, x_gradient: bool, c_gradient: bool) -> Program:
    """From the output's gradient to that of all parameters, and of x and c where wanted.

    Buffers of the forward pass are named with an "f:" before them.
    """
    d, e, n = size.d, size.e, size.narrow
    widths = {"g": d, "context.d": len(BLOCKS) * e, "emb.d": e, "embed1.d": 2 * e}
    widths |= {"bottom.d": n, "bottom.inputs": 4 * n, "bottom.gradients": 4 * n}
    for name, ends in size.ends.items():
        widths |= {f"{name}.d": ends.outputs, f"{name}.mid.d": ends.outputs, f"{name}.inner.d": e}
        if ends.source != "x":
            widths[f"{name}.hat"] = ends.inputs
    launches = [
        Launch("gradient", "pack", reads=_roles(x="user:g"), writes=_roles(x="g")),
        Launch(
            "out.back",
            "backward",
            reads=_roles(first="g", z="f:up3.z"),
            writes=_roles(out="up3.d"),
            weight="out",
            columns=d,
            depth=d,
        ),
    ]
    # The gradient of a skip connection comes from the block that reads it, and is added to that of the next block.
    skips = {ends.skip: f"{name}.mid.d" for name, ends in size.ends.items() if ends.skip}
    makers = {ends.target: name for name, ends in size.ends.items()}
    for name in reversed(BLOCKS):
        ends, number = size.ends[name], BLOCKS.index(name)
        if name == "down3":
            launches.append(
                Launch(
                    "bottom.back",
                    "narrow",
                    reads=_roles(gradient="bottom.d", z="f:down3.z", kept="f:bottom.kept"),
                    writes=_roles(inputs="bottom.inputs", gradients="bottom.gradients", z="down3.d", mid="down3.mid.d"),
                    weight="down3.last",
                    columns=n,
                    width=ends.true_outputs,
                )
            )
        else:
            launches.append(
                Launch(
                    f"{name}.last.back",
                    "backward",
                    reads=_roles(first=f"{name}.d"),
                    writes=_roles(out=f"{name}.mid.d"),
                    weight=f"{name}.last",
                    columns=ends.outputs,
                    depth=ends.outputs,
                )
            )
        launches.append(
            Launch(
                f"{name}.mid.back",
                "backward",
                reads=_roles(first=f"{name}.mid.d", z=f"f:{name}.inner.z", other_z=f"f:context.z:{number}"),
                writes=_roles(out=f"{name}.inner.d", other=f"context.d:{number}", dots=name),
                weight=f"{name}.mid",
                columns=2 * e,
                depth=ends.outputs,
                halves=e,
            )
        )
        maker = makers.get(ends.source)
        if maker is None and not x_gradient:
            continue
        launches.append(
            Launch(
                f"{name}.inner.back",
                "backward",
                reads=_roles(
                    first=f"{name}.inner.d",
                    h=f"f:{ends.source}",
                    moments=ends.source,
                    dots=name,
                    extra=skips.get(ends.source),
                    z=f"f:{maker}.z" if maker and ends.source != "bottom" else None,
                ),
                writes=_roles(
                    out="user:x" if maker is None else "bottom.d" if ends.source == "bottom" else f"{maker}.d",
                    hat=f"{name}.hat" if maker else None,
                ),
                weight=f"{name}.inner",
                columns=ends.inputs,
                depth=e,
                width=ends.true_inputs,
            )
        )
    launches += [
        Launch(
            "context.back",
            "backward",
            reads=_roles(first="context.d"),
            writes=_roles(out="emb.d"),
            weight="context",
            columns=e,
            depth=len(BLOCKS) * e,
        ),
        Launch(
            "embed2.back",
            "backward",
            reads=_roles(first="emb.d", z="f:embed1.z"),
            writes=_roles(out="embed1.d"),
            weight="embed2",
            columns=2 * e,
            depth=e,
        ),
    ]
    if c_gradient:
        launches.append(
            Launch(
                "c.back",
                "backward",
                reads=_roles(first="embed1.d:1"),
                writes=_roles(out="user:c"),
                weight="embed1",
                columns=size.c,
                depth=e,
            )
        )
    launches += [Launch("weights", "weights", weight="all"), Launch("norms", "norms", weight="all")]
    return Program(size, tuple(launches), widths)


def folded_matrices(size: Size) -> dict[str, Matrix]:
    """Packed weights of the folded denoiser: [image | join | context] of a block are one matrix."""
    e, n = size.e, size.narrow
    shapes: dict[str, tuple[int, int]] = {}
    for name, ends in size.ends.items():
        skip = ends.outputs if ends.skip else 0
        shapes |= {f"{name}.inner": (e, ends.inputs), f"{name}.join": (ends.outputs, e + skip + e)}
    return place(shapes | {"bottom": (4 * n, n), "out": (size.d, size.d)})


@lru_cache(maxsize=64)
def folded(size: Size, step: bool) -> Program:
    """The folded denoiser: `step` starts from a padded state and ends with a solver's step, in place."""
    d, e, n = size.d, size.e, size.narrow
    widths = {"x": d, "bottom": n}
    launches = []
    if not step:
        launches.append(Launch("pack", "pack", reads=_roles(x="user:x"), writes=_roles(x="x")))
    for number, (name, ends) in enumerate(size.ends.items()):
        widths[f"{name}.inner"] = e
        launches.append(
            Launch(
                f"{name}.inner",
                "forward",
                reads=_roles(first=ends.source, moments=ends.source),
                writes=_roles(out=f"{name}.inner"),
                weight=f"{name}.inner",
                columns=e,
                depth=ends.inputs,
                activate=True,
                width=ends.true_inputs,
            )
        )
        join: dict[str, Any] = dict(
            reads=_roles(first=f"{name}.inner", second=ends.skip, table=str(number)),
            weight=f"{name}.join",
            columns=ends.outputs,
            depth=2 * e + (ends.outputs if ends.skip else 0),
            width=ends.true_outputs,
        )
        if name == "down3":
            launches.append(Launch("bottom", "narrow", writes=_roles(out="bottom", moments="bottom"), **join))
            continue
        widths[ends.target] = ends.outputs
        moments = ends.target if name != "up3" else None
        writes = _roles(out=ends.target, moments=moments)
        launches.append(Launch(f"{name}.join", "forward", writes=writes, activate=True, **join))
    launches.append(
        Launch(
            "step" if step else "out",
            "step" if step else "forward",
            reads=_roles(first="up3.h", state="state" if step else None, before="state" if step else None),
            writes=_roles(out="x" if step else "user:out", moments="x" if step else None),
            weight="out",
            columns=d,
            depth=d,
            width=size.features if step else 0,
        )
    )
    return Program(size, tuple(launches), widths)


@dataclass(frozen=True)
class Cost:
    """Bytes that a launch must read and write at least (each buffer once), and the operations of its products."""

    name: str
    read: int
    written: int
    flops: int


def costs(program: Program, rows: int, precision: str, forward_widths: dict[str, int] | None = None) -> list[Cost]:
    """Bytes and operations of every launch of a program, padding included; a product and a sum count two."""
    size, item = program.size, BYTES[precision]
    folds = any(launch.name == "down1.join" for launch in program.launches)
    matrices = folded_matrices(size) if folds else packing(size)[0]
    users = {"x": size.features, "g": size.features, "out": size.features, "t": 1, "c": size.conditions}

    def moved(names: Sequence[tuple[str, str]]) -> int:
        total = 0
        for role, name in names:
            if role in ("moments", "dots"):
                # Two numbers, or one, for each tile of up to 64 columns and row.
                total += rows * 8 * (size.d // 64 if role == "moments" else size.e // 64)
            elif role == "table":
                total += rows * size.e * item
            elif name.startswith("user:"):
                total += 4 * rows * users[name[5:]]
            elif name == "state":
                total += 2 * 4 * rows * size.d
            else:
                widths = forward_widths or {} if name.startswith("f:") else program.widths
                buffer, _, slot = name.removeprefix("f:").partition(":")
                total += rows * item * (size.e if slot else widths[buffer])
        return total

    found = []
    for launch in program.launches:
        read, written = moved(launch.reads), moved(launch.writes)
        flops = 2 * rows * launch.columns * (launch.depth // 2 if launch.halved else launch.depth)
        if launch.kernel in ("forward", "backward", "step"):
            matrix = matrices[launch.weight]
            read += matrix.rows * matrix.columns * item + 4 * launch.columns
        elif launch.kernel == "narrow":
            squares = 4 if folds else 5
            read += (launch.columns * (launch.depth + squares * launch.columns)) * item
            flops += 2 * rows * squares * launch.columns**2
        elif launch.kernel == "pack" and launch.weight:
            read += 4 * size.total
            written += item * packed_sizes(matrices)[0]
        elif launch.kernel == "weights":
            wide = _weight_operands(size)
            read += rows * item * sum(sum(pair) for pair in wide)
            written += 4 * size.total
            flops += 2 * rows * sum(o * i for o, i in wide)
        elif launch.kernel == "norms":
            inner = size.embedding * sum(ends.true_inputs for ends in size.ends.values())
            read += 8 * inner
            written += 4 * inner
        found.append(Cost(launch.name, read, written, flops))
    return found


def _weight_operands(size: Size) -> list[tuple[int, int]]:
    """Padded (outputs, inputs) of every product of weight gradients."""
    e, n = size.e, size.narrow
    pairs = [(e, size.d), (e, e), (e, size.c), (e, e), (size.d, size.d), *[(n, n)] * (2 * len(BOTTLENECKS))]
    for name in (*DOWN, *UP):
        i, o = size.ends[name].inputs, size.ends[name].outputs
        pairs += [(e, i), (e, e), (o, e), (o, e), (o, o)]
    return pairs


def floor(size: Size, rows: int, gradients: bool = False) -> int:
    """Bytes that any program of the denoiser as written must move: inputs and weights once in, outputs once out."""
    total = 4 * rows * (2 * size.features + size.conditions + 1) + 4 * size.total
    return total + (4 * rows * size.features + 4 * size.total if gradients else 0)


def folded_floor(size: Size, rows: int, precision: str) -> int:
    """The same folded: packed weights and tables instead of weights and conditions."""
    item = BYTES[precision]
    weights, biases = packed_sizes(folded_matrices(size))
    return 4 * rows * 2 * size.features + item * (weights + rows * len(BLOCKS) * size.e) + 4 * biases


def report(size: Size, rows: int, precision: str) -> str:
    """The table of all passes: launches, megabytes, operations, and the floor."""
    ahead = forward(size, True)
    passes = {
        "forward, folded": (costs(folded(size, False), rows, precision), folded_floor(size, rows, precision)),
        "forward, as written": (costs(forward(size, False), rows, precision), floor(size, rows)),
        "forward and backward": (
            costs(ahead, rows, precision) + costs(backward(size, False, False), rows, precision, ahead.widths),
            floor(size, rows, True),
        ),
    }
    lines = []
    for title, (launches, least) in passes.items():
        moved = sum(cost.read + cost.written for cost in launches)
        lines += [f"{title}: {len(launches)} launches, {rows} rows of {size.features} features in {precision}"]
        lines += [f"  {'launch':18} {'read MB':>9} {'written MB':>11} {'GFLOP':>9}"]
        lines += [f"  {c.name:18} {c.read / 1e6:9.2f} {c.written / 1e6:11.2f} {c.flops / 1e9:9.3f}" for c in launches]
        lines += [
            f"  {'all':18} {sum(c.read for c in launches) / 1e6:9.2f} {sum(c.written for c in launches) / 1e6:11.2f} "
            f"{sum(c.flops for c in launches) / 1e9:9.3f}",
            f"  floor (inputs once in, outputs once out): {least / 1e6:.2f} MB, this moves {moved / least:.1f} x",
            "",
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=769)
    parser.add_argument("--conditions", type=int, help="features + 14 if left out")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--precision", choices=BYTES, default="bf16")
    chosen = parser.parse_args(arguments)
    conditions = chosen.conditions or chosen.features + 14
    print(report(Size(chosen.features, conditions, 256, (512, 256, 128)), chosen.rows, chosen.precision))


if __name__ == "__main__":
    main()
