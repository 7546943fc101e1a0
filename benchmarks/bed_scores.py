"""Scores of benchmarks/cohorts.py: errors relative to a peer, task by task, and their summary over the bed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from secondgram.evaluation.metrics import cell_mean, interval, resamples, win_tie_loss
from secondgram.evaluation.metrics.bootstrap import over_features

BOOTSTRAPS = 1000
STANDINGS = {"better": "first", "tie": "tied", "worse": "behind"}
# Pairs from which on coverage, and the ladder's judgement of itself, are held to their bounds.
COVERAGE_PAIRS, JUDGEMENT_PAIRS = 20, 50
Interval = tuple[float, float, float]


@dataclass(eq=False)
class Scores:
    """(N, D) of the judged people of all splits, NaN where nothing is known: CRPS, squared error, covered or not."""

    crps: np.ndarray
    square: np.ndarray
    covered: np.ndarray


def averages(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over people and then over features: values (N, D), weights (B, N) -> (B,)."""
    return over_features(cell_mean(values, weights))


def relative(ours: np.ndarray, theirs: np.ndarray, unit: np.ndarray) -> tuple[Interval, str]:
    """Our error by theirs with a 95 % interval over units, and our standing by that of the difference.

    ours, theirs : (N, D) errors, NaN where unknown;  unit : (N,) people who are resampled together share one.
    """
    weights = resamples(unit, BOOTSTRAPS, 0)
    one, other = averages(ours, weights), averages(theirs, weights)
    return interval(one / other), STANDINGS[win_tie_loss(interval(one - other))]


def compared(peers: dict[str, Scores], default: Scores, unit: np.ndarray, names: list[str]) -> dict[str, Any]:
    """One task: every method's CRPS, RMSE and coverage, and `default` against the peer of the lowest CRPS."""
    once = np.ones((1, len(unit)))
    methods = {
        name: {
            "crps": float(averages(each.crps, once)[0]),
            "rmse": float(np.sqrt(averages(each.square, once)[0])),
            "coverage": float(averages(each.covered, once)[0]),
        }
        for name, each in (peers | {"default": default}).items()
    }
    best = min(peers, key=lambda name: methods[name]["crps"])
    ratio, place = relative(default.crps, peers[best].crps, unit)
    weights = resamples(unit, BOOTSTRAPS, 0)
    squares = averages(default.square, weights) / averages(peers[best].square, weights)
    by_feature = cell_mean(default.crps, once)[0] / cell_mean(peers[best].crps, once)[0]
    worst = np.argsort(-np.where(np.isfinite(by_feature), by_feature, -np.inf))[:3]
    return {
        "methods": methods,
        "best": best,
        "relative_crps": ratio,
        "relative_rmse": interval(np.sqrt(squares)),
        "standing": place,
        "coverage": methods["default"]["coverage"],
        "features_behind": float(np.nanmean(by_feature > 1)),
        "worst_features": {names[feature]: float(by_feature[feature]) for feature in worst},
    }


def judgement(expected: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Expected scores of people not seen, beside held-out ones: (S, D) of splits and features, NaN where unknown.

    off : their ratio less one.  error : its standard error by the splits, 0 where there is one.
    """
    known = np.isfinite(expected) & np.isfinite(held_out)
    each = np.stack([over_features(np.where(known, values, np.nan)) for values in (expected, held_out)])
    each = each[:, np.isfinite(each).all(axis=0)]
    means = each.mean(axis=1)
    ratio = means[0] / means[1]
    left = each[0] - ratio * each[1]
    error = left.std(ddof=1) / np.sqrt(len(left)) / means[1] if len(left) > 1 else 0.0
    return {
        "expected": float(means[0]),
        "held_out": float(means[1]),
        "off": float(ratio) - 1.0,
        "error": float(error),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Over tasks, with 95 % intervals from resampled tasks; a task in which `default` failed counts as behind.

    results : one dict a task, as `cohorts.run` returns it.
    """
    through = [each for each in results if "failed" not in each]
    found: dict[str, Any] = {"tasks": len(results), "failed": [e["task"] for e in results if "failed" in e]}
    if not through:
        return found
    weights = resamples(np.array([each["task"] for each in through]), BOOTSTRAPS, 0)

    def mean(values: list[float]) -> Interval:
        column = np.array(values, dtype=float)[:, None]
        return interval(cell_mean(column, weights)[:, 0])

    ratio = [each["relative_crps"][0] for each in through]
    beyond = {each["task"]: beyond_chance(each) for each in through}
    covered = {each["task"]: each["coverage"] for each in through if each["pairs"] >= COVERAGE_PAIRS}
    off = {each["task"]: each["judgement"]["off"] for each in through}
    enough = [each["task"] for each in through if each["pairs"] >= JUDGEMENT_PAIRS]
    found |= {
        "relative_crps": mean(ratio),
        "worst": _extreme({each["task"]: value for each, value in zip(through, ratio, strict=True)}, max),
        "first_or_tied": sum(each["standing"] != "behind" for each in through) / len(results),
        "first": sum(each["standing"] == "first" for each in through) / len(results),
        "lowest_coverage": _extreme(covered, min),
        "highest_coverage": _extreme(covered, max),
        "judgement_off": mean(list(off.values())),
        "judgement_of_carry_forward_off": mean([each["judgement_of_carry_forward"]["off"] for each in through]),
        "judgement_off_beyond_chance": mean(list(beyond.values())),
        "judgement_worst": _extreme({task: off[task] for task in enough}, max, key=abs),
        "judgement_worst_beyond_chance": _extreme({task: beyond[task] for task in enough}, max, key=abs),
    }
    return found


def beyond_chance(found: dict[str, Any]) -> float:
    """Error of a task's judgement beyond chance.

    Few people who learn differ by chance from those who are judged: by so much, the mean absolute change of the first
    is off that of the second.
    """
    return (1.0 + found["judgement"]["off"]) / (1.0 + found["chance"]["off"]) - 1.0


def _extreme(values: dict[str, float], which: Any, key: Callable[[float], float] = float) -> list[Any] | None:
    """[task, value], or None without tasks."""
    task = which(values, key=lambda name: key(values[name]), default=None)
    return None if task is None else [task, values[task]]


HEAD = (
    "task",
    "pairs",
    "D",
    "best peer",
    "its CRPS",
    "default",
    "relative (95 %)",
    "RMSE rel.",
    "cover",
    "off %",
    "beyond %",
    "place",
)


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a task below `HEAD`.

    off: expected less held-out CRPS, as a share of it, and its standard error; the same beyond chance.
    """
    head = (found["task"], str(found["pairs"]), str(found["features"]))
    if "failed" in found:
        return (*head, "failed: " + found["failed"], *[""] * (len(HEAD) - 4))
    value, low, high = found["relative_crps"]
    return (
        *head,
        found["best"],
        f"{found['methods'][found['best']]['crps']:.4f}",
        f"{found['methods']['default']['crps']:.4f}",
        f"{value:.3f} ({low:.3f} to {high:.3f})",
        f"{found['relative_rmse'][0]:.3f}",
        f"{found['coverage']:.3f}",
        f"{100 * found['judgement']['off']:+.1f} ({100 * found['judgement']['error']:.1f})",
        f"{100 * beyond_chance(found):+.1f}",
        found["standing"],
    )


def table(results: list[dict[str, Any]]) -> str:
    """One line a task, in columns."""
    rows = [HEAD, *map(row, results)]
    wide = [max(len(cells[column]) for cells in rows if "failed" not in cells[3]) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(cells, wide, strict=True)).rstrip() for cells in rows
    )


def summary_text(found: dict[str, Any]) -> str:
    """A summary in words and figures."""
    if "relative_crps" not in found:
        return f"{found['tasks']} tasks, none came through"

    def triple(values: Interval, form: str = ".3f", times: float = 1.0) -> str:
        value, low, high = (format(times * number, form) for number in values)
        return f"{value} ({low} to {high})"

    def extreme(pair: list[Any] | None, times: float = 1.0, form: str = ".3f") -> str:
        return "none" if pair is None else f"{times * pair[1]:{form}} ({pair[0]})"

    lines = [
        f"{found['tasks']} tasks; failed: {', '.join(found['failed']) or 'none'}",
        f"CRPS by that of the best peer: {triple(found['relative_crps'])}, worst {extreme(found['worst'])}",
        f"first or tied on {100 * found['first_or_tied']:.0f} %, first on {100 * found['first']:.0f} %",
        f"coverage of 90 % with {COVERAGE_PAIRS} pairs or more: "
        f"{extreme(found['lowest_coverage'])} to {extreme(found['highest_coverage'])}",
        f"expected less held-out CRPS, %: {triple(found['judgement_off'], '+.1f', 100)}, of carry-forward "
        f"{triple(found['judgement_of_carry_forward_off'], '+.1f', 100)}, beyond chance "
        f"{triple(found['judgement_off_beyond_chance'], '+.1f', 100)}",
        f"with {JUDGEMENT_PAIRS} pairs or more at most {extreme(found['judgement_worst'], 100, '+.1f')}, "
        f"beyond chance {extreme(found['judgement_worst_beyond_chance'], 100, '+.1f')}",
    ]
    return "\n".join(lines)
