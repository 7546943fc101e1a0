"""The CUDA extension, and the only place that hands it addresses.

Loaded at the first use, as the CPU's. It needs no torch: numpy arrays are copied to and from the device, and tensors
that are on the device stay there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..diffusion.folding import BLOCKS, FoldedDenoiser, flops
from ..diffusion.noise import Purpose
from ..errors import InputError
from . import native
from .extension import load

__all__ = [
    "MODES",
    "CudaSampler",
    "Limits",
    "StreamRate",
    "best_tile",
    "plan",
    "reason_unavailable",
    "release",
    "stream_rates",
]

INTERFACE = 1
# A recorded list of launches a step, or one launch that carries rows through all steps.
MODES = ("graph", "persistent")
# 8 KiB, 64 x 64 bfloat16: csrc/cuda/tiles.hpp.
SQUARE_BYTES = 8192


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension and None, or None and the reason it cannot be used."""
    return load("_cuda", "the CUDA extension", INTERFACE, "no nvcc at install time")


def built() -> str | None:
    """None where the extension was built for this Python, else why not; a device need not be there."""
    return _load()[1]


def _extension() -> ModuleType:
    module, reason = _load()
    if module is None:
        raise RuntimeError(f"{reason}.")
    return module


@functools.cache
def _device(number: int) -> tuple[Any, str | None]:
    """The device and None, or None and the reason it cannot be used."""
    module, reason = _load()
    if module is None:
        return None, reason
    count, reason = module.devices()
    if number >= count:
        return None, reason or f"there is no CUDA device {number}: {count} found"
    try:
        return module.Device(number), None
    except RuntimeError as error:
        return None, str(error)


def reason_unavailable(device: int = 0) -> str | None:
    """None where the CUDA sampler can run on that device, else why not."""
    return _device(device)[1]


def _opened(number: int) -> Any:
    device, reason = _device(number)
    if device is None:
        raise RuntimeError(f"The CUDA sampler cannot run: {reason}.")
    return device


def release(device: int = 0) -> None:
    """Give the memory back that the sampler keeps on a device from one call to the next."""
    if reason_unavailable(device) is None:
        _opened(device).release()


class CudaSampler:
    """A folded denoiser in bfloat16, and its whole reverse chain on a CUDA device; sums and the state are float32.

    Raises `RuntimeError` where the extension is absent.
    """

    def __init__(self, folded: FoldedDenoiser) -> None:
        self.folded = folded
        self.network = _packed(folded)

    def sample(
        self,
        conditions: Any,
        keys: npt.NDArray[np.uint64],
        draws: npt.NDArray[np.uint32],
        seed: int,
        table: npt.NDArray[np.float64],
        *,
        start: Any = None,
        start_noise: float = 1.0,
        mode: str = "graph",
        device: int | None = None,
        progress: Callable[[float], None] | None = None,
        **options: int,
    ) -> Any:
        """Draws (M, N, D): conditions (N, C), keys (N,), draws (M,) numbers, table (S, 7) as `SolverTable.rows`.

        conditions, start : numpy, or tensors on one CUDA device, where the draws then lie too.
        start : (N, D), mean of the first state, None for zero;  start_noise : its deviation.
        mode : one of `MODES`. device : its number; None takes that of the conditions, else 0.
        progress : called with the share done, now and then. Ctrl-C ends the work after the chunk under way.
        options : sizes that change speed and memory, never a value: rows (1 or 2) and columns (2 or 4) of a tile in
            squares of 64, stages, cluster (blocks that share the weights they load), chunk_rows, step_block;
            recorded=0 launches the kernels of a step one by one instead of replaying a graph; context, where the
            embedding's term of a block is computed: before, for all draws (1), or among the products, for one draw
            (2), 0 chooses.

        Raises `RuntimeError` where there is no device to use, `InputError` for an unknown mode, arrays of other shapes
        or too little memory on the device.
        """
        if mode not in MODES:
            raise InputError(f"the CUDA sampler has no mode {mode!r}", mend=f"Use one of {', '.join(MODES)}")
        there = _is_on_device(conditions)
        if device is None:
            device = conditions.device.index if there else 0
        opened = _opened(device)
        keys, draws = np.ascontiguousarray(keys, dtype=np.uint64), np.ascontiguousarray(draws, dtype=np.uint32)
        width = self.folded.features
        conditions = _floats(conditions, (len(keys), self.folded.conditions[0].weight.shape[0]), "conditions")
        start = None if start is None else _floats(start, (len(keys), width), "start")
        times, steps = native._time_table(self.folded, table), np.ascontiguousarray(table, dtype=np.float32)
        shape = (len(draws), len(keys), width)
        stream, out = 0, None
        if there:
            torch = importlib.import_module("torch")
            out = torch.empty(shape, dtype=torch.float32, device=conditions.device)
            stream = torch.cuda.current_stream(conditions.device).cuda_stream
        else:
            out = np.empty(shape, dtype=np.float32)
        try:
            opened.sample(
                network=self.network,
                out=_address(out),
                conditions=_address(conditions),
                keys=_address(keys),
                people=len(keys),
                draws=_address(draws),
                n_draws=len(draws),
                seed=seed,
                times=_address(times),
                steps=_address(steps),
                n_steps=len(steps),
                start=0 if start is None else _address(start),
                start_noise=start_noise,
                start_purpose=int(Purpose.START),
                step_purpose=int(Purpose.STEP),
                stream=stream,
                options={"persistent": int(mode == "persistent"), **options},
                progress=progress,
            )
        except ValueError as error:
            raise InputError(str(error), mend="Free memory of the device, or ask for smaller chunk_rows") from error
        return out


@dataclass(frozen=True)
class Limits:
    """Resources of a device, for a block and in all; the defaults are those of an H100.

    groups : whether its kernels multiply with groups of four warps and copy to clusters of blocks (sm_90a).
    """

    shared_bytes: int = 232448
    processors: int = 132
    memory_bytes: int = 60 << 30
    groups: bool = True


def plan(
    folded: FoldedDenoiser,
    people: int,
    draws: int,
    steps: int,
    *,
    mode: str = "graph",
    limits: Limits | None = None,
    **options: int,
) -> dict[str, Any]:
    """The plan of a request, without a device.

    People and draws of a chunk, launches of a step, and of a tile its size, the activations kept in shared memory and
    the bytes that a block receives a step. Raises as `CudaSampler.sample`.
    """
    return _plan_of(_packed(folded), people, draws, steps, mode, limits or Limits(), options)


def _plan_of(
    network: Any, people: int, draws: int, steps: int, mode: str, limits: Limits, options: dict[str, int]
) -> dict[str, Any]:
    try:
        return _extension().plan(
            network=network,
            people=people,
            draws=draws,
            steps=steps,
            options={"persistent": int(mode == "persistent"), **options},
            shared_bytes=limits.shared_bytes,
            processors=limits.processors,
            memory_bytes=limits.memory_bytes,
            groups=limits.groups,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True)
class StreamRate:
    """How fast weights reach the multiprocessors: `columns` squares a stage, shared by `cluster` blocks.

    bytes_per_clock : that every multiprocessor receives, at the clock the device states;  seconds : of the measurement.
    """

    columns: int
    stages: int
    cluster: int
    bytes_per_clock: float
    seconds: float


def stream_rates(device: int = 0, squares: int = 840, rounds: int = 4000) -> list[StreamRate]:
    """Measure how fast weights are streamed from L2 for each width of a stage and each size of a cluster.

    squares : different squares of 8 KiB; a paper-sized network has about 840. Raises `RuntimeError` without a device.
    """
    opened = _opened(device)
    facts = opened.facts
    rates = []
    for columns in (2, 4):
        stages = min(8, (facts["shared_bytes"] - 1024) // (columns * SQUARE_BYTES))
        for cluster in (1, 2, 4, 8) if facts["groups"] else (1,):
            seconds = opened.stream(squares, columns, stages, cluster, rounds) / 1e3
            clocks = seconds * facts["clock_khz"] * 1e3
            rates.append(StreamRate(columns, stages, cluster, rounds * columns * SQUARE_BYTES / clocks, seconds))
    return rates


def best_tile(
    folded: FoldedDenoiser,
    rates: Sequence[StreamRate],
    limits: Limits | None = None,
    operations_per_clock: float = 4096.0,
) -> dict[str, int]:
    """Options of `CudaSampler.sample` for the persistent kernel: rows, columns and cluster that measured rates favour.

    A tile takes the time of its products, or of its loads where that is longer; of equals the smallest cluster.
    operations_per_clock : of a multiprocessor's matrix products; an H100's in bfloat16.
    """
    limits, network = limits or Limits(), _packed(folded)
    conditions, embedding = folded.conditions[0].weight.shape
    wide, middle, narrow = (len(folded.blocks[name].bias) for name in BLOCKS[:3])
    # The embedding's term is not computed by the tile: many draws share it.
    operations = flops(folded.features, conditions, embedding, (wide, middle, narrow), draws=1 << 30)
    found = []
    for rate in rates:
        for rows in (1, 2):
            options = {"rows": rows, "columns": rate.columns, "cluster": rate.cluster}
            try:
                tile = _plan_of(network, 1, 2, 1, "persistent", limits, options)["tile"]
            except InputError:
                continue
            clocks = max(
                operations / operations_per_clock, tile["received_bytes"] / tile["rows"] / rate.bytes_per_clock
            )
            found.append((clocks, rate.cluster, options))
    if not found:
        raise InputError("no rate was measured for a tile that was compiled", mend="Measure with stream_rates()")
    return min(found, key=lambda one: one[:2])[2]


def _packed(folded: FoldedDenoiser) -> Any:
    arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in native._arrays(folded)]
    # The extension copies the arrays.
    return _extension().network(
        features=folded.features,
        conditions=folded.conditions[0].weight.shape[0],
        embedding=len(folded.conditions[0].bias),
        widths=[len(folded.blocks[name].bias) for name in BLOCKS[:3]],
        arrays=[(array.ctypes.data, *np.atleast_2d(array).shape) for array in arrays],
    )


def _is_on_device(array: Any) -> bool:
    return bool(getattr(array, "is_cuda", False))


def _floats(array: Any, shape: tuple[int, ...], name: str) -> Any:
    """float32, contiguous, of this shape; numpy unless it lies on a device."""
    if _is_on_device(array):
        array = array.detach().float().contiguous()
    else:
        array = np.ascontiguousarray(array, dtype=np.float32)
    if tuple(array.shape) != shape:
        raise InputError(f"{name} of shape {tuple(array.shape)}, not {shape}")
    return array


def _address(array: Any) -> int:
    return int(array.data_ptr()) if _is_on_device(array) else int(array.ctypes.data)
