"""Beyond the longest gap that was learned from intervals widen, and a note says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import secondgram as sg
from secondgram.imputation.default.beyond import USUAL, Growth
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.model_data import People


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_the_share_that_grows_is_found(share: float) -> None:
    rng = np.random.default_rng(1)
    gap = rng.uniform(0.5, 3.0, 3000)
    gap[0] = 3.0
    left = rng.standard_normal((3000, 20)) * np.sqrt(1.0 - share + share * (gap / 3.0) ** 2)[:, None]
    left[5, 3], left[::7, 2] = 1e5, np.nan
    found = Growth.fit(gap, left, np.ones(3000), np.arange(3000).astype(str))
    assert found is not None
    assert found.longest == 3.0
    assert found.share == pytest.approx(share, abs=0.06)


def test_people_of_a_unit_say_less_than_as_many_others() -> None:
    rng = np.random.default_rng(2)
    gap = np.repeat(rng.uniform(0.5, 3.0, 60), 5)
    left = np.repeat(rng.standard_normal((60, 4)), 5, axis=0) * (gap / 3.0)[:, None]
    alone, together = (
        Growth.fit(gap, left, np.ones(300), unit) for unit in (np.arange(300).astype(str), np.repeat(np.arange(60), 5))
    )
    assert alone is not None
    assert together is not None
    assert abs(together.share - USUAL) < abs(alone.share - USUAL)


def test_gaps_that_do_not_differ_tell_nothing() -> None:
    left = np.random.default_rng(0).standard_normal((50, 3))
    assert Growth.fit(np.full(50, 2.0), left, np.ones(50), np.arange(50)) == Growth(2.0, USUAL)
    assert Growth.fit(np.full(50, np.nan), left, np.ones(50), np.arange(50)) is None


def test_within_nothing_changes_and_beyond_it_widens_with_the_square() -> None:
    growth = Growth(2.0, 0.25)
    factor = growth.factor(np.array([0.5, 2.0, 4.0, np.nan]))
    np.testing.assert_allclose(factor, [1.0, 1.0, np.sqrt(1.0 + 0.25 * 3.0), 1.0])
    assert growth.notes(np.array([1.0, 2.0, 2.03, np.nan])) == []
    (note,) = growth.notes(np.array([1.0, 4.0, 3.0]))
    assert "2 people are imputed up to 4.0 years" in note
    assert "is 2.0" in note
    assert "1.32 times as wide" in note


@pytest.mark.parametrize("whole", [False, True])
def test_draws_beyond_the_longest_gap_are_wider_and_said_to_be(whole: bool) -> None:
    made = sg.simulate(160, 4, 0.6, seed=2, mode="gaussian")
    visits = np.round(20 * made.visits) if whole else made.visits
    cohort = sg.Cohort(made.ids, visits, made.features, times=made.times, covariate_table=made.covariate_table)
    imputer = sg.SecondgramImputer(shape="off").fit(cohort, show=False)
    model = imputer.model_
    assert isinstance(model, DefaultModel)
    assert model.growth is not None
    assert model.growth.longest == pytest.approx(made.gap[made.paired].max())
    again = type(model).from_state(model.state(), model.options)
    assert again.growth == model.growth
    people = People.of(cohort.take(~cohort.paired), keep_known=False)
    wide = replace(model, growth=replace(model.growth, share=1.0))
    for times, wider in ((0.9, 1.0), (3.0, 3.0)):
        away = replace(people, gap=np.full(len(people), times * model.growth.longest))
        spread, plain = (each.draw(away, np.arange(300), 1).std(axis=0) for each in (wide, replace(model, growth=None)))
        kept = plain > 0
        # Whole numbers, and limits of what was seen, take a little off.
        np.testing.assert_allclose(np.median(spread[kept] / plain[kept]), wider, rtol=0.12 if wider > 1 else 1e-9)
    longer = replace(cohort, times=np.stack([made.times[:, 0], np.where(cohort.paired, made.gap, 40.0)], axis=1))
    notes = imputer.impute(longer, draws=2, show=False).notes
    assert any("longest gap that the model learned from" in note for note in notes)
    assert not any("longest gap" in note for note in imputer.impute(cohort, draws=2, show=False).notes)


def test_an_anchor_grows_by_itself() -> None:
    train = sg.simulate(60, 3, 0.8, 0, "trajectories", visits=3)
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(train, show=False)
    assert imputer.model_.ladder_model.growth.share == 0.0  # type: ignore[attr-defined]
