"""The sections of docs/results.md about rungs, ablations and the bed, from what their benchmarks wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bed_scores

RESULTS = Path(__file__).resolve().parent / "results"


def _read(folder: str) -> dict[str, Any]:
    files = sorted((RESULTS / folder).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _triple(values: bed_scores.Interval, digits: int = 3, sign: bool = False) -> str:
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    value, low, high = (form.format(number) for number in values)
    return f"{value} ({low} to {high})"


def _percent(values: bed_scores.Interval, digits: int = 1) -> str:
    return _triple((100 * values[0], 100 * values[1], 100 * values[2]), digits, sign=True) + " %"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _section(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A titled table; nothing without rows."""
    rows = list(rows)
    return [f"### {title}", "", *_table(head, rows)] if rows else []


def rungs() -> list[str]:
    """Scores of the default preset against simple peers, and the denoiser's part in them."""
    found = _read("rungs")
    if not found:
        return []
    lines = [RUNGS]
    gaussian = {n: f for n, f in found.items() if "share_of_gap_closed" in f}
    converters = {n: f for n, f in found.items() if "axis_crps" in f}
    real = {n: f for n, f in found.items() if n not in gaussian and n not in converters}
    lines += _section("Against the exact posterior", GAUSSIAN, map(_gaussian_row, gaussian.values()))
    lines += _section("Hidden converters", CONVERTERS, map(_converters_row, converters.values()))
    lines += _section("Real cohorts", REAL, map(_real_row, real.values()))
    lines += ["### Evaluations, copies, cost", "", CHECKS]
    lines += _table(
        ("cohort", "8 for 99 evaluations", "copies", "nearer", "of a Gaussian", "passes", "seconds to fit"),
        (_check_row(each) for each in found.values()),
    )
    commits = ", ".join(sorted({each["commit"] for each in found.values()}))
    return [*lines, f"`python benchmarks/rung_gains.py`, 99 draws; commit {commits}.", ""]


def _gaussian_row(found: dict[str, Any]) -> list[str]:
    scores = found["scores"]
    crps = [_triple(scores[name]["crps"], 4) for name in ("ridge-gaussian", "default", "exact-posterior")]
    share = found["share_of_gap_closed"]
    return [
        found["title"],
        str(found["pairs_learned_from"][0]),
        *crps,
        _percent(share, 0).replace("+", ""),
        _triple(scores["default"]["coverage_90"]),
    ]


def _kept(found: dict[str, Any]) -> list[int]:
    return [len(part["kept"]) for part in found["default"]]


def _converters_row(found: dict[str, Any]) -> list[str]:
    gaps = found["coverage_by_gap"]["default"]
    axis = found["axis_differences"]
    without = axis.get("default-without-denoiser")
    return [
        f"{found['title']} ({found['pairs_learned_from'][0]} learned from)",
        _triple(found["differences"]["crps"]["ridge-gaussian"]["absolute"], 4, sign=True),
        _triple(gaps["shortest third"]),
        _triple(gaps["longest third"]),
        _percent(axis["ridge-empirical"]["relative"]),
        "switched off" if without is None else _percent(without["relative"]),
        f"{_kept(found)[0] or 'none'} of 16 components",
    ]


def _real_row(found: dict[str, Any]) -> list[str]:
    crps, rmse = found["differences"]["crps"], found["differences"]["rmse"]
    kept = _kept(found)
    cells = "never kept: earns nothing beyond empirical distributions"
    if any(kept):
        one, other = (found["scores"][name]["crps"] for name in ("default", "default-without-denoiser"))
        cells = f"{one[0] - other[0]:+.4f}"
    return [
        f"{found['title']}, {found['folds']} folds x {found['repeats']}",
        str(found["people"]),
        f"{_percent(crps[crps['best']]['relative'])} ({crps['best']})",
        f"{_percent(rmse[rmse['best']]['relative'])} ({rmse['best']})",
        _triple(crps["ridge-gaussian"]["absolute"], 4, sign=True),
        _triple(found["scores"]["default"]["coverage_90"]),
        f"in {sum(map(bool, kept))} of {len(kept)} fits",
        cells,
    ]


def _check_row(found: dict[str, Any]) -> list[str]:
    steps, memory = found["steps"], found["memorisation"]
    few = "no denoiser kept"
    if "crps_relative" in steps:
        few = f"CRPS {100 * steps['crps_relative']:+.2f} %, coverage {100 * steps['coverage_difference']:+.1f} points"
    seconds = max(part["seconds_to_fit"] for part in found["default"])
    return [
        found["title"],
        few,
        _triple(memory["default"]["copies"], 3, sign=True),
        _triple(memory["default"]["nearer"], 2),
        f"{memory['ridge-gaussian']['nearer'][0]:.2f}",
        "yes" if memory["passes"] else "NO",
        f"{seconds:.0f}",
    ]


def ablations() -> list[str]:
    """Scores of the default preset without one of its parts, and with fewer pairs."""
    found = _read("ablations")
    if not found:
        return []
    lines = [ABLATIONS]
    for name in ("mean", "shape", "paper"):
        if name in found:
            lines += _ablation(found[name])
    if "pairs" in found:
        lines += _pairs(found["pairs"])
    return lines


def _ablation(found: dict[str, Any]) -> list[str]:
    variants = found["variants"]
    axis = "axis_crps" in next(iter(variants.values()))
    head = ["variant", "CRPS", "less the first's", "RMSE less the first's", "coverage"]
    head += ["disease axis less the first's"] * axis + ["components drawn"]
    rows = []
    for name, each in variants.items():
        row = [name, f"{each['crps']['value'][0]:.4f}"]
        row += [_triple(each[metric]["difference"], 4, sign=True) for metric in ("crps", "rmse")]
        row += [_triple(each["coverage_90"]["value"])]
        row += [_triple(each["axis_crps"]["difference"], 4, sign=True)] if axis else []
        rows.append([*row, str(len(found["components"][name]))])
    about = f"`{found['command']}`: {found['people']} people, {found['draws']} draws; commit {found['commit']}."
    return [f"### {found['title']}", "", *_table(head, rows), about, ""]


def _pairs(found: dict[str, Any]) -> list[str]:
    head = ["pairs learned from", "CRPS ridge-gaussian", "default", "axis: ridge-empirical", "default"]
    rows = []
    for count, curve in found["curves"].items():
        row = [_triple(curve[name]["crps"]["value"], 4) for name in ("ridge-gaussian", "default")]
        row += [_triple(curve[name]["axis_crps"]["value"], 4) for name in ("ridge-empirical", "default")]
        rows.append([count, *row])
    about = f"`{found['command']}`: {found['draws']} draws; commit {found['commit']}."
    plot = "![CRPS against the number of pairs: all features, and along the disease axis](pairs.png)"
    return [f"### {found['title']}", "", *_table(head, rows), plot, "", about, ""]


GAUSSIAN = (
    "cohort",
    "pairs",
    "ridge-gaussian",
    "default",
    "exact posterior",
    "share of the gap closed",
    "coverage",
)
CONVERTERS = (
    "cohort",
    "CRPS less ridge-gaussian's",
    "coverage, shortest gaps",
    "longest gaps",
    "disease axis less ridge-empirical's",
    "less rungs 1-3",
    "denoiser draws",
)
REAL = (
    "cohort",
    "people",
    "CRPS less best simple peer's",
    "RMSE less best simple peer's",
    "CRPS less ridge-gaussian's",
    "coverage",
    "denoiser kept",
    "CRPS less rungs 1-3",
)

RUNGS = """## What the rungs of the default preset earn

People held out whole; CRPS with 99 draws, in baseline SD; coverage is the share of true values between the 5th and the
95th smallest draw, 0.900 nominal. Simple peers: carry-forward, the same with mean change, ridge, ridge-gaussian, and
ridge-empirical (every principal component of the residuals distributed as it was); the best one is the best on these
very people. Below zero is better than the peer. Rungs 1-3 are the default preset without its denoiser: mean, spread,
and the empirical distributions of features and components. The disease axis is the simulated direction of conversion.
"""

CHECKS = """Few evaluations of the denoiser are held against many on the same people. Copies: the share of draws whose
change from baseline is twice as near to that of a training person as to that of any of as many held-out people, less
the share of the opposite; zero where nobody was copied, and the check fails where it is clearly above 0.01. Nearer: the
share that is nearer at all, 0.50 where training people have left no trace; beside it that of ridge-gaussian, which
holds no person, only a covariance that was learned from the same few people.
"""

ABLATIONS = """## Ablations

Every variant is fitted with the same seed on the same people and scored on the same held-out people; differences come
from the same bootstrap resamples, and above zero is worse than the first line.
"""


def gradients() -> list[str]:
    """The gain by projecting conflicting task gradients."""
    found = _read("gradients")
    lines = [GRADIENTS] if found else []
    head = ("variant", "CRPS", "less gate and clip's", "seeds below zero", "r draw", "coverage", "steps skipped")
    for each in found.values():
        rows = (_gradients_row(name, each) for name in each["variants"])
        lines += _section(each["title"], head, rows)
        lines += [f"`{each['command']}`: {each['seeds']} seeds, 19 draws; commit {each['commit']}.", ""]
    return lines


def _gradients_row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    variant = found["variants"][name]
    below = sum(difference < 0 for difference in variant["crps"]["by_seed"])
    return (
        name,
        f"{variant['crps']['value'][0]:.4f}",
        _triple(variant["crps"]["difference"], 4, sign=True),
        f"{below} of {found['seeds']}",
        _triple(variant["pearson_draw"]["value"]),
        _triple(variant["coverage_90"]["value"]),
        str(sum(part["skipped"] for part in found["training"][name])),
    )


GRADIENTS = """## What projecting task gradients earns

The published preset with three tasks, fitted with each way of combining their gradients; people held out whole.
Projection is an addition of this library: what the paper calls gradient manipulation is the gate and the clip.
Intervals are over people of all seeds together; below zero is better than gate and clip. How far a seed goes is in its
column: training is chaotic, and five seeds are few.

The tasks hardly conflict (mean cosines of their gradients from 0.2 to 0.9), so PCGrad has little to project. What
decides is the gate: in the simulated cohort the first gradients are above it, all their steps are skipped, and patience
ends before much is learned. Nothing is skipped without it, nor with UPGrad, whose weights on gradients that agree are
those of their mean, a third of their sum. So `default`, whose denoisers have one task and nothing to project, has no
gate; `paper` keeps the published one, and `gradients="upgrad"` is worth trying with it where steps are skipped.
`compare` has both as `paper-pcgrad` and `paper-upgrad`; the tables above are older than these names.
"""


def bed() -> list[str]:
    """Scores of the default preset on cohorts of many kinds, and the accuracy of its own judgement."""
    file = RESULTS / "cohorts.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    lines = [BED, *(f"- {line}" for line in bed_scores.summary_text(found["summary"]).splitlines()), ""]
    lines += _table(bed_scores.HEAD, map(bed_scores.row, found["tasks"]))
    commits = sorted({each["commit"] for each in found["tasks"]})
    processors = sorted({each["processor"] for each in found["tasks"]})
    about = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}; processor {', '.join(processors)}"
    return [*lines, f"`python benchmarks/cohorts.py`, {found['draws']} draws; {about}.", ""]


BED = """## A bed of cohorts

Real cohorts whole and cut, and simulated ones in hard forms; a change of the default preset is judged by all of them.
People and families are held out whole. A name holds the cohort, the pairs learned from where they are cut, and the
features; `unpaired` tasks learn from further people's first visits too. CRPS in baseline SD, with 99 draws. Relative:
the default preset's by that of the best simple peer on these very people, with a 95 % interval over people (not over
who is learned from); simple peers are a mixed model for each feature, a ridge for each feature, ridge-gaussian,
ridge-empirical, carry-forward-gaussian, and miceforest where features and pairs are few. Place: tied where the interval
of the difference holds zero. Off: what the preset expected of itself less what came, as a share of that, and the
standard error over choices of people; beyond: by how much more than chance explains, by which people's mean absolute
change differs between the few who are learned from and those who are judged.
"""
