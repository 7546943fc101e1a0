"""The C++ extension, and the only place that hands it addresses.

Loaded at the first use, so that importing secondgram stays cheap and a missing extension is a reason, not a crash.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..diffusion.folding import BLOCKS, FoldedDenoiser
from ..diffusion.noise import NoiseRequest, Purpose
from . import buffers
from .extension import load

__all__ = [
    "Moved",
    "NativePostprocess",
    "NativeSampler",
    "TaskLayer",
    "architectures",
    "default_threads",
    "fill_missing",
    "gram",
    "limited",
    "normals",
    "philox4x32",
    "reason_unavailable",
    "row_products",
    "sampler_reason_unavailable",
    "scatter_missing",
    "task_sums",
    "task_sums_reason_unavailable",
]

INTERFACE = 9


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension and None, or None and the reason it cannot be used."""
    return load("_native", "the C++ extension", INTERFACE, "no compiler at install time")


def reason_unavailable() -> str | None:
    """None where the extension can be used, else why not."""
    return _load()[1]


def _extension() -> ModuleType:
    module, reason = _load()
    if module is None:
        raise RuntimeError(f"{reason}.")
    return module


_limit: ContextVar[int | None] = ContextVar("_limit", default=None)


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Inside, at most so many threads work at a time; None changes nothing. Their number never changes a value."""
    token = _limit.set(_limit.get() if threads is None else threads)
    try:
        yield
    finally:
        _limit.reset(token)


def default_threads() -> int:
    """The number set by `limited`, else the processors of this process, at most 16: more wait for memory."""
    return _limit.get() or _available()


@functools.cache
def _available() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(available, 16)


def normals(request: NoiseRequest, threads: int | None = None) -> npt.NDArray[Any]:
    """Keyed normals, (M, N, width). Reference implementation: `secondgram.diffusion.noise.normals`.

    Raises `RuntimeError` where the extension is absent. `threads` changes the time taken, never a value.
    """
    extension = _extension()
    keys, draws = request.keys, request.draws  # [people], [draws]
    out = np.empty(request.shape, dtype=request.dtype)
    extension.normals(
        out=out.ctypes.data,
        doubles=request.dtype == np.float64,
        keys=keys.ctypes.data,
        n_keys=len(keys),
        draws=draws.ctypes.data,
        n_draws=len(draws),
        width=request.width,
        seed=request.seed,
        purpose=request.purpose,
        step=request.step,
        threads=default_threads() if threads is None else max(1, threads),
    )
    return out


def philox4x32(counter: npt.NDArray[np.uint32], seed: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of uint32 counters (n, 4) under a 64-bit seed; for tests against known answers."""
    extension = _extension()
    counter = np.ascontiguousarray(counter, dtype=np.uint32).reshape(-1, 4)
    out = np.empty_like(counter)
    extension.philox(counters=counter.ctypes.data, n=len(counter), seed=seed, out=out.ctypes.data)
    return out


def sampler_reason_unavailable() -> str | None:
    """None where the native sampler can run, else why not."""
    module, reason = _load()
    if module is None:
        return reason
    return None if hasattr(module, "sample") else "the C++ extension was built with a compiler without vector types"


def gram(rows: npt.NDArray[np.float32], threads: int | None = None, team: int = 0) -> npt.NDArray[np.float64]:
    """Gram matrix (T, T) of rows (T, P), in float64. Rows are float32, contiguous along their columns.

    threads : never change a value.  team : address of GOMP_parallel of an OpenMP runtime, to work on its threads; 0
    starts threads of its own.

    Raises `RuntimeError` where the extension is absent, `ValueError` for another dtype or layout.
    """
    row_stride, column_stride = rows.strides if rows.ndim == 2 else (-1, -1)
    if rows.dtype != np.float32 or row_stride < 0 or row_stride % 4 or (column_stride != 4 and rows.shape[1] > 1):
        raise ValueError(f"rows {rows.dtype} {rows.shape} with strides {rows.strides}")
    out = np.empty((len(rows), len(rows)), dtype=np.float64)
    _extension().gram(
        rows=rows.ctypes.data,
        n_rows=len(rows),
        columns=rows.shape[1],
        stride=row_stride // 4,
        out=out.ctypes.data,
        threads=default_threads() if threads is None else max(1, threads),
        team=team,
    )
    return out


# Multiplications from which several threads are worth their start.
SHARED = 4_000_000


def row_products(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """left (rows, k) @ right (k, n) in float64: every sum runs over k in order, whatever the other rows and columns.

    Where the processor can, products are fused with their sums.

    Raises `RuntimeError` where the extension is absent, `ValueError` for another dtype or layout.
    """
    for each in (left, right):
        if each.dtype != np.float64 or each.ndim != 2 or not each.flags.c_contiguous:
            raise ValueError(f"a factor {each.dtype} {each.shape} with strides {each.strides}")
    if left.shape[1] != len(right):
        raise ValueError(f"factors {left.shape} and {right.shape}")
    out = np.empty((len(left), right.shape[1]))
    _extension().row_products(
        X=left.ctypes.data,
        rows=len(left),
        inputs=len(right),
        W=right.ctypes.data,
        columns=right.shape[1],
        out=out.ctypes.data,
        threads=default_threads() if left.size * right.shape[1] >= SHARED else 1,
    )
    return out


def task_sums_reason_unavailable() -> str | None:
    """None where `task_sums` can run, else why not."""
    if sampler_reason_unavailable() is not None:
        return sampler_reason_unavailable()
    return None if "avx512" in architectures() else "this processor has no AVX-512"


class TaskLayer(NamedTuple):
    """A layer of `task_sums`: dY (B, outputs), X (B, inputs) and `out` (outputs, inputs), float32 and contiguous; ends
    (T + 1,) int64, from 0 to B, never falling."""

    dY: npt.NDArray[np.float32]
    X: npt.NDArray[np.float32]
    ends: npt.NDArray[np.int64]
    out: npt.NDArray[np.float32]

    def check(self, tasks: int) -> None:
        """Raise `ValueError` for another dtype, shape or layout."""
        matrices = self.dY, self.X, self.out
        if any(each.dtype != np.float32 or each.ndim != 2 or not each.flags.c_contiguous for each in matrices):
            raise ValueError("dY, X and out are contiguous matrices of float32")
        if len(self.dY) != len(self.X) or self.out.shape != (self.dY.shape[1], self.X.shape[1]):
            shapes = [each.shape for each in matrices]
            raise ValueError(f"dY, X and out do not belong together: {shapes}")
        ends = self.ends.tolist()
        falls = any(a > b for a, b in itertools.pairwise(ends))
        if self.ends.dtype != np.int64 or len(ends) != tasks + 1 or ends[0] != 0 or ends[-1] != len(self.X) or falls:
            raise ValueError(f"ends {ends} of {tasks} tasks and {len(self.X)} rows")


def task_sums(
    layers: Sequence[TaskLayer], tasks: int, threads: int | None = None, team: int = 0
) -> npt.NDArray[np.float64]:
    """With W_t = dY_t^T X_t, the sum over t into each layer's `out`; K (T, T), the sum over layers of <W_s, W_t>.

    threads, team : as of `gram`.

    Raises `RuntimeError` where it cannot run, `ValueError` for another dtype, shape or layout.
    """
    if reason := task_sums_reason_unavailable():
        raise RuntimeError(reason)
    if tasks < 1:
        raise ValueError(f"{tasks} tasks")
    given = []
    for layer in layers:
        layer.check(tasks)
        ends = np.ascontiguousarray(layer.ends)
        given.append((layer, ends))
    K = np.empty((tasks, tasks), dtype=np.float64)
    _extension().task_sums(
        layers=[
            (dY.ctypes.data, X.ctypes.data, len(X), dY.shape[1], X.shape[1], ends.ctypes.data, out.ctypes.data)
            for (dY, X, _, out), ends in given
        ],
        tasks=tasks,
        out=K.ctypes.data,
        threads=default_threads() if threads is None else max(1, threads),
        team=team,
    )
    return K


@functools.cache
def architectures(precision: str = "fp32") -> tuple[str, ...]:
    """Instruction sets of the native sampler that this processor has for a precision, best first.

    precision : `fp32`, `fp16` or `bf16`, to which the factors of products are rounded. Empty where it cannot run.
    """
    return () if sampler_reason_unavailable() else tuple(_extension().architectures(precision))


def half_precision() -> str | None:
    """The faster of `fp16` and `bf16` that this processor has instructions for, None where it has neither.

    fp16 where both are there: it is the more accurate, and was the faster where both were measured
    (benchmarks/results/cpu_peers.json).
    """
    return next((name for name in ("fp16", "bf16") if architectures(name)), None)


class NativeSampler:
    """A folded denoiser, packed once, and its whole reverse chain in one call.

    precision : `fp32`, `fp16` or `bf16`, to which the factors of matrix products are rounded. State, sums across
        products and elementwise functions are float32 in any case.

    Raises `RuntimeError` where the extension is absent or the processor has no instructions for the precision.
    """

    def __init__(self, folded: FoldedDenoiser, precision: str = "fp32") -> None:
        if not architectures(precision):
            raise RuntimeError(sampler_reason_unavailable() or f"this processor has no instructions for {precision}")
        self.folded, self.precision = folded, precision
        self._known: dict[bytes, npt.NDArray[np.float32]] = {}
        arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in _arrays(folded)]
        # The extension copies the arrays.
        listed = [(array.ctypes.data, *np.atleast_2d(array).shape) for array in arrays]
        widths = [len(folded.blocks[name].bias) for name in BLOCKS[:3]]
        self.network = _extension().network(
            features=folded.features,
            conditions=folded.conditions[0].weight.shape[0],
            embedding=len(folded.conditions[0].bias),
            widths=widths,
            precision=precision,
            arrays=listed,
        )

    def sample(
        self,
        conditions: npt.NDArray[np.float32],
        keys: npt.NDArray[np.uint64],
        draws: npt.NDArray[np.uint32],
        seed: int,
        table: npt.NDArray[np.float64],
        *,
        start: npt.NDArray[np.float32] | None = None,
        start_noise: float = 1.0,
        threads: int | None = None,
        architecture: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Draws (M, N, D): conditions (N, C), keys (N,), draws (M,) numbers, table (S, 7) as `SolverTable.rows`.

        start : (N, D), mean of the first state, None for zero;  start_noise : its deviation.
        architecture : one of `architectures(precision)`, None for the best. threads : None takes the processors
        available; it never changes a value.
        progress : called with the share done, now and then. Ctrl-C ends the work.
        """
        conditions = np.ascontiguousarray(conditions, dtype=np.float32)
        keys, draws = np.ascontiguousarray(keys, dtype=np.uint64), np.ascontiguousarray(draws, dtype=np.uint32)
        times, steps = self._times(table), np.ascontiguousarray(table, dtype=np.float32)
        if start is not None:
            start = np.ascontiguousarray(start, dtype=np.float32)
        out = np.empty((len(draws), len(keys), self.folded.features), dtype=np.float32)
        _extension().sample(
            network=self.network,
            out=out.ctypes.data,
            conditions=conditions.ctypes.data,
            keys=keys.ctypes.data,
            people=len(keys),
            draws=draws.ctypes.data,
            n_draws=len(draws),
            seed=seed,
            times=times.ctypes.data,
            steps=steps.ctypes.data,
            n_steps=len(steps),
            start=0 if start is None else start.ctypes.data,
            start_noise=start_noise,
            start_purpose=int(Purpose.START),
            step_purpose=int(Purpose.STEP),
            threads=default_threads() if threads is None else max(1, threads),
            architecture=architecture or architectures(self.precision)[0],
            progress=progress,
        )
        return out

    def _times(self, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        # Computed once per solver table: after a product, BLAS threads keep spinning and compete with the sampler.
        key = table[:, 0].tobytes()
        if key not in self._known:
            self._known[key] = _time_table(self.folded, table)
        return self._known[key]


class Moved(NamedTuple):
    """Shifts of the centre from draw to draw, because missing cells of baselines and covariates are themselves drawn.

    start (N + 1,) int64 : a person's cells are start[i] .. start[i + 1] of `cell` (K,) uint32 and `by` (K, M) float32,
        the draws less their expectations.
    map (L, D) float32 : slopes of the mean, a row a cell;  by_gap : their change for every unit of gap, or None.
    gap (N,), weight (N, D) float32 : of the people; weight turns a shift of the mean into one of the residual.
    All are contiguous.
    """

    start: npt.NDArray[np.int64]
    cell: npt.NDArray[np.uint32]
    by: npt.NDArray[np.float32]
    map: npt.NDArray[np.float32]
    by_gap: npt.NDArray[np.float32] | None
    gap: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def weighted(self, weight: npt.NDArray[Any]) -> Moved:
        """The same with other weights (N, D)."""
        return self._replace(weight=np.ascontiguousarray(weight, dtype=np.float32))

    def check(self, people: int, draws: int, width: int) -> None:
        """Raise `ValueError` for another dtype, shape or layout."""
        rows = (len(self.map), width)
        wanted = [(people + 1,), (len(self.cell),), (len(self.cell), draws), rows, rows, (people,)]
        kinds = [np.int64, np.uint32, *[np.float32] * 5]
        for name, shape, kind in zip(self._fields, [*wanted, (people, width)], kinds, strict=True):
            each = getattr(self, name)
            if each is not None and (each.shape != shape or each.dtype != kind or not each.flags.c_contiguous):
                raise ValueError(f"{name} {each.dtype} {each.shape} for {people} people, {draws} draws, width {width}")
        ends = self.start
        strange = (self.cell >= len(self.map)).any()
        if ends[0] != 0 or ends[-1] != len(self.cell) or (np.diff(ends) < 0).any() or strange:
            raise ValueError("cells that no person has")


class Patterns(NamedTuple):
    """People who lack the same cells, together: group g lacks cell[cells[g]:cells[g + 1]], its people are the rows
    person[members[g]:members[g + 1]]."""

    cells: npt.NDArray[np.int64]
    cell: npt.NDArray[np.uint32]
    members: npt.NDArray[np.int64]
    person: npt.NDArray[np.int64]

    @classmethod
    def of(cls, gone: npt.NDArray[np.bool_]) -> Patterns:
        """From (N, D), true where a cell is missing."""
        rows = np.flatnonzero(gone.any(axis=1))
        bits = np.packbits(gone[rows], axis=1)
        names = np.ascontiguousarray(bits).view(f"V{bits.shape[1]}")[:, 0] if bits.size else np.empty(0, "V1")
        _, first, group = np.unique(names, return_index=True, return_inverse=True)
        which, cell = np.nonzero(gone[rows[first]])
        count, size = np.bincount(which, minlength=len(first)), np.bincount(group, minlength=len(first))
        return cls(_ends(count), cell.astype(np.uint32), _ends(size), rows[np.argsort(group, kind="stable")])


def _ends(count: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(count)]).astype(np.int64)


def _groups(precision: npt.NDArray[np.float64], patterns: Patterns) -> tuple[int, ...]:
    if precision.dtype != np.float64 or not precision.flags.c_contiguous:
        raise ValueError(f"a precision {precision.dtype} {precision.strides}")
    return (
        len(precision),
        precision.ctypes.data,
        len(patterns.cells) - 1,
        *(each.ctypes.data for each in patterns),
    )


def fill_missing(
    precision: npt.NDArray[np.float64], gone: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]
) -> None:
    """Replace the missing cells of values (N, D) by their expectations given the row; see `MissingCells.fill`.

    precision (D, D).  Raises `RuntimeError` where the extension is absent, `ValueError` for another dtype or layout.
    """
    if values.dtype != np.float64 or not values.flags.c_contiguous or values.shape != gone.shape:
        raise ValueError(f"values {values.dtype} {values.shape} for cells {gone.shape}")
    patterns = Patterns.of(gone)
    _extension().fill_missing(groups=_groups(precision, patterns), values=values.ctypes.data, threads=default_threads())


def scatter_missing(
    precision: npt.NDArray[np.float64], gone: npt.NDArray[np.bool_], noise: NoiseRequest
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Draws of the missing cells about their expectation: start (N + 1,), cell (K,), by (K, M); see `Moved`."""
    start, cell = _ends(gone.sum(axis=1)), np.nonzero(gone)[1].astype(np.uint32)
    out = np.empty((len(cell), len(noise.draws)), dtype=np.float32)
    patterns = Patterns.of(gone)
    _extension().scatter_missing(
        groups=_groups(precision, patterns),
        keys=noise.keys.ctypes.data,
        draws=noise.draws.ctypes.data,
        n_draws=len(noise.draws),
        seed=noise.seed,
        purpose=int(noise.purpose),
        start=start.ctypes.data,
        out=out.ctypes.data,
        threads=default_threads(),
    )
    return start, cell, out


class NativePostprocess:
    """Components to draws, with packed matrices.

    Reference implementation: `secondgram.sampling.postprocess.Postprocess`.

    width : D;  loading : (D, D) or None;  components, margins : (start, end), both (knots, D), or None;  clip : 0 for
    none;  precision : `fp32`, `fp16` or `bf16`, of the factors of the product with the loading.

    Raises `RuntimeError` where the extension is absent or the processor has no instructions for the precision.
    """

    def __init__(
        self,
        width: int,
        loading: npt.NDArray[Any] | None,
        components: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
        margins: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
        clip: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        if not architectures(precision):
            raise RuntimeError(sampler_reason_unavailable() or f"this processor has no instructions for {precision}")
        self.width, self.precision = width, precision
        rotation = None if loading is None else np.ascontiguousarray(loading, dtype=np.float32)
        maps = [
            None if each is None else [np.ascontiguousarray(points, dtype=np.float64) for points in each]
            for each in (components, margins)
        ]
        # The extension copies what it is shown.
        self.packed = _extension().postprocessor(
            width=width,
            precision=precision,
            loading=0 if rotation is None else rotation.ctypes.data,
            components=_addresses(maps[0]),
            margins=_addresses(maps[1]),
            clip=clip,
        )

    def draws(
        self,
        centre: npt.NDArray[Any],
        scale: npt.NDArray[Any],
        noise: NoiseRequest,
        source: npt.NDArray[Any] | None,
        places: npt.NDArray[Any] | None,
        moved: Moved | None,
        dtype: np.dtype[Any],
        *,
        threads: int | None = None,
        architecture: str | None = None,
    ) -> npt.NDArray[Any]:
        """Draws (M, N, D), the last axis the slowest in memory; arguments as those of `Postprocess.draws`."""
        people, count = len(noise.keys), len(noise.draws)
        centre, scale = (np.ascontiguousarray(values, dtype=np.float64) for values in (centre, scale))
        if centre.shape != (people, self.width) or scale.shape != centre.shape:
            raise ValueError(f"centre {centre.shape} and scale {scale.shape} for {people} people of width {self.width}")
        components = None if source is None else np.ascontiguousarray(source, dtype=np.float32)
        which = np.ascontiguousarray(np.arange(0) if places is None else places, dtype=np.uint32)
        if components is not None and components.shape != (count, people, len(which)):
            raise ValueError(f"a source {components.shape} for {count} draws, {people} people and {len(which)} places")
        if len(which) and which.max() >= self.width:
            raise ValueError(f"place {which.max()} of {self.width}")
        if moved is not None:
            moved.check(people, count, self.width)
        out = buffers.empty((self.width, people, count), dtype)
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"draws of {dtype}")
        _extension().postprocess(
            by=self.packed,
            out=out.ctypes.data,
            doubles=dtype == np.float64,
            keys=noise.keys.ctypes.data,
            people=people,
            draws=noise.draws.ctypes.data,
            n_draws=count,
            seed=noise.seed,
            purpose=int(Purpose.COMPONENTS),
            source=0 if components is None else components.ctypes.data,
            n_source=len(which),
            places=which.ctypes.data,
            centre=centre.ctypes.data,
            scale=scale.ctypes.data,
            moved=(0,) * 7 if moved is None else tuple(0 if each is None else each.ctypes.data for each in moved),
            threads=default_threads() if threads is None else max(1, threads),
            architecture=architecture or architectures(self.precision)[0],
        )
        return out.transpose(2, 1, 0)


def _addresses(points: list[npt.NDArray[np.float64]] | None) -> tuple[int, int, int]:
    return (0, 0, 0) if points is None else (points[0].ctypes.data, points[1].ctypes.data, len(points[0]))


def _arrays(folded: FoldedDenoiser) -> list[npt.NDArray[np.float64]]:
    """Every array of a folded denoiser, in the order in which csrc/bindings.cpp reads them."""
    arrays = [part for layer in folded.conditions for part in (layer.weight, layer.bias)]
    for block in folded.blocks.values():
        arrays += [block.inner, block.inner_bias, block.image, block.embed, block.embed_bias, block.context, block.bias]
        arrays += [] if block.join is None else [block.join]
    for layers in folded.bottlenecks:
        arrays += [part for layer in layers for part in (layer.weight, layer.bias)]
    return [*arrays, folded.out.weight, folded.out.bias]


def _time_table(folded: FoldedDenoiser, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(S, 6, E): the term of the time of each step in each block's embedding, before its SiLU."""
    emb = folded.embedding_of_times(table[:, 0])
    return np.stack([emb @ block.embed for block in folded.blocks.values()], axis=1).astype(np.float32)
