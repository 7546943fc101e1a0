"""Tiles of the kernels by architecture, precision, kernel and class of shape: a small committed table.

`SECONDGRAM_AUTOTUNE=1` measures the candidates of each class at its first launch and writes the winners into the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

AUTOTUNE = "SECONDGRAM_AUTOTUNE"
FOLDER = Path(__file__).parent / "tuned"
# The newest architecture of a table serves all after it, the oldest all before.
ARCHITECTURES = (80, 90, 100)
KERNELS = ("forward", "backward", "step", "narrow", "weights")


class Tile(NamedTuple):
    """Rows, columns and depth that a program takes, its warps, and the depths that are loaded ahead."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """As a kernel is called with."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def dividing(self, width: int) -> Tile:
        """The same with columns that divide `width`, a multiple of 64."""
        return self if width % self.columns == 0 else self._replace(columns=64)


# The interpreter pays for each operation, not for each value.
INTERPRETED = Tile(256, 256, 64, 4, 1)


def shape_class(rows: int, columns: int) -> str:
    """The class of a shape, by the number of tiles there are to share out: it decides the tile."""
    many = "few" if rows <= 512 else "some" if rows <= 8192 else "many"
    return f"{many} rows, {'narrow' if columns <= 256 else 'wide'}"


CLASSES = tuple(shape_class(rows, columns) for rows in (1, 4096, 16384) for columns in (64, 512))


def nearest(architecture: int) -> int:
    """The architecture whose table serves this one."""
    return max((known for known in ARCHITECTURES if known <= architecture), default=ARCHITECTURES[0])


@cache
def table(architecture: int) -> dict[str, dict[str, dict[str, Tile]]]:
    """Tiles by precision, kernel and class of shape."""
    content = json.loads((FOLDER / f"sm_{nearest(architecture)}.json").read_text(encoding="utf-8"))
    return {
        precision: {
            kernel: {name: Tile(*values) for name, values in classes.items()} for kernel, classes in kernels.items()
        }
        for precision, kernels in content.items()
    }


def write(architecture: int, content: dict[str, dict[str, dict[str, Tile]]]) -> None:
    """Write the table of an architecture, a line a kernel and class."""
    lines = []
    for precision, kernels in content.items():
        parts = []
        for kernel, classes in kernels.items():
            tiles = ",\n".join(f'   "{name}": {json.dumps(list(tile))}' for name, tile in classes.items())
            parts.append(f'  "{kernel}": {{\n{tiles}\n  }}')
        lines.append(f' "{precision}": {{\n' + ",\n".join(parts) + "\n }")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (FOLDER / f"sm_{nearest(architecture)}.json").write_text(text, encoding="utf-8")
    table.cache_clear()


def candidates(kernel: str, precision: str) -> list[Tile]:
    """Tiles worth measuring. One that spills loses by itself, and `tests/test_aot.py` keeps it out of the table."""
    half = precision in ("bf16", "fp16")
    depth = 64 if half else 32
    if kernel == "narrow":
        return [Tile(rows, 64, depth, 8, stages) for rows in (16, 32, 64) for stages in (1, 2)]
    shapes = [(64, 64, 4), (64, 64, 8), (64, 128, 8), (128, 64, 8)]
    if half:
        shapes += [(128, 128, 8), (64, 128, 4)]
    return [Tile(rows, columns, depth, warps, stages) for rows, columns, warps in shapes for stages in (2, 3, 4)]


def tile(architecture: int | None, precision: str, kernel: str, rows: int, columns: int) -> Tile:
    """The tile of a launch; `architecture` None means the interpreter."""
    if architecture is None and kernel == "weights":
        return INTERPRETED._replace(rows=64 if columns <= 256 else 256, columns=64 if columns <= 256 else 256)
    if architecture is None:
        return INTERPRETED._replace(rows=min(256, max(64, 1 << (max(rows, 1) - 1).bit_length())))
    return table(architecture)[precision][kernel][shape_class(rows, columns)]


def wanted() -> bool:
    """Whether the environment asks for a search."""
    return os.environ.get(AUTOTUNE) == "1"


_searched: set[tuple[int, str, str, str]] = set()


def search(architecture: int, precision: str, kernel: str, name: str, seconds: Callable[[Tile], float]) -> Tile | None:
    """The fastest candidate of a class by `seconds`, written into the table; None where this process has searched it.

    A candidate that cannot be launched (too much shared memory, say) raises in `seconds` and is passed over.
    """
    key = (nearest(architecture), precision, kernel, name)
    if key in _searched:
        return None
    _searched.add(key)
    times = {}
    for candidate in candidates(kernel, precision):
        try:
            times[candidate] = seconds(candidate)
        except Exception:  # types of the compiler or the driver
            continue
    if not times:
        return None
    best = min(times, key=times.__getitem__)
    content = {key: {k: dict(v) for k, v in kernels.items()} for key, kernels in table(architecture).items()}
    content[precision][kernel][name] = best
    write(architecture, content)
    return best
