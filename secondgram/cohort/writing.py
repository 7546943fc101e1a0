"""A cohort becomes a long table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..errors import InputError, some
from ..files import writing
from .measured import Measured
from .reading import MISSING

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_PEOPLE_AT_ONCE = 8192


class Visits(Measured, Protocol):
    """What is written of a `Cohort`."""

    @property
    def times(self) -> np.ndarray: ...
    @property
    def groups(self) -> np.ndarray | None: ...
    @property
    def site(self) -> np.ndarray | None: ...
    @property
    def visit_sites(self) -> np.ndarray | None: ...


def write_cohort(cohort: Visits, path: str | os.PathLike[str]) -> None:
    """Write one row per person and visit, for `read_cohort` to read.

    Columns: subject_id, visit, time_years (where a time is known), the covariates and outcomes under their own
    names, family_id (the groups), site, then the features in order. A row stands for a visit with a measured
    feature or a known time; people without any measured feature are left out. The suffix of `path` chooses the
    format: .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .arrow or .feather. Text formats hold float32 values with
    every digit, so that they compare equal after reading as float64. A device, pipe or socket is written through.

    Covariates and outcomes with uncommon names are recognised again only when `read_cohort` is told their names.

    Raises `InputError` for another suffix, names that collide, or text that would be read as missing; and where
    the operating system refuses.
    """
    kind, packed = _kind(Path(path))
    head = _head(cohort)
    _check(cohort, head, path)
    measured = np.isfinite(cohort.visits).any(axis=2)  # [people, visits]
    rows = (measured | np.isfinite(cohort.times)) & measured.any(axis=1, keepdims=True)
    with writing(path) as file:
        with _writer(kind, packed, file, _schema(cohort, head, kind)) as write:
            for start in range(0, max(len(cohort.ids), 1), _PEOPLE_AT_ONCE):
                write(_batch(cohort, head, rows, slice(start, start + _PEOPLE_AT_ONCE), kind))


def _kind(path: Path) -> tuple[str, bool]:
    packed = path.suffix.lower() == ".gz"
    kind = _SUFFIXES.get((path.with_suffix("") if packed else path).suffix.lower())
    if kind is None or (packed and kind not in {"csv", "tsv"}):
        raise InputError(
            f"the suffix {path.suffix!r} names no format that can be written",
            file=path,
            mend="Use .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .arrow or .feather",
        )
    return kind, packed


def _head(cohort: Visits) -> pd.DataFrame:
    """One row per person: everything but visits, times and features."""
    parts = {"covariate": cohort.covariate_table, "outcome": cohort.outcomes}
    head = pd.concat([pd.Series(cohort.ids, name="subject_id", dtype=object), *parts.values()], axis=1)
    if cohort.groups is not None:
        head.insert(head.shape[1], "family_id", cohort.groups, allow_duplicates=True)
    if cohort.site is not None:
        head.insert(head.shape[1], "site", cohort.site, allow_duplicates=True)
    return head


def _check(cohort: Visits, head: pd.DataFrame, path: object) -> None:
    names = pd.Index([*map(str, head.columns), "visit", "time_years", *cohort.features])
    if names.has_duplicates:
        problem = f"two columns would have the same name: {some(names[names.duplicated()].unique())}"
        raise InputError(problem, file=path, mend="Rename the covariate or feature")
    texts: dict[str, Sequence[str] | np.ndarray | None] = {
        "subject_id": cohort.ids,
        "visit": cohort.visit_labels,
        "family_id": cohort.groups,
        "site": cohort.site if cohort.visit_sites is None else cohort.visit_sites.ravel(),
    }
    for name, values in texts.items():
        for value in () if values is None else set(values):
            if value in MISSING or not value.strip():
                raise InputError(f"{value!r} would be read as missing", file=path, column=name, mend="Rename it")


def _schema(cohort: Visits, head: pd.DataFrame, kind: str) -> pa.Schema:
    small = cohort.visits.dtype == np.float32 and kind not in {"csv", "tsv"}
    value = pa.float32() if small else pa.float64()
    first, *rest = head.columns
    fields = [(first, pa.string()), ("visit", pa.string())]
    if np.isfinite(cohort.times).any():
        fields.append(("time_years", pa.float64()))
    for place, name in enumerate(rest, 1):
        number = pd.api.types.is_numeric_dtype(head.iloc[:, place].dtype)
        fields.append((str(name), pa.float64() if number else pa.string()))
    return pa.schema([*fields, *((name, value) for name in cohort.features)])


def _batch(cohort: Visits, head: pd.DataFrame, rows: np.ndarray, people: slice, kind: str) -> tuple[list[Any], int]:
    """The columns of some people's rows, in the order of the schema, and the number of rows."""
    person, slot = np.nonzero(rows[people])
    person = person + people.start
    columns: list[Any] = [head.iloc[person, 0], np.asarray(cohort.visit_labels, dtype=object)[slot]]
    if np.isfinite(cohort.times).any():
        columns.append(cohort.times[person, slot])
    for place in range(1, head.shape[1]):
        column = head.iloc[person, place]
        if cohort.visit_sites is not None and head.columns[place] == "site":
            column = pd.Series(cohort.visit_sites[person, slot])
        number = pd.api.types.is_numeric_dtype(column.dtype)
        columns.append(column.to_numpy(dtype=float) if number else column.astype(object))
    values = np.asfortranarray(cohort.visits[person, slot])  # [rows, features]
    return [*columns, *values.T], len(person)


@contextmanager
def _writer(kind: str, packed: bool, file: BinaryIO, schema: pa.Schema) -> Iterator[Any]:
    """A function that appends (columns, rows) to the file."""
    with pa.output_stream(file, compression="gzip" if packed else None) as stream:
        if kind == "parquet":
            writer = pyarrow.parquet.ParquetWriter(stream, schema)
        elif kind == "arrow":
            writer = pa.ipc.new_file(stream, schema)
        else:
            options = pyarrow.csv.WriteOptions(delimiter="\t" if kind == "tsv" else ",")
            writer = pyarrow.csv.CSVWriter(stream, schema, write_options=options)

        def write(batch: tuple[list[Any], int]) -> None:
            arrays = [
                pa.array(column, from_pandas=True).cast(field.type)
                for column, field in zip(batch[0], schema, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema))

        with writer:
            yield write
