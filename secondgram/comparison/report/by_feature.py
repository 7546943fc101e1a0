"""The verdict: feature by feature, against carry-forward and against ridge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...evaluation.metrics import Estimate, win_tie_loss
from ..hidden_visits import TASKS
from . import figures, labels
from .drawing import strip
from .html import Html, join, tag
from .shared import FIRST, KINDS, EvidenceContent, judged, ours, strip_ends, upper
from .tables import breakable, cell, figure, folded, paragraph, row, section, table, value

# Rows shown: more losses than wins.
SHOWN = {"better": FIRST, "tie": FIRST, "worse": 3 * FIRST}
# The share of 95 % intervals that leave zero out where nothing differs.
CHANCE = 0.05


def tallied(estimates: Sequence[Estimate]) -> dict[str, int]:
    """How many are better, tie and worse."""
    counts = Counter(win_tie_loss(estimate) for estimate in estimates)
    return {kind: counts[kind] for kind in KINDS}


def headline(evidence: EvidenceContent) -> str:
    """The verdict in one sentence, for the page's title and its first heading."""
    features, roles = evidence["features"], evidence["roles"]
    for key, other in (("ours_carry", roles.get("carry")), ("ours_ridge", roles.get("ridge"))):
        if key in features:
            counts, total = tallied(features[key]), len(features["name"])
            return (
                f"{upper(ours(evidence))} is better than {other} on {labels.amount(counts['better'])} of "
                f"{labels.count(total, 'feature')}; ties on {labels.amount(counts['tie'])}; loses on "
                f"{labels.amount(counts['worse'])}."
            )
    return f"{upper(ours(evidence))}: nothing simple took part that it could be compared with."


def lead(evidence: EvidenceContent) -> Html:
    """What else the first screen says: ridge, what to use, and who was judged."""
    features, roles = evidence["features"], evidence["roles"]
    parts = []
    if "ours_carry" in features and "ours_ridge" in features:
        counts = tallied(features["ours_ridge"])
        parts.append(
            f"Against {roles['ridge']}, whole distributions compared, it is better on "
            f"{labels.amount(counts['better'])}, ties on {labels.amount(counts['tie'])} and loses on "
            f"{labels.amount(counts['worse'])}."
        )
    uses = Counter(features["use"])
    phrases = [f"{labels.method(roles[role])} for {many}" for role, many in uses.most_common()]
    parts.append(f"The simplest method that nothing clearly beats: {labels.listed(phrases)}.")
    run = evidence["run"]
    parts.append(
        f"Judged on {judged(run)} of people held out whole: nothing that was fitted had seen them."
        if "task" in run
        else f"Judged on {judged(run)} held out whole: nothing that was fitted had seen them."
    )
    if "task" in run:
        parts.append(
            f"Hidden is {TASKS[run['task']]}. What is called baseline or carried forward below is the nearest visit "
            "that is shown."
        )
    return paragraph(" ".join(parts), kind="lead")


def features(evidence: EvidenceContent) -> Html:
    """Section: what is won, tied and lost, and the table of all features."""
    features, roles = evidence["features"], evidence["roles"]
    parts = []
    if "ours_carry" in features:
        what = (
            "Fall or rise of the root mean squared error of its point prediction against the baseline carried forward."
        )
        parts += _against(evidence, "ours_carry", roles["carry"], "error against carry-forward (%)", what)
    if "ours_ridge" in features:
        what = (
            "Fall or rise of the CRPS of its draws, an error that counts sharpness and honesty alike, against the "
            f"draws of {roles['ridge']}."
        )
        parts += _against(evidence, "ours_ridge", roles["ridge"], "CRPS against ridge (%)", what)
    total = len(features["name"])
    note = (
        "Better and worse mean that a 95 % interval over people leaves zero out; everything else is a tie. If no "
        f"feature differed at all, about {max(round(CHANCE * total), 1)} of {total} would still seem to. “Use” "
        "names the simplest method that nothing clearly beats: carry-forward unless a prediction has clearly less "
        f"error, and ridge unless the draws of {ours(evidence)} clearly have a lower CRPS."
    )
    whole = folded(f"All {labels.count(total, 'feature')}", paragraph(note, kind="soft"), _feature_table(evidence))
    return section("verdict", "Feature by feature", *parts, whole)


def _against(evidence: EvidenceContent, key: str, other: str, y_label: str, what: str) -> list[Html]:
    estimates, names = evidence["features"][key], evidence["features"]["name"]
    counts, total = tallied(estimates), len(names)
    summary = f"better on {counts['better']}, tie on {counts['tie']}, worse on {counts['worse']} of {total} features"
    columns = []
    for kind, title in KINDS.items():
        found = [(name, each) for name, each in zip(names, estimates, strict=True) if win_tie_loss(each) == kind]
        # The clearest first; ties by how near they are to one side.
        found.sort(key=lambda each: -abs(each[1].value) if each[1].known else 0.0)
        first = SHOWN[kind]
        items = [tag("li", breakable(name), tag("small", labels.difference(each))) for name, each in found[:first]]
        if len(found) > first:
            items.append(tag("li", f"and {len(found) - first:,} more, in the table below", class_="soft"))
        body = tag("ul", *items) if items else paragraph("None.", kind="soft")
        heading = tag("h4", tag("span", str(counts[kind]), class_="many"), " ", title)
        columns.append(tag("div", heading, body, class_=f"outcome {kind}"))
    value_range = [each.value for each in estimates if each.known]
    spread = (
        f" Differences go from {labels.signed(min(value_range))} to {labels.signed(max(value_range))} %."
        if value_range
        else ""
    )
    return [
        tag("h3", f"Against {labels.method(other)}"),
        figures.tally(counts, f"Against {other}: {summary}."),
        paragraph(what, kind="soft"),
        tag("div", *columns, class_="outcomes"),
        figure(
            "How to read it: one line a feature, in the order of its difference, with a 95 % interval over "
            "people. Below zero is less error. Full circles are better, hollow ones tie, squares are worse.",
            figures.caterpillar(estimates, f"Difference to {other} per feature: {summary}.{spread}", y_label),
        ),
    ]


def _feature_table(evidence: EvidenceContent) -> Html:
    features, roles = evidence["features"], evidence["roles"]
    keys = [
        (key, f"against {label}")
        for key, label in (("ours_carry", "carry-forward, RMSE"), ("ours_ridge", "ridge, CRPS"))
        if key in features
    ]
    ends = {key: strip_ends(features[key]) for key, _ in keys}
    rows = []
    for place, name in enumerate(features["name"]):
        use = roles[features["use"][place]]
        cells = [cell(labels.method(use), "use", "words")]
        for key, label in keys:
            estimate = features[key][place]
            kind, text = win_tie_loss(estimate), labels.difference(estimate)
            cells.append(cell(join(value(text), " ", tag("span", KINDS[kind].lower(), class_="soft")), label))
            cells.append(cell(strip(estimate, ends[key], f"{name} {label}: {text}, {kind}", kind, at=0.0), kind="plot"))
        rows.append(row(breakable(name), *cells))
    headings = ["feature", "use"]
    for _, label in keys:
        headings += [label, "← better"]
    return table("Every feature: what to use, and differences with 95 % intervals", headings, rows)
