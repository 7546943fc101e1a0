"""Whether draws are copies of training people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from .metrics import Estimate, interval, resamples

# A draw is a copy of what it is this many times nearer to than to anybody else.
COPY_RATIO = 2.0
# Copies may be this share of the draws before the check fails, the interval considered.
LIMIT = 0.01
# Equally large parts of the larger of the two sets, over which the shares are averaged.
PARTS = 20
BOOTSTRAPS = 500


@dataclass(frozen=True)
class Memorisation:
    """Shares of draws, with 95 % intervals over people.

    nearer : nearer to a training person than to any of as many held-out people. One half where training people have
        left no trace; any model whose covariance was learned from few people lies above it, because its draws vary in
        the directions in which these people did. Read it beside that of a Gaussian fitted to the same people.
    copies : twice as near to a training person as to any held-out person, less the share of the opposite. Zero where
        nobody was copied.
    """

    nearer: Estimate
    copies: Estimate

    @property
    def passes(self) -> bool:
        """Copies are not clearly more than `LIMIT`."""
        return self.copies.low <= LIMIT


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
    nearer, copies = np.zeros(len(truth)), np.zeros(len(truth))
    for draw in drawn:
        to_trained, to_held = cdist(draw, learned), np.where(own, np.inf, cdist(draw, truth))
        for _ in range(PARTS):
            trained = to_trained[:, rng.permutation(len(learned))[:size]].min(axis=1)
            # One more is drawn than is needed, because one is the person's own.
            held = to_held[:, rng.permutation(len(truth))[: size + 1]].min(axis=1)
            nearer += (trained < held) + 0.5 * (trained == held)
            copies += 1.0 * (COPY_RATIO * trained < held) - 1.0 * (COPY_RATIO * held < trained)
    weights = resamples(unit, BOOTSTRAPS, seed)
    shares = (weights @ (each / (PARTS * len(drawn))) / weights.sum(axis=1) for each in (nearer, copies))
    return Memorisation(*(interval(share) for share in shares))
