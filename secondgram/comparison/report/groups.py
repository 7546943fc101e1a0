"""Groups of people: by gap, age, sex and site."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...evaluation.metrics import win_tie_loss
from ..findings import FEWEST_PEOPLE, POOLED
from . import labels
from .drawing import strip
from .html import Html
from .shared import FIRST, GROUPS, EvidenceContent, ours, strip_ends
from .tables import cell, folded, paragraph, row, section, table, value


def groups(evidence: EvidenceContent) -> Html:
    """Section: the verdict within groups of people."""
    found = evidence["groups"]
    roles = evidence["roles"]
    title = "Is it as good for everyone?"
    if not found:
        text = "Neither gap, age, sex nor site is known for enough people to tell groups apart."
        return section("groups", title, paragraph(text))
    keys = [key for key in ("ours_carry", "ours_ridge") if any(key in group for group in found)]
    names = {
        "ours_carry": "error against carry-forward",
        "ours_ridge": f"CRPS against {roles.get('ridge')}",
    }
    counts = Counter(win_tie_loss(group[key]) for group in found for key in keys if key in group)
    finding = (
        f"Of {labels.count(sum(counts.values()), 'comparison')} in {labels.count(len(found), 'group')}, "
        f"{ours(evidence)} is better in {counts['better']}, ties in {counts['tie']} and loses in {counts['worse']}."
        if keys
        else "No simple method took part that groups could be compared with."
    )
    ends = {key: strip_ends([group[key] for group in found if key in group]) for key in keys}
    headings = ["group", "people"]
    for key in keys:
        headings += [names[key], "← better"]
    if any("coverage" in group for group in found):
        headings.append("inside 90 %")
    caption = "Differences with 95 % intervals over people, and the share of true values inside 90 % intervals"
    visible: dict[str, list[Html]] = {}
    hidden = []
    for kind, heading in GROUPS.items():
        mine = [group for group in found if group["kind"] == kind]
        rows = [_group_row(heading, group, {key: (names[key], ends[key]) for key in keys}) for group in mine]
        if len(rows) > 2 * FIRST:
            # A long list is folded, but groups in which a loss occurs are always shown.
            whole = table(caption, headings, {heading: rows})
            hidden.append(folded(f"{heading}: {labels.count(len(rows), 'group')}", whole))
            heading = f"{heading}: where it loses"
            lost = [any(win_tie_loss(group[key]) == "worse" for key in keys) for group in mine]
            rows = [each for each, bad in zip(rows, lost, strict=True) if bad]
        if rows:
            visible[heading] = rows
    note = (
        f"Groups of fewer than {FEWEST_PEOPLE} people are put together as “{POOLED}”, and left out where even "
        "these are fewer. Full circles are better, hollow ones tie, squares are worse."
    )
    return section("groups", title, paragraph(finding, kind="finding"), paragraph(note, kind="soft"),
        table(caption, headings, visible) if visible else None, *hidden,
    )  # fmt: skip


def _group_row(heading: str, group: dict[str, Any], keys: dict[str, tuple[str, tuple[float, float]]]) -> Html:
    cells = [cell(f"{group['people']:,}", "people", "number beside")]
    for key, (name, ends) in keys.items():
        estimate, text = group[key], labels.difference(group[key])
        label = f"{heading}, {group['name']}: {name} {text}, {win_tie_loss(estimate)}"
        cells.append(cell(value(text), name))
        cells.append(cell(strip(estimate, ends, label, win_tie_loss(estimate), at=0.0), kind="plot"))
    if "coverage" in group:
        cells.append(cell(labels.percent(group["coverage"].value), "90 % intervals hold"))
    return row(group["name"], *cells)
