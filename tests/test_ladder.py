"""The default preset as a whole: what it says of itself, missing baseline cells, and that it earns its keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.errors import InputError
from secondgram.evaluation.compare import predictions, scored
from secondgram.evaluation.evaluate import true_followup
from secondgram.evaluation.metrics import nominal_coverage

RUNGS = ["carry-forward", "mean", "spread", "margins", "correlation", "shape"]


@pytest.fixture(scope="module")
def halves() -> tuple[sg.Cohort, sg.Cohort]:
    return sg.simulate(3000, 48, 0.15, seed=3, mode="gaussian").split(test=0.25, seed=0)


@pytest.fixture(scope="module")
def imputer(halves: tuple[sg.Cohort, sg.Cohort]) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(halves[0], show=False)


# -- what it says of itself -------------------------------------------------------------------------------------------


def test_every_feature_has_a_verdict_and_every_rung_a_row(
    imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort]
) -> None:
    result = imputer.impute(halves[1], draws=2, who="all")
    verdict, ladder = result.verdict, result.ladder
    assert list(verdict.index) == list(halves[1].features)
    assert verdict["verdict"].str.startswith("imputed: CRPS").all()
    assert (verdict["low"] <= verdict["difference"]).all()
    assert (verdict["difference"] <= verdict["high"]).all()
    assert list(ladder.index) == RUNGS
    assert (ladder["crps"].dropna().diff().dropna() <= 0).all()
    # The whole is the average of its features, up to people with a cell missing.
    assert ladder.loc["margins", "crps"] == pytest.approx(verdict["crps"].mean(), rel=1e-6)


def test_a_saved_imputer_says_the_same(
    imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort], tmp_path: Path
) -> None:
    imputer.save(tmp_path / "model")
    again = sg.load(tmp_path / "model").impute(halves[1], draws=2, who="all")
    first = imputer.impute(halves[1], draws=2, who="all")
    pd.testing.assert_frame_equal(again.verdict, first.verdict)
    pd.testing.assert_frame_equal(again.ladder, first.ladder)
    np.testing.assert_array_equal(again.draws, first.draws)


def test_the_published_preset_has_none(imputers: dict[str, sg.SecondgramImputer], cohort: sg.Cohort) -> None:
    result = imputers["paper"].impute(cohort.take(np.arange(3)), draws=1, who="all")
    for name in ("verdict", "ladder"):
        with pytest.raises(InputError, match="no verdict"):
            getattr(result, name)


def test_the_command_prints_and_writes_it(
    imputer: sg.SecondgramImputer, imputers: dict[str, sg.SecondgramImputer], tmp_path: Path, cli: Any
) -> None:
    imputer.save(tmp_path / "model")
    imputers["paper"].save(tmp_path / "published")
    outcome = cli("verdict", str(tmp_path / "model"), "--out", str(tmp_path / "verdict.csv"))
    assert outcome.code == 0, outcome.err
    assert "what each rung earned" in outcome.out
    assert "48 features: 48 clearly better" in outcome.out
    assert len(pd.read_csv(tmp_path / "verdict.csv")) == 48
    refused = cli("verdict", str(tmp_path / "published"))
    assert refused.code == 2
    assert "no verdict" in refused.err


# -- missing baseline cells -------------------------------------------------------------------------------------------


def test_a_missing_baseline_cell_is_drawn(imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort]) -> None:
    people = halves[1].take(np.arange(40))
    visits = people.visits.copy()
    visits[::2, 0, 5] = np.nan
    holed = replace(people, visits=visits)
    whole, drawn = (imputer.impute(some, draws=300, who="all").draws for some in (people, holed))
    spread = drawn[:, ::2, 5].std(axis=0) / whole[:, ::2, 5].std(axis=0)
    assert spread.mean() > 1.1
    # Who has all cells does not notice, and neither does it matter who else is there.
    np.testing.assert_array_equal(drawn[:, 1::2], whole[:, 1::2])
    alone = imputer.impute(holed.take(np.array([4])), draws=300, who="all").draws
    np.testing.assert_array_equal(alone[:, 0], drawn[:, 4])


def test_intervals_hold_where_a_baseline_cell_is_missing(
    imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort]
) -> None:
    people = halves[1]
    visits = people.visits.copy()
    gone = np.random.default_rng(0).random(visits[:, 0].shape) < 0.15
    visits[:, 0][gone] = np.nan
    drawn = np.sort(imputer.impute(replace(people, visits=visits), draws=99, who="all").draws, axis=0)
    truth = true_followup(people)
    covered = (truth >= drawn[4]) & (truth <= drawn[94])
    assert covered[gone].mean() == pytest.approx(0.9, abs=0.03)


# -- what it earns ----------------------------------------------------------------------------------------------------


def test_half_of_the_gap_to_the_exact_posterior_is_closed(
    imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort]
) -> None:
    learn, judge = halves
    scaling = SharedScaling.fit(judge.baseline)
    result = imputer.impute(judge, draws=50, seed=0, who="all")
    cells = {"default": scored(scaling, judge, result.mean, result.draws)}
    for name in ("ridge-gaussian", "exact-posterior"):
        cells[name] = scored(scaling, judge, *predictions(name, learn, judge, 50, seed=0))
    crps = {name: float(np.nanmean(each.crps)) for name, each in cells.items()}
    closed = (crps["ridge-gaussian"] - crps["default"]) / (crps["ridge-gaussian"] - crps["exact-posterior"])
    assert closed > 0.5
    assert float(np.nanmean(cells["default"].covered)) == pytest.approx(nominal_coverage(50), abs=0.015)


def test_the_mean_is_that_of_the_draws(imputers: dict[str, sg.SecondgramImputer], cohort: sg.Cohort) -> None:
    people = cohort.take(np.arange(30))
    for name in ("off", "default"):
        result = imputers[name].impute(people, draws=2000, who="all")
        error = result.draws.std(axis=0) / np.sqrt(2000)
        assert (np.abs(result.draws.mean(axis=0) - result.mean) / error).mean() < 2.0, name
