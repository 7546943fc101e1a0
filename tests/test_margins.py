"""Margins: normal, one shape or own shapes, whichever people not fitted on speak for."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.default.correlation import ResidualComponents
from secondgram.imputation.default.margins import MARGINS, Margins, fit_component_margins, fit_margins
from secondgram.imputation.folds import unit_folds
from secondgram.imputation.scores import normal_crps
from secondgram.ops import native
from secondgram.sampling.quantile_map import SHARES, QuantileMap, quantile_crps

FEATURES = 6


def _units(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, unit and fold of people with one pair each."""
    unit = np.arange(rows).astype(str)
    return np.ones(rows), unit, unit_folds(unit, 0)


def _fit(values: np.ndarray, scale: np.ndarray | None = None) -> Margins:
    return fit_margins(values, np.ones(values.shape) if scale is None else scale, *_units(len(values)))


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - 1.0


# -- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [100, 1000])
def test_normal_residuals_stay_normal(rows: int) -> None:
    found = _fit(np.random.default_rng(0).normal(size=(rows, FEATURES)))
    assert found.choice == "normal"
    assert found.map is None
    assert set(found.gain) == set(MARGINS)
    assert found.gain["normal"] == [0.0, 0.0]


def test_residuals_skewed_to_either_side_have_their_own_shapes() -> None:
    rng = np.random.default_rng(0)
    values = _skewed(rng, (1000, FEATURES)) * np.where(np.arange(FEATURES) % 2, -1.0, 1.0)
    found = _fit(values)
    assert found.choice == "own shapes"
    assert found.map is not None
    assert found.gain["own shapes"][0] > found.gain["one shape"][0] + found.gain["own shapes"][1]
    z = rng.normal(size=(20_000, FEATURES))
    third = (found.map.forward(z) ** 3).mean(axis=0)
    assert (third * np.where(np.arange(FEATURES) % 2, -1.0, 1.0) > 0.5).all()
    # And those whom it was fitted on come back as normals.
    np.testing.assert_allclose(found.map.inverse(values).std(axis=0), 1.0, atol=0.1)


def test_a_heavy_tail_that_all_share_is_one_shape_where_pairs_are_few() -> None:
    values = np.random.default_rng(0).standard_t(2.5, size=(60, 40))
    found = _fit(values / np.abs(values).mean() * np.sqrt(2 / np.pi))
    assert found.choice == "one shape"
    assert found.map is not None
    np.testing.assert_array_equal(found.map.end, np.repeat(found.map.end[:, :1], 40, axis=1))


@pytest.mark.parametrize("prior", [0.0, 50.0, np.inf])
def test_a_shape_is_judged_by_the_folds_it_was_not_fitted_to_in_units_of_the_scale(prior: float) -> None:
    rng = np.random.default_rng(0)
    values, scale = _skewed(rng, (200, FEATURES)), rng.uniform(0.1, 3.0, (200, FEATURES))
    weight, unit, fold = _units(200)
    found = fit_margins(values, scale, weight, unit, fold, {"normal": None, "other": prior})
    normal = np.repeat(SHARES[:, None], FEATURES, axis=1)
    fall = np.empty(values.shape)
    for k in range(fold.max() + 1):
        held = fold == k
        fitted = QuantileMap.fit(values[~held], weight[~held], prior)
        ends = (normal, fitted.forward(normal))
        before, after = (quantile_crps(each, values[held]) for each in ends)
        np.testing.assert_allclose(before, normal_crps(values[held], np.ones(1)), atol=5e-3)
        fall[held] = (before - after) * scale[held]
    person = fall.mean(axis=1)
    expected = [person.mean(), person.std(ddof=1) / np.sqrt(200)]
    np.testing.assert_allclose(found.gain["other"], expected, rtol=1e-9)


def test_unknown_cells_spoil_nothing() -> None:
    rng = np.random.default_rng(0)
    values = _skewed(rng, (1000, FEATURES))
    gone = rng.random(values.shape) < 0.3
    gone[:, 0], gone[:, 5] = False, True
    found = _fit(np.where(gone, np.nan, values))
    assert found.choice == "one shape"
    assert found.map is not None
    assert np.isfinite(found.map.end).all()


# -- components -------------------------------------------------------------------------------------------------------


def _loading(width: int = FEATURES, seed: int = 8) -> np.ndarray:
    """(D, D) of a correlation matrix whose components differ in variance, largest first."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    covariance = turn @ np.diag(2.0 ** -np.arange(width)) @ turn.T
    sd = np.sqrt(np.diag(covariance))
    variances, vectors = np.linalg.eigh(covariance / np.outer(sd, sd))
    return (vectors * np.sqrt(variances))[:, ::-1].T


def test_only_the_skewed_component_has_a_distribution_of_its_own() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(500, FEATURES))
    c[:, 1] = _skewed(rng, (500,))
    found = fit_component_margins(c @ _loading(), *_units(500))
    assert found.choice == "1 of 6 of their own distribution"
    assert found.map is not None
    z = rng.normal(size=(4000, FEATURES))
    made = found.map.forward(z)
    np.testing.assert_allclose(np.delete(made, 1, axis=1), np.delete(z, 1, axis=1), atol=1e-9)
    assert np.abs((made[:, 1] ** 3).mean()) > 0.5
    gain, error = found.gain["own"]
    assert gain > 2 * error > 0


def test_a_component_of_its_own_distribution_keeps_unit_variance() -> None:
    rng = np.random.default_rng(1)
    c = rng.normal(size=(80, FEATURES))
    c[:, 0] = _skewed(rng, (80,))
    found = fit_component_margins(c @ _loading(), *_units(80))
    assert found.map is not None
    made = found.map.forward(rng.normal(size=(40_000, FEATURES)))
    np.testing.assert_allclose(made.var(axis=0), 1.0, atol=0.12)
    np.testing.assert_allclose(made.mean(axis=0), 0.0, atol=0.06)


def test_normal_components_stay_normal() -> None:
    z = np.random.default_rng(0).normal(size=(500, FEATURES))
    found = fit_component_margins(z, *_units(500))
    assert (found.map, found.choice) == (None, "normal")
    assert found.gain["own"][0] == 0.0


@pytest.mark.parametrize(("rows", "width"), [(40, 64), (75, 100)])
def test_directions_that_few_people_made_are_no_distributions_of_their_own(rows: int, width: int) -> None:
    # In sample, and of a variance that nobody else has, half of them would look better than normal.
    for seed in range(4):
        z = np.random.default_rng(seed).normal(size=(rows, 3)) @ np.random.default_rng(9).normal(size=(3, width))
        z = z / np.sqrt(3.0) + np.random.default_rng(seed + 50).normal(size=(rows, width))
        found = fit_component_margins(z / np.sqrt(2.0), *_units(rows))
        own = 0 if found.map is None else int((found.map.end != found.map.start).any(axis=0).sum())
        assert own <= 1


def test_so_few_people_have_normal_components() -> None:
    found = fit_component_margins(_skewed(np.random.default_rng(0), (9, 3)), *_units(9))
    assert (found.map, found.choice) == (None, "normal")
    assert found.gain == {"normal": [0.0, 0.0], "own": [0.0, 0.0]}


def test_a_component_is_judged_by_people_apart_from_its_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    z, (weight, unit, fold) = np.random.default_rng(0).normal(size=(60, FEATURES)), _units(60)
    seen: list[np.ndarray] = []
    fit = ResidualComponents.fit

    def noted(standard: np.ndarray, weight: np.ndarray) -> ResidualComponents:
        seen.append(standard)
        return fit(standard, weight)

    monkeypatch.setattr(ResidualComponents, "fit", noted)
    # On one thread the folds come one after the other.
    with native.limited(1):
        fit_component_margins(z, weight, unit, fold)
    for k, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, z[fold != k])
    assert len(seen) == fold.max() + 1


def test_people_of_whom_nothing_is_known_count_for_nothing() -> None:
    values = _skewed(np.random.default_rng(0), (300, FEATURES))
    weight, unit, fold = _units(300)
    values[250:] = np.nan
    found = fit_margins(values, np.ones(values.shape), weight, unit, fold)
    fewer = fit_margins(values[:250], np.ones((250, FEATURES)), weight[:250], unit[:250], fold[:250])
    assert found.choice == fewer.choice != "normal"
    assert found.gain == fewer.gain
