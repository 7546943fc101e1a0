"""The backends that carry a whole reverse chain, best first, and the precisions that some of them have."""

from __future__ import annotations

from . import native
from .registry import AUTO, Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
BACKENDS = (AUTO, *(candidate.name for candidate in CANDIDATES))
# What the factors of matrix products are rounded to; the state and all sums beyond a product stay float32.
PRECISIONS = (AUTO, "fp32", "fp16", "bf16")
