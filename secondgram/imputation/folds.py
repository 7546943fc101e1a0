"""How parts of a model are judged on people they were not fitted on."""

from __future__ import annotations

import numpy as np

FOLDS = 5


def among(names: np.ndarray, some: np.ndarray) -> np.ndarray:
    """(N,) bool: which names (N,) are one of some (K,); numpy compares text with text, all with all."""
    chosen = set(some.tolist())
    return np.fromiter((name in chosen for name in names.tolist()), dtype=bool, count=len(names))


def unit_folds(unit: np.ndarray, seed: int, folds: int = FOLDS) -> np.ndarray:
    """Fold (P,) of each pair, 0 .. folds - 1; pairs of one unit share a fold."""
    names, member = np.unique(unit, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % min(folds, len(names)))[member]


def unit_sums(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(units, ...): sums over the pairs of each unit, because pairs of one unit are not independent."""
    member = np.unique(unit, return_inverse=True)[1]
    order = np.argsort(member, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(member[order], prepend=-1)))


def unit_averages(values: np.ndarray, weight: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(units, ...) whose mean is the weighted mean of values (P, ...); weight (P,)."""
    share = weight * len(np.unique(unit)) / weight.sum()
    return unit_sums(share.reshape(-1, *[1] * (values.ndim - 1)) * values, unit)


def standard_error(values: np.ndarray) -> float:
    """Of the mean of values (units,); infinite for fewer than two."""
    return float(standard_errors(values))


def standard_errors(values: np.ndarray) -> np.ndarray:
    """Of the means over units of values (units, ...); infinite for fewer than two."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.inf)
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def one_error_better(gain: np.ndarray) -> bool:
    """The rule of one standard error: gains (units,) are on average above zero by more than theirs."""
    return float(gain.mean()) > standard_error(gain)


def simplest(loss: dict[str, np.ndarray]) -> str:
    """The first of candidates, from simple to rich, that no later one beats by more than one standard error.

    loss : per candidate (units,), lower is better.
    """
    names = list(loss)
    chosen = names[0]
    for name in names[1:]:
        if one_error_better(loss[chosen] - loss[name]):
            chosen = name
    return chosen


def gains(loss: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """How far each candidate's loss (units,) is below the first one's on average, and the standard error of that."""
    base = next(iter(loss.values()))
    return {name: [float((base - each).mean()), standard_error(base - each)] for name, each in loss.items()}
