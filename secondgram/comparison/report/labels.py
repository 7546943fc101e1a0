"""Numbers, names and counts as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ...evaluation.metrics import HEADINGS, Estimate
from ..methods import TITLES

MINUS, DASH, SPACE = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"
MEANS = {
    "carry_forward": "carry-forward",
    "mean_change": "mean change by covariates and gap",
    "own": "the feature's own baseline",
    "self_conditioned": "self-conditioning",
    "ridge": "ridge",
    "self_conditioned_ridge": "ridge after self-conditioning",
    "gap_ridge": "ridge by gap",
    "blend": "a blend",
}
TASKS = {"paired": "people scanned twice", "self_clean": "own baseline", "self_noised": "own baseline, noised"}


def method(name: str) -> str:
    """A method as a sentence names it."""
    return TITLES.get(name, name)


def heading(metric: str) -> str:
    """A metric as a column names it."""
    return HEADINGS.get(metric, metric.replace("_", " "))


def plain(name: str) -> str:
    """A name of the program's as words."""
    return MEANS.get(name, name.replace("_", " "))


def typeset(text: str) -> str:
    """A sentence of the program's with the signs of print."""
    return re.sub(r"(?<=[\s(])-(?=\d)", MINUS, text.replace("+-", "±"))


def number(value: float | None, digits: int = 3) -> str:
    """Fixed decimals with a real minus sign; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    text = number(value, digits)
    return text if value is None or text == DASH or value <= 0 or float(text) == 0 else f"+{text}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return DASH if share is None or not math.isfinite(share) else f"{number(100 * share, digits)}{SPACE}%"


def interval(estimate: Estimate, digits: int = 3) -> str:
    """ "0.203 (0.190 to 0.216)"."""
    if not estimate.known:
        return DASH
    value, low, high = estimate
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def difference(estimate: Estimate, unit: str = f"{SPACE}%", digits: int = 1) -> str:
    """ "−12.3 % (−15.0 to −9.8)"."""
    if not estimate.known:
        return DASH
    value, low, high = estimate
    return f"{signed(value, digits)}{unit} ({signed(low, digits)} to {signed(high, digits)})"


def shares(estimate: Estimate, digits: int = 1) -> str:
    """ "92.4 % (91.3 to 93.6)" from shares."""
    if not estimate.known:
        return DASH
    value, low, high = (100 * each for each in estimate)
    return f"{number(value, digits)}{SPACE}% ({number(low, digits)} to {number(high, digits)})"


def amount(count: int) -> str:
    """A number in a sentence: "none" for zero."""
    return f"{count:,}" if count else "none"


def count(amount: int, one: str, many: str | None = None) -> str:
    """ "1 feature", "2,000 features"."""
    return f"{amount:,}{SPACE}{one if amount == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
