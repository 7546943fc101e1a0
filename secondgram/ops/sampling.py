"""Backends of the sampler (the whole reverse chain), best first, and the precisions of each."""

from __future__ import annotations

from . import cuda, native
from .registry import AUTO, Candidate

CUDA = {f"cuda-{mode}": mode for mode in cuda.MODES}


def _triton_reason_unavailable() -> str | None:
    # Imported here: torch is slow to import, and `doctor` can list backends without it.
    from . import triton_kernels

    return triton_kernels.reason_unavailable()


# CUDA backends stand last: until they have been measured on a device, they run only where they are asked for.
CANDIDATES = (
    Candidate("cpu", native.sampler_reason_unavailable),
    Candidate("reference"),
    *(Candidate(name, cuda.reason_unavailable) for name in CUDA),
    Candidate("triton", _triton_reason_unavailable),
)
BACKENDS = (AUTO, *(candidate.name for candidate in CANDIDATES))
# Precisions of the factors of matrix products; the state and all sums beyond a product stay float32.
PRECISIONS = (AUTO, "fp32", "fp16", "bf16")
# Precisions of each backend, beside `auto`.
HAS = {"cpu": PRECISIONS[1:], "reference": ("fp32",), "triton": PRECISIONS[1:]} | dict.fromkeys(CUDA, ("bf16",))
