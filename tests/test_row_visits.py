"""Visits of long tables: which labels are one visit, each person's own, or in no order that can be told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import secondgram as sg


def _write(folder: Path, rows: Iterable[tuple[object, ...]], header: str = "subject_id,visit,vol_a,vol_b") -> Path:
    path = folder / "t.csv"
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _seen(folder: Path, visits: dict[str, list[str]]) -> Path:
    """A person's n-th visit has the values n and -n."""
    rows = [(who, label, n, -n) for who, labels in visits.items() for n, label in enumerate(labels)]
    return _write(folder, rows[::-1])


def test_the_baseline_comes_first_in_tables_of_large_studies(tmp_path: Path) -> None:
    labels = ["baseline_year_1_arm_1", "2_year_follow_up_y_arm_1", "4_year_follow_up_y_arm_1"]
    cohort = sg.read_cohort(_seen(tmp_path, {who: labels for who in "pqr"}))
    assert list(cohort.visit_labels) == labels
    np.testing.assert_array_equal(cohort.visits[:, :, 0], [[0, 1, 2]] * 3)
    np.testing.assert_allclose(cohort.times, [[0, 2, 4]] * 3)
    assert "years between visits are those that the visit labels tell" in cohort.notes


def test_labels_of_one_visit_are_joined_where_nobody_has_two(tmp_path: Path) -> None:
    seen = {"p": ["bl", "m12"], "q": ["m0", "m12"], "r": ["bl", "year1"], "s": ["bl", "m12"]}
    cohort = sg.read_cohort(_seen(tmp_path, seen))
    assert cohort.visit_labels == ("bl", "m12")
    np.testing.assert_array_equal(cohort.visits[:, :, 0], [[0, 1]] * 4)
    assert sum("are taken as one" in note for note in cohort.notes) == 2
    # One who has both was scanned twice.
    cohort = sg.read_cohort(_seen(tmp_path, seen | {"t": ["bl", "m0", "m12"]}))
    assert cohort.visit_labels[-1] == "m12"
    assert set(cohort.visit_labels) == {"bl", "m0", "m12"}


def test_screening_is_the_baseline_of_those_who_have_no_other(tmp_path: Path) -> None:
    cohort = sg.read_cohort(_seen(tmp_path, {"p": ["SC", "V04"], "q": ["BL", "V04"], "r": ["BL", "V04"]}))
    assert cohort.visit_labels == ("BL", "V04")
    cohort = sg.read_cohort(_seen(tmp_path, {who: ["SC", "BL", "V04"] for who in "pq"}))
    assert cohort.visit_labels == ("SC", "BL", "V04")


@pytest.mark.parametrize(
    "labels",
    [
        {"p": ["d0129", "d0757"], "q": ["d0005", "d1400", "d2000"], "r": ["d0021", "d0700"]},
        {"p": ["ses-20140101", "ses-20160101"], "q": ["ses-20150301", "ses-20170301"], "r": ["ses-20140505"]},
        {"p": ["OAS30001_MR_d0000", "OAS30001_MR_d0339"], "q": ["OAS30002_MR_d0000", "OAS30002_MR_d2340"]},
    ],
)
def test_days_of_each_persons_own_are_numbered_within_the_person(tmp_path: Path, labels: dict[str, list[str]]) -> None:
    cohort = sg.read_cohort(_seen(tmp_path, labels))
    longest = max(map(len, labels.values()))
    assert cohort.visit_labels == tuple(map(str, range(longest)))
    for who, mine in labels.items():
        row = list(cohort.ids).index(who)
        np.testing.assert_array_equal(cohort.visits[row, : len(mine), 0], range(len(mine)))
        assert np.isnan(cohort.visits[row, len(mine) :]).all()
        assert cohort.times[row, 0] == 0.0
        assert (np.diff(cohort.times[row, : len(mine)]) > 0.5).all()
    assert any("each person's own" in note for note in cohort.notes)


def test_a_common_first_day_does_not_make_later_days_common(tmp_path: Path) -> None:
    seen = {f"p{n}": ["d0000", f"d{300 + 17 * n:04d}"] for n in range(8)}
    cohort = sg.read_cohort(_seen(tmp_path, seen))
    assert cohort.visit_labels == ("0", "1")
    np.testing.assert_allclose(sorted(cohort.times[:, 1]), (300 + 17 * np.arange(8)) / 365.25)


def test_months_that_people_share_are_visits_of_the_cohort(tmp_path: Path) -> None:
    seen = {"p": ["bl", "m06"], "q": ["bl", "m12"], "r": ["bl", "m24"]}
    assert sg.read_cohort(_seen(tmp_path, seen)).visit_labels == ("bl", "m06", "m12", "m24")


def test_an_order_that_nothing_tells_is_refused_with_the_labels(tmp_path: Path) -> None:
    path = _seen(tmp_path, {who: ["summer", "harvest"] for who in "pqr"})
    with pytest.raises(sg.InputError, match=r"order of the visits is not told.*harvest.*summer") as failure:
        sg.read_cohort(path)
    assert "--visits" in str(failure.value)
    assert "t.csv" in str(failure.value)
    cohort = sg.read_cohort(path, visits=["summer", "harvest"])
    assert cohort.visit_labels == ("summer", "harvest")
    np.testing.assert_array_equal(cohort.visits[:, :, 0], [[0, 1]] * 3)


def test_times_tell_the_order_that_labels_do_not(tmp_path: Path) -> None:
    rows = [
        (who, label, years, n, -n) for who in "pqr" for n, (label, years) in enumerate([("su", 60.0), ("ha", 61.5)])
    ]
    cohort = sg.read_cohort(_write(tmp_path, rows, "subject_id,visit,time,vol_a,vol_b"))
    assert cohort.visit_labels == ("su", "ha")
    np.testing.assert_array_equal(cohort.visits[:, :, 0], [[0, 1]] * 3)
    assert any("order of visits" in note and "times" in note for note in cohort.notes)


def test_a_time_column_comes_before_what_labels_tell(tmp_path: Path) -> None:
    rows = [
        (who, label, years, n, -n) for who in "pqr" for n, (label, years) in enumerate([("bl", 60.0), ("m12", 61.5)])
    ]
    cohort = sg.read_cohort(_write(tmp_path, rows, "subject_id,visit,time,vol_a,vol_b"))
    np.testing.assert_allclose(cohort.gap, 1.5)
    assert not any("labels tell" in note for note in cohort.notes)


def test_numbered_visits_tell_no_time(tmp_path: Path) -> None:
    cohort = sg.read_cohort(_seen(tmp_path, {who: ["V01", "V02"] for who in "pqr"}))
    assert np.isnan(cohort.times).all()
