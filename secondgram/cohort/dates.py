"""Dates as people write them: `2014-05-31`, `31.05.2014`, `5/31/14`, `31-May-2014`, `20140531`, `05/2014`."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How three numbers are meant where the year does not come first with four digits.
DAY_FIRST, MONTH_FIRST, YEAR_FIRST = ORDERS = ("DD/MM/YYYY", "MM/DD/YYYY", "YY/MM/DD")
_EPOCH = datetime.date(1970, 1, 1).toordinal()
# A year of two digits from this one on is of the last century; no scan is older.
_FIRST_SHORT_YEAR = 70
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH_NAMES = (
    "january february march april may june july august september october november december".split() + _MONTHS + ["sept"]
)
_WEEKDAY = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*[,.]?\s+", re.I)
_CLOCK = (
    r"(?:(?:\s*[T,:]\s*|\s+)(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d+)?))?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?)?"
)
_SHORT = r"(?P<year>\d{4}|\d\d)"
_YEAR_THEN = re.compile(r"(?P<year>\d{4})(?P<mark>[-/. ])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})" + _CLOCK, re.I)
_THREE = re.compile(
    r"(?P<first>\d{1,2})(?P<mark>[-/. ])\s?(?P<second_>\d{1,2})(?P=mark)\s?(?P<third>\d{4}|\d\d)" + _CLOCK
)
_NAMED = [
    re.compile(pattern + _CLOCK)
    for pattern in (
        r"(?P<day>\d{1,2})(?:st|nd|rd|th)?[-/., ]*(?P<name>[A-Za-z]{3,9})[-/., ]*" + _SHORT,
        r"(?P<name>[A-Za-z]{3,9})[-/. ]*(?P<day>\d{1,2})(?:st|nd|rd|th)?[-/., ]+(?P<year>\d{4})",
        r"(?P<year>\d{4})[-/., ]*(?P<name>[A-Za-z]{3,9})[-/., ]*(?P<day>\d{1,2})",
    )
]
_COMPACT = re.compile(
    r"(?P<digits>\d{8})(?:T?(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d(?:\.\d+)?))?(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?"
)
_MONTH_ONLY = [
    re.compile(pattern)
    for pattern in (
        r"(?P<year>\d{4})[-/. ](?P<month>\d{1,2})",
        r"(?P<month>\d{1,2})[-/. ](?P<year>\d{4})",
        r"(?P<name>[A-Za-z]{3,9})[-/., ]*(?P<year>\d{4})",
        r"(?P<year>(?:19|20)\d\d)(?P<month>\d\d)",
    )
]


@dataclass(frozen=True)
class Dates:
    """Dates of a table, which are all of one order.

    days : (U,) since 1970-01-01, NaN where a text is no date.  order : the one of `ORDERS` that some of them need, or
    None.  months : whether they say no day.  other : an order that fits as well and gives other days, or None.
    mixed : whether some are no dates only because others have another form.
    """

    days: np.ndarray
    order: str | None
    months: bool
    other: str | None
    mixed: bool = False


def read_dates(texts: Sequence[str], order: str | None = None) -> Dates:
    """Texts (U,), each once. order : the one of `ORDERS` that is known; else that which most of them fit."""
    texts = [text.strip() for text in texts]
    months = np.array([_month_only(text) for text in texts])
    if np.isfinite(months).mean() > 0.5:
        return Dates(months, None, True, None)
    found = {each: np.array([_day(text, each) for text in texts]) for each in ORDERS}
    count = {each: int(np.isfinite(days).sum()) for each, days in found.items()}
    best = order if order in ORDERS else max(ORDERS, key=lambda each: count[each])
    days = found[best]
    three = np.array([_THREE.fullmatch(text) is not None for text in texts]) & np.isfinite(days)
    if three.any() and three.sum() < np.isfinite(days).sum():
        usual = three.mean() > 0.5 or (three.mean() == 0.5 and three[0])
        return Dates(np.where(three == usual, days, np.nan), best, False, None, mixed=True)
    others = [each for each in ORDERS if each != best and count[each] == count[best]]
    other = next((each for each in others if not _same(found[each], days)), None) if order is None else None
    needed = any(not _same(found[each], days) for each in ORDERS)
    return Dates(days, best if needed else None, False, other)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.array_equal(first, second, equal_nan=True))


def looks_like_date(text: str) -> bool:
    """Whether a text is a date in any order."""
    text = text.strip()
    return np.isfinite(_month_only(text)) or any(np.isfinite(_day(text, order)) for order in ORDERS)


def written(day: float) -> str:
    """`2014-05-31` of days since 1970-01-01, and how many of them where the calendar ends."""
    try:
        return datetime.date.fromordinal(int(day // 1) + _EPOCH).isoformat()
    except (ValueError, OverflowError):
        return f"{day:g} days after 1970"


def _day(text: str, order: str) -> float:
    """Days since 1970-01-01 with the fraction of the day; NaN for no date of this order."""
    text = _WEEKDAY.sub("", text, count=1) if text[:1].isalpha() else text
    match = _YEAR_THEN.fullmatch(text)
    if match:
        return _of(match, match["year"], match["month"], match["day"])
    match = _THREE.fullmatch(text)
    if match:
        first, second, third = match["first"], match["second_"], match["third"]
        if order == YEAR_FIRST:
            return _of(match, first, second, third) if len(first) == len(third) == 2 else np.nan
        # Points stand between day and month, never the other way round.
        if order == MONTH_FIRST and match["mark"] != ".":
            return _of(match, third, first, second)
        return _of(match, third, second, first)
    for pattern in _NAMED:
        match = pattern.fullmatch(text)
        if match and match["name"].lower() in _MONTH_NAMES:
            return _of(match, match["year"], _month_number(match["name"]), match["day"])
    match = _COMPACT.fullmatch(text)
    return _compact(match, order) if match else np.nan


def _compact(match: re.Match[str], order: str) -> float:
    digits = match["digits"]
    found = _of(match, digits[:4], digits[4:6], digits[6:]) if digits[:2] in ("18", "19", "20", "21") else np.nan
    if np.isfinite(found) or digits[4:6] not in ("19", "20") or order == YEAR_FIRST:
        return found
    first, second = (digits[2:4], digits[:2]) if order == DAY_FIRST else (digits[:2], digits[2:4])
    return _of(match, digits[4:], first, second)


def _month_only(text: str) -> float:
    for pattern in _MONTH_ONLY:
        match = pattern.fullmatch(text)
        if match and ("name" not in match.groupdict() or match["name"].lower() in _MONTH_NAMES):
            month = match["month"] if "month" in match.groupdict() else _month_number(match["name"])
            return _ordinal(match["year"], month, "1")
    return np.nan


def _month_number(name: str) -> str:
    return str(_MONTHS.index(name[:3].lower()) + 1)


def _ordinal(year: str, month: str, day: str) -> float:
    number = int(year)
    if len(year) == 2:
        century = 100 * (datetime.date.today().year // 100)
        if century + number <= datetime.date.today().year:
            number += century
        elif number >= _FIRST_SHORT_YEAR:
            number += century - 100
        else:
            return np.nan
    try:
        return float(datetime.date(number, int(month), int(day)).toordinal() - _EPOCH)
    except ValueError:
        return np.nan


def _of(match: re.Match[str], year: str, month: str, day: str) -> float:
    date = _ordinal(year, month, day)
    if match["hour"] is None:
        return date
    hour, minute, second = int(match["hour"]), int(match["minute"]), float(match["second"] or 0.0)
    half = match.groupdict().get("half")
    if hour > (12 if half else 24) or minute > 59 or second >= 61.0:
        return np.nan
    if half:
        hour = hour % 12 + (12 if half in "Pp" else 0)
    return date + (hour - _offset(match["zone"])) / 24.0 + minute / 1440.0 + second / 86400.0


def _offset(zone: str | None) -> float:
    """Hours that a zone is ahead of UTC."""
    if not zone or zone[0] not in "+-":
        return 0.0
    digits = zone[1:].replace(":", "")
    return (int(digits[:2]) + int(digits[2:] or 0) / 60.0) * (-1.0 if zone[0] == "-" else 1.0)
