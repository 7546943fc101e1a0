"""The section of docs/results.md on wins, ties and losses of the library, from runs of every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from results_page import _table

from secondgram.evaluation.metrics import FURTHER, METRICS, Estimate, win_tie_loss

FILE = "standing.json"
OURS = "default"
PEERS = {"ours_carry": "carry-forward", "ours_ridge": "ridge-gaussian"}
WORDS = ("better", "tie", "worse")


def kept(run: Path) -> dict[str, Any]:
    """Of the evidence of a run: each feature's difference in error to the two simple methods, in per cent."""
    features = json.loads((run / "evidence.json").read_text(encoding="utf-8"))["content"]["features"]
    found = {peer: features[key] for key, peer in PEERS.items() if key in features}
    return {"feature": features["name"], **found}


def section(runs: list[tuple[str, Path]]) -> list[str]:
    """runs : title and folder of each, with `standing.json` and `table.csv`; nothing without them."""
    runs = [(title, folder) for title, folder in runs if (folder / FILE).exists()]
    if not runs:
        return []
    lines = [PREFACE]
    counts, beaten, metrics, lost = [], [], [], []
    for title, folder in runs:
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / "table.csv")
        row = [title]
        for peer in PEERS.values():
            words = [win_tie_loss(Estimate.of(each)) for each in stored[peer]]
            row += [str(words.count(word)) for word in WORDS]
            lost += [
                [title, name, peer, f"{triple[0]:+.1f} % ({triple[1]:+.1f} to {triple[2]:+.1f})"]
                for name, triple, word in zip(stored["feature"], stored[peer], words, strict=True)
                if word == "worse"
            ]
        counts.append(row)
        beaten.append([title, *_beside(table)])
        ours = table[(table["method"] == OURS) & table["metric"].isin([*METRICS, *FURTHER])]
        metrics.append([title, *(_names(ours[ours["verdict"] == word]["metric"]) for word in WORDS)])
    head = [f"{word}, {peer}" for peer in PEERS.values() for word in WORDS]
    lines += ["### Features", "", *_table(("cohort", *head), counts)]
    if lost:
        lines += ["### Features on which it is worse", "", *_table(("cohort", "feature", "than", "error"), lost)]
    else:
        lines += ["On no feature is it clearly worse than either.", ""]
    lines += ["### Metrics, against ridge-gaussian", "", *_table(("cohort", *WORDS), metrics)]
    return [*lines, "### The best of the other methods", "", *_table(BESIDE, beaten)]


def _names(metrics: pd.Series) -> str:
    return ", ".join(metrics) or "none"


def _beside(table: pd.DataFrame) -> list[str]:
    """CRPS of ours, and the best of the others but the exact posterior."""
    crps = table[(table["metric"] == "crps") & (table["method"] != "exact-posterior")].set_index("method")
    others = crps.drop(index=OURS)["value"].dropna()
    best = str(others.idxmin())
    cells = [f"{crps.loc[name, 'value']:.4f} ({crps.loc[name, 'low']:.4f} to {crps.loc[name, 'high']:.4f})"
             for name in (OURS, best)]  # fmt: skip
    return [cells[0], best, cells[1], "yes" if crps.loc[OURS, "value"] < others.min() else "no"]


BESIDE = ("cohort", "CRPS of secondgram", "best other method", "its CRPS", "is secondgram ahead")
PREFACE = """## Where it wins, ties and loses

The preset `default` in the runs of every method above. A feature or metric is better or worse where the 95 % interval
of the difference leaves out zero, and ties where it holds it. Against carry-forward the root mean squared error of the
point prediction counts, against ridge-gaussian the CRPS of the draws. With a few dozen people held out many features
tie; and because each feature has an interval of its own, one in forty would look worse by chance where nothing differs.
"""
