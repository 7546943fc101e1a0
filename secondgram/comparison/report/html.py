"""HTML and SVG as nested calls; text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any, TypeAlias

VOID = frozenset({"meta", "br", "hr", "line", "circle", "rect", "path", "image", "polyline", "polygon", "wbr"})


class Html(str):
    """Text that is HTML already."""


Child: TypeAlias = "str | int | float | Iterable[Child] | None"


def tag(_name: str, *children: Child, **attributes: Any) -> Html:
    """One element. Of attributes a final underscore goes (`class_`), others become hyphens; None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if _name in VOID:
        return Html(f"<{_name}{written}/>")
    return Html(f"<{_name}{written}>{join(*children)}</{_name}>")


def join(*children: Child) -> Html:
    """Children one after the other, escaped where they are plain text."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, (str, int, float)):
            parts.append(escape(_text(child), quote=False))
        else:
            parts.append(str(join(*child)))
    return Html("".join(parts))


def _text(value: object) -> str:
    # Two decimals of a pixel are more than enough, and the same everywhere.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
