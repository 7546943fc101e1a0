"""Draws to one Parquet file, a part at a time, so that memory is bounded and a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import clear, explained, locked, look, replacing, writing
from ..ops.buffers import reusing_buffers
from ..progress import progress
from ..sampling.packed import unchanging

MANIFEST = "parts.json"


@dataclass(frozen=True)
class DrawColumns:
    """The columns of a file of draws: label of the visit, D features, numbers (M,) of the draws, dtype of values.

    whole : features of whole numbers, which are written as integers.
    """

    visit: str
    features: Sequence[str]
    draw_numbers: np.ndarray
    dtype: np.dtype
    whole: frozenset[str] = frozenset()

    @property
    def schema(self) -> pa.Schema:
        number = pa.from_numpy_dtype(self.dtype)
        keys = [pa.field("subject_id", pa.string()), pa.field("visit", pa.string()), pa.field("draw", pa.int32())]
        return pa.schema(
            keys + [pa.field(name, pa.int64() if name in self.whole else number) for name in self.features]
        )

    def table(self, ids: np.ndarray, draws: np.ndarray, visits: np.ndarray | None = None) -> pa.Table:
        """ids (n,), draws (M, n, D) -> one row a person and draw. visits : (n,) labels, None where all are one."""
        count, people, width = draws.shape
        rows = np.ascontiguousarray(draws.transpose(2, 1, 0)).reshape(width, people * count)  # [D, people * draws]
        columns = [
            pa.array(np.repeat(ids, count), pa.string()),
            pa.array([self.visit] * (people * count) if visits is None else np.repeat(visits, count), pa.string()),
            pa.array(np.tile(self.draw_numbers, people), pa.int32()),
        ]
        values = [
            pa.array(row.astype(np.int64) if name in self.whole else row)
            for name, row in zip(self.features, rows, strict=True)
        ]
        return pa.Table.from_arrays(columns + values, schema=self.schema)


@dataclass(frozen=True)
class Part:
    """People who are drawn and written together.

    ids : (n,).  sample : makes what takes long, (M, n, ...), which is kept for going on.  finish : turns that into
    draws (M, n, D) in original units.  visits : (n,) labels, None where all are those of the columns.
    """

    ids: np.ndarray
    sample: Callable[[], np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray]
    visits: np.ndarray | None = None


def write_draws(
    path: str | os.PathLike[str],
    columns: DrawColumns,
    parts: Iterable[Part],
    people: int,
    facts: Callable[[], dict[str, Any]],
    *,
    resume: bool,
    show: bool,
) -> list[str]:
    """Write every draw: columns subject_id, visit, draw, then the features; rows ordered by person, then draw.

    parts : of all `people`, in order.  facts : gives all that decides the draws and how they are cut, by name; it is
        called where samples are kept.

    Returns notes, one sentence each.

    The next people are drawn while those before are written. What took long, a part's samples, is also kept in a hidden
    folder beside the file, so that an interrupted run goes on; the file itself takes its name in one step, when it is
    whole. A device, pipe or socket is written through, and nothing is kept. Raises `InputError` for what `look`
    refuses, a full disk, another run with this path, or parts of another imputation.
    """
    place = look(path, streams=True)
    with explained(path), locked(place) as notes:
        kept = None
        if not place.stream:
            kept = place.real.with_name(f".{place.real.name}.parts")
            _open_parts(kept, facts(), resume)
        elif resume:
            raise InputError("is no file, and holds nothing to go on from", file=path, mend="Leave out --resume")
        with (
            writing(path) as file,
            pq.ParquetWriter(file, columns.schema, **_settings()) as writer,
            # Leaving it waits for the write under way, before the file is closed.
            ThreadPoolExecutor(1) as other,
            progress("imputing", people, show) as advance,
            reusing_buffers(),
            unchanging(),
        ):
            before: Future[None] | None = None
            for number, part in enumerate(parts):
                sampled = _sampled(part, len(columns.draw_numbers), kept and kept / f"part-{number:06d}.npy")
                table = columns.table(part.ids, part.finish(sampled), part.visits)
                if before is not None:
                    before.result()
                before = other.submit(writer.write_table, table)
                del table  # its memory is used again once it is written
                advance(len(part.ids))
            if before is not None:
                before.result()
        if kept is not None:
            clear(kept)
        return list(notes)


def _sampled(part: Part, draws: int, file: Path | None) -> np.ndarray:
    """The samples of these people, kept in `file` where there are any. Raises `InputError` where that holds others."""
    if file is None:
        return part.sample()
    if file.exists():
        try:
            kept = np.load(file, allow_pickle=False)
            if kept.shape[:2] == (draws, len(part.ids)):
                return kept
        except (ValueError, EOFError):
            pass
        raise InputError("is damaged", file=file, mend="Remove it or run without resume")
    sampled = part.sample()
    if not sampled.size:
        return sampled
    with replacing(file) as temporary, open(temporary, "wb") as handle:
        np.save(handle, sampled, allow_pickle=False)
    return sampled


def _open_parts(parts: Path, manifest: dict[str, Any], resume: bool) -> None:
    known = parts / MANIFEST
    if resume and known.exists() and not parts.is_symlink():
        _check_same(known, manifest)
        return
    clear(parts)
    parts.mkdir(parents=True)
    with replacing(known) as temporary:
        temporary.write_text(json.dumps(manifest), encoding="utf-8")


def _check_same(known: Path, manifest: dict[str, Any]) -> None:
    mend = "Remove it, run without resume, or ask for what it was made with"
    try:
        found = json.loads(known.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("is damaged", file=known, mend=mend) from error
    if not isinstance(found, dict):
        raise InputError("is damaged", file=known, mend=mend)
    other = [name for name, value in manifest.items() if found.get(name) != value]
    if not other:
        return
    # Digests tell nobody anything.
    differences = [
        f"{name}: {found[name]}, now {manifest[name]}" if name in found and len(str(manifest[name])) < 64 else name
        for name in other
    ]
    if "processor" in other:
        mend += "; parts made on another kind of processor go on only on that kind"
    raise InputError(f"holds the parts of another imputation ({'; '.join(differences)})", file=known.parent, mend=mend)


def _settings() -> dict[str, object]:
    # Draws are noise in their last digits: a dictionary or a strong compression would cost time and save nothing.
    return {"use_dictionary": ["subject_id", "visit"], "compression": "lz4", "write_statistics": False}
