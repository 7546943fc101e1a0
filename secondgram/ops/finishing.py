"""The backends that finish draws, best first, by the names of those that sample."""

from __future__ import annotations

from . import native
from .registry import Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
