"""Tests for whoever adds a preset or a method: a contract that every model keeps, and cohorts and tables to try it on.

`check_model` needs nothing but secondgram; `cohorts` and `tables` are hypothesis strategies, and hypothesis is loaded
when one of them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import BrokenContractError, check_model
    from .strategies import cohorts
    from .table_files import Table, tables

_HOME = {
    "BrokenContractError": "contract",
    "check_model": "contract",
    "cohorts": "strategies",
    "Table": "table_files",
    "tables": "table_files",
}

__all__ = ["BrokenContractError", "Table", "check_model", "cohorts", "tables"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'secondgram.testing' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
