"""Missing cells of baselines and covariates: their draws, and the shifts of the follow-up that these cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from ...diffusion.noise import NoiseRequest, Purpose
from ...ops.native import Moved
from ...ops.noise import normals
from ...sampling.postprocess import moves
from ..context import Context
from ..levels import MixedCells, decoded


@dataclass(frozen=True, eq=False)
class Later:
    """What is known of the follow-up: z (N, D), residuals about the mean as z, NaN where unknown; scale (N, D) of them.

    correlation : (D, D) of z.
    """

    z: np.ndarray
    scale: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True, eq=False)
class LostCells:
    """The missing cells of N people, and the effect of each on the mean of the follow-up.

    keys (N,) uint64;  X (N, D + C + 1) : their expectations in their places;  gone (N, D + C) bool.
    map, by_gap (D + C, D) float32 : change of the scaled mean by a cell, and that for every unit of the gap, or None.
    """

    context: Context
    map: np.ndarray
    by_gap: np.ndarray | None
    keys: np.ndarray
    X: np.ndarray
    gone: np.ndarray

    def drawn(self, draws: np.ndarray, seed: int, later: Later | None = None) -> Moved:
        """Draws less expectations, of these numbers, given what else is known of the visit, and of the follow-up.

        Changes of the scaled mean: of weight 1.
        """
        noise = self._noise(slice(None), draws, seed)
        start, cell, by = self.context.missing.drawn(self.gone, noise)
        for person, cells in self._mixed(later):
            noise = self._noise(slice(person, person + 1), draws, seed)
            z = normals(noise.keys, noise.width, seed=seed, purpose=noise.purpose, draws=noise.draws)
            by[start[person] : start[person + 1]] = cells.draws(z[:, 0, self.gone[person]].T.astype(float))
        return self._moved(start, cell, by)

    def as_drawn(self, covariates: np.ndarray) -> Moved:
        """`drawn` of people who lack covariates alone, of which these (M, N, C) were drawn before, encoded."""
        person, cell = np.nonzero(self.gone)
        first = self.gone.shape[1] - covariates.shape[2]
        by = (covariates[:, person, cell - first] - self.X[person, cell]).T
        start = np.searchsorted(person, np.arange(len(self.gone) + 1))
        return self._moved(start, cell.astype(np.uint32), np.ascontiguousarray(by, dtype=np.float32))

    def encoded(self, moved: Moved) -> np.ndarray:
        """(M, N, C) covariates, known or as `drawn` gave them."""
        width = self.X.shape[1] - 1 - self.context.encoder.width
        values = np.repeat(self.X[None, :, width:-1], moved.by.shape[1], axis=0)
        person = np.repeat(np.arange(len(self.X)), np.diff(moved.start))
        mine = moved.cell >= width
        values[:, person[mine], moved.cell[mine] - width] += moved.by[mine].T
        return values

    def expected(self, later: Later) -> np.ndarray:
        """(N, D) how much the scaled mean moves by what the follow-up says of the missing cells."""
        start = np.concatenate([[0], np.cumsum(self.gone.sum(axis=1))])
        by = np.zeros((start[-1], 1), dtype=np.float32)
        for person, cells in self._mixed(later):
            by[start[person] : start[person + 1], 0] = cells.mean()
        return moves(self._moved(start, np.nonzero(self.gone)[1].astype(np.uint32), by))[0]

    def covariates(self, draws: np.ndarray, seed: int, later: Later) -> dict[str, np.ndarray]:
        """By covariate (M, N), known or drawn: numbers in original units, or levels."""
        return decoded(self.context.encoder, self.encoded(self.drawn(draws, seed, later)))

    def _mixed(self, later: Later | None) -> Iterator[tuple[int, MixedCells]]:
        """People whose missing cells are more than a Gaussian given their visit: by levels, or a known follow-up."""
        factors: dict[bytes, tuple[np.ndarray, bool]] = {}
        informed = np.zeros(len(self.gone), dtype=bool)
        if later is not None:
            informed = self.gone.any(axis=1) & np.isfinite(later.z).any(axis=1)
        for person in map(int, np.flatnonzero(informed | self.context.levelled(self.gone))):
            gone = self.gone[person]
            count = int(gone.sum())
            linear, quadratic = np.zeros(count), np.zeros((count, count))
            if later is not None and informed[person]:
                known = np.isfinite(later.z[person])
                factor = factors.get(known.tobytes())
                if factor is None:
                    factors.clear()  # one takes as much as a covariance, and those of a pattern mostly come together
                    factor = factors[known.tobytes()] = cho_factor(later.correlation[np.ix_(known, known)])
                pull = self.map[gone]
                if self.by_gap is not None:
                    pull = pull + self.X[person, -1] * self.by_gap[gone]
                pull = (pull / later.scale[person])[:, known].astype(float)  # of z, by a cell
                solved = cho_solve(factor, pull.T).T
                linear, quadratic = solved @ later.z[person, known], solved @ pull.T
                quadratic = (quadratic + quadratic.T) / 2
            yield person, self.context.cells(self.X[person], gone, linear, quadratic)

    def _noise(self, people: slice, draws: np.ndarray, seed: int) -> NoiseRequest:
        width = self.gone.shape[1]
        return NoiseRequest.of(self.keys[people], width, seed=seed, purpose=Purpose.BASELINE, draws=draws)

    def _moved(self, start: np.ndarray, cell: np.ndarray, by: np.ndarray) -> Moved:
        weight = np.ones((len(self.X), self.map.shape[1]), dtype=np.float32)
        return Moved(start, cell, by, self.map, self.by_gap, self.X[:, -1].astype(np.float32), weight)
