"""Rows and columns become people, visits, times and one array."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from ..errors import InputError
from .cells import Sheet, is_text
from .known import ordered_visits
from .layouts import Field
from .reading import give_back_memory
from .roles import Roles
from .row_visits import row_visits
from .time_units import UNKNOWN, Reading
from .times import TimeColumn, VisitCells, check_rising, choose_time, fill_times, first_known, without_ties
from .visit_labels import label_years, order_visits

# So many columns are gathered before they go into the array: rows of it are then written in long runs.
_BLOCK = 64
# People with two visits that are looked at first to decide whether a column is constant within persons.
_ENOUGH = 5


@dataclass
class Places:
    """Where the R rows of a sheet belong.

    ids : (N,) text. person : (R,) row of the cohort.
    labels : the visit labels in order. slot : (R,) position of each row's visit, None where columns carry visits.
    times : (N, V) years, NaN where unknown. early : how many labels stand before the baseline.
    time : the field that tells the times, None for none; recorded : how (see `VisitTimes`), None for no field.
    late : (N, V) whether the time is a date in the future.
    """

    ids: np.ndarray
    person: np.ndarray
    labels: list[str]
    slot: np.ndarray | None
    times: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    notes: list[str] = field(default_factory=list)
    early: int = 0
    time: Field | None = None
    recorded: str | None = None
    late: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def columns(self, what: Field) -> list[tuple[np.ndarray | int, str]]:
        """(slot, column) for every column of a field that belongs to a visit."""
        if self.slot is not None:
            return [(self.slot, column) for column in what.columns.values()]
        position = {label: place for place, label in enumerate(self.labels)}
        return [(position[str(visit)], name) for visit, name in what.columns.items() if visit in position]


def find_people(sheet: Sheet, who: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) ids in order of appearance, and (R,) each row's position among them. Raises `InputError` on an empty id."""
    texts = sheet.texts(who)
    missing = np.flatnonzero([text is None or not text.strip() for text in texts])
    if len(missing):
        raise sheet.error("the id is missing", "Fill it in, or delete the row", who, missing[:1].tolist())
    person, ids = pd.factorize(texts)
    return np.asarray(ids, dtype=object), person


def drop_unscanned(sheet: Sheet, roles: Roles, person: np.ndarray) -> list[str]:
    """Leave out the people who were never scanned; returns a note. person : (R,) of each row."""
    known = np.zeros(int(person.max()) + 1, dtype=bool)
    for column in (column for part in roles.features for column in part.columns.values()):
        known[person[np.isfinite(sheet.numbers(column))]] = True
        # One column is enough where everybody has it.
        if known.all():
            return []
    if not known.any():
        return []
    sheet.keep(known[person])
    return [f"{int((~known).sum())} people have no measured feature at any visit: they are left out"]


def find_places(
    sheet: Sheet,
    roles: Roles,
    visits: Sequence[str] | None = None,
    earlier: Sequence[str] = (),
    reading: Reading = UNKNOWN,
) -> Places:
    """Give every row its person and visit, and every person their times.

    visits : labels, earliest first, where their order is known; else it is found from labels and times.
    earlier : labels that are known to stand before the first of them.  reading : what is known of the time column.
    Raises `InputError` for an empty id or visit, a visit that a person has twice, and an unusable time.
    """
    ids, person = find_people(sheet, roles.id)
    column, notes = choose_time(sheet, roles, person, reading)
    if column is not None and column.guessed:
        try:
            return _placed(sheet, roles, Places(ids, person, [], None, notes=notes), column, visits, earlier, reading)
        except InputError as error:
            why = f"{column.part.name!r} changes within people and is not taken as the time: {error.problem}"
            notes, column = [*notes, why], None
    return _placed(sheet, roles, Places(ids, person, [], None, notes=notes), column, visits, earlier, reading)


def _placed(
    sheet: Sheet,
    roles: Roles,
    places: Places,
    column: TimeColumn | None,
    visits: Sequence[str] | None,
    earlier: Sequence[str],
    reading: Reading,
) -> Places:
    rows = None
    if roles.fields.layout == "long":
        values = None if column is None else (column.part, column.values)
        rows = row_visits(sheet, roles.visit, places.person, visits, values)
        places = replace(places, labels=rows.labels, slot=rows.slot, notes=[*places.notes, *rows.notes])
    else:
        places = replace(places, labels=_column_visits(roles))
    if visits is not None:
        _order_as_known(places, visits, earlier, sheet.source.label)
    _check_doubled(sheet, roles, places)
    told_years = _years_of_labels(places, None if rows is None else rows.label_years)
    known = visits is not None or roles.visit is None
    tells = rows.tells_years if rows is not None else _all_tell(told_years)
    if visits is not None:
        tells = tells and _rising(told_years)
    # Labels that say an order come before an age that nobody called the time.
    ordered = known or (column is not None and column.guessed and not (rows is not None and rows.doubtful))
    if column is not None and not (column.guessed and tells):
        _fill_times(sheet, places, column, told_years, ordered, reading)
    elif tells:
        places.times = told_years - first_known(told_years)
        places.notes.append("years between visits are those that the visit labels tell")
        if not known:
            _follow_times(places)
    else:
        places.times = np.full(told_years.shape, np.nan)
    places.notes.append(f"visit labels: {', '.join(places.labels)}")
    return places


def _years_of_labels(places: Places, of_rows: np.ndarray | None) -> np.ndarray:
    """(N, V) years that the labels of visits tell, NaN where they do not. of_rows : (R,) the same of each row."""
    years = np.full((len(places.ids), len(places.labels)), np.nan)
    if of_rows is not None:
        years[places.person, places.slot] = of_rows
    else:
        years[:] = np.array(label_years(places.labels), dtype=float)
    return years


def _all_tell(years: np.ndarray) -> bool:
    return years.shape[1] > 1 and bool(np.isfinite(years[:1]).all()) and _rising(years[:1])


def _rising(years: np.ndarray) -> bool:
    """Whether years (N, V) of the labels of visits rise from each visit of a person to the next."""
    return not bool((years[:, 1:] <= np.fmax.accumulate(years, axis=1)[:, :-1]).any())


def _fill_times(
    sheet: Sheet, places: Places, column: TimeColumn, told_years: np.ndarray, ordered: bool, reading: Reading
) -> None:
    """Set the times of places. ordered : whether the order of visits is that of their labels in any case."""
    found = fill_times(_cells(sheet, places, column), column, told_years, reading)
    places.times, places.late = found.times, found.late
    places.time, places.recorded = column.part, found.recorded
    places.notes += found.notes
    if not ordered:
        _follow_times(places)
    if column.guessed:
        check_rising(_cells(sheet, places, column), places.times, found.coarse)
    if found.dates:
        places.times = places.times - first_known(places.times)
        places.notes.append("dates became years since each person's first visit")
    if found.coarse:
        places.times, people = without_ties(places.times)
        if people:
            places.notes.append(
                f"{people} people have two visits at the same {column.part.name!r}, which says too little to tell the "
                "years between them: they are unknown"
            )


def _cells(sheet: Sheet, places: Places, column: TimeColumn) -> VisitCells:
    return VisitCells(sheet, places.ids, places.person, places.labels, places.columns(column.part))


def _order_as_known(places: Places, visits: Sequence[str], earlier: Sequence[str], label: str | None) -> None:
    before = places.labels
    places.labels, places.early = ordered_visits(before, visits, earlier, label)
    if places.slot is not None:
        places.slot = np.array([places.labels.index(name) for name in before])[places.slot]


def _column_visits(roles: Roles) -> list[str]:
    labels = {visit for part in roles.features for visit in part.columns if visit is not None}
    if roles.fields.layout == "ukb" and any(int(label) >= 2 for label in labels):
        # Instances 0 and 1 of UK Biobank are visits without a scan.
        labels = {label for label in labels if int(label) >= 2}
    if not labels:
        return ["0"]
    if roles.time is not None:
        # A later visit that has a time and no feature yet is planned.
        planned = {visit for visit in roles.time.columns if visit is not None}
        ordered = order_visits(labels | planned)
        labels |= set(ordered[ordered.index(order_visits(labels)[0]) :])
    return order_visits(labels)


def _check_doubled(sheet: Sheet, roles: Roles, places: Places) -> None:
    slot = np.zeros(len(sheet), dtype=int) if places.slot is None else places.slot
    key = places.person * len(places.labels) + slot
    doubled = np.flatnonzero(pd.Series(key).duplicated().to_numpy())
    if not len(doubled):
        return
    second = int(doubled[0])
    first = int(np.flatnonzero(key == key[second])[0])
    who = f"subject {places.ids[places.person[second]]}".replace("{", "{{").replace("}", "}}")
    visit = places.labels[slot[second]].replace("{", "{{").replace("}", "}}")
    if roles.visit is not None:
        problem, mend = f"{who} has visit {visit} twice, in rows {{0}} and {{1}}", "Keep one row per person and visit"
    else:
        problem = f"{who} stands in rows {{0}} and {{1}}, and no visit column was found"
        mend = "Name it with visit=..., or keep one row per person"
    raise sheet.error(problem, mend, roles.visit or roles.id, [first, second])


def _follow_times(places: Places) -> None:
    """Order visits by time where people's times contradict the order of the labels.

    Times are compared within people: those who come back often differ from the others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # visits without any time
        steps = np.nanmedian(np.diff(places.times, axis=1), axis=0)
        if not (steps < 0).any():
            return
        middle = np.nanmedian(places.times - np.nanmean(places.times, axis=1, keepdims=True), axis=0)
    order = np.argsort(np.where(np.isnan(middle), np.inf, middle), kind="stable")
    given = ", ".join(places.labels)
    places.labels = [places.labels[place] for place in order]
    places.times = places.times[:, order]
    if places.late.size:
        places.late = places.late[:, order]
    if places.slot is not None:
        places.slot = np.argsort(order)[places.slot]
    places.notes.append(f"visits are ordered by their median time, which their labels ({given}) contradict")


def personal_fields(sheet: Sheet, roles: Roles, person: np.ndarray) -> list[str]:
    """Names of candidate fields that never change within a person though people differ."""
    parts = [*roles.features, *roles.static]
    if roles.fields.layout != "long":
        return [part.name for part in parts if set(part.columns) == {None}]
    order = np.argsort(person, kind="stable")
    again = np.flatnonzero(np.diff(person[order]) == 0)
    if len(np.unique(person[order][again])) < _ENOUGH:
        return []
    earlier, later = order[again], order[again + 1]
    found = [part.name for part in parts if _personal(sheet, next(iter(part.columns.values())), earlier, later)]
    candidates = {part.name for part in roles.features}
    return [] if candidates <= set(found) else found


def _personal(sheet: Sheet, name: str, earlier: np.ndarray, later: np.ndarray) -> bool:
    if is_text(sheet.columns[name].type) or not sheet.numeric(name):
        return False
    # A few rows settle it for nearly every column; only then is the whole column worth reading.
    few = pa.array(np.concatenate([earlier[:50], later[:50]]))
    head = sheet.columns[name].take(few).cast(pa.float64(), safe=False).to_numpy()
    if not _same(head[: len(head) // 2], head[len(head) // 2 :]).all():
        return False
    values = sheet.numbers(name)
    known = np.isfinite(values[earlier]) & np.isfinite(values[later])
    alike = _same(values[earlier], values[later]).all() and known.sum() >= _ENOUGH
    return bool(alike and len(np.unique(values[np.isfinite(values)])) > 1)


def _same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first == second) | np.isnan(first) | np.isnan(second)


def fill_visits(sheet: Sheet, roles: Roles, places: Places) -> np.ndarray:
    """(N, V, D) the features. float32 where every column is, else float64. Empties the sheet of them on the way."""
    columns = [column for part in roles.features for column in part.columns.values()]
    small = all(pa.types.is_float32(sheet.columns[column].type) for column in columns)
    shape = (len(places.ids), len(places.labels), len(roles.features))
    visits = np.full(shape, np.nan, dtype=np.float32 if small else np.float64)
    slots: Sequence[np.ndarray | int] = [places.slot] if places.slot is not None else list(range(len(places.labels)))
    for start in range(0, shape[2], _BLOCK):
        chosen = roles.features[start : start + _BLOCK]
        blocks = [np.full((len(sheet), len(chosen)), np.nan, dtype=visits.dtype) for _ in slots]
        for place, part in enumerate(chosen):
            for slot, column in places.columns(part):
                which = 0 if places.slot is not None else int(slot)
                blocks[which][:, place] = sheet.numbers(column)
        for slot, block in zip(slots, blocks, strict=True):
            visits[places.person, slot, start : start + len(chosen)] = block
        for part in chosen:
            for column in part.columns.values():
                sheet.columns.pop(column, None)
    give_back_memory()
    return visits


def check_late(sheet: Sheet, places: Places, visits: np.ndarray) -> None:
    """Raise `InputError` for a scan with a date in the future; a planned visit has one and no feature."""
    if not places.late.any():
        return
    wrong = np.argwhere(places.late & np.isfinite(visits).any(axis=2))
    if len(wrong) and places.time is not None:
        who, slot = wrong[0]
        at = places.person == who
        at = at if places.slot is None else at & (places.slot == slot)
        column = next(column for where, column in places.columns(places.time) if np.ndim(where) or where == slot)
        problem = f"subject {places.ids[who]} was scanned at visit {places.labels[slot]}, and its date is in the future"
        raise sheet.error(problem, "Correct the date, or leave it empty", column, np.flatnonzero(at)[:1].tolist())


def person_values(
    sheet: Sheet, places: Places, part: Field, as_text: bool = False, number: bool | None = None
) -> tuple[pd.Series, bool]:
    """Each person's first known value in visit order, and whether later ones differ.

    Numbers become float64, text and true/false categories in sorted order; with `as_text` plain text. number : whether
    they are numbers, None to find out.
    Of a field with several visits, those before the first scan come after the first scan's own, latest first.
    """
    if number is None:
        number = all(
            sheet.numeric(column) and not pa.types.is_boolean(sheet.columns[column].type)
            for column in part.columns.values()
        )
    numeric = number and not as_text
    found = np.full(len(places.ids), np.nan if numeric else None, dtype=float if numeric else object)
    changes = False
    for rows, column in _by_priority(places, part):
        values = sheet.numbers(column).astype(float) if numeric else sheet.texts(column)
        # The last one written stays, so the first visit comes last.
        rows = rows[~pd.isna(values[rows])][::-1]
        person = places.person[rows]
        before = found[person]
        found[person] = np.where(pd.isna(before), values[rows], before)
        changes = changes or bool((found[person] != values[rows]).any())
    if numeric or as_text:
        return pd.Series(found, name=part.name), changes
    levels = sorted({value for value in found if value is not None})
    return pd.Series(pd.Categorical(found, categories=levels), name=part.name), changes


def _by_priority(places: Places, part: Field) -> list[tuple[np.ndarray, str]]:
    """(rows in visit order, column), the column to be preferred first."""
    if places.slot is not None:
        return [(np.argsort(places.slot, kind="stable"), column) for column in part.columns.values()]
    everyone = np.arange(len(places.person))
    ordered: list[str | None] = list(order_visits(visit for visit in part.columns if visit is not None))
    early = [visit for visit in ordered if visit not in places.labels]
    late = [visit for visit in ordered if visit in places.labels]
    chosen = [*late[:1], *early[::-1], *late[1:], *([None] if None in part.columns else [])]
    return [(everyone, part.columns[visit]) for visit in chosen]
