"""Scores and comparisons: what goes in, what comes out, and that nothing leaks from test people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.comparison import compare as comparing
from secondgram.comparison import predictions as predicting
from secondgram.evaluation.metrics import FURTHER, METRICS, resemblance

POINT, GAUSSIAN = "carry-forward", "ridge-gaussian"
FAST = (POINT, "mean-change", "ridge", GAUSSIAN)


def compared(cohort: sg.Cohort, methods: Sequence[str] = FAST, **more: Any) -> pd.DataFrame:
    return sg.compare(cohort, methods, **{"folds": 3, "draws": 8, "bootstraps": 50, "show": False, **more})


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resemblance, "TREES", 4)
    monkeypatch.setattr(resemblance, "SPLITS", 4)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, sg.Cohort, sg.Cohort, np.ndarray, np.ndarray]]:
    """Every (method, learn, judge, mean, draws) that a comparison goes through."""
    seen = []
    original = comparing.predictions

    def watch(name, learn, judge, draws, seed, fitted=None):
        mean, drawn = original(name, learn, judge, draws, seed, fitted)
        seen.append((name, learn, judge, mean, drawn))
        return mean, drawn

    monkeypatch.setattr(comparing, "predictions", watch)
    return seen


# -- evaluate ---------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["off", "default", "paper"])
def test_result_file_and_array_give_the_same_scores(preset, imputers, cohort, tmp_path):
    plain = sg.Cohort(
        ids=cohort.ids,
        visits=np.stack([cohort.baseline, cohort.truth], axis=1),
        features=cohort.features,
        times=cohort.times,
        covariate_table=cohort.covariate_table,
    )
    result = imputers[preset].impute(cohort, draws=8, out=tmp_path / "draws.parquet", show=False)
    table = sg.evaluate(result, plain)
    assert list(table.columns) == ["value", "low", "high", "meaning"]
    assert table.index.name == "metric"
    assert set(table.index) == set(METRICS)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert table.attrs["people"] == (~cohort.paired).sum()

    plain.write(tmp_path / "truth.csv")
    absent = ~cohort.paired
    for other in (
        sg.evaluate(result, cohort),
        sg.evaluate(result, cohort.truth[absent]),
        sg.evaluate(result, tmp_path / "truth.csv"),
    ):
        pd.testing.assert_frame_equal(other, table)
    for path in (tmp_path / "draws.parquet", str(tmp_path / "draws.parquet")):
        read = sg.evaluate(path, cohort)
        # A file holds no posterior mean, only the average of its draws.
        rows = [name for name in table.index if name not in ("pearson_mean", "delta_r", "rmse")]
        rows = list(table.index) if preset == "paper" else rows
        pd.testing.assert_frame_equal(read.loc[rows], table.loc[rows])


def test_scores_by_feature(imputers, cohort):
    result = imputers["off"].impute(cohort, draws=8, show=False)
    table = sg.evaluate(result, cohort, by_feature=True)
    assert tuple(table.index) == cohort.features
    assert set(table.columns) == set(METRICS)
    whole = sg.evaluate(result, cohort)["value"]
    for name in ("pearson_mean", "pearson_draw", "delta_r", "crps", "coverage_90"):
        np.testing.assert_allclose(table[name].mean(), whole[name], rtol=1e-9)
    np.testing.assert_allclose(np.sqrt((table["rmse"] ** 2).mean()), whole["rmse"], rtol=1e-9)


def test_further_scores_of_an_imputation(imputers, cohort, tmp_path):
    result = imputers["off"].impute(cohort, draws=39, out=tmp_path / "draws.parquet", show=False)
    table = sg.evaluate(result, cohort, further=True, bootstraps=20)
    assert list(table.index) == [*METRICS, *FURTHER]
    assert np.isfinite(table["value"]).all()
    assert "nominal share is 0.950" in table.loc["coverage_95", "meaning"]
    by_feature = sg.evaluate(result, cohort, further=True, by_feature=True)
    assert {"spearman_mean", "tail_brier"} < set(by_feature.columns)
    np.testing.assert_allclose(by_feature["r2_mean"].mean(), table.loc["r2_mean", "value"])
    read = sg.evaluate(tmp_path / "draws.parquet", cohort, further=True, bootstraps=20)
    assert read.loc["energy", "value"] == pytest.approx(table.loc["energy", "value"])
    assert np.isnan(read.loc["annual_bias", "value"])


def test_the_order_of_the_truth_does_not_matter(imputers, cohort):
    result = imputers["off"].impute(cohort, draws=4, show=False)
    shuffled = cohort.take(np.random.default_rng(1).permutation(len(cohort)))
    columns = [4, 2, 0, 1, 3, 5]
    shuffled = replace(
        shuffled,
        visits=shuffled.visits[:, :, columns],
        truth=shuffled.truth[:, columns],
        features=tuple(np.array(cohort.features)[columns]),
    )
    pd.testing.assert_frame_equal(sg.evaluate(result, shuffled), sg.evaluate(result, cohort))


def test_evaluate_refuses(imputers, cohort, tmp_path):
    result = imputers["off"].impute(cohort, draws=4, out=tmp_path / "draws.parquet", show=False)
    with pytest.raises(sg.InputError, match="none of the 200 imputed people"):
        sg.evaluate(result, replace(cohort, ids=np.array([f"T{name}" for name in cohort.ids])))
    with pytest.raises(sg.InputError, match=r"shape \(300, 6\)"):
        sg.evaluate(result, cohort.truth)
    with pytest.raises(sg.InputError, match="needs a cohort"):
        sg.evaluate(tmp_path / "draws.parquet", cohort.truth[~cohort.paired])
    with pytest.raises(sg.InputError, match="only 2 imputed people"):
        sg.evaluate(result, cohort.take(np.flatnonzero(~cohort.paired)[:2]))


# -- compare ----------------------------------------------------------------------------


def test_a_comparison_has_every_method_and_metric(cohort, tmp_path):
    table = compared(cohort, out=tmp_path / "run")
    names = list(map(tuple, table[["method", "metric"]].to_numpy()))
    assert names == [(m, k) for m in dict.fromkeys(table["method"]) for k in [*METRICS, *FURTHER]]
    assert set(table["method"]) == set(FAST)
    # The lowest CRPS comes first.
    assert table.loc[table["metric"] == "crps", "value"].is_monotonic_increasing
    defined = table.dropna(subset="value")
    assert ((defined["low"] <= defined["value"]) & (defined["value"] <= defined["high"])).all()
    # What a point prediction or no change leaves undefined.
    gone = table[table["value"].isna()]
    changes = ("delta_r", "delta_r_draw", "delta_spearman", "change_slope")
    spread = ("coverage_50", "coverage_80", "coverage_90", "coverage_95", "spread_ratio")
    assert {(m, k) for m, k in gone[["method", "metric"]].to_numpy()} == {
        *((POINT, k) for k in changes),
        *((m, k) for m in (POINT, "mean-change", "ridge") for k in spread),
        # Eight draws are too few for these.
        *((GAUSSIAN, k) for k in ("coverage_80", "coverage_95")),
    }
    differences = table.dropna(subset="difference")
    assert GAUSSIAN not in set(differences["method"])
    by = table.set_index(["method", "metric"])
    assert by.loc[(POINT, "rmse"), "difference"] == pytest.approx(
        by.loc[(POINT, "rmse"), "value"] - by.loc[(GAUSSIAN, "rmse"), "value"]
    )
    pd.testing.assert_frame_equal(compared(cohort), table)
    assert not compared(cohort, seed=1).equals(table)

    details = {f"{name}.csv" for name in ("coverage", "pit", "components", "resemblance")}
    written = {path.name for path in (tmp_path / "run").iterdir()}
    report = {"evidence.json", "report.html"}
    assert written == {"table.csv", "table.md", "features.csv", "run.json", "parts", *details, *report}
    written = pd.read_csv(tmp_path / "run" / "table.csv")
    pd.testing.assert_frame_equal(written, table.reset_index(drop=True), check_exact=False, check_dtype=False)
    features = pd.read_csv(tmp_path / "run" / "features.csv")
    assert len(features) == len(FAST) * len(cohort.features)
    text = (tmp_path / "run" / "table.md").read_text()
    assert all(f"| {name} |" in text for name in FAST)


def test_carry_forward_is_what_it_says(cohort):
    values = compared(cohort, [POINT], folds=5).set_index("metric")["value"]
    spread = cohort.baseline.std(axis=0, ddof=1)
    error = (cohort.truth - cohort.baseline) / spread
    r = [np.corrcoef(cohort.truth[:, j], cohort.baseline[:, j])[0, 1] for j in range(len(cohort.features))]
    assert values["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert values["crps"] == pytest.approx(np.abs(error).mean())
    assert values["pearson_mean"] == values["pearson_draw"] == pytest.approx(np.mean(r))


def test_the_exact_posterior_is_the_best(cohort):
    methods = [*FAST, "exact-posterior"]
    table = compared(cohort, methods, draws=40).pivot(index="method", columns="metric", values="value")
    for metric in ("rmse", "crps"):
        assert table[metric].idxmin() == "exact-posterior"
    for metric in ("pearson_mean", "delta_r"):
        assert table[metric].idxmax() == "exact-posterior"


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_hold_people_and_families_whole(folds, cohort, watched):
    families = replace(cohort, groups=np.array([f"f{number // 4}" for number in range(len(cohort))]))
    compared(families, [POINT], folds=folds, repeats=2)
    assert len(watched) == folds * 2
    for _, learn, judge, _, _ in watched:
        assert not set(learn.ids) & set(judge.ids)
        assert not set(learn.groups) & set(judge.groups)
    if folds > 1:
        for repeat in (watched[:folds], watched[folds:]):
            assert sorted(name for _, _, judge, _, _ in repeat for name in judge.ids) == sorted(cohort.ids)


def test_a_planted_truth_changes_nothing(cohort, watched, monkeypatch):
    small: dict[str, Any] = {"embedding": 8, "widths": [8, 8, 8], "epochs": 2}
    original = predicting.SecondgramImputer
    monkeypatch.setattr(
        predicting,
        "SecondgramImputer",
        lambda name, **options: original(name, **options, **(small | ({"steps": 4} if name == "paper" else {}))),
    )
    names = [*FAST, "paper", "paper-no-self", "default"]
    compared(cohort, names, draws=3, folds=2)
    clean = {(name, judge.ids[0]): (judge, mean, drawn) for name, _, judge, mean, drawn in watched}
    watched.clear()

    # The people of the first test fold get their hidden truth as a measured follow-up, one at a time known to a judge.
    tested = next(iter(clean.values()))[0].ids
    planted = np.isin(cohort.ids, tested)
    visits = cohort.visits.copy()
    visits[planted, 1] = cohort.truth[planted]
    compared(replace(cohort, visits=visits), names, draws=3, folds=2)
    checked = 0
    for name, learn, judge, mean, drawn in watched:
        if judge.ids[0] != tested[0]:
            continue
        assert not set(learn.ids) & set(tested)
        assert np.isfinite(judge.followup).all()
        np.testing.assert_array_equal(mean, clean[name, judge.ids[0]][1])
        np.testing.assert_array_equal(drawn, clean[name, judge.ids[0]][2])
        checked += 1
    assert checked == len(names)


def test_a_fold_without_anyone_to_score(cohort):
    """A measured cohort with few pairs, some folds of which hold none of them."""
    rows = np.concatenate([np.flatnonzero(cohort.paired)[:14], np.flatnonzero(~cohort.paired)[:100]])
    few = cohort.take(rows)
    measured = sg.Cohort(ids=few.ids, visits=few.visits, features=few.features, times=few.times)
    table = compared(measured, [POINT, "mean-change"], folds=30)
    assert table.attrs["people"] == 14


def test_compare_refuses(cohort):
    with pytest.raises(sg.InputError, match="unknown methods: magic"):
        compared(cohort, ["magic"])
    with pytest.raises(sg.InputError, match="301 folds do not go into 300"):
        compared(cohort, folds=301)
    with pytest.raises(sg.InputError, match="draws=0"):
        compared(cohort, draws=0)
    with pytest.raises(sg.InputError, match="exact posterior"):
        compared(sg.simulate(60, 2, 0.5), ["exact-posterior"])
    one_family = replace(cohort, groups=np.where(cohort.paired, "all", cohort.ids))
    with pytest.raises(sg.InputError, match=r"of one group|no person has both"):
        compared(one_family)


@pytest.mark.slow
def test_the_presets_as_they_come(tmp_path):
    """Every method with its own options, on a cohort small enough."""
    cohort = sg.simulate(300, 6, 0.5, seed=3, mode="gaussian")
    table = sg.compare(cohort, folds=1, draws=10, bootstraps=50, out=tmp_path / "run", show=False)
    assert set(table["method"]) == set(comparing.DEFAULT_METHODS)
    values = table.pivot(index="method", columns="metric", values="value")
    assert values.loc["default", "crps"] < values.loc[POINT, "crps"]
    assert values.loc["default", "crps"] < values.loc["paper", "crps"]
