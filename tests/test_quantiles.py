"""Quantile maps: there and back, the sample's distribution, and the score of a distribution given by quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from secondgram.imputation.scores import crps, normal_crps
from secondgram.sampling.quantile_map import KNOTS, SHARES, QuantileMap, quantile_crps


def _sample(rows: int = 2000, seed: int = 0) -> np.ndarray:
    """A skewed column, one of two modes, and a normal one far from 0."""
    rng = np.random.default_rng(seed)
    two = np.where(rng.random(rows) < 0.3, 3.0, -1.0) + 0.4 * rng.normal(size=rows)
    return np.stack([rng.exponential(size=rows), two, 7.0 + rng.normal(size=rows)], axis=1)


def _fitted(prior: float = 0.0, rows: int = 2000) -> QuantileMap:
    return QuantileMap.fit(_sample(rows), np.ones(rows), prior)


def _normals(rows: int = 20_000) -> np.ndarray:
    """(rows, 3) at the quantiles of a normal, next to no sampling error."""
    return np.repeat(stats.norm.ppf((np.arange(rows) + 0.5) / rows)[:, None], 3, axis=1)


# -- there and back ---------------------------------------------------------------------------------------------------


def test_inverse_undoes_forward_inside_and_outside_the_knots() -> None:
    fitted = _fitted()
    z = np.repeat(np.linspace(-6.0, 6.0, 101)[:, None], 3, axis=1)
    np.testing.assert_allclose(fitted.inverse(fitted.forward(z)), z, atol=1e-6)
    x = np.linspace(fitted.end[0] - 3.0, fitted.end[-1] + 3.0, 101)
    np.testing.assert_allclose(fitted.forward(fitted.inverse(x)), x, atol=1e-8)


def test_beyond_the_last_knot_a_map_goes_on_with_slope_one() -> None:
    fitted = _fitted()
    last, first = np.array([[3.5] * 3]), np.array([[-3.5] * 3])
    np.testing.assert_allclose(fitted.forward(last + 2.0) - fitted.forward(last), 2.0, rtol=1e-9)
    np.testing.assert_allclose(fitted.forward(first) - fitted.forward(first - 2.0), 2.0, rtol=1e-9)


def test_unknown_cells_stay_unknown_and_touch_no_other() -> None:
    fitted, x = _fitted(), _sample(9)
    holed = x.copy()
    holed[2:5, 1] = np.nan
    for there in (fitted.forward, fitted.inverse):
        np.testing.assert_array_equal(there(holed), np.where(np.isnan(holed), np.nan, there(x)))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 3), (2, 5, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_map_keeps_shape_and_dtype(shape: tuple[int, ...], dtype: type) -> None:
    z: np.ndarray = np.random.default_rng(0).normal(size=shape).astype(dtype)
    made = _fitted().forward(z)
    assert (made.shape, made.dtype) == (shape, np.dtype(dtype))
    flat = _fitted().forward(z.reshape(-1, 3)).reshape(shape)
    np.testing.assert_array_equal(made, flat)


columns = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.floats(-100.0, 100.0, width=32)
)


@given(columns, st.sampled_from([0.0, 1.0, 20.0, np.inf]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_map_rises_and_has_an_inverse(values: np.ndarray, prior: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fitted = QuantileMap.fit(values, rng.uniform(0.1, 2.0, len(values)), prior)
    width = values.shape[1]
    assert (np.diff(fitted.start, axis=0) > 0).all()
    assert (np.diff(fitted.end, axis=0) > 0).all()
    z = np.sort(rng.uniform(-5.0, 5.0, size=(40, width)), axis=0)
    x = fitted.forward(z)
    assert (np.diff(x, axis=0) >= 0).all()
    # Where a sample has ties the map is nearly flat, and only the way over its values is exact.
    np.testing.assert_allclose(fitted.forward(fitted.inverse(x)), x, atol=1e-6)
    assert (np.abs(x) <= np.abs(values).max() + 2.0 + 1e-4).all()


# -- the distribution -------------------------------------------------------------------------------------------------


def test_normals_become_distributed_like_the_sample() -> None:
    sample, made = _sample(), _fitted().forward(_normals())
    for got, wanted in zip(made.T, sample.T, strict=True):
        # The interval of knots that holds the step between two modes carries up to 4 % of the normals.
        assert stats.ks_2samp(got, wanted).statistic < 0.03
        assert got.mean() == pytest.approx(wanted.mean(), abs=0.02 * wanted.std())
        assert got.std() == pytest.approx(wanted.std(), rel=0.03)


def test_the_sample_becomes_normal() -> None:
    for z in _fitted().inverse(_sample()).T:
        assert stats.kstest(z, "norm").statistic < 0.025
        assert z.std() == pytest.approx(1.0, abs=0.02)


def test_a_normal_sample_is_left_alone() -> None:
    z = _normals()
    fitted = QuantileMap.fit(z, np.ones(len(z)))
    np.testing.assert_allclose(fitted.forward(z), z, atol=0.01)


def test_unknown_cells_and_rows_without_weight_count_for_nothing() -> None:
    sample = _sample()
    gone = np.arange(2000) % 4 == 0
    expected = QuantileMap.fit(sample[~gone], np.ones(1500)).end
    np.testing.assert_allclose(QuantileMap.fit(np.where(gone[:, None], np.nan, sample), np.ones(2000)).end, expected)
    # Between two values a quantile is interpolated, and a row without weight may be one of them.
    found = QuantileMap.fit(sample, np.where(gone, 0.0, 1.0)).end
    np.testing.assert_allclose(found[10:-10], expected[10:-10], atol=0.05)


def test_a_weight_counts_as_repeating_the_row() -> None:
    sample, times = _sample(), np.random.default_rng(0).integers(1, 4, 2000)
    weighted = QuantileMap.fit(sample, times.astype(float)).end
    repeated = QuantileMap.fit(sample.repeat(times, axis=0), np.ones(times.sum())).end
    np.testing.assert_allclose(weighted[10:-10], repeated[10:-10], atol=0.02)


# -- the prior --------------------------------------------------------------------------------------------------------


def test_an_endless_prior_shares_one_shape() -> None:
    fitted, sample = _fitted(np.inf), _sample()
    together = QuantileMap.fit(sample.reshape(-1, 1), np.ones(6000))
    for column in range(3):
        np.testing.assert_allclose(fitted.end[:, column], together.end[:, 0], rtol=1e-9)


def test_a_prior_draws_by_its_share_of_rows() -> None:
    own, shared, between = _fitted(0.0), _fitted(np.inf), _fitted(500.0)
    np.testing.assert_allclose(between.end, 0.8 * own.end + 0.2 * shared.end, rtol=1e-9, atol=1e-9)
    # Of rows of unequal weight there are effectively fewer.
    weight = np.where(np.arange(2000) < 1000, 1.0, 0.0)
    drawn = QuantileMap.fit(_sample(), weight, 1000.0).end
    parts = [QuantileMap.fit(_sample(), weight, prior).end for prior in (0.0, np.inf)]
    np.testing.assert_allclose(drawn, 0.5 * parts[0] + 0.5 * parts[1], rtol=1e-9, atol=1e-9)


def test_a_column_that_is_never_known_takes_the_shape_of_the_others() -> None:
    sample = _sample()
    sample[:, 1] = np.nan
    fitted = QuantileMap.fit(sample, np.ones(2000), 100.0)
    np.testing.assert_array_equal(fitted.end[:, 1], QuantileMap.fit(sample, np.ones(2000), np.inf).end[:, 0])


# -- another start, state ---------------------------------------------------------------------------------------------


def test_from_draws_maps_the_draws_to_the_distribution_of_the_ends() -> None:
    fitted, draws = _fitted(), 3.0 + np.random.default_rng(1).gamma(2.0, size=(20_000, 3))
    turned = fitted.from_draws(draws)
    np.testing.assert_array_equal(turned.end, fitted.end)
    made, wanted = turned.forward(draws), fitted.forward(_normals())
    for column in range(3):
        assert stats.ks_2samp(made[:, column], wanted[:, column]).statistic < 0.01
    np.testing.assert_allclose(turned.inverse(made), draws, atol=1e-6)


def test_the_state_comes_back() -> None:
    fitted, z = _fitted(), _normals(50)
    np.testing.assert_array_equal(QuantileMap.from_state(dict(fitted.state())).forward(z), fitted.forward(z))


# -- the score --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (-2.0, 0.3)])
def test_the_score_of_normal_quantiles_is_the_closed_form(mean: float, sd: float) -> None:
    quantiles = (mean + sd * SHARES)[:, None]
    for truth, tolerance in ((np.linspace(-2.3, 2.3, 41), 1e-3), (np.linspace(-5.0, 5.0, 41), 2.5e-3)):
        got = quantile_crps(quantiles, mean + sd * truth[:, None])
        np.testing.assert_allclose(got[:, 0], normal_crps(sd * truth, np.array(sd)), rtol=0, atol=tolerance * sd)


def test_the_score_of_a_fitted_map_is_that_of_many_draws_from_it() -> None:
    fitted, truth = _fitted(), _sample(50, seed=4)
    got = quantile_crps(fitted.forward(np.repeat(SHARES[:, None], 3, axis=1)), truth)
    draws = fitted.forward(_normals(4000))
    expected = crps(np.broadcast_to(draws[:, None], (4000, 50, 3)), truth)
    np.testing.assert_allclose(got, expected, atol=0.01)


def test_an_unknown_truth_has_no_score() -> None:
    got = quantile_crps(SHARES[:, None], np.array([[np.nan], [0.0]]))
    assert np.isnan(got[0, 0])
    assert np.isfinite(got[1, 0])


def test_knots_are_symmetric_and_fine_enough_for_a_normal() -> None:
    np.testing.assert_allclose(KNOTS, -KNOTS[::-1], atol=1e-12)
    np.testing.assert_allclose(SHARES, -SHARES[::-1], atol=1e-12)
    assert len(SHARES) == 99
