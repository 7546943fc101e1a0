"""Exact chains for checks of device samplers: a network of random weights, its chain's noise in float64, and distances.

Without torch, whose import takes most of the time of a short check, and under compute-sanitizer nearly all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secondgram.diffusion.folding import BLOCKS, BOTTLENECKS, FoldedDenoiser, fold
from secondgram.diffusion.noise import Purpose, normals

# The noise of a step (rows, D), and that of the start, which is asked for as None.
Noise = Callable[[int | None], np.ndarray]


def network(
    features: int, conditions: int, embedding: int, widths: tuple[int, int, int], seed: int = 0
) -> FoldedDenoiser:
    """A folded denoiser whose weights are as far from zero as those of a fresh one."""
    generator = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def dense(name: str, entering: int, leaving: int) -> None:
        bound = 1 / np.sqrt(entering)
        weights[f"{name}.weight"] = generator.uniform(-bound, bound, (leaving, entering))
        weights[f"{name}.bias"] = generator.uniform(-bound, bound, leaving)

    for name, entering in (("time_embed", features), ("cond_embed", conditions)):
        dense(f"{name}.0", entering, embedding)
        dense(f"{name}.2", embedding, embedding)
    wide, middle, narrow = widths
    ends = [(features, wide), (wide, middle), (middle, narrow), (narrow, middle), (middle, wide), (wide, features)]
    for name, (entering, leaving) in zip(BLOCKS, ends, strict=True):
        weights[f"{name}.ln.weight"] = generator.uniform(0.7, 1.3, entering)
        weights[f"{name}.ln.bias"] = generator.uniform(-0.3, 0.3, entering)
        dense(f"{name}.imgFC", entering, embedding)
        dense(f"{name}.embdFC", embedding, embedding)
        dense(f"{name}.imgOut", embedding, leaving)
        dense(f"{name}.embdOut", embedding, leaving)
        dense(f"{name}.outFC", leaving, leaving)
    for name in BOTTLENECKS:
        dense(f"{name}.fc1", narrow, narrow)
        dense(f"{name}.fc2", narrow, narrow)
    dense("out", features, features)
    return fold(weights)


def keyed(keys: np.ndarray, draws: np.ndarray, seed: int, features: int) -> Noise:
    """The library's noise, float64: rows are all people of the first draw, then those of the next."""

    def noise(step: int | None) -> np.ndarray:
        purpose = Purpose.START if step is None else Purpose.STEP
        found = normals(keys, features, seed=seed, purpose=purpose, draws=draws, step=step or 0, dtype=np.float64)
        return found.reshape(-1, features)

    return noise


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative, in the norm; infinite where something is not finite, so that no comparison lets it pass."""
    found = float(np.linalg.norm(np.asarray(one, dtype=np.float64) - other) / np.linalg.norm(other))
    return found if np.isfinite(found) else float("inf")
