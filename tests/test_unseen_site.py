"""Sites that a model has not seen: a person's baseline is the level, change and spread are those within its sites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import secondgram as sg
from secondgram.cohort.table import Cohort

MADE = sg.simulate(220, 4, 0.6, seed=9, mode="gaussian")
SPREAD = MADE.baseline.std(axis=0)
SITE = np.where(np.arange(220) % 2 == 0, "north", "south").astype(object)
# Two sites three standard deviations apart, which hide what people differ by.
OFFSET = np.where(SITE == "north", 0.0, 3.0)[:, None, None] * SPREAD


def _cohort(offset: np.ndarray | float, site: np.ndarray | None) -> Cohort:
    return Cohort(
        MADE.ids, MADE.visits + offset, MADE.features, times=MADE.times, covariate_table=MADE.covariate_table, site=site
    )


TRAIN, NEW = np.arange(0, 160), np.arange(160, 220)


@pytest.fixture(scope="module")
def model() -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(_cohort(OFFSET, SITE).take(TRAIN), show=False)


def _imputed(
    model: sg.SecondgramImputer, offset: np.ndarray | float, site: str | None, **options: object
) -> np.ndarray:
    sites = None if site is None else np.full(220, site, dtype=object)
    people = _cohort(offset, sites).take(NEW)
    return model.impute(people, draws=80, who="all", show=False, **options).draws - people.baseline  # type: ignore[arg-type]


def test_draws_move_with_the_offset_of_the_site_whatever_it_is(model: sg.SecondgramImputer) -> None:
    here = _imputed(model, 0.0, "east")
    for sd in (2.0, -7.0):
        np.testing.assert_allclose(_imputed(model, sd * SPREAD, "east"), here, atol=1e-6 * SPREAD.max())


def test_change_and_spread_are_those_of_a_site_that_was_seen(model: sg.SecondgramImputer) -> None:
    unseen, seen = _imputed(model, 2.0 * SPREAD, "east"), _imputed(model, 0.0, "north")
    apart = (unseen.mean(axis=(0, 1)) - seen.mean(axis=(0, 1))) / SPREAD
    # That of the sixty people's own deviations, for which a regression to the mean is left out.
    assert np.abs(apart).max() < 0.1
    share = unseen.std(axis=0).mean(axis=0) / seen.std(axis=0).mean(axis=0)
    # What the baseline would have said of the change is in doubt, too.
    assert (share > 0.93).all()
    assert (share < 1.3).all()


def test_intervals_cover_at_a_site_that_was_not_seen(model: sg.SecondgramImputer) -> None:
    draws = _imputed(model, 2.0 * SPREAD, "east")
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    true = (MADE.truth - MADE.baseline)[NEW]
    assert 0.84 < ((low <= true) & (true <= high)).mean() < 0.96


def test_means_and_draws_agree(model: sg.SecondgramImputer) -> None:
    people = _cohort(SPREAD, np.full(220, "east", dtype=object)).take(NEW)
    result = model.impute(people, draws=400, who="all", show=False)
    left = result.draws.mean(axis=0) - result.mean
    assert np.abs(left / (result.draws.std(axis=0) / 20)).max() < 5.5


def test_who_else_is_there_changes_no_draw(model: sg.SecondgramImputer) -> None:
    sites = np.where(np.arange(220) % 3 == 0, "east", SITE).astype(object)
    people = _cohort(OFFSET, sites).take(NEW)
    whole = model.impute(people, draws=3, who="all", show=False).draws
    for rows in ([0], [5, 2, 40], range(30, 60)):
        part = model.impute(people.take(list(rows)), draws=3, who="all", show=False).draws
        np.testing.assert_array_equal(part, whole[:, list(rows)])


def test_no_site_is_a_site_that_was_not_seen_and_it_is_said(model: sg.SecondgramImputer) -> None:
    np.testing.assert_array_equal(_imputed(model, SPREAD, None), _imputed(model, SPREAD, "east"))
    people = _cohort(0.0, None).take(NEW)
    (note,) = (note for note in model.impute(people, draws=1, show=False).notes if "site" in note)
    for word in ("no site is known", "north, south", "--site"):
        assert word in note
    people = _cohort(0.0, np.where(np.arange(220) % 2 == 0, "east", "north").astype(object)).take(NEW)
    (note,) = (note for note in model.impute(people, draws=1, show=False).notes if "site" in note)
    assert "30 people are of sites unknown to the model (east)" in note


def test_measured_cells_stay_and_tell_of_the_others(model: sg.SecondgramImputer) -> None:
    visits = MADE.truth[:, None, :] * [[0.0], [1.0]] + MADE.baseline[:, None, :] * [[1.0], [0.0]] + 5.0 * SPREAD
    visits[:, 1, 1:] = np.nan
    people = replace(_cohort(0.0, np.full(220, "east", dtype=object)), visits=visits).take(NEW)
    near = model.impute(people, draws=30, show=False).draws
    np.testing.assert_array_equal(near[:, :, 0], np.broadcast_to(people.followup[:, 0], near.shape[:2]))
    visits = people.visits.copy()
    visits[:, 1, 0] += 2.0 * SPREAD[0]
    moved = model.impute(replace(people, visits=visits), draws=30, show=False).draws - near
    correlation = model.model_.joint.components.correlation()[0, 1:]  # type: ignore[attr-defined]
    clear = np.abs(correlation) > 0.1
    assert (np.sign(moved[:, :, 1:].mean(axis=(0, 1)))[clear] == np.sign(correlation)[clear]).all()


def test_a_missing_baseline_cell_scatters_between_sites_too(model: sg.SecondgramImputer) -> None:
    visits = MADE.visits.copy()
    visits[:, 0, 0] = np.nan
    made = replace(_cohort(0.0, SITE), visits=visits).take(NEW)
    seen = model.impute(made, draws=80, who="all", show=False).draws[:, :, 0].std()
    unseen = replace(made, site=np.full(len(made), "east", dtype=object))
    assert model.impute(unseen, draws=80, who="all", show=False).draws[:, :, 0].std() > 1.3 * seen


def test_a_model_comes_back_with_it(model: sg.SecondgramImputer, tmp_path: object) -> None:
    model.save(f"{tmp_path}/model")
    np.testing.assert_array_equal(
        _imputed(sg.load(f"{tmp_path}/model"), SPREAD, "east"), _imputed(model, SPREAD, "east")
    )
