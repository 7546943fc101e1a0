"""Rungs 3 and 4 together: how standardised residuals are distributed, alone and with each other.

    components c  ->  z = c @ loading, correlated and about standard normal  ->  r = margins(z)

The components are independent normals, or take their empirical distributions; leading ones may come from the denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...diffusion.noise import Purpose
from ...ops.noise import normals
from ...ops.row_tiles import matmul
from ...sampling.quantile_map import QuantileMap
from ...training.trainer import Run
from .correlation import ResidualComponents, condition_on_known
from .margins import Margins, fit_component_margins
from .shape import Shape, ShapeOptions, fit_shape

# Draws of the fitted model that its own margins are read from, about as many as a quantile of 0.1 % needs.
CALIBRATION_DRAWS = 8000
# Of a component with a shape of its own, or of a feature.
FARTHEST_Z = 6.0


@dataclass(eq=False)
class Joint:
    """The distribution of standardised residuals, (rows, D), given the conditions of a row.

    margins, component_margins : from normals, or None for the identity;  shape : the denoiser, or None.
    lead : K, how many leading components of the baseline the denoiser is shown.
    usual : (D,), expectation of the components over the training pairs;  offset : (D,), that of r;  slope : (D,), by
        which r follows z, so that its expectation elsewhere is offset + slope * (z - usual z), to first order.
    """

    components: ResidualComponents
    margins: QuantileMap | None
    component_margins: QuantileMap | None
    shape: Shape | None
    lead: int
    offset: np.ndarray
    slope: np.ndarray
    usual: np.ndarray

    def conditions(self, X: np.ndarray) -> np.ndarray:
        """X = [baseline, covariates, gap] -> (N, K + C + 1): the baseline's leading components, covariates and gap."""
        width = self.components.width
        vectors = self.components.vectors[:, : self.lead]
        # Unit variance for features of unit variance and any correlation is out of reach; the square root of the
        # component's variance brings it near.
        baseline = matmul(X[:, :width], vectors) / np.sqrt(self.components.variances[: self.lead])
        return np.concatenate([baseline, X[:, width:]], axis=1)

    def draw(
        self, X: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
    ) -> np.ndarray:
        """z (M, N, D) float32; `finish` makes residuals of it."""
        return self.rotated(keys, draws, seed, self.sample(X, keys, draws, seed, solver, steps))

    def rotated(self, keys: np.ndarray, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        """z (M, N, D) float32 from what `sample` gave."""
        c = normals(keys, self.components.width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
        if self.component_margins is not None:
            c = self.component_margins.forward(c)
        c[:, :, self.sampled] = sampled
        loading = self.components.loading.astype(np.float32)
        return matmul(c.reshape(-1, c.shape[2]), loading).reshape(c.shape)

    @property
    def sampled(self) -> np.ndarray:
        """(k,) which components come from the denoiser."""
        return np.arange(0) if self.shape is None else self.shape.kept

    def sample(
        self, X: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
    ) -> np.ndarray:
        """(M, N, k) float32, the components that come from the denoiser."""
        if self.shape is None:
            return np.empty((len(draws), len(X), 0), dtype=np.float32)
        return self.shape.draw(self.conditions(X), keys, draws, seed, solver, steps)

    def condition(self, z: np.ndarray, known: np.ndarray) -> np.ndarray:
        """z (M, N, D) given standardised residuals known (N, D), or (M, N, D) where they differ from draw to draw.

        NaN where unknown, in every draw alike. Gaussian conditioning.
        """
        rows = np.flatnonzero(np.isfinite(known.reshape(-1, *known.shape[-2:])[0]).any(axis=1))
        wanted = self.scores(known[..., rows, :])
        z[:, rows] = condition_on_known(z[:, rows], wanted, self.components.precision())
        return z

    def scores(self, known: np.ndarray) -> np.ndarray:
        """Standardised residuals (..., D) as z, about normal."""
        return known if self.margins is None else self.margins.inverse(known)

    def finish(self, z: np.ndarray) -> np.ndarray:
        """z (..., D) -> standardised residuals (..., D)."""
        return z if self.margins is None else self.margins.forward(z)

    @property
    def ends(self) -> np.ndarray:
        """(2, D) least and largest residual that is to be expected in millions."""
        return self.finish(np.repeat([[-FARTHEST_Z], [FARTHEST_Z]], self.components.width, axis=1))

    def expected(
        self, X: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
    ) -> np.ndarray:
        """Expectation of the residuals (N, D); what the denoiser adds is averaged over the draws."""
        if self.shape is None:
            return np.broadcast_to(self.offset, (len(X), len(self.offset)))
        lead = self.sample(X, keys, draws, seed, solver, steps).mean(axis=0, dtype=float)
        return self.offset + self.slope * matmul(lead - self.usual[self.sampled], self.components.loading[self.sampled])

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("components", "margins", "component_margins", "shape")}
        return {name: None if part is None else part.state() for name, part in parts.items()} | {
            "lead": self.lead,
            "offset": self.offset,
            "slope": self.slope,
            "usual": self.usual,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Joint:
        def part(kind: Any, name: str) -> Any:
            return None if state[name] is None else kind.from_state(state[name])

        return cls(
            ResidualComponents.from_state(state["components"]),
            part(QuantileMap, "margins"),
            part(QuantileMap, "component_margins"),
            part(Shape, "shape"),
            state["lead"],
            state["offset"],
            state["slope"],
            state["usual"],
        )


@dataclass(frozen=True, eq=False)
class Conditional:
    """Standardised residuals of N people given other draws of theirs: normal about `mean`, and narrower.

    mean : (M, N, D).  share : (N, D) of their standard deviation that is left.
    covariates : (M, N, C) encoded covariates of these draws; None where nobody lacks one.
    """

    mean: np.ndarray
    share: np.ndarray
    covariates: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws (M, N, D) in original units, and what others of the same people are conditioned on.

    residual : (M, N, D) float32, standardised, apart from what missing covariates made of it.
    covariates : (M, N, C) as in `Conditional`.  Both None where nobody asks.
    """

    values: np.ndarray
    residual: np.ndarray | None = None
    covariates: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Residuals:
    """Training data of rungs 3 and 4: standard (P, D) residuals, NaN where unknown, and their scale (P, D).

    X (P, D + C + 1), weight (P,), unit (P,), fold (P,) as everywhere.
    """

    standard: np.ndarray
    scale: np.ndarray
    X: np.ndarray
    weight: np.ndarray
    unit: np.ndarray
    fold: np.ndarray


def fit_joint(
    residuals: Residuals,
    margins: QuantileMap | None,
    lead: int,
    options: ShapeOptions | None,
    *,
    seed: int,
    run: Run,
) -> tuple[Joint, Margins, dict[str, Any]]:
    """Fit correlation and shape (none without options) of residuals of these margins; also how they were chosen."""
    standard, weight, unit, fold = residuals.standard, residuals.weight, residuals.unit, residuals.fold
    z = standard if margins is None else margins.inverse(standard)
    components = ResidualComponents.fit(z, weight)
    z = components.filled(z, seed)
    c = components.components(z)
    of_components = fit_component_margins(z, weight, unit, fold)
    width = components.width
    joint = Joint(
        components,
        margins,
        of_components.map,
        None,
        min(lead, width),
        np.zeros(width),
        np.ones(width),
        np.zeros(width),
    )
    record: dict[str, Any] = {"kept": False, "reason": "switched off by shape='off'"}
    if options is not None:
        joint.shape, record = fit_shape(
            c,
            np.sqrt(components.variances),
            joint.conditions(residuals.X),
            unit,
            of_components.map,
            options,
            seed=seed,
            run=run,
        )
    _calibrate(joint, residuals.X, options, seed)
    return joint, of_components, record


def _calibrate(joint: Joint, X: np.ndarray, options: ShapeOptions | None, seed: int) -> None:
    """Let the margins start from what the components really make of z, and find its expectations."""
    if joint.margins is None and joint.component_margins is None and joint.shape is None:
        return
    draws = np.arange(-(-CALIBRATION_DRAWS // len(X)))
    rows = np.arange(len(X), dtype=np.uint64)
    solver, steps = ("", 0) if options is None else (options.solver, options.steps)
    z = joint.draw(X, rows, draws, seed, solver, steps).reshape(-1, joint.components.width)
    if joint.margins is not None and (joint.component_margins is not None or joint.shape is not None):
        joint.margins = joint.margins.from_draws(z)
    joint.usual = joint.components.components(z.mean(axis=0, dtype=float)[None])[0]
    r = joint.finish(z).astype(float)
    joint.offset = r.mean(axis=0)
    middle = z - z.mean(axis=0)
    joint.slope = (r * middle).mean(axis=0) / np.maximum((middle**2).mean(axis=0), 1e-12)
