"""Whether the draws say how uncertain they are: coverage within groups of people, and the PIT."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .bootstrap import cell_mean, interval, over_features
from .cell_scores import TAILS, Cells, nominal_coverage

BINS = 10


def thirds(values: np.ndarray) -> np.ndarray:
    """(N,) the third of the people each belongs to by a value (N,): 0, 1 or 2, and -1 where it is unknown.

    Equal values stay together, so that thirds may be unequal; where everybody has one value, all are in the first.
    """
    known = np.isfinite(values)
    part = np.full(len(values), -1)
    if known.any():
        cuts = np.quantile(values[known], [1 / 3, 2 / 3])
        part[known] = np.searchsorted(cuts, values[known], side="left")
    return part


def coverage_table(cells: Cells, weights: np.ndarray, groups: dict[str, np.ndarray]) -> pd.DataFrame:
    """Coverage of the central intervals over everyone and within thirds of the people.

    weights : (B, N) of `resamples`.  groups : by what, and the value (N,) of each person, the gap in years say.
    Columns: by, part, people, level (percent), nominal (what M draws of the truth's own distribution would cover),
    value, low, high; levels that M draws are too few for are left out.
    """
    parts = [("everyone", "", np.ones(len(cells.truth), dtype=bool))]
    for by, values in groups.items():
        third = thirds(values)
        for number in range(3):
            if (third == number).any():
                low, high = values[third == number].min(), values[third == number].max()
                parts.append((by, f"{low:.3g} to {high:.3g}", third == number))
    rows = []
    for level in TAILS:
        covered = cells.covered_at(level)
        for by, part, members in parts:
            values = over_features(cell_mean(covered[members], weights[:, members]))
            if np.isfinite(values[0]):
                nominal = nominal_coverage(cells.draws, level)
                rows.append((by, part, int(members.sum()), level, nominal, *interval(values)))
    return pd.DataFrame(rows, columns=["by", "part", "people", "level", "nominal", "value", "low", "high"])


def pit_histogram(cells: Cells, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Share of the probability integral transform in equal bins: weights (B, N) -> (B, bins), 1 / bins where right.

    The PIT is the share of the predictive distribution below the truth (Dawid 1984). Of M draws it is known up to the
    step it lies on, whose mass is spread over the bins it covers (Czado, Gneiting and Held 2009), so that draws of the
    truth's own distribution give a flat histogram whatever M. U-shaped: the draws vary too little. NaN for one draw.
    """
    if cells.draws == 1:
        return np.full((len(weights), bins), np.nan)
    edges = np.linspace(0.0, 1.0, bins + 1)
    # [0, 1] holds M + 1 steps; the truth is equally likely on any of those from `below` to `upto`.
    low, high = cells.below / (cells.draws + 1), (cells.upto + 1) / (cells.draws + 1)
    passed = np.stack([np.clip((edge - low) / (high - low), 0.0, 1.0) for edge in edges])  # [edges, people, features]
    shares = np.diff(passed, axis=0)
    return np.stack([over_features(cell_mean(share, weights)) for share in shares], axis=1)


def pit_table(cells: Cells, weights: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The PIT histogram with 95 % intervals over people: columns from, to, value, low, high; nothing for one draw."""
    shares = pit_histogram(cells, weights, bins)
    rows = [
        (number / bins, (number + 1) / bins, *interval(shares[:, number]))
        for number in range(bins)
        if np.isfinite(shares[0, number])
    ]
    return pd.DataFrame(rows, columns=["from", "to", "value", "low", "high"])
