"""Columns of numbers that are no imaging features: row numbers, ids, quality scores, times, constants."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .cells import Sheet
from .layouts import Field, plain_name

# Rows in order from which whole numbers are row numbers, whatever they are called.
ROWS_IN_ORDER = 20
# People with two visits from which a column may be seen to grow with the visits.
ENOUGH_PEOPLE = 10
# The same value in fewer cells is no constant.
ENOUGH_CELLS = 3
# People that are looked at first: they settle it for nearly every column.
_FEW_PEOPLE = 50

_WORDS = re.compile(r"[a-z]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# What a program calls the column of row numbers that it wrote without a name.
_NAMELESS = re.compile(r"Unnamed: \d+(?:[._]\d+)*|\.\.\.\d+|X(?:\.\d+)?|level_\d+")
_ROW_NAMES = {"index", "idx", "row", "rows", "row_number", "row_num", "row_name", "row_names", "rownames", "rownum"}
_ID_WORDS = {"id", "ids", "uid", "uuid", "guid", "iid", "barcode", "accession", "imageuid", "loniuid", "rid", "patno"}
_ID_END = re.compile(
    r"(?:image|loni|scan|series|study|session|visit|subject|subj|participant|patient|person|record|exam|form|sample|mri?)"
    r"(?:id|uid|guid|num|number|no|nr)"
)
_SCAN_WORDS = {"run", "version", "fsversion", "fldstreng", "fieldstrength", "magstrength", "serialnumber"}
_QUALITY_WORDS = {
    *("qc", "qa", "euler", "pass", "passed", "fail", "failed", "usable", "flag", "flags"),
    *("include", "included", "exclude", "excluded"),
}
_TIME_WORDS = {
    *("day", "days", "week", "weeks", "month", "months", "year", "years", "yrs", "delay", "interval", "elapsed"),
    *("age", "ages", "dob", "date"),
}
_TIME_NAMES = {"m", "gap", "time", "examdate"}
_SINCE = {"since", "from", "to", "baseline", "bl", "scan", "visit", "followup", "between", "first", "last"}
# A brain's age is measured; years of education are a covariate.
_NO_TIME = {"brain", "brainage", "predicted", "pred", "education", "educ", "edu", "school", "schooling"}
_SCORES = re.compile(
    r"mmse|moca|cdr|cdrsb|cdr_sb|cdr_?global|adas\w*|ravlt\w*|faq|faqtotal|gds\w*|npi\w*|updrs\w*|mds_?updrs\w*|ldeltotal|"
    r"digitscor|trabscor|mpacc\w*|ecog\w*|hamd\w*|hdrs\w*|bdi\w*|phq_?9\w*|gad_?7\w*|panss\w*|edss|sdmt|hvlt\w*|ess|rbd\w*"
)


def clinical_scores(names: Sequence[str]) -> list[str]:
    """Those of the names that are known as scores of tests and interviews."""
    return [name for name in names if _SCORES.fullmatch(_stem(plain_name(name)))]


def _stem(plain: str) -> str:
    return re.sub(r"_(?:total|tot|score|sum|bl)$", "", plain)


def kind_by_name(name: str) -> str | None:
    """What a column of this name holds instead of a measurement of the brain, or None."""
    words = _WORDS.findall(_CAMEL.sub(" ", name).lower())
    plain, joined = plain_name(name), "".join(words)
    if (_NAMELESS.fullmatch(name) and name != "X") or plain in _ROW_NAMES:
        return "a row number by its name"
    if (words and (words[-1] in _ID_WORDS or _ID_END.fullmatch(joined))) or joined in _ID_WORDS:
        return "an id by its name"
    if _SCAN_WORDS & {*words, joined, "".join(words[-2:])}:
        return "a setting of the scan by its name"
    if _QUALITY_WORDS & set(words) or joined.endswith("qc"):
        return "a mark of quality by its name"
    timed = _TIME_WORDS & set(words) or plain in _TIME_NAMES or ("time" in words and _SINCE & set(words))
    return "a time by its name" if timed and not _NO_TIME & set(words) else None


class ColumnKinds:
    """Looks at the values of columns that nobody named as features.

    person : (R,) of each row of the sheet.  visit : column of the visit in a long table, None elsewhere.
    time : (R,) times of a long table, NaN where unknown; None where there are none.
    """

    def __init__(self, sheet: Sheet, person: np.ndarray, visit: str | None, time: np.ndarray | None = None) -> None:
        self.sheet, self.person, self.time = sheet, person, time
        self.slot = pd.factorize(sheet.texts(visit))[0] if visit is not None else None
        self.several = np.flatnonzero(np.bincount(person)[person] > 1)
        again = np.unique(person[self.several])
        self._enough = len(again) >= ENOUGH_PEOPLE or (visit is None and len(sheet) >= ENOUGH_PEOPLE)
        first = again[:_FEW_PEOPLE]
        few = self.several[np.isin(person[self.several], first)]
        self._few = few[np.argsort(person[few], kind="stable")]

    def bad_cell(self, part: Field) -> str | None:
        """Says which cell of a column of numbers is none; None where all are."""
        for column in part.columns.values():
            found = self.sheet.first_bad(column)
            if found is not None:
                text, row = found
                where = f"row {self.sheet.source.place(int(self.sheet.records[row]), column)[1]}"
                return f"{where} of {column!r} holds {text[:40]!r}, which is no number"
        return None

    def by_value(self, part: Field) -> str | None:
        """What the values are instead of measurements, or None: row numbers, a constant, nothing, or a time."""
        columns = [self.sheet.numbers(column) for column in part.columns.values()]
        if not any(np.isfinite(values).any() for values in columns):
            return "no value at any visit"
        constant = _constant(columns, self.person)
        if constant is not None:
            return f"the same in every row: {constant:g}"
        if (part.name == "X" and _in_order(columns[0], 2)) or _row_numbers(columns[0]):
            return "row numbers"
        return "grows with the visits alike in everyone" if self._enough and self._grows(part, columns) else None

    def _grows(self, part: Field, columns: Sequence[np.ndarray]) -> bool:
        if set(part.columns) == {None}:
            rows = self._few
            slot = np.zeros(len(self.sheet), dtype=int) if self.slot is None else self.slot
            time = None if self.time is None else self.time[rows]
            if (self.slot is None and time is None) or not _may_be(
                columns[0][rows], self.person[rows], slot[rows], time
            ):
                return False
            rows = self.several
            time = None if self.time is None else self.time[rows]
            return _in_step(columns[0][rows], self.person[rows], slot[rows], time)
        count = min(len(self.sheet), _FEW_PEOPLE)
        head = np.stack([values[:count] for values in columns], axis=1)
        people, slots = (np.indices(head.shape)[axis].ravel() for axis in (0, 1))
        if len(columns) < 2 or not _may_be(head.ravel(), people, slots, None):
            return False
        every = np.stack(list(columns), axis=1)
        people, slots = (np.indices(every.shape)[axis].ravel() for axis in (0, 1))
        return _in_step(every.ravel(), people, slots, None)


def _may_be(values: np.ndarray, person: np.ndarray, slot: np.ndarray, time: np.ndarray | None) -> bool:
    """Whether `_in_step` may be true by a few people, whose rows stand together: quick, for thousands of columns."""
    known = np.isfinite(values)
    values, person, slot = values[known], person[known], slot[known]
    if not len(values):
        return False
    starts = np.flatnonzero(np.diff(person, prepend=person[0] - 1))
    if len(np.unique(values)) <= len(np.unique(slot)) or np.ptp(np.minimum.reduceat(values, starts)) == 0:
        return True
    if time is None:
        return False
    own = np.diff(person) == 0
    grown, gone = np.diff(values)[own], np.diff(time[known])[own]
    known = np.isfinite(gone) & (gone != 0)
    if not known.any():
        return False
    rates = grown[known] / gone[known]
    return bool(np.mean(np.abs(rates - np.median(rates)) <= 0.02 * abs(np.median(rates))) > 0.8)


def _constant(columns: Sequence[np.ndarray], person: np.ndarray) -> float | None:
    """The only value of a column that several people have, or None."""
    first, count, people = None, 0, 0
    for values in columns:
        head = values[:100][np.isfinite(values[:100])]
        if len(head) and (head != head[0]).any():
            return None
        known = np.isfinite(values)
        if not known.any():
            continue
        first = values[known.argmax()] if first is None else first
        if (values[known] != first).any():
            return None
        count += int(known.sum())
        people = max(people, len(np.unique(person[known])))
    return None if first is None or count < ENOUGH_CELLS or people < 2 else float(first)


def _in_order(values: np.ndarray, least: int) -> bool:
    """Whether these are whole numbers, each larger than the one before."""
    return bool(len(values) >= least and (values % 1 == 0).all() and (np.diff(values) > 0).all())


def _row_numbers(values: np.ndarray) -> bool:
    ends = len(values) > 0 and values[0] in (0, 1) and values[-1] == values[0] + len(values) - 1
    return bool(ends) and _in_order(values, ROWS_IN_ORDER)


def _in_step(values: np.ndarray, person: np.ndarray, slot: np.ndarray, time: np.ndarray | None) -> bool:
    """Whether values are a count of visits or the time since the first: nobody's own.

    All four (K,), a row a visit. True where each visit has one value; where everybody begins at the same value and
    nobody has it twice; or where values differ within people as their times do.
    """
    known = np.isfinite(values)
    values, person, slot = values[known], person[known], slot[known]
    table = pd.DataFrame({"value": values, "person": person, "slot": slot})
    table = table[table.groupby("person")["value"].transform("size") > 1]
    people = table.groupby("person")["value"]
    if people.ngroups < ENOUGH_PEOPLE or table.duplicated(["person", "value"]).any():
        return False
    by_slot = table.groupby("slot")["value"]
    if by_slot.ngroups > 1 and (by_slot.nunique() == 1).all():
        return True
    if people.min().nunique() == 1 and table["value"].nunique() > 2:
        return True
    return time is not None and _as_time(table, time[known][table.index])


def _as_time(table: pd.DataFrame, time: np.ndarray) -> bool:
    """Whether differences within people are those of their times, but for the unit."""
    order = np.lexsort((table["value"], table["person"]))
    person, value, time = table["person"].to_numpy()[order], table["value"].to_numpy()[order], time[order]
    own = np.diff(person) == 0
    grown, gone = np.diff(value)[own], np.diff(time)[own]
    known = np.isfinite(gone) & (gone > 0)
    if known.sum() < ENOUGH_PEOPLE or known.mean() < 0.9:
        return False
    grown, gone = grown[known], gone[known]
    # Times that are all alike would make a time of anything that grows steadily.
    if gone.std() < 0.02 * gone.mean():
        return False
    rate = np.median(grown / gone)
    return bool(np.mean(np.abs(grown - rate * gone) <= 0.01 * rate * gone.mean()) > 0.95)
