"""Several tables as one: merged by person and visit, or parts of one table, one below the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ..errors import InputError, some
from .column_kinds import kind_by_name
from .reading import ParquetSource, Source
from .roles import ID_NAMES, Asked, known_name, visit_name
from .scan_tables import ScanSource

ID, VISIT = "subject_id", "visit"
# Tables with more columns are no lists of scans in which scan names are looked for.
_LIST_COLUMNS = 100


@dataclass(eq=False)
class _Table:
    """A table to be merged.

    id, visit : columns of the key; visit None where the table has a row for each person.
    people, visits : (R,) text.  at : (M,) its row in each row of the merged table, -1 where it has none.
    """

    source: Source
    id: str
    visit: str | None
    people: np.ndarray
    visits: np.ndarray | None
    at: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    @property
    def name(self) -> str:
        return Path(self.source.label).name if self.source.label else "a table in memory"

    @property
    def others(self) -> list[str]:
        """Columns that are no key."""
        return [name for name in self.source.names if name not in (self.id, self.visit)]


class MergedSource(Source):
    """Tables side by side, a row for each person and visit that any of them has."""

    def __init__(self, tables: Sequence[_Table], keys: pd.DataFrame, notes: Sequence[str]) -> None:
        self.tables = tables
        self.label: str | None = " + ".join(table.source.label or "a table in memory" for table in tables)
        self.delimiter = next((table.source.delimiter for table in tables if table.source.delimiter), None)
        self.notes = [*(note for table in tables for note in table.source.notes), *notes]
        self._keys = {name: pa.array(keys[name], pa.string()) for name in keys}
        self._rows = len(keys)
        self._home: dict[str, list[_Table]] = {}
        for table in tables:
            for name in table.others:
                self._home.setdefault(name, []).append(table)
        for name in [name for name, homes in self._home.items() if len(homes) > 1]:
            # A program's own row numbers are each table's.
            if str(kind_by_name(name)).startswith("a row number") or name == "X":
                del self._home[name]
            else:
                self._check_same(name)
        self.names = [*self._keys, *self._home]

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns, cells of rows that a table does not have null."""
        text, made = set(as_text), dict(self._keys)
        wanted = [name for name in columns if name not in made]
        for table in self.tables:
            mine = [name for name in wanted if table in self._home[name]]
            if mine:
                found = self._taken(table, mine, text)
                for name in mine:
                    made[name] = pa.chunked_array(found[name]) if name not in made else _filled(made[name], found[name])
        return pa.table([made[name] for name in columns], list(columns))

    def _taken(self, table: _Table, names: Sequence[str], text: set[str]) -> pa.Table:
        read = table.source.read(names, text & set(names))
        return read.take(pa.array(table.at, mask=table.at < 0))

    def _check_same(self, name: str) -> None:
        first, *others = self._home[name]
        one = self._taken(first, [name], {name})[name].to_pandas().astype(str)
        for other in others:
            two = self._taken(other, [name], {name})[name].to_pandas().astype(str)
            both = (first.at >= 0) & (other.at >= 0) & ~one.isin(["None", "nan", ""]) & ~two.isin(["None", "nan", ""])
            first_value, value = (pd.to_numeric(each, errors="coerce").to_numpy(dtype=float) for each in (one, two))
            wrong = np.flatnonzero((both & (one != two) & ~np.isclose(first_value, value, rtol=1e-6)).to_numpy())
            if len(wrong):
                row = int(wrong[0])
                here, there = (table.source.rows([int(table.at[row])])[0] for table in (first, other))
                raise InputError(
                    f"the cell is {one[row]!r} in row {here} of {first.name}, and {two[row]!r} in row {there} of "
                    f"{other.name}",
                    file=self.label,
                    column=name,
                    mend="Rename the column in one of the tables, or take it out",
                )

    def rows(self, records: Sequence[int]) -> list[int]:
        """The row in the first table that has it."""
        return [self.place(int(record))[1] for record in records]

    def place(self, record: int, column: str | None = None) -> tuple[str | None, int]:
        """File and row of a record: that of the column's table, or the first that has it."""
        homes = self._home.get(column, self.tables) if column is not None else self.tables
        for table in [*homes, *self.tables]:
            if table.at[record] >= 0:
                return table.source.place(int(table.at[record]), column)
        return self.label, record + 1


def _filled(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    """The second's cells where the first has none."""
    one, two = first.to_pandas(), second.to_pandas()
    return pa.chunked_array([pa.array(one.where(one.notna(), two), from_pandas=True)])


def merge(sources: Sequence[Source], asked: Asked, raw: dict[str, str]) -> tuple[MergedSource, Asked]:
    """Merge tables by person, and by visit where they have one.

    raw : file -> column of scan names that are not taken apart. They are looked for in the other tables.

    Raises `InputError` for a table without ids, a person and visit twice in one table, tables that have no person and
    visit in common, and a column that differs between two of them.
    """
    tables = [_table(source, asked) for source in _with_list(sources, asked, raw)]
    by_visit = [table for table in tables if table.visits is not None]
    for table in tables:
        _check_twice(table)
    rows = by_visit or tables
    frames = [pd.DataFrame({ID: t.people} | ({VISIT: t.visits} if by_visit else {})) for t in rows]
    keys = pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True)
    notes = []
    for table in tables:
        key = keys if table.visits is not None or not by_visit else keys[[ID]]
        mine = pd.DataFrame({ID: table.people} | ({VISIT: table.visits} if table.visits is not None else {}))
        found = pd.MultiIndex.from_frame(mine).get_indexer(pd.MultiIndex.from_frame(key))
        table.at = np.asarray(found)
    for table in tables:
        notes += _partners(table, tables, keys, bool(by_visit))
    named = ", ".join(f"{table.name} ({some(map(repr, filter(None, [table.id, table.visit])))})" for table in tables)
    notes.insert(0, f"{len(tables)} tables are merged by person{' and visit' if by_visit else ''}: {named}")
    merged = MergedSource(tables, keys, notes)
    return merged, replace(asked, id=ID, visit=VISIT if by_visit else None)


def _partners(table: _Table, tables: Sequence[_Table], keys: pd.DataFrame, visits: bool) -> list[str]:
    """Notes on rows without a partner. Raises `InputError` where a table has none at all."""
    what = "visits" if visits else "people"
    others = np.any([other.at >= 0 for other in tables if other is not table], axis=0)
    if not ((table.at >= 0) & others).any():
        mine = keys[table.at >= 0] if (table.at >= 0).any() else pd.DataFrame({ID: table.people})
        theirs = keys[others] if others.any() else keys
        examples = [some([" ".join(map(str, row)) for row in frame.head(3).to_numpy()]) for frame in (mine, theirs)]
        raise InputError(
            f"has no person{' and visit' if visits else ''} in common with the other tables: {examples[0]} here, "
            f"{examples[1]} there",
            file=table.source.label,
            column=table.id,
            mend="Write ids and visits alike in all tables",
        )
    lacking, alone = int((table.at < 0).sum()), len(table.people) - len(np.unique(table.at[table.at >= 0]))
    notes = [f"{table.name} has no row for {lacking} of {len(keys)} {what}: they lack its cells"] if lacking else []
    if alone:
        notes.append(f"{alone} people of {table.name} are in no other table: they are left out")
    return notes


def _table(source: Source, asked: Asked) -> _Table:
    if isinstance(source, ScanSource):
        who, visit = source.column, VISIT
    else:
        who = asked.id if asked.id in source.names else known_name(source.names, ID_NAMES) or ""
        visit = asked.visit if asked.visit in source.names else visit_name(source.names)  # type: ignore[assignment]
    if not who:
        raise InputError(
            f"no id column was found (looked for {some(ID_NAMES, 6)})",
            file=source.label,
            mend="Name it with id=...; all tables need it to be merged",
        )
    columns = [who, *([visit] if visit else [])]
    read = source.read(columns, columns)
    texts = [np.asarray([None if each is None else str(each).strip() for each in read[c].to_pylist()], dtype=object)
             for c in columns]  # fmt: skip
    for column, values in zip(columns, texts, strict=True):
        missing = [row for row, value in enumerate(values) if not value]
        if missing:
            label, row = source.place(missing[0], column)
            raise InputError("the cell is missing, and tables are merged by it", file=label, column=column, row=row)
    return _Table(source, who, visit, texts[0], texts[1] if visit else None)


def _check_twice(table: _Table) -> None:
    key = pd.DataFrame({ID: table.people} | ({VISIT: table.visits} if table.visits is not None else {}))
    twice = np.flatnonzero(key.duplicated().to_numpy())
    if not len(twice):
        return
    first = int(np.flatnonzero((key == key.iloc[twice[0]]).all(axis=1).to_numpy())[0])
    rows = table.source.rows([first, int(twice[0])])
    visit = f" has visit {table.visits[first]} twice, in" if table.visits is not None else " stands in"
    raise InputError(
        f"subject {table.people[first]}{visit} rows {rows[0]} and {rows[1]}, and tables are merged by it",
        file=table.source.label,
        column=table.visit or table.id,
        mend="Keep one row per person and visit" if table.visit else "Keep one row per person, or add the visit",
    )


def _with_list(sources: Sequence[Source], asked: Asked, raw: dict[str, str]) -> list[Source]:
    """Sources in which scan names are read as person and visit by a table that lists them, where there is one."""
    lists: dict[str, tuple[str, str]] = {}
    for source in sources:
        if isinstance(source, ScanSource) or (source.label or "") in raw or len(source.names) > _LIST_COLUMNS:
            continue
        who = asked.id if asked.id in source.names else known_name(source.names, ID_NAMES)
        visit = asked.visit if asked.visit in source.names else visit_name(source.names)
        if who is None or visit is None:
            continue
        read = source.read(source.names, {who, visit})
        people, visits = read[who].to_pylist(), read[visit].to_pylist()
        for name in source.names:
            if pa.types.is_string(read[name].type) and name not in (who, visit):
                lists |= {
                    scan: (str(person), str(label))
                    for scan, person, label in zip(read[name].to_pylist(), people, visits, strict=True)
                    if scan
                }
    found: list[Source] = []
    for source in sources:
        column = source.column if isinstance(source, ScanSource) else raw.get(source.label or "")
        if column is None:
            found.append(source)
            continue
        plain = source.source if isinstance(source, ScanSource) else source
        names = source.raw if isinstance(source, ScanSource) else plain.read([column], [column])[column].to_pylist()
        known = [lists.get(str(name)) for name in names]
        if all(known):
            pairs = [pair for pair in known if pair]
            found.append(ScanSource(plain, column, [p for p, _ in pairs], [v for _, v in pairs], list(map(str, names))))
        elif isinstance(source, ScanSource) or not any(known):
            found.append(source)
        else:
            row = next(place for place, pair in enumerate(known) if pair is None)
            label, line = plain.place(row, column)
            raise InputError(
                f"scan {names[row]!r} is in none of the other tables", file=label, column=column, row=line,
                mend="Add it to the list of scans, or take it out",
            )  # fmt: skip
    return found


class PartsSource(Source):
    """Parquet files of one table, one below the other."""

    def __init__(self, folder: Path, label: str, files: Sequence[Path]) -> None:
        self.label: str | None = label
        self.delimiter: str | None = None
        self.parts = [ParquetSource(file, str(Path(label) / file.name)) for file in files]
        self.names = self.parts[0].names
        for part in self.parts[1:]:
            other = set(part.names) ^ set(self.names)
            if other:
                raise InputError(
                    f"{part.label} and {self.parts[0].label} have different columns: {some(sorted(other))}",
                    file=label,
                    mend="Keep the parts of one table in a folder",
                )
        self.notes = [f"{len(files)} Parquet files in {folder.name} are read as one table"]
        self._lengths = [part.length() for part in self.parts]

    def read(self, columns: Sequence[str], as_text: Iterable[str]) -> pa.Table:
        """These columns of all files."""
        return pa.concat_tables([part.read(columns, as_text) for part in self.parts], promote_options="permissive")

    def rows(self, records: Sequence[int]) -> list[int]:
        """1-based records of the file in which each is."""
        return [self.place(int(record))[1] for record in records]

    def place(self, record: int, column: str | None = None) -> tuple[str | None, int]:
        """File and 1-based record."""
        for part, length in zip(self.parts, self._lengths, strict=True):
            if record < length:
                return part.label, record + 1
            record -= length
        return self.label, record + 1
