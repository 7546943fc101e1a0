"""Numbers as people write them: `61,2`, `1,480,211`, `1.480.211,5`, `1 480 211`, `1'480'211.5`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError, some
from .cells import Sheet, parsed, without_missing

DECIMALS = (".", ",")
# Whole thousands in groups of three; a mark before three digits alone may be either.
_GROUPS = r"[1-9][0-9]{0,2}(?:[%s][0-9]{3})+"
_POWER = r"(?:[eE][+-]?[0-9]+)?"
_BLANKS = " \u00a0\u202f\u2009'\u2019"
# How a number of each mark of decimals is written.
_WRITTEN = {
    mark: rf"^[+-]?(?:{_GROUPS % (other + _BLANKS)}|[0-9]+)?(?:\{mark}[0-9]*)?{_POWER}$"
    for mark, other in ((".", ","), (",", "."))
}
# A mark followed by other than three digits, or after groups of the other mark, or twice.
_PROOF = {
    mark: "|".join(
        rf"(?:^{pattern}$)"
        for pattern in (
            rf"[+-]?[0-9]*\{mark}(?:[0-9]{{0,2}}|[0-9]{{4,}}){_POWER}",
            rf"[+-]?(?:0[0-9]*|[0-9]{{4,}})?\{mark}[0-9]*{_POWER}",
            rf"[+-]?[0-9]+\{mark}[0-9]+[eE][+-]?[0-9]+",
            rf"[+-]?{_GROUPS % (other + _BLANKS)}\{mark}[0-9]*",
            rf"[+-]?[1-9][0-9]{{0,2}}(?:\{other}[0-9]{{3}}){{2,}}",
        )
    )
    for mark, other in ((".", ","), (",", "."))
}
_EITHER = {mark: rf"^[+-]?[1-9][0-9]{{0,2}}\{mark}[0-9]{{3}}$" for mark in DECIMALS}
# Rows that show whether a column of numbers with points is worth a second look.
_HEAD = 1000
_UNUSUAL = rf"[0-9][,{_BLANKS}][0-9]|[0-9]\.[0-9]{{3}}\.[0-9]|^[+-]?,[0-9]|[0-9],$"


@dataclass
class _Column:
    """A column of text that holds numbers.

    text : (R,) trimmed, null where missing.  proof : mark of decimals -> row of a cell that can be nothing else.
    either : mark -> row of a cell in which it may divide decimals or thousands.
    """

    text: pa.ChunkedArray
    proof: dict[str, int] = field(default_factory=dict)
    either: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Marks:
    """What is known of the mark of decimals before a cell is read.

    asked : the mark, None to find it out.  delimiter : of the file, None where it has none.
    comma : whether a table that is read alike had decimal commas.  alone : whether this one must be read as that one
    was, so that nothing is taken for granted.
    """

    asked: str | None = None
    delimiter: str | None = None
    comma: bool = False
    alone: bool = False

    def __post_init__(self) -> None:
        if self.asked is not None and self.asked not in DECIMALS:
            raise InputError(f"decimal={self.asked!r} is no mark of decimals", mend="Use '.' or ','")


def read_numbers(sheet: Sheet, columns: Iterable[str], known: Marks) -> tuple[list[str], bool]:
    """Make numbers of the cells of a sheet that are written with other marks than a decimal point.

    columns : those that may be numbers. Returns notes, and whether a column has decimal commas.

    Raises `InputError` for a column with both marks of decimals, and for one of which nothing in the file tells the
    mark.
    """
    columns = list(columns)
    texts = {name: _written(sheet.columns[name]) for name in columns if pa.types.is_string(sheet.columns[name].type)}
    found = {name: _look(text) for name, text in texts.items() if _holds_numbers(text, known.asked)}
    notes: list[str] = []
    marks = {"," for _ in range(known.comma)}
    if known.asked is None:
        for name, column in found.items():
            _check_marks(sheet, name, column)
            marks |= set(column.proof)
        if known.delimiter is not None:
            plain = [name for name in columns if name not in texts and pa.types.is_floating(sheet.columns[name].type)]
            proven, doubtful, beside = _points(sheet, plain, all_of_them=bool(found))
            marks |= {"." for _ in range(proven)}
            if "," in marks:
                found |= doubtful
            elif doubtful and "." not in marks:
                why = f"though no cell tells that points divide decimals in {some(doubtful)}"
                notes.append(_assumed(*next(iter(doubtful.items())), why))
            else:
                why = "though the column has whole hundreds without a point"
                notes += [_assumed(name, column, why) for name, column in beside.items()]
    chosen = {name: known.asked or _choice(sheet, name, column, marks, known, notes) for name, column in found.items()}
    for name, mark in chosen.items():
        _convert(sheet, name, found[name].text, mark, asked=known.asked is not None)
    return _notes_on(found, chosen) + notes, "," in chosen.values()


def _written(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return without_missing(pc.utf8_trim_whitespace(column))


def _holds_numbers(text: pa.ChunkedArray, decimal: str | None) -> bool:
    """Whether most cells are numbers, and some are written otherwise than with digits and one point."""
    if decimal != "," and not _any(text, _UNUSUAL):
        return False
    known = len(text) - text.null_count
    numbers = pc.or_(*(pc.match_substring_regex(text, _WRITTEN[mark]) for mark in DECIMALS))
    return known > 0 and (pc.sum(numbers).as_py() or 0) > 0.5 * known


def _any(text: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(text, pattern)).as_py())


def _look(text: pa.ChunkedArray) -> _Column:
    found = _Column(text)
    for rows, patterns in ((found.proof, _PROOF), (found.either, _EITHER)):
        for mark, pattern in patterns.items():
            place = pc.index(pc.fill_null(pc.match_substring_regex(text, pattern), False), pa.scalar(True)).as_py()
            if place >= 0:
                rows[mark] = place
    return found


def _check_marks(sheet: Sheet, name: str, column: _Column) -> None:
    if len(column.proof) < 2:
        return
    # The rarer one is more likely the slip.
    share = {mark: pc.sum(pc.match_substring_regex(column.text, _PROOF[mark])).as_py() for mark in DECIMALS}
    slip, usual = sorted(DECIMALS, key=lambda mark: (share[mark], mark == "."))
    row = column.proof[slip]
    other = sheet.source.place(int(sheet.records[column.proof[usual]]), name)[1]
    beside = column.text[column.proof[usual]].as_py()
    raise sheet.error(
        f"{column.text[row].as_py()!r} is no number beside {beside!r} of row {other}: their marks of decimals differ",
        "Write all numbers of the column in one way",
        name,
        [row],
    )


def _assumed(name: str, column: _Column, why: str) -> str:
    text = column.text[column.either["."]].as_py()
    return f"{name}: {text!r} is read as {float(text):g}, {why}; if not so, say decimal=','"


def _points(
    sheet: Sheet, names: Iterable[str], all_of_them: bool
) -> tuple[bool, dict[str, _Column], dict[str, _Column]]:
    """Look again at columns of a text file that were read as numbers with points.

    Returns whether one shows that points divide decimals; the columns in which each point may divide thousands, none
    where one shows it, unless `all_of_them` are asked for; and those of them that have whole hundreds, too.
    """
    proven, doubtful, mixed = False, [], []
    for name in names:
        values = sheet.columns[name].slice(0, _HEAD if proven and not all_of_them else None).to_numpy()
        values = np.abs(values[np.isfinite(values)])
        broken = values[values % 1 != 0]
        if not len(broken):
            continue
        thousands = broken * 1000
        if not ((broken > 1) & (broken < 1000) & (np.abs(thousands - np.round(thousands)) < 1e-6)).all():
            proven = True
            continue
        doubtful.append(name)
        if ((values % 1 == 0) & (values >= 100)).any():
            mixed.append(name)
    columns: dict[str, _Column] = {}
    for name in doubtful if all_of_them or not proven else mixed:
        column = _look(_written(sheet.source.read([name], [name])[name]))
        if "." in column.proof:
            proven = True
        elif "." in column.either:
            columns[name] = column
    beside = {name: columns[name] for name in mixed if name in columns}
    return proven, columns if all_of_them or not proven else {}, beside


def _choice(sheet: Sheet, name: str, column: _Column, marks: Collection[str], known: Marks, notes: list[str]) -> str:
    """The mark of decimals of a column."""
    if column.proof:
        return next(iter(column.proof))
    if not column.either:
        # Thousands in groups without a decimal.
        return "."
    if len(column.either) > 1:
        # `1,234` and `1.234`: one of them is a slip.
        mark = ","
    else:
        mark = next(iter(column.either))
        usual = known.delimiter == ";" and not known.alone
        if "." not in marks and mark == "," and ("," in marks or usual):
            text = column.text[column.either[mark]].as_py()
            why = "as in other columns" if "," in marks else "as is usual where ; stands between cells"
            notes.append(f"{name}: {text!r} is read as {text.replace(',', '.')}, {why}; if not so, say decimal='.'")
            return ","
        if "," not in marks and "." in marks:
            if mark == ",":
                text = column.text[column.either[mark]].as_py()
                why = "because points divide decimals elsewhere"
                notes.append(f"{name}: {text!r} is read as {text.replace(',', '')}, {why}; if not so, say decimal=','")
            return "."
        if mark == "." and len(set(marks)) > 1:
            return "."
    row = column.either[mark]
    text = column.text[row].as_py()
    raise sheet.error(
        f"{text!r} may be {text.replace(mark, '')} or {text.replace(mark, '.')}, and no other cell tells which",
        "Say the mark of decimals with decimal='.' or decimal=',' (--decimal), or write numbers without other marks",
        name,
        [row],
    )


def _convert(sheet: Sheet, name: str, text: pa.ChunkedArray, mark: str, asked: bool) -> None:
    valid = pc.match_substring_regex(text, _WRITTEN[mark])
    if asked:
        # Asked for by name, a number of the other kind is a fault and no text.
        other = pc.match_substring_regex(text, _WRITTEN["," if mark == "." else "."])
        wrong = pc.index(pc.fill_null(pc.and_(other, pc.invert(valid)), False), pa.scalar(True)).as_py()
        if wrong >= 0:
            raise sheet.error(
                f"{text[wrong].as_py()!r} is no number where {mark!r} is the mark of decimals",
                "Correct the cell, or leave out decimal= to have each column decided",
                name,
                [wrong],
            )
    plain = pc.replace_substring_regex(text, rf"[{',' if mark == '.' else '.'}{_BLANKS}]", "")
    plain = pc.if_else(valid, pc.replace_substring(plain, mark, "."), text)
    values, bad = parsed(plain)
    # With a cell of other text among them, they stay text: whoever uses the column names that cell.
    sheet.columns[name] = plain if bad is not None else pa.chunked_array([pa.array(values, from_pandas=True)])


def _notes_on(found: dict[str, _Column], chosen: dict[str, str]) -> list[str]:
    """Notes on the marks that were understood."""
    comma = [name for name, mark in chosen.items() if mark == "," and _any(found[name].text, "[0-9],|,[0-9]")]
    grouped = [
        name
        for name, mark in chosen.items()
        if _any(found[name].text, rf"[0-9][{',' if mark == '.' else '.'}{_BLANKS}][0-9]{{3}}")
    ]
    notes = [f"numbers with a decimal comma: {some(comma)}"] if comma else []
    return notes + ([f"numbers with marks between thousands: {some(grouped)}"] if grouped else [])
