"""Sections on people, training, copies and provenance."""

from __future__ import annotations

import math
from typing import Any

from ..memorisation import LIMIT
from . import figures, words
from .drawing import spanning, strip
from .html import Html, join, tag
from .quality import Evidence, ours
from .tables import breakable, cell, figure, folded, panel, paragraph, row, section, table, value

SHARES = {
    0.05: "small error",
    0.25: "rather small error",
    0.5: "median error",
    0.75: "rather large error",
    0.95: "large error",
}


# -- 6. people -------------------------------------------------------------------------------


def people(evidence: Evidence) -> Html:
    found, title = evidence["people"], "A few people"
    if found is None:
        text = "Nobody has a complete pair of visits in the features that change most, so nobody is shown."
        return section("people", title, paragraph(text))
    names, parts = found["features"], []
    ends = [
        spanning([float(v) for person in found["people"] for v in person["values"][place]], 0.08, zero=True)
        for place in range(len(names))
    ]
    inside = total = 0
    for person in found["people"]:
        panels = []
        for place, name in enumerate(names):
            truth, mean, low, _, _, high = person["values"][place]
            within = low <= truth <= high
            inside, total = inside + within, total + 1
            label = (
                f"Row {person['row']}, {name}, change in baseline SD: true {words.number(truth, 2)}, "
                f"{'inside' if within else 'outside'} the 90 % interval {words.number(low, 2)} to "
                f"{words.number(high, 2)}, mean {words.number(mean, 2)}."
            )
            panels.append(
                panel(breakable(name), figures.trajectory(person["values"][place], person["gap"], ends[place], label))
            )
        heading = f"Row {person['row']}: {SHARES.get(person['share'], '')}, {person['share']:.0%} of people have less"
        parts += [tag("h3", heading), tag("div", *panels, class_="quartet")]
    finding = (
        f"{inside} of the {total} true values below lie inside their 90 % interval. The people are chosen by rule "
        f"and not by looks: of {words.count(found['complete'], 'person', 'people')} with complete visits in the "
        f"{len(names)} features that change most, those at fixed places in the order of their error."
    )
    caption = (
        "How to read it: the line between two points is the change that was measured, in baseline SD, over the "
        "years that stand below it where they are known. The wedge is where the draws go: its inner part holds "
        "half of them, all of it 90 %; beside it the same as lines, with the mean. The scale of a feature is the "
        "same for all people. Rows count people in the cohort's table; no identifier is in this page."
    )
    keys = figures.legend({"strong": "measured", "ours": f"{ours(evidence)}, mean and intervals"})
    return section("people", title, paragraph(finding, kind="finding"), figure(caption, keys, *parts, kind="long"))


# -- 7. training -----------------------------------------------------------------------------


def training(evidence: Evidence) -> Html:
    title, parts = "What was learned", []
    for name, told in evidence["training"].items():
        parts += _rungs(told) if "ladder" in told else []
        if told["networks"]:
            parts += _networks(name, told)
        elif told.get("reason"):
            parts.append(paragraph(f"{words.method(name)}: no network was trained ({words.typeset(told['reason'])})."))
    if not parts:
        parts = [paragraph("No method that took part trains a network, or none kept its history.")]
    return section("training", title, *parts)


def _rungs(told: dict[str, Any]) -> list[Html]:
    ladder, rows = told["ladder"], []
    triples = list(zip(ladder["difference"], ladder["low"], ladder["high"], strict=True))
    values = [float(v) for triple in triples for v in triple if v is not None] or [0.0]
    ends = spanning(values, 0.06, zero=True)
    for place, rung in enumerate(ladder["rung"]):
        triple = triples[place] if place else (None, None, None)
        gain = words.difference(triple, "", 4)
        kind = (
            "tie"
            if triple[0] is None
            else "better"
            if (triple[2] or 0) < 0
            else "worse"
            if (triple[1] or 0) > 0
            else "tie"
        )
        rows.append(
            row(
                words.plain(rung),
                cell(str(ladder["choice"][place]).replace("_", " "), "choice", "words"),
                cell(value(gain), "gain"),
                cell(
                    strip(triple, ends, f"{rung}: {gain}, {kind}", kind, at=0.0) if triple[0] is not None else "",
                    kind="plot",
                ),
            )
        )
    means = told.get("means", {})
    used = [f"{words.plain(name)} {many}" for name, many in sorted(means.items(), key=lambda each: -each[1])]
    reasons = [
        tag("li", f"{words.plain(rung)}: {words.typeset(text)}.")
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


def _networks(name: str, told: dict[str, Any]) -> list[Html]:
    networks = told["networks"]
    skipped = sum(sum(network["skipped"]) for network in networks)
    finding = (
        f"{words.count(len(networks), 'network')}, trained for {_each(networks, 'epochs')} epochs; the weights "
        f"kept are those after epoch {_each(networks, 'best')}. {_skips(skipped)}"
    )
    if not told["kept"]:
        finding += f" No draw comes from them: {words.typeset(told['reason'])}."
    elif told["reason"]:
        finding += f" Draws come from them: {words.typeset(told['reason'])}."
    one = networks[0]
    panels = []
    scores = {
        f"network {place + 1}": [
            (e, s) for e, s in zip(network["epoch"], network["score"], strict=True) if s is not None
        ]
        for place, network in enumerate(networks)
    }
    if any(scores.values()):
        ends = ", ".join(f"{key} {words.number(max(s for _, s in line))}" for key, line in scores.items() if line)
        best = one["best"] if len(networks) == 1 else None
        drawing = figures.curves(scores, f"Best validation scores: {ends}.", "score", best)
        panels.append(panel("Validation score, higher is better", _keys(scores), drawing))
    losses = _by_task(one)
    last = ", ".join(f"{key} {words.number(line[-1][1])}" for key, line in losses.items())
    what = "Training loss by task" + (", network 1" if len(networks) > 1 else "")
    panels.append(
        panel(what, _keys(losses), figures.curves(losses, f"Last training losses: {last}.", "loss", cut=0.02))
    )
    cosines = _cosines(one)
    if cosines:
        means = ", ".join(
            f"{key} {words.number(math.fsum(v for _, v in line) / len(line), 2)}" for key, line in cosines.items()
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
    heading = tag("h3", f"Training of {words.method(name)}")
    return [heading, paragraph(finding), figure(caption, tag("div", *panels, class_="panels"))]


def _each(networks: list[dict[str, Any]], key: str) -> str:
    """What the networks have, said once where it is the same."""
    told = list(dict.fromkeys(str(network[key]) for network in networks))
    return told[0] if len(told) == 1 else words.listed([str(network[key]) for network in networks])


def _most(steps: dict[str, list[tuple[int, float]]]) -> str:
    return words.number(max(value for line in steps.values() for _, value in line), 0)


def _skips(skipped: int) -> str:
    if not skipped:
        return "No step was skipped for too large a gradient."
    return f"{words.count(skipped, 'step')} {'was' if skipped == 1 else 'were'} skipped for too large a gradient."


def _keys(lines: dict[str, Any]) -> Html | None:
    shown = {f"curve-{place % 4}": key for place, key in enumerate(list(lines)[:4])}
    return figures.legend(shown, line=True) if len(lines) > 1 else None


def _by_task(network: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Losses of the tasks that have any."""
    found = {}
    for place, task in enumerate(network["tasks"]):
        line = [(e, losses[place]) for e, losses in zip(network["epoch"], network["losses"], strict=True)]
        if any(value for _, value in line):
            found[words.TASKS.get(task, words.plain(task))] = line
    return found


def _cosines(network: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Cosines of the pairs of tasks that ever met; a pair that never did has zeros."""
    found = {}
    for place, pair in enumerate(network["pairs"]):
        line = [(float(each[0]), each[place + 1]) for each in network["cosines"]]
        if any(value for _, value in line):
            found[" / ".join(words.TASKS.get(task, task) for task in pair.split("/"))] = line
    return found


# -- 8. copies -------------------------------------------------------------------------------


def memory(evidence: Evidence) -> Html:
    found = {name: each for name, each in evidence["memory"].items() if each is not None}
    title = "Are draws copies of training people?"
    mine = found.get(evidence["roles"]["ours"])
    if mine is None:
        text = "This could not be checked: too few people have complete visits, or every person has one value only."
        return section("memory", title, paragraph(text))
    passes = mine["copies"][1] is not None and mine["copies"][1] <= LIMIT
    finding = (
        f"{'No sign of it' if passes else 'There are signs of it'}: the share of draws that are clearly nearer to "
        "one training person than to anybody held out, less the share of the opposite, is "
        f"{words.shares(mine['copies'], 2)}; above {words.percent(LIMIT, 0)} the check fails."
    )
    rows: dict[str, list[Html]] = {}
    for key, what, at in (("copies", "Copies", LIMIT), ("nearer", "Nearer to a training person", 0.5)):
        values = [float(v) for each in found.values() for v in each[key]] + [at]
        ends = spanning(values, 0.1)
        for name, each in found.items():
            kind = "ours" if name == evidence["roles"]["ours"] else "other"
            text = words.shares(each[key], 2 if key == "copies" else 1)
            rows.setdefault(what, []).append(
                row(
                    words.method(name),
                    cell(value(text)),
                    cell(strip(each[key], ends, f"{words.method(name)}, {what}: {text}", kind, at), kind="plot"),
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


# -- 10. provenance --------------------------------------------------------------------------


def _told(run: dict[str, Any], key: str) -> str:
    return f"{run[key]:,}" if key in run else "an unknown number of"


def provenance(evidence: Evidence, about: dict[str, Any]) -> Html:
    told, run = evidence["provenance"], evidence["run"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    folds = run.get("folds")
    design = (
        "a quarter of the people held out once" if folds in (None, 1) else f"{folds} folds of whole people"
        + (f", {run['repeats']} times" if run.get("repeats", 1) != 1 else "")
    )  # fmt: skip
    entries = [
        ("Command", tag("code", about.get("command") or told["command"])),
        (
            "Data",
            f"{told['source']}: {told['people']:,} people, {told['width']:,} features, {_told(run, 'pairs')} pairs",
        ),
        ("Data, SHA-256", tag("code", told["data"])),
        ("Design", f"{design}; {_told(run, 'people')} people scored, {_told(run, 'draws')} draws each"),
        ("Seed", _told(run, "seed")),
        ("Methods", ", ".join(dict.fromkeys(evidence["table"]["method"]))),
        ("Backends", ", ".join(f"{name}: {backend}" for name, backend in told["backends"].items())),
        ("Versions", versions),
        ("Formats", f"run {about['run_version']}"),
    ]
    notes = tag("ul", [tag("li", note) for note in told["notes"]], class_="soft")
    return section(
        "provenance", "Where this comes from",
        tag("dl", [join(tag("dt", name), tag("dd", content)) for name, content in entries]),
        folded("What reading the data decided", notes) if told["notes"] else None,
    )  # fmt: skip
