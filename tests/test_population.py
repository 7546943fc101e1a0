"""What everybody's baselines say about one: the surprise, and how it undoes noise of the measurement."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.default import population
from secondgram.imputation.default.population import COVARIATE_PENALTY, Population

FEATURES, COVARIATES = 5, 2


def _everyone(rows: int = 400, seed: int = 0, covariates: int = COVARIATES) -> np.ndarray:
    """[baseline, covariates, gap] of correlated baselines that depend on covariates."""
    rng = np.random.default_rng(seed)
    shown = rng.normal(size=(rows, covariates)) * 3.0 + 1.0
    mixed = rng.normal(size=(rows, FEATURES)) @ rng.normal(size=(FEATURES, FEATURES))
    baseline = mixed + shown @ rng.normal(size=(covariates, FEATURES)) + 2.0
    return np.concatenate([baseline, shown, rng.normal(size=(rows, 1))], axis=1)


def _left(X: np.ndarray) -> np.ndarray:
    """Baselines less what covariates say of them, by the normal equations."""
    baseline, shown = X[:, :FEATURES], X[:, FEATURES:-1]
    turned = (shown - shown.mean(axis=0)) / shown.std(axis=0)
    gram = turned.T @ turned / len(X) + COVARIATE_PENALTY * np.eye(turned.shape[1])
    middle = baseline - baseline.mean(axis=0)
    return middle - turned @ np.linalg.solve(gram, turned.T @ middle / len(X))


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 0.9])
def test_the_surprise_is_the_precision_times_what_is_unexpected(shrinkage: float) -> None:
    X = _everyone()
    left = _left(X)
    covariance = left.T @ left / len(X)
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    expected = left @ np.linalg.inv(shrunk)
    found = Population.fit(X, FEATURES).surprise(shrinkage).map(X)
    scale = (found * expected).sum(axis=0) / (expected**2).sum(axis=0)
    assert (scale > 0).all()
    np.testing.assert_allclose(found, expected * scale, rtol=1e-6, atol=1e-6)


def test_without_shrinkage_a_surprise_has_unit_variance() -> None:
    X = _everyone()
    surprise = Population.fit(X, FEATURES).surprise(0.0).map(X)
    np.testing.assert_allclose(surprise.mean(axis=0), 0.0, atol=1e-8)
    np.testing.assert_allclose(surprise.std(axis=0), 1.0, rtol=1e-6)


def test_fully_shrunk_it_is_the_standardised_residual_on_covariates() -> None:
    X = _everyone()
    left = _left(X)
    expected = left / np.sqrt((left**2).mean(axis=0))
    np.testing.assert_allclose(Population.fit(X, FEATURES).surprise(1.0).map(X), expected, rtol=1e-6, atol=1e-8)


def test_it_undoes_the_noise_of_a_measurement() -> None:
    rng, rows = np.random.default_rng(3), 40_000
    variance = rng.uniform(0.1, 1.0, FEATURES)
    age = rng.normal(size=(rows, 1))
    truth = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, FEATURES)) + 0.3 * rng.normal(size=(rows, FEATURES)) + age
    baseline = truth + rng.normal(size=(rows, FEATURES)) * np.sqrt(variance)
    X = np.concatenate([baseline, age, np.zeros((rows, 1))], axis=1)
    found = Population.fit(X, FEATURES)
    u = found.surprise(0.0).map(X)
    # One coefficient a feature, from people whose truth is known, does what Tweedie's formula says.
    coefficient = (u * (truth - baseline)).mean(axis=0) / (u**2).mean(axis=0)
    precision = np.linalg.inv(found.covariance)
    np.testing.assert_allclose(coefficient, -variance * np.sqrt(np.diag(precision)), atol=0.02)
    # And what is left has the variance of the posterior: no other combination of the baselines would help.
    error = truth - baseline - coefficient * u
    posterior = variance - variance**2 * np.diag(precision)
    np.testing.assert_allclose((error**2).mean(axis=0), posterior, rtol=0.03)
    np.testing.assert_allclose(error.T @ baseline / rows, 0.0, atol=0.03)


def test_the_gap_says_nothing_of_a_baseline() -> None:
    X = _everyone()
    surprise = Population.fit(X, FEATURES).surprise(0.3).map
    moved = X.copy()
    moved[:, -1] += 100.0
    np.testing.assert_array_equal(surprise(moved), surprise(X))


def test_a_cohort_without_covariates_has_one_mean() -> None:
    X = _everyone(covariates=0)
    found = Population.fit(X, FEATURES)
    np.testing.assert_allclose(found.mean(X), np.broadcast_to(X[:, :FEATURES].mean(axis=0), (len(X), FEATURES)))
    np.testing.assert_allclose(found.covariance, np.cov(X[:, :FEATURES].T, bias=True), rtol=1e-10)


def test_the_covariance_does_not_depend_on_how_people_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    X = _everyone()
    whole = Population.fit(X, FEATURES).covariance
    monkeypatch.setattr(population, "PEOPLE_AT_ONCE", 77)
    np.testing.assert_allclose(Population.fit(X, FEATURES).covariance, whole, rtol=1e-10)


def test_features_that_say_the_same_stay_finite() -> None:
    X = _everyone()
    X[:, 1] = X[:, 0]
    X[:, 2] = 0.0
    for shrinkage in (0.1, 0.6):
        assert np.isfinite(Population.fit(X, FEATURES).surprise(shrinkage).map(X)).all()


# -- people who took part ---------------------------------------------------------------------------------------------


def _wide(people: int, width: int = 12, seed: int = 0) -> np.ndarray:
    """[baseline, covariate, gap] of as many correlated features as asked for."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(people, 2)) @ rng.normal(size=(2, width))
    shown = rng.normal(size=(people, 2))
    return np.concatenate([shared + rng.normal(size=(people, width)) + shown[:, :1], shown], axis=1)


@pytest.mark.parametrize("people", [8, 11, 12, 40])
@pytest.mark.parametrize("shrinkage", [0.1, 0.6])
def test_few_people_have_the_surprise_of_the_direct_inverse(people: int, shrinkage: float) -> None:
    X = _wide(people)
    found = Population.fit(X, 12)
    assert (found.left is None) == (people >= 12)
    left = X[:, :12] - found.mean(X)
    covariance = left.T @ left / people
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10, atol=1e-12)
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)) + 1e-9 * np.eye(12)
    surprise = found.surprise(shrinkage)
    np.testing.assert_allclose(surprise.precision, np.linalg.inv(shrunk), rtol=1e-7, atol=1e-7)
    assert surprise.share == pytest.approx((1.0 - shrinkage) / people)


@pytest.mark.parametrize("people", [8, 40])
@pytest.mark.parametrize("shrinkage", [0.1, 0.6])
@pytest.mark.parametrize("visit", ["the same", "another"])
def test_apart_is_the_population_without_the_person(people: int, shrinkage: float, visit: str) -> None:
    X = _wide(people)
    rows = X if visit == "the same" else X + 0.7 * np.random.default_rng(1).normal(size=X.shape)
    surprise = Population.fit(X, 12).surprise(shrinkage)
    found = surprise.apart(rows, X)
    left, of_rows = X[:, :12] - surprise.mean(X), rows[:, :12] - surprise.mean(rows)
    # The diagonal of the shrunk part stays as it is.
    diagonal = shrinkage * np.diag((left**2).mean(axis=0)) + 1e-9 * np.eye(12)
    scale = np.sqrt(np.diag(surprise.precision))
    for person in range(people):
        others = np.delete(left, person, axis=0)
        covariance = (1.0 - shrinkage) / people * others.T @ others + diagonal
        expected = of_rows[person] @ np.linalg.inv(covariance) / scale
        np.testing.assert_allclose(found[person], expected, rtol=1e-6, atol=1e-8)
    inside = surprise.map(rows)
    assert not np.allclose(found, inside, rtol=0.01)


@pytest.mark.parametrize("people", [10, 30, 90])
def test_apart_is_as_surprising_as_people_are_who_are_new(people: int) -> None:
    X = _wide(people + 2000)
    surprise = Population.fit(X[:people], 12).surprise(0.3)
    size = {
        "inside": np.sqrt((surprise.map(X[:people]) ** 2).mean()),
        "apart": np.sqrt((surprise.apart(X[:people], X[:people]) ** 2).mean()),
        "new": np.sqrt((surprise.map(X[people:]) ** 2).mean()),
    }
    assert size["inside"] < size["new"]
    # The mean, which is left as it is, makes the difference that remains.
    assert abs(size["apart"] - size["new"]) < 0.5 * (size["new"] - size["inside"]) + 0.05 * size["new"]
