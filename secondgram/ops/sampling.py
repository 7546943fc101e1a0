"""The backends that carry a whole reverse chain, best first."""

from __future__ import annotations

from . import native
from .registry import AUTO, Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
BACKENDS = (AUTO, *(candidate.name for candidate in CANDIDATES))
