"""Sources of columns: files, data frames and Arrow tables, with the row of each record for messages."""

from __future__ import annotations

import codecs
import csv
import ctypes
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from ..errors import InputError, some
from .text_format import TextFormat, find_format, read_header, squeezed

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", ".")
READABLE = "CSV, TSV (also .gz), Parquet, Arrow and Feather files can be read"
_UNNAMED = "unnamed column "
_FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"BZh91AY&SY": "a bz2 archive",
    b"\xfd7zXZ\0": "an xz archive",
}
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*[\[{]|\{\s*"|\{\s*\})')
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml|table|svg)\b", re.I)


class Source(Protocol):
    """Columns that can be read, and the place of a record for messages.

    label : the file's name as the person gave it, None for a table in memory.
    names : every column's name, in order, unique; columns without a name are left out.
    notes : on what was understood of the file.  delimiter : between cells of a text file, None elsewhere.
    """

    label: str | None
    names: list[str]
    notes: list[str]
    delimiter: str | None

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns; those in `as_text` exactly as they are written, where the format keeps text."""
        ...

    def rows(self, records: Sequence[int]) -> list[int]:
        """The row (see `InputError`) of each record, counted from 0."""
        ...

    def place(self, record: int, column: str | None = None) -> tuple[str | None, int]:
        """File and row of a record; where a source has several files, of the one that has the column."""
        return self.label, self.rows([record])[0]


def open_source(data: object, delimiter: str | None = None) -> Source:
    """Look at a path, pandas DataFrame or Arrow table and read its column names.

    delimiter : what stands between the cells of a text file, None to find it out.

    Raises `InputError` for a source that is missing, empty or no table.
    """
    if isinstance(data, pd.DataFrame):
        return TableSource(_from_pandas(data))
    if isinstance(data, pa.Table):
        return TableSource(data)
    if not isinstance(data, (str, os.PathLike)):
        raise InputError(
            f"a cohort cannot be read from {type(data).__name__}",
            mend="Give a path, a pandas DataFrame or a pyarrow Table",
        )
    label = os.fspath(data)
    path = Path(label)
    if not path.exists():
        raise InputError("there is no such file", file=label, mend="Check the path")
    if path.is_dir():
        raise InputError("is a folder", file=label, mend="Name one table inside it")
    with guarded(str(label)):
        with open(path, "rb") as handle:
            head = handle.read(65536)
        return _recognise(path, str(label), head, delimiter)


@contextmanager
def guarded(label: str | None) -> Iterator[None]:
    """Turn exceptions of other libraries about damaged or unreadable files into an `InputError`."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"cannot be read: {error.strerror}", file=label, mend="Check the file") from error
        raise InputError(
            f"cannot be read as a table: {_first_line(error)}",
            file=label,
            mend="The file may be damaged or cut short: copy or export it again",
        ) from error


def _first_line(error: Exception) -> str:
    """What another library says, without bytes of the file that a terminal would obey."""
    line = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _recognise(path: Path, label: str, head: bytes, delimiter: str | None) -> Source:
    if not head:
        raise InputError("is empty", file=label, mend="Give a table with a header and at least one row")
    if path.suffix.lower() in {".pkl", ".pickle", ".pt", ".pth"} or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        raise InputError("is a pickle, which is never opened: it may run code", file=label, mend=READABLE)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"is {what}, not a table", file=label, mend=f"{READABLE}; export it as CSV")
    if head.startswith(b"PAR1"):
        return ParquetSource(path, label)
    if head.startswith(b"FEA1"):
        # Its reader trusts whatever stands in the file, and a damaged one ends the process.
        raise InputError(
            "is a Feather file of the first version, which is not opened",
            file=label,
            mend="Write it as version 2, which every library has done since 2020, or as Parquet",
        )
    if head.startswith(b"ARROW1"):
        return ArrowSource(pyarrow.feather.read_table(path, memory_map=True), label)
    packed = head.startswith(b"\x1f\x8b")
    if packed:
        with gzip.open(path) as handle:
            head = handle.read(65536)
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("is no table: it holds binary data", file=label, mend=READABLE)
    if _JSON.match(head):
        raise InputError("is JSON, not a table", file=label, mend=f"{READABLE}; export it as CSV")
    if _MARKUP.match(head):
        raise InputError("is a web page or XML, not a table", file=label, mend=f"{READABLE}; export it as CSV")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return TextSource(path, label, packed, find_format(head, suffixes, label, delimiter))


def _check_names(names: Sequence[str], label: str | None) -> list[str]:
    doubled = pd.Index(names, dtype=object)
    if doubled.has_duplicates:
        raise InputError(
            f"columns occur twice: {some(doubled[doubled.duplicated()].unique())}",
            file=label,
            mend="Give every column its own name",
        )
    return [name for name in names if not name.startswith((_UNNAMED, "__index_level_"))]


class TableSource(Source):
    """An Arrow table in memory."""

    def __init__(self, table: pa.Table, label: str | None = None) -> None:
        self.table, self.label, self.notes = table, label, list[str]()
        self.delimiter: str | None = None
        self.names = _check_names(table.column_names, label)

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns as they are."""
        return self.table.select(list(columns))

    def rows(self, records: Sequence[int]) -> list[int]:
        """1-based records."""
        return [int(record) + 1 for record in records]


class ArrowSource(TableSource):
    """A table mapped from an Arrow or Feather file."""

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns as they are. Raises ArrowInvalid where one points outside of itself, as a damaged one may."""
        table = super().read(columns, as_text)
        table.validate(full=True)
        return table


class ParquetSource(TableSource):
    """A Parquet file of which only the wanted columns are read."""

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label, self.notes = path, label, list[str]()
        self.delimiter: str | None = None
        schema = pyarrow.parquet.read_schema(path)
        self.names = _check_names(schema.names, label)

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns with the file's own types."""
        wanted = list(columns)
        # Buffering ahead takes six times as long with a thousand columns. A name also selects nested columns that
        # begin with it, hence the second selection.
        with _exact_memory():
            # Checksums are looked at where the file has them.
            file = pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True)
            return file.read(columns=wanted).select(wanted)

    def length(self) -> int:
        """How many records there are."""
        return int(pyarrow.parquet.read_metadata(self.path).num_rows)


def give_back_memory() -> None:
    """Hand the memory of columns that are no longer needed back to the system, which glibc does when asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def _exact_memory() -> Iterator[None]:
    """Let Arrow take memory from the system: its own allocator takes more for a thousand columns."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


class TextSource(Source):
    """A CSV or TSV file, read by pyarrow; Python looks at single lines only to name a bad one."""

    def __init__(self, path: Path, label: str, packed: bool, form: TextFormat) -> None:
        self.path, self.packed, self.form = path, packed, form
        self.delimiter: str | None = form.delimiter
        self.label: str | None = label
        self.notes = list(form.notes)
        self._quotes_checked = False
        self._all_names, self._header_lines = self._header()
        self._header_bytes = sum(map(len, self._all_names))
        self.names = _check_names(self._all_names, label)

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path) if self.packed else open(self.path, "rb"))

    def _header(self) -> tuple[list[str], int]:
        with self._open() as handle:
            lines = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="")
            try:
                header = read_header(lines, self.form, _UNNAMED)
            except (UnicodeDecodeError, csv.Error) as error:
                self._check_encoding()
                row = self.form.above + 1
                raise InputError(f"has a header that cannot be read: {error}", file=self.label, row=row) from error
        if all(name.startswith(_UNNAMED) for name in header.names):
            raise InputError("is empty", file=self.label, mend="Give a table with a header and at least one row")
        self.notes += header.notes
        return header.names, header.lines

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns; numbers are recognised but for those in `as_text`, missing cells are null."""
        types = {name: pa.string() for name in as_text}
        try:
            try:
                # With every type given, nothing is kept to be read again: half the time and memory.
                table = self._table(columns, self._first_types(columns, types))
            except pa.ArrowInvalid as error:
                if "parse error" in str(error):
                    raise
                table = self._table(columns, types)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._explained(error) from error
        if any(pa.types.is_binary(kind) for kind in table.schema.types):
            self._check_encoding()
        self._check_quotes()
        self._check_zeros(table)
        # The parser takes `nan(1)` and `-nan` for numbers; as text, they are named.
        unknown = [name for name in table.column_names if _has_nan(table[name])]
        if unknown:
            texts = self._table(unknown, dict.fromkeys(unknown, pa.string()))
            for name in unknown:
                table = table.set_column(table.column_names.index(name), name, texts[name])
        if not table.num_rows:
            raise InputError("has a header and no rows", file=self.label, mend="Give one row per person and visit")
        return table

    def _check_quotes(self) -> None:
        """Raise `InputError` for a quote that is opened and never closed: all lines below it would be one cell."""
        if self._quotes_checked:
            return
        self._quotes_checked = True
        with self._open() as handle:
            count = sum(block.count(b'"') for block in iter(lambda: handle.read(1 << 20), b""))
        if count % 2 == 0:
            return
        start = end = 0
        with self._open() as handle:
            lines = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="", errors="replace")
            reader = csv.reader(lines, delimiter=self.form.delimiter)
            try:
                for _ in reader:
                    start, end = end, reader.line_num
            except csv.Error:
                # A cell of more letters than a cell may have.
                start, end = end, reader.line_num
        if end - start > 1:
            raise InputError(
                f"a quote is opened in the row and never closed: the {end - start - 1} lines below would be one cell",
                file=self.label,
                row=start + 1,
                mend="Close the quote, or take it out",
            )

    def _check_zeros(self, table: pa.Table) -> None:
        """Raise `InputError` for text with a zero byte, which marks a file that was damaged or is no text."""
        for name in table.column_names:
            if pa.types.is_string(table[name].type):
                found = pc.index(pc.match_substring(table[name], "\0"), pa.scalar(True)).as_py()
                if found >= 0:
                    mend = "The file may be damaged: copy or export it again"
                    row = self.rows([found])[0]
                    raise InputError("the cell holds a zero byte", file=self.label, column=name, row=row, mend=mend)

    def _first_types(self, columns: Sequence[str], types: dict[str, pa.DataType]) -> dict[str, pa.DataType]:
        """The type of each column, float64 or text, by the first block."""
        with self._stream() as stream:
            options = self._reading(block_size=min(max(1 << 20, 64 * self._header_bytes), 1 << 28))
            with pyarrow.csv.open_csv(stream, options, self._parsing(), _converting(columns, types)) as reader:
                schema = reader.schema
        kinds = ((field.name, field.type) for field in schema)
        number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
        return {name: pa.float64() if any(test(kind) for test in number) else pa.string() for name, kind in kinds}

    def _table(self, columns: Sequence[str], types: dict[str, pa.DataType]) -> pa.Table:
        # Small blocks would cut a wide table into very many short pieces.
        options = self._reading(block_size=min(max(1 << 23, 256 * self._header_bytes), 1 << 28))
        with self._stream() as stream:
            return pyarrow.csv.read_csv(stream, options, self._parsing(), _converting(columns, types))

    def _reading(self, **more: Any) -> pyarrow.csv.ReadOptions:
        return pyarrow.csv.ReadOptions(column_names=self._all_names, skip_rows=self._header_lines, **more)

    def _stream(self) -> Any:
        if self.form.delimiter == " ":
            with self._open() as handle:
                lines = squeezed(io.TextIOWrapper(handle, encoding="utf-8-sig", newline="", errors="surrogateescape"))
                return pa.BufferReader("".join(lines).encode("utf-8", "surrogateescape"))
        return pa.input_stream(str(self.path), compression="gzip" if self.packed else None)

    def _parsing(self, **more: Any) -> pyarrow.csv.ParseOptions:
        return pyarrow.csv.ParseOptions(delimiter=self.form.delimiter, newlines_in_values=True, **more)

    def _explained(self, error: Exception) -> InputError:
        self._check_encoding()
        ragged: list[pyarrow.csv.InvalidRow] = []

        def note(row: pyarrow.csv.InvalidRow) -> str:
            ragged.append(row)
            return "error"

        # Only a single thread counts rows, so the file is parsed once more up to the bad one.
        options = self._reading(use_threads=False, block_size=1 << 24)
        try:
            with self._stream() as stream:
                pyarrow.csv.read_csv(stream, options, self._parsing(invalid_row_handler=note))
        except (pa.ArrowException, OSError, EOFError):
            pass
        if not ragged or ragged[0].number is None:
            return InputError(f"cannot be read as text: {_first_line(error)}", file=self.label)
        return InputError(
            f"the row has {ragged[0].actual_columns} cells, the header has {ragged[0].expected_columns}",
            file=self.label,
            row=self.rows([ragged[0].number - 1 - self._header_lines])[0],
            mend="Give every row as many cells as the header; quote text that holds the separator",
        )

    def _check_encoding(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        before = line = 0
        with self._open() as handle:
            block = None
            while block != b"":
                block = handle.read(1 << 20)
                held = len(decoder.getstate()[0])
                try:
                    decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    place = error.start - held
                    raise InputError(
                        f"is no UTF-8 text (byte {before + place})",
                        file=self.label,
                        row=line + block[: max(place, 0)].count(b"\n") + 1,
                        mend="Save the file as UTF-8",
                    ) from error
                before, line = before + len(block), line + block.count(b"\n")

    def rows(self, records: Sequence[int]) -> list[int]:
        """1-based lines of the file: blank lines and line breaks inside quotes make them differ from records."""
        wanted = set(map(int, records))
        found: dict[int, int] = {}
        record, inside = -1, False
        with self._open() as handle:
            for number, line in enumerate(handle, 1):
                if number <= self._header_lines or (not inside and not line.strip(b"\r\n")):
                    continue
                if not inside:
                    record += 1
                    if record in wanted:
                        found[record] = number
                        if len(found) == len(wanted):
                            break
                inside ^= bool(line.count(b'"') & 1)
        return [found.get(int(record), int(record) + 1 + self._header_lines) for record in records]


def _has_nan(column: pa.ChunkedArray) -> bool:
    """Whether a cell is there and is no number; a missing one is null."""
    return pa.types.is_floating(column.type) and bool(pc.any(pc.is_nan(column)).as_py())


def _converting(columns: Sequence[str], types: dict[str, pa.DataType]) -> pyarrow.csv.ConvertOptions:
    return pyarrow.csv.ConvertOptions(
        include_columns=list(columns),
        column_types=types,
        null_values=list(MISSING),
        strings_can_be_null=True,
        true_values=[],
        false_values=[],
    )


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    if frame.columns.nlevels > 1:
        raise InputError("the table has several rows of column names", mend="Join them into one name per column")
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    _check_names(names, None)
    return pa.table([_from_series(frame.iloc[:, place]) for place in range(len(names))], names=names)


def _from_series(series: pd.Series) -> pa.Array:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f":
        return pa.array(series.to_numpy())
    try:
        made = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        made = pa.array(series.map(str).where(series.notna(), None).astype(object), pa.string())
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
