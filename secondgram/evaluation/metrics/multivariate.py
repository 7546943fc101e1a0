"""Scores of a whole visit: what marginal scores cannot see is whether features go together as they should."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...imputation.default.correlation import ResidualComponents
from ...imputation.scores import crps

SLICES = 64
COMPONENTS = 8
# Pairs of features grow with the square of their number: of more than these, as many are drawn once, by a fixed seed.
VARIOGRAM_FEATURES = 32
# Least share of a direction's square length that a person's known cells must hold for a score along it.
LEAST_KNOWN = 0.5
SEED = 20250101
# Cells (draws x people x features) that are worked on at a time.
CHUNK_CELLS = 4_000_000


@dataclass(eq=False)
class Yardstick:
    """What whole visits are measured along, the same for every method; it is fitted on truths and no model sees it.

    slices : (D, S) random directions of unit length, the same for every cohort of D features.
    components : (D, K) directions such that the residual along each has variance 1 (see `fit`), or (D, 0).
    features : positions of those that the variogram score pairs.
    """

    slices: np.ndarray
    components: np.ndarray
    features: np.ndarray

    @classmethod
    def fit(cls, truth: np.ndarray, baseline: np.ndarray) -> Yardstick:
        """truth, baseline (N, D), scaled, NaN where missing.

        The residual is what a feature's regression on its own baseline leaves of its change. Its components are the
        leading ones of its shrunk correlation matrix, `COMPONENTS` of them where there are as many features.
        """
        width = truth.shape[1]
        rng = np.random.default_rng(SEED)
        slices = rng.normal(size=(width, SLICES))
        chosen = np.sort(rng.permutation(width)[:VARIOGRAM_FEATURES])
        slices /= np.linalg.norm(slices, axis=0)
        return cls(slices, _leading(truth, baseline), chosen)


def _leading(truth: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    change = truth - baseline
    rows = np.isfinite(change).any(axis=1)
    change, x = change[rows], baseline[rows]
    seen = np.isfinite(change)
    count = seen.sum(axis=0)
    if not len(change) or (count < 3).any():
        return np.zeros((truth.shape[1], 0))
    x, change = (np.where(seen, v - np.where(seen, v, 0.0).sum(axis=0) / count, 0.0) for v in (x, change))
    slope = (x * change).sum(axis=0) / np.maximum((x**2).sum(axis=0), 1e-12)
    residual = np.where(seen, change - slope * x, np.nan)
    spread = np.sqrt(np.nanmean(residual**2, axis=0))
    if (spread < 1e-9).any():
        return np.zeros((truth.shape[1], 0))
    found = ResidualComponents.fit(residual / spread, np.ones(len(residual)))
    return (found.vectors / spread[:, None] / np.sqrt(found.variances))[:, :COMPONENTS]


def joint_scores(draws: np.ndarray, truth: np.ndarray, yardstick: Yardstick) -> dict[str, np.ndarray]:
    """energy, variogram, sliced (N,) and components (N, K): draws (M, N, D), truth (N, D), scaled.

    Only the known cells of a person's truth take part; NaN for a person of whom too few are known.
    """
    parts: dict[str, list[np.ndarray]] = {}
    step = max(1, CHUNK_CELLS // (len(draws) * truth.shape[1]))
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        part, true = draws[:, rows], truth[rows]
        sliced = projected_crps(part, true, yardstick.slices)
        with np.errstate(invalid="ignore"):
            found = {
                "energy": energy_score(part, true),
                "variogram": variogram_score(part[..., yardstick.features], true[:, yardstick.features]),
                "sliced": sliced.mean(axis=1),
                "components": projected_crps(part, true, yardstick.components),
            }
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def energy_score(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Energy score (N,) in baseline SD per square root of a feature, lower is better (Gneiting and Raftery 2007).

    draws (M, N, D), truth (N, D): mean distance of the draws to the truth less half the mean distance between two
    different draws, which is fair for any M; distances are Euclidean over the d known cells, divided by sqrt(d).
    """
    seen = np.isfinite(truth)
    known = seen.sum(axis=1)
    # Measured from the truth: then the first distance is a norm.
    away = np.where(seen, draws - truth, 0.0).transpose(1, 0, 2)  # [people, draws, features]
    gram = away @ away.transpose(0, 2, 1)
    square = np.einsum("nmm->nm", gram)
    score = np.sqrt(square).mean(axis=1)
    count = len(draws)
    if count > 1:
        apart = np.sqrt(np.maximum(square[:, :, None] + square[:, None] - 2.0 * gram, 0.0))
        apart[:, np.arange(count), np.arange(count)] = 0.0
        score = score - apart.sum(axis=(1, 2)) / (2.0 * count * (count - 1))
    return np.where(known > 0, score / np.sqrt(np.maximum(known, 1)), np.nan)


def variogram_score(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Variogram score (N,) of order 1/2 with equal weights, lower is better (Scheuerer and Hamill 2015).

    draws (M, N, D), truth (N, D): mean over pairs of known features of the squared difference between the truth's
    |y_i - y_j|^(1/2) and its mean over the draws; in baseline SD. The variance of that mean is taken off, which makes
    the score fair for any M.
    """
    one, other = np.triu_indices(truth.shape[1], 1)
    if not len(one):
        return np.full(len(truth), np.nan)
    true = np.sqrt(np.abs(truth[:, one] - truth[:, other]))
    drawn = np.sqrt(np.abs(draws[..., one] - draws[..., other]))
    score = (true - drawn.mean(axis=0)) ** 2
    if len(draws) > 1:
        score = score - drawn.var(axis=0, ddof=1) / len(draws)
    seen = np.isfinite(score)
    count = seen.sum(axis=1)
    return np.where(count > 0, np.where(seen, score, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def projected_crps(draws: np.ndarray, truth: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """CRPS (N, K) along directions (D, K): draws (M, N, D), truth (N, D).

    For unit directions its mean over many is the sliced CRPS, in baseline SD (the energy score is proportional to its
    expectation: Gneiting and Raftery 2007, section 5). A direction is cut to a person's known cells and lengthened to
    what it was; NaN where less than half of its square length is left.
    """
    seen = np.isfinite(truth)
    square = directions**2
    left = seen @ square / np.maximum(square.sum(axis=0), 1e-300)
    true = np.where(seen, truth, 0.0) @ directions
    drawn = np.where(seen, draws, 0.0) @ directions
    factor = 1.0 / np.sqrt(np.where(left >= LEAST_KNOWN, left, np.nan))
    return crps(drawn, true) * factor
