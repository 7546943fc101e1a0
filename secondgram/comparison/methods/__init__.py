"""The methods every claim is held against: simple ones, other libraries, and the arms of the published method."""

from __future__ import annotations

from .baseline import Baseline
from .method_catalogue import (
    ARMS,
    BASELINES,
    BETWEEN,
    BY_NAME,
    DEFAULT_METHODS,
    HIDDEN_METHODS,
    METHODS,
    PEERS,
    RIVALS,
    TITLES,
    Method,
)

__all__ = [
    "ARMS",
    "BASELINES",
    "BETWEEN",
    "BY_NAME",
    "DEFAULT_METHODS",
    "HIDDEN_METHODS",
    "METHODS",
    "PEERS",
    "RIVALS",
    "TITLES",
    "Baseline",
    "Method",
]
