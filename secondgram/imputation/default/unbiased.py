"""The average change of a feature, from its own pairs alone where these are many.

Every predictor of the mean is drawn towards no change or towards other features, which lowers the error of a prediction
and leaves a bias of the average: up to half of its standard error (r / (1 + r^2) of it, for a mean r standard errors
from where it is drawn to). An average over people is what a study of change reports. Without any shrinkage it costs 1 /
n of the error variance with n people, so that from some number on the bias is not worth what it spares.
"""

from __future__ import annotations

import numpy as np

from ...cohort.scaling import robust_spread
from ..folds import unit_sums
from .hierarchy import FAR

# People with a feature's pair from which its average is not shrunk: the price is at most 1 % of the error variance.
UNBIASED = 100
# How often the weights of far errors are made anew.
ROUNDS = 3


def shown_by_many(change: np.ndarray, unit: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(D,) bool: features whose change (P, D), NaN where unknown, enough people show in pairs like the imputed ones.

    unit, wanted : (P,), of pairs; relatives count as one.
    """
    seen = (np.isfinite(change) & wanted[:, None]).astype(np.int64)
    return np.asarray((unit_sums(seen, unit) > 0).sum(axis=0) >= UNBIASED)


def averages(left: np.ndarray, weight: np.ndarray, wanted: np.ndarray, many: np.ndarray) -> np.ndarray:
    """(D,) what predictions lack on average by their errors left (P, D), NaN where unknown; 0 but for a mask (D,).

    weight, wanted : (P,), of pairs; those like the ones that are imputed count.
    """
    found = np.zeros(left.shape[1])
    if many.any():
        found[many] = _robust(np.where(wanted[:, None], left, np.nan)[:, many], weight)
    return found


def _robust(left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D,) weighted means of left (P, D) in which far errors count less (Huber 1964)."""
    seen = np.isfinite(left)
    value = np.where(seen, left, 0.0)
    share = seen * weight[:, None]
    centre = (share * value).sum(axis=0) / share.sum(axis=0)
    for _ in range(ROUNDS):
        away = np.abs(left - centre)
        scale = robust_spread(away)
        far = FAR * np.where(np.isfinite(scale) & (scale > 0), scale, np.inf)
        near = share * np.where(seen, np.minimum(1.0, far / np.maximum(np.where(seen, away, 0.0), far)), 0.0)
        centre = (near * value).sum(axis=0) / near.sum(axis=0)
    return centre
