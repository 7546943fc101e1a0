"""Tables and the other blocks that sections are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .html import Child, Html, join, tag


def breakable(name: str) -> Html:
    """A name that may be broken behind its joints, so that long ones fit a phone."""
    return join([[part, tag("wbr")] for part in re.findall(r"[^_./-]*[_./-]+|[^_./-]+", name)])


def section(name: str, title: str, *children: Child) -> Html:
    return tag("section", tag("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title")


def paragraph(*children: Child, kind: str | None = None) -> Html:
    return tag("p", *children, class_=kind)


def figure(caption: str, *children: Child, kind: str | None = None) -> Html:
    """`long` for what may be broken over printed pages."""
    return tag("figure", *children, tag("figcaption", caption), class_=kind)


def panel(title: str, *children: Child) -> Html:
    return tag("div", paragraph(title, kind="panel-title"), *children)


def folded(summary: str, *children: Child) -> Html:
    return tag("details", tag("summary", summary), *children)


def row(head: Child, *cells: Child, kind: str | None = None) -> Html:
    """A row; the first child is its heading. Its cells are `cell`s."""
    return tag("tr", tag("th", head, scope="row", role="rowheader"), *cells, class_=kind, role="row")


def cell(content: Child, label: str | None = None, kind: str = "number") -> Html:
    """A cell: `number`, `plot`, `words`, or `beside`, which stays beside the row's heading on a narrow screen.

    There cells stand below each other, each behind its `label`.
    """
    return tag("td", content, class_=kind, data_label=label, role="cell")


def value(text: str) -> Html:
    """ "0.203 (0.190 to 0.216)" with its interval in small type."""
    head, bracket, rest = text.partition(" (")
    return join(head, " ", tag("small", f"({rest}")) if bracket else join(text)


def table(caption: str, headings: Sequence[str], rows: Sequence[Html] | Mapping[str, Sequence[Html]]) -> Html:
    """A table, its rows under headings of their own where they come as a mapping.

    On a narrow screen the cells of a row stand below each other.
    """
    # Roles are told again, because cells that are laid out as blocks lose them.
    head = tag("tr", [tag("th", text, scope="col", role="columnheader") for text in headings], role="row")
    groups = rows if isinstance(rows, Mapping) else {"": rows}
    bodies = [
        tag("tbody", _group_heading(name, len(headings)) if name else None, *each, role="rowgroup")
        for name, each in groups.items()
    ]
    return tag("table", tag("caption", caption), tag("thead", head, role="rowgroup"), *bodies, role="table")


def _group_heading(name: str, columns: int) -> Html:
    head = tag("th", name, scope="rowgroup", colspan=columns, role="rowheader")
    return tag("tr", head, class_="group", role="row")
