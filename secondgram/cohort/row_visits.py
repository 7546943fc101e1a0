"""Visits of a table with a row for each person and visit: their labels in order, and which one a row is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..errors import InputError, some
from .cells import Sheet
from .layouts import Field
from .time_values import TimeValues
from .visit_labels import VisitLabel, label_years, one_visit, order_visits, undecided

# Labels that are each person's own: fewer later rows than this share have a label that so many people have.
SHARED, FEW_PEOPLE, SHARE_OF_PEOPLE = 0.5, 2, 0.05
# Different labels from which months, too, may be each person's own.
MANY_LABELS = 12


@dataclass
class RowVisits:
    """labels : earliest first.  slot : (R,) position of each row's visit.

    label_years : (R,) time of each row that its label tells, NaN where it does not.
    tells_years : whether every label tells one, and another than the others.
    doubtful : whether labels leave the order to the times.
    """

    labels: list[str]
    slot: np.ndarray
    label_years: np.ndarray
    tells_years: bool = False
    doubtful: bool = False
    notes: list[str] = field(default_factory=list)


def row_visits(
    sheet: Sheet,
    visit: str | None,
    person: np.ndarray,
    known: Sequence[str] | None,
    time: tuple[Field, TimeValues] | None = None,
) -> RowVisits:
    """visit : the column, None for none.  person : (R,) of each row.  time : the field and cells of the time column.

    known : labels in order that are given elsewhere, so that no order is to be found; None where there are none.

    Raises `InputError` for an empty label, and where nothing tells the order of the visits.
    """
    if visit is None:
        slot = _by_time(sheet, time, person)
        return RowVisits([str(place) for place in range(int(slot.max()) + 1)], slot, np.full(len(slot), np.nan))
    texts = sheet.texts(visit)
    missing = np.flatnonzero([text is None or not text.strip() for text in texts])
    if len(missing):
        raise sheet.error("the visit is missing", "Fill it in, or delete the row", visit, missing[:1].tolist())
    codes, given = pd.factorize(texts)
    given = [str(label) for label in given]
    if known is not None:
        numbered = list(known) == [str(place) for place in range(len(known))] and not set(known) & set(given)
        if numbered and np.isfinite(_years(given)).all():
            return _within_people(given, codes, person)
        return _placed(given, codes, order_visits(given))
    if _personal(given, codes, person):
        return _within_people(given, codes, person)
    given, codes, notes = _joined(given, codes, person)
    doubtful = undecided(given)
    if doubtful and time is None:
        raise InputError(
            f"the order of the visits is not told by their labels: {some(doubtful)}"
            + (
                f" (beside {some([label for label in order_visits(given) if label not in doubtful])})"
                if len(doubtful) < len(given)
                else ""
            ),
            file=sheet.source.label,
            column=visit,
            mend="Give all of them, the baseline first, with visits=[...] or --visits, or name the time column",
        )
    found = _placed(given, codes, order_visits(given))
    found.notes += notes
    if doubtful:
        found.notes.append(f"the order of visits {some(doubtful)} is that of their times: their labels do not tell it")
    found.doubtful = bool(doubtful)
    found.tells_years = found.tells_years and not doubtful
    return found


def _placed(given: list[str], codes: np.ndarray, labels: list[str]) -> RowVisits:
    position = {label: place for place, label in enumerate(labels)}
    years = _years(given)
    tells = len(given) > 1 and len(set(years.tolist())) == len(given) and bool(np.isfinite(years).all())
    return RowVisits(labels, np.asarray([position[label] for label in given], dtype=int)[codes], years[codes], tells)


def _years(given: Sequence[str]) -> np.ndarray:
    """(L,) years that labels tell, NaN where they do not."""
    return np.array(label_years(given), dtype=float)


def _by_time(sheet: Sheet, time: tuple[Field, TimeValues] | None, person: np.ndarray) -> np.ndarray:
    """(R,) position of each row among its person's rows, by time."""
    if time is None:
        return np.zeros(len(person), dtype=int)
    column = next(iter(time[0].columns.values()))
    values = time[1].of[column]
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


def _within_people(given: list[str], codes: np.ndarray, person: np.ndarray) -> RowVisits:
    years = _years(given)[codes]
    slot = _numbered(person, years)
    labels = [str(place) for place in range(int(slot.max()) + 1)]
    note = f"visit labels ({some(order_visits(given), 3)}) are each person's own: visits are numbered within the person"
    return RowVisits(labels, slot, years, tells_years=True, notes=[note])


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
