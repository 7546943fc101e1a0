"""Intervals over people, and the weighted averages they are made of."""

from __future__ import annotations

import numpy as np

from .estimate import UNKNOWN, Estimate


def resamples(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Bootstrap weights (1 + count, N): row 0 is the sample itself, the others draw whole units with replacement."""
    names, member = np.unique(unit.astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return np.concatenate([np.ones((1, len(unit))), drawn[:, member].astype(float)])


def interval(values: np.ndarray) -> Estimate:
    """From bootstrap values (1 + B,): 95 % percentile interval around row 0."""
    if not np.isfinite(values[0]):
        return UNKNOWN
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def win_tie_loss(difference: Estimate) -> str:
    """`better` if the interval of a difference in error is below 0, `worse` if above, else `tie`."""
    if not difference.bounded:
        return "tie"
    return "better" if difference.high < 0 else "worse" if difference.low > 0 else "tie"


def cell_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over people, per feature: values (N, D), weights (B, N) -> (B, D); NaN cells count nowhere."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.where(seen, values, 0.0) / (weights @ seen)


def pooled_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over all cells together: values (N, D), weights (B, N) -> (B,); NaN cells count nowhere."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.nansum(values, axis=1) / (weights @ np.isfinite(values).sum(axis=1))


def over_features(values: np.ndarray) -> np.ndarray:
    """Mean over the features for which a value is defined: (B, D) -> (B,), NaN where none is."""
    seen = np.isfinite(values)
    return np.where(seen, values, 0.0).sum(axis=1) / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)


def weighted_moments(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Covariance, variance of x, variance of y, and whether they are defined, over the cells both have.

    x, y (N, D), weights (B, N) -> (B, D) each; where one of the two does not vary, nothing is defined.
    """
    seen = np.isfinite(x) & np.isfinite(y)
    count = weights @ seen
    with np.errstate(invalid="ignore", divide="ignore"):
        # Centred first: the sums below lose precision on values far from zero.
        a, b = (np.where(seen, v - np.where(seen, v, 0.0).sum(axis=0) / seen.sum(axis=0), 0.0) for v in (x, y))
        mean_a, mean_b = weights @ a / count, weights @ b / count
        cov = weights @ (a * b) / count - mean_a * mean_b
        square_a, square_b = weights @ (a * a) / count, weights @ (b * b) / count
        var_a, var_b = square_a - mean_a**2, square_b - mean_b**2
        flat = (np.abs(a).max(axis=0) < 1e-12) | (np.abs(b).max(axis=0) < 1e-12)
        # What is left of equal values (a resample of one person, say) is rounding.
        flat = flat | (var_a <= 1e-12 * square_a) | (var_b <= 1e-12 * square_b) | (count == 0)
    return cov, var_a, var_b, ~flat


def weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson r per feature for each row of weights: x, y (N, D), weights (B, N) -> (B, D); NaN where undefined."""
    cov, var_x, var_y, defined = weighted_moments(x, y, weights)
    return np.where(defined, cov, np.nan) / np.sqrt(np.where(defined, var_x * var_y, 1.0))


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks of values (N,) when person i stands weights[b, i] times in the sample: (B, N), up to a constant."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[:, order], axis=1)
    last = np.flatnonzero(np.diff(values[order], append=np.inf) != 0)
    # Of every person in order, the group of equal values they belong to.
    group = np.searchsorted(last, np.arange(len(order)))
    ends = total[:, last]
    starts = np.concatenate([np.zeros((len(weights), 1)), ends[:, :-1]], axis=1)
    ranks = np.empty_like(total)
    ranks[:, order] = (0.5 * (starts + ends))[:, group]
    return ranks


def weighted_rank_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation (1904) per feature: x, y (N, D), weights (B, N) -> (B, D); NaN where undefined.

    Ranks are taken anew in every resample; equal values share their mean rank.
    """
    found = np.full((len(weights), x.shape[1]), np.nan)
    for feature in range(x.shape[1]):
        seen = np.isfinite(x[:, feature]) & np.isfinite(y[:, feature])
        # The order of what only rounding tells apart means nothing.
        if not seen.any() or min(np.ptp(x[seen, feature]), np.ptp(y[seen, feature])) < 1e-12:
            continue
        share = weights[:, seen]
        share = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        a, b = (weighted_ranks(values[seen, feature], share) for values in (x, y))
        # The mean mid-rank is one half whatever the values.
        a, b = a - 0.5, b - 0.5
        cov, var_a, var_b = ((share * one * other).sum(axis=1) for one, other in ((a, b), (a, a), (b, b)))
        defined = np.minimum(var_a, var_b) > 1e-12
        found[defined, feature] = cov[defined] / np.sqrt(var_a[defined] * var_b[defined])
    return found
