"""What was learned: rungs and training curves."""

from __future__ import annotations

import math
from typing import Any

from ...evaluation.metrics import UNKNOWN, Estimate, win_tie_loss
from . import figures, labels
from .drawing import spanning, strip
from .html import Html, tag
from .shared import EvidenceContent
from .tables import cell, figure, folded, panel, paragraph, row, section, table, value


def training(evidence: EvidenceContent) -> Html:
    """Section: what each rung earned, and how networks were trained."""
    title, parts = "What was learned", []
    for name, record in evidence["training"].items():
        parts += _rungs(record) if "ladder" in record else []
        if record["networks"]:
            parts += _networks(name, record)
        elif record.get("reason"):
            reason = labels.typeset(record["reason"])
            parts.append(paragraph(f"{labels.method(name)}: no network was trained ({reason})."))
    if not parts:
        parts = [paragraph("No method that took part trains a network, or none kept its history.")]
    return section("training", title, *parts)


def _rungs(record: dict[str, Any]) -> list[Html]:
    ladder, rows = record["ladder"], []
    gains = [Estimate.of(each) for each in zip(ladder["difference"], ladder["low"], ladder["high"], strict=True)]
    values = [v for estimate in gains for v in estimate if math.isfinite(v)] or [0.0]
    ends = spanning(values, 0.06, zero=True)
    for place, rung in enumerate(ladder["rung"]):
        estimate = gains[place] if place else UNKNOWN
        gain = labels.difference(estimate, "", 4)
        kind = win_tie_loss(estimate)
        rows.append(
            row(
                labels.plain(rung),
                cell(str(ladder["choice"][place]).replace("_", " "), "choice", "words"),
                cell(value(gain), "gain"),
                cell(
                    strip(estimate, ends, f"{rung}: {gain}, {kind}", kind, at=0.0) if estimate.known else "",
                    kind="plot",
                ),
            )
        )
    means = record.get("means", {})
    used = [f"{labels.plain(name)} {many}" for name, many in sorted(means.items(), key=lambda each: -each[1])]
    reasons = [
        tag("li", f"{labels.plain(rung)}: {labels.typeset(text)}.")
        for rung, text in zip(ladder["rung"], ladder["reason"], strict=True)
    ]
    return [
        tag("h3", "What each part earned"),
        paragraph(
            "Each part is judged on training people it was not fitted on."
            + (f" Features by what predicts their mean: {', '.join(used)}." if used else "")
        ),
        table(
            "Difference in CRPS to the part before, with 95 % intervals over people",
            ["part", "choice", "difference", "← better"],
            rows,
        ),
        folded("Why", tag("ul", *reasons, class_="soft")),
    ]


def _networks(name: str, record: dict[str, Any]) -> list[Html]:
    networks = record["networks"]
    skipped = sum(sum(network["skipped"]) for network in networks)
    finding = (
        f"{labels.count(len(networks), 'network')}, trained for {_each(networks, 'epochs')} epochs; the weights "
        f"kept are those after epoch {_each(networks, 'best')}. {_skips(skipped)}"
    )
    if not record["kept"]:
        finding += f" No draw comes from them: {labels.typeset(record['reason'])}."
    elif record["reason"]:
        finding += f" Draws come from them: {labels.typeset(record['reason'])}."
    one = networks[0]
    panels = []
    scores = {
        f"network {place + 1}": [
            (e, s) for e, s in zip(network["epoch"], network["score"], strict=True) if s is not None
        ]
        for place, network in enumerate(networks)
    }
    if any(scores.values()):
        ends = ", ".join(f"{key} {labels.number(max(s for _, s in line))}" for key, line in scores.items() if line)
        best = one["best"] if len(networks) == 1 else None
        drawing = figures.curves(scores, f"Best validation scores: {ends}.", "score", best)
        panels.append(panel("Validation score, higher is better", _keys(scores), drawing))
    losses = _by_task(one)
    last = ", ".join(f"{key} {labels.number(line[-1][1])}" for key, line in losses.items())
    what = "Training loss by task" + (", network 1" if len(networks) > 1 else "")
    panels.append(
        panel(what, _keys(losses), figures.curves(losses, f"Last training losses: {last}.", "loss", cut=0.02))
    )
    cosines = _cosines(one)
    if cosines:
        means = ", ".join(
            f"{key} {labels.number(math.fsum(v for _, v in line) / len(line), 2)}" for key, line in cosines.items()
        )
        label = f"Cosines between the gradients of tasks, means: {means}. Below zero tasks pull apart."
        panels.append(
            panel("Cosines between task gradients", _keys(cosines), figures.curves(cosines, label, "cosine", zero=True))
        )
    else:
        panels.append(
            panel(
                "Cosines between task gradients",
                paragraph("One task only: there are no two gradients to compare.", kind="soft"),
            )
        )
    if skipped:
        steps = {
            f"network {place + 1}": list(zip(n["epoch"], map(float, n["skipped"]), strict=True))
            for place, n in enumerate(networks)
        }
        drawing = figures.stems(steps, f"{_skips(skipped)} At most {_most(steps)} in one epoch or few.", "steps")
        panels.append(panel("Skipped steps" + (", all networks" if len(networks) > 1 else ""), drawing))
    caption = (
        "How to read it: a score that still rises at the end asks for more epochs; one that falls long before it "
        "shows that training was stopped in time, because the best weights are kept. Of several folds one "
        "is shown."
    )
    heading = tag("h3", f"Training of {labels.method(name)}")
    return [heading, paragraph(finding), figure(caption, tag("div", *panels, class_="panels"))]


def _each(networks: list[dict[str, Any]], key: str) -> str:
    """What the networks have, said once where it is the same."""
    values = list(dict.fromkeys(str(network[key]) for network in networks))
    return values[0] if len(values) == 1 else labels.listed([str(network[key]) for network in networks])


def _most(steps: dict[str, list[tuple[int, float]]]) -> str:
    return labels.number(max(value for line in steps.values() for _, value in line), 0)


def _skips(skipped: int) -> str:
    if not skipped:
        return "No step was skipped for too large a gradient."
    return f"{labels.count(skipped, 'step')} {'was' if skipped == 1 else 'were'} skipped for too large a gradient."


def _keys(lines: dict[str, Any]) -> Html | None:
    curves = {f"curve-{place % 4}": key for place, key in enumerate(list(lines)[:4])}
    return figures.legend(curves, line=True) if len(lines) > 1 else None


def _by_task(network: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Losses of the tasks that have any."""
    found = {}
    for place, task in enumerate(network["tasks"]):
        line = [(e, losses[place]) for e, losses in zip(network["epoch"], network["losses"], strict=True)]
        if any(value for _, value in line):
            found[labels.TASKS.get(task, labels.plain(task))] = line
    return found


def _cosines(network: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Cosines of the pairs of tasks that ever met; a pair that never did has zeros."""
    found = {}
    for place, pair in enumerate(network["pairs"]):
        line = [(float(each[0]), each[place + 1]) for each in network["cosines"]]
        if any(value for _, value in line):
            found[" / ".join(labels.TASKS.get(task, task) for task in pair.split("/"))] = line
    return found
