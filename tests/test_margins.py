"""Margins: normal, one shape or own shapes, whichever people not fitted on speak for."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.imputation.folds import unit_folds
from secondgram.imputation.margins import MARGINS, Margins, fit_component_margins, fit_margins
from secondgram.imputation.quantiles import SHARES, QuantileMap, quantile_crps
from secondgram.imputation.scores import normal_crps

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


def test_the_score_is_of_people_not_fitted_on_and_in_the_units_of_the_scale() -> None:
    rng = np.random.default_rng(0)
    values, scale = rng.normal(size=(200, FEATURES)), rng.uniform(0.1, 3.0, (200, FEATURES))
    found = _fit(values, scale)
    assert found.choice == "normal"
    np.testing.assert_allclose(found.score, normal_crps(values, np.ones(1)) * scale, atol=5e-3)


@pytest.mark.parametrize("prior", [0.0, 50.0, np.inf])
def test_a_shape_is_judged_by_the_folds_it_was_not_fitted_to(prior: float) -> None:
    values = _skewed(np.random.default_rng(0), (200, FEATURES))
    weight, unit, fold = _units(200)
    found = fit_margins(values, np.ones(values.shape), weight, unit, fold, {"the only one": prior})
    assert found.choice == "the only one"
    normal = np.repeat(SHARES[:, None], FEATURES, axis=1)
    for k in range(fold.max() + 1):
        held = fold == k
        fitted = QuantileMap.fit(values[~held], weight[~held], prior)
        np.testing.assert_allclose(found.score[held], quantile_crps(fitted.forward(normal), values[held]), rtol=1e-12)


def test_unknown_cells_have_no_score_and_spoil_nothing() -> None:
    rng = np.random.default_rng(0)
    values = _skewed(rng, (1000, FEATURES))
    gone = rng.random(values.shape) < 0.3
    gone[:, 0], gone[:, 5] = False, True
    found = _fit(np.where(gone, np.nan, values))
    assert found.choice == "one shape"
    assert found.map is not None
    assert np.isfinite(found.map.end).all()
    np.testing.assert_array_equal(np.isnan(found.score), gone)


# -- components -------------------------------------------------------------------------------------------------------


def test_only_the_skewed_component_has_a_distribution_of_its_own() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(500, FEATURES))
    c[:, 2] = _skewed(rng, (500,))
    found = fit_component_margins(c, *_units(500))
    assert found.choice == "1 of 6 of their own distribution"
    assert found.map is not None
    z = rng.normal(size=(4000, FEATURES))
    made = found.map.forward(z)
    np.testing.assert_allclose(np.delete(made, 2, axis=1), np.delete(z, 2, axis=1), atol=1e-9)
    assert (made[:, 2] ** 3).mean() > 0.5
    gain, error = found.gain["own"]
    assert gain > 2 * error > 0
    plain = quantile_crps(np.repeat(SHARES[:, None], FEATURES, axis=1), c)
    np.testing.assert_array_equal(np.delete(found.score, 2, axis=1), np.delete(plain, 2, axis=1))
    assert (plain - found.score).mean() == pytest.approx(gain)


def test_normal_components_stay_normal() -> None:
    c = np.random.default_rng(0).normal(size=(500, FEATURES))
    found = fit_component_margins(c, *_units(500))
    assert (found.map, found.choice) == (None, "normal")
    assert found.gain["own"][0] == 0.0
