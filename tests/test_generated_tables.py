"""Whole tables, made up: what is read is what was meant, or a note or an error says what was taken or refused.

    SECONDGRAM_TABLES=2000 pytest tests/test_generated_tables.py

reads so many of them.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

import secondgram as sg

TABLES = int(os.environ.get("SECONDGRAM_TABLES", "60"))
# By style the labels of three visits, the earliest first, and the years after the first that they tell, if they do.
LABELS: dict[str, tuple[list[str], list[float] | None]] = {
    "numbers": (["0", "1", "2"], None),
    "BIDS": (["ses-1", "ses-2", "ses-10"], None),
    "ADNI": (["bl", "m12", "m24"], [0, 1, 2]),
    "ABCD": (["baseline_year_1_arm_1", "2_year_follow_up_y_arm_1", "4_year_follow_up_y_arm_1"], [0, 2, 4]),
    "PPMI": (["SC", "BL", "V04"], None),
    "words": (["baseline", "interim", "final"], None),
    "weeks": (["Week 0", "Week 52", "Week 104"], [0, 1, 2]),
    "waves": (["wave1", "wave2", "wave10"], None),
    "mixed units": (["baseline", "month6", "year2"], [0, 0.5, 2]),
}
# By kind: how values are made, and decimals.
KINDS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], int]] = {
    "volume": (lambda r, shape: r.normal(4000, 300, shape), 1),
    "whole volume": (lambda r, shape: r.normal(1_500_000, 90_000, shape), 0),
    "thickness": (lambda r, shape: r.normal(2.5, 0.12, shape), 3),
    "count": (lambda r, shape: r.poisson(6.0, shape), 0),
    "lesions": (lambda r, shape: r.lognormal(1.0, 1.0, shape) * (r.random(shape) < 0.7), 2),
    "percentage": (lambda r, shape: 100 * r.beta(4, 3, shape), 2),
    "grade": (lambda r, shape: r.integers(0, 4, shape), 0),
    "change": (lambda r, shape: r.normal(0, 1, shape), 4),
}
NAMES = ("lh_hippocampus", "rh_hippocampus", "thalamus", "icv", "lh_entorhinal", "wmh", "putamen", "gm_left")
TIMES = ("none", "years", "days", "months", "bare days", "ISO dates", "US dates", "amounts", "age")
# First labels of styles that names of columns are made with.
WIDE = ("0", "bl")
FAULTS = ("none", "code", "named code", "unit", "swapped", "slip", "huge", "text")
CODES = (-9999.0, -999.0, -4.0, -1.0, 0.0, 9999.0, 99999.0, 999.0, -99.0, 1e300)


@dataclass
class Meant:
    """values (N, V, D), NaN where not measured;  years (N, V) after the first visit;  site (N, V);  there (N, V)."""

    values: np.ndarray
    years: np.ndarray
    site: np.ndarray
    there: np.ndarray
    features: list[str]
    kinds: list[str]
    labels: list[str]


@dataclass
class Written:
    """A table as text, columns that a fault touched, and what is asked for beside."""

    text: str
    touched: set[str]
    options: dict[str, Any]


def study(rng: np.random.Generator, style: str, kinds: list[str]) -> Meant:
    people, visits = int(rng.integers(24, 40)), int(rng.integers(2, 4))
    labels, told = LABELS[style]
    values = np.stack([KINDS[kind][0](rng, (people, visits)).astype(float) for kind in kinds], axis=2)
    values = np.stack([np.round(values[:, :, at], KINDS[kind][1]) for at, kind in enumerate(kinds)], axis=2)
    values += 0.0  # -0.0 is written as -0
    after = np.array(told if told is not None else [0, 1.5, 3.0])[:visits]
    years = after + np.concatenate([np.zeros((people, 1)), rng.uniform(-0.1, 0.1, (people, visits - 1))], axis=1)
    there = rng.random((people, visits)) < 0.8
    there[:, 0] = True
    there[0] = True
    values[~there] = np.nan
    values[rng.random(values.shape) < 0.03] = np.nan
    values[0] = np.round(np.where(np.isnan(values[0]), np.nanmedian(values, axis=(0, 1)), values[0]), 0)
    site = np.where(rng.random((people, 1)) < 0.5, "north", "south").repeat(visits, axis=1).astype(object)
    names = [str(name) for name in rng.permutation(NAMES)[: len(kinds)]]
    return Meant(values, years, site, there, names, kinds, labels[:visits])


def number(value: float, decimals: int, mark: str, thousands: str, gap: str) -> str:
    if np.isnan(value):
        return gap
    text = f"{value:,.{decimals}f}" if abs(value) < 1e15 else f"{value:g}"
    return text.replace(",", "\0").replace(".", mark).replace("\0", thousands)


def spoilt(meant: Meant, fault: str, rng: np.random.Generator) -> tuple[np.ndarray, set[str], dict[str, Any]]:
    """Values as they are written, columns that differ from what was meant, and options."""
    values = meant.values.copy()
    at = int(rng.integers(len(meant.features)))
    name, column = meant.features[at], values[:, :, at]
    cells = np.argwhere(~np.isnan(column))
    some = cells[rng.permutation(len(cells))[: int(rng.integers(1, 7))]]
    mine = (some[:, 0], some[:, 1])
    options: dict[str, Any] = {}
    if fault in ("code", "named code"):
        code = float(rng.choice(CODES))
        column[mine] = code
        if fault == "named code":
            # A value that is meant is none the less read as missing where it is named.
            meant.values[:, :, at][column == code] = np.nan
            options["missing"] = [f"{name}={code:g}"]
        return values, set() if options else {name}, options
    if fault == "unit":
        moved = rng.random(len(column)) < 0.4
        column[moved] *= float(rng.choice([1000.0, 0.001]))
    elif fault == "swapped":
        other = int((at + 1) % len(meant.features))
        column[mine], values[mine[0], mine[1], other] = values[mine[0], mine[1], other], column[mine]
        return values, {name, meant.features[other]}, options
    elif fault == "slip":
        column[mine[0][:1], mine[1][:1]] *= float(rng.choice([1000.0, 100.0, 0.01]))
    elif fault == "huge":
        column[mine] = float(rng.choice([1e160, 1.7e308, 3.4028234663852886e38, -2147483648.0]))
    return values, set() if fault in ("none", "text") else {name}, options


def write(meant: Meant, fault: str, time: str, sites: str, form: dict[str, Any], rng: np.random.Generator) -> Written:
    values, touched, options = spoilt(meant, fault, rng)
    mark, thousands, gap, delimiter = form["mark"], form["thousands"], form["gap"], form["delimiter"]
    header = ["subject_id", "visit", *meant.features]
    words = {name: "refused" for name in meant.features[:1]} if fault == "text" else {}
    start = rng.integers(0, 3000, len(values))
    ages = rng.uniform(55, 80, len(values)).round(1)
    column = {"years": "time_years", "days": "days_from_baseline", "months": "months_from_baseline"}
    column |= {"bare days": "time", "ISO dates": "scan_date", "US dates": "scan_date", "amounts": "time", "age": "age"}
    if time != "none":
        header.append(column[time])
    if sites != "none":
        header.append("site")
    if sites == "of visits":
        moved = rng.random(meant.site.shape[0]) < 0.3
        meant.site[moved, 1:] = np.where(meant.site[moved, 1:] == "north", "south", "north")
    extra = {"row": "scan_number", "quality": "qc_comment"}
    header += [extra["row"], extra["quality"]]
    rows = []
    for who, slot in np.argwhere(meant.there):
        cells = [
            number(values[who, slot, at], KINDS[kind][1] if name not in touched else 6, mark, thousands, gap)
            for at, (name, kind) in enumerate(zip(meant.features, meant.kinds, strict=True))
        ]
        if words and who in (3, 5):
            cells[0] = "refused"
        row = [f"S{who:03d}", meant.labels[slot], *cells]
        years = meant.years[who, slot]
        date = datetime.date(2010, 1, 1) + datetime.timedelta(days=int(start[who] + round(365.25 * years)))
        row += {
            "none": [],
            "years": [number(years, 3, mark, "", gap)],
            "days": [str(round(365.25 * years))],
            "bare days": [str(round(365.25 * years))],
            "months": [number(12 * years, 1, mark, "", gap)],
            "ISO dates": [date.isoformat()],
            "US dates": [f"{date.month}/{date.day}/{date.year}"],
            "amounts": [f"{round(365.25 * years)} days"],
            "age": [number(ages[who] + years, 2, mark, "", gap)],
        }[time]
        row += [] if sites == "none" else [meant.site[who, slot]]
        rows.append([*row, "", "fine"])
    order = rng.permutation(len(rows)) if form["shuffled"] else np.arange(len(rows))
    rows = [[*rows[at][:-2], str(1000 + place), rows[at][-1]] for place, at in enumerate(order)]
    if form["wide"] and meant.labels[0] in WIDE:
        header, rows = widened(header, rows)
    keep = np.concatenate([[0], 1 + rng.permutation(len(header) - 1)]) if form["permuted"] else np.arange(len(header))
    file = io.StringIO()
    table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    table.writerow([header[at] for at in keep])
    table.writerows([[row[at] for at in keep] for row in rows])
    if words:
        touched = set(words)
    return Written(file.getvalue(), touched, options)


def widened(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The same as one row a person, visits in the names of the columns."""
    labels = sorted({row[1] for row in rows}, key=[row[1] for row in rows].index)
    people = sorted({row[0] for row in rows}, key=[row[0] for row in rows].index)
    found = {(row[0], row[1]): row[2:] for row in rows}
    gone = [""] * (len(header) - 2)
    wide = [[who, *(cell for label in labels for cell in found.get((who, label), gone))] for who in people]
    return [header[0], *(f"{name}_{label}" for label in labels for name in header[2:])], wide


def said_of(cohort: sg.Cohort, name: str) -> bool:
    notes = any(name in note for note in cohort.notes if not note.startswith("features"))
    return notes or any(name in finding.column for finding in cohort.findings or ())


def judge(meant: Meant, written: Written, time: str, sites: str, cohort: sg.Cohort) -> None:
    """What was read is what was meant, or something says what was taken."""
    order = [f"S{who:03d}" for who in range(len(meant.values))]
    place = {who: row for row, who in enumerate(cohort.ids)}
    # Who has no value of a feature that is kept is left out.
    kept = [at for at, name in enumerate(meant.features) if name in cohort.features]
    seen = np.isfinite(meant.values[:, :, kept]).any(axis=2)
    assert cohort.visit_labels == tuple(meant.labels)
    left = [who for row, who in enumerate(order) if who not in place]
    assert all(not seen[order.index(who)].any() for who in left)
    rows = [place[who] for who in order if who in place]
    mine = [row for row, who in enumerate(order) if who in place]
    for at, name in enumerate(meant.features):
        if name not in cohort.features:
            assert said_of(cohort, name), (name, cohort.notes)
            continue
        read = cohort.visits[rows][:, :, cohort.features.index(name)]
        if not np.array_equal(read, meant.values[mine][:, :, at], equal_nan=True):
            # Of a code written `9.999` nothing may tell thousands from decimals: a note says which it was taken for.
            assumed = any(name in note and "is read as" in note for note in cohort.notes)
            assert name in written.touched or assumed, (name, cohort.notes)
            assert said_of(cohort, name), (name, cohort.notes)
    assert set(cohort.features) <= set(meant.features), cohort.features
    if sites != "none":
        assert cohort.site is not None
        read = cohort.site[rows][:, None].repeat(len(meant.labels), 1)
        read = read if cohort.visit_sites is None else cohort.visit_sites[rows]
        np.testing.assert_array_equal(read[meant.there[mine]], meant.site[mine][meant.there[mine]])
    known = ~np.isnan(cohort.times[rows])
    if time == "none":
        return
    assert known[meant.there[mine]].all()
    apart = cohort.times[rows] - cohort.times[rows][:, :1] - (meant.years[mine] - meant.years[mine][:, :1])
    # Age is a covariate where labels tell the years between visits.
    labels = any("those that the visit labels tell" in note for note in cohort.notes)
    assert np.abs(apart[known & meant.there[mine]]).max() < (0.11 if time == "age" and labels else 0.06)


@settings(
    deadline=None,
    max_examples=TABLES,
    # A smaller table takes minutes to find, and tells no more.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(
    seed=st.integers(0, 10**6),
    style=st.sampled_from(sorted(LABELS)),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=5),
    time=st.sampled_from(TIMES),
    sites=st.sampled_from(["none", "of people", "of visits"]),
    fault=st.sampled_from(FAULTS),
    form=st.fixed_dictionaries(
        {
            "mark": st.sampled_from([".", ","]),
            "thousands": st.sampled_from(["", "", "other"]),
            "gap": st.sampled_from(["", "NA", "n/a", "."]),
            "delimiter": st.sampled_from([",", ";", "\t", "|"]),
            "shuffled": st.booleans(),
            "permuted": st.booleans(),
            "wide": st.booleans(),
        }
    ),
)
@example(
    seed=622,
    style="words",
    kinds=["count", "grade", "percentage", "volume", "count"],
    time="ISO dates",
    sites="of people",
    fault="named code",
    form={
        "gap": "n/a",
        "delimiter": ",",
        "mark": ",",
        "shuffled": False,
        "permuted": True,
        "thousands": "other",
        "wide": False,
    },
)
def test_what_is_read_is_what_was_meant_or_something_is_said(
    seed: int, style: str, kinds: list[str], time: str, sites: str, fault: str, form: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    meant = study(rng, style, kinds)
    other = "," if form["mark"] == "." else "."
    form = form | {"thousands": other if form["thousands"] else ""}
    if form["gap"] == "." and form["mark"] == ",":
        form["gap"] = ""
    written = write(meant, fault, time, sites, form, rng)
    refusal = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.txt"
        path.write_text(written.text, encoding="utf-8")
        try:
            cohort = sg.read_cohort(path, **written.options)
        except sg.InputError as error:
            refusal = error
    event("read" if refusal is None else "refused")
    if refusal is None:
        judge(meant, written, time, sites, cohort)
        return
    # Lesions of some people and none of a few look as if 0 were a code.
    lesions = {name for name, kind in zip(meant.features, kinds, strict=True) if kind == "lesions"}
    touched = written.touched | lesions | ({"scan_date"} if time == "US dates" else set())
    if not any(name in str(refusal) for name in touched):
        # `2,524` in all cells: nothing tells thousands from decimals.
        assert form["thousands"] or form["mark"] == ",", refusal
        assert "no other cell tells which" in str(refusal), refusal
    assert refusal.mend
