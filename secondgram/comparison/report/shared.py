"""What the sections share: whom the report is about, names of groups, and scales of intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...evaluation.metrics import Estimate
from . import labels

EvidenceContent = dict[str, Any]
# Longer lists are cut or folded.
FIRST = 8
KINDS = {"better": "Better", "tie": "Ties", "worse": "Worse"}
GROUPS = {
    "gap": "Years between the visits",
    "shown": "Visits that are shown",
    "age": "Age at baseline",
    "sex": "Sex",
    "site": "Site",
}


def ours(evidence: EvidenceContent) -> str:
    """The method that the report is about."""
    return labels.method(evidence["roles"]["ours"])


def judged(run: dict[str, Any]) -> str:
    """How many people or hidden visits were scored."""
    count = int(run["people"])
    return labels.count(count, "hidden visit") if "task" in run else labels.count(count, "person", "people")


def upper(text: str) -> str:
    """As the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def strip_ends(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of a scale for many differences, zero among them."""
    values = [v for estimate in estimates for v in estimate if math.isfinite(v)] or [0.0]
    # Of many intervals a few very wide ones would flatten the others.
    cut = 0.02 if len(estimates) > 40 else 0.0
    low, high = (float(v) for v in np.quantile(values, [cut, 1.0 - cut]))
    low, high = min(low, 0.0), max(high, 0.0)
    space = 0.05 * (high - low) or 1.0
    return low - space, high + space
