"""Visits of a table with a row for each person and visit: their labels in order, and which one a row is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..errors import InputError, some
from .cells import Sheet
from .roles import Roles
from .visit_labels import VisitLabel, one_visit, order_visits, undecided

# Labels that are each person's own: fewer later rows than this share have a label that so many people have.
SHARED, FEW_PEOPLE, SHARE_OF_PEOPLE = 0.5, 2, 0.05
# Different labels from which months, too, may be each person's own.
MANY_LABELS = 12


@dataclass
class RowVisits:
    """labels : earliest first.  slot : (R,) position of each row's visit.

    years : (R,) time of each row that its label tells, NaN where it does not; None where a time column says it.
    """

    labels: list[str]
    slot: np.ndarray
    years: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def row_visits(sheet: Sheet, roles: Roles, person: np.ndarray, named: bool) -> RowVisits:
    """person : (R,) of each row.  named : whether labels in order are given elsewhere, so that none is to be found.

    Raises `InputError` for an empty label, and where nothing tells the order of the visits.
    """
    if roles.visit is None:
        slot = _by_time(sheet, roles, person)
        return RowVisits([str(place) for place in range(int(slot.max()) + 1)], slot)
    texts = sheet.texts(roles.visit)
    missing = np.flatnonzero([text is None or not text.strip() for text in texts])
    if len(missing):
        raise sheet.error("the visit is missing", "Fill it in, or delete the row", roles.visit, missing[:1].tolist())
    codes, given = pd.factorize(texts)
    given = [str(label) for label in given]
    if named:
        return _placed(given, codes, order_visits(given))
    if _personal(given, codes, person):
        return _within_people(given, codes, person, timed=roles.time is not None)
    given, codes, notes = _joined(given, codes, person)
    doubtful = undecided(given)
    if doubtful and roles.time is None:
        raise InputError(
            f"the order of the visits is not told by their labels: {some(doubtful)}"
            + (
                f" (beside {some([label for label in order_visits(given) if label not in doubtful])})"
                if len(doubtful) < len(given)
                else ""
            ),
            file=sheet.source.label,
            column=roles.visit,
            mend="Give all of them, the baseline first, with visits=[...] or --visits, or name the time column",
        )
    found = _placed(given, codes, order_visits(given))
    found.notes += notes
    if doubtful:
        found.notes.append(f"the order of visits {some(doubtful)} is that of their times: their labels do not tell it")
    if roles.time is None:
        found.years = _told(given, codes)
    return found


def _placed(given: list[str], codes: np.ndarray, labels: list[str]) -> RowVisits:
    position = {label: place for place, label in enumerate(labels)}
    return RowVisits(labels, np.asarray([position[label] for label in given], dtype=int)[codes])


def _years(given: list[str]) -> list[float | None]:
    return [VisitLabel.of(label).years for label in given]


def _told(given: list[str], codes: np.ndarray) -> np.ndarray | None:
    """(R,) years that every label tells, each another; or None."""
    years = _years(given)
    if len(given) < 2 or None in years or len(set(years)) < len(years):
        return None
    return np.asarray(years, dtype=float)[codes]


def _by_time(sheet: Sheet, roles: Roles, person: np.ndarray) -> np.ndarray:
    """(R,) position of each row among its person's rows, by time."""
    if roles.time is None:
        return np.zeros(len(person), dtype=int)
    column = next(iter(roles.time.columns.values()))
    values, _ = sheet.years_or_days(column)
    several = np.bincount(person)[person] > 1
    unknown = np.flatnonzero(several & np.isnan(values))
    if len(unknown):
        mend = "Fill it in, or name a visit column with visit=..."
        raise sheet.error("the time is missing, so the visits have no order", mend, column, unknown[:1].tolist())
    return _numbered(person, values)


def _numbered(person: np.ndarray, values: np.ndarray) -> np.ndarray:
    order = np.lexsort((values, person))
    start = np.searchsorted(person[order], person[order])
    slot = np.empty(len(person), dtype=int)
    slot[order] = np.arange(len(person)) - start
    return slot


def _personal(given: list[str], codes: np.ndarray, person: np.ndarray) -> bool:
    """Whether labels are days, dates or months of each person's own, and no visits of the cohort."""
    read = [VisitLabel.of(label) for label in given]
    years = [each.years for each in read]
    if None in years or len(np.unique(person)) < FEW_PEOPLE:
        return False
    days = all(each.day is not None or (each.months or 0.0) * 365.25 / 12.0 % 1.0 < 1e-6 for each in read)
    coarse = all((each.months or 0.0) % 1.0 == 0.0 and each.day is None for each in read)
    if (coarse or not days) and len(given) <= MANY_LABELS:
        return False
    people = len(np.unique(person))
    users = np.array([len(np.unique(person[codes == code])) for code in range(len(given))])
    later = _numbered(person, np.asarray(years, dtype=float)[codes]) > 0
    if not later.any():
        return False
    shared = users[codes[later]] >= max(FEW_PEOPLE, SHARE_OF_PEOPLE * people)
    return bool(shared.mean() < SHARED)


def _within_people(given: list[str], codes: np.ndarray, person: np.ndarray, timed: bool) -> RowVisits:
    years = np.asarray(_years(given), dtype=float)[codes]
    slot = _numbered(person, years)
    labels = [str(place) for place in range(int(slot.max()) + 1)]
    note = f"visit labels ({some(order_visits(given), 3)}) are each person's own: visits are numbered within the person"
    return RowVisits(labels, slot, None if timed else years, [note])


def _joined(given: list[str], codes: np.ndarray, person: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
    """Labels of one visit become the one that most rows have, where nobody has two of them."""
    notes, name = [], {label: label for label in given}
    place = {label: code for code, label in enumerate(given)}
    count = np.bincount(codes, minlength=len(given))
    for group in one_visit(given):
        mine = np.isin(codes, [place[label] for label in group])
        if len(np.unique(person[mine])) < mine.sum():
            continue
        usual = max(group, key=lambda label: count[place[label]])
        name |= dict.fromkeys(group, usual)
        others = [label for label in group if label != usual]
        notes.append(f"visits {some([usual, *others])} are taken as one, {usual}: nobody has two of them")
    if not notes:
        return given, codes, notes
    left = list(dict.fromkeys(name.values()))
    return left, np.asarray([left.index(name[label]) for label in given], dtype=int)[codes], notes
