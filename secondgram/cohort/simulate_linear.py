"""Modes `gaussian` (with its exact posterior) and `converters` of the simulator."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .simulate_people import AGE_VARIANCE, People, chunks, conversion

FACTORS, SLOPE_FACTORS = 12, 4
UNIQUE_VARIANCE = 0.6**2


@dataclass(frozen=True)
class LinearModel:
    """Parameters of the linear world; every array is one number per feature, (D,), unless said otherwise.

    loadings : (12, D) L; row 0, size, is 1.2 |N(0, 1)|, the others .45 N(0, 1).
    age_effect, sex_effect : shift of the level per unit of a, and from women to men.
    spread : sd_j, SD of the true baselines over the population (factors, unique part, age and sex), analytic.
    error : SD of the measurement error, spread * sqrt((1 - r) / r).
    decline, disease_decline : .02 + .02 U and .05 U, spreads a year.
    slope_loadings : (4, D) S, spreads a year.
    slope_noise : SD of a person's own slope in a feature, spreads a year.
    """

    loadings: np.ndarray
    age_effect: np.ndarray
    sex_effect: np.ndarray
    spread: np.ndarray
    error: np.ndarray
    decline: np.ndarray
    disease_decline: np.ndarray
    slope_loadings: np.ndarray
    slope_noise: float

    def baseline_mean(self, people: People) -> np.ndarray:
        """(n, D) mean of the baseline given the covariates."""
        return np.outer(people.years, self.age_effect) + np.outer(people.male - 0.5, self.sex_effect)

    def change_mean(self, people: People) -> np.ndarray:
        """(n, D) mean change over the gap given the covariates."""
        yearly = np.outer(1 + 0.8 * people.years, self.decline) + np.outer(people.disease, self.disease_decline)
        return -yearly * people.gap[:, None] * self.spread


def linear_model(
    features: int, reliability: tuple[float, float], converters: bool, rng: np.random.Generator
) -> LinearModel:
    """Draw the parameters.

    The design leaves the age and sex effects open. Here a difference in age is 18 years a unit of average decline,
    so that people differ with age as one person changes; men exceed women by one unit of the size factor, +- .2.
    """
    loadings = 0.45 * rng.standard_normal((FACTORS, features))
    loadings[0] = 1.2 * np.abs(rng.standard_normal(features))
    within = np.sqrt((loadings**2).sum(axis=0) + UNIQUE_VARIANCE)
    decline = 0.02 + 0.02 * rng.random(features)
    age_effect = -18 * decline * within
    sex_effect = loadings[0] + 0.2 * within * rng.standard_normal(features)
    spread = np.sqrt(within**2 + AGE_VARIANCE * age_effect**2 + sex_effect**2 / 4)
    steady = rng.uniform(*reliability, features)
    return LinearModel(
        loadings=loadings,
        age_effect=age_effect,
        sex_effect=sex_effect,
        spread=spread,
        error=spread * np.sqrt((1 - steady) / steady),
        decline=decline,
        disease_decline=0.05 * rng.random(features),
        slope_loadings=(0.04 if converters else 0.03) * rng.standard_normal((SLOPE_FACTORS, features)),
        slope_noise=0.02 if converters else 0.015,
    )


@dataclass(frozen=True)
class _Drawn:
    # One chunk: its people, the mean of their baselines, true and measured baselines, and the change
    # over the gap; each array [n, D].
    rows: slice
    people: People
    mean: np.ndarray
    true: np.ndarray
    measured: np.ndarray
    change: np.ndarray


def _drawn(model: LinearModel, people: People, random: dict[str, np.random.Generator]) -> Iterator[_Drawn]:
    width = len(model.spread)
    for rows in chunks(len(people), width):
        part = people.part(rows)
        mean = model.baseline_mean(part)
        factors = random["factors"].standard_normal((len(part), FACTORS))
        own = np.sqrt(UNIQUE_VARIANCE) * random["unique"].standard_normal((len(part), width))
        true = mean + factors @ model.loadings + own
        measured = true + model.error * random["baseline error"].standard_normal(true.shape)
        slope = random["slope factors"].standard_normal((len(part), SLOPE_FACTORS))
        slope += factors[:, 1 : 1 + SLOPE_FACTORS] / 2
        yearly = slope @ model.slope_loadings + model.slope_noise * random["slope noise"].standard_normal(true.shape)
        change = model.change_mean(part) + yearly * part.gap[:, None] * model.spread
        yield _Drawn(rows, part, mean, true, measured, change)


def draw_gaussian(
    model: LinearModel,
    people: People,
    random: dict[str, np.random.Generator],
    visits: np.ndarray,
    truth: np.ndarray,
) -> tuple[np.ndarray, PosteriorCovariance]:
    """Fill `visits` (N, 2, D) and `truth` (N, D); return mean (N, D) and covariances of the posterior of `truth`.

    true1 = true0 + slope gap sd; both visits carry independent measurement error.
    """
    expected = np.empty_like(truth)
    for drawn in _drawn(model, people, random):
        error = model.error * random["followup error"].standard_normal(drawn.true.shape)
        visits[drawn.rows, 0] = drawn.measured
        truth[drawn.rows] = drawn.true + drawn.change + error
        expected[drawn.rows] = posterior_mean(model, drawn.people, drawn.measured, drawn.mean)
    visits[:, 1] = truth
    return expected, posterior_covariance(model, people.gap)


def draw_converters(
    model: LinearModel,
    people: People,
    random: dict[str, np.random.Generator],
    visits: np.ndarray,
    truth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill `visits` (N, 2, D) and `truth` (N, D); return the axis (D,) and who converted (N,).

    y1 = y0 + (slope gap - converts rate gap d) sd + .25 N(0, 1) sd, d = .5 |N(0, 1)|, a random half of it times .1.
    """
    width = len(model.spread)
    axis = 0.5 * np.abs(random["model"].standard_normal(width))
    axis[random["model"].permutation(width)[: width // 2]] *= 0.1
    converted, rate = conversion(people, random)
    loss = converted * rate * people.gap
    for drawn in _drawn(model, people, random):
        error = 0.25 * random["followup error"].standard_normal(drawn.true.shape)
        visits[drawn.rows, 0] = drawn.measured
        shift = drawn.change + (error - np.outer(loss[drawn.rows], axis)) * model.spread
        truth[drawn.rows] = drawn.measured + shift
    visits[:, 1] = truth
    return axis, converted


# The posterior in factor form. With w = 1 / (.36 + error^2) and k = .36 w, the measured baseline leaves
#   f ~ N(F L w res0, F),  F = (I + L w L')^-1,     u given f ~ N(k (res0 - f L), .36 (1 - k)),
# so that no D x D matrix is formed.


def _factor_posterior(model: LinearModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # F [12, 12]; the weights of f on the baseline's residual [D, 12]; k [D].
    weight = 1 / (UNIQUE_VARIANCE + model.error**2)
    covariance = np.linalg.inv(np.eye(FACTORS) + (model.loadings * weight) @ model.loadings.T)
    return covariance, (model.loadings * weight).T @ covariance, UNIQUE_VARIANCE * weight


def posterior_mean(model: LinearModel, people: People, baseline: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(n, D) mean of the measured follow-up given the measured baseline (n, D), covariates and gap.

    mean : (n, D) of the baseline given the covariates.
    """
    _, score, kept = _factor_posterior(model)
    residual = baseline - mean
    factors = residual @ score
    common = factors @ model.loadings
    tilt = factors[:, 1 : 1 + SLOPE_FACTORS] / 2 @ (model.slope_loadings * model.spread)
    return mean + model.change_mean(people) + common + kept * (residual - common) + people.gap[:, None] * tilt


def posterior_covariance(model: LinearModel, gap: np.ndarray) -> PosteriorCovariance:
    """Covariance of the measured follow-up given the measured baseline, covariates and gap (N,)."""
    covariance, _, kept = _factor_posterior(model)
    root = np.linalg.cholesky(covariance).T
    slopes = model.slope_loadings * model.spread
    tilt = np.zeros_like(model.loadings)
    tilt[1 : 1 + SLOPE_FACTORS] = slopes / 2
    level = np.concatenate([root @ (model.loadings * (1 - kept)), np.zeros_like(slopes)])
    yearly = np.concatenate([root @ tilt, slopes])
    own = UNIQUE_VARIANCE * (1 - kept) + model.error**2
    return PosteriorCovariance(level, yearly, own, (model.slope_noise * model.spread) ** 2, gap)


@dataclass(frozen=True, eq=False)
class PosteriorCovariance:
    """N covariance matrices D x D that differ by the gap alone.

    B'B + diag(own + gap^2 own_yearly) with B = level + gap yearly.
    level, yearly : (16, D).   own, own_yearly : (D,).   gap : (N,) years.
    `covariance[i]` is the (D, D) matrix of person i.
    """

    level: np.ndarray
    yearly: np.ndarray
    own: np.ndarray
    own_yearly: np.ndarray
    gap: np.ndarray

    def __len__(self) -> int:
        return len(self.gap)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, D, D)."""
        return len(self.gap), len(self.own), len(self.own)

    def __getitem__(self, person: int) -> np.ndarray:
        gap = self.gap[operator.index(person)]
        loadings = self.level + gap * self.yearly
        return loadings.T @ loadings + np.diag(self.own + gap**2 * self.own_yearly)

    def take(self, rows: np.ndarray) -> PosteriorCovariance:
        """The people at these positions."""
        return PosteriorCovariance(self.level, self.yearly, self.own, self.own_yearly, self.gap[rows])

    def standard_deviation(self) -> np.ndarray:
        """(N, D) square root of the diagonals."""
        gap = self.gap[:, None]
        constant = (self.level**2).sum(axis=0) + self.own
        linear = 2 * (self.level * self.yearly).sum(axis=0)
        square = (self.yearly**2).sum(axis=0) + self.own_yearly
        return np.sqrt(constant + gap * (linear + gap * square))

    def sample(self, rows: slice, rng: np.random.Generator) -> np.ndarray:
        """(n, D): one exact draw of the deviation from the mean for each person of `rows`."""
        gap = self.gap[rows][:, None]
        common = rng.standard_normal((len(gap), len(self.level)))
        own = np.sqrt(self.own + gap**2 * self.own_yearly)
        return common @ self.level + gap * (common @ self.yearly) + own * rng.standard_normal(own.shape)
