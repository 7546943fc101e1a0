"""Reading a Parquet file of draws, as `Imputation.to_parquet` writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, some

KEYS = ("subject_id", "visit", "draw")


def drawn_features(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Features of a file that `to_parquet` wrote, read from its schema alone.

    Raises `InputError` for a file that is absent, not Parquet, empty, or not of that form.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("there is no such file", file=path, mend="Give the file that impute wrote")
    try:
        about = pq.read_metadata(path)
    except (OSError, ValueError) as error:
        raise InputError(f"is no readable Parquet file ({error})", file=path) from error
    schema = about.schema.to_arrow_schema()
    features = tuple(schema.names[len(KEYS) :])
    if tuple(schema.names[: len(KEYS)]) != KEYS or not features or about.num_rows == 0:
        raise InputError(
            f"holds no draws: expected the columns {', '.join(KEYS)}, then features, and rows",
            file=path,
            mend="Give the file that impute wrote",
        )
    text = [name for name in features if not _number(schema.field(name).type)]
    if text:
        raise InputError("holds no numbers", file=path, column=text[0], mend="Give what impute wrote")
    return features


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def read_draws(
    path: str | os.PathLike[str], only: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray, str]:
    """Ids (N,), features, draws (M, N, D) and the visit's label of a file that `to_parquet` wrote.

    only : features to read, in this order; None reads all.

    Raises `InputError` as `drawn_features`, for rows that are not grouped by person, and for several visits.
    """
    known = drawn_features(path)
    features = known if only is None else tuple(only)
    try:
        table = pq.read_table(path, columns=[*KEYS, *features])
    except (OSError, ValueError) as error:
        raise InputError(f"is damaged ({error})", file=path, mend="Write it again with impute") from error
    ids = table["subject_id"].to_numpy(zero_copy_only=False)
    visits = table["visit"].unique().to_pylist()
    if len(visits) > 1:
        raise InputError(
            f"holds draws of several visits ({some(visits)}), and one is read",
            file=path,
            mend="Impute one visit, or write the rows of one to a file of their own",
        )
    count = len(np.unique(table["draw"].to_numpy()))
    order = np.arange(0, len(ids), count)
    if len(ids) % count or (ids.reshape(-1, count) != ids[order][:, None]).any():
        raise InputError("its rows are not grouped by subject with equally many draws", file=path)
    values = np.stack([table[name].to_numpy() for name in features], axis=-1)  # [people * draws, D]
    # Whole numbers alone would be integers, which cannot be missing.
    values = values if values.dtype.kind == "f" else values.astype(float)
    draws = values.reshape(len(order), count, len(features)).transpose(1, 0, 2)
    return ids[order], features, draws, str(visits[0])
