"""Layouts of tables: the feature and visit of each column, from its name, and the order of visits."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import InputError, MissingColumn

LAYOUTS = ("long", "wide", "ukb")
_UKB = [
    re.compile(pattern)
    for pattern in (
        r"(?:participant\.)?p(?P<field>\d+)_i(?P<visit>\d+)(?:_a(?P<array>\d+))?",
        r"(?:f\.|X)?(?P<field>\d+)[-.](?P<visit>\d+)\.(?P<array>\d+)",
        r"(?s:.*)_f(?P<field>\d+)_(?P<visit>\d+)_(?P<array>\d+)",
    )
]
# The same names without an instance; only read so once the table is known to be of this kind.
_UKB_LOOSE = [
    re.compile(r"(?:participant\.)?p(?P<field>\d+)(?:_a(?P<array>\d+))?(?P<visit>)"),
    re.compile(r"(?P<field>.+)_(?P<visit>\d)(?P<array>)", re.S),
]
_SUFFIX = re.compile(
    r"(?P<base>.+?)(?P<style>[_.\-](?:ses[_\-]?|visit[_\-]?|wave[_\-]?|time|tp|fu|[vtwmy])?)(?P<number>\d+)",
    re.I | re.S,
)
_WORD = re.compile(r"(?P<base>.+)[_.\-](?P<label>bl|baseline|fu|followup|follow_up|pre|post)", re.I | re.S)


@dataclass(frozen=True)
class Field:
    """One quantity: the column it has at each visit. The visit None means the name says none."""

    name: str
    columns: dict[str | None, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fields:
    """Every quantity of a table.

    fields : by name, in the order of the table.
    home : column -> (field, visit).
    """

    layout: str
    fields: dict[str, Field]
    home: dict[str, tuple[str, str | None]]
    label: str | None

    def find(self, name: str, role: str) -> Field:
        """The field of this name, or the one column of this name. Raises `InputError` with the closest name."""
        if name in self.fields:
            return self.fields[name]
        if name in self.home:
            return Field(name, {self.home[name][1]: name})
        if f"{name}.0" in self.fields:
            return self.fields[f"{name}.0"]
        close = difflib.get_close_matches(name, [*self.fields, *self.home], n=1, cutoff=0.6)
        hint = f"Did you mean {close[0]!r}?" if close else "Check the spelling, capitals included"
        raise MissingColumn(f"there is no such column (named as {role})", file=self.label, column=name, mend=hint)


def plain_name(name: str) -> str:
    """Lower case, with `_` for every other mark: how names are compared with known ones."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def looks_ukb(names: Iterable[str]) -> bool:
    """Whether any column has a UK Biobank name with an instance."""
    return any(pattern.fullmatch(name) for name in names for pattern in _UKB)


def read_names(
    layout: str, names: Sequence[str], kept: Collection[str], label: str | None, pattern: str | None = None
) -> Fields:
    """Sort columns into fields. Columns in `kept` stay as they are: the person named them in full.

    pattern : of wide names, such as `{feature}_{visit}`, None to find it out.
    """
    free = [name for name in names if name not in kept]
    if pattern is not None and layout == "wide":
        found = _by_pattern(free, pattern, label)
    else:
        found = {"long": lambda _: {}, "wide": _wide, "ukb": _ukb}[layout](free)
    fields: dict[str, Field] = {}
    home: dict[str, tuple[str, str | None]] = {}
    for column in names:
        base, visit = found.get(column, (column, None))
        if base != column and base in kept:
            base, visit = column, None
        columns = fields.setdefault(base, Field(base)).columns
        if visit in columns:
            raise InputError(
                f"columns {columns[visit]!r} and {column!r} are both {base!r} at visit {visit}",
                file=label,
                mend="Leave one of them out",
            )
        columns[visit] = column
        home[column] = (base, visit)
    return Fields(layout, fields, home, label)


def looks_wide(names: Sequence[str]) -> bool:
    """Whether names repeat with a few visit suffixes; numbered names (`x_01` .. `x_93`) are not visits.

    One or two such names beside many without a visit (MRIQC's `qi_1` and `qi_2`) are none either.
    """
    found = _wide(names).values()
    repeated = Counter(base for base, _ in found)
    visits = {visit for _, visit in found}
    several = sum(count > 1 for count in repeated.values())
    if several < 3 and 4 * len(found) < len(names):
        return False
    return 2 <= len(visits) <= max(4, several)


def _ukb(names: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    parts = {}
    for name in names:
        match = next(filter(None, (pattern.fullmatch(name) for pattern in [*_UKB, *_UKB_LOOSE])), None)
        if match:
            parts[name] = (match["field"], match["visit"] or None, match["array"] or "0")
    arrays = defaultdict(set)
    for base, _, array in parts.values():
        arrays[base].add(array)
    return {
        name: (base if len(arrays[base]) == 1 else f"{base}.{array}", visit)
        for name, (base, visit, array) in parts.items()
    }


def _wide(names: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    # The style of suffix (`_2`, `.0`, `_v1`, `_bl`) with most repeated names wins; the others are part of names.
    styles: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for name in names:
        match = _SUFFIX.fullmatch(name)
        word = _WORD.fullmatch(name)
        if word:
            styles["word"][name] = (word["base"], word["label"])
        elif match:
            styles[match["style"].lower()][name] = (match["base"], match["style"][1:] + match["number"])
    words = styles.pop("word", {})
    best = max([words, *({**words, **parts} for parts in styles.values())], key=_repeated)
    return _without_odd_visits(best) if _repeated(best) else {}


def _by_pattern(names: Sequence[str], pattern: str, label: str | None) -> dict[str, tuple[str, str | None]]:
    """Feature and visit of the names that fit a pattern such as `{feature}_{visit}` or `V{visit}.{feature}`."""
    pieces = re.split(r"(\{feature\}|\{visit\})", pattern)
    if sorted(pieces[1::2]) != ["{feature}", "{visit}"]:
        raise InputError(f"wide={pattern!r} is no pattern of names", mend="Write it as '{feature}_{visit}'")
    made = []
    for place, piece in enumerate(pieces):
        marks = {pieces[place - 1][-1:], pieces[place + 1][:1]} - {""} if place % 2 else set()
        # A visit goes up to the mark beside it.
        other = f"[^{re.escape(''.join(sorted(marks)))}]" if marks else "."
        made.append({"{feature}": "(?P<feature>.+)", "{visit}": f"(?P<visit>{other}+)"}.get(piece, re.escape(piece)))
    form = re.compile("".join(made), re.S)
    matches = {name: match for name in names if (match := form.fullmatch(name))}
    if not matches:
        raise InputError(
            f"no name of a column fits wide={pattern!r}", file=label, mend=f"Columns are: {', '.join(list(names)[:8])}"
        )
    return _without_odd_visits({name: (match["feature"], match["visit"]) for name, match in matches.items()})


def _repeated(parts: dict[str, tuple[str, str]]) -> int:
    return sum(count > 1 for count in Counter(base for base, _ in parts.values()).values())


def _without_odd_visits(parts: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str | None]]:
    # `prs_1` beside hundreds of `..._2` and `..._3` is no visit 1.
    repeated = Counter(base for base, _ in parts.values())
    count = Counter(visit for base, visit in parts.values() if repeated[base] > 1)
    usual = {visit for visit, times in count.items() if 4 * times >= max(count.values())}
    return {name: (base, visit) for name, (base, visit) in parts.items() if visit in usual}
