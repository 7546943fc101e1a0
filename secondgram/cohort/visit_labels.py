"""The meaning of visit labels: `bl`, `ses-M006`, `2_year_follow_up_y_arm_1`, `V04`, `d0129`, `2016-05-31`."""

from __future__ import annotations

import datetime
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# What later visits may be put in order by, the first that all of them have.
SCALES = ("day", "months", "number")
Stage = Literal["screening", "initial", "baseline", "later", "after", "unknown"]
STAGES: tuple[Stage, ...] = ("screening", "initial", "baseline", "later", "after", "unknown")

# Words of a stage, whole or at the beginning of one (`predrug`, `postop`).
SCREENING = {"screening", "screen", "screener", "sc", "scr", "scmri", "prescreening", "eligibility"}
INITIAL = {"init", "initial"}
BASELINE = {
    *("baseline", "baselinevisit", "bl", "base", "bas", "bsl", "pre", "before", "entry", "enrolment", "enrollment"),
    *("intake", "inclusion", "admission", "test", "birth", "neonatal", "neonate", "newborn"),
}
# In the order in which they follow each other.
AFTER = (
    {"during", "mid", "midpoint", "interim"},
    {"post", "after", "retest", "repeat"},
    {"followup", "fu", "fup", "follow"},
    {"end", "exit", "final", "last", "discharge", "eot", "et", "eos"},
)
BEGINNINGS: tuple[tuple[str, Stage, int], ...] = (
    ("baseline", "baseline", 0),
    ("screen", "screening", 0),
    ("pre", "baseline", 0),
    ("post", "after", 1),
    ("followup", "after", 2),
)
NO_BEGINNINGS = {"present", "preterm", "premature", "previous", "prenatal", "preference"}
COUNTED = {
    word: float(number)
    for words in (
        ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("hyperacute", "acute", "subacute", "chronic"),
    )
    for number, word in enumerate(words)
}
MONTHS = {
    **dict.fromkeys(("y", "yr", "yrs", "year", "years", "annual"), 12.0),
    **dict.fromkeys(("m", "mo", "mos", "mon", "mth", "mths", "month", "months"), 1.0),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), 12.0 * 7.0 / 365.25),
    **dict.fromkeys(("d", "day", "days"), 12.0 / 365.25),
}
# A number after one of these tells no visit from another.
ASIDE = {"arm", "group", "run", "acq", "site"}
# Words that say nothing but that this is a visit.
PLAIN = {
    *("visit", "v", "ses", "session", "scan", "mri", "mr", "time", "timepoint", "tp", "t", "wave", "phase", "event"),
    *("instance", "year", "y", "up", "s", "assessment", "exam", "imaging", "study", "of", "at", "the", "number", "no"),
    *("treatment", "r", "round", "rep"),
}
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_./]?(0[1-9]|1[0-2])[-_./]?(0[1-9]|[12]\d|3[01])(?!\d)")
_TOKENS = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class VisitLabel:
    """What a label says of its visit; None where it says nothing of the kind.

    step : among stages `after`, which comes first.  months : since the baseline.  number : of the visit.
    day : proleptic day of a date.  rest : words that are not understood.
    """

    label: str
    stage: Stage
    step: int = 0
    months: float | None = None
    number: float | None = None
    day: int | None = None
    rest: str = ""

    @classmethod
    def of(cls, label: str) -> VisitLabel:
        """Read the words, numbers and units of a label."""
        plain = label.strip()
        if re.fullmatch(r"[-+]?\d+(?:\.\d+)?", plain) and not _DATE.fullmatch(plain):
            value = float(plain)
            return cls(label, "baseline" if value == 0 else "later" if value > 0 else "screening", number=value)
        date = _date(plain)
        if date is not None:
            return cls(label, "later", day=date)
        # A minus belongs to a number where a unit or nothing stands before it: `week -4`, not `ses-04`.
        before = re.search(r"(?:week|day|month|year)s?[ _]?-\s?\d", plain.lower()) is not None
        tokens = _TOKENS.findall(_CAMEL.sub(" ", plain).lower())
        return _read(label, tokens, before)

    @property
    def years(self) -> float | None:
        """Since the baseline, or on the calendar where it is a date; None where it says neither."""
        if self.day is not None:
            return self.day / 365.25
        if self.months is not None:
            return self.months / 12.0
        return 0.0 if self.stage == "baseline" and not self.number else None

    def key(self, scale: str | None) -> tuple[int, float, str, list[tuple[float, str]]]:
        """By which labels are sorted: on a scale where they have it, then by the numbers and text in them."""
        stage = STAGES.index(self.stage)
        values = (getattr(self, kind) for kind in ([scale] if scale else []) + list(SCALES))
        value = next((float(each) for each in values if each is not None), 0.0)
        place = self.step if self.stage == "after" else 0
        text = [(float(number or 0), word) for word, number in re.findall(r"(\D*)(\d*)", self.label)]
        return stage, place * 1e6 + value, self.rest, text


def _date(text: str) -> int | None:
    found = _DATE.search(text)
    if found is None:
        return None
    try:
        return datetime.date(*map(int, found.groups())).toordinal()
    except ValueError:
        # The 31st of April: written by somebody who means a day nevertheless.
        year, month, _ = map(int, found.groups())
        return datetime.date(year + month // 12, month % 12 + 1, 1).toordinal() - 1


def _read(label: str, tokens: list[str], before: bool) -> VisitLabel:
    months, number, stage, step, rest = None, None, None, 0, []
    place = 0
    while place < len(tokens):
        word, following = tokens[place], tokens[place + 1] if place + 1 < len(tokens) else ""
        place += 1
        if word in ASIDE and _is_number(following):
            place += 1
        elif word in MONTHS and _is_number(following) and not (len(word) > 1 and _unit_follows(tokens, place)):
            months = (months or 0.0) + float(following) * MONTHS[word]
            place += 1
        elif _is_number(word) and following in MONTHS and not _number_follows(tokens, place):
            months = (months or 0.0) + float(word) * MONTHS[following]
            place += 1
        elif _is_number(word):
            number = float(word) if number is None else number
        elif word in COUNTED:
            number = COUNTED[word]
        elif (found := _stage(word, following)) is not None:
            if stage is None or STAGES.index(found[0]) < STAGES.index(stage):
                stage, step = found
        elif word not in PLAIN and word not in MONTHS:
            rest.append(word)
    if before and months is not None:
        months = -months
    if stage in ("screening", "initial", "baseline"):
        # `baseline_year_1_arm_1` is the first year and no year later.
        return VisitLabel(label, stage, number=number, rest=" ".join(rest))
    value = months if months is not None else number
    if value is not None:
        at: Stage = "later" if value > 0 else "baseline" if value == 0 else "screening"
        return VisitLabel(label, at, months=months, number=number, rest=" ".join(rest))
    return VisitLabel(label, stage or "unknown", step, rest=" ".join(rest))


def _is_number(word: str) -> bool:
    return word[:1].isdigit()


def _unit_follows(tokens: Sequence[str], place: int) -> bool:
    """Whether the number at a place has a unit of its own behind it: `year 6 months`, not `year 2 month 6`."""
    unit, beyond = (tokens[at] if at < len(tokens) else "" for at in (place + 1, place + 2))
    return unit in MONTHS and len(unit) > 1 and not _is_number(beyond)


def _number_follows(tokens: Sequence[str], place: int) -> bool:
    """Whether the unit at a place belongs to the number behind it: `visit 1 month 6`, not `2 years 6 months`."""
    number, unit = (tokens[at] if at < len(tokens) else "" for at in (place + 1, place + 2))
    return _is_number(number) and unit not in MONTHS


def _stage(word: str, following: str) -> tuple[Stage, int] | None:
    first: dict[Stage, set[str]] = {"screening": SCREENING, "initial": INITIAL, "baseline": BASELINE}
    for stage, words in first.items():
        if word in words:
            return stage, 0
    if word == "follow" and following != "up":
        return None
    for step, words in enumerate(AFTER):
        if word in words:
            return "after", step
    if word in NO_BEGINNINGS:
        return None
    return next(((stage, step) for beginning, stage, step in BEGINNINGS if word.startswith(beginning)), None)


def label_years(labels: Sequence[str]) -> list[float]:
    """Years (L,) that labels tell (see `VisitLabel.years`), NaN where they do not: `w1`, `w2` and `w3` are waves."""
    weeks = [re.fullmatch(r"(?:ses-)?w0*(\d+)", label.strip().lower()) for label in labels]
    numbers = sorted({int(each[1]) for each in weeks if each is not None})
    waves = bool(numbers) and numbers[0] <= 1 and numbers[-1] - numbers[0] == len(numbers) - 1
    found = [VisitLabel.of(label).years for label in labels]
    return [
        float("nan") if years is None or (waves and week is not None) else years
        for years, week in zip(found, weeks, strict=True)
    ]


def order_visits(labels: Iterable[str]) -> list[str]:
    """Labels, earliest first, as far as words, numbers and units tell; the others by their text, at the end."""
    read = [VisitLabel.of(label) for label in labels]
    scale = _scale(read)
    return [each.label for each in sorted(read, key=lambda each: each.key(scale))]


def _scale(read: Sequence[VisitLabel]) -> str | None:
    """What all later visits can be put in order by; None where there is no such thing."""
    later = [each for each in read if each.stage == "later"]
    return next((kind for kind in SCALES if all(getattr(each, kind) is not None for each in later)), None)


def undecided(labels: Iterable[str]) -> list[str]:
    """Labels whose place among the others neither words, nor numbers, nor units decide."""
    read = [VisitLabel.of(label) for label in labels]
    if len(read) < 2:
        return []
    doubtful = {each.label for each in read if each.stage == "unknown"}
    later = [each for each in read if each.stage == "later"]
    if later:
        # `post` may come before `6 months` or after it, and `fu` before `fu2`; an end comes last.
        doubtful |= {each.label for each in read if each.stage == "after" and each.step < len(AFTER) - 1}
    if _scale(read) is None:
        # Months, say, beside numbers of visits.
        doubtful |= {each.label for each in later}
    # `UNS1` beside `V01`: a number of another kind.
    counted = [each for each in later if each.months is None and each.day is None]
    rests = Counter(each.rest for each in counted if len(each.rest) != 1)
    if len(rests) > 1:
        usual = "" if "" in rests else min(rests, key=lambda rest: (-rests[rest], rest))
        doubtful |= {each.label for each in counted if each.rest != usual and len(each.rest) != 1}
    if len(doubtful) == 1 and len(read) == 2 and not any(each.stage in ("later", "after") for each in read):
        # Beside a baseline, whatever it is called comes later.
        other = next(each for each in read if each.label not in doubtful)
        return [] if other.stage != "unknown" else sorted(doubtful)
    skeletons = {re.sub(r"\d+", "0", each.label.lower()) for each in read if each.label in doubtful}
    numbered = all(re.search(r"\d", each.label) for each in read if each.label in doubtful)
    if doubtful and len(doubtful) == len(read) and len(skeletons) == 1 and numbered:
        return []
    return [label for label in (each.label for each in read) if label in doubtful]


def one_visit(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that mean one visit, if nobody has two of them: `bl` and `m0`, `m12` and `year1`."""
    found: dict[object, list[str]] = defaultdict(list)
    for each in map(VisitLabel.of, labels):
        if each.stage in ("screening", "initial", "baseline") and (each.months or each.number or 0.0) >= 0.0:
            found["first"].append(each.label)
        elif each.stage == "later" and each.months is not None and not each.rest:
            found[round(each.months, 2)].append(each.label)
    return [order_visits(group) for group in found.values() if len(group) > 1]
