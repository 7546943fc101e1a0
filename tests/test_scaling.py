"""Scaling: one scale for all visits, sites shrunk to the cohort, and covariates that a model has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from secondgram.cohort.scaling import CovariateEncoder, RangeScaling, SharedScaling
from secondgram.errors import InputError


def _baseline(people: int = 60, gaps: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal([1000.0, 2.5, -3.0], [200.0, 0.1, 5.0], size=(people, 3))
    if gaps:
        values[rng.random(values.shape) < 0.1] = np.nan
    return values


def _sites(people: int = 60) -> np.ndarray:
    return np.array(["north"] * 40 + ["south"] * 18 + ["west"] * (people - 58), dtype=object)


# -- one scale for every visit ----------------------------------------------------------------------------------------


def test_baselines_get_mean_zero_and_spread_one() -> None:
    values = _baseline()
    scaled = SharedScaling.fit(values).apply(values)
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0, ddof=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(values))


@pytest.mark.parametrize("site", [None, _sites()], ids=["one site", "sites"])
def test_no_change_stays_no_change_and_a_change_keeps_its_sign(site: np.ndarray | None) -> None:
    before = _baseline(gaps=False)
    scaling = SharedScaling.fit(before, site)
    np.testing.assert_array_equal(scaling.apply(before, site), scaling.apply(before.copy(), site))
    step = scaling.apply(before + 1.0, site) - scaling.apply(before, site)
    spread = scaling.spread[scaling._rows(len(before), site)]
    np.testing.assert_allclose(step, 1.0 / spread, rtol=1e-8)


@pytest.mark.parametrize("site", [None, _sites()], ids=["one site", "sites"])
def test_scaling_comes_back_for_visits_and_for_draws(site: np.ndarray | None) -> None:
    values = _baseline()
    scaling = SharedScaling.fit(values, site)
    np.testing.assert_allclose(scaling.invert(scaling.apply(values, site), site), values, rtol=1e-12)
    draws = np.random.default_rng(1).normal(size=(4, *values.shape))
    for one, inverted in zip(draws, scaling.invert(draws, site), strict=True):
        np.testing.assert_array_equal(inverted, scaling.invert(one, site))


def test_sites_that_do_not_differ_share_one_scale() -> None:
    rng = np.random.default_rng(3)
    site = np.array([f"site {k}" for k in range(20)], dtype=object).repeat(5)
    values = rng.normal(50.0, 4.0, size=(100, 200))
    scaling = SharedScaling.fit(values, site)
    own = np.stack([values[site == name].mean(axis=0) for name in scaling.sites])
    spreads = np.stack([values[site == name].std(axis=0, ddof=1) for name in scaling.sites])
    assert scaling.location[1:].std() < 0.5 * own.std()
    assert np.log(scaling.spread[1:]).std() < 0.5 * np.log(spreads).std()


def test_small_sites_that_differ_keep_their_own_mean() -> None:
    rng = np.random.default_rng(4)
    site = np.array([f"site {k}" for k in range(20)], dtype=object).repeat(5)
    shift = rng.normal(0.0, 1000.0, size=20).repeat(5)[:, None]
    values = rng.normal(size=(100, 30)) + shift
    scaled = SharedScaling.fit(values, site).apply(values, site)
    assert np.abs(scaled).max() < 10.0
    assert np.abs(np.stack([scaled[site == name].mean(axis=0) for name in set(site)])).max() < 0.5


@pytest.mark.parametrize("people", [1, 2])
def test_a_site_of_one_or_two_never_has_a_scale_of_almost_nothing(people: int) -> None:
    values, site = _baseline(gaps=False), _sites()
    site[:] = "north"
    site[:people] = "south"
    values[:people] = values[0] * (1.0 + 1e-6 * np.arange(people))[:, None]
    scaling = SharedScaling.fit(values, site)
    assert (scaling.spread[2] > 0.02 * scaling.spread[1]).all()


def test_site_differences_are_taken_out() -> None:
    rng = np.random.default_rng(0)
    site = np.array(["a", "b"], dtype=object).repeat(500)
    values = (
        rng.normal(size=(1000, 2)) * np.where(site == "a", 1.0, 3.0)[:, None] + np.where(site == "a", 0, 10.0)[:, None]
    )
    scaled = SharedScaling.fit(values, site).apply(values, site)
    for name in "ab":
        assert np.abs(scaled[site == name].mean(axis=0)).max() < 0.1
        np.testing.assert_allclose(scaled[site == name].std(axis=0), 1.0, atol=0.1)


def test_an_unknown_site_and_no_site_have_the_mean_of_the_cohort_and_the_spread_within_sites() -> None:
    values, site = _baseline(gaps=False), _sites()
    shift = 1e4 * (site == "south")[:, None]
    scaling, plain = SharedScaling.fit(values + shift, site), SharedScaling.fit(values + shift)
    elsewhere = np.array(["east"] * len(values), dtype=object)
    assert scaling.unknown(len(values), elsewhere).all()
    assert scaling.unknown(len(values)).all()
    assert not scaling.unknown(len(values), site).any()
    assert not plain.unknown(len(values), site).any()
    np.testing.assert_array_equal(scaling.apply(values, elsewhere), scaling.apply(values))
    location, spread = scaling.original_scale(1, elsewhere[:1])
    np.testing.assert_array_equal(location[0], plain.location[0])
    np.testing.assert_array_equal(scaling.whole, plain.spread[0])
    parts = [values[site == name] for name in ("north", "south", "west")]
    pooled = sum(((part - part.mean(axis=0)) ** 2).sum(axis=0) for part in parts) / (len(values) - 3)
    np.testing.assert_allclose(spread[0], np.sqrt(pooled))


@pytest.mark.parametrize("people", [1, 2, 6])
@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_a_site_where_a_feature_does_not_vary_takes_the_spread_within_the_others(people: int, factor: float) -> None:
    # In any unit: what a feature is measured in must not decide how a site is scaled.
    values, site = _baseline(gaps=False) * factor, _sites()
    site[:] = "north"
    site[:people] = "south"
    values[:people] = 7.0 * factor
    scaling = SharedScaling.fit(values, site)
    np.testing.assert_allclose(scaling.spread[2], values[people:].std(axis=0, ddof=1), rtol=1e-9)


def test_a_site_without_a_value_of_a_feature_takes_that_of_the_others() -> None:
    values, site = _baseline(gaps=False), _sites()
    values[site == "south", 1] = np.nan
    scaling = SharedScaling.fit(values, site)
    assert scaling.location[2, 1] == scaling.location[0, 1]
    others = [values[site == name, 1] for name in ("north", "west")]
    pooled = sum((part - part.mean()) @ (part - part.mean()) for part in others) / (sum(map(len, others)) - 2)
    assert scaling.spread[2, 1] == pytest.approx(np.sqrt(pooled))
    assert np.isfinite(scaling.location).all()


@pytest.mark.parametrize("column", [np.nan, 0.0, 0.1, 1e12])
def test_a_constant_or_empty_feature_is_left_as_wide_as_it_is(column: float) -> None:
    values = _baseline(gaps=False)
    values[:, 1] = column
    scaling = SharedScaling.fit(values)
    assert scaling.spread[0, 1] == 1.0
    assert np.isfinite(scaling.location).all()


# -- cells far off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [None, _sites()], ids=["one site", "sites"])
@pytest.mark.parametrize("far", [1e4, -1e9])
def test_one_cell_decides_no_robust_scale(site: np.ndarray | None, far: float) -> None:
    values = _baseline(gaps=False)
    before = SharedScaling.fit(values, site, robust=True)
    values[3, 1] *= far
    after = SharedScaling.fit(values, site, robust=True)
    # It counts as one that is five standard deviations off, among the 40 of its site.
    np.testing.assert_allclose(after.spread[:2], before.spread[:2], rtol=np.sqrt(1 + 25 / 40) - 0.95)
    assert (np.abs(after.location - before.location) < 0.3 * before.spread).all()
    np.testing.assert_array_equal(after.spread[0, [0, 2]], before.spread[0, [0, 2]])
    # And without asking for it, the moments are plain ones.
    assert SharedScaling.fit(values, site).spread[0, 1] > 100 * before.spread[0, 1]


def test_one_cell_decides_no_scale_of_its_site() -> None:
    values, site = _baseline(gaps=False), _sites()
    before = SharedScaling.fit(values, site, robust=True)
    values[45, 0] *= 1e6
    after = SharedScaling.fit(values, site, robust=True)
    assert site[45] == after.sites[1] == "south"
    np.testing.assert_allclose(after.spread, before.spread, rtol=0.8)
    assert (np.abs(after.location - before.location) < 0.7 * before.spread).all()


@pytest.mark.parametrize("site", [None, _sites()], ids=["one site", "sites"])
def test_where_no_cell_is_far_a_robust_scale_is_the_plain_one(site: np.ndarray | None) -> None:
    plain, robust = (SharedScaling.fit(_baseline(), site, robust=asked) for asked in (False, True))
    np.testing.assert_array_equal(robust.location, plain.location)
    np.testing.assert_array_equal(robust.spread, plain.spread)


def test_a_feature_of_which_most_cells_are_one_value_keeps_the_others() -> None:
    # Lesions, say: none in two thirds of the people.
    rng = np.random.default_rng(0)
    values = np.where(rng.random((300, 1)) < 0.3, rng.gamma(2.0, 5.0, size=(300, 1)), 0.0)
    plain, robust = (SharedScaling.fit(values, robust=asked) for asked in (False, True))
    np.testing.assert_allclose(robust.spread, plain.spread, rtol=0.1)
    assert robust.apply(values).std() > 0.9


def test_a_robust_scale_is_finite_for_constant_empty_and_rare_features() -> None:
    values = _baseline(gaps=False)
    values[:, 0], values[:, 1], values[1:, 2] = 4.0, np.nan, np.nan
    scaling = SharedScaling.fit(values, robust=True)
    np.testing.assert_array_equal(scaling.spread[0], 1.0)
    np.testing.assert_array_equal(scaling.location[0, [0, 1]], [4.0, 0.0])
    assert scaling.location[0, 2] == values[0, 2]
    assert np.isfinite(SharedScaling.fit(values[:3], robust=True).location).all()


def test_shared_scaling_state_comes_back() -> None:
    values, site = _baseline(), _sites()
    scaling = SharedScaling.fit(values, site)
    again = SharedScaling.from_state(scaling.state())
    assert again.sites == scaling.sites
    np.testing.assert_array_equal(again.whole, scaling.whole)
    np.testing.assert_array_equal(again.apply(values, site), scaling.apply(values, site))


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_a_range_becomes_minus_one_to_one_and_comes_back() -> None:
    values = _baseline()
    scaling = RangeScaling.fit(values)
    scaled = scaling.apply(values)
    np.testing.assert_allclose(np.nanmin(scaled, axis=0), -1.0, atol=1e-12)
    np.testing.assert_allclose(np.nanmax(scaled, axis=0), 1.0, atol=1e-12)
    np.testing.assert_allclose(scaling.invert(scaled), values, rtol=1e-12)
    again = RangeScaling.from_state(scaling.state())
    np.testing.assert_array_equal(again.apply(values), scaled)


@pytest.mark.parametrize("column", [np.nan, 4.0])
def test_a_range_of_no_width_stays_finite(column: float) -> None:
    values = np.array([[1.0, column], [2.0, column]])
    scaling = RangeScaling.fit(values)
    assert np.isfinite(scaling.low).all()
    assert (scaling.high > scaling.low).all()
    np.testing.assert_array_equal(np.isnan(scaling.apply(values)), np.isnan(values))


# -- covariates -------------------------------------------------------------------------------------------------------


def _table(**change: Any) -> pd.DataFrame:
    columns = {
        "age": [50.0, 60.0, np.nan, 70.0],
        "sex": pd.Categorical(["f", "m", "m", None], categories=["f", "m"]),
        "income": [1, 2, 3, 4],
    }
    return pd.DataFrame({**columns, **change})


def test_numbers_are_centred_and_categories_become_columns() -> None:
    encoder = CovariateEncoder.fit(_table())
    assert encoder.width == 4
    got = encoder.transform(_table())
    age, sex, income = np.array([50.0, 60.0, 70.0]), np.array([1.0, 0.0, 0.0]), np.arange(1.0, 5.0)
    np.testing.assert_allclose(got[[0, 1, 3], 0], (age - 60.0) / age.std(ddof=1))
    np.testing.assert_allclose(got[:3, 1], (sex - sex.mean()) / sex.std(ddof=1))
    np.testing.assert_allclose(got[:3, 2], -got[:3, 1])
    np.testing.assert_allclose(got[:, 3], (income - 2.5) / income.std(ddof=1))


def test_a_missing_covariate_becomes_zero() -> None:
    got = CovariateEncoder.fit(_table()).transform(_table())
    assert got[2, 0] == 0.0
    assert not got[3, 1:3].any()
    assert np.isfinite(got).all()
    everything = _table(age=[np.nan] * 4, income=[np.nan] * 4)
    assert np.isfinite(CovariateEncoder.fit(everything).transform(everything)).all()


def test_the_paper_scales_numbers_to_zero_and_one_and_leaves_categories() -> None:
    got = CovariateEncoder.fit(_table(), unit_range=True).transform(_table())
    np.testing.assert_allclose(got[[0, 1, 3], 0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(got[:3, 1:3], [[1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(got[:, 3], [0, 1 / 3, 2 / 3, 1])


def test_other_people_are_encoded_by_the_training_people() -> None:
    encoder = CovariateEncoder.fit(_table())
    whole = encoder.transform(_table())
    np.testing.assert_array_equal(encoder.transform(_table().iloc[[3, 0]]), whole[[3, 0]])
    # The order of the columns and further columns of the table do not matter, nor does the type of the text.
    shuffled = _table()[["income", "sex", "age"]].assign(more=1).astype({"sex": object})
    np.testing.assert_array_equal(encoder.transform(shuffled), whole)


def test_a_category_unseen_in_training_names_column_category_and_row() -> None:
    encoder = CovariateEncoder.fit(_table())
    table = _table(sex=pd.Categorical(["f", "m", "unknown", None]))
    with pytest.raises(InputError) as caught:
        encoder.transform(table, "people.csv")
    message = str(caught.value)
    for part in ("people.csv", "'sex'", "category unknown", "f, m", "subject 3"):
        assert part in message


def test_an_absent_covariate_names_its_column() -> None:
    with pytest.raises(InputError, match=r"column 'income'.*none of that name"):
        CovariateEncoder.fit(_table()).transform(_table().drop(columns="income"))


def test_text_where_training_had_numbers_names_its_column() -> None:
    with pytest.raises(InputError, match=r"column 'age'.*has text"):
        CovariateEncoder.fit(_table()).transform(_table(age=["old"] * 4))
    with pytest.raises(InputError, match=r"column 'age'.*has text"):
        CovariateEncoder.fit(_table()).transform(_table(age=pd.Categorical(["old"] * 4)))


def test_no_covariates_give_no_columns() -> None:
    table = pd.DataFrame(index=range(3))
    encoder = CovariateEncoder.fit(table)
    assert encoder.width == 0
    assert encoder.transform(table).shape == (3, 0)
    assert CovariateEncoder.fit(table, unit_range=True).transform(table).shape == (3, 0)


@pytest.mark.parametrize("unit_range", [False, True])
def test_the_encoder_state_comes_back_with_the_order_of_its_columns(unit_range: bool) -> None:
    encoder = CovariateEncoder.fit(_table(), unit_range)
    again = CovariateEncoder.from_state(encoder.state())
    assert list(again.columns) == ["age", "sex", "income"]
    np.testing.assert_array_equal(again.transform(_table()), encoder.transform(_table()))


def test_range_within_site_undoes_itself_and_takes_the_site_out() -> None:
    generator = np.random.default_rng(5)
    site = np.array(["a"] * 40 + ["b"] * 40, dtype=object)
    values = generator.normal(size=(80, 3)) * np.where(site == "a", 1.0, 50.0)[:, None]
    values += np.where(site == "a", 0.0, 1000.0)[:, None]
    scaling = RangeScaling.fit(values, site, SharedScaling.fit(values, site))
    scaled = scaling.apply(values, site)
    assert scaled.min() == pytest.approx(-1.0)
    assert scaled.max() == pytest.approx(1.0)
    assert np.abs(scaled[:40].mean(axis=0) - scaled[40:].mean(axis=0)).max() < 0.35
    again = RangeScaling.from_state(scaling.state())
    np.testing.assert_allclose(again.invert(scaled, site), values, rtol=1e-12)
