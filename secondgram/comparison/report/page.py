"""The page: a run's folder in, one HTML file out."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from ...files import look, writing
from . import background, by_feature, example_people, groups, quality, ranking, training
from .folder import RunFolder
from .html import Html, tag
from .tables import paragraph

FILE = "report.html"


def report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run as one HTML page that needs no network, and return its path.

    run : the folder that `compare(out=...)` or `secondgram demo --out` wrote.
    out : the file to write; None is report.html in that folder. The same run gives the same bytes.

    Raises `InputError` for a folder that is absent, half written, cut, changed or of another version, and for a file
    that cannot be written.
    """
    folder = Path(run)
    target = folder / FILE if out is None else Path(out)
    found = RunFolder.read(folder)
    look(target, streams=True)
    text = page(found)
    with writing(target) as file:
        file.write(text.encode())
    return target


def page(run: RunFolder) -> str:
    """The report as text."""
    evidence = run.evidence
    headline = by_feature.headline(evidence)
    sections = [
        by_feature.features(evidence),
        ranking.methods(evidence),
        quality.change(evidence),
        quality.calibration(evidence),
        quality.correlation(evidence),
        example_people.people(evidence),
        training.training(evidence),
        background.memory(evidence),
        groups.groups(evidence),
        background.values(evidence),
        background.provenance(evidence, run.about),
    ]
    source = evidence["provenance"]["source"]
    header = tag(
        "header",
        paragraph(f"secondgram report · {source}", kind="eyebrow"),
        tag("h1", headline),
        by_feature.lead(evidence),
        _contents(),
    )
    footer = tag(
        "footer", paragraph("Errors are in baseline SD unless said otherwise; intervals are 95 %, over people.")
    )
    body = tag("body", tag("div", header, tag("main", *sections), footer, class_="sheet"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{headline} secondgram report"),
        # An empty icon, so that a browser asks nobody for one.
        Html('<link rel="icon" href="data:,"/>'),
        tag("style", Html(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _contents() -> Html:
    entries = {
        "verdict": "Feature by feature", "methods": "Methods", "change": "Change", "calibration": "Calibration",
        "correlation": "Correlations", "people": "People", "training": "Training", "memory": "Copies",
        "groups": "Groups", "values": "Values", "provenance": "Provenance",
    }  # fmt: skip
    links = [tag("li", tag("a", text, href=f"#{name}")) for name, text in entries.items()]
    return tag("nav", tag("ul", links), aria_label="Contents")
