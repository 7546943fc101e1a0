"""The backends that carry a whole reverse chain, best first."""

from __future__ import annotations

from . import native
from .registry import Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
