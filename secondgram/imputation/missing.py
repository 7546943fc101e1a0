"""Missing baseline cells and covariates, from the known ones of the same person at the same visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import block_diag

from ..diffusion.noise import NoiseRequest, Purpose
from ..ops import native
from ..ops.noise import normals
from ..ops.postprocess import CANDIDATES
from ..ops.registry import resolve
from .covariance import principal, shrunk_correlation, shrunk_covariance

# Most rounds, and the relative change of the conditional variances at which they end.
ROUNDS, CLOSE = 15, 0.02
# People whose missing cells' variances are worked out in every round.
LOOKED_AT = 200


@dataclass(eq=False)
class MissingCells:
    """A Gaussian of the scaled cells of one visit: features, and encoded covariates after them.

    precision : (D, D) float64, inverse of the shrunk covariance; the mean is zero, by the scaling.
    """

    precision: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, keys: np.ndarray | None = None) -> MissingCells:
        """values (N, D) scaled, NaN where missing.

        keys : (N,) uint64 of the people, their row numbers if None. Begins with the covariances of cells that were
        measured together, and then replaces missing cells a few times by draws given the rest of their row, one to
        either side of the expectation: expectations alone would vary too little, and so would what is drawn from them.
        Where most of a feature is missing these rounds come to rest slowly, and the start decides. The shrinkage is
        that of Ledoit and Wolf 2004.
        """
        gone = np.isnan(values)
        holes = gone.any(axis=1)
        if not holes.any():
            return cls(np.linalg.inv(shrunk_covariance(values)))
        cells = cls(np.linalg.inv(_start(values)))
        keys = np.arange(len(values), dtype=np.uint64) if keys is None else keys
        # The same numbers every time, so that the rounds come to rest.
        noise = NoiseRequest.of(
            keys[holes], values.shape[1], seed=0, purpose=Purpose.BASELINE, draws=np.zeros(1, dtype=int)
        )
        before = np.diag(cells.precision)
        looked_at = np.flatnonzero(holes)[np.argsort(keys[holes], kind="stable")[:LOOKED_AT]]
        for _ in range(ROUNDS):
            filled = cells.fill(values)
            start, cell, by = cells.drawn(gone[holes], noise)
            by *= cells._exact(gone[looked_at], cell, by)
            person = np.repeat(np.flatnonzero(holes), np.diff(start.astype(int)))
            other = filled.copy()
            filled[person, cell] += by[:, 0]
            other[person, cell] -= by[:, 0]
            cells = cls(np.linalg.inv(shrunk_covariance(filled, other)))
            now = np.diag(cells.precision)
            if np.abs(now / before - 1.0).max() < CLOSE:
                break
            before = now
        return cells

    def _exact(self, gone: np.ndarray, cell: np.ndarray, by: np.ndarray) -> np.ndarray:
        """(K, 1) by how much draws `by` (K, 1) of cells (K,) would have the variance they are drawn with.

        gone (n, D) : of some of the people. Where nearly all lack a feature, the few who do not hold little against
        what draws happen to vary more in every round.
        """
        total, count = np.zeros(len(self.precision)), np.zeros(len(self.precision))
        patterns, times = np.unique(gone, axis=0, return_counts=True)
        for lost, number in zip(patterns, times, strict=True):
            total[lost] += number * np.diag(np.linalg.inv(self.precision[np.ix_(lost, lost)]))
            count[lost] += number
        square = np.bincount(cell, by[:, 0].astype(float) ** 2, minlength=len(total))
        drawn = np.bincount(cell, minlength=len(total))
        known = (count > 0) & (square > 0)
        ratio = np.ones(len(total))
        ratio[known] = np.sqrt(total[known] / count[known] * drawn[known] / square[known])
        return ratio[cell][:, None].astype(by.dtype)

    def fill(self, values: np.ndarray) -> np.ndarray:
        """values (N, D) with every NaN replaced by its conditional expectation given the rest of its row."""
        if resolve("missing cells", CANDIDATES) == "reference":
            return self.stated(values)
        filled = np.array(values, dtype=float, order="C")
        native.fill_missing(self._precision(), np.isnan(values), filled)
        return filled

    def _precision(self) -> np.ndarray:
        return np.ascontiguousarray(self.precision, dtype=float)

    def stated(self, values: np.ndarray) -> np.ndarray:
        """Reference implementation of `fill`."""
        filled = np.where(np.isnan(values), 0.0, values)
        for person in np.flatnonzero(np.isnan(values).any(axis=1)):
            gone = np.isnan(values[person])
            # E[x_m | x_o] = -Q_mm^-1 Q_mo x_o, which needs a system only as large as the gap.
            pull = self.precision[np.ix_(gone, ~gone)] @ values[person, ~gone]
            filled[person, gone] = -np.linalg.solve(self.precision[np.ix_(gone, gone)], pull)
        return filled

    def scatter(self, values: np.ndarray, z: np.ndarray) -> np.ndarray:
        """What to add to `fill` for draws of the missing cells: values (N, D) with NaN, z (M, N, D) normals.

        (M, N, D), zero where the cell is known: exact draws of N(0, Q_mm^-1) for the missing cells m of a row.
        """
        moved = np.zeros_like(z)
        for person in np.flatnonzero(np.isnan(values).any(axis=1)):
            gone = np.flatnonzero(np.isnan(values[person]))
            # Q_mm = L L', so L'^-1 z has covariance Q_mm^-1.
            root = np.linalg.cholesky(self.precision[np.ix_(gone, gone)])
            moved[:, person, gone] = np.linalg.solve(root.T, z[:, person, gone].T.astype(float)).T
        return moved

    def drawn(self, gone: np.ndarray, noise: NoiseRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`scatter` of the normals that `noise` asks for, of the missing cells alone.

        gone (N, D) bool. Returns start (N + 1,), where each person's cells begin, cell (K,), and by (K, M) float32.
        """
        if resolve("missing cells", CANDIDATES) != "reference":
            return native.scatter_missing(self._precision(), gone, noise)
        z = normals(noise.keys, noise.width, seed=noise.seed, purpose=noise.purpose, draws=noise.draws)
        moved = self.scatter(np.where(gone, np.nan, 0.0), z)
        person, cell = np.nonzero(gone)
        start = np.searchsorted(person, np.arange(len(gone) + 1))
        return start, cell.astype(np.uint32), np.ascontiguousarray(moved[:, person, cell].T)

    def widened(self, width: int) -> MissingCells:
        """Of so many cells, those that are new being independent of the others, of mean 0 and variance 1.

        Models of an earlier release have no covariates in here.
        """
        more = width - len(self.precision)
        return self if more == 0 else MissingCells(block_diag(self.precision, np.eye(more)))

    def state(self) -> dict[str, Any]:
        return {"precision": self.precision}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MissingCells:
        return cls(state["precision"])


def _start(values: np.ndarray) -> np.ndarray:
    """(D, D) covariance of values (N, D), each entry over the rows that have both; shrunk, and of full rank."""
    seen = np.isfinite(values)
    count = seen.sum(axis=0)
    size = np.sqrt((np.where(seen, values, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1))
    size = np.where((count > 1) & (size > 1e-6), size, 1.0)
    vectors, variances = principal(shrunk_correlation(values, np.ones(len(values))))
    return (vectors * variances) @ vectors.T * np.outer(size, size)
