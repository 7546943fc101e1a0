"""Backends of postprocessing (components to draws), best first, named as those of the sampler."""

from __future__ import annotations

from . import native
from .registry import Candidate

CANDIDATES = (Candidate("cpu", native.sampler_reason_unavailable), Candidate("reference"))
