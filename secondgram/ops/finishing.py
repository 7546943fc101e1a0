"""Backends of finishing (components to draws), best first; they have the names of the sampler's backends."""

from __future__ import annotations

from . import native
from .registry import Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
