"""Whether draws are copies of training people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from .metrics import interval, resamples

# Share of held-out people that are, by definition, as near to a training person as what counts as a copy.
COPY_SHARE = 0.01
# Copies may be this many times as frequent before the check fails, the interval considered.
TOLERANCE = 2.0
BOOTSTRAPS = 500


@dataclass(frozen=True)
class Memorisation:
    """nearer : share of draws nearer to a training person than the true follow-up is; .5 where both are alike.

    copies : share of draws nearer to a training person than 99 % of the true follow-ups are; .01 where both are alike.
    Both as (value, low, high), 95 % intervals over people. passes : copies are not clearly more frequent than twice
    that.
    """

    nearer: tuple[float, float, float]
    copies: tuple[float, float, float]

    @property
    def passes(self) -> bool:
        return self.copies[1] <= TOLERANCE * COPY_SHARE


def memorisation(
    drawn: np.ndarray, truth: np.ndarray, learned: np.ndarray, unit: np.ndarray, seed: int = 0
) -> Memorisation:
    """Compare distances to the nearest training person of draws and of what was really measured.

    drawn (M, N, D) and truth (N, D) : changes from baseline of people held out, in baseline SD;  learned (P, D) : those
    of the training pairs. Changes and not levels, because a copied change shows whatever the baseline it is added to.
    People with a missing cell are left out. unit (N,): resampled together.
    """
    rows = np.isfinite(truth).all(axis=1)
    learned = learned[np.isfinite(learned).all(axis=1)]
    drawn, truth, unit = drawn[:, rows], truth[rows], unit[rows]
    real = cdist(truth, learned).min(axis=1)
    made = np.stack([cdist(draw, learned).min(axis=1) for draw in drawn])
    weights = resamples(unit, BOOTSTRAPS, seed)
    near = np.quantile(real, COPY_SHARE)
    return Memorisation(
        _share((made < real).mean(axis=0), weights),
        _share((made < near).mean(axis=0), weights),
    )


def _share(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    return interval(weights @ values / weights.sum(axis=1))
