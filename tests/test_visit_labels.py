"""What visit labels say: their order, which of them are one visit, and which cannot be told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondgram.cohort.visit_labels import VisitLabel, one_visit, order_visits, undecided

# Labels as they are written in tables, earliest first; visits are told apart by `|`.
IN_ORDER = """
baseline_year_1_arm_1 | 1_year_follow_up_y_arm_1 | 2_year_follow_up_y_arm_1 | 4_year_follow_up_y_arm_1
baseline_year_1_arm_1 | 6_month_follow_up_arm_1 | 18_month_follow_up_arm_1 | 30_month_follow_up_arm_1
screener_arm_1 | baseline_year_1_arm_1 | 10_year_follow_up_y_arm_1
ses-baselineYear1Arm1 | ses-2YearFollowUpYArm1 | ses-4YearFollowUpYArm1
ses-00A | ses-02A | ses-04A | ses-10A
sc | bl | m03 | m06 | m12 | m120
sc | init | bl | y1 | y2 | y10
bl | m06 | m12 | m18 | m120
m0 | m06 | m12
M00 | M06 | M100
SC | BL | V01 | V02 | V04 | V12
BL | FU1 | FU2 | FU10
Bas | V1 | V2
BSL | FU
ses-predrug | ses-postdrug | ses-followup
ses-preop | ses-postop
pretreatment | posttreatment
pre | post
pre1 | pre2 | post1 | post2
pre_run-1 | post_run-1
before | during | after
ses-screening | ses-baseline | ses-followup
ses-baseline | ses-followup
ses-M000 | ses-M018 | ses-M036 | ses-M120
ses-neonatal | ses-06mo | ses-12mo
birth | 6 weeks | 6 months | 1 year
baseline_arm_1 | 6_months_arm_1 | 1_year_arm_1 | 2_years_arm_1
baseline_arm_1 | month_6_arm_1 | month_18_arm_1 | year_2_arm_1
enrolment_arm_1 | visit_1_arm_1 | visit_2_arm_1
SCREENING 1 | SCREENING 2 | BASELINE | WEEK 2 | WEEK 12 | WEEK 104
Screening | Day 1 | Week 12 | EOT
Week -4 | Week 0 | Week 24
Baseline | Week 4 | Month 3 | Year 1
Baseline | 6 months | 12 months | 24 months
Baseline | 6 months | 1 year | 2 years
Baseline | Year 1 | Year 2 | Year 10
baseline | month6 | year1 | year1.5
baseline | 1yr | 2yrs | 10yrs
baseline | 0.5 years | 1.5 years
0 months | 6 months | 12 months | 120 months
year 0 | year 2 | year 10
y0 | y2 | y10
Year1 | Year2 | Year11
T0 | T1 | T2 | T10
t1 | t2 | t12
TP1 | TP2 | TP10
Time 1 | Time 2
timepoint_1 | timepoint_2
wave1 | wave2 | wave10
W1 | W2 | W3
Visit 1 | Visit 2 | Visit 10
v00 | v01 | v09
visit01 | visit02
ses-1 | ses-2 | ses-10
ses-01 | ses-02 | ses-10
session1 | session2
scan1 | scan2
mri1 | mri2
1 | 2 | 10
0 | 1 | 2
2.0 | 3.0
-1 | 0 | 12
1a | 1b | 2a
first | second | third
Visit one | Visit two | Visit three
entry | exit
intake | 3 months | discharge
admission | discharge
test | retest
acute | subacute | chronic
baseline | final
baseline | interim | end of treatment
baseline | visit 2 | end of study
visit 1 (baseline) | visit 2 (6 months) | visit 3 (1 year)
visit 1 month 6 | visit 2
ses-20160101 | ses-20180431 | ses-20190101
2014-05-31 | 2016-01-02
OAS30001_MR_d0129 | OAS30001_MR_d1757
d0000 | d0129 | d0757
d129 | d1757
day 1 | day 29 | day 365
A1 | A2 | A10
"""
SETS = [[label.strip() for label in line.split("|")] for line in IN_ORDER.strip().splitlines()]


@pytest.mark.parametrize("labels", SETS, ids=[" ".join(labels) for labels in SETS])
def test_labels_are_put_in_the_order_of_their_visits(labels: list[str]) -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(labels, len(labels))
        assert order_visits(shuffled) == labels
        assert not undecided(shuffled)


def test_there_are_sets_of_labels_enough() -> None:
    assert len({tuple(labels) for labels in SETS}) == len(SETS) >= 60


@pytest.mark.parametrize(
    ("labels", "doubtful"),
    [
        (["alpha", "beta"], {"alpha", "beta"}),
        (["BL", "V01", "UNS1"], {"UNS1"}),
        (["bl", "m06", "unscheduled"], {"unscheduled"}),
        (["visit 1", "month 6"], {"visit 1", "month 6"}),
        (["2014-05-31", "month 6"], {"2014-05-31", "month 6"}),
        (["ses-preop", "ses-postop", "ses-6mo"], {"ses-postop"}),
        (["BL", "FU", "FU2"], {"FU"}),
        (["red", "green", "blue"], {"red", "green", "blue"}),
        (["baseline", "lockdown", "summer"], {"lockdown", "summer"}),
        # Beside a baseline alone, whatever it is called is the other one.
        (["bl", "scanA"], set()),
        (["baseline", "lockdown"], set()),
        (["only"], set()),
        ([], set()),
    ],
)
def test_what_labels_do_not_tell_is_said(labels: list[str], doubtful: set[str]) -> None:
    assert set(undecided(labels)) == doubtful


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["bl", "m0", "m06"], [["bl", "m0"]]),
        (["m06", "bl", "sc", "m12"], [["sc", "bl"]]),
        (["bl", "m12", "year1", "y2", "24 months"], [["m12", "year1"], ["24 months", "y2"]]),
        (["Week -4", "Week 0", "Week 4"], []),
        (["v1", "v2"], []),
        (["2014-05-31", "20140531"], []),
    ],
)
def test_labels_that_mean_one_visit_are_found(labels: list[str], groups: list[list[str]]) -> None:
    assert sorted(map(sorted, one_visit(labels))) == sorted(map(sorted, groups))


@pytest.mark.parametrize(
    ("label", "years"),
    [
        ("d0129", 129 / 365.25),
        ("ses-M018", 1.5),
        ("2_year_follow_up_y_arm_1", 2.0),
        ("year 2 month 6", 2.5),
        ("2 years 6 months", 2.5),
        ("visit 1 month 6", 0.5),
        ("Week 52", 52 * 7 / 365.25),
        ("bl", 0.0),
        ("m0", 0.0),
        ("Week -4", -4 * 7 / 365.25),
        ("V04", None),
        ("post", None),
        ("baseline 2", None),
    ],
)
def test_years_are_read_where_a_label_has_a_unit(label: str, years: float | None) -> None:
    assert VisitLabel.of(label).years == (None if years is None else pytest.approx(years))


def test_dates_are_a_day_on_the_calendar() -> None:
    one, other = (VisitLabel.of(label).years for label in ("ses-20160101", "2017-01-01"))
    assert one is not None
    assert other is not None
    assert other - one == pytest.approx(366 / 365.25)
    assert VisitLabel.of("20161399").day is None


@given(st.lists(st.text(max_size=12), max_size=8, unique=True))
def test_any_text_has_a_place_that_does_not_depend_on_the_order_it_came_in(labels: list[str]) -> None:
    found = order_visits(labels)
    assert sorted(found) == sorted(labels)
    assert order_visits(labels[::-1]) == found
    assert set(undecided(labels)) == set(undecided(labels[::-1])) <= set(labels)
