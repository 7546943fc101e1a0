"""How a text file is laid out before its first row: separator, lines above the header, a row that describes columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from ..errors import InputError

SEPARATORS = ",\t;|"
NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "blank": " "}
_SEP_LINE = re.compile(rb'"?sep=(.)"?[ \t;,]*', re.I)
_NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?")
# Rows that are looked at to see whether each begins with a name that the header does not have.
_ROWS = 5


@dataclass(frozen=True)
class TextFormat:
    """delimiter : one character, a blank for any run of blanks.  above : lines before the header.

    hashed : whether the header begins with a mark of comments.  notes : on what was understood.
    """

    delimiter: str
    above: int = 0
    hashed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """names : of columns, with one for names of rows.  lines : of the file that are no rows.  notes : on them."""

    names: list[str]
    lines: int
    notes: list[str] = field(default_factory=list)


def find_format(head: bytes, suffixes: Sequence[str], label: str, delimiter: str | None = None) -> TextFormat:
    """Look at the first bytes of a file. suffixes : of its name.  delimiter : one that was asked for.

    Raises `InputError` for one that is no single character, and for a file in which no separator is found.
    """
    if delimiter is not None:
        delimiter = NAMED.get(delimiter, delimiter)
        if len(delimiter) != 1:
            problem = f"delimiter={delimiter!r} is no single character"
            raise InputError(problem, mend=f"Give the character, or one of {', '.join(NAMED)}")
    lines = re.split(rb"\r\n|\n|\r", head.removeprefix(b"\xef\xbb\xbf"))
    above, notes = 0, []
    while above < len(lines) - 1 and not lines[above].strip():
        above += 1
    said = _SEP_LINE.fullmatch(lines[above].rstrip(b" "))
    if said is not None:
        delimiter = delimiter or said[1].decode("latin-1")
        notes.append(f"the first line says that {delimiter!r} stands between cells")
        above += 1
    comments = above
    while comments < len(lines) - 1 and lines[comments].startswith(b"#"):
        comments += 1
    hashed = False
    if comments > above:
        hashed = _is_header(lines[comments - 1], lines[comments], delimiter, suffixes)
        left = comments - above - hashed
        above = comments - hashed
        if left:
            notes.append(f"lines that begin with # are left out ({left} above the header)")
    header = b"\n".join(lines[above:]).lstrip()
    found = delimiter or _delimiter(header, suffixes)
    if found is None:
        found = " " if _in_blanks(lines[above:]) else None
    if found is None and ".csv" in suffixes:
        found = ","
    if found is None and ".tsv" in suffixes:
        found = "\t"
    if found is None:
        raise InputError(
            "is no table that can be recognised",
            file=label,
            mend="CSV, TSV (also .gz), Parquet, Arrow and Feather files can be read; "
            "say what stands between cells with delimiter=... (--delimiter)",
        )
    if found not in ",\t;":
        notes.append("blanks stand between cells" if found == " " else f"{found!r} stands between cells")
    return TextFormat(found, above, hashed, tuple(notes))


def _delimiter(head: bytes, suffixes: Sequence[str]) -> str | None:
    """The separator that stands most often in the first line; that of the suffix, where none stands more often."""
    # A file that is called CSV may be separated by semicolons or tabs, and have commas in its names.
    line = re.split(rb"[\r\n]", b"".join(head.split(b'"')[::2]))[0]
    counts = {mark: line.count(mark.encode()) for mark in SEPARATORS}
    best = max(counts, key=lambda mark: counts[mark])
    preferred = "\t" if ".tsv" in suffixes else "," if ".csv" in suffixes else None
    if preferred and counts[preferred] and (preferred == "\t" or counts[preferred] == counts[best]):
        return preferred
    return best if counts[best] else None


def _in_blanks(lines: Sequence[bytes]) -> bool:
    """Whether the first lines are cells between blanks, equally many in each but for names of rows."""
    counts = [len(line.split()) for line in lines if line.strip()][: _ROWS + 1]
    return len(counts) > 2 and counts[0] > 2 and {count - counts[0] for count in counts[1:-1]} in ({0}, {1})


def _is_header(line: bytes, following: bytes, delimiter: str | None, suffixes: Sequence[str]) -> bool:
    """Whether a line behind a mark of comments has the names of the columns, and the next one the first row."""
    mark = delimiter or _delimiter(following, suffixes)
    if mark is None:
        return False
    names, cells = (each.decode("utf-8", "replace").split(mark) for each in (line, following))
    return len(names) == len(cells) > 1 and any(_NUMBER.fullmatch(cell.strip()) for cell in cells)


def squeezed(lines: Iterator[str]) -> Iterator[str]:
    """Lines in which a run of blanks is one."""
    return (re.sub(r"[ \t]+", " ", line.strip(" \t\r\n")) + "\n" for line in lines)


def read_header(lines: TextIO, form: TextFormat, unnamed: str) -> Header:
    """Names of columns, and how many lines are no rows. unnamed : how a name begins that the file does not give.

    Raises `csv.Error` and `UnicodeDecodeError` for a header that cannot be read. A row below it raises nothing here.
    """
    for _ in range(form.above):
        lines.readline()
    reader = csv.reader(squeezed(lines) if form.delimiter == " " else lines, delimiter=form.delimiter)
    cells = next((row for row in reader if row), [])
    if form.hashed and cells:
        cells[0] = cells[0].lstrip("# ")
    count = reader.line_num
    notes: list[str] = []
    below: list[tuple[list[str], int]] = []
    try:
        for row in reader:
            if row:
                below.append((row, reader.line_num))
            if len(below) > _ROWS:
                break
    except (csv.Error, UnicodeDecodeError):
        pass
    rows = [row for row, _ in below]
    if _describes(rows, len(cells)):
        words = " ".join(rows[0][0].split())
        notes.append(
            f"row {form.above + count + 1} describes the columns and is left out: {words[:60]!r}"
            + (" ..." if len(cells) > 1 or len(words) > 60 else "")
        )
        count, rows = below[0][1], rows[1:]
    names = [cell.strip() or f"{unnamed}{number}" for number, cell in enumerate(cells, 1)]
    if _has_row_names(rows, len(cells)):
        names.insert(0, f"{unnamed}0")
        notes.append("rows begin with a name that the header does not have, as R writes them: it is left out")
    return Header(names, form.above + count, notes)


def _describes(rows: Sequence[Sequence[str]], columns: int) -> bool:
    """Whether the first row has words about the columns where those below have values, as tables of the NDA."""
    if len(rows) < 2 or columns < 2:
        return False
    words, others = rows[0], rows[1:]
    wordy = [len(row) > 0 and sum(len(cell.split()) > 1 for cell in row) / len(row) for row in rows]
    numbers = any(_NUMBER.fullmatch(cell.strip()) for row in others for cell in row)
    return (
        len(words) == columns
        and not any(_NUMBER.fullmatch(cell.strip()) for cell in words)
        and len(words[0].split()) > 1
        and wordy[0] >= 0.5
        and max(wordy[1:]) < 0.5
        and numbers
    )


def _has_row_names(rows: Sequence[Sequence[str]], columns: int) -> bool:
    if columns < 2 or len(rows) < 2 or any(len(row) != columns + 1 for row in rows):
        return False
    named = {row[0].strip() for row in rows} - {""}
    return len(named) == len(rows) and any(row[-1].strip() for row in rows)
