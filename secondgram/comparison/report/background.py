"""Copies of training people, values that cannot be right, and where a run comes from."""

from __future__ import annotations

from typing import Any

from ...evaluation.memorisation import LIMIT
from . import labels
from .drawing import spanning, strip
from .html import Html, join, tag
from .shared import EvidenceContent, judged
from .tables import breakable, cell, folded, paragraph, row, section, table, value

# Rows of the table of values.
MOST_VALUES = 40
# Of covariates and outcomes, whose values of one person stay out of a report.
OTHERWISE = {
    "code": "a code for missing stands there",
    "system": "a program's mark of an empty cell stands there",
    "units": "some values are in another unit",
    "far": "a value stands far off alone",
    "outside": "values are far outside of those trained on",
}


def memory(evidence: EvidenceContent) -> Html:
    """Section: the check for copies."""
    found = {name: each for name, each in evidence["memory"].items() if each is not None}
    title = "Are draws copies of training people?"
    mine = found.get(evidence["roles"]["ours"])
    if mine is None:
        text = "This could not be checked: too few people have complete visits, or every person has one value only."
        return section("memory", title, paragraph(text))
    passes = mine["copies"].low <= LIMIT
    finding = (
        f"{'No sign of it' if passes else 'There are signs of it'}: the share of draws that are clearly nearer to "
        "one training person than to anybody held out, less the share of the opposite, is "
        f"{labels.shares(mine['copies'], 2)}; above {labels.percent(LIMIT, 0)} the check fails."
    )
    rows: dict[str, list[Html]] = {}
    for key, what, at in (("copies", "Copies", LIMIT), ("nearer", "Nearer to a training person", 0.5)):
        values = [v for each in found.values() for v in each[key]] + [at]
        ends = spanning(values, 0.1)
        for name, each in found.items():
            kind = "ours" if name == evidence["roles"]["ours"] else "other"
            text = labels.shares(each[key], 2 if key == "copies" else 1)
            rows.setdefault(what, []).append(
                row(
                    labels.method(name),
                    cell(value(text)),
                    cell(strip(each[key], ends, f"{labels.method(name)}, {what}: {text}", kind, at), kind="plot"),
                )
            )
    caption = (
        "Copies: the broken line is the limit. Nearer: the broken line is one half, where training people left no "
        "trace; any model whose covariance was learned from few people lies above it, so read it beside ridge "
        "with Gaussian draws"
    )
    return section(
        "memory", title, paragraph(finding, kind="finding"),
        table(f"{caption}. {mine['people']:,} people checked.", ["method", "share", "95 % interval over people"], rows),
    )  # fmt: skip


def values(evidence: EvidenceContent) -> Html:
    """Section: what the checks of values found."""
    found = evidence["values"]
    title = "Can the values be right?"
    if not found:
        text = "Nothing in them looks like a code for missing, a slip of a decimal point or another unit."
        return section("values", title, paragraph(text, kind="finding"))
    cells = sum(each["cells"] for each in found)
    columns = len({each["column"] for each in found})
    finding = (
        f"{labels.count(cells, 'cell')} in {labels.count(columns, 'column')} may be no measurements, and the methods "
        "were fitted and judged with them as they are."
    )
    rows = [
        row(
            breakable(each["column"]),
            cell(f"{each['cells']:,}", "cells"),
            cell(each.get("problem", OTHERWISE[each["kind"]]), "looks as if", kind="words"),
            cell("refused" if each["refused"] else "a warning", "by default", kind="words"),
        )
        for each in found[:MOST_VALUES]
    ]
    left = len(found) - len(rows)
    caption = "By column, what was found first" + (f"; {left:,} more are not shown" if left else "")
    return section(
        "values", title, paragraph(finding, kind="finding"),
        table(caption, ["column", "cells", "looks as if", "by default"], rows),
    )  # fmt: skip


def _number(run: dict[str, Any], key: str) -> str:
    return f"{run[key]:,}" if key in run else labels.DASH


def provenance(evidence: EvidenceContent, about: dict[str, Any]) -> Html:
    """Section: command, data, design, seed, backends and versions."""
    origin, run = evidence["provenance"], evidence["run"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    folds = run.get("folds")
    design = (
        "a quarter of the people held out once" if folds in (None, 1) else f"{folds} folds of whole people"
        + (f", {run['repeats']} times" if run.get("repeats", 1) != 1 else "")
    )  # fmt: skip
    entries = [
        ("Command", tag("code", about.get("command") or origin["command"])),
        (
            "Data",
            f"{origin['source']}: {origin['people']:,} people, {origin['width']:,} features, "
            f"{_number(run, 'pairs')} pairs",
        ),
        ("Data, SHA-256", tag("code", origin["data"])),
        ("Design", f"{design}; {judged(run)} scored, {_number(run, 'draws')} draws each"),
        ("Seed", _number(run, "seed")),
        ("Methods", ", ".join(dict.fromkeys(evidence["table"]["method"]))),
        ("Backends", ", ".join(f"{name}: {backend}" for name, backend in origin["backends"].items())),
        ("Versions", versions),
        ("Formats", f"run {about['run_version']}"),
    ]
    notes = tag("ul", [tag("li", note) for note in origin["notes"]], class_="soft")
    return section(
        "provenance", "Where this comes from",
        tag("dl", [join(tag("dt", name), tag("dd", content)) for name, content in entries]),
        folded("What reading the data decided", notes) if origin["notes"] else None,
    )  # fmt: skip
