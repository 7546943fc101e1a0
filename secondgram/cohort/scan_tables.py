"""Tables with a row for each scan, as FreeSurfer's asegstats2table and MRIQC write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from ..errors import InputError, some
from .known import Known
from .layouts import looks_ukb, looks_wide, plain_name
from .reading import Source
from .roles import ID_NAMES, Asked, known_name, visit_name
from .scan_names import split_names

VISIT = "visit"
# The first column of FreeSurfer's tables is called by what they measure.
_OF_SCANS = re.compile(r"Measure:.+|[lr]h\.[\w.+-]+|(?:aseg|wmparc|aparc)[\w.+-]*", re.I)
_SCAN_NAMES = {"bids_name", "scan", "scan_name", "fsid", "fs_id", "mri_session", "image_name", "filename"}


class ScanSource(Source):
    """A source whose column of scan names is read as person, and a further column as visit.

    raw : (R,) the names as they are written.
    """

    def __init__(self, source: Source, column: str, people: Sequence[str], visits: Sequence[str], raw: Sequence[str]):
        self.source, self.column, self.raw = source, column, list(raw)
        self.label, self.delimiter = source.label, source.delimiter
        self._made = {column: pa.array(people, pa.string()), VISIT: pa.array(visits, pa.string())}
        self.names = [column, VISIT, *(name for name in source.names if name != column)]
        self.notes = [
            *source.notes,
            f"scan names in {column!r} tell person and visit: {raw[0]!r} is visit {visits[0]} of {people[0]}",
        ]

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns, person and visit as text."""
        others = [name for name in columns if name not in self._made]
        # No column at all would mean every one.
        table = self.source.read([self.column, *others], {*as_text, self.column} - {VISIT})
        return pa.table([self._made[name] if name in self._made else table[name] for name in columns], list(columns))

    def rows(self, records: Sequence[int]) -> list[int]:
        """Those of the source."""
        return self.source.rows(records)

    def place(self, record: int, column: str | None = None) -> tuple[str | None, int]:
        """That of the source."""
        return self.source.place(record, column)


def find_scans(source: Source, asked: Asked, known: Known, alone: bool = False) -> tuple[Source, Asked]:
    """The source with person and visit taken from scan names, where it has them and no visits otherwise.

    alone : whether a table of scans is known to have both in its names, though few may not show it.

    Raises `InputError` where the names of FreeSurfer's scans do not tell them.
    """
    if asked.visit or asked.layout in ("wide", "ukb") or asked.wide or visit_name(source.names):
        return source, asked
    column = asked.id or next((name for name in source.names if plain_name(name) == "bids_name"), None)
    column = column or known_name(source.names, ID_NAMES) or next(iter(source.names), None)
    if column not in source.names:
        return source, asked
    listed = _OF_SCANS.fullmatch(column) is not None or plain_name(column) in _SCAN_NAMES
    if not listed and (looks_ukb(source.names) or looks_wide(source.names) or not _few(source, column)):
        return source, asked
    raw = source.read([column], [column])[column].to_pylist()
    if not all(isinstance(name, str) and name.strip() for name in raw):
        return source, asked
    alone = alone or (known.columns.get("visit") == VISIT and known.columns.get("id") == column)
    found = split_names(raw, any_form=listed, alone=alone)
    if found is None:
        if _OF_SCANS.fullmatch(column) and asked.layout is None and not alone:
            raise _unsplit(source, column, raw)
        return source, asked
    return ScanSource(source, column, *found, raw), replace(asked, id=column, visit=VISIT)


def _few(source: Source, column: str) -> bool:
    """Whether the first values of a column may be scan names at all: reading a large table twice takes its time."""
    head = source.read([column], [column])[column].slice(0, 5).to_pylist()
    return all(isinstance(name, str) for name in head) and split_names(head, any_form=False) is not None


def scan_column(source: Source) -> str | None:
    """The first column, where it is called as that of scan names is."""
    column = next(iter(source.names), None)
    return column if column and (_OF_SCANS.fullmatch(column) or plain_name(column) in _SCAN_NAMES) else None


def _unsplit(source: Source, column: str, raw: Sequence[str]) -> InputError:
    return InputError(
        f"scan names ({some(raw, 3)}) do not tell person and visit: looked for <scan>.long.<base>, "
        "sub-<label>_ses-<label> and <person>_<visit>",
        file=source.label,
        column=column,
        mend="Add columns subject_id and visit, or merge the table with one that has this column, subject_id and visit",
    )
