"""What the cells of a time column say before its unit is known: numbers, dates, or amounts with a unit (`730 days`)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .cells import Sheet, is_text
from .dates import DAY_FIRST, MONTH_FIRST, ORDERS, Dates, looks_like_date, read_dates, written
from .layouts import Field
from .time_names import UNITS, unit_of_name

_AMOUNT = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?\s*")
_TIMEDELTA = re.compile(r"(-?\d+) days?,? \+?(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_FORMS = "Give numbers (and their unit with time_unit= or --time-unit), or dates as 2014-05-31"
# Digits of dates that are written as numbers, 201405 to 20140531103500, and between what they lie.
_COMPACT = ((6, 190000.0, 210013.0), (8, 1e6, 1e8), (12, 1.8e11, 2.2e11), (14, 1.8e13, 2.2e13))
_FIRST_DAY = float(datetime.date(1900, 1, 1).toordinal() - datetime.date(1970, 1, 1).toordinal())


@dataclass
class TimeValues:
    """Cells of the columns of one field, R each.

    of : column -> (R,) floats, NaN where missing.  unit : of these, None where they are plain numbers.
    dates : whether they are days on the calendar.  order : of their parts, where they need one.
    coarse : whether dates say no day.  late : column -> (R,) whether a date lies in the future, where not all do.
    """

    of: dict[str, np.ndarray]
    unit: str | None = None
    dates: bool = False
    order: str | None = None
    coarse: bool = False
    late: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_times(sheet: Sheet, part: Field, order: str | None = None) -> TimeValues:
    """Read every column of a field alike. order : the one of `dates.ORDERS` that is known.

    Raises `InputError` at the first cell that is no time, where dates have two readings, and where some of them
    cannot be those of a scan.
    """
    columns = list(part.columns.values())
    kinds = [sheet.columns[column].type for column in columns]
    known = [kind for kind in kinds if not pa.types.is_null(kind)]
    if known and all(pa.types.is_duration(kind) for kind in known):
        return TimeValues({column: _as_days(sheet, column, pa.duration("us"), 0.0) for column in columns}, "days")
    if known and all(pa.types.is_date(kind) or pa.types.is_timestamp(kind) for kind in known):
        days = {column: _as_days(sheet, column, pa.timestamp("us"), 0.0) for column in columns}
        return _checked(sheet, TimeValues(days, "days", dates=True))
    numbers: dict[str, np.ndarray] = {}
    text = False
    for column, kind in zip(columns, kinds, strict=True):
        if is_text(kind) or pa.types.is_temporal(kind):
            values, bad = sheet.parsed(column)
            text = text or bad is not None
        else:
            values = sheet.numbers(column).astype(float)
        numbers[column] = values
    if text:
        return _of_texts(sheet, columns, order)
    return _of_numbers(sheet, numbers, order)


def _as_days(sheet: Sheet, column: str, kind: pa.DataType, start: float) -> np.ndarray:
    values = sheet.columns[column]
    if pa.types.is_null(values.type):
        return np.full(len(sheet), np.nan)
    if pa.types.is_date(values.type):
        values = values.cast(pa.date32()).cast(pa.int32())
        per_day = 1.0
    else:
        zone = getattr(values.type, "tz", None)
        wide = pa.timestamp(kind.unit, zone) if zone else kind
        values = pc.cast(values, wide, safe=False).cast(pa.int64())
        per_day = 86400e6
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=float) / per_day + start


def _of_numbers(sheet: Sheet, numbers: dict[str, np.ndarray], order: str | None) -> TimeValues:
    every = np.concatenate(list(numbers.values()))
    every = every[np.isfinite(every)]
    digits = _digits(every)
    if digits is None:
        return TimeValues(numbers)
    texts = {
        column: np.array([None if np.isnan(v) else f"{v:.0f}".zfill(digits) for v in values], dtype=object)
        for column, values in numbers.items()
    }
    return _of_dates(sheet, texts, order)


def _digits(values: np.ndarray) -> int | None:
    """How many digits compact dates have, where more than half of some numbers are such dates."""
    if not len(values):
        return None
    size = float(np.median(values))
    digits = next((count for count, low, high in _COMPACT if low <= size < high), None)
    if digits is None:
        return None
    distinct = np.unique(values)
    some = distinct[:: max(1, len(distinct) // 500)]
    dates = [value % 1.0 == 0.0 and looks_like_date(f"{value:.0f}".zfill(digits)) for value in some]
    # Six digits may be days, too: a month above 12 anywhere tells.
    return digits if np.mean(dates) > (0.99 if digits == 6 else 0.5) else None


def _of_texts(sheet: Sheet, columns: Sequence[str], order: str | None) -> TimeValues:
    texts = {column: sheet.texts(column) for column in columns}
    every = pd.Series(np.concatenate(list(texts.values()))).dropna().unique()
    few = every[:: max(1, len(every) // 500)]
    dates = sum(looks_like_date(text) for text in few)
    amounts = sum(_amount(text) is not None for text in few)
    plain = sum(_number(text) for text in few)
    # Eight digits are a date among dates and a number among numbers.
    if dates > plain and dates >= amounts:
        return _of_dates(sheet, texts, order)
    if amounts > plain:
        return _of_amounts(sheet, texts)
    for column in columns:
        bad = sheet.parsed(column)[1]
        if bad is not None:
            raise sheet.error(f"{texts[column][bad]!r} is no time", _FORMS, column, [bad])
    raise AssertionError("a cell that is no number was found before")


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _of_dates(sheet: Sheet, texts: dict[str, np.ndarray], order: str | None) -> TimeValues:
    every = np.concatenate(list(texts.values()))
    codes, distinct = pd.factorize(every)
    found = read_dates([str(text) for text in distinct], order if order in ORDERS else None)
    wrong = np.flatnonzero(np.isnan(found.days))
    if len(wrong):
        column, row = _place(texts, int(np.flatnonzero(np.isin(codes, wrong))[0]))
        raise sheet.error(f"{texts[column][row]!r} is no time{_among(found)}", _FORMS, column, [row])
    if found.other is not None:
        days = read_dates([str(text) for text in distinct], found.other).days
        code = int(np.flatnonzero(days != found.days)[0])
        column, row = _place(texts, int(np.flatnonzero(codes == code)[0]))
        raise sheet.error(
            f"{distinct[code]!r} is {written(found.days[code])} or {written(days[code])}: no date of the column tells "
            f"{found.order or DAY_FIRST} from {found.other}",
            f"Write dates as 2014-05-31, or say time_unit={found.order!r} or {found.other!r} (--time-unit); "
            "time='' reads no time",
            column,
            [row],
        )
    values = np.where(codes < 0, np.nan, found.days[codes] if len(found.days) else np.nan)
    rows = len(sheet)
    of = {column: values[place * rows : (place + 1) * rows] for place, column in enumerate(texts)}
    notes = [f"dates are read as {found.order}"] if found.order in (DAY_FIRST, MONTH_FIRST) else []
    notes += ["dates say no day, so years between visits are right to a month"] if found.months else []
    return _checked(sheet, TimeValues(of, "days", True, found.order, found.months, notes=notes))


def _among(found: Dates) -> str:
    if found.mixed:
        return (
            " among dates of another form: a spreadsheet that understood some of them may have exchanged day and month"
        )
    if found.months:
        return " among months"
    return f" among dates of the order {found.order}" if found.order is not None else ""


def _place(texts: dict[str, np.ndarray], position: int) -> tuple[str, int]:
    columns = list(texts)
    rows = len(texts[columns[0]])
    return columns[position // rows], position % rows


def _amount(text: str) -> float | None:
    """Years of `730 days`, `040Y`, `2 years 3 months`; None for anything else."""
    span = _TIMEDELTA.fullmatch(text.strip())
    if span:
        clock = int(span[2]) / 24.0 + int(span[3]) / 1440.0 + float(span[4]) / 86400.0
        return (int(span[1]) + clock) / UNITS["days"]
    years, end = 0.0, 0
    for match in _AMOUNT.finditer(text):
        unit = unit_of_name(f"age {match[2]}")
        if match.start() != end or unit is None:
            return None
        years, end = years + float(match[1]) / UNITS[unit], match.end()
    return years if end and end == len(text) else None


def _of_amounts(sheet: Sheet, texts: dict[str, np.ndarray]) -> TimeValues:
    of = {}
    for column, cells in texts.items():
        codes, distinct = pd.factorize(cells)
        years = [_amount(str(text)) for text in distinct]
        wrong = [code for code, each in enumerate(years) if each is None]
        if wrong:
            row = int(np.flatnonzero(np.isin(codes, wrong))[0])
            raise sheet.error(f"{cells[row]!r} is no time", _FORMS, column, [row])
        of[column] = np.array([*years, np.nan], dtype=float)[codes]
    return TimeValues(of, "years", notes=["times are read with the unit that stands in each cell"])


def _checked(sheet: Sheet, values: TimeValues) -> TimeValues:
    """Look for dates before 1900 and in the future: a whole table was moved to hide them, single ones are wrong."""
    tomorrow = float((datetime.date.today() - datetime.date(1970, 1, 1)).days + 2)
    every = np.concatenate(list(values.of.values()))
    known = every[np.isfinite(every)]
    for outside, where in ((known < _FIRST_DAY, "before 1900"), (known >= tomorrow, "in the future")):
        if len(known) and outside.mean() > 0.5:
            values.notes.append(f"dates lie {where}: they are taken as moved by as much at all visits of a person")
    if not len(known) or ((known < _FIRST_DAY) | (known >= tomorrow)).mean() > 0.5:
        return values
    for column, days in values.of.items():
        early = np.flatnonzero(days < _FIRST_DAY)
        if len(early):
            text = written(days[early[0]])
            mend = "Correct the cell or leave it empty"
            raise sheet.error(f"{text} is before 1900, and other dates are not", mend, column, early[:1].tolist())
        values.late[column] = days >= tomorrow
    return values
