"""A source of whatever is given: a file, a table in memory, a folder of Parquet files, or several to be merged."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .known import Known
from .merging import PartsSource, merge
from .reading import Source, guarded, open_source
from .roles import Asked
from .scan_tables import find_scans, scan_column


def open_tables(data: object, asked: Asked, known: Known, delimiter: str | None) -> tuple[Source, Asked]:
    """The source of one or several tables, and what is asked of it once scan names are taken apart.

    Raises `InputError` as `open_source` does, and for tables that cannot be merged.
    """
    if not isinstance(data, (list, tuple)):
        return find_scans(_open(data, delimiter), asked, known)
    if not data:
        raise InputError("no table is given", mend="Give a path, or several to be merged")
    if len(data) == 1:
        return find_scans(_open(data[0], delimiter), asked, known)
    if asked.layout in ("wide", "ukb") or asked.wide:
        problem = "several tables are merged by person and visit, and wide ones are not"
        raise InputError(problem, mend="Leave out layout=... and wide=..., or give one table")
    sources, raw = [], {}
    for each in data:
        source = _open(each, delimiter)
        free = replace(asked, id=asked.id if asked.id in source.names else None)
        free = replace(free, visit=asked.visit if asked.visit in source.names else None)
        # Whether these alone show it does not matter: with the others, they may.
        named, _ = find_scans(source, free, known, alone=True)
        column = scan_column(source) if named is source else None
        if column is not None:
            raw[source.label or ""] = column
        sources.append(named)
    with guarded(None):
        return merge(sources, asked, raw)


def _open(data: object, delimiter: str | None) -> Source:
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir():
        folder = Path(data)
        files = sorted(file for file in folder.glob("*.parquet") if file.is_file() and file.name[0] not in "._")
        if files:
            with guarded(str(data)):
                return PartsSource(folder, os.fspath(str(data)), files)
    return open_source(data, delimiter)
