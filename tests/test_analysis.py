"""A model on every draw: its tables, its fits against those by hand, and what is refused."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

import secondgram as sg
from secondgram.imputation.refit import resampled

sm = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")


@pytest.fixture(scope="module")
def result(cohort: sg.SimulatedCohort, imputers: dict[str, sg.SecondgramImputer]) -> sg.Imputation:
    return imputers["off"].impute(cohort, draws=6, seed=3, show=False)


@pytest.fixture(scope="module")
def names(cohort: sg.SimulatedCohort) -> tuple[str, str]:
    return cohort.features[0], cohort.features[1]


def test_tables_hold_measured_and_drawn_visits(cohort: sg.SimulatedCohort, result: sg.Imputation) -> None:
    tables = list(sg.completed_tables(result, cohort))
    assert len(tables) == 6
    place = {name: row for row, name in enumerate(result.ids)}
    drawn = np.array([name in place for name in cohort.ids])
    assert drawn.any()
    assert not drawn.all()
    for draw, table in enumerate(tables):
        assert list(table["subject_id"]) == list(cohort.ids)
        assert list(table["imputed"]) == list(drawn)
        for column, name in enumerate(cohort.features):
            followup = table[f"{name}_followup"].to_numpy()
            np.testing.assert_array_equal(followup[~drawn], cohort.followup[~drawn, column])
            rows = [place[each] for each in cohort.ids[drawn]]
            np.testing.assert_array_equal(followup[drawn], result.draws[draw, rows, column])
            np.testing.assert_array_equal(table[f"{name}_change"], followup - table[f"{name}_baseline"])
        np.testing.assert_array_equal(table["age"], cohort.covariate_table["age"])
        assert np.isfinite(table["gap"]).all()


def test_a_followup_on_another_scanner_is_told(cohort: sg.SimulatedCohort, result: sg.Imputation) -> None:
    sites = np.full(cohort.times.shape, "old", dtype=object)
    moved = np.flatnonzero(cohort.paired)[:7]
    sites[moved, 1] = "new"
    # Planned there, and never measured: imputed as on the scanner of the baseline.
    sites[~cohort.paired, 1] = "new"
    scanned = replace(cohort, visit_sites=sites)
    table = next(sg.completed_tables(result, scanned))
    assert list(np.flatnonzero(table["followup_site"] == "new")) == list(moved)
    assert set(table["site"]) == {"old"}
    formula = f"{cohort.features[0]}_change ~ age"
    with pytest.warns(UserWarning, match=rf"of 7 of {len(cohort)} people were measured on another site"):
        sg.fit_pooled(formula, result, scanned)
    sites[moved, 1] = "old"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sg.fit_pooled(formula, result, replace(cohort, visit_sites=sites))
    assert "followup_site" not in next(sg.completed_tables(result, cohort))


def test_measured_cells_stay_though_everyone_was_imputed(
    cohort: sg.SimulatedCohort, imputers: dict[str, sg.SecondgramImputer], names: tuple[str, str]
) -> None:
    everyone = imputers["off"].impute(cohort, draws=2, who="all", show=False)
    table = next(sg.completed_tables(everyone, cohort, names[0]))
    np.testing.assert_array_equal(table[f"{names[0]}_followup"][cohort.paired], cohort.followup[cohort.paired, 0])
    assert names[1] + "_change" not in table


def test_a_file_gives_the_same_tables(
    cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str], tmp_path: Path
) -> None:
    result.to_parquet(tmp_path / "draws.parquet")
    pairs = zip(
        sg.completed_tables(tmp_path / "draws.parquet", cohort, names[1]),
        sg.completed_tables(result, cohort, names[1]),
        strict=True,
    )
    for read, made in pairs:
        # A file of draws holds no gaps.
        pd.testing.assert_frame_equal(read.drop(columns="gap"), made.drop(columns="gap"))


def test_draws_need_not_be_kept(
    cohort: sg.SimulatedCohort, imputers: dict[str, sg.SecondgramImputer], result: sg.Imputation, names: tuple[str, str]
) -> None:
    fresh = imputers["off"].impute(cohort, draws=6, seed=3, show=False)
    table = list(sg.completed_tables(fresh, cohort, names[0]))[-1]
    assert "draws" not in vars(fresh)
    assert result.draws is not None
    pd.testing.assert_frame_equal(table, list(sg.completed_tables(result, cohort, names[0]))[-1])


def ways(name: str) -> dict[str, dict[str, Any]]:
    """The same regression asked for in every way."""
    formula, y, x = f"{name}_change ~ age + gap", f"{name}_change", ["age", "gap"]

    def by_hand(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, float]:
        design = np.column_stack([np.ones(len(table)), table[x]])
        inverse = np.linalg.inv(design.T @ design)
        beta = inverse @ design.T @ table[y].to_numpy()
        df = len(table) - 3
        return beta, inverse * ((table[y] - design @ beta) ** 2).sum() / df, df

    return {
        "formula": {"model": formula},
        "model and formula": {"model": sm.OLS, "formula": formula},
        "function and formula": {"model": sm.OLS.from_formula, "formula": formula},
        "model and columns": {"model": sm.OLS, "y": y, "x": x},
        "scikit-learn": {"model": LinearRegression(), "y": y, "x": x},
        "function of a table, model": {"model": lambda table: sm.OLS.from_formula(formula, table)},
        "function of a table, results": {"model": lambda table: sm.OLS.from_formula(formula, table).fit()},
        "function of a table, numbers": {"model": by_hand, "features": name},
    }


@pytest.mark.parametrize("way", ways(""))
def test_every_way_gives_the_same(
    way: str, cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str]
) -> None:
    name = names[0]
    fits = [
        sm.OLS.from_formula(f"{name}_change ~ age + gap", table).fit() for table in sg.completed_tables(result, cohort)
    ]
    expected = sg.pool([fit.params for fit in fits], [fit.cov_params() for fit in fits], len(cohort) - 3)
    found = sg.fit_pooled(result=result, cohort=cohort, **ways(name)[way])
    assert found.covariance is not None
    assert expected.covariance is not None
    np.testing.assert_allclose(found.estimate, expected.estimate, rtol=1e-7)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-6)
    np.testing.assert_allclose(found.df, expected.df, rtol=1e-6)
    assert (found.missing_information > 0.05).all()
    assert found.names is None or found.names == ("Intercept", "age", "gap")


def test_logistic_regressions_agree(cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str]) -> None:
    lost = np.random.default_rng(0).random(len(cohort)) < 0.4
    diagnosed = replace(cohort, outcomes=pd.DataFrame({"ill": lost * 1.0}))
    x = ["age", f"{names[0]}_change"]
    ours = sg.fit_pooled(LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000), result, diagnosed, y="ill", x=x)
    theirs = sg.fit_pooled(sm.Logit, result, diagnosed, formula=f"ill ~ age + {x[1]}")
    np.testing.assert_allclose(ours.estimate, theirs.estimate, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(ours.standard_error, theirs.standard_error, rtol=1e-3)


def test_options_of_a_fit_and_mixed_models(
    cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str]
) -> None:
    formula = f"{names[0]}_change ~ age"
    plain = sg.fit_pooled(formula, result, cohort, complete_df=50)
    robust = sg.fit_pooled(formula, result, cohort, cov_type="HC3")
    np.testing.assert_allclose(plain.estimate, robust.estimate)
    assert not np.allclose(plain.standard_error, robust.standard_error)
    assert (plain.df <= 50).all()
    groups = np.arange(len(cohort)) // 3
    effect = np.random.default_rng(0).normal(0, cohort.baseline[:, 0].std(), groups.max() + 1)[groups]

    def model(table: pd.DataFrame) -> Any:
        shifted = table.assign(y=table[f"{names[0]}_change"] + effect)
        return sm.MixedLM.from_formula("y ~ age", shifted, groups=groups)

    mixed = sg.fit_pooled(model, result, cohort, features=names[0])
    assert mixed.names == ("Intercept", "age")


def test_names_with_signs() -> None:
    rng = np.random.default_rng(0)
    visits = rng.normal(size=(120, 2, 2)).cumsum(axis=1)
    visits[60:, 1] = np.nan
    table = pd.DataFrame({"sex": pd.Categorical(rng.choice(["F", "M"], 120))})
    odd = sg.Cohort(
        np.arange(120), visits, ("25005", "lh.area-x"), covariate_table=table, site=rng.choice(["A", "B"], 120)
    )
    result = sg.SecondgramImputer(shape="off").fit(odd, show=False).impute(odd, draws=3, show=False)
    found = sg.fit_pooled('Q("25005_change") ~ sex + lh.area-x_baseline', result, odd)
    assert found.names == ("Intercept", "sex[T.M]", "lh.area-x_baseline")
    same = sg.fit_pooled(LinearRegression(), result, odd, y="25005_change", x=["sex", "lh.area-x_baseline"])
    assert same.names == ("Intercept", "sex_M", "lh.area-x_baseline")
    np.testing.assert_allclose(same.estimate, found.estimate)
    without = sg.fit_pooled(
        LinearRegression(fit_intercept=False), result, odd, y="25005_change", x="lh.area-x_baseline"
    )
    assert without.names == ("lh.area-x_baseline",)


def test_people_left_out_are_told() -> None:
    rng = np.random.default_rng(0)
    visits = rng.normal(size=(80, 2, 2)).cumsum(axis=1)
    visits[40:, 1] = np.nan
    visits[:3, 0, 0] = np.nan
    holed = sg.Cohort(np.arange(80), visits, ("a", "b"))
    result = sg.SecondgramImputer(shape="off").fit(holed, show=False).impute(holed, draws=3, show=False)
    for options in (
        {"model": "a_change ~ b_baseline"},
        {"model": LinearRegression(), "y": "a_change", "x": "b_baseline"},
    ):
        with pytest.warns(UserWarning, match="3 of 80 people"):
            found = sg.fit_pooled(result=result, cohort=holed, **options)  # type: ignore[arg-type]
        assert (found.df <= 75).all()


def test_models_refitted_at_every_draw(cohort: sg.SimulatedCohort, names: tuple[str, str]) -> None:
    imputer = sg.SecondgramImputer(shape="off")
    some = cohort.take(range(180))
    refitted = sg.impute_refitted(imputer, some, draws=4, seed=2, show=False)
    again = sg.impute_refitted(imputer, some, draws=4, seed=2, show=False)
    for one, other in zip(refitted, again, strict=True):
        np.testing.assert_array_equal(one.draws, other.draws)
    # Another model and another noise at every draw.
    assert len({float(one.mean[0, 0]) for one in refitted}) == 4
    one_model = imputer.fit(some, show=False).impute(some, draws=20, show=False)
    formula = f"{names[0]}_change ~ age"
    wide, narrow = sg.fit_pooled(formula, refitted, some), sg.fit_pooled(formula, one_model, some)
    assert wide.draws == 4
    assert wide.names == narrow.names
    others = imputer.impute(cohort.take(range(100, 300)), draws=1, show=False)
    with pytest.raises(sg.InputError, match="different people"):
        sg.fit_pooled(formula, [*refitted, others], some)
    with pytest.raises(sg.InputError, match="there is no imputation"):
        sg.fit_pooled(formula, [], some)
    with pytest.raises(sg.InputError, match="draws=1"):
        sg.impute_refitted(imputer, some, draws=1, show=False)


def test_a_bootstrap_keeps_people_and_families_whole() -> None:
    rng = np.random.default_rng(0)
    visits = rng.normal(size=(90, 2, 2))
    visits[40:, 1] = np.nan
    families = np.arange(90) // 2
    cohort = sg.Cohort(np.arange(90), visits, ("a", "b"), groups=families, site=rng.choice(["A", "B"], 90))
    drawn = resampled(cohort, 1)
    assert len(set(drawn.ids)) == len(drawn) == 90
    assert drawn.groups is not None
    assert int(drawn.paired.sum()) == 40
    source = np.array([int(name.split("#")[0]) for name in drawn.ids])
    assert 20 < len(set(source)) < 80
    np.testing.assert_array_equal(drawn.visits, cohort.visits[source])
    np.testing.assert_array_equal(drawn.groups.astype(int), families[source])
    copies = np.array([int(name.split("#")[1]) for name in drawn.ids])
    for copy in set(copies):
        assert len(set(families[source[copies == copy]])) == 1
        assert (copies == copy).sum() == 2


PARTS = ["{}_change", "{}_baseline", "{}_followup"]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two formulas": ({"model": "a ~ b", "formula": "a ~ b"}, "two formulas"),
    "unknown name": ({"model": "{}_change ~ shoe"}, "cannot be used"),
    "no feature": ({"model": "age ~ gap"}, "names no column of an imputed feature"),
    "unknown column": ({"model": LinearRegression(), "y": "{}_change", "x": ["shoe"]}, "no column shoe"),
    "no columns": ({"model": LinearRegression()}, "told no columns"),
    "only y": ({"model": LinearRegression(), "y": "{}_change"}, "belong together"),
    "both": ({"model": sm.OLS, "formula": "{}_change ~ age", "y": "age", "x": ["gap"]}, "both a formula"),
    "penalised": ({"model": Ridge(), "y": "{}_change", "x": ["age"]}, "no standard errors"),
    "penalised logistic": ({"model": LogisticRegression(), "y": "{}_change", "x": ["age"]}, "no standard errors"),
    "collinear": (
        {"model": LinearRegression(), "y": "age", "x": ["{}_change", "{}_baseline", "{}_followup"]},
        "determine",
    ),
    "text as y": ({"model": LinearRegression(), "y": "subject_id", "x": ["{}_change"]}, "holds no numbers"),
    "options": ({"model": LinearRegression(), "y": "{}_change", "x": ["age"], "cov_type": "HC3"}, "statsmodels"),
    "returns a number": ({"model": lambda table: 3}, "no params"),
    "returns four things": ({"model": lambda table: (1, 2, 3, 4)}, "4 things"),
    "fails on a draw": ({"model": lambda table: (np.array([np.nan]), np.array([1.0]))}, "no finite numbers"),
    "no formula taken": ({"model": 3, "formula": "{}_change ~ age"}, "takes no formula"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused(
    case: str, cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str]
) -> None:
    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(each) for each in value]
        return value.replace("{}", names[0]) if isinstance(value, str) else value

    options, match = BAD[case]
    with pytest.raises(sg.InputError, match=match):
        sg.fit_pooled(result=result, cohort=cohort, **{key: told(value) for key, value in options.items()})


def test_without_statsmodels_a_formula_says_what_to_install(
    cohort: sg.SimulatedCohort, result: sg.Imputation, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.api", None)
    with pytest.raises(sg.InputError, match=r"pip install 'secondgram\[stats\]'"):
        sg.fit_pooled(f"{names[0]}_change ~ age", result, cohort)


def test_bad_people_are_refused(
    cohort: sg.SimulatedCohort, imputers: dict[str, sg.SecondgramImputer], result: sg.Imputation, names: tuple[str, str]
) -> None:
    formula = f"{names[0]}_change ~ age"
    few = imputers["off"].impute(cohort.take(range(150)), draws=2, show=False)
    with pytest.raises(sg.InputError, match="neither a measured nor an imputed"):
        sg.fit_pooled(formula, few, cohort)
    with pytest.raises(sg.InputError, match="none of the"):
        sg.fit_pooled(formula, few, cohort.take(range(200, 300)))
    with pytest.raises(sg.InputError, match="one draw"):
        sg.fit_pooled(formula, imputers["off"].impute(cohort, draws=1, show=False), cohort)
    with pytest.raises(sg.InputError, match="no feature shoe"):
        next(sg.completed_tables(result, cohort, ["shoe"]))
    doubled = replace(cohort, outcomes=pd.DataFrame({"imputed": np.zeros(len(cohort))}))
    with pytest.raises(sg.InputError, match="two columns would be called imputed"):
        sg.fit_pooled(formula, result, doubled)
