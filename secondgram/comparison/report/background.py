"""Copies of training people, and where a run comes from."""

from __future__ import annotations

from typing import Any

from ...evaluation.memorisation import LIMIT
from . import labels
from .drawing import spanning, strip
from .html import Html, join, tag
from .shared import EvidenceContent
from .tables import cell, folded, paragraph, row, section, table, value


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
        ("Design", f"{design}; {_number(run, 'people')} people scored, {_number(run, 'draws')} draws each"),
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
