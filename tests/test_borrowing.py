"""Features that next to nobody was measured on twice take change and spread from the others, and it is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secondgram import SecondgramImputer, simulate
from secondgram.cohort.table import Cohort
from secondgram.errors import InputError
from secondgram.imputation.default.borrowing import borrowed_level, learned_people, scarce, without_scarce
from secondgram.imputation.default.correlation import ResidualComponents
from secondgram.imputation.trainable import check_trainable

MADE = simulate(150, 4, 0.5, seed=5, mode="gaussian")


def _measured_later(people: int, made: Cohort = MADE) -> Cohort:
    """The cohort, the first feature of which so many people have at the follow-up."""
    visits = made.visits.copy()
    rows = np.flatnonzero(made.paired)
    visits[rows[people:], 1, 0] = np.nan
    return replace(made, visits=visits)


@pytest.fixture(scope="module", params=[0, 3])
def fitted(request: pytest.FixtureRequest) -> SecondgramImputer:
    return SecondgramImputer(shape="off").fit(_measured_later(request.param), show=False)


@pytest.fixture(scope="module")
def whole() -> SecondgramImputer:
    return SecondgramImputer(shape="off").fit(MADE, show=False)


def test_a_feature_that_nobody_was_measured_on_twice_scatters_as_the_others_do(
    fitted: SecondgramImputer, whole: SecondgramImputer
) -> None:
    spreads = [model.impute(MADE, draws=60, who="all", show=False).draws.std(axis=0).mean(axis=0)
               for model in (fitted, whole)]  # fmt: skip
    share = spreads[0] / spreads[1]
    assert 0.5 < share[0] < 2.0
    np.testing.assert_allclose(share[1:], 1.0, rtol=0.1)


def test_it_goes_along_with_no_other(fitted: SecondgramImputer) -> None:
    result = fitted.impute(MADE, draws=200, who="all", show=False)
    left = result.draws - result.draws.mean(axis=0)
    found = np.corrcoef(left.reshape(-1, 4).T)[0, 1:]
    assert np.abs(found).max() < 0.03


def test_verdict_and_notes_say_that_it_is_not_learned(fitted: SecondgramImputer) -> None:
    verdict = fitted.model_.verdict()  # type: ignore[attr-defined]
    assert verdict["verdict"].str.startswith("not learned").tolist() == [True, False, False, False]
    assert not (verdict["rmse"] == 0).any()
    (note,) = fitted.model_.cautions()
    assert MADE.features[0] in note
    assert MADE.features[1] not in note
    assert note in fitted.model_.summary()
    assert note in fitted.impute(MADE, draws=1, who="all", show=False).notes


def test_enough_pairs_borrow_nothing_and_are_not_mentioned(whole: SecondgramImputer) -> None:
    assert whole.model_.cautions() == []
    assert not whole.model_.verdict()["verdict"].str.startswith("not learned").any()  # type: ignore[attr-defined]


def test_scarce_is_few_and_fewer_than_others() -> None:
    assert scarce(np.array([0.0, 4.0, 9.5, 10.0, 80.0])).tolist() == [True, True, True, False, False]
    # Twelve pairs, a fifth of which are held out: as few as these are all there are.
    assert not scarce(np.array([9.0, 8.0, 9.6])).any()
    assert not scarce(np.array([3.0])).any()


def test_a_level_is_drawn_to_that_of_the_others_as_far_as_people_lack() -> None:
    level, people = np.array([-20.0, 2.0, 1.0, 1.4]), np.array([0.0, 5.0, 50.0, 150.0])
    np.testing.assert_allclose(borrowed_level(level, people), [1.3, 1.65, 1.0, 1.4])
    enough = np.array([-3.0, 2.0])
    assert borrowed_level(enough, np.array([10.0, 99.0])) is enough


def test_few_rows_teach_no_ridge() -> None:
    values = np.ones((30, 2))
    values[4:, 0] = np.nan
    kept = without_scarce(values, np.ones(30))
    assert np.isnan(kept[:, 0]).all()
    assert np.isfinite(kept[:, 1]).all()
    assert without_scarce(values[:, 1:], np.ones(30)) is not None


def test_a_few_residuals_make_no_correlation() -> None:
    standard = np.random.default_rng(0).normal(size=(60, 1)) @ np.ones((1, 3))
    standard[3:, 0] = np.nan
    found = ResidualComponents.fit(standard, np.ones(60)).correlation()
    np.testing.assert_allclose(found[0], [1.0, 0.0, 0.0], atol=1e-8)
    assert found[1, 2] > 0.9


def test_one_and_the_same_change_of_everybody_is_no_knowledge_of_its_spread() -> None:
    change = np.random.default_rng(0).normal(size=(40, 2))
    change[:, 0] = 0.0
    assert learned_people(change, np.ones(40)).tolist() == [0.0, 40.0]
    visits = MADE.visits.copy()
    visits[:, 1, 0] = np.where(np.isfinite(visits[:, 1, 0]), visits[:, 0, 0], np.nan)
    fitted = SecondgramImputer(shape="off").fit(replace(MADE, visits=visits), show=False)
    assert MADE.features[0] in fitted.model_.cautions()[0]
    draws = fitted.impute(MADE, draws=20, who="all", show=False).draws
    assert draws.std(axis=0)[:, 0].min() > 0.05 * MADE.baseline[:, 0].std()


# -- features without a scale -----------------------------------------------------------------------------------------


def _with(visit: int, values: np.ndarray | float) -> Cohort:
    visits = MADE.visits.copy()
    visits[:, visit, 2] = np.where(np.isfinite(visits[:, visit, 2]), values, np.nan)
    return replace(MADE, visits=visits, source="people.csv")


@pytest.mark.parametrize(
    ("visit", "value", "words"),
    [(0, 3.0, "constant at visit 0: every measured baseline is 3"), (1, -9999.0, "is -9999 for everybody at visit 1")],
)
def test_a_feature_that_is_constant_at_one_visit_is_refused_by_column(visit: int, value: float, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        SecondgramImputer(shape="off").fit(_with(visit, value), show=False)
    assert f"column {MADE.features[2]!r}" in str(caught.value)
    assert "people.csv" in str(caught.value)


def test_a_value_that_baselines_have_too_is_no_code() -> None:
    made = _with(1, 0.0)
    made.visits[:100, 0, 2] = 0.0
    check_trainable(made)


def test_follow_ups_that_are_copies_of_baselines_teach_nothing() -> None:
    visits = MADE.visits.copy()
    visits[:, 1] = np.where(np.isfinite(visits[:, 1]), visits[:, 0], np.nan)
    with pytest.raises(InputError, match="everybody's change is the same: 0"):
        SecondgramImputer(shape="off").fit(replace(MADE, visits=visits), show=False)


@pytest.mark.parametrize("rounding", [0.0, 1e-12, 1e-9])
def test_changes_that_differ_by_rounding_alone_teach_nothing(rounding: float) -> None:
    noise = rounding * np.random.default_rng(0).standard_normal(MADE.visits[:, 0].shape)
    visits = MADE.visits.copy()
    visits[:, 1] = np.where(np.isfinite(visits[:, 1]), visits[:, 0] - 0.5 + noise, np.nan)
    with pytest.raises(InputError, match=r"everybody's change is the same: -0\.5"):
        check_trainable(replace(MADE, visits=visits))
    # One feature that does vary is something to learn from.
    visits[:, 1, 0] += 0.1 * np.random.default_rng(1).standard_normal(len(visits))
    check_trainable(replace(MADE, visits=visits))


def test_the_published_preset_has_no_range_for_what_nobody_has_later() -> None:
    with pytest.raises(InputError, match=r"column 'feature_1'.*was measured at no follow-up"):
        SecondgramImputer("paper", epochs=1).fit(_measured_later(0), show=False)
