"""Mode `cohort` of the simulator: brain regions in mm3, mm2 and mm, on the log scale inside.

log true0 = log size + half the change accumulated since age 62 + factors + what left and right share + own part
            - loss of those already ill * axis * sd
log true1 = log true0 + gap * (yearly (1 + .8 a) + person's own slope - disease .05 U sd) - converts rate gap axis sd
measured  = exp(log true + site + error)

The factors are size (head size, larger in men), one each for thickness, ventricles, volumes and areas, and seven
without a name. A person's own slope follows four factors that lean on those four, as in mode `gaussian`.
Cross-sectional age differences are half of what the yearly changes add up to: people who come to a scanner are in
better health than their age, and annual figures come from older samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .brain_atlas import Feature, Latent, catalogue
from .simulate_people import People, chunks, conversion, sigmoid

FACTORS, SLOPE_FACTORS, AGE_SHARE = 12, 4, 0.5
MISSING_CELLS, MISSING_MODALITIES = 0.0075, 0.01
SITES, SITE_SHARES, SITE_OFFSET = ("A", "B", "C", "D"), (0.4, 0.3, 0.2, 0.1), 0.1

# Shares of the log variance apart from age: size, the kind's factor, factors without a name, shared by left and right;
# the rest is the feature's own. Tuned to a first principal component near 43 % of log volumes (1,025 people).
_SHARES = {
    "volume": (0.40, 0.08, 0.18, 0.20),
    "ventricle": (0.16, 0.42, 0.10, 0.22),
    "area": (0.44, 0.06, 0.14, 0.22),
    "thickness": (0.01, 0.27, 0.18, 0.26),
}
_KIND_FACTOR = {"thickness": 1, "ventricle": 2, "volume": 3, "area": 4}


@dataclass(frozen=True)
class BrainModel:
    """Parameters; K true quantities ("latents"), D features, R pairs of left and right.

    centre, spread : (K,) median and SD of the log level.   age : (K,) log level per unit of a + .4 a^2.
    loadings : (12, K) of the factors.   shared, own : (K,) SD of what left and right share and of the rest.
    pair : (K,) position in R.   yearly, slope_own : (K,) mean log change a year and SD of a person's own part of it.
    slope_loadings : (4, K).   ill : (K,) extra loss a year with disease.   axis : (K,) loss per unit of a conversion.
    parts : (K, D) 0/1, which latents a feature multiplies.
    feature_spread, error : (D,) SD of the feature's true log level and of its measurement error.
    site : (4, D) offset of each scanner, log scale.
    """

    centre: np.ndarray
    spread: np.ndarray
    age: np.ndarray
    loadings: np.ndarray
    shared: np.ndarray
    own: np.ndarray
    pair: np.ndarray
    yearly: np.ndarray
    slope_own: np.ndarray
    slope_loadings: np.ndarray
    ill: np.ndarray
    axis: np.ndarray
    parts: np.ndarray
    feature_spread: np.ndarray
    error: np.ndarray
    site: np.ndarray


def brain_model(
    features: list[Feature], reliability: tuple[float, float] | None, rng: np.random.Generator
) -> BrainModel:
    """Draw the parameters around the figures of the atlas."""
    latents = list(dict.fromkeys(part for feature in features for part in feature.parts))
    column = {latent: number for number, latent in enumerate(latents)}
    parts = np.zeros((len(latents), len(features)))
    for number, feature in enumerate(features):
        parts[[column[part] for part in feature.parts], number] = 1
    pairs = {name: number for number, name in enumerate(dict.fromkeys((part.pair, part.kind) for part in latents))}
    pair = np.array([pairs[part.pair, part.kind] for part in latents])

    yearly = np.array([part.yearly for part in latents])
    variance = np.log1p(np.array([part.cv for part in latents]) ** 2)
    # Cortical CVs differ between regions; those of the named volumes stand in the table.
    cortical = np.array([part.kind in ("thickness", "area") for part in latents])
    variance *= np.exp(np.where(cortical, 0.4 * rng.standard_normal(len(pairs))[pair], 0))
    age = AGE_SHARE * 18 * yearly
    ageing = age**2 * _ageing_variance()
    within = np.maximum(variance - ageing, 0.4 * variance)
    loadings, shared, own = _structure(latents, np.sqrt(within), pair, rng)
    spread = np.sqrt(within + ageing)

    covariance = loadings.T @ loadings + np.outer(age, age) * _ageing_variance()
    np.fill_diagonal(covariance, spread**2)
    feature_spread = np.sqrt(((covariance @ parts) * parts).sum(axis=0))
    steady = _reliabilities(features, reliability, rng)
    slope_loadings, slope_own = _slopes(latents, pair, rng)
    direction = np.array([-1.0 if part.kind == "ventricle" else float(part.yearly < 0) for part in latents])
    return BrainModel(
        centre=np.log([part.size for part in latents]),
        spread=spread,
        age=age,
        loadings=loadings,
        shared=shared,
        own=own,
        pair=pair,
        yearly=yearly,
        slope_own=slope_own,
        slope_loadings=slope_loadings,
        ill=0.05 * rng.random(len(latents)) * spread * direction,
        axis=np.array([part.axis for part in latents]),
        parts=parts,
        feature_spread=feature_spread,
        error=feature_spread * np.sqrt((1 - steady) / steady),
        site=SITE_OFFSET * rng.standard_normal((len(SITES), len(features))) * feature_spread,
    )


def _ageing_variance() -> float:
    # Variance of a + .4 a^2 for age uniform over 45..80.
    years = (np.linspace(45, 80, 3501) - 62) / 18
    return float(np.var(years + 0.4 * years**2))


def _structure(
    latents: list[Latent], within: np.ndarray, pair: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Factor loadings [12, K] and the SDs [K] of the shared and the own part; within [K] is the SD they add up to.
    share = np.array([_SHARES[part.kind] for part in latents])
    share[:, 0] *= rng.uniform(0.3, 1.3, pair.max() + 1)[pair]  # places differ in how they follow head size
    loadings = np.zeros((FACTORS, len(latents)))
    loadings[0] = np.sqrt(share[:, 0])
    loadings[[_KIND_FACTOR[part.kind] for part in latents], np.arange(len(latents))] = np.sqrt(share[:, 1])
    unnamed = rng.standard_normal((FACTORS - 1 - SLOPE_FACTORS, pair.max() + 1))[:, pair]
    loadings[1 + SLOPE_FACTORS :] = unnamed / np.sqrt((unnamed**2).sum(axis=0)) * np.sqrt(share[:, 2])
    own = np.sqrt(1 - share.sum(axis=1))
    # Head size is nearly the size factor itself.
    head = np.array([part.name == "EstimatedTotalIntraCranial" for part in latents])
    loadings[:, head] *= np.sqrt(0.06)
    loadings[0, head], share[head, 3], own[head] = np.sqrt(0.9), 0.0, np.sqrt(0.1 - 0.06 * share[head, 1:3].sum(axis=1))
    return loadings * within, np.sqrt(share[:, 3]) * within, own * within


def _slopes(latents: list[Latent], pair: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # Loadings [4, K] of a person's own slope, half of its variance, left and right alike, and the SD [K] of the rest.
    spread = np.array([part.yearly_sd for part in latents])
    raw = 0.5 * rng.standard_normal((SLOPE_FACTORS, pair.max() + 1))[:, pair]
    # Whoever ages fast does so everywhere: the first factor speeds up the mean change.
    raw[0] += 0.7 * np.sign([part.yearly for part in latents])
    size = np.sqrt(1.25 * (raw**2).sum(axis=0))  # a slope factor has variance 1 + 1 / 4
    return raw / size * np.sqrt(0.5) * spread, np.sqrt(0.5) * spread


def _reliabilities(features: list[Feature], limits: tuple[float, float] | None, rng: np.random.Generator) -> np.ndarray:
    # [D]
    deviate = rng.standard_normal(len(features))
    if limits is not None:
        return rng.uniform(*limits, len(features))
    centre = np.array([feature.reliability for feature in features])
    jitter = np.array([feature.jitter for feature in features])
    return sigmoid(np.log(centre / (1 - centre)) + jitter * deviate)


def draw_brain(
    people: People,
    random: dict[str, np.random.Generator],
    visits: np.ndarray,
    truth: np.ndarray,
    reliability: tuple[float, float] | None,
) -> dict[str, Any]:
    """Fill `visits` (N, 2, D), with missing cells, and `truth` (N, D), without; return the cohort's other fields."""
    features = catalogue(truth.shape[1])
    model = brain_model(features, reliability, random["model"])
    site = random["site"].choice(len(SITES), len(people), p=SITE_SHARES)
    converted, rate = conversion(people, random)
    loss = converted * rate * people.gap
    past = people.disease * random["past loss"].uniform(0, 0.75, len(people))
    size = 0.6 * (2 * people.male - 1)
    education = np.empty(len(people))
    for rows in chunks(len(people), len(model.centre)):
        part = people.part(rows)
        factors = random["factors"].standard_normal((len(part), FACTORS))
        factors[:, 0] = size[rows] + 0.8 * factors[:, 0]
        schooling = 13.5 + 0.4 * factors[:, 0] + 2.5 * random["education"].standard_normal(len(part))
        education[rows] = np.clip(np.round(schooling), 7, 20)
        level = _levels(model, part, factors, random) - np.outer(past[rows], model.axis * model.spread)
        change = _changes(model, part, factors, random) - np.outer(loss[rows], model.axis * model.spread)
        offset = model.site[site[rows]]
        visits[rows, 0] = _measured(model, level, offset, random["baseline error"])
        truth[rows] = _measured(model, level + change, offset, random["followup error"])
    visits[:, 1] = truth
    _lose_cells(visits, [feature.modality for feature in features], random["missing"])
    # The diagnosis at the follow-up: nearly certain past a loss of 1, 1 % without any.
    ill = random["diagnosis"].random(len(people)) < sigmoid(6 * (past + loss) - 4.6)
    return {
        "features": tuple(feature.name for feature in features),
        "covariate": {"education": education},
        "outcomes": pd.DataFrame({"diagnosis": ill.astype(float)}),
        "site": np.array(SITES, dtype=object)[site],
        "axis": (model.axis * model.spread) @ model.parts / model.feature_spread,
        "converted": converted,
    }


def _levels(
    model: BrainModel, people: People, factors: np.ndarray, random: dict[str, np.random.Generator]
) -> np.ndarray:
    # [n, K] log true baselines.
    a = people.years
    level = model.centre + np.outer(a + 0.4 * a**2, model.age) + factors @ model.loadings
    level += random["shared"].standard_normal((len(people), model.pair.max() + 1))[:, model.pair] * model.shared
    level += random["unique"].standard_normal(level.shape) * model.own
    return level


def _changes(
    model: BrainModel, people: People, factors: np.ndarray, random: dict[str, np.random.Generator]
) -> np.ndarray:
    # [n, K] log changes over the gap, without conversion.
    slope = random["slope factors"].standard_normal((len(people), SLOPE_FACTORS))
    slope += factors[:, 1 : 1 + SLOPE_FACTORS] / 2
    yearly = np.outer(1 + 0.8 * people.years, model.yearly) + slope @ model.slope_loadings
    yearly += random["slope noise"].standard_normal(yearly.shape) * model.slope_own
    yearly -= np.outer(people.disease, model.ill)
    return yearly * people.gap[:, None]


def _measured(model: BrainModel, latent: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # [n, D] in original units from latents [n, K]. A feature has one or two parts: picking columns beats a product.
    first = model.parts.argmax(axis=0)
    second = len(model.parts) - 1 - model.parts[::-1].argmax(axis=0)
    log = latent[:, first] + np.where(first == second, 0, latent[:, second])
    log += offset
    log += model.error * rng.standard_normal(log.shape)
    return np.exp(log)


def _lose_cells(visits: np.ndarray, modality: list[str], rng: np.random.Generator) -> None:
    # Single cells, and whole modalities of a visit; a visit that would lose everything loses nothing.
    kinds, which = np.unique(modality, return_inverse=True)
    for slot in range(visits.shape[1]):
        for rows in chunks(len(visits), len(which)):
            view = visits[rows, slot]
            lost = rng.random(view.shape, dtype=np.float32) < MISSING_CELLS
            without = np.where(rng.random(len(view)) < MISSING_MODALITIES, rng.integers(len(kinds), size=len(view)), -1)
            lost |= which == without[:, None]
            lost[lost.all(axis=1)] = False
            view[lost] = np.nan


def healthy_direction(features: int) -> np.ndarray:
    """(D,) +1 where loss is the harm, -1 where growth is; 0 for areas and cortical volumes, which tell head size."""
    direction = np.zeros(features)
    for number, feature in enumerate(catalogue(features)):
        if feature.modality in ("volume", "thickness"):
            direction[number] = -np.sign(feature.parts[0].yearly)
    return direction
