"""A few people, chosen by rule."""

from __future__ import annotations

from typing import Any

from . import figures, labels
from .drawing import spanning
from .html import Html, tag
from .shared import EvidenceContent, ours
from .tables import breakable, figure, panel, paragraph, section

SHARES = {
    0.05: "small error",
    0.25: "rather small error",
    0.5: "median error",
    0.75: "rather large error",
    0.95: "large error",
}


HIDDEN = (
    "How to read it: full circles are the visits of a person that are shown, in baseline SD from the nearest of them, "
    "over the years from the hidden one, which is the hollow circle at 0. The bar is where the draws go: its thick "
    "part holds half of them, all of it 90 %; the point on it is their mean. A feature has one scale for all "
    "people. Rows count people in the cohort's table; no identifier is in this page."
)


def people(evidence: EvidenceContent) -> Html:
    """Section: changes of a few people with their intervals."""
    found, title = evidence["people"], "A few people"
    if found is None:
        text = "Nobody has a complete pair of visits in the features that change most, so nobody is shown."
        return section("people", title, paragraph(text))
    names, parts = found["features"], []
    hidden = "task" in evidence["run"]
    ends = [spanning(_all_values(found["people"], place), 0.08, zero=True) for place in range(len(names))]
    inside = total = 0
    for person in found["people"]:
        panels = []
        for place, name in enumerate(names):
            truth, mean, low, _, _, high = person["values"][place]
            within = low <= truth <= high
            inside, total = inside + within, total + 1
            label = (
                f"Row {person['row']}, {name}, {_against(hidden)} in baseline SD: true {labels.number(truth, 2)}, "
                f"{'inside' if within else 'outside'} the 90 % interval {labels.number(low, 2)} to "
                f"{labels.number(high, 2)}, mean {labels.number(mean, 2)}."
            )
            if hidden:
                drawn = figures.visits(person["shown"][place], person["values"][place], ends[place], label)
            else:
                drawn = figures.trajectory(person["values"][place], person["gap"], ends[place], label)
            panels.append(panel(breakable(name), drawn))
        heading = f"Row {person['row']}: {SHARES.get(person['share'], '')}, {person['share']:.0%} of people have less"
        parts += [tag("h3", heading), tag("div", *panels, class_="quartet")]
    finding = (
        f"{inside} of the {total} true values below lie inside their 90 % interval. The people are chosen by rule "
        f"and not by looks: of {labels.count(found['complete'], 'person', 'people')} with complete visits in the "
        f"{len(names)} features that change most, those at fixed places in the order of their error."
    )
    caption = (
        HIDDEN
        if hidden
        else (
            "How to read it: the line between two points is the change that was measured, in baseline SD, over the "
            "years that stand below it where they are known. The wedge is where the draws go: its inner part holds "
            "half of them, all of it 90 %; beside it the same as lines, with the mean. The scale of a feature is the "
            "same for all people. Rows count people in the cohort's table; no identifier is in this page."
        )
    )
    keys = figures.legend({"strong": "measured", "ours": f"{ours(evidence)}, mean and intervals"})
    return section("people", title, paragraph(finding, kind="finding"), figure(caption, keys, *parts, kind="long"))


def _all_values(people: list[dict[str, Any]], place: int) -> list[float]:
    """Of one feature, all that is drawn."""
    found = [float(v) for person in people for v in person["values"][place]]
    return found + [float(value) for person in people if "shown" in person for _, value in person["shown"][place]]


def _against(hidden: bool) -> str:
    return "hidden visit less the nearest" if hidden else "change"
