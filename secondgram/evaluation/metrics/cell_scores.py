"""What is kept of every draw to score a method: small arrays, cell by cell and person by person."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from ...errors import InputError
from ...imputation.scores import crps
from .multivariate import Yardstick, joint_scores

# A follow-up this many baseline SD below the baseline, or more, is a large loss.
LARGE_LOSS = 0.5
# Share of the draws on either side of a central interval, by its nominal coverage in percent.
TAILS = {50: 0.25, 80: 0.1, 90: 0.05, 95: 0.025}


@dataclass(eq=False)
class Cells:
    """Scores cell by cell, (N, D) each, NaN where the truth is unknown.

    truth, baseline, mean, draw : scaled values; `draw` is the first draw.
    crps : in scaled units.  covered : 1 or 0, NaN throughout for a method with a single draw.
    unit : (N,) text; people of one unit are resampled together.
    draws : M, how many draws were scored.
    below, upto : how many draws are below the truth, and how many are not above it.
    spread, miss : variance of the draws, NaN for a single draw, and squared error of their average.
    tail : Brier score of the chance of a large loss.
    ids : (N,) text;  gap : (N,) years from baseline to follow-up;  both None where nobody gave them.
    joint : scores of a person's whole visit by name, (N,) or (N, K); empty without a yardstick.
    """

    truth: np.ndarray
    baseline: np.ndarray
    mean: np.ndarray
    draw: np.ndarray
    crps: np.ndarray
    covered: np.ndarray
    unit: np.ndarray
    draws: int
    below: np.ndarray
    upto: np.ndarray
    spread: np.ndarray
    miss: np.ndarray
    tail: np.ndarray
    ids: np.ndarray | None = None
    gap: np.ndarray | None = None
    joint: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        truth: np.ndarray,
        baseline: np.ndarray,
        mean: np.ndarray,
        draws: np.ndarray,
        unit: np.ndarray,
        *,
        ids: np.ndarray | None = None,
        gap: np.ndarray | None = None,
        yardstick: Yardstick | None = None,
    ) -> Cells:
        """truth, baseline, mean (N, D), draws (M, N, D), all scaled; raises `InputError` for draws that hold NaN.

        yardstick : what whole visits are measured along; without one there are no joint scores.
        """
        if np.isnan(draws).any() or np.isnan(mean).any():
            raise InputError("the imputed values hold NaN", mend="Evaluate a complete imputation")
        unknown = np.isnan(truth)
        covered = np.full(truth.shape, np.nan)
        spread = np.full(truth.shape, np.nan)
        if len(draws) > 1:
            low, high = central_interval(draws)
            covered = np.where(unknown, np.nan, (truth >= low) & (truth <= high))
            spread = np.where(unknown, np.nan, draws.var(axis=0, ddof=1))
        return cls(
            truth,
            baseline,
            mean,
            draws[0],
            crps(draws, truth),
            covered,
            unit,
            len(draws),
            below=np.where(unknown, np.nan, (draws < truth).sum(axis=0)),
            upto=np.where(unknown, np.nan, (draws <= truth).sum(axis=0)),
            spread=spread,
            miss=(draws.mean(axis=0) - truth) ** 2,
            tail=_tail_brier(truth - baseline, draws - baseline),
            ids=ids,
            gap=gap,
            joint={} if yardstick is None else joint_scores(draws, truth, yardstick),
        )

    @classmethod
    def joined(cls, parts: list[Cells]) -> Cells:
        """The cells of several sets of people, one after the other."""
        joined: dict[str, object] = {"draws": parts[0].draws, "joint": {}}
        for name in (each.name for each in fields(cls) if each.name not in joined):
            values = [getattr(part, name) for part in parts]
            joined[name] = None if any(value is None for value in values) else np.concatenate(values)
        if all(part.joint for part in parts):
            joined["joint"] = {name: np.concatenate([part.joint[name] for part in parts]) for name in parts[0].joint}
        return cls(**joined)  # type: ignore[arg-type]

    def covered_at(self, level: int) -> np.ndarray:
        """(N, D) 1 where the truth lies in the central interval of `level` percent, else 0; NaN where it is unknown.

        NaN throughout where the draws are too few for an interval this wide: 95 % needs 39.
        """
        if level == 90:
            return self.covered
        tail = TAILS[level]
        if self.draws == 1 or tail * (self.draws + 1) < 1.0 - 1e-9:
            return np.full(self.truth.shape, np.nan)
        return self.inside(interval_rank(self.draws, level))

    def inside(self, k: int) -> np.ndarray:
        """(N, D) 1 where the truth lies between the k-th smallest and the k-th largest of the draws, else 0, or NaN."""
        return np.where(np.isnan(self.below), np.nan, (self.upto >= k) & (self.below <= self.draws - k))


def interval_rank(draws: int, level: int = 90) -> int:
    """k such that the k-th smallest and k-th largest of M draws hold about `level` percent: 5 of 99, 1 of 20."""
    return max(1, round(TAILS[level] * (draws + 1)))


def nominal_coverage(draws: int, level: int = 90) -> float:
    """Chance that a further draw falls inside that interval, (M + 1 - 2k) / (M + 1): 0.9 of 99, 0.905 of 20."""
    return (draws + 1 - 2 * interval_rank(draws, level)) / (draws + 1)


def central_interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central 90 % interval of draws (M, ...) by their order statistics."""
    k = interval_rank(len(draws))
    ordered = np.sort(draws, axis=0)
    return ordered[k - 1], ordered[-k]


def _tail_brier(change: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Brier score (1950) of the drawn chance of a large loss, fair for any number of draws (Ferro 2014).

    change (N, D) and drawn (M, N, D) from the baseline; NaN where the change is unknown.
    """
    count = len(drawn)
    chance = (drawn <= -LARGE_LOSS).mean(axis=0)
    score = (chance - (change <= -LARGE_LOSS)) ** 2
    if count > 1:
        score = score - chance * (1.0 - chance) / (count - 1)
    return np.where(np.isnan(change), np.nan, score)
