"""Draws to one Parquet file, a part at a time, so that memory is bounded and a killed run goes on."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import explained, remove, replacing
from ..ops.memory import recycling
from ..progress import progress
from .packing import unchanging

if TYPE_CHECKING:
    from .people import People
    from .result import Imputation

MANIFEST = "parts.json"


def write_draws(result: Imputation, path: str | os.PathLike[str], *, resume: bool, show: bool) -> None:
    """Write every draw: columns subject_id, visit, draw, then the features; rows ordered by person, then draw.

    The next people are drawn while those before are written. What took long, a part's samples, is also kept in a hidden
    folder beside the file, so that an interrupted run goes on; the file itself takes its name in one step, when it is
    whole. Raises `InputError` for a folder that cannot be written, a full disk, or parts of another imputation.
    """
    path = Path(path)
    parts = path.with_name(f".{path.name}.parts")
    with explained(path):
        _open_parts(parts, result, resume)
        with (
            replacing(path) as temporary,
            pq.ParquetWriter(temporary, _schema(result), **_settings()) as writer,
            # Left last: what is being written ends before the file is closed.
            ThreadPoolExecutor(1) as other,
            progress("imputing", len(result.people), show) as advance,
            recycling(),
            unchanging(),
        ):
            before: Future[None] | None = None
            for number, rows in enumerate(result._slices()):
                people = result.people.take(rows)
                sampled = _sampled(result, people, parts / f"part-{number:06d}.npy")
                table = _table(result, people.ids, result._finish(people, sampled))
                if before is not None:
                    before.result()
                before = other.submit(writer.write_table, table)
                del table  # its memory is used again once it is written
                advance(rows.stop - rows.start)
            if before is not None:
                before.result()
    remove(parts)


def _sampled(result: Imputation, people: People, part: Path) -> np.ndarray:
    """The samples of these people, kept in `part`. Raises `InputError` where that holds something else."""
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
    manifest = {"fingerprint": result.fingerprint, "people": len(result.people), "chunk": result.chunk_people}
    known = parts / MANIFEST
    if resume and known.exists():
        if json.loads(known.read_text(encoding="utf-8")) != manifest:
            raise InputError(
                "holds the parts of another imputation (other model, people, draws, seed or solver)",
                file=parts,
                mend="Remove it or run without resume",
            )
        return
    remove(parts)
    parts.mkdir(parents=True)
    with replacing(known) as temporary:
        temporary.write_text(json.dumps(manifest), encoding="utf-8")


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
