"""Findings: values of a table that may not be what was measured, each with its place and the mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

ACCEPT = "to go on with the values as they are, --checks warn (checks='warn')"
# Refuse what cannot be right; warn of it and go on; list it, and read as missing what cannot be computed with.
CHECKS = (REFUSE, WARN, LIST) = ("refuse", "warn", "list")
# The beginning of a note on a finding.
LOOK = "look at "


@dataclass(frozen=True)
class Finding:
    """A value, or several alike, of one column.

    kind : code, system, far, units or outside, see docs/cohorts.md#values-that-cannot-be-right.
    column : of the file where it is known, else the feature.  value : the first one.  cells : how many.
    problem : one sentence about it.  mend : what to do.  refused : whether nothing is learned or imputed until then.
    subject, visit, row : place of the first one; the row as in `InputError`, None where it is not known.
    code : what `missing=` would be told, None for what is no code.
    """

    kind: str
    column: str
    value: float
    cells: int
    problem: str
    mend: str
    refused: bool
    subject: str | None = None
    visit: str | None = None
    row: int | None = None
    code: str | None = None

    @property
    def place(self) -> str:
        """Row, or subject and visit, as far as they are known."""
        words = (("row", self.row), ("subject", self.subject), ("visit", self.visit))
        return ", ".join(f"{word} {value}" for word, value in words if value is not None)

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return f"column {self.column!r}{place}: {self.problem}. {self.mend}"

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def refuse(findings: Iterable[Finding], file: str | None) -> None:
    """Raise `InputError` for the first finding that is refused, with a mend for all of these."""
    refused = [finding for finding in findings if finding.refused]
    if not refused:
        return
    first = refused[0]
    codes = list(dict.fromkeys(finding.code for finding in refused if finding.code is not None))
    others = list(dict.fromkeys(finding.column for finding in refused if finding.column != first.column))
    also = (
        f" (also column {', '.join(map(repr, others[:5]))}{' and more' if len(others) > 5 else ''})" if others else ""
    )
    mend = f"{first.mend}; {ACCEPT}"
    if codes:
        mend = f"Where they stand for missing, --missing {','.join(codes)} (missing={codes!r}); {ACCEPT}"
    who = ", ".join(f"{word} {value}" for word, value in (("subject", first.subject), ("visit", first.visit)) if value)
    problem = f"{first.problem}{f', first of {who}' if who and first.cells > 1 else f', of {who}' if who else ''}{also}"
    raise InputError(problem, file=file, column=first.column, row=first.row, mend=mend)


def sentences(findings: Sequence[Finding], limit: int = 10) -> list[str]:
    """Notes on findings, the first few and how many more there are."""
    notes = [f"{LOOK}{finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        notes.append(f"{LOOK}{len(findings) - limit} more such values: secondgram check lists them")
    return notes


def show_findings(findings: Sequence[Finding], file: str) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not findings:
        console.print(f"{file}: nothing was found", markup=False)
        return
    caption = "refused: a fit stops there; the others are used as they are"
    lines = Table(title=escape(f"{file}: values to look at"), caption=caption)
    for name in ("column", "first at", "cells", "value", "what it may be", "refused"):
        lines.add_column(name, justify="right" if name in ("cells", "value") else "left", overflow="fold")
    for finding in findings:
        cells = (finding.column, finding.place, f"{finding.cells}", f"{finding.value:.10g}", finding.problem)
        lines.add_row(*map(escape, cells), "yes" if finding.refused else "no")
    console.print(lines)
    codes = ",".join(dict.fromkeys(finding.code for finding in findings if finding.code is not None))
    mends = [f"Where all of these codes stand for missing: --missing {codes}"] if codes else []
    mends += [f"{finding.column}: {finding.mend}" for finding in findings if finding.code is None]
    mends += [f"Where values are right as they are: {ACCEPT.rpartition(', ')[2]}"] if codes else []
    for mend in mends:
        console.print(mend, markup=False, highlight=False, soft_wrap=True)
