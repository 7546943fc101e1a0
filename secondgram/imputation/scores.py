"""The continuous ranked probability score, which models are chosen by and judged by."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr


def crps(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score per cell, in the unit of the feature, lower is better.

    draws (M, ...), truth (...) -> (...). The estimate that is fair for any number of draws (Ferro 2014): the mean
    distance to the truth minus half the mean distance between two different draws. NaN where the truth is NaN; with one
    draw it is the absolute error.
    """
    count = len(draws)
    accuracy = np.abs(draws - truth).mean(axis=0)
    if count == 1:
        return accuracy
    # Half the mean distance between two draws, from their order statistics.
    rank = (2.0 * np.arange(1, count + 1) - count - 1.0) / (count * (count - 1.0))
    return accuracy - np.tensordot(rank, np.sort(draws, axis=0), axes=1)


def normal_crps(error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """CRPS of normal distributions in closed form (Gneiting and Raftery 2007); error is truth - mean, both (..., D)."""
    z = error / spread
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return spread * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / np.sqrt(np.pi))
