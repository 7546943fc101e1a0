"""Long comparisons: a rerun goes on, peers fail without harm, and rows are ranked and judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.comparison import compare as comparing
from secondgram.comparison.compare import comparison_table, metric_win_tie_loss
from secondgram.comparison.isolated import PeerFailure, predictions_isolated
from secondgram.comparison.run_folder import markdown, show_comparison
from secondgram.evaluation.metrics import METRICS, resemblance

FAST = ("carry-forward", "ridge-gaussian", "mean-change")


class Peer:
    """Stands for a method of another library."""

    package: str | None = None

    @classmethod
    def absent(cls) -> str | None:
        return cls.package

    @classmethod
    def versions(cls) -> dict[str, str | None]:
        return {"peer": "1.0"}


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resemblance, "TREES", 4)
    monkeypatch.setattr(resemblance, "SPLITS", 4)


@pytest.fixture
def few(cohort: sg.SimulatedCohort) -> sg.SimulatedCohort:
    return cohort.take(np.r_[np.flatnonzero(cohort.paired)[:40], np.flatnonzero(~cohort.paired)[:20]])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the methods that were really fitted, one each time."""
    seen = []
    original = comparing.predictions

    def watch(name: str, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append(name)
        return original(name, *rest)

    monkeypatch.setattr(comparing, "predictions", watch)
    return seen


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> type[Peer]:
    class Fresh(Peer):
        pass

    monkeypatch.setitem(comparing.METHODS, "peer", "a peer")
    monkeypatch.setitem(comparing.PEERS, "peer", Fresh)
    return Fresh


def compared(cohort: sg.Cohort, methods: Sequence[str] | str = FAST, **more: Any) -> pd.DataFrame:
    return sg.compare(cohort, methods, **{"folds": 2, "draws": 4, "bootstraps": 30, "show": False, **more})


# -- going on ---------------------------------------------------------------------------------------------------------


def test_a_rerun_makes_nothing_again_and_gives_the_same(few, made, tmp_path):
    first = compared(few, out=tmp_path)
    assert sorted(made) == sorted(FAST * 2)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    made.clear()
    pd.testing.assert_frame_equal(compared(few, out=tmp_path), first)
    assert made == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    pd.testing.assert_frame_equal(compared(few), first)


def test_an_interrupted_run_goes_on_where_it_was(few, made, tmp_path, monkeypatch):
    whole = compared(few)
    made.clear()
    original = comparing.predictions

    def interrupted(name, *rest):
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(name, *rest)

    monkeypatch.setattr(comparing, "predictions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared(few, out=tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 4
    monkeypatch.setattr(comparing, "predictions", original)
    made.clear()
    pd.testing.assert_frame_equal(compared(few, out=tmp_path), whole)
    assert len(made) == 2


def test_another_cohort_or_setting_starts_afresh_and_another_method_does_not(few, made, tmp_path):
    compared(few, FAST[:2], out=tmp_path)
    made.clear()
    compared(few, out=tmp_path)
    assert made == ["mean-change"] * 2
    changed = few.visits.copy()
    changed[0, 0, 0] += 1e-6
    others: list[tuple[sg.Cohort, dict[str, Any]]] = [
        (few, {"seed": 1}),
        (few, {"draws": 5}),
        (replace(few, visits=changed), {}),
        (replace(few, times=few.times + np.array([0.0, 1.0])), {}),
    ]
    for cohort, more in others:
        made.clear()
        compared(cohort, out=tmp_path, **more)
        assert len(made) == 6


def test_a_damaged_part_is_made_again(few, made, tmp_path):
    first = compared(few, out=tmp_path)
    parts = sorted((tmp_path / "parts").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:200])
    parts[1].write_bytes(b"")
    parts[2].write_text("no archive")
    made.clear()
    pd.testing.assert_frame_equal(compared(few, out=tmp_path), first)
    assert len(made) == 3


# -- peers ------------------------------------------------------------------------------------------------------------


def test_an_absent_peer_is_left_out_with_a_line(few, peer, tmp_path, capsys):
    peer.package = "magic-learn"
    table = compared(few, [*FAST, "peer"], out=tmp_path, show=True)
    line = "needs magic-learn, which is not installed: pip install 'magic-learn'"
    assert capsys.readouterr().err.count(f"peer left out: {line}") == 1
    assert set(table["method"]) == set(FAST)
    assert json.loads((tmp_path / "run.json").read_text())["skipped"] == {"peer": line}
    assert f"- peer was left out: {line}" in (tmp_path / "table.md").read_text()
    with pytest.raises(sg.InputError, match="nothing to compare: needs magic-learn"):
        compared(few, ["peer"])


def test_a_failing_peer_has_a_row_that_says_why(few, peer, tmp_path, monkeypatch, capsys):
    asked = []

    def fails(name, *rest):
        asked.append(name)
        raise PeerFailure("ValueError: singular")

    monkeypatch.setattr(comparing, "predictions_isolated", fails)
    table = compared(few, ["peer", *FAST], out=tmp_path)
    assert asked == ["peer"]
    rows = table[table["method"] == "peer"]
    assert (table["method"].to_numpy()[-len(rows) :] == "peer").all()
    assert rows["value"].isna().all()
    why = "repeat 1, fold 1: ValueError: singular"
    assert set(rows["verdict"]) == {f"failed: {why}"}
    assert table.attrs["failed"] == {"peer": why}
    pd.testing.assert_frame_equal(table[table["method"] != "peer"], compared(few))
    assert f"- peer failed: {why}" in (tmp_path / "table.md").read_text()
    show_comparison(table)
    assert f"peer failed: {why}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(sg.InputError, match="no method came through: peer, repeat 1, fold 1"):
        compared(few, ["peer"])


def test_our_own_errors_go_through(few, monkeypatch):
    monkeypatch.setattr(comparing, "predictions", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compared(few)


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same(few):
    learn, judge = few.take(np.arange(50)), few.take(np.arange(50, 60))
    mean, drawn = predictions_isolated("ridge-gaussian", learn, judge, 3, 1, 300.0)
    expected = comparing.predictions("ridge-gaussian", learn, judge, 3, 1)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(drawn, expected[1], rtol=1e-12)


def test_what_fails_in_a_process_of_its_own_is_told(few):
    learn, judge = few.take(np.arange(50)), few.take(np.arange(50, 60))
    with pytest.raises(PeerFailure, match="unknown preset 'magic'"):
        predictions_isolated("magic", learn, judge, 3, 1, 300.0)
    with pytest.raises(PeerFailure, match=r"took longer than 0\.01 s"):
        predictions_isolated("ridge-gaussian", learn, judge, 3, 1, 0.01)


# -- ranks and verdicts -----------------------------------------------------------------------------------------------


def test_verdicts_follow_the_interval_of_the_difference():
    low = np.append(0.2, np.linspace(0.15, 0.25, 100))
    high = low + 0.1
    for metric, better in (("crps", low), ("pearson_mean", high), ("coverage_90", high + 0.6)):
        worse = {"crps": high, "pearson_mean": low, "coverage_90": low}[metric]
        assert metric_win_tie_loss(metric, better, worse, 19) == "better"
        assert metric_win_tie_loss(metric, worse, better, 19) == "worse"
        assert metric_win_tie_loss(metric, worse, worse[::-1] + 0.0, 19) in ("tie", "better", "worse")
    assert metric_win_tie_loss("crps", low, np.append(0.2, low[1:][::-1]), 19) == "tie"
    assert metric_win_tie_loss("annual_bias", np.full(5, -0.01), np.full(5, 0.5), 19) == "better"
    assert metric_win_tie_loss("crps", low * np.nan, high, 19) == "-"


def test_tables_are_ranked_and_judge_both_references(few, tmp_path):
    table = compared(few, out=tmp_path)
    crps = table[table["metric"] == "crps"].set_index("method")
    assert crps["value"].is_monotonic_increasing
    assert crps.loc["ridge-gaussian", "verdict"] == crps.loc["carry-forward", "carry_verdict"] == "reference"
    difference = crps.loc["carry-forward", "value"] - crps.loc["ridge-gaussian", "value"]
    assert crps.loc["carry-forward", "difference"] == pytest.approx(difference)
    assert crps.loc["ridge-gaussian", "carry_difference"] == pytest.approx(-difference)
    text = Path(tmp_path / "table.md").read_text()
    assert [text.index(f"\n| {name} |") for name in crps.index] == sorted(text.index(f"\n| {n} |") for n in crps.index)
    alone = compared(few, ["mean-change"])
    assert set(alone["verdict"]) == set(alone["carry_verdict"]) == {"-"}


def test_a_table_of_before_is_still_written(few):
    table = compared(few)
    table = table[table["metric"].isin(list(METRICS))].drop(columns=["verdict", "carry_verdict", "carry_difference"])
    assert "| ridge-gaussian |" in markdown(table)


def test_methods_all_and_unknown_ones(few, monkeypatch):
    chosen, _ = comparing._chosen(few, "all", "first", show=False)
    assert set(FAST) < set(chosen)
    assert "exact-posterior" in chosen
    measured = sg.Cohort(ids=few.ids, visits=few.visits, features=few.features)
    assert "exact-posterior" not in comparing._chosen(measured, "all", "first", show=False)[0]
    assert comparing._chosen(few, "ridge", "first", show=False)[0] == ["ridge"]
    for wrong in ("magic", ["ridge", "magic"], []):
        with pytest.raises(sg.InputError, match="unknown methods"):
            compared(few, wrong)
    with pytest.raises(sg.InputError, match="time_limit=0"):
        compared(few, time_limit=0)


def test_draws_with_gaps_are_refused(few, monkeypatch):
    monkeypatch.setattr(
        comparing,
        "predictions",
        lambda name, learn, judge, draws, seed, fitted: (judge.baseline, judge.baseline[None] * np.nan),
    )
    with pytest.raises(sg.InputError, match="hold NaN"):
        compared(few)


def test_details_are_written_where_they_can_be_told(cohort, tmp_path):
    rng = np.random.default_rng(0)
    outcomes = pd.DataFrame({"sick": rng.random(len(cohort)) < 0.3, "rare": np.arange(len(cohort)) < 4})
    outcomes = outcomes.astype(float)
    told = replace(cohort, outcomes=outcomes)
    table = compared(told, ["carry-forward", "ridge-gaussian"], out=tmp_path)
    coverage = pd.read_csv(tmp_path / "coverage.csv")
    assert set(coverage["by"]) == {"everyone", "gap", "age"}
    assert set(coverage["method"]) == {"ridge-gaussian"}
    assert pd.read_csv(tmp_path / "pit.csv").groupby("method")["value"].sum().to_numpy() == pytest.approx(1.0)
    assert len(pd.read_csv(tmp_path / "components.csv")) == 2 * 6
    assert set(pd.read_csv(tmp_path / "resemblance.csv")["measure"]) == {
        "correlation_distance_levels",
        "correlation_distance_changes",
        "mmd",
        "classifier_auc",
    }
    assert set(pd.read_csv(tmp_path / "outcomes.csv")["outcome"]) == {"sick"}
    untold = json.loads((tmp_path / "run.json").read_text())["untold"]
    assert untold == [
        "outcome rare not scored: only 4 people have the rarer outcome",
        "noise ceilings: only 0 people were scanned twice within 0.25 years",
    ]
    assert table.attrs["untold"] == untold


def test_a_short_table_has_the_six_metrics_alone(few):
    from secondgram.cohort.scaling import SharedScaling

    scaling = SharedScaling.fit(few.baseline)
    cells = {"x": comparing.scored(scaling, few, few.truth, few.truth[None])}
    assert list(comparison_table(cells, 5, 0)["metric"]) == list(METRICS)
