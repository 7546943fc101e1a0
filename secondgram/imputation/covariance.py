"""Correlation matrices from rows with missing cells, shrunk and of full rank."""

from __future__ import annotations

import numpy as np

# Of a component, as a share of a feature's variance.
LEAST_VARIANCE = 1e-6


def shrunk_correlation(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D, D) of values (P, D) about zero, NaN where unknown; weight (P,).

    Each entry is over the rows that have both cells; the shrinkage is that of Ledoit and Wolf 2004.
    """
    # Weighting the rows keeps people with many pairs from deciding the correlation.
    root = np.sqrt(weight / weight.mean())[:, None]
    seen = np.isfinite(values) * root
    rows = np.where(seen > 0, values, 0.0) * root
    size = np.sqrt((rows**2).sum(axis=0) / np.maximum((seen**2).sum(axis=0), 1e-12))
    rows /= np.where(size > 1e-9, size, 1.0)
    product = rows.T @ rows
    covariance = product / np.maximum(seen.T @ seen, 1e-12)
    shrinkage = ledoit_wolf_shrinkage(product, rows)
    covariance *= 1.0 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage
    return covariance


def shrunk_covariance(*parts: np.ndarray) -> np.ndarray:
    """(D, D) of the rows of all parts (P, D) about zero, drawn towards a multiple of the identity."""
    product = parts[0].T @ parts[0]
    for part in parts[1:]:
        product += part.T @ part
    shrinkage = ledoit_wolf_shrinkage(product, *parts)
    covariance = product / sum(map(len, parts))
    level = np.trace(covariance) / len(covariance)
    covariance *= 1.0 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage * level
    return np.asarray(covariance)


def ledoit_wolf_shrinkage(product: np.ndarray, *parts: np.ndarray) -> float:
    """Share of the identity in a covariance about zero, 0 to 1 (Ledoit and Wolf 2004, section 3.3).

    product : (D, D), the rows' transpose by the rows;  parts : the rows, (P, D) each. scikit-learn's needs two more
    products of that size: the sum over all entries of the products of squares is that of the rows' squared lengths.
    """
    width, count = len(product), sum(map(len, parts))
    fourth = sum(float((np.einsum("pd,pd->p", part, part) ** 2).sum()) for part in parts)
    square = float(np.einsum("ab,ab->", product, product)) / count**2
    level = float(np.trace(product)) / count / width
    error = (fourth / count - square) / count / width
    apart = square / width - level**2
    # One feature is its own target, but for rounding.
    return min(error, apart) / apart if width > 1 and min(error, apart) > 0 else 0.0


def principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (D, D), in columns, and eigenvalues (D,), largest first, of the correlations in a covariance (D, D).

    Of the nearest correlations where the entries do not fit together.
    """
    variances, vectors = np.linalg.eigh(_correlation(covariance))
    if variances[0] < LEAST_VARIANCE:
        covariance = (vectors * np.maximum(variances, LEAST_VARIANCE)) @ vectors.T
        variances, vectors = np.linalg.eigh(_correlation(covariance))
    # The sign of an eigenvector is the library's whim: make the largest entry positive.
    flip = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variances))])
    return (vectors * flip)[:, ::-1].copy(), np.maximum(variances[::-1], 1e-12).copy()


def _correlation(covariance: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    return np.asarray(covariance / np.outer(spread, spread))
