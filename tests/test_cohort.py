"""The cohort: pairs, gaps, parts of it, splits that keep families together, covariates as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondgram.cohort.table import Cohort
from secondgram.errors import InputError


def make(people: int = 6, slots: int = 3, width: int = 2, **more: Any) -> Cohort:
    values = np.arange(people * slots * width, dtype=float).reshape(people, slots, width)
    labels = tuple(str(slot) for slot in range(slots))
    ids = np.asarray([f"{person:03}" for person in range(people)], dtype=object)
    names = tuple(f"f{feature}" for feature in range(width))
    return Cohort(**{"ids": ids, "visits": values, "features": names, "visit_labels": labels, **more})


def test_pairs_are_every_earlier_and_later_measured_visit():
    values = np.ones((3, 3, 2))
    values[1, 1] = np.nan
    values[2, 1:] = np.nan
    values[0, 0, 0] = np.nan  # one known feature is enough
    times = np.array([[0, 1, 3.5], [5, np.nan, 9], [0, np.nan, np.nan]])
    pairs = make(3, visits=values, visit_labels=("a", "b", "c"), times=times).pairs()
    assert len(pairs) == 4
    assert list(zip(pairs.person, pairs.earlier, pairs.later, strict=True)) == [
        (0, 0, 1),
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
    ]
    np.testing.assert_array_equal(pairs.gap, [1, 3.5, 2.5, 4])


def test_pairs_without_times_have_unknown_gaps():
    pairs = make(2).pairs()
    assert len(pairs) == 6
    assert np.isnan(pairs.gap).all()


def test_rows_that_are_no_visits_are_refused_and_many_visits_take_no_time():
    pairs = make(1, slots=1000, width=1, visit_labels=tuple(map(str, range(1000)))).pairs()
    assert len(pairs) == 1000 * 999 // 2
    with pytest.raises(InputError, match=r"1001 different visits \(0, 1, 2, .*1000 are the most.*running number"):
        make(1, slots=1001, width=1, visit_labels=tuple(map(str, range(1001))))


def test_one_visit_has_no_pairs():
    cohort = make(3, slots=1)
    assert len(cohort.pairs()) == 0
    assert np.isnan(cohort.followup).all()
    assert np.isnan(cohort.gap).all()
    assert cohort.followup_label == "next"


@pytest.mark.parametrize("later", [0.0, -2.0])
def test_a_gap_of_zero_or_less_is_an_error(later):
    times = np.array([[0, 1, 2.0], [0, later, 3]])
    with pytest.raises(InputError, match=r"subject 001: visit 1 is recorded -?[02] years after visit 0"):
        make(2, times=times).pairs()


def test_visits_at_one_time_are_replicates_and_no_pair():
    times = np.array([[0, 1, 1.0], [0, 1, 2]])
    cohort = make(2, times=times)
    pairs, every = cohort.pairs(), cohort.pairs(replicates=True)
    assert list(zip(pairs.person, pairs.earlier, pairs.later, strict=True)) == [
        *((0, 0, 1), (0, 0, 2), (1, 0, 1), (1, 0, 2), (1, 1, 2))
    ]
    assert len(every) == 6
    assert every.gap[every.earlier == 1].tolist() == [0.0, 1.0]
    # Of the first visit and the target it is a slip: there is no change to learn.
    with pytest.raises(InputError, match="subject 000: visit 2 is recorded 0 years after visit 0"):
        make(2, times=np.array([[1, 1, 1.0], [0, 1, 2]]), target=2).pairs()


def test_a_planned_visit_in_the_past_is_no_pair():
    values = np.ones((1, 2, 1))
    values[0, 1] = np.nan
    assert len(make(1, 2, 1, visits=values, times=np.array([[2.0, 1.0]])).pairs()) == 0


def test_baseline_followup_gap_and_target():
    cohort = make(2, times=np.array([[0, 1, 3.0], [1, 2, np.nan]]))
    np.testing.assert_array_equal(cohort.baseline, cohort.visits[:, 0])
    np.testing.assert_array_equal(cohort.followup, cohort.visits[:, 1])
    np.testing.assert_array_equal(cohort.gap, [1, 1])
    later = cohort.with_target(2)
    assert later.followup_label == "2"
    np.testing.assert_array_equal(later.gap, [3, np.nan])
    with pytest.raises(InputError, match="target=0"):
        cohort.with_target(0)


def test_who_is_scanned_and_paired():
    values = np.ones((4, 2, 2))
    values[1, 1] = values[2, 0] = values[3] = np.nan
    cohort = make(4, visits=values, visit_labels=("0", "1"))
    assert cohort.scanned.tolist() == [True, True, False, False]
    assert cohort.paired.tolist() == [True, False, False, False]
    assert "1 with follow-up" in repr(cohort)


def test_without_followup_hides_every_later_visit_and_leaves_the_original():
    cohort = make(3)
    hidden = cohort.without_followup()
    assert np.isnan(hidden.visits[:, 1:]).all()
    np.testing.assert_array_equal(hidden.baseline, cohort.baseline)
    assert np.isfinite(cohort.visits).all()


def test_take_keeps_everything_together():
    table = pd.DataFrame({"age": np.arange(6.0), "sex": pd.Categorical(list("FMFMFM"))})
    cohort = make(
        covariate_table=table,
        outcomes=pd.DataFrame({"y": np.arange(6.0)}),
        groups=np.array(list("aabbcc")),
        site=np.array(list("ststst")),
        times=np.tile(np.arange(3.0), (6, 1)) + np.arange(6)[:, None],
    )
    for rows in ([4, 1], np.array([False, True, False, False, True, False])):
        part = cohort.take(rows)
        order = [4, 1] if isinstance(rows, list) else [1, 4]
        assert part.ids.tolist() == [f"{row:03}" for row in order]
        assert part.covariate_table["age"].tolist() == order
        assert part.outcomes["y"].tolist() == order
        assert part.times[:, 0].tolist() == order
        assert part.units().tolist() == ["aabbcc"[row] for row in order]
        assert np.asarray(part.site).tolist() == ["ststst"[row] for row in order]
        np.testing.assert_array_equal(part.visits, cohort.visits[order])
        # Levels stay, so that the columns of `static` are the same in every part.
        assert part.covariates == ("age", "sex=F", "sex=M")


def test_static_encoding():
    table = pd.DataFrame({"age": [60.0, np.nan], "apoe": pd.Categorical(["e4", None], categories=["e3", "e4"])})
    cohort = make(2, covariate_table=table)
    assert cohort.covariates == ("age", "apoe=e3", "apoe=e4")
    np.testing.assert_array_equal(cohort.static, [[60, 0, 1], [np.nan] * 3])
    assert make(2).static.shape == (2, 0)
    assert make(2).covariates == ()


GROUPINGS = st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda groups: len(set(groups)) >= 4)


@given(GROUPINGS, st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_folds_hold_every_person_once_and_keep_groups_whole(groups, seed):
    group = np.asarray(groups)
    cohort = make(len(groups), groups=group)
    times_held = np.zeros(len(groups), dtype=int)
    for train, test in cohort.folds(4, seed=seed):
        assert (train ^ test).all()
        assert not set(group[train]) & set(group[test])
        times_held += test
    assert (times_held == 1).all()


@given(st.integers(0, 20), st.floats(0.2, 0.8))
@settings(max_examples=30, deadline=None)
def test_split_keeps_groups_whole_and_the_share(seed, share):
    groups = np.repeat(np.arange(100), 2)
    train, test = make(200, groups=groups).split(share, seed=seed)
    assert sorted([*train.ids, *test.ids]) == make(200).ids.tolist()
    assert train.groups is not None
    assert test.groups is not None
    assert not set(train.groups) & set(test.groups)
    assert abs(len(test) - 200 * share) <= 2


def test_split_is_decided_by_the_seed():
    cohort = make(40)
    assert cohort.split(seed=3)[1].ids.tolist() == cohort.split(seed=3)[1].ids.tolist()
    assert cohort.split(seed=3)[1].ids.tolist() != cohort.split(seed=4)[1].ids.tolist()


def test_splits_that_cannot_be():
    with pytest.raises(InputError, match="no share"):
        make().split(1.0)
    with pytest.raises(InputError, match="too few"):
        make(1).split()
    with pytest.raises(InputError, match="7 folds do not go into 6"):
        next(make().folds(7))
    with pytest.raises(InputError, match="3 folds do not go into 2"):
        next(make(groups=np.array(list("aaabbb"))).folds(3))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"visits": np.ones((6, 2, 2))}, "visits has shape"),
        ({"times": np.ones((6, 2))}, "times has shape"),
        ({"groups": np.array(["a"])}, "groups has 1 rows for 6 people"),
        ({"covariate_table": pd.DataFrame({"a": [1.0]})}, "covariate_table has 1 rows"),
        ({"ids": np.array(list("abcdea"))}, "people occur twice: a"),
    ],
)
def test_arrays_that_do_not_fit(more, message):
    with pytest.raises(InputError, match=message):
        make(**more)


def test_an_infinite_value_is_named():
    values = np.ones((2, 3, 2))
    values[1, 2, 1] = -np.inf
    with pytest.raises(InputError, match=r"column 'f1': subject 001, visit 2: the value is infinite"):
        make(2, visits=values, visit_labels=("0", "1", "2"))


def test_write_then_read(tmp_path):
    from secondgram.cohort.formats import read_cohort

    values = np.arange(12, dtype=float).reshape(3, 2, 2)
    values[1, 1] = np.nan
    cohort = make(3, 2, 2, visits=values, times=np.array([[0, 2.0], [0, 3], [0, np.nan]]))
    cohort.write(tmp_path / "cohort.parquet")
    back = read_cohort(tmp_path / "cohort.parquet")
    np.testing.assert_array_equal(back.visits, cohort.visits)
    np.testing.assert_array_equal(back.times, cohort.times)
    assert back.ids.tolist() == cohort.ids.tolist()
