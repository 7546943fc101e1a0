"""Common parts of the simulators: random streams, people, and selection of those who come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# One stream per ingredient, so that asking for more pairs or another selection changes no value.
# New names go to the end: the streams before them stay as they are.
INGREDIENTS = (
    "model",
    "age",
    "sex",
    "disease",
    "gap",
    "factors",
    "unique",
    "shared",
    "baseline error",
    "slope factors",
    "slope noise",
    "followup error",
    "conversion",
    "conversion rate",
    "selection",
    "missing",
    "site",
    "education",
    "past loss",
    "diagnosis",
)
AGE_VARIANCE = (35 / 18) ** 2 / 12  # of `People.years`, age uniform over 45..80
# Half a megabyte a temporary: it stays in cache and the allocator reuses it.
CHUNK_CELLS = 1 << 16


def streams(seed: int) -> dict[str, np.random.Generator]:
    """Independent generators, one per ingredient."""
    children = np.random.SeedSequence(seed).spawn(len(INGREDIENTS))
    return {name: np.random.default_rng(child) for name, child in zip(INGREDIENTS, children, strict=True)}


@dataclass(frozen=True)
class People:
    """n people: age in years, male and disease as 0/1, gap in years; each (n,) float64."""

    age: np.ndarray
    male: np.ndarray
    disease: np.ndarray
    gap: np.ndarray

    @property
    def years(self) -> np.ndarray:
        """(n,) a = (age - 62) / 18."""
        return (self.age - 62) / 18

    def __len__(self) -> int:
        return len(self.age)

    def part(self, rows: slice) -> People:
        """The people at these rows."""
        return People(self.age[rows], self.male[rows], self.disease[rows], self.gap[rows])


def draw_people(count: int, random: dict[str, np.random.Generator]) -> People:
    """Age ~ U(45, 80), sex fair, disease 6 %, gap ~ U(2, 7) years."""
    return People(
        age=random["age"].uniform(45, 80, count),
        male=(random["sex"].random(count) < 0.5).astype(float),
        disease=(random["disease"].random(count) < 0.06).astype(float),
        gap=random["gap"].uniform(2, 7, count),
    )


def conversion(people: People, random: dict[str, np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
    """(converts, rate), each (n,): chance sigmoid(-3 + 1.2 a + 2 disease), rate ~ .25 Gamma(4, 1/4) a year."""
    chance = sigmoid(-3 + 1.2 * people.years + 2 * people.disease)
    converts = random["conversion"].random(len(people)) < chance
    return converts, 0.25 * random["conversion rate"].gamma(4, 1 / 4, len(people))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def chunks(people: int, width: int) -> Iterator[slice]:
    """Slices of people that keep a temporary of `width` columns near `CHUNK_CELLS` cells."""
    rows = max(1, CHUNK_CELLS // max(1, width))
    for start in range(0, people, rows):
        yield slice(start, min(start + rows, people))


def returning(count: int, appeal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool, exactly `count` true: drawn without replacement with odds exp(appeal), (N,).

    Gumbel noise on the log odds makes the sets nest: whoever returns for a small `count` returns for a larger one.
    """
    order = np.argsort(-(appeal + rng.gumbel(size=len(appeal))), kind="stable")
    mask = np.zeros(len(appeal), dtype=bool)
    mask[order[:count]] = True
    return mask


def health(baseline: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(N,) mean standardised feature of the measured baseline (N, D), missing cells left out, mean 0 and SD 1.

    direction : (D,) +1 where more is healthier, -1 where less is, 0 where it says nothing.
    """
    centre, spread = _column_moments(baseline)
    weight = np.where(spread > 0, direction / np.where(spread > 0, spread, 1), 0)
    total = np.empty(len(baseline))
    for rows in chunks(*baseline.shape):
        centred = baseline[rows] - centre
        seen = np.isfinite(centred)
        total[rows] = np.where(seen, centred, 0) @ weight / np.maximum(seen.sum(axis=1), 1)
    return (total - total.mean()) / (total.std() or 1)


def _column_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # (D,) mean and SD of each column over its measured cells; two passes, in chunks.
    count = np.zeros(values.shape[1])
    total, square = np.zeros_like(count), np.zeros_like(count)
    for rows in chunks(*values.shape):
        seen = np.isfinite(values[rows])
        count += seen.sum(axis=0)
        total += np.where(seen, values[rows], 0).sum(axis=0, dtype=float)
    centre = total / np.maximum(count, 1)
    for rows in chunks(*values.shape):
        square += np.nansum((values[rows] - centre) ** 2, axis=0)
    return centre, np.sqrt(square / np.maximum(count, 1))
