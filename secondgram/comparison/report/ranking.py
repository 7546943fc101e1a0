"""Methods ranked, by every metric there is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...evaluation.metrics import BETTER, Estimate
from . import labels
from .drawing import spanning, strip
from .html import Html, join, tag
from .shared import EvidenceContent, upper
from .tables import cell, folded, paragraph, row, section, table, value


class Scored(NamedTuple):
    """A method by one metric, and its difference to the reference method."""

    value: Estimate
    difference: Estimate


def methods(evidence: EvidenceContent) -> Html:
    """Section: methods in the order of CRPS and of RMSE, and every further metric."""
    scores = _by_metric(evidence["table"])
    metric = next((name for name in ("crps", "rmse") if name in scores), next(iter(scores)))
    order = _ranked(scores, metric)
    best = order[0]
    value_of = labels.interval(scores[metric][best].value)
    finding = f"{upper(labels.method(best))} comes first by {labels.heading(metric)}: {value_of}."
    apart = scores[metric][best].difference
    if apart.known:
        reference = next((name for name in order if not scores[metric][name].difference.known), "the reference")
        finding += f" Its difference to {reference} on the same people is {labels.difference(apart, '', 4)}."
    parts = [paragraph(finding, kind="finding")]
    first = [name for name in dict.fromkeys((metric, "rmse")) if name in scores]
    parts += [_ranking(evidence, scores[name], name, _ranked(scores, name)) for name in first]
    if evidence["absent"]:
        absent = "; ".join(f"{labels.method(name)} ({why})" for name, why in sorted(evidence["absent"].items()))
        parts.append(paragraph(f"Not in the tables: {absent}.", kind="soft"))
    others = [name for name in scores if name not in first]
    if others:
        parts.append(
            folded(
                f"{upper(labels.count(len(others), 'more metric'))}, every method",
                _further(evidence, scores, others, order),
            )
        )
    return section("methods", "Methods, ranked", *parts)


def _by_metric(content: dict[str, list[Any]]) -> dict[str, dict[str, Scored]]:
    """metric -> method -> its score; metrics that no method has are left out."""
    found: dict[str, dict[str, Scored]] = {}
    blank = [None] * len(content["method"])
    columns = [content.get(name, blank) for name in ("value", "low", "high")]
    apart = [content.get(name, blank) for name in ("difference", "difference_low", "difference_high")]
    for place, (name, metric) in enumerate(zip(content["method"], content["metric"], strict=True)):
        scored = Scored(*(Estimate.of([column[place] for column in each]) for each in (columns, apart)))
        if scored.value.known:
            found.setdefault(metric, {})[name] = scored
    return found


def _ranked(scores: dict[str, dict[str, Scored]], metric: str) -> list[str]:
    sign = -1.0 if BETTER.get(metric) == "higher" else 1.0
    return sorted(scores[metric], key=lambda name: sign * scores[metric][name].value.value)


def _ranking(evidence: EvidenceContent, scores: dict[str, Scored], metric: str, order: list[str]) -> Html:
    carried = evidence["roles"].get("carry")
    ends = _method_ends(scores, [carried] if carried in scores else [])
    meaning = evidence["meaning"].get(metric, metric)
    return table(
        f"{labels.heading(metric)}: {meaning}. The lower the better; 95 % intervals over people.",
        ["method", labels.heading(metric), "← better"],
        _method_rows(evidence, scores, metric, order, ends),
    )


def _method_ends(scores: dict[str, Scored], always: list[str]) -> tuple[float, float]:
    """Ends of a scale for the methods' values; what is far off most of them, and not in `always`, is left outside."""
    values = np.array([scored.value.value for scored in scores.values()])
    low, high = (float(v) for v in np.quantile(values, [0.1, 0.75]))
    space = 4.0 * (high - low) or np.inf
    near = [name for name, value in zip(scores, values, strict=True) if low - space <= value <= high + space]
    return spanning([v for name in {*near, *always} for v in scores[name].value if np.isfinite(v)], 0.05)


def _method_rows(
    evidence: EvidenceContent, scores: dict[str, Scored], metric: str, order: list[str], ends: tuple[float, float]
) -> list[Html]:
    rows = []
    for name in order:
        estimate = scores[name].value
        off = " →" if estimate.value > ends[1] else " ←" if estimate.value < ends[0] else ""
        text = labels.interval(estimate) + off
        mine = name == evidence["roles"]["ours"]
        drawing = strip(estimate, ends, f"{name}: {labels.heading(metric)} {text}", "ours" if mine else "other")
        cells = [cell(value(text)), cell(drawing, kind="plot")]
        rows.append(row(_named(name), *cells, kind="ours" if mine else None))
    return rows


def _named(name: str) -> Html:
    """A method as sentences name it, and beside it the name of the command line where that is another."""
    title = labels.method(name)
    return join(title, None if title == name else tag("span", f" {name}", class_="soft"))


def _further(
    evidence: EvidenceContent, scores: dict[str, dict[str, Scored]], metrics: list[str], order: list[str]
) -> Html:
    """One table, its rows by metric."""
    rows = {}
    for metric in metrics:
        names = [name for name in order if name in scores[metric]]
        names += [name for name in scores[metric] if name not in names]
        meaning = evidence["meaning"].get(metric)
        heading = labels.heading(metric) + (f": {meaning}" if meaning else "")
        rows[heading] = _method_rows(evidence, scores[metric], metric, names, _method_ends(scores[metric], []))
    return table("Further metrics, 95 % intervals over people", ["method", "value", "interval"], rows)
