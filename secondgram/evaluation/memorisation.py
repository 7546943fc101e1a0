"""Whether draws are copies of training people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from .metrics import interval, resamples

# The share of draws that may be nearer to training people than to strangers before the check fails, the interval
# considered. Two sets of people differ a little even where nothing was copied.
LIMIT = 0.55
# Equally large parts of the larger of the two sets, over which the share is averaged.
PARTS = 20
BOOTSTRAPS = 500


@dataclass(frozen=True)
class Memorisation:
    """nearer : share of draws nearer to a training person than to any of as many held-out people, (value, low, high).

    One half where the training people have left no more trace than people never seen; 95 % interval over people.
    """

    nearer: tuple[float, float, float]

    @property
    def passes(self) -> bool:
        """The share is not clearly above `LIMIT`."""
        return self.nearer[1] <= LIMIT


def memorisation(
    drawn: np.ndarray, truth: np.ndarray, learned: np.ndarray, unit: np.ndarray, seed: int = 0
) -> Memorisation:
    """Compare a draw's distance to the nearest training person with that to the nearest person held out.

    drawn (M, N, D) and truth (N, D) : changes from baseline of people held out, in baseline SD;  learned (P, D) : those
    of the training pairs;  unit (N,): people resampled together, whose own changes count for none of their draws.
    Changes and not levels, because a copied change shows whatever the baseline it is added to. People with a missing
    cell are left out.
    """
    rows = np.isfinite(truth).all(axis=1)
    learned = learned[np.isfinite(learned).all(axis=1)]
    drawn, truth, unit = drawn[:, rows], truth[rows], unit[rows]
    size = min(len(learned), len(truth) - 1)
    rng = np.random.default_rng(seed)
    own = unit[:, None] == unit[None, :]
    share = np.zeros(len(truth))
    for draw in drawn:
        to_trained, to_held = cdist(draw, learned), np.where(own, np.inf, cdist(draw, truth))
        for _ in range(PARTS):
            trained = to_trained[:, rng.permutation(len(learned))[:size]].min(axis=1)
            # One more is drawn than is needed, because one is the person's own.
            held = to_held[:, rng.permutation(len(truth))[: size + 1]].min(axis=1)
            share += (trained < held) + 0.5 * (trained == held)
    weights = resamples(unit, BOOTSTRAPS, seed)
    return Memorisation(interval(weights @ (share / (PARTS * len(drawn))) / weights.sum(axis=1)))
