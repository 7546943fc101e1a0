"""Verdict of the default preset: the gain by each rung, and for each feature the predictor in use, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..folds import standard_error, standard_errors, unit_sums
from .judgement import RUNGS, Judgement
from .margins import Margins
from .mean import CANDIDATES, MeanPredictor
from .spread import Spread

# Half the width of a 95 % interval, in standard errors.
WIDTH = 1.96


def ladder_rows(
    judgement: Judgement,
    mean: MeanPredictor,
    spread: Spread,
    margins: Margins,
    components: Margins,
    shape: dict[str, Any],
) -> list[dict[str, Any]]:
    """One dict a rung: rung, choice, crps, difference to the rung before and its standard error, reason."""
    counts = Counter(mean.chosen)
    features = ", ".join(f"{name} for {counts[name]}" for name in CANDIDATES if counts[name])
    blend = ", ".join(f"{w:.2f} {name}" for name, w in mean.weights.items() if w > 0.005)
    spreads = f"slopes: {spread.candidate}" if spread.candidate != "constant" else "one a feature"
    reasons = {
        "carry-forward": ("no change", "A Gaussian of its own errors"),
        "mean": (mean.winner, f"Features: {features}. Blend: {blend or 'nothing'}"),
        "spread": (spreads, "Errors' size by covariates, gap and baseline"),
        "margins": (margins.choice, "Distribution of the standardised errors"),
    }
    found: list[dict[str, Any]] = []
    before = None
    for rung, score in by_feature(judgement, mean.chosen).items():
        now = judgement.average(score)
        gain = np.zeros(len(now)) if before is None else now - before
        choice, reason = reasons[rung]
        found.append(_row(rung, choice, float(now.mean()), float(gain.mean()), standard_error(gain), reason))
        before = now
    gain, error = components.gain["own"]
    choice = f"components: {components.choice}"
    found.append(_row("correlation", choice, None, -gain, error, "CRPS of the components"))
    if shape["kept"]:
        found.append(_row("shape", "denoiser", None, -shape["gain"], shape["error"], shape["reason"]))
    else:
        found.append(_row("shape", "not used", None, None, None, shape["reason"]))
    return found


def feature_columns(
    judgement: Judgement, names: Sequence[str], mean: MeanPredictor, absent: np.ndarray, scarce: np.ndarray
) -> dict[str, list[Any]]:
    """Columns of `verdict_table`, one entry a feature; NaN for one that nobody was judged by.

    absent : (D,) bool, features that nobody's baseline has;  scarce : (D,) bool, those that next to nobody was measured
    on twice.
    """
    scores = by_feature(judgement, mean.chosen)
    carried, ours = scores["carry-forward"], scores["margins"]
    error = np.stack([judgement.errors[name][:, place] for place, name in enumerate(mean.chosen)], axis=1)
    known = np.isfinite(ours)
    weight = judgement.weight[:, None] * known
    count = np.where(weight.sum(axis=0) > 0, weight.sum(axis=0), np.nan)

    def average(score: np.ndarray) -> np.ndarray:
        return (weight * np.where(known, score, 0.0)).sum(axis=0) / count

    rows = known.any(axis=1)
    unit = judgement.unit[rows]
    fall = np.where(known, ours - carried, 0.0) * weight
    per_unit = unit_sums(fall[rows], unit) / (count / len(np.unique(unit)))
    return {
        "feature": list(names),
        "mean": list(mean.chosen),
        "absent": absent.tolist(),
        "scarce": scarce.tolist(),
        "rmse_carry_forward": np.sqrt(average(judgement.change**2)).tolist(),
        "rmse": np.sqrt(average(error**2)).tolist(),
        "crps_carry_forward": average(carried).tolist(),
        "crps": average(ours).tolist(),
        "difference": per_unit.mean(axis=0).tolist(),
        "error": standard_errors(per_unit).tolist(),
    }


def by_feature(judgement: Judgement, chosen: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores (P, D) by rung of what is used for each feature."""
    return {
        rung: np.stack([judgement.scores[name][rung][:, place] for place, name in enumerate(chosen)], axis=1)
        for rung in RUNGS
    }


def _row(
    rung: str, choice: str, crps: float | None, difference: float | None, error: float | None, reason: str
) -> dict[str, Any]:
    return {"rung": rung, "choice": choice, "crps": crps, "difference": difference, "error": error, "reason": reason}


def ladder_table(rungs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a rung, carry-forward first.

    Columns: choice; crps in baseline SD, on training people the rung was not fitted on; difference to the rung before,
    below zero is better, with its 95 % interval low, high over people; reason. What correlation and shape earn shows in
    the components of the residual: theirs is the CRPS of those, for the shape relative to what it was.
    """
    table = pd.DataFrame(rungs).set_index("rung")[["choice", "crps", "difference", "error", "reason"]]
    for column in ("crps", "difference", "error"):
        table[column] = table[column].astype(float)
    table.insert(3, "low", table["difference"] - WIDTH * table["error"])
    table.insert(4, "high", table["difference"] + WIDTH * table["error"])
    return table.drop(columns="error")


def verdict_table(features: dict[str, list[Any]]) -> pd.DataFrame:
    """One row a feature: what is used, what it earned against carry-forward, and whether to trust it.

    Columns: mean, the predictor used; rmse and crps in baseline SD on training people not fitted on, beside those of
    carry-forward (with a Gaussian of its own errors); difference of the CRPS with its 95 % interval low, high over
    people; verdict, in words.
    """
    table = pd.DataFrame(features).set_index("feature")
    error = table["error"]
    # A model of an earlier release does not say.
    absent, scarce = (
        table[name].to_numpy(dtype=bool) if name in table else np.zeros(len(table), dtype=bool)
        for name in ("absent", "scarce")
    )
    # In this order, whatever order they were kept in.
    table = table[["mean", "rmse_carry_forward", "rmse", "crps_carry_forward", "crps", "difference"]].copy()
    table["low"] = table["difference"] - WIDTH * error
    table["high"] = table["difference"] + WIDTH * error
    share = 100 * table["difference"] / table["crps_carry_forward"]
    other = np.where(absent, "the usual level's", "carry-forward's")
    table["verdict"] = np.select(
        [
            scarce,
            table["crps"].isna(),
            absent & (table["high"] < 0),
            absent,
            table["mean"] == "carry_forward",
            table["high"] < 0,
        ],
        [
            "not learned: too few people were measured twice, change and spread are the other features'",
            "imputed, and judged by nobody: too few people were measured",
            [
                f"no baseline: its level is imputed, CRPS {-value:.0f} % below {name}"
                for value, name in zip(share, other, strict=True)
            ],
            "no baseline: its level is imputed, not clearly better than the usual one",
            "carried forward: no predictor was better",
            [f"imputed: CRPS {-value:.0f} % below {name}" for value, name in zip(share, other, strict=True)],
        ],
        "imputed, but not clearly better than carry-forward",
    )
    return table
