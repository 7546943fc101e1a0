"""Finishing: components to draws in original units, after the sampler, for all people at once.

    components: keyed normals -> their distributions; leading ones from the denoiser
    residual  = margins(components @ loading)          or a sampler's draws, clipped
    draw      = centre + scale * residual              a residual moves where cells of a baseline were drawn

`Postprocess.stated` is the reference implementation, in numpy; the C++ extension does the same a tile at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..diffusion.noise import NoiseRequest, Purpose
from ..ops import native
from ..ops.noise import normals
from ..ops.postprocess import CANDIDATES
from ..ops.registry import AUTO, preferred_precision, resolve
from ..ops.row_tiles import matmul
from .packed import TOLERANCE, disagreement
from .quantile_map import QuantileMap

# The batch on which `auto` compares products in half precision with those in fp32.
CHECKED_PEOPLE, CHECKED_DRAWS = 24, 8


def moves(moved: native.Moved, people: np.ndarray | None = None) -> np.ndarray:
    """Reference implementation of the shifts of `Moved`, (M, N, D), in the map's units; of some people, or of all."""
    people = np.arange(len(moved.gap)) if people is None else people
    total = np.zeros((moved.by.shape[1], len(people), moved.map.shape[1]), dtype=np.float32)
    for place in np.flatnonzero(np.diff(moved.start)[people]):
        person = people[place]
        mine = slice(moved.start[person], moved.start[person + 1])
        rows = moved.map[moved.cell[mine]]
        if moved.by_gap is not None:
            rows = rows + moved.gap[person] * moved.by_gap[moved.cell[mine]]
        total[:, place] = moved.by[mine].T @ rows
    return total


@dataclass(eq=False)
class Postprocess:
    """How components become residuals.

    width : D.
    loading : (D, D), None where the source is the residual already;  components, margins : distributions of the columns
    before and after it, None for normal;  clip : residuals end at +-clip, 0 for nowhere.
    """

    width: int
    loading: np.ndarray | None = None
    components: QuantileMap | None = None
    margins: QuantileMap | None = None
    clip: float = 0.0
    packed: dict[str, native.NativePostprocess] = field(default_factory=dict, repr=False)
    chosen: str | None = None

    def draws(
        self,
        centre: np.ndarray,
        scale: np.ndarray,
        noise: NoiseRequest,
        source: np.ndarray | None = None,
        places: np.ndarray | None = None,
        moved: native.Moved | None = None,
        dtype: np.dtype | type = np.float64,
    ) -> np.ndarray:
        """Draws (M, N, D) of `dtype`, by the backend that runs samplers here; the last axis is the slowest in memory.

        centre, scale : (N, D).  noise : keys (N,), numbers (M,) of the draws, seed.
        source : (M, N, K) float32, components `places` (K,), or without a loading the residuals themselves.
        """
        if places is None and source is not None:
            places = np.arange(source.shape[2])
        if resolve("postprocess", CANDIDATES) == "reference":
            return self.stated(centre, scale, noise, source, places, moved).astype(dtype)
        return self._native(self._precision()).draws(
            centre,
            scale,
            noise,
            source,
            places,
            moved,
            np.dtype(dtype),
        )

    def stated(
        self,
        centre: np.ndarray,
        scale: np.ndarray,
        noise: NoiseRequest,
        source: np.ndarray | None,
        places: np.ndarray | None,
        moved: native.Moved | None,
    ) -> np.ndarray:
        """Reference implementation of `draws` in float64."""
        return np.asarray(centre + scale * self._residual(noise, source, places, moved))

    def _residual(
        self,
        noise: NoiseRequest,
        source: np.ndarray | None,
        places: np.ndarray | None,
        moved: native.Moved | None = None,
    ) -> np.ndarray:
        if self.loading is None:
            assert source is not None
            r = source
        else:
            c = normals(noise.keys, self.width, seed=noise.seed, purpose=Purpose.COMPONENTS, draws=noise.draws)
            if self.components is not None:
                c = self.components.forward(c)
            if source is not None:
                c[:, :, places] = source
            r = matmul(c.reshape(-1, self.width), self.loading.astype(np.float32)).reshape(c.shape)
        if self.margins is not None:
            r = self.margins.forward(r)
        if moved is not None:
            r = r + moved.weight * moves(moved)
        return np.clip(r, -self.clip, self.clip) if self.clip else r

    def resolved_precision(self) -> str:
        """The precision of the products that `auto` resolves to on this processor."""
        return "fp32" if resolve("postprocess", CANDIDATES) == "reference" else self._precision()

    def __getstate__(self) -> dict[str, Any]:
        # Packed matrices belong to their process; another process packs them again.
        return self.__dict__ | {"packed": {}, "chosen": None}

    def _precision(self) -> str:
        wanted = preferred_precision()
        if wanted != AUTO:
            return wanted
        half = native.half_precision()
        if half is None or self.loading is None:
            return "fp32"
        if self.chosen is None:
            self.chosen = half if self._disagreement(half) <= TOLERANCE else "fp32"
        return self.chosen

    def _disagreement(self, precision: str) -> float:
        noise = NoiseRequest.of(
            np.arange(CHECKED_PEOPLE, dtype=np.uint64),
            self.width,
            seed=0,
            purpose=Purpose.COMPONENTS,
            draws=CHECKED_DRAWS,
        )
        centre = np.zeros((CHECKED_PEOPLE, self.width))
        plain, rounded = (
            self._native(name).draws(centre, np.ones_like(centre), noise, None, None, None, np.dtype(np.float32))
            for name in ("fp32", precision)
        )
        return disagreement(rounded, plain)

    def _native(self, precision: str) -> native.NativePostprocess:
        if precision not in self.packed:
            components, margins = (
                None if each is None else (each.start, each.end) for each in (self.components, self.margins)
            )
            self.packed[precision] = native.NativePostprocess(
                self.width, self.loading, components, margins, self.clip, precision
            )
        return self.packed[precision]
