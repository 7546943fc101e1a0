"""Columns as numbers, text or dates; a cell that cannot be used is named with its column and row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from .reading import MISSING, Source

# No measurement is larger, and squares of larger numbers overflow: statistics packages write missing cells so.
LARGEST = 1e150


class Sheet:
    """Columns that were read, R rows each.

    records : (R,) the record of the source in which each row stands.
    """

    def __init__(self, table: pa.Table, source: Source) -> None:
        self.columns = {name: _plain(table[name]) for name in table.column_names}
        self.source = source
        self.records = np.arange(table.num_rows)
        # (column, record) -> value of cells that are no measurement, read as missing; None where they are refused.
        self.beyond: dict[tuple[str, int], float] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def keep(self, rows: np.ndarray) -> None:
        """Only these rows, given as a mask (R,)."""
        mask = pa.array(rows)
        self.columns = {name: column.filter(mask) for name, column in self.columns.items()}
        self.records = self.records[rows]

    def error(self, problem: str, mend: str, column: str | None = None, rows: Sequence[int] = ()) -> InputError:
        """An `InputError` about these rows; `{0}`, `{1}` in `problem` become their places in the file."""
        found = [self.source.place(int(self.records[row]), column) for row in rows]
        places = [row for _, row in found]
        return InputError(
            problem.format(*places) if len(places) > 1 else problem,
            file=found[0][0] if found else self.source.label,
            column=column,
            row=places[0] if len(places) == 1 else None,
            mend=mend,
        )

    def numeric(self, name: str) -> bool:
        """Whether the column holds numbers, or text of which more than half can be read as numbers."""
        column = self.columns[name]
        if not is_text(column.type):
            return _is_number(column.type)
        text = without_missing(column.slice(0, 100_000)).drop_null().to_pandas()
        return not pa.types.is_boolean(column.type) and bool(pd.to_numeric(text, errors="coerce").notna().mean() > 0.5)

    def first_bad(self, name: str) -> tuple[str, int] | None:
        """Text and row of the first cell of a column of text that is neither missing nor a number; None without one."""
        column = self.columns[name]
        if not pa.types.is_string(column.type):
            return None
        bad = parsed(without_missing(column))[1]
        return None if bad is None else (str(column[bad].as_py()), bad)

    def numbers(self, name: str) -> np.ndarray:
        """(R,) floats, float32 where the column is, NaN where missing.

        Raises `InputError` at the first cell that is no number, is infinite or beyond `LARGEST`.
        """
        column = self.columns[name]
        if is_text(column.type) and not pa.types.is_boolean(column.type):
            values, bad = parsed(without_missing(column))
            if bad is not None:
                text = column[bad].as_py()
                raise self.error(f"{text!r} is no number", "Correct the cell or leave it empty", name, [bad])
        elif _is_number(column.type) or pa.types.is_boolean(column.type):
            wide = pa.float32() if pa.types.is_float32(column.type) else pa.float64()
            values = pc.cast(column, wide, safe=False).to_numpy()
        else:
            raise self.error(f"holds {column.type}, not numbers", "Leave the column out, or give numbers", name)
        return self._within(name, values, "value")

    def _within(self, name: str, values: np.ndarray, what: str) -> np.ndarray:
        """values (R,), none beyond `LARGEST`."""
        beyond = beyond_largest(values)
        if not beyond.any():
            return values
        rows = np.flatnonzero(beyond)
        if self.beyond is None:
            problem, mend = no_measurement(float(values[rows[0]]), what)
            raise self.error(problem, mend, name, rows[:1].tolist())
        self.beyond.update({(name, int(self.records[row])): float(values[row]) for row in rows})
        return np.where(beyond, np.nan, values)

    def texts(self, name: str) -> np.ndarray:
        """(R,) text exactly as written, None where missing; whole numbers are written without a point."""
        column = self.columns[name]
        if pa.types.is_floating(column.type):
            return _number_texts(column.to_numpy().astype(float))
        if pa.types.is_boolean(column.type):
            column = pc.if_else(column, "True", "False")
        return self._text(name, column).to_numpy()

    def _text(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        try:
            return without_missing(column)
        except pa.ArrowException as error:
            raise self.error(f"holds {column.type}, not text", "Leave the column out, or give text", name) from error

    def parsed(self, name: str) -> tuple[np.ndarray, int | None]:
        """(R,) floats of a column of text, NaN where missing, and the row of the first cell that is no number.

        Raises `InputError` where all are numbers, and one is infinite or beyond `LARGEST`.
        """
        values, bad = parsed(self._text(name, self.columns[name]))
        return values if bad is not None else self._within(name, values, "time"), bad


def beyond_largest(values: np.ndarray) -> np.ndarray:
    """Where values, float32 or float64, are beyond `LARGEST` or infinite."""
    return np.abs(values) > min(LARGEST, float(np.finfo(values.dtype).max))


def no_measurement(value: float, what: str = "value") -> tuple[str, str]:
    """What is wrong with a number beyond `LARGEST`, and the mend."""
    code = "stata" if np.inf > value > 8.98e307 else "spss" if value < -1.79e308 else f"{value:g}"
    problem = f"the {what} is infinite" if np.isinf(value) else f"the {what} {value:g} is no measurement"
    if value == np.inf:
        return problem, "Correct the cell or leave it empty"
    return problem, f"Correct the cell or leave it empty; if it stands for missing, name it: --missing {code}"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is read as text (true and false count as text)."""
    return pa.types.is_string(kind) or pa.types.is_boolean(kind)


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries become their values, every kind of text becomes `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    other_text = pa.types.is_large_string(column.type) or str(column.type) == "string_view"
    return column.cast(pa.string()) if other_text else column


def without_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        column = pc.cast(column, pa.string())
    missing = pc.is_in(column, value_set=pa.array(MISSING))
    return pc.if_else(missing, pa.scalar(None, pa.string()), column)


def parsed(text: pa.ChunkedArray) -> tuple[np.ndarray, int | None]:
    """Numbers, NaN where missing, and the position of the first cell that is no number."""
    trimmed = without_missing(pc.utf8_trim_whitespace(text))
    try:
        values = pc.cast(trimmed, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        values = pd.to_numeric(trimmed.to_pandas(), errors="coerce").to_numpy(dtype=float)
    # Spellings of NaN that mark no missing cell are read as one.
    wrong = np.flatnonzero(np.isnan(values) & pc.is_valid(trimmed).to_numpy())
    return values, int(wrong[0]) if len(wrong) else None


def _number_texts(values: np.ndarray) -> np.ndarray:
    codes, distinct = pd.factorize(values)
    names = [
        str(int(value)) if np.isfinite(value) and value == int(value) else repr(float(value)) for value in distinct
    ]
    return np.asarray([*names, None], dtype=object)[codes]
