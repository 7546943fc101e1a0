"""Sections on how good the imputation is: verdict, ranking, change, calibration, correlations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings import FEWEST_PEOPLE, POOLED, standing
from ..metrics import HIGHER_IS_BETTER
from . import figures, words
from .drawing import spanning, strip
from .html import Html, join, tag
from .tables import breakable, cell, figure, folded, panel, paragraph, row, section, table, value

Evidence = dict[str, Any]
Triple = Sequence["float | None"]
FIRST = 8
# Of what is lost more is shown than of what is won.
SHOWN = {"better": FIRST, "tie": FIRST, "worse": 3 * FIRST}
KINDS = {"better": "Better", "tie": "Ties", "worse": "Worse"}
# What single interval would seem to differ if nothing did.
CHANCE = 0.05
GROUPS = {"gap": "Years between the visits", "age": "Age at baseline", "sex": "Sex", "site": "Site"}


def ours(evidence: Evidence) -> str:
    return words.method(evidence["roles"]["ours"])


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- 1. the verdict --------------------------------------------------------------------------


def tallied(triples: Sequence[Triple]) -> dict[str, int]:
    counts = Counter(standing(triple) for triple in triples)
    return {kind: counts[kind] for kind in KINDS}


def headline(evidence: Evidence) -> str:
    """The verdict in one sentence, for the page's title and its first heading."""
    features, roles = evidence["features"], evidence["roles"]
    for key, other in (("ours_carry", roles.get("carry")), ("ours_ridge", roles.get("ridge"))):
        if key in features:
            counts, total = tallied(features[key]), len(features["name"])
            return (
                f"{_upper(ours(evidence))} is better than {other} on {words.amount(counts['better'])} of "
                f"{words.count(total, 'feature')}; ties on {words.amount(counts['tie'])}; loses on "
                f"{words.amount(counts['worse'])}."
            )
    return f"{_upper(ours(evidence))}: nothing simple took part that it could be compared with."


def lead(evidence: Evidence) -> Html:
    features, roles = evidence["features"], evidence["roles"]
    parts = []
    if "ours_carry" in features and "ours_ridge" in features:
        counts = tallied(features["ours_ridge"])
        parts.append(
            f"Against {roles['ridge']}, whole distributions compared, it is better on "
            f"{words.amount(counts['better'])}, ties on {words.amount(counts['tie'])} and loses on "
            f"{words.amount(counts['worse'])}."
        )
    uses = Counter(features["use"])
    told = [f"{words.method(roles[role])} for {many}" for role, many in uses.most_common()]
    parts.append(f"The simplest method that nothing clearly beats: {words.listed(told)}.")
    run = evidence["run"]
    parts.append(
        f"Judged on {words.count(int(run['people']), 'person', 'people')} held out whole: nothing that was fitted "
        "had seen them."
    )
    return paragraph(" ".join(parts), kind="lead")


def verdict(evidence: Evidence) -> Html:
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
    whole = folded(f"All {words.count(total, 'feature')}", paragraph(note, kind="soft"), _feature_table(evidence))
    return section("verdict", "Feature by feature", *parts, whole)


def _against(evidence: Evidence, key: str, other: str, y_label: str, what: str) -> list[Html]:
    triples, names = evidence["features"][key], evidence["features"]["name"]
    counts, total = tallied(triples), len(names)
    told = f"better on {counts['better']}, tie on {counts['tie']}, worse on {counts['worse']} of {total} features"
    columns = []
    for kind, title in KINDS.items():
        found = [(name, triple) for name, triple in zip(names, triples, strict=True) if standing(triple) == kind]
        # The clearest first; ties by how near they are to one side.
        found.sort(key=lambda each: -abs(each[1][0] or 0.0))
        first = SHOWN[kind]
        items = [tag("li", breakable(name), tag("small", words.difference(triple))) for name, triple in found[:first]]
        if len(found) > first:
            items.append(tag("li", f"and {len(found) - first:,} more, in the table below", class_="soft"))
        body = tag("ul", *items) if items else paragraph("None.", kind="soft")
        heading = tag("h4", tag("span", str(counts[kind]), class_="many"), " ", title)
        columns.append(tag("div", heading, body, class_=f"outcome {kind}"))
    value_range = [t[0] for t in triples if t[0] is not None]
    spread = (
        f" Differences go from {words.signed(min(value_range))} to {words.signed(max(value_range))} %."
        if value_range
        else ""
    )
    return [
        tag("h3", f"Against {words.method(other)}"),
        figures.tally(counts, f"Against {other}: {told}."),
        paragraph(what, kind="soft"),
        tag("div", *columns, class_="outcomes"),
        figure(
            "How to read it: one line a feature, in the order of its difference, with a 95 % interval over "
            "people. Below zero is less error. Full circles are better, hollow ones tie, squares are worse.",
            figures.caterpillar(triples, f"Difference to {other} per feature: {told}.{spread}", y_label),
        ),
    ]


def _feature_table(evidence: Evidence) -> Html:
    features, roles = evidence["features"], evidence["roles"]
    keys = [
        (key, f"against {label}")
        for key, label in (("ours_carry", "carry-forward, RMSE"), ("ours_ridge", "ridge, CRPS"))
        if key in features
    ]
    ends = {key: _strip_ends(features[key]) for key, _ in keys}
    rows = []
    for place, name in enumerate(features["name"]):
        use = roles[features["use"][place]]
        cells = [cell(words.method(use), "use", "words")]
        for key, label in keys:
            triple = features[key][place]
            kind, text = standing(triple), words.difference(triple)
            cells.append(cell(join(value(text), " ", tag("span", KINDS[kind].lower(), class_="soft")), label))
            cells.append(cell(strip(triple, ends[key], f"{name} {label}: {text}, {kind}", kind, at=0.0), kind="plot"))
        rows.append(row(breakable(name), *cells))
    headings = ["feature", "use"]
    for _, label in keys:
        headings += [label, "← better"]
    return table("Every feature: what to use, and differences with 95 % intervals", headings, rows)


def _strip_ends(triples: Sequence[Triple]) -> tuple[float, float]:
    values = [float(v) for triple in triples for v in triple if v is not None] or [0.0]
    # Of many intervals a few very wide ones would flatten the others.
    cut = 0.02 if len(triples) > 40 else 0.0
    low, high = (float(v) for v in np.quantile(values, [cut, 1.0 - cut]))
    low, high = min(low, 0.0), max(high, 0.0)
    space = 0.05 * (high - low) or 1.0
    return low - space, high + space


# -- 2. methods ranked -----------------------------------------------------------------------


def methods(evidence: Evidence) -> Html:
    shown = _by_metric(evidence["table"])
    metric = next((name for name in ("crps", "rmse") if name in shown), next(iter(shown)))
    order = _ranked(shown, metric)
    best = order[0]
    value_of = words.interval(shown[metric][best][:3])
    finding = f"{_upper(words.method(best))} comes first by {words.heading(metric)}: {value_of}."
    apart = shown[metric][best][3]
    if apart[0] is not None:
        reference = next((name for name in order if shown[metric][name][3][0] is None), "the reference")
        finding += f" Its difference to {reference} on the same people is {words.difference(apart, '', 4)}."
    parts = [paragraph(finding, kind="finding")]
    first = [name for name in dict.fromkeys((metric, "rmse")) if name in shown]
    parts += [_ranking(evidence, shown[name], name, _ranked(shown, name)) for name in first]
    if evidence["absent"]:
        told = "; ".join(f"{words.method(name)} ({why})" for name, why in sorted(evidence["absent"].items()))
        parts.append(paragraph(f"Not in the tables: {told}.", kind="soft"))
    others = [name for name in shown if name not in first]
    if others:
        parts.append(
            folded(
                f"{_upper(words.count(len(others), 'more metric'))}, every method",
                _further(evidence, shown, others, order),
            )
        )
    return section("methods", "Methods, ranked", *parts)


def _by_metric(told: dict[str, list[Any]]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """metric -> method -> (value, low, high, (difference, low, high)); metrics that no method has are left out."""
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    blank = [None] * len(told["method"])
    columns = [told.get(name, blank) for name in ("value", "low", "high")]
    apart = [told.get(name, blank) for name in ("difference", "difference_low", "difference_high")]
    for place, (name, metric) in enumerate(zip(told["method"], told["metric"], strict=True)):
        numbers = tuple(column[place] for column in columns)
        if numbers[0] is not None:
            found.setdefault(metric, {})[name] = (*numbers, tuple(column[place] for column in apart))
    return found


def _ranked(shown: dict[str, dict[str, tuple[Any, ...]]], metric: str) -> list[str]:
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    return sorted(shown[metric], key=lambda name: sign * float(shown[metric][name][0]))


def _ranking(evidence: Evidence, shown: dict[str, tuple[Any, ...]], metric: str, order: list[str]) -> Html:
    carried = evidence["roles"].get("carry")
    ends = _method_ends(shown, [carried] if carried in shown else [])
    meaning = evidence["meaning"].get(metric, metric)
    return table(
        f"{words.heading(metric)}: {meaning}. The lower the better; 95 % intervals over people.",
        ["method", words.heading(metric), "← better"],
        _method_rows(evidence, shown, metric, order, ends),
    )


def _method_ends(shown: dict[str, tuple[Any, ...]], always: list[str]) -> tuple[float, float]:
    """Ends of a scale for the methods' values; what is far off most of them, and not in `always`, is left outside."""
    values = np.array([float(numbers[0]) for numbers in shown.values()])
    low, high = (float(v) for v in np.quantile(values, [0.1, 0.75]))
    space = 4.0 * (high - low) or np.inf
    near = [name for name, value in zip(shown, values, strict=True) if low - space <= value <= high + space]
    return spanning([float(v) for name in {*near, *always} for v in shown[name][:3] if v is not None], 0.05)


def _method_rows(
    evidence: Evidence, shown: dict[str, tuple[Any, ...]], metric: str, order: list[str], ends: tuple[float, float]
) -> list[Html]:
    rows = []
    for name in order:
        triple = shown[name][:3]
        off = " →" if triple[0] > ends[1] else " ←" if triple[0] < ends[0] else ""
        text = words.interval(triple) + off
        mine = name == evidence["roles"]["ours"]
        drawing = strip(triple, ends, f"{name}: {words.heading(metric)} {text}", "ours" if mine else "other")
        cells = [cell(value(text)), cell(drawing, kind="plot")]
        rows.append(row(_named(name), *cells, kind="ours" if mine else None))
    return rows


def _named(name: str) -> Html:
    """A method as sentences name it, and beside it the name of the command line where that is another."""
    told = words.method(name)
    return join(told, None if told == name else tag("span", f" {name}", class_="soft"))


def _further(
    evidence: Evidence, shown: dict[str, dict[str, tuple[Any, ...]]], metrics: list[str], order: list[str]
) -> Html:
    """One table, its rows by metric."""
    rows = {}
    for metric in metrics:
        names = [name for name in order if name in shown[metric]]
        names += [name for name in shown[metric] if name not in names]
        meaning = evidence["meaning"].get(metric)
        heading = words.heading(metric) + (f": {meaning}" if meaning else "")
        rows[heading] = _method_rows(evidence, shown[metric], metric, names, _method_ends(shown[metric], []))
    return table("Further metrics, 95 % intervals over people", ["method", "value", "interval"], rows)


# -- 3. change -------------------------------------------------------------------------------


def change(evidence: Evidence) -> Html:
    found = {name: each for name, each in evidence["change"].items() if each is not None}
    if not found:
        return section("change", "Predicted and true change", paragraph("No method that took part predicts a change."))
    panels = []
    for name, each in found.items():
        text = (
            f"{words.method(name)}: slope {words.interval(each['slope'], 2)}, r {words.interval(each['r'], 2)}, "
            f"{each['cells']:,} pairs of a person and a feature"
        )
        panels.append(panel(words.method(name), figures.scatter(each, f"True against predicted change of {text}.")))
    first = next(iter(found))
    slope, r = found[first]["slope"], found[first]["r"]
    calibrated = slope[1] <= 1.0 <= slope[2]
    judged = "as it should be" if calibrated else f"too {'timid' if slope[0] > 1 else 'bold'} a prediction"
    finding = (
        f"A change of 1 that {words.method(first)} predicts was a change of "
        f"{words.interval(slope, 2)}, {judged}. "
        "Over all people and features predicted and true change correlate with "
        f"r{words.SPACE}={words.SPACE}{words.interval(r, 2)}."
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


# -- 4. calibration --------------------------------------------------------------------------


def calibration(evidence: Evidence) -> Html:
    found, roles = evidence["calibration"], evidence["roles"]
    if roles["ours"] not in found:
        text = f"{_upper(ours(evidence))} gives one value a person: there are no intervals to judge."
        return section("calibration", "Are the intervals honest?", paragraph(text))
    kinds = {name: "ours" if name == roles["ours"] else "peer" for name in found}
    mine = found[roles["ours"]]
    outer = min(range(len(mine["nominal"])), key=lambda place: abs(mine["nominal"][place] - 0.9))
    promised, triple = mine["nominal"][outer], mine["share"][outer]
    side = "wider than they need be" if triple[1] > promised else "too narrow" if triple[2] < promised else "honest"
    finding = (
        f"Intervals that promise {words.percent(promised)} hold {words.shares(triple)} of the true values: {side}. "
        f"Every person has {mine['draws']} draws."
    )
    told = "; ".join(
        f"{name} holds {words.shares(curve['share'][0])} where {words.percent(curve['nominal'][0])} are promised"
        for name, curve in found.items()
    )
    curve = figures.calibration(found, kinds, f"Share of true values inside central intervals. {told}.")
    keys = figures.legend({kinds[name]: words.method(name) for name in found})
    panels = [panel("Intervals of every width", curve)]
    for name, bars in evidence["pit"].items():
        values = [bar[0] for bar in bars if bar[0] is not None]
        label = (
            f"Place of the truth among the draws of {words.method(name)}: density from "
            f"{words.number(min(values), 2)} to {words.number(max(values), 2)}, at the edges "
            f"{words.number(bars[0][0], 2)} and {words.number(bars[-1][0], 2)}; 1 throughout is perfect."
        )
        panels.append(panel(f"Place of the truth, {words.method(name)}", figures.pit(bars, label, kinds[name])))
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


def _coverage(evidence: Evidence, promised: float) -> Html | None:
    rows_of = [group for group in evidence["groups"] if group["kind"] in ("gap", "age") and "coverage" in group]
    if not rows_of:
        return paragraph("Neither the years between visits nor age are known, so coverage is not told apart by them.")
    values = [float(v) for group in rows_of for v in group["coverage"]] + [promised]
    ends = (min(values) - 0.01, min(max(values) + 0.01, 1.0))
    rows: dict[str, list[Html]] = {"gap": [], "age": []}
    for group in rows_of:
        inside = words.shares(group["coverage"])
        label = f"{GROUPS[group['kind']]} {group['name']}: {inside} inside"
        cells = [
            cell(f"{group['people']:,}", "people", "number beside"),
            cell(value(inside), "inside"),
            cell(strip(group["coverage"], ends, label, "ours", promised), kind="plot"),
        ]
        rows[group["kind"]].append(row(group["name"], *cells))
    whole = table(
        f"Share of true values inside intervals that promise {words.percent(promised)} (the broken line), by gap "
        "and age",
        ["group", "people", "inside", "too narrow | too wide"],
        {GROUPS[kind]: rows for kind, rows in rows.items() if rows},
    )
    return join(tag("h3", "By gap and age"), whole)


# -- 5. correlations -------------------------------------------------------------------------


def correlation(evidence: Evidence) -> Html:
    found = evidence["correlation"]
    parts = []
    for what, title in (("levels", "Follow-up visits"), ("changes", "Changes from baseline")):
        each = found[what]
        real, imputed = np.array(each["real"]), np.array(each["imputed"])
        trio = []
        for name, cells in (("real", real), ("imputed", imputed), ("difference", imputed - real)):
            label = f"{title}, correlations, {name}: {len(real)} by {len(real)} cells, mean {cells.mean() / 100:.2f}."
            if name == "difference":
                label = f"{title}, imputed minus real: mean absolute difference {words.number(each['distance'])}."
            trio.append(panel(_upper(name), figures.matrix(cells, label)))
        ratio = None if not each["floor"] or each["distance"] is None else each["distance"] / each["floor"]
        told = (
            f"{title}: imputed and real correlations differ by {words.number(each['distance'])} on average; two "
            f"samples of real people of this size would by {words.number(each['floor'])}"
            + (
                "."
                if ratio is None
                else f", so the distance is {words.number(ratio, 1)} times what chance alone gives."
            )
        )
        parts += [tag("h3", title), paragraph(told, kind="finding"), tag("div", *trio, class_="trio")]
    blocks = len(np.array(found["levels"]["real"]))
    caption = (
        "How to read it: a cell is the correlation of two features, blue where positive, orange where negative, "
        "stronger the further from zero; the rightmost picture is empty where nothing differs. One draw a person "
        "is compared, because means of draws vary too little. Chance is told by halves of the real people; below "
        "1 is possible, because the imputed people are the real ones and bring their baselines. Features stand in "
        "the order of a clustering of the real visits."
    )
    if blocks < found["features"]:
        caption += f" The {found['features']} features are averaged to {blocks} by {blocks} cells."
    return section(
        "correlation", "Do features hang together as they should?",
        figure(caption, *parts, figures.key(), kind="long"),
    )  # fmt: skip


# -- 9. groups -------------------------------------------------------------------------------


def groups(evidence: Evidence) -> Html:
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
    counts = Counter(standing(group[key]) for group in found for key in keys if key in group)
    finding = (
        f"Of {words.count(sum(counts.values()), 'comparison')} in {words.count(len(found), 'group')}, "
        f"{ours(evidence)} is better in {counts['better']}, ties in {counts['tie']} and loses in {counts['worse']}."
        if keys
        else "No simple method took part that groups could be compared with."
    )
    ends = {key: _strip_ends([group[key] for group in found if key in group]) for key in keys}
    headings = ["group", "people"]
    for key in keys:
        headings += [names[key], "← better"]
    if any("coverage" in group for group in found):
        headings.append("inside 90 %")
    caption = "Differences with 95 % intervals over people, and the share of true values inside 90 % intervals"
    shown: dict[str, list[Html]] = {}
    hidden = []
    for kind, heading in GROUPS.items():
        mine = [group for group in found if group["kind"] == kind]
        rows = [_group_row(heading, group, {key: (names[key], ends[key]) for key in keys}) for group in mine]
        if len(rows) > 2 * FIRST:
            # A long list is folded, what is lost in it never.
            whole = table(caption, headings, {heading: rows})
            hidden.append(folded(f"{heading}: {words.count(len(rows), 'group')}", whole))
            heading = f"{heading}: where it loses"
            lost = [any(standing(group[key]) == "worse" for key in keys) for group in mine]
            rows = [each for each, bad in zip(rows, lost, strict=True) if bad]
        if rows:
            shown[heading] = rows
    note = (
        f"Groups of fewer than {FEWEST_PEOPLE} people are put together as “{POOLED}”, and left out where even "
        "these are fewer. Full circles are better, hollow ones tie, squares are worse."
    )
    return section("groups", title, paragraph(finding, kind="finding"), paragraph(note, kind="soft"),
        table(caption, headings, shown) if shown else None, *hidden,
    )  # fmt: skip


def _group_row(heading: str, group: dict[str, Any], keys: dict[str, tuple[str, tuple[float, float]]]) -> Html:
    cells = [cell(f"{group['people']:,}", "people", "number beside")]
    for key, (name, ends) in keys.items():
        triple, text = group[key], words.difference(group[key])
        label = f"{heading}, {group['name']}: {name} {text}, {standing(triple)}"
        cells.append(cell(value(text), name))
        cells.append(cell(strip(triple, ends, label, standing(triple), at=0.0), kind="plot"))
    if "coverage" in group:
        cells.append(cell(words.percent(group["coverage"][0]), "90 % intervals hold"))
    return row(group["name"], *cells)
