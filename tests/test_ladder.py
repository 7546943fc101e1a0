"""The default preset as a whole: what it says of itself, missing baseline cells, and that it earns its keep."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.compare import predictions, scored
from secondgram.errors import InputError
from secondgram.evaluation.evaluate import true_followup
from secondgram.evaluation.metrics import nominal_coverage
from secondgram.imputation.default import design
from secondgram.imputation.default.design import Design
from secondgram.imputation.default.judgement import judge
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.model_data import People
from secondgram.imputation.result import Imputation
from secondgram.ops import native

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
    # On people who had no part in the choice of a rung, which may then cost a little.
    assert (ladder["crps"].dropna().diff().dropna() <= 3e-4).all()
    assert ladder["difference"]["mean"] < -0.03
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


# -- one cell ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> sg.SimulatedCohort:
    """60 people, 8 features, 42 pairs."""
    return sg.simulate(60, 8, 0.7, seed=1, mode="gaussian")


def _levels(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> np.ndarray:
    """(N, D) predicted, in baseline SD."""
    return imputer.impute(cohort, draws=2, who="all").mean / cohort.baseline.std(axis=0, ddof=1)


@pytest.fixture(scope="module")
def usual(few: sg.SimulatedCohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(few, show=False)


@pytest.mark.parametrize(("which", "visit"), [(5, 0), (2, 1)], ids=["baseline", "follow-up"])
def test_one_wild_cell_moves_and_widens_other_people_by_little(
    few: sg.SimulatedCohort, usual: sg.SecondgramImputer, which: int, visit: int
) -> None:
    person = np.flatnonzero(few.paired)[which]
    visits = few.visits.copy()
    visits[person, visit, 3] *= 1e6
    spoiled = sg.SecondgramImputer(shape="off").fit(replace(few, visits=visits), show=False)
    others = few.take(np.arange(len(few)) != person)
    level, before = _levels(spoiled, others), _levels(usual, others)
    assert np.abs(level - before).mean(axis=0).max() < 0.2
    # Nowhere beyond what was seen of a feature, widened.
    seen = few.visits / few.baseline.std(axis=0, ddof=1)
    low, high = np.nanmin(seen, axis=(0, 1)), np.nanmax(seen, axis=(0, 1))
    wider = 0.25 * (high - low)
    assert (level >= low - wider).all()
    assert (level <= high + wider).all()
    width = [each.impute(others, draws=200, who="all").draws.std(axis=0).mean(axis=0) for each in (spoiled, usual)]
    assert (width[0] / width[1]).max() < 2.0


@pytest.mark.parametrize("far", [30.0, -1e5])
def test_a_baseline_far_off_is_predicted_no_further_away(
    few: sg.SimulatedCohort, usual: sg.SecondgramImputer, far: float
) -> None:
    people = few.take(np.arange(8))
    visits = people.visits.copy()
    sd, middle = few.baseline.std(axis=0), few.baseline.mean(axis=0)
    for row in range(8):
        visits[row, 0, row] = middle[row] + far * sd[row]
    level = usual.impute(replace(people, visits=visits), draws=2, who="all").mean
    seen = np.nanmax(np.abs(few.visits - middle), axis=(0, 1)) / sd
    away = np.abs(level - middle) / sd
    assert np.isfinite(level).all()
    assert (np.diag(away) <= abs(far) + 1e-6).all()
    # And what it says of other features is bounded.
    assert (away[~np.eye(8, dtype=bool)] <= 1.5 * np.broadcast_to(seen, (8, 8))[~np.eye(8, dtype=bool)]).all()


@pytest.mark.parametrize("groups", [2, 3])
def test_people_of_very_few_groups_are_learned_from(few: sg.SimulatedCohort, groups: int) -> None:
    cohort = replace(few, groups=np.arange(len(few)) % groups)
    imputer = sg.SecondgramImputer(shape="off").fit(cohort, show=False)
    assert np.isfinite(imputer.impute(cohort, draws=2, who="all").draws).all()
    assert np.isfinite(_model(imputer).verdict()["crps"]).all()


# -- what its figures are worth ---------------------------------------------------------------------------------------


def _people(count: int, width: int, seed: int, visits: int = 2, slope: float = 0.0) -> sg.Cohort:
    """A truth of three factors that drifts by `slope` SD a year, measured every 1.5 years."""
    rng, loading = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(3, width)) / np.sqrt(3.0)
    times = 1.5 * np.arange(visits)
    truth = 0.8 * rng.normal(size=(count, 3)) @ loading + 0.6 * rng.normal(size=(count, width))
    drift = slope * rng.normal(size=(count, 1, width)) * times[:, None]
    noise = (0.6 if visits == 2 else 0.33) * rng.normal(size=(count, visits, width))
    return sg.Cohort(
        ids=np.array([f"{seed}-{number}" for number in range(count)]),
        visits=truth[:, None] + drift + noise,
        features=tuple(f"f{number}" for number in range(width)),
        visit_labels=tuple(map(str, range(visits))),
        times=np.tile(times, (count, 1)),
        target=visits - 1,
    )


def _fit(cohort: sg.Cohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(cohort, show=False)


def _model(imputer: sg.SecondgramImputer) -> DefaultModel:
    assert isinstance(imputer.model_, DefaultModel)
    return imputer.model_


def _held_out(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> tuple[Imputation, Any]:
    result = imputer.impute(cohort.without_followup(), draws=99, who="all")
    return result, scored(SharedScaling.fit(cohort.baseline), cohort, result.mean, result.draws)


def test_where_a_modality_is_often_missing_changes_are_as_large_as_they_are_and_intervals_cover() -> None:
    slope, covered = [], []
    for seed in range(2):
        cohort = _people(500, 8, seed)
        visits = cohort.visits.copy()
        visits[np.random.default_rng(seed).random(500) < 0.7, 1, :4] = np.nan
        fresh = _people(400, 8, 1000 + seed)
        result, cells = _held_out(_fit(replace(cohort, visits=visits)), fresh)
        predicted, true = (each - fresh.baseline for each in (result.mean, fresh.followup))
        centred = predicted - predicted.mean(axis=0)
        slope.append((centred * true).sum(axis=0) / (centred**2).sum(axis=0))
        covered.append(cells.covered.mean(axis=0))
    for block in (slice(0, 4), slice(4, 8)):
        assert 0.85 < np.mean([each[block].mean() for each in slope]) < 1.2
        assert 0.86 < np.mean([each[block].mean() for each in covered]) < 0.94


def test_intervals_hold_where_features_are_more_than_pairs() -> None:
    imputer = _fit(_people(40, 64, 0))
    _, cells = _held_out(imputer, _people(200, 64, 1000))
    assert 0.87 < cells.covered.mean() < 0.94


def test_holes_in_the_baseline_widen_nobody_elses_intervals() -> None:
    known, missing = [], []
    for seed in range(2):
        holed = []
        for count, own in ((150, seed), (500, 1000 + seed)):
            cohort = _people(count, 8, own)
            visits = cohort.visits.copy()
            visits[:, 0][np.random.default_rng(own).random((count, 8)) < 0.3] = np.nan
            holed.append(replace(cohort, visits=visits))
        _, cells = _held_out(_fit(holed[0]), holed[1])
        gone = np.isnan(holed[1].baseline)
        known.append(cells.covered[~gone].mean())
        missing.append(cells.covered[gone].mean())
    assert 0.86 < np.mean(known) < 0.94
    assert 0.84 < np.mean(missing) < 0.94


def test_of_five_visits_the_verdict_is_of_the_one_that_is_imputed(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _people(100, 6, 0, visits=5, slope=0.12)
    imputer = _fit(cohort)
    _, cells = _held_out(imputer, _people(400, 6, 1000, visits=5, slope=0.12))
    told = _model(imputer).verdict()["crps"].mean()
    assert told == pytest.approx(cells.crps.mean(), rel=0.1)
    # Of all pairs of visits, half as far apart, it would be another figure.
    monkeypatch.setattr("secondgram.imputation.default.judgement.FEWEST_UNITS", 1000)
    everything = judge(cohort, Design.of(cohort, True), True, False, 0)
    assert everything.average(everything.scores["own"]["margins"]).mean() < 0.85 * told


def test_what_is_told_to_expect_comes_true() -> None:
    told, came = [], []
    for seed in range(4):
        imputer = _fit(_people(40, 10, seed))
        _, cells = _held_out(imputer, _people(300, 10, 1000 + seed))
        told.append(_model(imputer).verdict()["crps"].mean())
        came.append(cells.crps.mean())
    assert np.mean(told) == pytest.approx(np.mean(came), rel=0.15)


def test_where_features_hardly_repeat_each_is_predicted_by_its_own_alone_and_draws_cover() -> None:
    def noise(count: int, seed: int) -> sg.Cohort:
        rng = np.random.default_rng(seed)
        visits = 0.3 * rng.normal(size=(count, 1, 30)) + rng.normal(size=(count, 2, 30))
        return sg.Cohort(np.array([f"{seed}-{row}" for row in range(count)]), visits, tuple(map(str, range(30))))

    imputer = _fit(noise(25, 1))
    W = _model(imputer).mean_change.map.W[:30]
    diagonal = np.diag(W)
    assert ((-1.0 < diagonal) & (diagonal < -0.7)).all()
    assert np.abs(W - np.diag(diagonal)).max() < 0.02
    _, cells = _held_out(imputer, noise(300, 1000))
    assert 0.86 < cells.covered.mean() < 0.94


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


def test_no_draw_is_far_beyond_what_was_seen(
    imputer: sg.SecondgramImputer, halves: tuple[sg.Cohort, sg.Cohort]
) -> None:
    """Shapes with far ends and wide spreads make draws that no person had; those within are as they were."""
    model = deepcopy(imputer.model_)
    assert isinstance(model, DefaultModel)
    people = People.of(halves[1], keep_known=False)
    draws = np.arange(200)
    before = model.draw(people, draws, 1)
    model.spread.doubt = model.spread.doubt + np.where(np.arange(before.shape[2]) == 1, 3.0, 0.0)
    wide = model.draw(people, draws, 1)
    X = model.context.inputs(people)
    low, high = (model.context.scaling.invert(limit, people.site) for limit in model.mean_change.limits(X))
    assert (before > low).all()
    assert (before < high).all()
    assert (wide >= low - 1e-9).all()
    assert (wide <= high + 1e-9).all()
    cut = (wide[:, :, 1] == low[:, 1]) | (wide[:, :, 1] == high[:, 1])
    assert 0.01 < cut.mean() < 0.9
    others = np.arange(before.shape[2]) != 1
    assert np.array_equal(wide[:, :, others], before[:, :, others])
    free = model.mean_change.bounds.copy()
    model.mean_change.bounds = np.stack([np.full_like(free[0], -np.inf), np.full_like(free[1], np.inf)])
    unbound = model.draw(people, draws, 1)
    assert np.abs(wide - unbound)[:, :, 1][~cut].max() == 0.0


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_does_not_change_what_is_learned(threads: int) -> None:
    cohort = _people(60, 8, 0)
    with native.limited(1):
        alone = _fit(cohort).model_
    with native.limited(threads):
        together = _fit(cohort).model_
    assert alone.digest == together.digest  # type: ignore[attr-defined]


def test_what_fills_missing_cells_is_learned_from_so_many_people(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _people(60, 8, 0)
    visits = cohort.visits.copy()
    visits[::3, 0, 1] = np.nan
    cohort = replace(cohort, visits=visits)
    every = _fit(cohort).model_
    monkeypatch.setattr(design, "FILL", (20, 1))
    some = _fit(cohort).model_
    expected = Design.of(cohort.in_order(), True, most=20).context.missing.precision
    np.testing.assert_array_equal(some.context.missing.precision, expected)  # type: ignore[attr-defined]
    assert np.abs(expected - every.context.missing.precision).max() > 1e-3  # type: ignore[attr-defined]
