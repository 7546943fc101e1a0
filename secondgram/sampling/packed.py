"""A denoiser folded and packed for the native sampler, once for as long as its weights stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from ..denoiser import Denoiser
from ..diffusion.folding import FoldedDenoiser, fold
from ..ops import cuda, native
from ..ops.registry import AUTO, BackendUnavailableError, preferred_precision

if TYPE_CHECKING:
    from ..ops.triton_kernels import TritonSampler

# Half precision is taken where its draws differ from those of fp32 by at most this share of the spread of the draws.
TOLERANCE = 0.03
# Size of the batch of that comparison: a fixed one, so that the people to be sampled cannot change the choice.
CHECKED_PEOPLE, CHECKED_DRAWS = 12, 8


class PackedDenoiser:
    """The native samplers of one state of a network.

    chosen : the precision that `auto` resolves to, by solver table.
    """

    def __init__(self, net: Denoiser, state: bytes) -> None:
        self.state = state
        self.folded: FoldedDenoiser = fold({name: v.detach().cpu().numpy() for name, v in net.state_dict().items()})
        self.packed: dict[str, native.NativeSampler] = {}
        self.chosen: dict[bytes, str] = {}
        self.on_device: cuda.CudaSampler | None = None
        self.on_kernels: dict[str, TritonSampler] = {}

    def sampler(self, precision: str) -> native.NativeSampler:
        """The native sampler of a precision, `fp32`, `fp16` or `bf16`.

        Raises `BackendUnavailableError` where this processor has no instructions for it.
        """
        if not native.architectures(precision):
            raise BackendUnavailableError(
                f"precision={precision!r} was asked for, and this processor has no instructions for it"
            )
        if precision not in self.packed:
            self.packed[precision] = native.NativeSampler(self.folded, precision)
        return self.packed[precision]

    def cuda(self) -> cuda.CudaSampler:
        """The sampler of a CUDA device. Raises `RuntimeError` where the extension is absent."""
        if self.on_device is None:
            self.on_device = cuda.CudaSampler(self.folded)
        return self.on_device

    def triton(self, precision: str) -> TritonSampler:
        """The fused kernels' sampler; `auto` is bf16 on a device and fp32 where kernels are interpreted."""
        # Imports triton and torch's compiler, which nobody needs on a processor.
        from ..ops import triton_kernels

        if precision == AUTO:
            precision = "fp32" if triton_kernels.interpreted() else "bf16"
        if precision not in self.on_kernels:
            device = "cpu" if triton_kernels.interpreted() else "cuda"
            self.on_kernels[precision] = triton_kernels.TritonSampler(self.folded, device, precision)
        return self.on_kernels[precision]

    def choose(self, table: np.ndarray) -> str:
        """`fp16` or `bf16` where the processor has it and draws hardly change (see `TOLERANCE`), else `fp32`."""
        half = native.half_precision()
        if half is None:
            return "fp32"
        key = table.tobytes()
        if key not in self.chosen:
            self.chosen[key] = half if self.disagreement(half, table) <= TOLERANCE else "fp32"
        return self.chosen[key]

    def disagreement(self, precision: str, table: np.ndarray) -> float:
        """How far draws differ from those of fp32 (see the function), for people of standard normal conditions."""
        keys, numbers = np.arange(CHECKED_PEOPLE, dtype=np.uint64), np.arange(CHECKED_DRAWS, dtype=np.uint32)
        width = self.folded.conditions[0].weight.shape[0]
        condition = np.random.default_rng(0).standard_normal((CHECKED_PEOPLE, width), dtype=np.float32)
        plain, rounded = (self.sampler(name).sample(condition, keys, numbers, 0, table) for name in ("fp32", precision))
        return disagreement(rounded, plain)


def disagreement(rounded: np.ndarray, plain: np.ndarray) -> float:
    """Root mean square by which draws (M, N, D) differ from others of the same noise, as a share of their spread.

    Infinite where a draw is no finite number.
    """
    difference = np.sqrt(np.mean(np.square(rounded - plain, dtype=float)))
    spread = np.sqrt(np.mean(plain.var(axis=0, ddof=1, dtype=float)))
    share = difference / spread if difference else 0.0
    return float(share) if np.isfinite(share) else np.inf


# Networks whose weights do not change any more: their packed weights are never checked again.
_learned: WeakSet[Denoiser] = WeakSet()
_known: WeakKeyDictionary[Denoiser, PackedDenoiser] = WeakKeyDictionary()
_looked_at: ContextVar[WeakSet[Denoiser] | None] = ContextVar("_looked_at", default=None)


@contextmanager
def unchanging() -> Iterator[None]:
    """Inside, the weights of networks do not change, so each network is hashed once."""
    token = _looked_at.set(WeakSet())
    try:
        yield
    finally:
        _looked_at.reset(token)


def learned(net: Denoiser) -> Denoiser:
    """Declare that the weights of a network do not change any more, so that they are hashed once. Returns it."""
    _learned.add(net)
    return net


def packed(net: Denoiser) -> PackedDenoiser:
    """The packed form of a network as it is now."""
    known, looked_at = _known.get(net), _looked_at.get()
    if known is not None and (net in _learned or (looked_at is not None and net in looked_at)):
        return known
    state = _state(net)
    if known is None or known.state != state:
        known = _known[net] = PackedDenoiser(net, state)
    if looked_at is not None:
        looked_at.add(net)
    return known


def native_sampler(net: Denoiser, table: np.ndarray, precision: str) -> native.NativeSampler:
    """The native sampler of a network in a precision, `auto` decided for it as it is now."""
    known = packed(net)
    return known.sampler(_decided(known, table, precision))


def decided(net: Denoiser, table: np.ndarray, precision: str) -> str:
    """The precision that is asked for; `auto` becomes the one set by `preferring`, else the choice of `choose`."""
    return _decided(packed(net), table, precision)


def _decided(known: PackedDenoiser, table: np.ndarray, precision: str) -> str:
    wanted = preferred_precision() if precision == AUTO else precision
    return known.choose(table) if wanted == AUTO else wanted


def _state(net: Denoiser) -> bytes:
    # By content: torch's own count of changes misses those of its fused optimisers.
    digest = hashlib.blake2b(digest_size=16)
    for value in net.parameters():
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return digest.digest()
