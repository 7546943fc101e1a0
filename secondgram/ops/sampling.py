"""The backends that carry a whole reverse chain, best first, and the precisions that some of them have."""

from __future__ import annotations

from . import cuda, native
from .registry import AUTO, Candidate

CUDA = {f"cuda-{mode}": mode for mode in cuda.MODES}


def _triton_reason_unavailable() -> str | None:
    # Needs torch, whose import is not for everybody who asks what there is.
    from . import fused

    return fused.reason_unavailable()


# Those of a CUDA device stand last: until they have been measured on one, they run where they are asked for.
CANDIDATES = (
    Candidate("cpu", native.sampler_reason_unavailable),
    Candidate("reference"),
    *(Candidate(name, cuda.reason_unavailable) for name in CUDA),
    Candidate("triton", _triton_reason_unavailable),
)
BACKENDS = (AUTO, *(candidate.name for candidate in CANDIDATES))
# What the factors of matrix products are rounded to; the state and all sums beyond a product stay float32.
PRECISIONS = (AUTO, "fp32", "fp16", "bf16")
# Those that a backend has beside `auto`.
HAS = {"cpu": PRECISIONS[1:], "reference": ("fp32",), "triton": PRECISIONS[1:]} | dict.fromkeys(CUDA, ("bf16",))
