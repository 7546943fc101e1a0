"""Columns that the person leaves out of a table, before any of them is given a role."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import InputError, MissingColumn, some
from .known import Known
from .reading import Source
from .roles import Asked, find_layout, read_fields


def exclude_columns(source: Source, asked: Asked, patterns: Sequence[str], known: Known) -> list[str]:
    """Take columns out of `source.names`; returns notes.

    patterns : names or patterns of columns, or of features of which each visit has a column.
    Raises `InputError` for one that matches nothing, and for a column that is named for a part or that the model has.
    """
    if not patterns:
        return []
    gone: list[str] = []
    for pattern in patterns:
        found = [name for name in source.names if name == pattern]
        found = found or [name for name in source.names if fnmatchcase(name, pattern)]
        gone += found or _of_fields(source, asked, pattern)
    named = asked.whole_columns(source.names) | set(asked.features or [])
    for name in dict.fromkeys(gone):
        if name in named:
            raise InputError(
                "the column is excluded and named for a part", file=source.label, column=name, mend="Do one of both"
            )
        if name in {*known.features, *known.covariates}:
            raise InputError(
                "the column is excluded, and the model was trained with it",
                file=source.label,
                column=name,
                mend="Leave it in the table",
            )
    source.names = [name for name in source.names if name not in set(gone)]
    return [f"excluded as asked: {some(dict.fromkeys(gone))}"]


def _of_fields(source: Source, asked: Asked, pattern: str) -> list[str]:
    """Columns of features of this name, of which each visit has one."""
    try:
        fields = read_fields(source, asked, find_layout(source, asked)).fields
    except InputError:
        fields = {}
    found = [part for name, part in fields.items() if name == pattern or fnmatchcase(name, pattern)]
    if not found:
        close = difflib.get_close_matches(pattern, [*source.names, *fields], n=1, cutoff=0.6)
        hint = f"Did you mean {close[0]!r}?" if close else "Check the spelling, capitals included"
        raise MissingColumn("there is no such column to exclude", file=source.label, column=pattern, mend=hint)
    return [column for part in found for column in part.columns.values()]
