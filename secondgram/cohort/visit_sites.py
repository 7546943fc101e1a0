"""The site of each visit: where it is recorded, and people who were scanned on another scanner later."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import InputError
from .assembly import Places
from .cells import Sheet
from .layouts import Field


def read_visit_sites(sheet: Sheet, places: Places, part: Field) -> np.ndarray:
    """(N, V) text, None where a visit's site is not recorded; a column without a visit says nothing of one."""
    found = np.full((len(places.ids), len(places.labels)), None, dtype=object)
    for slot, column in places.columns(part):
        texts = sheet.texts(column)
        if isinstance(slot, np.ndarray):
            # Visits before the baseline have no place.
            rows = np.flatnonzero((slot >= 0) & ~pd.isna(texts))
            found[places.person[rows], slot[rows]] = texts[rows]
        else:
            rows = np.flatnonzero(~pd.isna(texts))
            found[places.person[rows], slot] = texts[rows]
    return found


def with_baseline_sites(site: np.ndarray, visit_sites: np.ndarray) -> np.ndarray:
    """(N,) the sites of the first visits, and `site` where these have none."""
    return np.where(pd.isna(visit_sites[:, 0]), site, visit_sites[:, 0])


def followup_sites(visit_sites: np.ndarray, slot: int, measured: np.ndarray) -> np.ndarray:
    """(N,) of a later visit; where nothing of it is measured, (N,) bool, it is imputed as on that of the baseline."""
    return np.where(measured, visit_sites[:, slot], visit_sites[:, 0])


def agreed_sites(
    site: np.ndarray | None, visit_sites: np.ndarray, source: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sites (N,) of baselines and (N, V) of visits as text, the latter None where nobody changes.

    A visit whose site is not recorded has its person's. Raises `InputError` where the two contradict each other.
    """
    known = ~pd.isna(visit_sites)
    if site is None:
        first = known.argmax(axis=1)
        site = np.where(known.any(axis=1), visit_sites[np.arange(len(known)), first], "unknown")
    site = np.asarray([str(value) for value in site], dtype=object)
    filled = np.where(known, visit_sites, site[:, None])
    filled = np.asarray([str(value) for value in filled.ravel()], dtype=object).reshape(filled.shape)
    apart = np.flatnonzero(filled[:, 0] != site)
    if len(apart):
        row = int(apart[0])
        raise InputError(
            f"site says {site[row]} and visit_sites {filled[row, 0]} of the first visit of person {row}",
            file=source,
            mend="Give one of them, or the same in both",
        )
    return site, None if (filled == site[:, None]).all() else filled


def change_notes(changed: np.ndarray, again: np.ndarray) -> list[str]:
    """A note on people who changed, (N,) bool, among those measured again, (N,) bool."""
    count = int((changed & again).sum())
    if not count:
        return []
    return [
        f"{count} of {int(again.sum())} people who were measured again were on another site then: each visit is "
        "scaled by its own site, a follow-up is imputed as on the site of the baseline, and none on another site judges"
    ]
