"""Faults of arithmetic named by their column: values that are no numbers, and matrices that cannot be solved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..errors import InputError

_MEND = "Look at the column with `secondgram check`, and leave it out or correct it"


@contextmanager
def named_faults(visits: np.ndarray, features: Sequence[str], source: str | None) -> Iterator[None]:
    """Turn a failing matrix operation into an `InputError` that names the most suspicious feature.

    visits (..., D) : what is computed with, NaN where missing.
    """
    try:
        yield
    except (np.linalg.LinAlgError, ValueError) as error:
        if isinstance(error, InputError) or not _of_arithmetic(error):
            raise
        raise InputError(
            f"the numbers cannot be computed with ({str(error).splitlines()[0]}); this column is the likeliest cause",
            file=source,
            column=features[_likeliest(visits)],
            mend=_MEND,
        ) from error


def _of_arithmetic(error: Exception) -> bool:
    return isinstance(error, np.linalg.LinAlgError) or "infs or NaNs" in str(error)


def _likeliest(visits: np.ndarray) -> int:
    """The feature with the fewest different values, of those the one with the largest number."""
    columns = visits.reshape(-1, visits.shape[-1])
    different = [len(np.unique(column[~np.isnan(column)])) for column in columns.T]
    largest = np.nan_to_num(np.fmax.reduce(np.abs(columns), axis=0))
    return int(np.lexsort((-largest, different))[0])


def whole(values: np.ndarray, features: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """values (..., N, D) as they are. Raises `InputError` naming feature and subject where one is no finite number."""
    # One pass without a copy: a sum is finite where everything is, unless it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    if np.isfinite(total):
        return values
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        *_, person, feature = (int(place) for place in bad[0])
        raise InputError(f"what was drawn for subject {ids[person]} is no number", column=features[feature], mend=_MEND)
    return values
