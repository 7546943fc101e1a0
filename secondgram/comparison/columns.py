"""Which column of a covariate table is a person's age, or sex."""

from __future__ import annotations

import re

import pandas as pd


def numbers_of(table: pd.DataFrame, *words: str) -> pd.Series | None:
    """The first column of numbers whose name holds one of the words as a word, `age_at_scan` say; None without one."""
    return next((table[name] for name in _named(table, words) if pd.api.types.is_numeric_dtype(table[name])), None)


def labels_of(table: pd.DataFrame, *words: str) -> pd.Series | None:
    """The first column, of numbers or texts, whose name holds one of the words as a word; None without one."""
    return next((table[name] for name in _named(table, words)), None)


def _named(table: pd.DataFrame, words: tuple[str, ...]) -> list[object]:
    return [name for name in table.columns if set(re.split("[^a-z0-9]+", str(name).lower())) & set(words)]
