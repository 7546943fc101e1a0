"""What each rung of the default preset earned, and what is used for each feature and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .base import CANDIDATES, MeanPredictor
from .folds import standard_error, standard_errors, unit_averages, unit_sums
from .margins import Margins
from .spread import Spread

# Half the width of a 95 % interval, in standard errors.
WIDTH = 1.96


@dataclass(frozen=True, eq=False)
class Judged:
    """CRPS (P, D) of the rungs on people they were not fitted on, from the out-of-fold errors of training pairs.

    change : true change, left : what the mean leaves;  both (P, D), scaled, NaN where unknown.
    carried : of carry-forward with a Gaussian of its own errors;  mean : of the mean, likewise;  spread : with the
    spread chosen;  margins : with the margins chosen.
    """

    names: Sequence[str]
    unit: np.ndarray
    weight: np.ndarray
    change: np.ndarray
    left: np.ndarray
    carried: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    margins: Margins

    def _per_unit(self, score: np.ndarray) -> np.ndarray:
        return unit_averages(np.nanmean(score, axis=1), self.weight, self.unit)

    def ladder(
        self, mean: MeanPredictor, spread: Spread, components: Margins, shape: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """One dict a rung: rung, choice, crps, difference to the rung before and its standard error, reason."""
        counts = Counter(mean.chosen)
        features = ", ".join(f"{name} for {counts[name]}" for name in CANDIDATES if counts[name])
        blend = ", ".join(f"{w:.2f} {name}" for name, w in mean.weights.items() if w > 0.005)
        spreads = f"slopes: {spread.candidate}" if spread.candidate != "constant" else "one a feature"
        rungs = [
            ("carry-forward", "no change", self.carried, "A Gaussian of its own errors"),
            ("mean", mean.winner, self.mean, f"Features: {features}. Blend: {blend or 'nothing'}"),
            ("spread", spreads, self.spread, "Errors' size by covariates, gap and baseline"),
            ("margins", self.margins.choice, self.margins.score, "Distribution of the standardised errors"),
        ]
        found, before = [], None
        for rung, choice, score, reason in rungs:
            now = self._per_unit(score)
            gain = np.zeros(len(now)) if before is None else now - before
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

    def features(self, mean: MeanPredictor) -> dict[str, list[Any]]:
        """Columns of `verdict_table`, one entry a feature."""
        weight = self.weight[:, None] * np.isfinite(self.change)
        count = np.maximum(weight.sum(axis=0), 1e-12)

        def average(score: np.ndarray) -> np.ndarray:
            return (weight * np.where(weight > 0, score, 0.0)).sum(axis=0) / count

        fall = np.where(weight > 0, self.margins.score - self.carried, 0.0) * weight
        per_unit = unit_sums(fall, self.unit) / (count / len(np.unique(self.unit)))
        return {
            "feature": list(self.names),
            "mean": list(mean.chosen),
            "rmse_carry_forward": np.sqrt(average(self.change**2)).tolist(),
            "rmse": np.sqrt(average(self.left**2)).tolist(),
            "crps_carry_forward": average(self.carried).tolist(),
            "crps": average(self.margins.score).tolist(),
            "difference": per_unit.mean(axis=0).tolist(),
            "error": standard_errors(per_unit).tolist(),
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
    # In this order, whatever order they were kept in.
    table = table[["mean", "rmse_carry_forward", "rmse", "crps_carry_forward", "crps", "difference"]].copy()
    table["low"] = table["difference"] - WIDTH * error
    table["high"] = table["difference"] + WIDTH * error
    share = 100 * table["difference"] / table["crps_carry_forward"]
    words = np.where(
        table["mean"] == "carry_forward",
        "carried forward: no predictor was better",
        np.where(
            table["high"] < 0,
            [f"imputed: CRPS {-value:.0f} % below carry-forward's" for value in share],
            "imputed, but not clearly better than carry-forward",
        ),
    )
    table["verdict"] = words
    return table
