"""Predicted change, calibration and correlations."""

from __future__ import annotations

import numpy as np

from . import figures, labels
from .drawing import strip
from .html import Html, join, tag
from .shared import GROUPS, EvidenceContent, ours, upper
from .tables import cell, figure, panel, paragraph, row, section, table, value


def change(evidence: EvidenceContent) -> Html:
    """Section: true against predicted change."""
    found = {name: each for name, each in evidence["change"].items() if each is not None}
    if not found:
        return section("change", "Predicted and true change", paragraph("No method that took part predicts a change."))
    panels = []
    for name, each in found.items():
        text = (
            f"{labels.method(name)}: slope {labels.interval(each['slope'], 2)}, r {labels.interval(each['r'], 2)}, "
            f"{each['cells']:,} pairs of a person and a feature"
        )
        panels.append(panel(labels.method(name), figures.scatter(each, f"True against predicted change of {text}.")))
    first = next(iter(found))
    slope, r = found[first]["slope"], found[first]["r"]
    calibrated = slope.low <= 1.0 <= slope.high
    judged = "as it should be" if calibrated else f"too {'timid' if slope.value > 1 else 'bold'} a prediction"
    finding = (
        f"A change of 1 that {labels.method(first)} predicts was a change of "
        f"{labels.interval(slope, 2)}, {judged}. "
        "Over all people and features predicted and true change correlate with "
        f"r{labels.SPACE}={labels.SPACE}{labels.interval(r, 2)}."
    )
    caption = (
        "How to read it: each cell is stronger the more people and features fall on it. Points are tenths of the "
        "predicted changes with the mean of the true ones and its 95 % interval; the full line is their "
        "regression, the broken one is where prediction and truth agree. True changes scatter more, because a "
        "second measurement has errors that nobody can predict."
    )
    keys = figures.legend({"ours": "regression of the truth", "reference": "prediction and truth agree"}, line=True)
    return section(
        "change", "Predicted and true change", paragraph(finding, kind="finding"),
        figure(caption, keys, tag("div", *panels, class_="panels")),
    )  # fmt: skip


def calibration(evidence: EvidenceContent) -> Html:
    """Section: intervals of every width, the place of the truth, and coverage by gap and age."""
    found, roles = evidence["calibration"], evidence["roles"]
    if roles["ours"] not in found:
        text = f"{upper(ours(evidence))} gives one value a person: there are no intervals to judge."
        return section("calibration", "Are the intervals honest?", paragraph(text))
    kinds = {name: "ours" if name == roles["ours"] else "peer" for name in found}
    mine = found[roles["ours"]]
    outer = min(range(len(mine["nominal"])), key=lambda place: abs(mine["nominal"][place] - 0.9))
    promised, held = mine["nominal"][outer], mine["share"][outer]
    side = "wider than they need be" if held.low > promised else "too narrow" if held.high < promised else "honest"
    finding = (
        f"Intervals that promise {labels.percent(promised)} hold {labels.shares(held)} of the true values: {side}. "
        f"Every person has {mine['draws']} draws."
    )
    summary = "; ".join(
        f"{name} holds {labels.shares(curve['share'][0])} where {labels.percent(curve['nominal'][0])} are promised"
        for name, curve in found.items()
    )
    curve = figures.calibration(found, kinds, f"Share of true values inside central intervals. {summary}.")
    keys = figures.legend({kinds[name]: labels.method(name) for name in found})
    panels = [panel("Intervals of every width", curve)]
    for name, bars in evidence["pit"].items():
        values = [bar.value for bar in bars if bar.known]
        label = (
            f"Place of the truth among the draws of {labels.method(name)}: density from "
            f"{labels.number(min(values), 2)} to {labels.number(max(values), 2)}, at the edges "
            f"{labels.number(bars[0].value, 2)} and {labels.number(bars[-1].value, 2)}; 1 throughout is perfect."
        )
        panels.append(panel(f"Place of the truth, {labels.method(name)}", figures.pit(bars, label, kinds[name])))
    caption = (
        "How to read it: on the left, a line above the broken diagonal means intervals that are wider than they "
        "promise, one below it intervals that are too narrow. In the histograms (the probability integral "
        "transform) even bars are perfect; high edges mean draws that vary too little, a hump in the middle draws "
        "that vary too much, a slope draws that lie too low or too high. Whiskers are 95 % intervals over people."
    )
    by_group = _coverage(evidence, promised)
    return section(
        "calibration", "Are the intervals honest?", paragraph(finding, kind="finding"),
        figure(caption, keys, tag("div", *panels, class_="panels first-tall")), by_group,
    )  # fmt: skip


def _coverage(evidence: EvidenceContent, promised: float) -> Html | None:
    rows_of = [group for group in evidence["groups"] if group["kind"] in ("gap", "age") and "coverage" in group]
    if not rows_of:
        return paragraph("Neither the years between visits nor age are known, so coverage is not told apart by them.")
    values = [v for group in rows_of for v in group["coverage"] if np.isfinite(v)] + [promised]
    ends = (min(values) - 0.01, min(max(values) + 0.01, 1.0))
    rows: dict[str, list[Html]] = {"gap": [], "age": []}
    for group in rows_of:
        inside = labels.shares(group["coverage"])
        label = f"{GROUPS[group['kind']]} {group['name']}: {inside} inside"
        cells = [
            cell(f"{group['people']:,}", "people", "number beside"),
            cell(value(inside), "inside"),
            cell(strip(group["coverage"], ends, label, "ours", promised), kind="plot"),
        ]
        rows[group["kind"]].append(row(group["name"], *cells))
    whole = table(
        f"Share of true values inside intervals that promise {labels.percent(promised)} (the broken line), by gap "
        "and age",
        ["group", "people", "inside", "too narrow | too wide"],
        {GROUPS[kind]: rows for kind, rows in rows.items() if rows},
    )
    return join(tag("h3", "By gap and age"), whole)


def correlation(evidence: EvidenceContent) -> Html:
    """Section: real and imputed correlations."""
    found = evidence["correlation"]
    parts = []
    for what, title in (("levels", "Follow-up visits"), ("changes", "Changes from baseline")):
        each = found[what]
        real, imputed = np.array(each["real"]), np.array(each["imputed"])
        trio = []
        for name, cells in (("real", real), ("imputed", imputed), ("difference", imputed - real)):
            label = f"{title}, correlations, {name}: {len(real)} by {len(real)} cells, mean {cells.mean() / 100:.2f}."
            if name == "difference":
                label = f"{title}, imputed minus real: distance {labels.number(each['distance'])}."
            trio.append(panel(upper(name), figures.matrix(cells, label)))
        ratio = None if not each["floor"] or each["distance"] is None else each["distance"] / each["floor"]
        summary = (
            f"{title}: imputed and real correlations differ by {labels.number(each['distance'])} on average; those of "
            f"two samples of real people by {labels.number(each['floor'])}"
            + (
                "."
                if ratio is None
                else f", so the distance is {labels.number(ratio, 1)} times what chance alone gives."
            )
        )
        parts += [tag("h3", title), paragraph(summary, kind="finding"), tag("div", *trio, class_="trio")]
    blocks = len(np.array(found["levels"]["real"]))
    caption = (
        "How to read it: a cell is the correlation of two features, blue where positive, orange where negative, "
        "stronger the further from zero; the rightmost picture is empty where nothing differs. One draw a person "
        "is compared, because means of draws vary too little. Chance is told by halves of the real people, "
        "drawn at random: visits as good as real ones reach it. Features stand in the order of a clustering of the "
        "real visits."
    )
    if blocks < found["features"]:
        caption += f" The {found['features']} features are averaged to {blocks} by {blocks} cells."
    return section(
        "correlation", "Do features hang together as they should?",
        figure(caption, *parts, figures.key(), kind="long"),
    )  # fmt: skip
