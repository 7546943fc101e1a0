"""Times of visits: units from names, labels and size, dates in their forms, ties, and age as time and covariate."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import secondgram as sg
from secondgram.cohort.dates import ORDERS, read_dates
from secondgram.cohort.known import Known
from secondgram.cohort.time_names import UNITS, is_age, is_visit_date, unit_of_name

nan = np.nan
Times = Sequence[Sequence[Any]]


def long(times: Times, name: str = "time", labels: Sequence[str] = ("0", "1", "2"), **more: Any) -> pd.DataFrame:
    """A row for each person and visit; a time of None stands for no row. more : columns of a value per person."""
    rows = [
        {"subject_id": f"p{who}", "visit": labels[slot], name: time, "vol_a": 10.0 + who + slot, "vol_b": 3.0 - slot}
        | {column: values[who] for column, values in more.items()}
        for who, mine in enumerate(times)
        for slot, time in enumerate(mine)
        if time is not None
    ]
    return pd.DataFrame(rows)


def wide(times: Times, name: str = "time", labels: Sequence[str] = ("0", "1", "2")) -> pd.DataFrame:
    people = range(len(times))
    table: dict[str, list[Any]] = {"subject_id": [f"p{who}" for who in people]}
    for slot, label in enumerate(labels[: len(times[0])]):
        table |= {f"{name}_{label}": [mine[slot] for mine in times]}
        table |= {f"vol_{part}_{label}": [10.0 + who + slot for who in people] for part in "ab"}
    return pd.DataFrame(table)


def ukb(times: Times, name: str = "53") -> pd.DataFrame:
    people = range(len(times))
    table: dict[str, list[Any]] = {"eid": [f"{1000 + who}" for who in people]}
    for slot in range(len(times[0])):
        table |= {f"{name}-{slot + 2}.0": [mine[slot] for mine in times]}
        table |= {f"2500{part}-{slot + 2}.0": [10.0 + who + slot for who in people] for part in (5, 6)}
    return pd.DataFrame(table)


def said(cohort: sg.Cohort, text: str) -> bool:
    return any(text in note for note in cohort.notes)


def apart(*gaps: float, start: float = 0.0) -> list[list[float]]:
    """People with two visits at such distances."""
    return [[start, start + gap] for gap in gaps]


# -- units ------------------------------------------------------------------------------------------------------------

NAMES = {
    **dict.fromkeys(
        ("days", "age_days", "AgeInDays", "days_since_baseline", "time (days)", "age_d", "agedays"), "days"
    ),
    **dict.fromkeys(("weeks", "age_weeks", "wk_from_entry", "time_w"), "weeks"),
    **dict.fromkeys(
        ("months", "age_months", "age_in_months", "AgeMonths", "Month_bl", "age_mo", "ageinmonths"), "months"
    ),
    **dict.fromkeys(("time_years", "Years_bl", "age_yr", "yrs", "age_y", "AgeYears"), "years"),
    **dict.fromkeys(
        ("time", "age", "M", "d", "MR Delay", "interview_age", "days_per_month", "yesterday", "monday"), None
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_units_in_names(name: str) -> None:
    assert unit_of_name(name) == NAMES[name]


def test_ages_and_dates_of_visits_by_their_names() -> None:
    for name in ("age", "Age", "age_at_scan", "AgeAtVisit", "age_months", "interview_age", "ageatscan", "Age (years)"):
        assert is_age(name), name
    for name in ("age_of_onset", "father_age", "brain_age", "age_at_diagnosis", "average", "stage", "dosage", "image"):
        assert not is_age(name), name
    for name in ("scan_date", "EXAM_DATE", "date", "DateOfScan", "Experiment_Date"):
        assert is_visit_date(name), name
    for name in ("date_of_birth", "diagnosis_date", "update_stamp", "dated"):
        assert not is_visit_date(name), name


# (name, labels, pairs of times, unit, a note or None). Gaps are of two years but for the sixth and seventh.
DECIDED: dict[str, tuple[str, Sequence[str], list[list[float]], str, str | None]] = {
    "years in the name": ("time_years", "01", apart(2, 2.1), "years", None),
    "days in the name": ("days_from_baseline", "01", apart(730, 735), "days", "by its name"),
    "months in the name": ("age_months", "01", apart(24, 25, start=700), "months", "by its name"),
    "weeks in the name": ("time_weeks", "01", apart(104, 105), "weeks", "by its name"),
    "years that nothing says": ("time", "01", apart(2, 2.5), "years", "nothing says its unit"),
    "long steps are asked about": ("time", "01", apart(6, 12), "years", "years if these are months"),
    "infants in years or months": ("age", "01", apart(3, 3, start=6), "years", "nothing says its unit"),
    "months of a label": ("age", ("m06", "m30"), apart(24.3, 24.1, start=6), "months", "by their labels"),
    "days of a label": ("delay_", ("bl", "2_year_follow_up"), apart(731, 720), "days", "by their labels"),
    "weeks of a label": ("time", ("w0", "w104"), apart(104, 105), "weeks", "by their labels"),
    "years of a label": ("age", ("bl", "m24"), apart(2.1, 1.9, start=60), "years", "by their labels"),
    "labels before convention": ("interview_age", ("bl", "m24"), apart(2.1, 1.9, start=10), "years", "by their labels"),
    "months by convention": ("interview_age", "01", apart(25, 24, start=118), "months", "as is usual"),
    "no convention for these numbers": ("interview_age", "01", apart(2.1, 2.2, start=9.8), "years", "nothing says"),
    "delays are days": ("MR Delay", "01", apart(611, 150, 730), "days", "as is usual"),
    "days by magnitude": ("time", "01", apart(611, 730), "days", "years cannot be meant"),
    "ages in days": ("age", "01", apart(700, 731, start=21000), "days", "years cannot be meant"),
    "ages in months": ("age", "01", apart(24, 25, start=720), "months", "years cannot be meant"),
    "dates of a spreadsheet": ("scan_date", "01", apart(731, 700, start=42000), "days", "years cannot be meant"),
    "years of the calendar": ("time", "01", apart(2, 2.25, start=2014), "years", "nothing says its unit"),
}


# A wide table's `w1` is a wave, and its names hold short labels.
WIDE_LABELS = {"m06": "m6", "bl": "m0", "2_year_follow_up": "m24"}
BOTH = [(case, form) for case in DECIDED for form in ("long", "wide") if form == "long" or case != "weeks of a label"]


@pytest.mark.parametrize(("case", "form"), BOTH)
def test_the_unit_is_found_and_told(case: str, form: str) -> None:
    name, labels, times, unit, note = DECIDED[case]
    if form == "wide":
        labels = [WIDE_LABELS.get(label, label) for label in labels]
    table = (long if form == "long" else wide)(times, name, labels)
    cohort = sg.read_cohort(table, time=name, layout=form)
    assert cohort.time_unit == unit, cohort.notes
    np.testing.assert_allclose(cohort.gap, [(later - first) / UNITS[unit] for first, later in times])
    if note is not None:
        assert said(cohort, note), cohort.notes


REFUSED: dict[str, tuple[str, Sequence[str], list[list[float]], str]] = {
    "months or years": ("time", "01", apart(24, 24), "2 years if months, 24 years if years"),
    "days or months": ("time", "01", apart(100, 100), r"0.274 years if days, 8.33 years if months"),
    "infants of a year or adults": ("age", "01", apart(18, 18, start=6), "1.5 years if months, 18 years if years"),
    "nothing fits": ("time", "01", apart(1e6, 1e6), "the unit is not known"),
    "name and labels disagree": (
        "age_months",
        ("bl", "m24"),
        apart(2, 2, start=60),
        "holds months by its name, but years",
    ),
    "years by name that are days": (
        "time_years",
        "01",
        apart(730, 2),
        "row 3: 730.0 in years is 730 years|row 3: '730",
    ),
    "nobody's age": ("age", "01", [[60, 62], [61, 1630], [62, 64]], "'1630' in years is 1569 years after visit 0"),
    "an old person": ("age", "01", [[60, 62], [126, 127], [62, 64]], "126 years, which is nobody's age"),
    "a code": ("age", "01", [[-4, 62], [61, 63], [62, 64]], "'-4' in years is|'62' in years is 66 years"),
    "a young person": ("age", "01", [[-4, 5], [61, 63], [62, 64]], "'-4' in years is -4 years, which is nobody's age"),
    "one date in years": ("time", "01", [[0, 2], [0, 2.5], [0, 9999]], "'9999.0' in years is 9999 years after visit 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_units_that_cannot_be_decided_or_meant_are_refused(case: str, tmp_path: Path) -> None:
    name, labels, times, message = REFUSED[case]
    path = tmp_path / "t.csv"
    long(times, name, labels).to_csv(path, index=False)
    with pytest.raises(sg.InputError, match=message) as raised:
        sg.read_cohort(path, time=name)
    assert str(raised.value.column) == name
    assert "time_unit=" in str(raised.value)
    assert "--time-unit" in str(raised.value)


@pytest.mark.parametrize(
    ("table", "column", "row"),
    [
        (long(apart(2, 99, 2.1), "time_years"), "time_years", 4),
        (wide(apart(2, 99, 2.1), "time_years"), "time_years_1", 2),
        (ukb(apart(2, 99, 2.1, start=50), "21003"), "21003-3.0", 2),
        (ukb([["2014-01-01", "2016-01-01"], ["2014-01-01", "2116-01-01"]]), "53-3.0", 2),
        (pd.DataFrame({"subject_id": ["p", "q"], "a_0": [1, 2], "a_1": [2, 3], "years_1": [2, 99]}), "years_1", 2),
    ],
)
def test_gaps_that_no_study_has_are_refused_with_column_and_row(table: pd.DataFrame, column: str, row: int) -> None:
    named = {"time_years_1": "time_years", "21003-3.0": "21003", "53-3.0": "53", "years_1": "years"}
    with pytest.raises(sg.InputError, match="years after visit") as raised:
        sg.read_cohort(table, time=named.get(column, column))
    assert (raised.value.column, raised.value.row) == (column, row)


@pytest.mark.parametrize("asked", ["days", "weeks", "months", "years", "day", "Months", "yr"])
def test_a_unit_may_be_asked_for(asked: str) -> None:
    unit = {"day": "days", "Months": "months", "yr": "years"}.get(asked, asked)
    step = 2 * UNITS[unit]
    cohort = sg.read_cohort(long(apart(step, step)), time_unit=asked)
    np.testing.assert_allclose(cohort.gap, 2.0)
    assert said(cohort, f"is read in {unit}, as asked")


def test_a_unit_that_is_asked_for_has_to_be_one_and_to_be_used() -> None:
    with pytest.raises(sg.InputError, match="time_unit='fortnights' is unknown"):
        sg.read_cohort(long(apart(2)), time_unit="fortnights")
    with pytest.raises(sg.InputError, match="no time column was found"):
        sg.read_cohort(long(apart(2), "vol_c"), time_unit="days")
    with pytest.raises(sg.InputError, match="120 years after visit 0"):
        sg.read_cohort(long(apart(1440)), time_unit="months")
    with pytest.raises(sg.InputError, match="asks for dates"):
        sg.read_cohort(long(apart(2)), time_unit="dates")
    cohort = sg.read_cohort(long([["2014-01-01", "2016-01-01"]]), time_unit="months")
    assert said(cohort, "time_unit='months' is not used")
    assert said(
        sg.read_cohort(long(apart(24), labels=("bl", "m24")), time_unit="weeks"), "though visit labels tell months"
    )


def test_no_time_may_be_asked_for() -> None:
    table = long(apart(2, 3), "time_years", age=[60, 70])
    assert np.isnan(sg.read_cohort(table, time="").gap).all()
    assert sg.read_cohort(table, time="").columns.get("time") is None


# -- dates ------------------------------------------------------------------------------------------------------------

# Two years and a day; each form in a table of its own.
FORMS: dict[str, list[str]] = {
    "ISO": ["2014-05-31", "2016-06-01"],
    "slashes": ["2014/05/31", "2016/6/1"],
    "compact": ["20140531", "20160601"],
    "German": ["31.05.2014", "01.06.2016"],
    "German, short": ["31.5.14", "1.6.16"],
    "day first": ["31/05/2014", "01/06/2016"],
    "month first": ["05/31/2014", "06/01/2016"],
    "month first, short": ["5/31/14", "6/1/16"],
    "year first, short": ["14/05/31", "16/06/01"],
    "hyphens": ["31-05-2014", "01-06-2016"],
    "names": ["31-May-2014", "01-Jun-2016"],
    "short names": ["31MAY14", "1JUN16"],
    "American": ["May 31, 2014", "June 1, 2016"],
    "words": ["31st May 2014", "1st June 2016"],
    "time of day": ["2014-05-31 08:30:00", "2016-06-01T08:30"],
    "zones": ["2014-05-31T23:30:00+02:00", "2016-06-01T21:30:00Z"],
    "afternoon": ["5/31/2014 2:30:00 PM", "6/1/2016 14:30"],
    "compact with a time": ["20140531103000", "20160601103000"],
    "compact, day first": ["31052014", "01062016"],
    "blanks": [" 2014-05-31", "2016-06-01 "],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["csv", "wide", "ukb"])
def test_dates_are_read_in_every_form(form: str, layout: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    times = [FORMS[form], FORMS[form]]
    table = {"csv": long(times, "scan_date"), "wide": wide(times, "scan_date"), "ukb": ukb(times)}[layout]
    table.to_csv(path, index=False)
    cohort = sg.read_cohort(path, time="53" if layout == "ukb" else "scan_date")
    np.testing.assert_allclose(cohort.gap, 732 / 365.25, rtol=1e-9)
    assert cohort.time_unit in ("dates", *ORDERS)
    assert said(cohort, "dates became years")


@pytest.mark.parametrize(
    ("column", "days"),
    [
        (pa.array([20140531, 20160601]), 732),
        (pa.array([20140531.0, 20160601.0]), 732),
        (pa.array([datetime.date(2014, 5, 31), datetime.date(2016, 6, 1)]), 732),
        (pa.array([datetime.datetime(2014, 5, 31, 12), datetime.datetime(2016, 6, 1, 0)]), 731.5),
        (pa.array([0, 732 * 86400], pa.timestamp("s", "Europe/Berlin")), 732),
        (pa.array([0, 732 * 86400 * 10**9], pa.timestamp("ns")), 732),
        (pa.array([0, 732 * 86400 * 1000], pa.date64()), 732),
        (pa.array([0, 732 * 86400 * 1000], pa.duration("ms")), 732),
        (pa.array(["2014-05-31", "2016-06-01"]).dictionary_encode(), 732),
        (pa.array(["0 days", "732 days"]), 732),
        (pa.array(["0 days 00:00:00", "732 days 12:00:00"]), 732.5),
        (pa.array(["040Y", "042Y"]), 730.5),
        (pa.array(["24 months", "4 yrs"]), 730.5),
        (pa.array(["1 year 6 months", "3.5 years"]), 730.5),
        (pa.array([201405, 201605]), 731),
        (pa.array(["05/2014", "05/2016"]), 731),
        (pa.array(["May-2014", "May-2016"]), 731),
    ],
)
def test_columns_of_other_types_are_times(column: pa.Array, days: float) -> None:
    names = ["subject_id", "visit", "scan_date", "vol"]
    table = pa.table([pa.array(["p", "p"]), pa.array(["0", "1"]), column, pa.array([1.0, 2.0])], names=names)
    np.testing.assert_allclose(sg.read_cohort(table).gap, days / 365.25, rtol=1e-9)


BAD_DATES: dict[str, tuple[list[list[str]], str]] = {
    "no such day": ([["2014-01-01", "2015-04-31"]], "row 3: '2015-04-31' is no time"),
    "no such day, compact": ([["20140101", "20150431"], ["20140102", "20150401"]], "row 3: '20150431' is no time"),
    "no such day, day first": ([["30/01/2014", "31/04/2015"]], r"row 3: '31/04/2015' is no time"),
    "both orders": (
        [["30/01/2014", "05/31/2015"], ["28/01/2014", "04/02/2015"]],
        "row 3: '05/31/2015' is no time among",
    ),
    "either order": ([["03/04/2014", "05/06/2015"]], r"row 2: '03/04/2014' is 2014-04-03 or 2014-03-04.*MM/DD/YYYY"),
    "two forms": ([["2014-01-01", "31/05/2015"]], "row 3: '31/05/2015' is no time among dates of another form"),
    "a word": ([["2014-01-01", "today"], ["2014-01-01", "2015-04-01"]], "row 3: 'today' is no time"),
    "the year alone": ([["2014-01-01", "2015"], ["2014-01-01", "2015-04-01"]], "row 3: '2015' is no time"),
    "the year 1": ([["2014-01-01", "0001-01-01"], ["2014-01-01", "2015-04-01"]], "row 3: 0001-01-01 is before 1900"),
    "the end of time": (
        [["2014-01-01", "9999-12-31"], ["2014-01-01", "2015-04-01"]],
        "row 3: '9999-12-31' is 7985.8 years after",
    ),
    "a scan in the future": (
        [["2014-01-01", "2061-01-01"]] + [["2014-01-01", "2015-04-01"]] * 2,
        "row 3.*in the future",
    ),
    "same day": ([["2014-01-01", "2014-01-01"]], "row 3: subject p0: visit 1 is recorded 0 years"),
    "hours and no date": ([["10:30", "11:30"]], "row 2: '10:30' is no time"),
    "true and false": ([["True", "False"]], "row 2: 'True' is no time"),
}


@pytest.mark.parametrize("case", BAD_DATES)
def test_dates_that_cannot_be_are_refused_by_row(case: str, tmp_path: Path) -> None:
    times, message = BAD_DATES[case]
    path = tmp_path / "t.csv"
    long(times, "scan_date").to_csv(path, index=False)
    with pytest.raises(sg.InputError, match=message) as raised:
        sg.read_cohort(path)
    assert str(raised.value.column) == "scan_date"


def test_the_order_of_dates_may_be_asked_for_and_days_that_are_months_do_not_matter() -> None:
    table = long([["03/04/2014", "05/06/2015"]], "scan_date")
    for order, first, later in (("DD/MM/YYYY", (4, 3), (6, 5)), ("mm/dd/yyyy", (3, 4), (5, 6))):
        cohort = sg.read_cohort(table, time_unit=order)
        days = (datetime.date(2015, *later) - datetime.date(2014, *first)).days
        np.testing.assert_allclose(cohort.gap, days / 365.25)
        assert cohort.time_unit == order.upper()
    cohort = sg.read_cohort(long([["03/03/2014", "05/05/2015"]], "scan_date"))
    np.testing.assert_allclose(cohort.gap, 428 / 365.25)
    # Days above 12 in any column of a wide table decide for all.
    cohort = sg.read_cohort(wide([["03/04/2014", "05/06/2015"], ["03/04/2014", "25/06/2015"]], "scan_date"))
    np.testing.assert_allclose(cohort.gap, np.array([428, 448]) / 365.25, atol=1e-9)


def test_dates_that_were_moved_to_hide_them_keep_their_distances() -> None:
    for year in (1877, 2150):
        cohort = sg.read_cohort(long([[f"{year}-06-15", f"{year + 2}-06-15"]] * 3, "acq_time"))
        np.testing.assert_allclose(cohort.gap, 730 / 365.25, atol=2 / 365.25)
        assert said(cohort, "before 1900" if year < 1900 else "in the future")


def test_a_planned_visit_may_lie_in_the_future() -> None:
    table = long([["2024-01-01", "2061-01-01"]] + [["2014-01-01", "2015-04-01"]] * 3, "scan_date")
    table.loc[1, ["vol_a", "vol_b"]] = nan
    assert sg.read_cohort(table).gap[0] == pytest.approx(37, abs=0.01)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.dates(datetime.date(1970, 1, 1), datetime.date(2025, 12, 31)), min_size=1, max_size=6),
    st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%b-%Y", "%Y%m%d", "%m/%d/%y", "%b %d, %Y"]),
)
def test_dates_are_read_as_they_were_written_or_said_to_be_doubtful(days: list[datetime.date], form: str) -> None:
    found = read_dates([day.strftime(form) for day in days])
    meant = np.array([(day - datetime.date(1970, 1, 1)).days for day in days], dtype=float)
    assert found.other is not None or np.array_equal(found.days, meant)
    if "/" in form:
        order = {"%d/%m": ORDERS[0], "%m/%d": ORDERS[1]}[form[:5]]
        np.testing.assert_array_equal(read_dates([day.strftime(form) for day in days], order).days, meant)


# -- ties -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Age", "age_years", "interview_age"])
def test_two_visits_at_one_whole_age_have_an_unknown_gap(name: str) -> None:
    step = 24 if name == "interview_age" else 2
    start = 900 if name == "interview_age" else 75
    times = [[start, start, start + step], [start, start + step, start + step], [start, start + step, start + 2 * step]]
    cohort = sg.read_cohort(long(times, name), time=name)
    assert cohort.visit_labels == ("0", "1", "2")
    np.testing.assert_array_equal(cohort.gap, [nan, 2, 2])
    np.testing.assert_array_equal(cohort.with_target(2).gap, [2, nan, 4])
    assert said(cohort, f"2 people have two visits at the same {name!r}")
    # Whoever is read alone, too.
    alone = sg.read_cohort(long(times[:1], name), time=name, time_unit=cohort.time_unit)
    np.testing.assert_array_equal(alone.gap, [nan])


def test_whole_ages_of_uk_biobank_tie_too() -> None:
    for named in (None, "21003"):
        cohort = sg.read_cohort(ukb([[60, 62], [61, 61], [70, 71]], "21003"), time=named)
        np.testing.assert_array_equal(cohort.gap, [2, nan, 1])
        np.testing.assert_array_equal(cohort.covariate_table["21003"], [60, 61, 70])


def test_calendar_years_and_months_tie_too() -> None:
    cohort = sg.read_cohort(long([[2014, 2014], [2014, 2016]]))
    np.testing.assert_array_equal(cohort.gap, [nan, 2])
    cohort = sg.read_cohort(long([["2014-05", "2014-05"], ["2014-05", "2016-05"]]))
    np.testing.assert_allclose(cohort.gap, [nan, 731 / 365.25])


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("time_years", [[0, 0], [0, 2]]),
        ("age", [[75.5, 75.5], [75.5, 77.5]]),
        ("age", [[75, 75], [75.5, 77.5]]),
        ("age_days", [[9000, 9000], [9000, 9700]]),
        ("time_years", [[0, -2], [0, 2], [0, 2], [0, 2]]),
    ],
)
def test_exact_repeats_and_times_that_go_back_are_refused(name: str, times: Times) -> None:
    with pytest.raises(sg.InputError, match="years after visit 0"):
        sg.read_cohort(long(times, name), time=name)


def test_rows_without_visits_keep_their_order_where_whole_ages_tie() -> None:
    table = long([[75, 75], [70, 72]], "age").drop(columns="visit")
    cohort = sg.read_cohort(table, time="age")
    np.testing.assert_array_equal(cohort.visits[0, :, 0], table["vol_a"][:2])
    np.testing.assert_array_equal(cohort.gap, [nan, 2])


# -- age as time and as covariate -------------------------------------------------------------------------------------

AGES: Times = [[60.5, 62.5], [70.0, 73.5], [55.0, None]]


@pytest.mark.parametrize("static", [None, ["age"], ["sex", "age"], ["sex"], []])
def test_age_may_be_time_and_covariate(static: list[str] | None) -> None:
    cohort = sg.read_cohort(long(AGES, "age", sex=list("FMF")), time="age", static=static)
    np.testing.assert_array_equal(cohort.gap, [2, 3.5, nan])
    both = static is None or "age" in static
    assert ("age" in cohort.covariate_table) == both
    if both:
        np.testing.assert_array_equal(cohort.covariate_table["age"], [60.5, 70, 55])
        assert said(cohort, "is the time, and at the first visit a covariate")
    elif static:
        assert said(cohort, "is the time and no covariate")


@pytest.mark.parametrize("table", [long(AGES, "age"), wide([[60.5, 62.5], [70, 73.5]], "age"), ukb(AGES[:2], "21003")])
def test_an_age_that_changes_is_the_time_where_there_is_no_other(table: pd.DataFrame) -> None:
    cohort = sg.read_cohort(table)
    name = "21003" if "eid" in table else "age"
    np.testing.assert_array_equal(cohort.gap[:2], [2, 3.5])
    np.testing.assert_array_equal(cohort.covariate_table[name][:2], [60.5, 70])
    assert cohort.columns["time"] == name
    assert said(cohort, f"years between visits are those of '{name}', the only time")
    assert np.isnan(sg.read_cohort(table, time="").gap).all()


def test_an_age_is_not_the_time_where_something_else_is_or_where_it_is_of_one_visit() -> None:
    cohort = sg.read_cohort(long(AGES, "age", time_years=[0, 0, 0]).assign(time_years=[0, 1.0, 0, 1.5, 0]))
    np.testing.assert_array_equal(cohort.gap[:2], [1, 1.5])
    labelled = sg.read_cohort(long(AGES, "age", labels=("bl", "m24")))
    np.testing.assert_array_equal(labelled.gap[:2], 2)
    at_entry = sg.read_cohort(long([[60, 60], [70, 70], [50, None]], "age"))
    assert np.isnan(at_entry.gap).all()
    assert not said(at_entry, "age' changes")


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ([[60, 62], [70, 69], [50, 51]], "does not rise to visit 1"),
        ([[60.5, 62], [70.5, 70.5], [50, 51]], "does not rise to visit 1"),
        ([[6, 24], [7, 25]], "the unit is not known"),
        ([[60, 62], [70, 172], [50, 51]], "102 years after visit 0"),
    ],
)
def test_an_age_that_cannot_be_the_time_is_left_with_a_note(times: Times, why: str) -> None:
    cohort = sg.read_cohort(long(times, "age"))
    assert np.isnan(cohort.gap).all()
    assert said(cohort, "'age' changes within people and is not taken as the time")
    assert said(cohort, why)
    assert list(cohort.covariate_table) == ["age"]


def test_ages_put_visits_in_order_whose_labels_do_not() -> None:
    cohort = sg.read_cohort(long([[62, 60], [73, 70]], "age", labels=("alpha", "beta")))
    assert cohort.visit_labels == ("beta", "alpha")
    np.testing.assert_array_equal(cohort.gap, [2, 3])
    with pytest.raises(sg.InputError, match="order of the visits is not told by their labels"):
        sg.read_cohort(long([[62, 60], [73, 75]], "age", labels=("alpha", "beta")))


@pytest.mark.parametrize("form", [long, wide])
def test_waves_are_no_weeks_and_weeks_are(form: Any) -> None:
    for labels, gap in ((("w1", "w2", "w3"), nan), (("w0", "w26", "w52"), 26 * 7 / 365.25)):
        table = form([[0, 0, 0]] * 2, "vol_c", labels)
        np.testing.assert_allclose(sg.read_cohort(table).gap, gap)
    cohort = sg.read_cohort(form([[60, 62], [70, 73]], "age", ("w1", "w2")))
    np.testing.assert_array_equal(cohort.gap, [2, 3])


def test_an_age_in_text_is_the_time_and_no_category_of_its_own() -> None:
    cohort = sg.read_cohort(long([["060Y", "062Y"], ["061Y", "061Y"]], "age"), time="age")
    np.testing.assert_array_equal(cohort.gap, [2, nan])
    assert cohort.covariates == ()
    assert said(cohort, "is the time and, as text, no covariate")
    assert not said(cohort, "at the first visit a covariate")


def test_labels_of_wide_tables_tell_years_too() -> None:
    cohort = sg.read_cohort(wide([[1, 2], [3, 4]], "vol_c", ("m0", "m24")))
    np.testing.assert_array_equal(cohort.gap, 2)
    assert np.isnan(sg.read_cohort(wide([[1, 2], [3, 4]], "vol_c", ("v1", "v2"))).gap).all()


def test_a_time_that_is_the_same_at_every_visit_is_none() -> None:
    table = long([[60, 60]] * 6, "time_years")
    cohort = sg.read_cohort(table)
    assert np.isnan(cohort.gap).all()
    assert said(cohort, "the same at every visit of each person")
    with pytest.raises(sg.InputError, match="so it is no time of visits"):
        sg.read_cohort(table, time="time_years")


# -- as in training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start", "per_year", "asked", "unit"),
    [
        ("age", 720.0, 12.0, None, "months"),
        ("time", 0.0, 12.0, "months", "months"),
        ("time", 0.0, 365.25, None, "days"),
    ],
)
def test_a_part_is_read_in_the_unit_of_training(
    name: str, start: float, per_year: float, asked: str | None, unit: str
) -> None:
    whole = sg.read_cohort(long(apart(2 * per_year, 2.5 * per_year, start=start), name), time=name, time_unit=asked)
    assert whole.time_unit == unit
    model = Known(whole.features, {}, whole.visit_labels, columns=whole.columns, time_unit=whole.time_unit)
    # So many months alone could be years.
    part = long(apart(per_year * 5 / 6, start=start), name)
    read = sg.read_cohort(part, like=model)
    np.testing.assert_allclose(read.gap, 5 / 6)
    assert said(read, f"is read in {unit}, as in training")
    # Another column is another unit.
    renamed = long(apart(1.0), "time_years")
    assert sg.read_cohort(renamed, like=model, time="time_years").gap[0] == 1.0
    # Where labels say otherwise, somebody has to decide.
    years = long(apart(2.0, start=start), name, labels=("bl", "m24"))
    with pytest.raises(sg.InputError, match=f"holds {unit} as in training, but years"):
        sg.read_cohort(years, like=model, visits=["bl", "m24"])


def test_dates_of_a_part_have_the_order_of_training() -> None:
    whole = sg.read_cohort(long([["31/05/2014", "05/06/2015"]], "when"), time="when")
    assert whole.time_unit == "DD/MM/YYYY"
    part = long([["03/04/2014", "05/06/2015"]], "when")
    model = Known(whole.features, {}, whole.visit_labels, columns=whole.columns, time_unit=whole.time_unit)
    np.testing.assert_allclose(sg.read_cohort(part, like=model).gap, 428 / 365.25)
    with pytest.raises(sg.InputError, match="2014-04-03 or 2014-03-04"):
        sg.read_cohort(part, time="when")


def test_age_is_no_time_of_a_model_that_knows_none() -> None:
    table = long(AGES[:2], "age")
    for columns, gap in (({"id": "subject_id"}, nan), ({"id": "subject_id", "time": "age"}, 2.0)):
        cohort = sg.read_cohort(table, like=Known(("vol_a",), {"age": None}, ("0", "1"), columns=columns))
        np.testing.assert_array_equal(cohort.gap[0], gap)


def test_labels_of_each_persons_own_are_numbered_in_a_table_to_be_imputed() -> None:
    days = [(f"d{17 * who:04d}", f"d{18 * who + 700:04d}") for who in range(8)]
    rows = [(f"p{who}", label, who + slot, 1.0) for who, mine in enumerate(days) for slot, label in enumerate(mine)]
    table = pd.DataFrame(rows, columns=["subject_id", "visit", "vol_a", "vol_b"])
    whole = sg.read_cohort(table)
    model = Known(whole.features, {}, whole.visit_labels, columns=whole.columns)
    np.testing.assert_array_equal(sg.read_cohort(table, like=model).gap, whole.gap)
    one = sg.read_cohort(table[table["subject_id"] == "p7"], like=model)
    np.testing.assert_allclose(one.gap, 707 / 365.25)


def test_the_command_takes_a_unit(tmp_path: Path, cli: Any) -> None:
    long(apart(24, 30), "when").to_csv(tmp_path / "t.csv", index=False)
    words = ("--out", tmp_path / "model", "--time", "when")
    refused = cli("fit", tmp_path / "t.csv", *words)
    assert refused.code == 2
    assert "--time-unit" in refused.err
    # Two people are too few for a model, and the table was read before.
    assert "'when' is read in months, as asked" in cli("fit", tmp_path / "t.csv", *words, "--time-unit", "months").err


# -- whatever the unit, the name and the layout -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(list(UNITS)),
    name=st.sampled_from(["time", "age", "delay", "when", "interview_age", "{}", "age_{}", "{}_since_baseline"]),
    labels=st.sampled_from([("0", "1"), ("bl", "m24"), ("year0", "year2"), ("v1", "v2")]),
    layout=st.sampled_from(["long", "wide"]),
    steps=st.lists(st.floats(1.5, 2.7), min_size=1, max_size=8),
    start=st.sampled_from([0.0, 0.5, 9.0, 45.0, 70.0]),
    whole=st.booleans(),
)
def test_gaps_are_right_or_the_assumption_is_told(
    unit: str, name: str, labels: Sequence[str], layout: str, steps: list[float], start: float, whole: bool
) -> None:
    name = name.format(unit)
    times = [[UNITS[unit] * start, UNITS[unit] * (start + step)] for step in steps]
    times = [[round(time, None if whole else 3) for time in mine] for mine in times]
    if layout == "wide":
        labels = {"bl": ("m0", "m24"), "year0": ("m0", "m24"), "v1": ("v1", "v2")}.get(labels[0], labels)
    table = (long if layout == "long" else wide)(times, name, labels)
    try:
        cohort = sg.read_cohort(table, time=name, layout=layout)
    except sg.InputError as error:
        refusal = str(error)
        event("refused")
    else:
        refusal = ""
    assert not refusal or (f"column '{name}" in refusal and "time_unit=" in refusal)
    if refusal:
        return
    meant = np.array([(later - first) / UNITS[unit] for first, later in times])
    right = np.allclose(cohort.gap, np.where(meant > 0, meant, nan), equal_nan=True)
    event("right" if right else "an assumption is told")
    assumed = ("nothing says its unit", "years cannot be meant", "as is usual for this name")
    assert right or any(said(cohort, words) for words in assumed), cohort.notes
