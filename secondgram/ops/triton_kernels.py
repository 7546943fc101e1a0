"""The denoiser on fused Triton kernels: as torch operators with gradients, and folded, as a sampler.

The operators `secondgram::denoise` and `secondgram::denoise_gradients` have fake kernels, so that torch.compile traces
through them and CUDA graphs capture them. Reference implementations: `diffusion/reference.py`, `diffusion/folding.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..diffusion.folding import BLOCKS, BOTTLENECKS, FoldedDenoiser
from ..diffusion.noise import Purpose
from ..diffusion.reference import Dropout
from ..errors import InputError
from .registry import AUTO, Candidate, resolve

PRECISIONS = ("auto", "bf16", "fp16", "tf32", "fp32")
HALVES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# The layers of a denoiser, in the order of its parameters.
_LAYERS = (
    *(f"{part}_embed.{layer}" for part in ("time", "cond") for layer in (0, 2)),
    *(f"{name}.{part}" for name in BLOCKS[:3] for part in ("ln", "imgFC", "embdFC", "imgOut", "embdOut", "outFC")),
    *(f"{name}.{part}" for name in BOTTLENECKS for part in ("fc1", "fc2")),
    *(f"{name}.{part}" for name in BLOCKS[3:] for part in ("ln", "imgFC", "embdFC", "imgOut", "embdOut", "outFC")),
    "out",
)
NAMES = tuple(f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias"))
# Tensor units for bfloat16 and TF32 come with it.
OLDEST_ARCHITECTURE = 80


def _executor() -> ModuleType:
    from ..kernels import executor

    return executor


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def _kernels_missing() -> str | None:
    try:
        _executor()
    except ImportError as error:
        return f"its kernels cannot be imported ({error})"
    return None


def reason_unavailable() -> str | None:
    """Why the kernels cannot run on this machine, or None."""
    missing = _kernels_missing()
    if missing is not None or interpreted():
        return missing
    if not torch.cuda.is_available():
        return "no CUDA device is visible to torch"
    if torch.version.cuda is None:
        return "its kernels are tested on CUDA devices only"
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < OLDEST_ARCHITECTURE:
        return f"the device is an sm_{major}{minor}, and the kernels need sm_{OLDEST_ARCHITECTURE} or later"
    return None


# Candidates that `doctor` shows: the interpreter is too slow for work, so without a device "auto" is the reference.
CANDIDATES = (
    Candidate("triton", lambda: "its kernels would be interpreted" if interpreted() else reason_unavailable()),
    Candidate("reference"),
)


@dataclass(frozen=True)
class Call:
    """Properties of a call that decide its backend: device and dtype of x and of the weights, and the sizes."""

    device: torch.device
    dtype: torch.dtype
    weight_devices: frozenset[torch.device]
    weight_dtypes: frozenset[torch.dtype]
    narrowest: int

    def resolve_precision(self, precision: str) -> str:
        """The precision that "auto" stands for: autocast's, else that of x; float32 as torch's matrix products take it.

        Raises `InputError` for a name that is not in `PRECISIONS`.
        """
        if precision not in PRECISIONS:
            raise InputError(f"the denoiser has no precision {precision!r}", mend=f"Use one of {', '.join(PRECISIONS)}")
        if precision != AUTO:
            return precision
        if torch.is_autocast_enabled(self.device.type):
            return HALVES.get(torch.get_autocast_dtype(self.device.type), "fp32")
        if self.dtype in HALVES:
            return HALVES[self.dtype]
        return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"

    def reason_unavailable(self, precision: str) -> str | None:
        """Why the kernels cannot run this call, or None."""
        reason = reason_unavailable()
        if reason is not None:
            return reason
        if self.device.type != "cuda" and not interpreted():
            return f"the tensors are on the device {self.device}, and TRITON_INTERPRET is not 1"
        if interpreted() and precision == "bf16":
            return "Triton's interpreter multiplies bfloat16 wrongly"
        if self.weight_devices != {self.device}:
            return f"x is on {self.device} and weights are on {', '.join(map(str, self.weight_devices))}"
        if len(self.weight_dtypes) > 1 or not self.weight_dtypes | {self.dtype} <= {torch.float32, *HALVES}:
            names = ", ".join(sorted(str(dtype) for dtype in self.weight_dtypes | {self.dtype}))
            return f"they take float32, float16 and bfloat16 with weights of one dtype, not {names}"
        from ..kernels.layout import Size

        return Size(1, 1, 1, (1, 1, self.narrowest)).reason_unavailable

    def candidates(self, precision: str) -> tuple[Candidate, ...]:
        """The backends, best first. On a CPU the reference is best: the kernels would be interpreted."""
        fused, plain = Candidate("triton", lambda: self.reason_unavailable(precision)), Candidate("reference")
        return (fused, plain) if self.device.type == "cuda" else (plain, fused)


def choose(weights: Mapping[str, Tensor], x: Tensor, precision: str, backend: str) -> tuple[str, str]:
    """The backend of a call and the precision of its products. Raises what `registry.resolve` raises."""
    return _choose(
        x.device,
        x.dtype,
        tuple({value.device: None for value in weights.values()}),
        tuple({value.dtype: None for value in weights.values()}),
        len(weights["down3.outFC.bias"]),
        precision,
        backend,
    )


@torch.compiler.assume_constant_result
def _choose(
    device: torch.device,
    dtype: torch.dtype,
    weight_devices: tuple[torch.device, ...],
    weight_dtypes: tuple[torch.dtype, ...],
    narrowest: int,
    precision: str,
    backend: str,
) -> tuple[str, str]:
    # Of plain values, so that torch.compile takes the choice as it stands instead of tracing it.
    call = Call(device, dtype, frozenset(weight_devices), frozenset(weight_dtypes), narrowest)
    precision = call.resolve_precision(precision)
    return resolve("the denoiser", call.candidates(precision), backend), precision


def denoise(
    weights: Mapping[str, Tensor], x: Tensor, t: Tensor, c: Tensor, precision: str, dropout: Dropout | None = None
) -> Tensor:
    """x (B, D), t (B,), c (B, conditions) -> (B, D) in the dtype of x; gradients for weights, x and c.

    As `choose` chose. Raises `InputError` where t requires a gradient.
    """
    if t.requires_grad and torch.is_grad_enabled():
        raise InputError("the fused denoiser has no gradient for t", mend="Detach t, or use backend='reference'")
    ordered = [weights[name].contiguous() for name in NAMES]
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in (x, c, *ordered))
    numbers, share = [], 0.0
    if dropout is not None:
        share = dropout.share
        # The same numbers in the same order as the reference implementation draws them.
        for name in _executor().DROPPED:
            shape = (len(x), len(weights[f"{name}.outFC.bias"]))
            numbers.append(dropout.numbers(shape, x))
    return cast(Tensor, torch.ops.secondgram.denoise(x, t, c, ordered, numbers, share, precision, keep)[0])


class Tasks(Protocol):
    """A receiver of the gradients of each task; `offsets` (T + 1,): rows offsets[t] .. offsets[t + 1] are task t's."""

    offsets: Tensor

    def begin(self, rows: int) -> None:
        """Called after a forward pass of a fused denoiser, with its number of rows."""

    def take(self, weights: Sequence[Tensor], J: Tensor) -> None:
        """Called by its backward pass: J (T, P) float32, the weights' gradients end to end in their order."""


_tasks: ContextVar[Tasks | None] = ContextVar("_tasks", default=None)


@contextmanager
def tasks(taker: Tasks) -> Iterator[None]:
    """Inside, backward passes of a fused denoiser hand the weight gradients of each task to `taker`.

    One backward pass of the sum of all losses gives the Jacobian J of the tasks; the parameters themselves get no
    gradient. The batch is sorted by task, and every loss reads rows of its own task alone.
    """
    token = _tasks.set(taker)
    try:
        yield
    finally:
        _tasks.reset(token)


def _size(weights: list[Tensor]) -> Any:
    from ..kernels.layout import Size

    return Size.of(dict(zip(NAMES, weights, strict=True)))


# -- operators --------------------------------------------------------------------------------------------------------


# Written out: older releases of torch cannot read them off annotations that are text.
_FORWARD = (
    "(Tensor x, Tensor t, Tensor c, Tensor[] weights, Tensor[] numbers, float share, str precision, bool keep)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_GRADIENTS = (
    "(Tensor gradient, Tensor packed, Tensor vectors, Tensor activations, Tensor statistics, Tensor[] weights,"
    " Tensor[] numbers, float share, Tensor? offsets, str precision, bool x_gradient, bool c_gradient)"
    " -> (Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("secondgram::denoise", mutates_args=(), schema=_FORWARD)
def _denoise(
    x: Tensor,
    t: Tensor,
    c: Tensor,
    weights: list[Tensor],
    numbers: list[Tensor],
    share: float,
    precision: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, then the inputs of the backward pass: packed weights, biases, activations, moments (or empty)."""
    executor = _executor()
    drops = executor.Drops(share, tuple(numbers))
    out, kept = executor.denoise(_size(weights), precision, x, t, c, weights, keep, drops)
    return (out, *kept) if keep else (out, *(part.new_empty(0) for part in kept))


@_denoise.register_fake
def _(
    x: Tensor,
    t: Tensor,
    c: Tensor,
    weights: list[Tensor],
    numbers: list[Tensor],
    share: float,
    precision: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    executor, rows = _executor(), x.shape[0]
    sizes = executor.kept_sizes(_size(weights), rows, True) if keep else (0, 0, 0, 0)
    dtypes = executor.kept_dtypes(precision)
    packed, vectors, activations, statistics = (
        x.new_empty(size, dtype=dtype) for size, dtype in zip(sizes, dtypes, strict=True)
    )
    return x.new_empty((rows, x.shape[1])), packed, vectors, activations, statistics


@torch.library.custom_op("secondgram::denoise_gradients", mutates_args=(), schema=_GRADIENTS)
def _denoise_gradients(
    gradient: Tensor,
    packed: Tensor,
    vectors: Tensor,
    activations: Tensor,
    statistics: Tensor,
    weights: list[Tensor],
    numbers: list[Tensor],
    share: float,
    offsets: Tensor | None,
    precision: str,
    x_gradient: bool,
    c_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of all weights end to end for each task (T, P), float32, and of x and c, or empty ones."""
    executor = _executor()
    kept = executor.Kept(packed, vectors, activations, statistics)
    flat, x, c = executor.gradients(
        _size(weights),
        precision,
        gradient,
        kept,
        weights,
        x_gradient=x_gradient,
        c_gradient=c_gradient,
        offsets=offsets,
        drops=executor.Drops(share, tuple(numbers)),
    )
    empty = gradient.new_empty(0)
    return flat, empty if x is None else x, empty.clone() if c is None else c


@_denoise_gradients.register_fake
def _(
    gradient: Tensor,
    packed: Tensor,
    vectors: Tensor,
    activations: Tensor,
    statistics: Tensor,
    weights: list[Tensor],
    numbers: list[Tensor],
    share: float,
    offsets: Tensor | None,
    precision: str,
    x_gradient: bool,
    c_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size, rows = _size(weights), gradient.shape[0]
    several = 1 if offsets is None else offsets.shape[0] - 1
    return (
        gradient.new_empty((several, size.total), dtype=torch.float32),
        gradient.new_empty((rows, size.features) if x_gradient else 0),
        gradient.new_empty((rows, size.conditions) if c_gradient else 0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, c, weights, numbers, share, precision, _ = inputs
    ctx.save_for_backward(*output[1:], *numbers, *weights)
    ctx.numbers, ctx.share, ctx.tasks = len(numbers), share, _tasks.get()
    ctx.precision, ctx.dtypes = precision, (x.dtype, c.dtype)
    ctx.set_materialize_grads(False)
    if ctx.tasks is not None:
        ctx.tasks.begin(len(x))


def _backward(ctx: Any, gradient: Tensor | None, *unused: Tensor | None) -> tuple[Any, ...]:
    packed, vectors, activations, statistics, *rest = ctx.saved_tensors
    numbers, weights = rest[: ctx.numbers], rest[ctx.numbers :]
    of_numbers: list[None] = [None] * len(numbers)
    if gradient is None:
        return None, None, None, [None] * len(weights), of_numbers, None, None, None
    flat, x, c = torch.ops.secondgram.denoise_gradients(
        gradient,
        packed,
        vectors,
        activations,
        statistics,
        weights,
        numbers,
        ctx.share,
        None if ctx.tasks is None else ctx.tasks.offsets,
        ctx.precision,
        ctx.needs_input_grad[0],
        ctx.needs_input_grad[2],
    )
    of_weights: list[Tensor | None] = [None] * len(weights)
    if ctx.tasks is None:
        parts = flat[0].split([weight.numel() for weight in weights])
        of_weights = [
            part.view(weight.shape).to(weight.dtype) if weight.requires_grad else None
            for part, weight in zip(parts, weights, strict=True)
        ]
    else:
        ctx.tasks.take(weights, flat)
    of_x = x.to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
    of_c = c.to(ctx.dtypes[1]) if ctx.needs_input_grad[2] else None
    return of_x, None, of_c, of_weights, of_numbers, None, None, None


_denoise.register_autograd(_backward, setup_context=_setup)


# -- folded -----------------------------------------------------------------------------------------------------------


class TritonSampler:
    """A folded denoiser, packed once for a device, and its whole reverse chain there: 13 launches a step.

    folded : of the network;  precision : "bf16", "fp16", "tf32" or "fp32" (the state is float32 in all of them).
    """

    def __init__(self, folded: FoldedDenoiser, device: torch.device | str = "cuda", precision: str = "fp32") -> None:
        if precision not in PRECISIONS[1:]:
            raise InputError(f"the sampler has no precision {precision!r}", mend=f"Use one of {PRECISIONS[1:]}")
        if interpreted() and precision == "bf16":
            raise InputError("Triton's interpreter multiplies bfloat16 wrongly", mend="Use precision='fp32'")
        from ..kernels.reverse_chain import Folded

        self.folded = folded
        self.packed = Folded(folded, folded.conditions[0].weight.shape[0], precision, device)
        if self.packed.size.reason_unavailable is not None:
            raise InputError(f"the kernels cannot sample: {self.packed.size.reason_unavailable}")

    def __call__(self, x: Tensor, t: float, c: npt.NDArray[np.floating[Any]]) -> Tensor:
        """One evaluation: x (M * N, D), row r of person r % N, one time t, c (N, conditions) -> (M * N, D)."""
        time, people = self._tables(np.array([t], dtype=np.float64), c)
        return cast(Tensor, self.packed(x, time[0], people))

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
    ) -> npt.NDArray[np.float32]:
        """Draws (M, N, D): conditions (N, C), keys (N,), draws (M,) numbers, table (S, 7) as `SolverTable.rows`.

        start : (N, D), mean of the first state, None for zero;  start_noise : its deviation.
        """
        from ..kernels.noise import normals

        device, width = self.packed.device, self.folded.features
        people_keys = torch.from_numpy(np.ascontiguousarray(keys, dtype=np.uint64).view(np.int64)).to(device)
        numbers = torch.from_numpy(np.ascontiguousarray(draws).astype(np.int32)).to(device)
        x = normals(people_keys, width, seed=seed, purpose=int(Purpose.START), draws=numbers) * start_noise
        if start is not None:
            x = x + torch.from_numpy(np.ascontiguousarray(start, dtype=np.float32)).to(device)
        times, people = self._tables(table[:, 0], conditions)
        last = self.packed.chain(
            x.reshape(-1, width),
            times,
            people,
            torch.from_numpy(np.ascontiguousarray(table[:, 1:], dtype=np.float32)).to(device),
            people_keys,
            numbers,
            seed,
            int(Purpose.STEP),
            [bool(fresh) for fresh in table[:, 6]],
        )
        return cast("npt.NDArray[np.float32]", last.reshape(len(draws), len(keys), width).cpu().numpy())

    def _tables(self, t: npt.NDArray[np.float64], c: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
        times = self.packed.time_tables(self.folded.embedding_of_times(t))
        return times, self.packed.people_tables(self.folded.embedding_of_conditions(np.asarray(c, dtype=np.float64)))
