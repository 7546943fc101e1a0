"""Whether imputed visits, taken together, look like real ones: correlations, and tests given the baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import GroupKFold

from .bootstrap import interval, resamples
from .cell_scores import Cells

# A correlation matrix grows with the square of the features: of more than these, as many are drawn once.
FEATURES = 128
SPLITS = 50
# Kernel sums and trees: of more people than this, as many are drawn once.
PEOPLE = 1000
COMPONENTS = 16
TREES = 100
BOOTSTRAPS = 200
FOLDS = 5
SEED = 20250102


def resemblance_table(cells: Cells, seed: int = 0) -> pd.DataFrame:
    """Indexed by measure, columns value, low, high, floor (what real visits reach against real ones) and meaning.

    The first draw of each person stands for the method. A measure that the people are too few for is left out.
    """
    found = {}
    for what, values in correlation_distances(cells, seed).items():
        ratio = "mean absolute difference of correlations, real against imputed visits of other people; floor: real"
        found[f"correlation_distance_{what}"] = (*interval(values[:, 0]), float(values[0, 1]), f"{ratio} against real")
    truth, baseline, draw, unit = _complete(cells, seed)
    if len(truth) >= 2 * FOLDS and len(set(unit)) >= FOLDS:
        mmd = conditional_mmd(truth - baseline, draw - baseline, baseline, unit, seed)
        meaning = "squared maximum mean discrepancy of (baseline, change), real against imputed; may be below zero"
        found["mmd"] = (*interval(mmd), 0.0, meaning)
        auc = classifier_auc(truth - baseline, draw - baseline, baseline, unit, seed)
        meaning = "area under the curve of trees that tell real from imputed changes, given the baseline"
        found["classifier_auc"] = (*interval(auc), 0.5, meaning)
    table = pd.DataFrame.from_dict(found, orient="index", columns=["value", "low", "high", "floor", "meaning"])
    table.index.name = "measure"
    return table


def _complete(cells: Cells, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, baseline and draw (n, D) and unit (n,) of people, at most `PEOPLE` drawn; unknown cells are 0 in all."""
    rows = np.flatnonzero(np.isfinite(cells.truth - cells.baseline).any(axis=1))
    rows = np.sort(np.random.default_rng([SEED, seed]).permutation(rows)[:PEOPLE])
    seen = np.isfinite(cells.truth[rows] - cells.baseline[rows])
    arrays = (np.where(seen, values[rows], 0.0) for values in (cells.truth, cells.baseline, cells.draw))
    truth, baseline, draw = arrays
    return truth, baseline, draw, cells.unit[rows].astype(str)


# -- correlations -----------------------------------------------------------------------------------------------------


def correlation(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(D, D) Pearson correlations of values (N, D) with weights (N,), each pair over the people who have both.

    NaN where nobody has both, or where one of the two does not vary among those who do.
    """
    seen = np.isfinite(values) & (weights > 0)[:, None]
    known, weight = np.where(seen, values, 0.0), weights[:, None] * seen
    with np.errstate(invalid="ignore", divide="ignore"):
        # Centred first: the sums below lose precision on values far from zero.
        x = np.where(seen, known - (weight * known).sum(axis=0) / weight.sum(axis=0), 0.0)
        count, weighted = weight.T @ seen, weight * x
        mean = weighted.T @ seen / count  # [j, k]: of j over those who have k
        square = (weighted * x).T @ seen / count - mean**2
        r = (weighted.T @ x / count - mean * mean.T) / np.sqrt(square * square.T)
    return np.where((square > 1e-12) & (square.T > 1e-12), np.clip(r, -1, 1), np.nan)


def correlation_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two correlation matrices (D, D) off the diagonal; undefined ones aside."""
    upper = np.triu_indices(len(one), 1)
    apart = np.abs(one[upper] - other[upper])
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else float("nan")


def correlation_distances(cells: Cells, seed: int = 0, scattered: bool = True) -> dict[str, np.ndarray]:
    """For `levels` and, where they vary, `changes`: distance of imputed from real, and real from real, (1 + SPLITS, 2).

    People or groups are split in halves A and B at random: imputed visits of A against real ones of B, and real ones of
    A against real ones of B, so that both distances have the same sampling error in them and a method whose visits are
    as good as real ones reaches the floor. Row 0 is the mean over the splits, the others the splits of resampled units;
    `scattered=False` gives row 0 alone.
    """
    rng = np.random.default_rng([SEED, seed])
    chosen = np.sort(rng.permutation(cells.truth.shape[1])[:FEATURES])
    truth, draw, baseline = (values[:, chosen] for values in (cells.truth, cells.draw, cells.baseline))
    draw = np.where(np.isfinite(truth), draw, np.nan)
    names, member = np.unique(cells.unit.astype(str), return_inverse=True)
    if len(names) < 4 or len(chosen) < 2:
        return {}
    weights = resamples(cells.unit, SPLITS, seed)[1:]
    found: dict[str, np.ndarray] = {}
    for what, real, imputed in (("levels", truth, draw), ("changes", truth - baseline, draw - baseline)):
        plain, drawn = np.zeros((SPLITS, 2)), np.zeros((SPLITS if scattered else 0, 2))
        for split in range(SPLITS):
            half = (np.random.default_rng([SEED, seed, split]).permutation(len(names)) < len(names) // 2)[member]
            passes = [(plain, np.ones(len(half))), *([(drawn, weights[split])] if scattered else [])]
            for place, weight in passes:
                against = correlation(real, weight * ~half)
                place[split] = [
                    correlation_distance(correlation(each, weight * half), against) for each in (imputed, real)
                ]
        if not np.isfinite(plain).any(axis=0).all():
            # Visits that are what they were before have changes without a correlation.
            continue
        # Duplicates widen a resample's distances; what matters is how they scatter.
        centre = np.nanmean(plain, axis=0)
        found[what] = centre[None]
        if scattered:
            found[what] = np.concatenate([centre[None], drawn - np.nanmean(drawn, axis=0) + centre])
    return found


# -- two samples ------------------------------------------------------------------------------------------------------


def conditional_mmd(
    real: np.ndarray, imputed: np.ndarray, baseline: np.ndarray, unit: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Squared MMD between (baseline, real) and (baseline, imputed): (1 + B,), row 0 the estimate (Gretton et al. 2012).

    real, imputed, baseline (N, D) without NaN, unit (N,). Gaussian kernels of baseline and of change are multiplied,
    each as wide as the median distance between real people; the baselines are the same, so that only the distribution
    of the change given the baseline can differ. Pairs within a unit are left out: the estimate is unbiased, 0 where the
    two distributions are one, and may be below 0.
    """
    condition = _kernel(baseline, baseline, baseline)
    difference = _kernel(real, real, real) + _kernel(imputed, imputed, real)
    crossed = _kernel(real, imputed, real)
    apart = condition * (difference - crossed - crossed.T) * (unit[:, None] != unit[None, :])
    weights = resamples(unit, BOOTSTRAPS, seed)
    pairs = (weights @ (unit[:, None] != unit[None, :]) * weights).sum(axis=1)
    return (weights @ apart * weights).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)


def _kernel(one: np.ndarray, other: np.ndarray, scale: np.ndarray) -> np.ndarray:
    apart = cdist(scale, scale, "sqeuclidean")
    width = np.median(apart[np.triu_indices(len(apart), 1)])
    return np.exp(-cdist(one, other, "sqeuclidean") / max(width, 1e-12))


def classifier_auc(
    real: np.ndarray, imputed: np.ndarray, baseline: np.ndarray, unit: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Area under the curve of a classifier that tells real from imputed changes, given the baseline: (1 + B,).

    The classifier two-sample test (Lopez-Paz and Oquab 2017) with extremely randomised trees (Geurts et al. 2006) on
    the leading components of baseline and real change, cross-validated over units; both visits of a person are on the
    same side. 0.5: it cannot tell them apart. real, imputed, baseline (N, D) without NaN, unit (N,).
    """
    given, (true, drawn) = _components(baseline, baseline)[0], _components(real, real, imputed)
    X = np.concatenate([np.hstack([given, true]), np.hstack([given, drawn])])
    label = np.repeat([1, 0], len(real))
    groups = np.concatenate([unit, unit])
    score = np.zeros(len(X))
    for learn, judge in GroupKFold(FOLDS).split(X, label, groups):
        trees = ExtraTreesClassifier(TREES, min_samples_leaf=5, random_state=SEED % 2**31, n_jobs=1)
        score[judge] = trees.fit(X[learn], label[learn]).predict_proba(X[judge])[:, 1]
    weights = resamples(unit, BOOTSTRAPS, seed)
    return weighted_auc(score, label, np.concatenate([weights, weights], axis=1))


def _components(fitted: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Leading principal components of rows (N, D), of unit variance over `fitted`, of each of the others."""
    centre = fitted.mean(axis=0)
    _, size, turn = np.linalg.svd(fitted - centre, full_matrices=False)
    kept = (size > 1e-9 * size.max(initial=0.0)).nonzero()[0][:COMPONENTS]
    scale = turn[kept].T * np.sqrt(len(fitted)) / size[kept]
    return [(values - centre) @ scale for values in others]


def weighted_auc(score: np.ndarray, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for each row of weights: score, label (N,), weights (B, N) -> (B,).

    The chance that a positive scores above a negative, ties counting half (Mann and Whitney 1947); NaN without both.
    """
    values, member = np.unique(score, return_inverse=True)
    positive, negative = (np.zeros((len(weights), len(values))) for _ in range(2))
    for wanted, total in ((True, positive), (False, negative)):
        rows = label.astype(bool) == wanted
        np.add.at(total.T, member[rows], weights[:, rows].T)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    size = positive.sum(axis=1) * negative.sum(axis=1)
    return np.where(size > 0, (positive * below).sum(axis=1) / np.where(size > 0, size, 1.0), np.nan)
