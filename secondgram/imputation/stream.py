"""Draws to one Parquet file, a part at a time, so that memory is bounded and a killed run goes on."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import clear, explained, locked, look, replacing, writing
from ..ops.memory import recycling
from ..progress import progress
from .packing import unchanging
from .provenance import imputation_facts

if TYPE_CHECKING:
    from .people import People
    from .result import Imputation

MANIFEST = "parts.json"


def write_draws(result: Imputation, path: str | os.PathLike[str], *, resume: bool, show: bool) -> None:
    """Write every draw: columns subject_id, visit, draw, then the features; rows ordered by person, then draw.

    The next people are drawn while those before are written. What took long, a part's samples, is also kept in a hidden
    folder beside the file, so that an interrupted run goes on; the file itself takes its name in one step, when it is
    whole. A device, pipe or socket is written through, and nothing is kept. Raises `InputError` for what `look`
    refuses, a full disk, another run with this path, or parts of another imputation.
    """
    place = look(path, streams=True)
    with explained(path), locked(place) as notes:
        result.notes += notes
        parts = None
        if not place.stream:
            parts = place.real.with_name(f".{place.real.name}.parts")
            _open_parts(parts, result, resume)
        elif resume:
            raise InputError("is no file, and holds nothing to go on from", file=path, mend="Leave out --resume")
        with (
            writing(path) as file,
            pq.ParquetWriter(file, _schema(result), **_settings()) as writer,
            # Leaving it waits for the write under way, before the file is closed.
            ThreadPoolExecutor(1) as other,
            progress("imputing", len(result.people), show) as advance,
            recycling(),
            unchanging(),
        ):
            before: Future[None] | None = None
            for number, rows in enumerate(result._slices()):
                people = result.people.take(rows)
                sampled = _sampled(result, people, None if parts is None else parts / f"part-{number:06d}.npy")
                table = _table(result, people.ids, result._finish(people, sampled))
                if before is not None:
                    before.result()
                before = other.submit(writer.write_table, table)
                del table  # its memory is used again once it is written
                advance(rows.stop - rows.start)
            if before is not None:
                before.result()
        if parts is not None:
            clear(parts)


def _sampled(result: Imputation, people: People, part: Path | None) -> np.ndarray:
    """The samples of these people, kept in `part`. Raises `InputError` where that holds something else."""
    if part is None:
        return result._sample(people)
    if part.exists():
        try:
            kept = np.load(part, allow_pickle=False)
            if kept.shape[:2] == (len(result.draw_numbers), len(people)):
                return kept
        except (ValueError, EOFError):
            pass
        raise InputError("is damaged", file=part, mend="Remove it or run without resume")
    sampled = result._sample(people)
    with replacing(part) as temporary, open(temporary, "wb") as file:
        np.save(file, sampled, allow_pickle=False)
    return sampled


def _open_parts(parts: Path, result: Imputation, resume: bool) -> None:
    manifest = imputation_facts(result) | {"people in a part": result.chunk_people}
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
    told = [
        f"{name}: {found[name]}, now {manifest[name]}" if name in found and len(str(manifest[name])) < 64 else name
        for name in other
    ]
    if "processor" in other:
        mend += "; parts made on another kind of processor go on only on that kind"
    raise InputError(f"holds the parts of another imputation ({'; '.join(told)})", file=known.parent, mend=mend)


def _settings() -> dict[str, object]:
    # Draws are noise in their last digits: a dictionary or a strong compression would cost time and save nothing.
    return {"use_dictionary": ["subject_id", "visit"], "compression": "lz4", "write_statistics": False}


def _schema(result: Imputation) -> pa.Schema:
    number = pa.from_numpy_dtype(result.people.baseline.dtype)
    fields = [pa.field("subject_id", pa.string()), pa.field("visit", pa.string()), pa.field("draw", pa.int32())]
    return pa.schema(fields + [pa.field(name, number) for name in result.features])


def _table(result: Imputation, ids: np.ndarray, draws: np.ndarray) -> pa.Table:
    """draws (M, n, D) -> one row a person and draw."""
    count, people, width = draws.shape
    rows = np.ascontiguousarray(draws.transpose(2, 1, 0)).reshape(width, people * count)  # [D, people * draws]
    columns = [
        pa.array(np.repeat(ids, count), pa.string()),
        pa.array([result.visit] * (people * count), pa.string()),
        pa.array(np.tile(result.draw_numbers, people), pa.int32()),
    ]
    return pa.Table.from_arrays(columns + [pa.array(row) for row in rows], schema=_schema(result))
