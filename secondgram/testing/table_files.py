"""`tables`: files as people have them, and the cohort that reading one has to give."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..cohort.table import Cohort
from .optional import st
from .strategies import cohorts

MISSING_WORDS = ("", "NA", "NaN", "n/a", ".", "NULL")


@dataclass(frozen=True)
class Table:
    """A text file of a cohort. The time of a visit at which nothing was measured does not stand in it.

    name : of the file, with the suffix of its kind;  content : its bytes;  arguments : for `read_cohort`;
    cohort : that has to come of it;  layout : `long` or `wide`.
    """

    name: str
    content: bytes
    arguments: dict[str, Any]
    cohort: Cohort
    layout: str


@st.composite
def tables(draw: Callable[..., Any], layout: str | None = None, **more: Any) -> Table:
    """Long and wide text files of cohorts: separators, quotes, line ends, byte order marks, words for missing, orders.

    layout : `long` or `wide`, None for both.  more : for `cohorts`.
    """
    cohort = draw(cohorts(**({"visits": (2, 3)} if layout == "wide" else {}) | more))
    several = len(cohort.visit_labels) > 1
    chosen = layout or (draw(st.sampled_from(["long", "wide"])) if several else "long")
    header, rows, cohort = (_long if chosen == "long" else _wide)(cohort)
    rows = draw(st.permutations(rows))
    separator = draw(st.sampled_from([",", "\t", ";"]))
    # A separator of another kind in a name leaves only quotes to tell which one is meant.
    ambiguous = any(mark in name for name in header for mark in ",;\t")
    quoting: Literal[0, 1] = csv.QUOTE_ALL if ambiguous or draw(st.booleans()) else csv.QUOTE_MINIMAL
    out = io.StringIO()
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(out, delimiter=separator, lineterminator=ends, quoting=quoting)
    writer.writerow(header)
    hole = draw(st.sampled_from(MISSING_WORDS))
    writer.writerows([hole if cell is None else cell for cell in row] for row in rows)
    arguments: dict[str, Any] = {
        "static": [str(name) for name in cohort.covariate_table],
        "outcomes": [str(name) for name in cohort.outcomes],
        "features": list(cohort.features),
        "layout": chosen,
        "target": cohort.target,
    }
    place = {name: row for row, name in enumerate(cohort.ids)}
    order = list(dict.fromkeys(place[row[0]] for row in rows))
    content = draw(st.sampled_from([b"", codecs.BOM_UTF8])) + out.getvalue().encode()
    return Table("table.tsv" if separator == "\t" else "table.csv", content, arguments, cohort.take(order), chosen)


def _person(cohort: Cohort, place: int) -> list[object]:
    tables = (cohort.covariate_table, cohort.outcomes)
    cells = [_cell(value) for table in tables for value in table.iloc[place]]
    parts = [cohort.groups, cohort.site]
    return [cohort.ids[place], *cells, *(part[place] for part in parts if part is not None)]


def _heads(cohort: Cohort) -> list[str]:
    single = [name for name, part in (("family_id", cohort.groups), ("site", cohort.site)) if part is not None]
    return ["subject_id", *map(str, cohort.covariate_table), *map(str, cohort.outcomes), *single]


def _cell(value: object) -> object:
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else repr(float(value))
    return None if pd.isna(value) else value  # type: ignore[call-overload]


def _long(cohort: Cohort) -> tuple[list[str], list[list[object]], Cohort]:
    measured = np.isfinite(cohort.visits).any(axis=2)
    cohort = replace(cohort, times=np.where(measured, cohort.times, np.nan))
    timed = np.isfinite(cohort.times).any()
    header = [*_heads(cohort), "visit", *(["time_years"] if timed else []), *cohort.features]
    rows = []
    for person, slot in np.argwhere(measured):
        time = [_cell(cohort.times[person, slot])] if timed else []
        cells = [_cell(value) for value in cohort.visits[person, slot]]
        rows.append([*_person(cohort, person), cohort.visit_labels[slot], *time, *cells])
    return header, rows, cohort


def _wide(cohort: Cohort) -> tuple[list[str], list[list[object]], Cohort]:
    columns = [(feature, slot) for feature in range(len(cohort.features)) for slot in range(len(cohort.visit_labels))]
    header = [
        *_heads(cohort),
        *(f"{cohort.features[feature]}_{cohort.visit_labels[slot]}" for feature, slot in columns),
    ]
    rows = [
        [*_person(cohort, place), *(_cell(cohort.visits[place, slot, feature]) for feature, slot in columns)]
        for place in range(len(cohort))
    ]
    return header, rows, replace(cohort, times=np.full(cohort.times.shape, np.nan))
