"""`read_cohort`: tables of visits, in the layouts people have, to a cohort."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from ..errors import InputError, some
from .assembly import (
    Places,
    check_late,
    drop_unscanned,
    fill_visits,
    find_people,
    find_places,
    person_values,
    personal_fields,
)
from .category_levels import check_levels
from .cells import Sheet
from .checking import judged
from .column_kinds import ColumnKinds
from .exclusion import exclude_columns
from .known import Known
from .layouts import read_names
from .missing_codes import Dropped, drop_codes, listed_codes
from .reading import Source, guarded
from .roles import Asked, Roles, find_layout, find_roles, resolve_roles
from .table import Cohort
from .table_sources import open_tables
from .text_numbers import Marks, read_numbers
from .time_names import as_time_unit
from .time_units import Reading
from .time_values import read_times
from .value_findings import CHECKS, LIST, REFUSE, sentences
from .visit_sites import change_notes, read_visit_sites, with_baseline_sites

__all__ = ["read_cohort"]

Table: TypeAlias = str | os.PathLike[str] | pd.DataFrame | pa.Table


def read_cohort(
    path: Table | Sequence[Table],
    *,
    id: str | None = None,
    visit: str | None = None,
    time: str | None = None,
    static: str | Sequence[str] | None = None,
    outcomes: str | Sequence[str] = (),
    groups: str | None = None,
    site: str | None = None,
    features: str | Sequence[str] | None = None,
    layout: str | None = None,
    target: int | None = None,
    wide: str | None = None,
    visits: str | Sequence[str] | None = None,
    time_unit: str | None = None,
    missing: object = None,
    checks: str = REFUSE,
    exclude: str | Sequence[str] = (),
    decimal: str | None = None,
    delimiter: str | None = None,
    like: object = None,
) -> Cohort:
    """Read people and their visits from CSV, TSV (also .gz), Parquet, Arrow/Feather, pandas or pyarrow.

    Columns that are not named are recognised by common names; `cohort.notes` lists the decisions.

    Parameters
    ----------
    path : a file, a folder of Parquet files that are one table, a table in memory, or several of these, which are
        merged by person and visit. Scan names, as asegstats2table writes them, are taken apart.
    id, visit, time : columns. Ids and visit labels stay text exactly as written (`0012` stays `0012`). `time` holds
        numbers on any origin per person (age will do), dates, or amounts with a unit (`730 days`); "" for no time.
    static : covariates known at the first visit, on which a model may condition: names or patterns. By default well
        known ones (age, sex, education, apoe, ...); `[]` means none. A person's first known value in visit order is
        taken; text becomes categories.
    outcomes : columns to be predicted later. They never become features or covariates.
    groups : column of families: people who share a value are never split between training and test.
    site : column of scanners or centres, of each visit where they change.
    features : names or patterns such as "vol_*"; by default every numeric column that has no other part. A column
        that is not named in full is left out, with a note, where it is no measurement of the visit: the same at every
        visit of each person, constant, empty, partly text, or by its name or values a row number, an id, a mark of
        quality or a time.
    layout : "long", "wide" or "ukb", by default recognised:
        long, one row per person and visit (without a visit column, visits are numbered by time);
        wide, one row per person and names such as `hippocampus_2`, `hippocampus.0`, `hippocampus_bl`, `_v1`, `_t0`;
        ukb, one row per person and UK Biobank names: `25005-2.0`, `f.25005.2.0`, `p25005_i2`, `x_f25005_2_0`. The
        feature is then called `25005` (with several array entries `25005.0`, `25005.1`). Once a feature occurs at
        instance 2 or later, instances 0 and 1 serve only covariates.
        People without any measured feature are left out, with a note.
    target : position of the follow-up visit to impute among the visits, 1 or more; 1 by default.
    wide : how names of a wide table are made, such as "{feature}_{visit}" or "V{visit}.{feature}".
    visits : labels of the visits, the baseline first, where labels and times do not tell their order.
    time_unit : of a time in numbers: "days", "weeks", "months" or "years"; by default from the name of the column, from
        visit labels (`m24`), or from its size, and told in the notes. Of dates that do not tell themselves whether day
        or month comes first: "DD/MM/YYYY" or "MM/DD/YYYY".
    missing : codes that stand for missing in features, covariates, outcomes and times, compared by value in numbers and
        as written in text: numbers, texts, `"column=code"` or {column: codes} for columns by name or pattern, and
        sets by name: "adni" (-4, -1), "ukb" (-1, -3, -121, -818 of covariates and outcomes), "stata" (. and .a to .z,
        as text, doubles from 8.98e307 on or floats from 1.701e38 on), "spss" (-1.797e308, #NULL!). 0 concerns features
        alone, unless a column is named. `[]` means none, also where `like` has some.
    checks : of values that cannot be right, see docs/cohorts.md#values-that-cannot-be-right: "refuse" them; "warn" in
        the notes and go on; or "list" them in `cohort.findings`, with what cannot be computed with read as missing.
    exclude : columns that are not there for all of this: names or patterns.
    decimal : "." or ",", the mark of decimals of a table with numbers as text; the other one may then divide thousands.
        By default each column tells it: `61,2` and `1.480,5` have a decimal comma, `1,480.5` has none. One in which
        nothing does, as in `1,480`, is read as others of the file are, or refused.
    delimiter : what stands between the cells of a text file, a character or comma, semicolon, tab, pipe or space; by
        default that of the header.
    like : a fitted imputer: columns, kinds of covariates, visits, unit of time, codes for missing and target that are
        not named are those it was trained with. Whoever is read alone is then read as among all others; without it,
        visits are found anew in every table.

    Returns
    -------
    Cohort with `visits` (N, V, D) in float64, or float32 where every feature column is float32.
        A row with a time and no feature is a planned visit: its time is kept.

    Raises
    ------
    InputError naming file, column, row and mend, for whatever cannot be used. Missing cells are written as nothing,
    NA, N/A, n/a, NaN, nan, null, NULL, None or a point; anything else that is no finite number is an error.

    Examples
    --------
    BIDS: `participant_id`, `session_id` and `sex` are recognised:

        cohort = sg.read_cohort("freesurfer.tsv", time="age", features=["lh_*", "rh_*"], outcomes=["diagnosis"])

    UK Biobank, with the date of attending as time, sex and age as covariates and the centre as site:

        cohort = sg.read_cohort("ukb.csv", features=[str(f) for f in range(25005, 25025)], time="53",
                                static=["31", "21003"], site="54")

    One row per person, FreeSurfer measures as `lh_hippocampus_bl` and `lh_hippocampus_fu`, years in `years_fu`:

        cohort = sg.read_cohort("wide.csv", id="ID", time="years", static=["age", "sex"], features="?h_*")
    """
    if checks not in CHECKS:
        raise InputError(f"checks={checks!r}", mend=f"Use one of {', '.join(CHECKS)}")
    known = Known() if like is None else Known.of(like)
    target = known.target if target is None else target
    if target < 1:
        raise InputError(f"target={target} is no follow-up visit", mend="Use 1 for the visit after the baseline")
    asked = Asked(
        id,
        visit,
        time,
        groups,
        site,
        _listed(static),
        _listed(outcomes) or [],
        _listed(features),
        layout,
        _listed(visits),
        wide,
    )
    codes = known.missing if missing is None else listed_codes(missing)
    named = Reading(as_time_unit(time_unit), bool(time), known.time_unit, known.columns.get("time"), time is None)
    marks = Marks(decimal, None, known.columns.get("decimal") == ",", like is not None)
    source, asked = open_tables(path, asked, known, delimiter)
    marks = replace(marks, delimiter=source.delimiter)
    notes = source.notes + exclude_columns(source, asked, _listed(exclude) or [], known)
    if like is not None:
        asked = _as_known(asked, known, source)
        # Without a time in training, age is none.
        named = replace(
            named, named=bool(asked.time), guess=named.guess and (not known.columns or "time" in known.columns)
        )
    roles = find_roles(source, asked)
    roles.notes.extend(notes)
    with guarded(source.label):
        categories = {
            column for part in roles.static if known.covariates.get(part.name) for column in part.columns.values()
        }
        as_text = set(roles.columns) if decimal == "," else roles.as_text | categories
        sheet = Sheet(source.read(roles.columns, as_text), source)
        sheet.beyond = {} if checks == LIST else None
        if not len(sheet):
            raise InputError("has a header and no rows", file=source.label, mend="Give one row per person and visit")
        found, comma = read_numbers(sheet, _may_be_numbers(roles, categories), marks)
        roles.notes.extend(found)
        person = find_people(sheet, roles.id)[1]
        dropped = drop_codes(sheet, roles, codes, missing is not None)
        roles = resolve_roles(
            roles, sheet, asked, personal_fields(sheet, roles, person), _kinds(sheet, roles, person, named)
        )
        roles.notes.extend(_dropped_notes(dropped, roles, missing is not None))
        roles.notes.extend(drop_unscanned(sheet, roles, person))
        cohort = _assembled(sheet, roles, target, asked.visits, known, named, checks)
        columns = cohort.columns | ({"decimal": ","} if comma else {})
        return replace(cohort, columns=columns, missing=codes)


def _may_be_numbers(roles: Roles, categories: set[str]) -> list[str]:
    """Columns in which numbers are read: ids, visits, groups and sites stay as they are written."""
    parts = [part for part in (roles.groups, roles.site) if part is not None]
    kept = {roles.id, roles.visit, *categories} | {column for part in parts for column in part.columns.values()}
    return [column for column in roles.columns if column not in kept]


def _kinds(sheet: Sheet, roles: Roles, person: np.ndarray, named: Reading) -> ColumnKinds:
    times = None
    if roles.fields.layout == "long" and roles.time is not None:
        # Times that cannot be read are refused where they are needed.
        with suppress(InputError):
            values = read_times(sheet, roles.time, named.order_of(roles.time.name))
            times = values.of[next(iter(roles.time.columns.values()))]
    return ColumnKinds(sheet, person, roles.visit, times)


def _as_known(asked: Asked, known: Known, source: Source) -> Asked:
    """Arguments that were not named, as the model knows them."""
    asked = replace(
        asked,
        features=asked.features or list(known.features),
        static=list(known.covariates) if asked.static is None else asked.static,
        # A column of this name may be something else where another was named for its part.
        visit=asked.visit or _there(known, "visit", source.names),
    )
    layout = find_layout(source, asked)
    if layout != "long" and asked.visit == known.columns.get("visit"):
        asked = replace(asked, visit=None)
    kept = asked.whole_columns(source.names) if layout != "long" else ()
    names = [*source.names, *read_names(layout, source.names, kept, source.label, asked.wide).fields]
    taken = {asked.id, asked.visit, asked.time, asked.groups, asked.site, *asked.outcomes}
    found: dict[str, Any] = {
        role: _there(known, role, [name for name in names if name not in taken])
        for role in ("id", "time", "site")
        if getattr(asked, role) is None
    }
    return replace(asked, **found)


def _there(known: Known, role: str, names: Sequence[str]) -> str | None:
    name = known.columns.get(role)
    return name if name in names else None


def _dropped_notes(dropped: Dropped, roles: Roles, asked: bool) -> list[str]:
    return dropped.notes([part.name for part in [*roles.others, *roles.features]], asked)


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else [str(name) for name in names]


def _assembled(
    sheet: Sheet, roles: Roles, target: int, asked: list[str] | None, known: Known, reading: Reading, checks: str
) -> Cohort:
    places = find_places(sheet, roles, known.visits if asked is None else asked, known.earlier, reading)
    if reading.unit is not None and places.time is None:
        raise InputError(
            f"time_unit={reading.unit!r} is given, and no time column was found",
            file=sheet.source.label,
            mend="Name it with time=... or --time",
        )
    notes = [*roles.notes, *places.notes]
    tables = []
    for parts, word in ((roles.static, "static covariate"), (roles.outcomes, "outcome")):
        made = [person_values(sheet, places, part, number=_number(known, part.name)) for part in parts]
        for part, (values, _) in zip(parts, made, strict=True) if parts is roles.static else ():
            if isinstance(values.dtype, pd.CategoricalDtype) and part.name not in known.covariates:
                check_levels(sheet, part, list(values))
        tables.append(pd.concat([values for values, _ in made], axis=1) if made else None)
        changing = [part.name for part, (_, changes) in zip(parts, made, strict=True) if changes]
        if changing:
            notes.append(f"{word} changes over visits, the first known value is taken: {some(changing)}")
    groups = site = sites = None
    if roles.groups is not None:
        groups = person_values(sheet, places, roles.groups, as_text=True)[0].to_numpy()
        # Someone without a family is a family of their own.
        groups = np.where(pd.isna(groups), places.ids, groups)
    if roles.site is not None:
        site = person_values(sheet, places, roles.site, as_text=True)[0].to_numpy()
        site = np.where(pd.isna(site), "unknown", site)
    visits = fill_visits(sheet, roles, places)
    check_late(sheet, places, visits)
    visits, seen, ever, earlier = _from_baseline(
        visits, places, notes, known=asked is not None or known.visits is not None
    )
    if roles.site is not None and site is not None:
        sites = read_visit_sites(sheet, places, roles.site)
        site = with_baseline_sites(site, sites)
    _check_seen(sheet, places, seen)
    notes += _missing_notes(seen[:, len(earlier)], ever, roles)
    cohort = Cohort(
        ids=places.ids,
        visits=visits,
        features=tuple(part.name for part in roles.features),
        visit_labels=_renamed(places.labels, asked, known, notes),
        times=places.times,
        covariate_table=tables[0],
        outcomes=tables[1],
        groups=groups,
        site=site,
        target=target,
        source=sheet.source.label,
        notes=tuple(notes),
        earlier_labels=earlier,
        columns=_column_names(roles, places),
        time_unit=places.recorded,
        visit_sites=sites,
    )
    found = judged(cohort, sheet, roles, places, checks, known.ranges)
    cohort = replace(cohort, notes=(*cohort.notes, *_gap_notes(sheet, places, cohort)))
    if cohort.visit_sites is not None:
        seen = np.isfinite(cohort.visits).any(axis=2)
        apart = cohort.visit_sites != cohort.visit_sites[:, :1]
        again = seen[:, 0] & seen[:, 1:].any(axis=1)
        cohort = replace(cohort, notes=(*cohort.notes, *change_notes((apart & seen).any(axis=1), again)))
    return replace(cohort, findings=found, notes=(*cohort.notes, *sentences(found)))


def _number(known: Known, name: str) -> bool | None:
    return known.covariates[name] is None if name in known.covariates else None


def _column_names(roles: Roles, places: Places) -> dict[str, str]:
    parts = {"time": places.time, "site": roles.site}
    names = {"id": roles.id} | ({"visit": roles.visit} if roles.visit else {})
    return names | {role: part.name for role, part in parts.items() if part is not None}


def _renamed(labels: list[str], asked: list[str] | None, known: Known, notes: list[str]) -> tuple[str, ...]:
    """Labels as the model has them, where others were named in their order."""
    if asked is None or known.visits is None:
        return tuple(labels)
    name = dict(zip(asked, known.visits, strict=False))
    notes.extend(f"visit {own} is the model's {theirs}" for own, theirs in name.items() if own != theirs)
    return tuple(name.get(label, label) for label in labels)


def _from_baseline(
    visits: np.ndarray, places: Places, notes: list[str], known: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Drop visits before the baseline, where that is not known those at which nobody has a feature.

    Also (N, V) visits and (D,) features with any value, before any is dropped, and the labels of those.
    """
    measured = np.isfinite(visits)
    seen, ever = measured.any(axis=2), measured.any(axis=(0, 1))
    earlier: tuple[str, ...] = ()
    first = places.early if known else int(seen.any(axis=0).argmax())
    if first:
        why = "before the baseline are not used" if known else "without any feature are no baseline"
        notes.append(f"visits {why}: {some(places.labels[:first])}")
        visits, earlier = np.ascontiguousarray(visits[:, first:]), tuple(places.labels[:first])
        places.labels, places.times = places.labels[first:], places.times[:, first:]
        if places.slot is not None:
            places.slot = places.slot - first
    return visits, seen, ever, earlier


def _check_seen(sheet: Sheet, places: Places, seen: np.ndarray) -> None:
    empty = np.flatnonzero(~seen.any(axis=1))
    if len(empty):
        raise sheet.error(
            f"subject {places.ids[empty[0]]} has no measured feature at any visit"
            + (f" ({len(empty)} people have none)" if len(empty) > 1 else ""),
            "Leave out the row, or fill in a feature",
            rows=[int(np.flatnonzero(places.person == empty[0])[0])],
        )


def _missing_notes(baseline: np.ndarray, ever: np.ndarray, roles: Roles) -> list[str]:
    notes = []
    without = int((~baseline).sum())
    if without:
        notes.append(f"{without} people have no baseline visit: they are not imputed")
    never = [part.name for place, part in enumerate(roles.features) if not ever[place]]
    if never:
        notes.append(f"no value at any visit: {some(never)}")
    return notes


def _gap_notes(sheet: Sheet, places: Places, cohort: Cohort) -> list[str]:
    """On visits at one time. Raises `InputError`, with the row, for visits out of order."""
    try:
        pairs = cohort.pairs(replicates=True)
    except InputError as error:
        column = next(iter(places.time.columns.values())) if places.time is not None else None
        raise sheet.error(error.problem, error.mend or "", column, _backward_row(places, cohort)) from error
    twice = len(np.unique(pairs.person[pairs.gap == 0]))
    if not twice:
        return []
    return [f"{twice} people have visits at one time: replicates, which tell the error of a measurement and no change"]


def _backward_row(places: Places, cohort: Cohort) -> list[int]:
    """The row of the later visit of the first pair that is out of order."""
    pairs = cohort.all_pairs()
    first = pairs.out_of_order(cohort.target)[0]
    at = places.person == pairs.person[first]
    if places.slot is not None:
        at = at & (places.slot == pairs.later[first])
    return np.flatnonzero(at)[:1].tolist()
