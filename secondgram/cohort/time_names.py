"""Units of time, and the units and ages that the names of columns speak of."""

from __future__ import annotations

import re

from ..errors import InputError
from .dates import ORDERS
from .layouts import plain_name

# How many of each make a year.
UNITS = {"days": 365.25, "weeks": 365.25 / 7.0, "months": 12.0, "years": 1.0}
DATES = "dates"
_WORDS = {
    **dict.fromkeys(("d", "day", "days", "dy"), "days"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), "weeks"),
    **dict.fromkeys(("m", "mo", "mos", "mon", "mth", "mths", "mnth", "mnths", "month", "months"), "months"),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), "years"),
}
# Conventions of studies and of obstetrics, where the name says no unit.
_BY_CONVENTION = {
    **dict.fromkeys(("interview_age", "interviewage"), "months"),
    **dict.fromkeys(("pma", "postmenstrual_age", "gestational_age", "age_pma", "pma_at_scan"), "weeks"),
    **dict.fromkeys(("mr_delay", "mrdelay", "delay", "scan_delay"), "days"),
}
_AGE = {"age", "ages", "agey", "agem", "ageyears", "agemonths", "agedays", "ageweeks", "ageyrs", "agemos"}
_BESIDE_AGE = {
    *(
        "in",
        "at",
        "of",
        "the",
        "scan",
        "scanning",
        "visit",
        "baseline",
        "bl",
        "mri",
        "mr",
        "interview",
        "exam",
        "session",
    ),
    *("ses", "entry", "test", "assessment", "time", "timepoint", "tp", "participant", "subject", "patient", "imaging"),
    *("acquisition", "acq", "date", "testing", "examination", "current", "attending", "decimal", "exact", "postnatal"),
    *("postmenstrual", "gestational", "pma", "chronological", "calc", "calculated", "now"),
    *_WORDS,
}
_BESIDE_DATE = {
    *("of", "at", "the", "scan", "scanning", "visit", "mri", "mr", "exam", "examination", "session", "ses", "study"),
    *("acquisition", "acq", "interview", "experiment", "imaging", "assessment", "test", "testing", "attending", "time"),
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _tokens(name: str) -> list[str]:
    return [part for part in re.split(r"[^a-z]+", _CAMEL.sub(" ", name).lower()) if part]


def unit_of_name(name: str) -> str | None:
    """`days`, `weeks`, `months` or `years` where a column's name says one of them, else None."""
    tokens = _tokens(name)
    # A letter is a unit only behind something that it can be the unit of: `age_m`, not `M`.
    last = len(tokens) - 1
    found = {
        _WORDS[word] for place, word in enumerate(tokens) if word in _WORDS and (len(word) > 1 or place == last > 0)
    }
    if not found:
        squeezed = "".join(tokens)
        end = re.search(r"(days?|weeks?|months?|years?|yrs?|mos)$", squeezed)
        found = {_WORDS[end[1]]} if end and _stem_is_time(squeezed[: end.start()]) else set()
    return found.pop() if len(found) == 1 else None


def usual_unit(name: str) -> str | None:
    """The unit in which studies give a column of this name, though the name does not say it: `interview_age`."""
    return _BY_CONVENTION.get(plain_name(name))


def _stem_is_time(stem: str) -> bool:
    return stem.startswith(("age", "time", "gap", "interval", "followup", "since", "elapsed", "delay"))


def is_age(name: str) -> bool:
    """Whether a column of this name holds the age of the person, and not that of another or at another event."""
    tokens = _tokens(name)
    squeezed = "".join(tokens)
    whole = re.fullmatch(r"age(?:in|at)?(?:scan|visit|mri|baseline|days?|weeks?|months?|mos|years?|yrs?)?", squeezed)
    return whole is not None or (bool(set(tokens) & _AGE) and set(tokens) <= _AGE | _BESIDE_AGE)


def is_visit_date(name: str) -> bool:
    """Whether a column of this name holds the date of a visit, and not that of another event."""
    tokens = set(_tokens(name))
    return "date" in tokens and tokens <= {"date", *_BESIDE_DATE}


def as_time_unit(given: str | None) -> str | None:
    """A unit, `dates`, or an order of dates, as it is called here. Raises `InputError` for anything else."""
    if given is None:
        return None
    plain = str(given).strip()
    by_letter = {"MMDDYYYY": ORDERS[1], "DDMMYYYY": ORDERS[0], "YYMMDD": ORDERS[2]}
    order = by_letter.get(re.sub(r"[^A-Z]", "", plain.upper()))
    unit = _WORDS.get(plain.lower()) or (DATES if plain.lower() in ("date", DATES) else order)
    if unit is None:
        raise InputError(
            f"time_unit={given!r} is unknown",
            mend=f"Use {', '.join(UNITS)}, {DATES}, or an order of dates: {ORDERS[0]}, {ORDERS[1]}",
        )
    return unit
