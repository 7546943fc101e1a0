"""Rubin's rules: published tables, an independent implementation, coverage, and what they must refuse."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import secondgram as sg
from secondgram.analysis import fit as fit_module
from secondgram.analysis import pool


def with_moments(mean: float, variance: float, count: int) -> np.ndarray:
    """(count,) numbers of exactly this mean and variance."""
    plain = np.arange(count, dtype=float)
    return mean + np.sqrt(variance) * (plain - plain.mean()) / plain.std(ddof=1)


# van Buuren, Flexible Imputation of Missing Data (2nd ed., 2018): bmi ~ age of nhanes, 10 imputations, pooled by mice.
# estimate, within, between | total, df, increase, lambda, missing information; the complete data have 23 df.
NHANES = {
    "(Intercept)": (30.50, 3.408, 1.454, 5.01, 12.4, 0.469, 0.319, 0.408),
    "age": (-2.13, 0.906, 0.238, 1.17, 15.1, 0.289, 0.224, 0.310),
}


@pytest.mark.parametrize("name", NHANES)
def test_a_published_table(name: str) -> None:
    estimate, within, between, total, df, increase, share, missing = NHANES[name]
    found = sg.pool(with_moments(estimate, between, 10), np.full(10, within), 23)
    assert found.estimate == pytest.approx(estimate, rel=1e-12)
    assert found.total == pytest.approx(total, abs=0.005)
    assert found.df == pytest.approx(df, abs=0.05)
    assert found.missing_share / (1 - found.missing_share) == pytest.approx(increase, abs=0.0006)
    assert found.missing_share == pytest.approx(share, abs=0.0006)
    assert found.missing_information == pytest.approx(missing, abs=0.0006)


def test_published_means_with_few_people() -> None:
    """SAS/STAT's documentation of PROC MIANALYZE: mean oxygen intake of 31 people, 5 imputations, 30 df."""
    means = [47.0120, 47.2407, 47.4995, 47.1485, 47.0042]
    errors = np.array([0.95984, 0.93540, 1.00766, 0.95439, 0.96528])
    found = sg.pool(means, errors**2, 30)
    # Their means have four decimals, so what follows from them has about four digits.
    assert found.estimate == pytest.approx(47.180993, abs=5e-5)
    assert found.between == pytest.approx(0.041478, rel=5e-4)
    assert found.within == pytest.approx(0.930853, rel=1e-5)
    assert found.total == pytest.approx(0.980626, rel=5e-5)
    assert found.df == pytest.approx(26.298, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 40),
    between=st.floats(1e-6, 1e3),
    within=st.floats(1e-6, 1e3),
    complete=st.floats(1, 1e6),
)
def test_degrees_of_freedom_keep_their_bounds(count: int, between: float, within: float, complete: float) -> None:
    values = with_moments(0.0, between, count)
    small = sg.pool(values, np.full(count, within), complete)
    large = sg.pool(values, np.full(count, within))
    assert small.df <= complete * (1 + 1e-9)
    assert small.df <= large.df * (1 + 1e-9)
    # Rubin's of 1987, as he writes them.
    assert large.df == pytest.approx((count - 1) * (1 + within / ((1 + 1 / count) * between)) ** 2, rel=1e-6)
    assert 0 < large.missing_share < 1
    assert sg.pool(values, np.full(count, within), 1e30).df == pytest.approx(large.df, rel=1e-4)


def test_data_sets_that_agree_leave_the_complete_answer() -> None:
    found = sg.pool(np.full(5, 2.0), np.full(5, 0.25))
    assert found.df == np.inf
    assert found.interval(0.9) == pytest.approx(stats.norm.interval(0.9, 2.0, 0.5))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(4.0))
    assert found.missing_information == 0


def test_vectors_and_covariances_agree_with_single_numbers() -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(size=(8, 3))
    roots = rng.normal(size=(8, 3, 3))
    covariances = roots @ roots.transpose(0, 2, 1)
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    joint, vector = sg.pool(each, covariances, 50), sg.pool(each, variances, [50, 50, 50])
    for place in range(3):
        single = sg.pool(each[:, place], variances[:, place], 50)
        for name in ("estimate", "total", "df", "missing_information", "p_value"):
            assert getattr(single, name) == pytest.approx(getattr(vector, name)[place], rel=1e-12)
            assert getattr(single, name) == pytest.approx(getattr(joint, name)[place], rel=1e-12)
    assert joint.covariance is not None
    np.testing.assert_allclose(np.diag(joint.covariance), joint.total)
    # A sum of estimates, pooled, has the variance that the covariance says.
    total = sg.pool(each.sum(axis=1), covariances.sum(axis=(1, 2)))
    np.testing.assert_allclose(joint.covariance.sum(), total.total)


def test_against_statsmodels() -> None:
    mi = pytest.importorskip("statsmodels.imputation.bayes_mi")
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    tables = [pd.DataFrame(rng.normal(size=(40, 3)), columns=["y", "a", "b"]) for _ in range(6)]
    waiting = iter([tables[0], *tables])

    class Given:
        """Stands for statsmodels' imputer: hands out these tables."""

        def update(self) -> None:
            self.data = next(waiting)

    given_tables = Given()
    given_tables.update()
    theirs = mi.MI(
        given_tables,
        sm.OLS,
        model_args_fn=lambda each: (each["y"], each[["a", "b"]]),
        burn=0,
        nrep=6,
        skip=0,
    ).fit()
    fits = [sm.OLS(table["y"], table[["a", "b"]]).fit() for table in tables]
    ours = sg.pool([fit.params for fit in fits], [fit.cov_params() for fit in fits], 38)
    assert ours.covariance is not None
    np.testing.assert_allclose(ours.estimate, theirs.params)
    np.testing.assert_allclose(ours.covariance, theirs.cov_params())
    np.testing.assert_allclose(ours.missing_share, theirs.fmi)


def test_coverage_where_values_are_missing_by_a_covariate() -> None:
    """The mean of 60 values of which those with a low covariate tend to miss, properly imputed: 95 % cover."""
    rng = np.random.default_rng(5)
    studies, people, draws, mean = 3000, 60, 10, 1.0
    x = rng.normal(size=(studies, people))
    y = mean + 0.8 * x + 0.6 * rng.normal(size=(studies, people))
    seen = rng.random((studies, people)) < 1 / (1 + np.exp(-(0.4 + x)))
    design = np.stack([np.ones_like(x), x], axis=-1) * seen[..., None]  # [studies, people, 2]
    inverse = np.linalg.inv(design.transpose(0, 2, 1) @ design)
    found = np.einsum("sij,spj,sp->si", inverse, design, y * seen)
    left = np.where(seen, y - found[:, :1] - found[:, 1:] * x, 0.0)
    df = seen.sum(axis=1) - 2
    root = np.linalg.cholesky(inverse)
    means, variances = np.empty((draws, studies)), np.empty((draws, studies))
    for draw in range(draws):
        sd = np.sqrt((left**2).sum(axis=1) / rng.chisquare(df))[:, None]
        beta = found + sd * np.einsum("sij,sj->si", root, rng.normal(size=(studies, 2)))
        made = np.where(seen, y, beta[:, :1] + beta[:, 1:] * x + sd * rng.normal(size=x.shape))
        means[draw], variances[draw] = made.mean(axis=1), made.var(axis=1, ddof=1) / people
    pooled = sg.pool(means, variances, people - 1)
    low, high = pooled.interval(0.95)
    covered = ((low <= mean) & (mean <= high)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / studies)
    # One imputation taken for data, or the mean of them, is too sure of itself; so is this test's reason.
    half = stats.t.ppf(0.975, people - 1) * np.sqrt(variances[0])
    assert (np.abs(means[0] - mean) <= half).mean() < 0.92


def test_what_is_shown() -> None:
    table = pd.DataFrame({"age": [0.1, 0.2, 0.15], "sex": [1.0, 1.1, 0.9]})
    found = sg.pool(table, np.full((3, 2), 0.01), 97)
    frame = found.to_frame(0.9)
    assert list(frame.index) == ["age", "sex"]
    np.testing.assert_allclose(frame["low"], found.interval(0.9)[0])
    text = repr(found)
    assert text.startswith("Pooled over 3 imputed data sets")
    assert "sex" in text
    assert "<0.001" in text
    assert "<table" in found._repr_html_()
    assert "standard_error" in repr(sg.pool([1.0, 2.0], [1.0, 1.0]))


GOOD = np.ones((4, 2))
BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "one draw": ([1.0], [1.0], None, "two draws"),
    "no draw": ([], [], None, "two draws"),
    "negative": (GOOD, -GOOD, None, "above zero"),
    "zero": (GOOD, 0 * GOOD, None, "above zero"),
    "estimate is NaN": ([1.0, np.nan, 2.0], [1.0, 1.0, 1.0], None, "data set 1 are no finite"),
    "variance is infinite": ([1.0, 1.0], [1.0, np.inf], None, "variances of data set 1"),
    "shapes differ": (GOOD, np.ones((4, 3)), None, r"\(4, 2\), variances \(4, 3\)"),
    "too many axes": (np.ones((2, 2, 2)), np.ones((2, 2, 2)), None, "estimates of shape"),
    "numbers with matrices": (np.ones(4), np.ones((4, 4)), None, "squared standard error"),
    "ragged": ([[1.0], [1.0, 2.0]], [[1.0], [1.0]], None, "no array of numbers"),
    "text": (["a", "b"], [1.0, 1.0], None, "no array of numbers"),
    "a number alone": (1.0, 1.0, None, "estimates of shape"),
    "nothing to pool": (np.ones((3, 0)), np.ones((3, 0)), None, "no estimates"),
    "crooked covariance": (GOOD, np.tile([[1.0, 0.5], [0.0, 1.0]], (4, 1, 1)), None, "no covariance"),
    "indefinite covariance": (GOOD, np.tile([[1.0, 2.0], [2.0, 1.0]], (4, 1, 1)), None, "no covariance"),
    "negative df": (GOOD, GOOD, -1, "above zero"),
    "df of another length": (GOOD, GOOD, [1, 2, 3], "degrees of freedom"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    estimates, variances, df, match = BAD[case]
    with pytest.raises(sg.InputError, match=match):
        sg.pool(estimates, variances, df)


def test_the_examples_of_the_docstrings() -> None:
    for module in (fit_module, pool):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


def test_bad_names_and_levels_are_refused() -> None:
    with pytest.raises(sg.InputError, match="3 names for 2"):
        sg.pool(GOOD, GOOD, names=["a", "b", "c"])
    with pytest.raises(sg.InputError, match="level 95"):
        sg.pool(GOOD, GOOD).interval(95)
