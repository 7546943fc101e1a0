"""Codes for missing: numbers and texts that stand in a table where nothing was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError, some
from .cells import Sheet, is_text
from .layouts import Field
from .roles import Roles

FEATURE, COVARIATE, OUTCOME, TIME = "feature", "covariate", "outcome", "time"
EVERYWHERE = frozenset((FEATURE, COVARIATE, OUTCOME, TIME))
Entry = str | float


@dataclass(frozen=True)
class Codes:
    """What stands for missing in some columns.

    numbers : values;  spans : (least, most) of values, both included;  texts : cells as they are written.
    parts : of which columns: features, covariates, outcomes, time.  pattern : their names, None for all.
    """

    numbers: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    texts: tuple[str, ...] = ()
    parts: frozenset[str] = EVERYWHERE
    pattern: str | None = None

    def concern(self, part: Field, role: str) -> bool:
        """Whether they apply to a field of this role."""
        if self.pattern is None:
            return role in self.parts
        return any(fnmatchcase(name, self.pattern) for name in (part.name, *part.columns.values()))

    def among(self, values: np.ndarray) -> np.ndarray:
        """(R,) bool, for numbers (R,) float32 or float64."""
        found = np.isin(values, np.array(self.numbers, dtype=values.dtype)) if self.numbers else values != values
        found &= ~np.isnan(values)
        for least, most in self.spans:
            found |= (values >= least) & (values <= most)
        return found


# From 2^1023 on, a double of Stata is one of `.` and `.a` to `.z`; from 2^127 on, a float. Few digits may be written,
# and the largest float that is a number is a share of 6e-8 below.
_STATA = ((2.0**1023 * (1 - 1e-9), math.inf), (2.0**127 * (1 - 3e-8), 2.0**127 * (1 + 27 / 2048)))
_LETTERS = tuple(f".{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
_ANSWERS = frozenset((COVARIATE, OUTCOME))
_MEASURES = frozenset((FEATURE, COVARIATE, OUTCOME))
# SPSS's is the most negative double, which 16 digits write as minus infinity. In UK Biobank -1 and -818 mean "do not
# know" and "prefer not to answer" as -121 and -3 do; -7 (none of these) and -10 (less than one) are answers.
SETS: dict[str, Codes] = {
    "adni": Codes(numbers=(-4.0, -1.0), parts=_MEASURES),
    "spss": Codes(spans=((-math.inf, -1.797693e308),), texts=("#NULL!",)),
    "stata": Codes(spans=_STATA, texts=_LETTERS),
    "ukb": Codes(numbers=(-1.0, -3.0, -121.0, -818.0), parts=_ANSWERS),
}
_PAIR = "{column: code}, or 'column=code'"


def listed_codes(asked: object) -> tuple[Entry, ...]:
    """Codes as `read_cohort(missing=...)` takes them, one by one: numbers, texts, names of sets, `column=code`.

    Raises `InputError` for anything else.
    """
    if isinstance(asked, Mapping):
        return tuple(
            f"{name}={_written(code)}" for name, codes in asked.items() for code in listed_codes(codes) or (_no(codes),)
        )
    if isinstance(asked, str):
        return tuple(part.strip() for part in asked.split(",") if part.strip())
    if isinstance(asked, Iterable):
        return tuple(code for each in asked for code in _one(each))
    return (_number(asked),)


def _one(asked: object) -> tuple[Entry, ...]:
    if isinstance(asked, str):
        return (asked.strip(),) if asked.strip() else (_no(asked),)
    return listed_codes(asked) if isinstance(asked, Mapping) else (_number(asked),)


def _no(codes: object) -> Entry:
    raise InputError(f"missing={codes!r} names no code", mend=f"Give {_PAIR}")


def _number(asked: object) -> float:
    if isinstance(asked, (int, float, np.integer, np.floating)) and not isinstance(asked, bool) and asked == asked:
        return float(asked)
    raise InputError(
        f"missing={asked!r} is no code", mend=f"Give numbers, texts, {', '.join(SETS)}, {_PAIR}; [] for none"
    )


def _written(code: Entry) -> str:
    return code if isinstance(code, str) else f"{code:.17g}"


def read_codes(entries: Iterable[object]) -> list[tuple[str, Codes]]:
    """(as it was written, what it stands for) of each entry of `listed_codes`. Raises `InputError` for no code."""
    return [_read(entry if isinstance(entry, str) else _number(entry)) for entry in entries]


def _read(entry: Entry) -> tuple[str, Codes]:
    text = _written(entry).strip()
    name, equals, code = text.rpartition("=")
    if equals:
        if not name.strip() or not code.strip():
            raise InputError(f"missing={text!r} is no code", mend=f"Give {_PAIR}")
        found = _read(code)[1]
        return text, Codes(found.numbers, found.spans, found.texts, EVERYWHERE, name.strip())
    if text.lower() in SETS:
        return text.lower(), SETS[text.lower()]
    try:
        value = float(text)
    except ValueError:
        return text, Codes(texts=(text,))
    if math.isnan(value):
        return text, Codes(texts=(text,))
    written = {text, repr(value), *({str(int(value))} if value == value // 1 and abs(value) < 1e15 else ())}
    # A time of 0 is a first visit, and a covariate of 0 mostly a level.
    parts = frozenset((FEATURE,)) if value == 0 else EVERYWHERE
    return text, Codes((value,), (), tuple(sorted(written)), parts)


@dataclass
class Dropped:
    """Cells that were read as missing: by field, how many of each entry; entries that stand nowhere."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    nowhere: list[str] = field(default_factory=list)

    def notes(self, used: Iterable[str], asked: bool) -> list[str]:
        """Sentences. used : names of fields that the cohort has;  asked : whether codes were named for this table."""
        names = set(used)
        found = [
            f"{name} ({', '.join(f'{count} of {code}' for code, count in counts.items())})"
            for name, counts in self.counts.items()
            if name in names
        ]
        notes = [f"read as missing: {some(found)}"] if found else []
        if asked and self.nowhere:
            notes.append(f"codes for missing that stand nowhere: {some(self.nowhere)}")
        return notes


def drop_codes(sheet: Sheet, roles: Roles, entries: Sequence[Entry], asked: bool) -> Dropped:
    """Empty the cells of a sheet that hold a code, in features, covariates, outcomes and times.

    asked : whether the codes were named for this table; those of a model may be for columns that it lacks.
    Raises `InputError` for a code of a column that is not there.
    """
    dropped = Dropped()
    codes = read_codes(entries)
    parts = [(part, role) for role, fields in _fields(roles).items() for part in fields]
    for text, code in codes:
        concerned = [part for part, role in parts if code.concern(part, role)]
        if asked and code.pattern is not None and not concerned:
            raise InputError(
                f"missing={text!r} is for a column that is no feature, covariate, outcome or time",
                file=sheet.source.label,
                column=code.pattern,
                mend=f"These are: {some((part.name for part, _ in parts), 8)}",
            )
        # Each column once, though it may be a covariate and the time.
        columns = {column: part.name for part in concerned for column in part.columns.values()}
        counts = Counter[str]()
        for column, name in columns.items():
            counts[name] += _drop(sheet, column, code)
        for name in +counts:
            dropped.counts.setdefault(name, Counter())[text.rpartition("=")[2]] += counts[name]
        if not +counts:
            dropped.nowhere.append(text)
    return dropped


def _fields(roles: Roles) -> dict[str, list[Field]]:
    return {
        FEATURE: roles.features,
        COVARIATE: roles.static,
        OUTCOME: roles.outcomes,
        TIME: [roles.time] if roles.time is not None else [],
    }


def _drop(sheet: Sheet, name: str, code: Codes) -> int:
    """Empty the cells of a column that hold a code; returns how many."""
    column = sheet.columns[name]
    kind = column.type
    if is_text(kind):
        if pa.types.is_boolean(kind):
            return 0
        trimmed = pc.utf8_trim_whitespace(column)
        found = pc.fill_null(pc.is_in(trimmed, value_set=pa.array(code.texts, pa.string())), False).to_numpy()
        if sheet.numeric(name):
            found = found | code.among(pd.to_numeric(trimmed.to_pandas(), errors="coerce").to_numpy(dtype=float))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        wide = kind if pa.types.is_float32(kind) else pa.float64()
        found = code.among(pc.cast(column, wide, safe=False).to_numpy())
    else:
        return 0
    count = int(found.sum())
    if count:
        sheet.columns[name] = pc.if_else(pa.array(found), pa.scalar(None, kind), column)
    return count
