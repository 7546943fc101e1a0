"""Reading and writing tables of visits: layouts, roles, exactness, and what is said about bad input."""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings

from secondgram.cohort.formats import read_cohort
from secondgram.cohort.table import Cohort
from secondgram.cohort.visit_labels import order_visits
from secondgram.cohort.writing import write_cohort
from secondgram.errors import InputError
from secondgram.testing import cohorts

LONG = "subject_id,visit,time_years,sex,vol_a,vol_b\n0012,0,0,F,1.5,2\n0012,1,2.5,F,1.25,\n7,0,0,M,3,NA\n"
DATA = Path(os.environ.get("SECONDGRAM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file and return its path."""

    def make(content: str | bytes, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def said(cohort: Cohort, text: str) -> bool:
    return any(text in note for note in cohort.notes)


def same(first: Cohort, second: Cohort) -> None:
    """Two cohorts hold the same people and values; the type of the visits may differ."""
    assert first.ids.tolist() == second.ids.tolist()
    assert first.features == second.features
    assert first.visit_labels == second.visit_labels
    np.testing.assert_array_equal(first.visits, second.visits)
    np.testing.assert_array_equal(first.times, second.times)
    for name in ("covariate_table", "outcomes"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    for name in ("groups", "site"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None and two is None) or one.tolist() == two.tolist()


# -- formats ------------------------------------------------------------------------


def test_long_csv(write):
    cohort = read_cohort(write(LONG))
    assert cohort.ids.tolist() == ["0012", "7"]
    assert cohort.features == ("vol_a", "vol_b")
    assert cohort.visit_labels == ("0", "1")
    assert cohort.visits.dtype == np.float64
    nan = np.nan
    np.testing.assert_array_equal(cohort.visits, [[[1.5, 2], [1.25, nan]], [[3, nan], [nan, nan]]])
    np.testing.assert_array_equal(cohort.times, [[0, 2.5], [0, nan]])
    assert cohort.covariates == ("sex=F", "sex=M")
    assert str(cohort.source).endswith("table.csv")
    for text in ("layout: long (column 'visit' found)", "id column: 'subject_id'", "2 numeric columns", "sex"):
        assert said(cohort, text)


@pytest.mark.parametrize(
    "name", ["t.tsv", "t.csv.gz", "t.tsv.gz", "t.txt", "t.parquet", "t.feather", "pandas", "arrow"]
)
def test_every_format_gives_the_same(write, tmp_path, name):
    expected = read_cohort(write(LONG))
    frame = pd.read_csv(write(LONG), dtype={"subject_id": str})
    source: object = tmp_path / name
    text = LONG.replace(",", "\t") if "tsv" in name else LONG.replace(",", ";") if "txt" in name else LONG
    if name == "pandas":
        source = frame
    elif name == "arrow":
        source = pa.Table.from_pandas(frame)
    elif name == "t.parquet":
        frame.to_parquet(source)
    elif name == "t.feather":
        frame.to_feather(source)
    else:
        write(gzip.compress(text.encode()) if name.endswith("gz") else text, name)
    same(read_cohort(source), expected)


def test_float32_stays_float32_only_where_every_column_is():
    frame = pd.DataFrame({"id": [1, 1], "visit": [0, 1], "x": [0.1, 0.2], "y": [1, 2]})
    frame = frame.astype({"x": np.float32, "y": np.float32})
    assert read_cohort(frame).visits.dtype == np.float32
    assert read_cohort(frame.astype({"y": float})).visits.dtype == np.float64


def test_ids_and_labels_are_text_as_written(write):
    assert read_cohort(write("id,visit,x\n01,01,1\n1,01,2\n1.0,2.0,3\n")).ids.tolist() == ["01", "1", "1.0"]
    frame = pd.DataFrame({"id": [12.0, 13.0], "visit": [2.0, 3.0], "x": [1.0, 2.0]})
    cohort = read_cohort(frame)
    assert cohort.ids.tolist() == ["12", "13"]
    assert cohort.visit_labels == ("2", "3")
    assert read_cohort(frame.astype({"id": "int64"})).ids.tolist() == ["12", "13"]
    mixed = frame.assign(id=pd.Series([1, "b"], dtype=object))
    assert read_cohort(mixed).ids.tolist() == ["1", "b"]
    assert read_cohort(frame.assign(id=["p", "q"]).set_index("id")).ids.tolist() == ["p", "q"]


def test_missing_words(write):
    words = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "."]
    rows = "".join(f"{place},0,{word},1\n" for place, word in enumerate(words))
    cohort = read_cohort(write("id,visit,x,y\n" + rows), features=["x", "y"])
    assert np.isnan(cohort.baseline[:, 0]).all()
    assert said(cohort, "no value at any visit: x")
    quoted = read_cohort(write('"id","visit","x","y"\n"1","0","","2"\n"2","0"," 3 ","2"\n'))
    np.testing.assert_array_equal(quoted.baseline, [[np.nan, 2], [3, 2]])


def test_byte_order_mark_blank_lines_and_quoted_breaks(write):
    cohort = read_cohort(write('\ufeffid,visit,x,comment\r\n1,0,1,"a\r\nb"\r\n\r\n2,0,2,c\r\n'))
    assert cohort.ids.tolist() == ["1", "2"]
    assert said(cohort, "left out: comment (text)")


def test_wide_tables_of_many_columns(write):
    names = [f"f{place}" for place in range(10_000)]
    text = "id,visit," + ",".join(names) + "\n"
    text += "\n".join(f"a,{visit}," + ",".join(str(place + visit) for place in range(10_000)) for visit in (0, 1))
    cohort = read_cohort(write(text))
    assert len(cohort.features) == 10_000
    assert cohort.followup[0, 9_999] == 10_000


# -- layouts ------------------------------------------------------------------------


def test_bids(write):
    text = "participant_id\tsession_id\tage\tsex\tlh\trh\n"
    text += "sub-01\tses-10\t63\tM\t3\tn/a\nsub-01\tses-2\t60\tM\t1\t2\nsub-02\tses-2\t50\tF\t5\t6\n"
    cohort = read_cohort(write(text, "t.tsv"), time="age")
    assert cohort.visit_labels == ("ses-2", "ses-10")
    assert cohort.gap[0] == 3
    assert cohort.features == ("lh", "rh")
    assert cohort.covariate_table["sex"].tolist() == ["M", "F"]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ("_2", "_3", ("2", "3")),
        (".0", ".1", ("0", "1")),
        ("_bl", "_fu", ("bl", "fu")),
        ("_v1", "_v2", ("v1", "v2")),
        ("_t0", "_t1", ("t0", "t1")),
        ("_ses-1", "_ses-2", ("ses-1", "ses-2")),
        ("_bl", "_m12", ("bl", "m12")),
    ],
)
def test_wide(write, first, second, labels):
    heads = ["subject", "sex", "score_10"]
    heads += [f"{base}{end}" for end in (second, first) for base in ("lh_x_1", "lh_y_2", "years")]
    cohort = read_cohort(write(",".join(heads) + "\np1,F,5,3,4,7.5,1,2,5\np2,M,6,,,,8,9,1\n"))
    assert cohort.visit_labels == labels
    assert cohort.features == ("lh_x_1", "lh_y_2")
    np.testing.assert_array_equal(cohort.visits[0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(cohort.gap, [2.5, np.nan])
    assert said(cohort, "left out: score_10 (no visit in the name)")


def test_wide_features_by_pattern_and_covariates_at_the_first_visit(write):
    text = "id,a_0,a_1,b_0,b_1,age_0,age_1,years\np,1,2,3,4,60,64,4\nq,5,,6,,,51,\n"
    cohort = read_cohort(write(text), features="a*", static=["age"], time="years")
    assert cohort.features == ("a",)
    assert cohort.covariate_table["age"].tolist() == [60, 51]
    np.testing.assert_array_equal(cohort.times, [[0, 4], [0, np.nan]])
    assert read_cohort(write(text), features=["b_1"], static=["age_1"], time="years").features == ("b",)
    assert read_cohort(write(text), static=["age_1"], time="years").covariates == ("age_1",)


def test_cross_sectional_names_with_numbers_are_no_visits(write):
    names = ",".join(f"x_{place:02}" for place in range(90))
    with pytest.raises(InputError, match="layout cannot be determined"):
        read_cohort(write(f"id,{names}\n1" + ",1" * 90 + "\n"))
    cohort = read_cohort(write(f"id,{names}\n1" + ",1" * 90 + "\n"), layout="long")
    assert (len(cohort.features), cohort.visit_labels) == (90, ("0",))
    assert np.isnan(cohort.followup).all()


@pytest.mark.parametrize(
    "pattern", ["{0}-{1}.0", "f.{0}.{1}.0", "X{0}.{1}.0", "volume_f{0}_{1}_0", "p{0}_i{1}", "participant.p{0}_i{1}_a0"]
)
def test_ukb(write, pattern):
    def name(field: int, instance: int) -> str:
        return pattern.format(field, instance)

    heads = ["eid", name(31, 0), name(21003, 0), name(21003, 2), name(54, 2), name(53, 0), name(53, 2), name(53, 3)]
    heads += [name(field, instance) for field in (25005, 25006) for instance in (2, 3)] + [name(4080, 0)]
    rows = ["1000001,1,50,60,11025,2006-01-01,2014-01-01,2016-01-01,5,6,7,8,120"]
    rows += ["1000002,0,44,,11027,2007-01-01,2015-06-01,,1,,2,,130", "1000003,0,55,,,2008-01-01,,,,,,,110"]
    cohort = read_cohort(write("\n".join([",".join(heads), *rows]) + "\n"))
    assert cohort.ids.tolist() == ["1000001", "1000002"]
    assert cohort.features == ("25005", "25006")
    assert cohort.visit_labels == ("2", "3")
    np.testing.assert_array_equal(cohort.visits[0], [[5, 7], [6, 8]])
    np.testing.assert_allclose(cohort.times[0], [0, 730 / 365.25])
    assert cohort.covariate_table.to_dict("list") == {"31": [1, 0], "21003": [60, 44]}
    assert np.asarray(cohort.site).tolist() == ["11025", "11027"]
    assert said(cohort, "1 people have no measured feature")
    assert said(cohort, "4080 (not measured at an imaging visit)")


def test_ukb_instances_before_imaging_are_no_baseline_and_arrays_are_features():
    frame = pd.DataFrame({"eid": [1, 2], "20-0.0": [9.0, 9], "20-2.0": [1.0, 2], "20-3.0": [3.0, 4], "31-0.0": [0, 1]})
    frame = frame.assign(**{"25-2.0": [1.0, 2], "25-2.1": [5.0, 6], "25-3.0": [2.0, 3], "25-3.1": [7.0, 8]})
    cohort = read_cohort(frame)
    assert cohort.features == ("20", "25.0", "25.1")
    assert cohort.visit_labels == ("2", "3")
    np.testing.assert_array_equal(cohort.baseline, [[1, 1, 5], [2, 2, 6]])
    assert read_cohort(frame, features=["20-2.0"], static=["25"]).features == ("20",)
    early = read_cohort(frame[["eid", "20-0.0"]].assign(**{"20-1.0": [1.0, 2]}))
    assert early.visit_labels == ("0", "1")


def test_suffixed_names_in_a_ukb_table():
    frame = pd.DataFrame({"eid": [1], "thalamus_2": [1.0], "thalamus_3": [2.0], "p31": [1]})
    cohort = read_cohort(frame, layout="ukb")
    assert (cohort.features, cohort.covariates) == (("thalamus",), ("31",))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["ses-10", "ses-2"], ["ses-2", "ses-10"]),
        (["followup", "baseline"], ["baseline", "followup"]),
        (["fu2", "fu1", "bl"], ["bl", "fu1", "fu2"]),
        (["m12", "m06", "bl"], ["bl", "m06", "m12"]),
        (["b", "a"], ["a", "b"]),
        (["1.5", "-1"], ["-1", "1.5"]),
    ],
)
def test_order_of_visits(given, expected):
    assert order_visits(given) == expected


def test_times_overrule_labels(write):
    text = "id,visit,time,x\na,alpha,3,2\na,beta,0,1\nb,alpha,2,2\nb,beta,0,1\n"
    cohort = read_cohort(write(text))
    assert cohort.visit_labels == ("beta", "alpha")
    assert (cohort.followup == 2).all()
    assert said(cohort, "ordered by their median time")


def test_people_who_return_do_not_change_the_order(write):
    # The late visits of the few who have them are early compared with the first visits of the others.
    text = "id,visit,age,x\na,0,70,1\na,1,74,1\nb,0,75,1\nb,1,79,2\nc,0,50,1\nc,1,51,2\nc,2,52,3\n"
    assert read_cohort(write(text), time="age").visit_labels == ("0", "1", "2")


def test_visits_numbered_by_time(write):
    cohort = read_cohort(write("id,scan_date,x\na,2016-01-01,2\na,2014-01-01,1\nb,2015-01-01,3\n"))
    assert cohort.visit_labels == ("0", "1")
    np.testing.assert_array_equal(cohort.visits[:, :, 0], [[1, 2], [3, np.nan]])
    np.testing.assert_allclose(cohort.times, [[0, 730 / 365.25], [0, np.nan]])


def test_dates_of_a_binary_table():
    frame = pd.DataFrame({"id": [1, 1], "visit": [0, 1], "x": [1.0, 2.0]})
    frame["scan_date"] = pd.to_datetime(["2014-01-01", "2015-01-01"])
    assert read_cohort(frame).gap[0] == pytest.approx(365 / 365.25)


def test_a_planned_visit_keeps_its_time(write):
    cohort = read_cohort(write("id,visit,time,x\na,0,0,1\na,1,4,\nb,0,0,2\n"))
    np.testing.assert_array_equal(cohort.gap, [4, np.nan])
    assert not cohort.paired.any()


def test_visits_before_the_first_scan_are_no_baseline(write):
    cohort = read_cohort(write("id,visit,age,x\na,0,50,\na,2,60,1\na,3,64,2\n"))
    assert cohort.visit_labels == ("2", "3")
    assert cohort.covariate_table["age"].tolist() == [50]


def test_people_without_baseline_are_counted(write):
    assert said(read_cohort(write("id,visit,x\na,0,1\nb,1,2\n")), "1 people have no baseline visit")


def test_people_who_were_never_scanned_are_left_out_and_counted(write):
    rows = ["a,0,0,60,1,2", "a,1,2,60,3,", "b,0,0,70,,", "c,0,0,55,,", "c,1,3,55,,", "d,0,0,50,,7", "e,0,,51,,"]
    cohort = read_cohort(write("id,visit,time,age,x,y\n" + "\n".join(rows) + "\n"))
    assert cohort.ids.tolist() == ["a", "d"]
    assert cohort.covariate_table["age"].tolist() == [60, 50]
    assert said(cohort, "3 people have no measured feature at any visit: they are left out")
    # A bad cell is found in its own row all the same.
    with pytest.raises(InputError, match="column 'age', row 8: 'old' is no number"):
        read_cohort(
            write("id,visit,age,x\n" + "\n".join(f"{n},0,{n},{n if n > 2 else ''}" for n in range(6)) + "\n7,0,old,7\n")
        )
    wide = read_cohort(write("id,x_0,x_1\n1,2,3\n2,,\n3,,4\n"))
    assert wide.ids.tolist() == ["1", "3"]
    assert said(wide, "1 people have no measured feature")


# -- roles --------------------------------------------------------------------------


def test_outcomes_never_become_covariates_or_features(write):
    text = "id,visit,age,dementia,x\na,0,60,0,1\na,1,62,1,2\n"
    cohort = read_cohort(write(text), outcomes=["dementia", "age"])
    assert (cohort.features, cohort.covariates) == (("x",), ())
    assert cohort.outcomes.to_dict("list") == {"dementia": [0], "age": [60]}
    assert said(cohort, "outcome changes over visits")


def test_static_covariates(write):
    text = "id,visit,sex,score,smoker,x\na,1,,7,no,2\na,0,M,5,yes,1\nb,0,F,,no,1\n"
    cohort = read_cohort(write(text), static=["smoker", "score", "sex"])
    assert list(cohort.covariate_table) == ["smoker", "score", "sex"]
    assert cohort.covariate_table["score"].dtype == float
    assert cohort.covariate_table["smoker"].tolist() == ["yes", "no"]
    assert cohort.covariate_table["sex"].cat.categories.tolist() == ["F", "M"]
    assert said(cohort, "static covariate changes over visits, the first known value is taken: smoker, score")
    assert read_cohort(write(text), static=[]).covariates == ()
    assert read_cohort(pd.DataFrame({"id": [1], "visit": [0], "x": [1.0], "s": [True]}), static="s").covariates == (
        "s=True",
    )


def test_a_property_of_the_person_is_no_feature():
    person, visit = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    frame = pd.DataFrame({"id": person, "visit": visit, "x": np.arange(16.0), "disease": person % 2, "icv": person})
    cohort = read_cohort(frame.assign(fixed=1.0))
    assert cohort.features == ("x",)
    assert said(cohort, "left out: fixed (the same in every row: 1)")
    assert cohort.covariates == ("icv",)
    assert said(cohort, "left out: disease (the same at every visit")
    assert read_cohort(frame.assign(icv=np.arange(16))).features == ("x", "icv")
    assert read_cohort(frame, features=["x", "disease"]).features == ("x", "disease")


def test_groups_and_site_are_recognised(write):
    text = "id,visit,family_id,site,x\na,0,01,S1,1\nb,0,01,,2\nc,0,,S2,3\n"
    cohort = read_cohort(write(text))
    assert cohort.units().tolist() == ["01", "01", "c"]
    assert np.asarray(cohort.site).tolist() == ["S1", "unknown", "S2"]
    assert said(cohort, "group column: 'family_id'")
    both = read_cohort(write(text), site="site", static=["site"])
    assert np.asarray(both.site).tolist()[0] == "S1"
    assert both.covariates == ("site=S1", "site=S2")


def test_a_name_may_hold_a_line_break(write):
    cohort = read_cohort(write('id,"a\nb_0","a\nb_1"\n1,2,3\n'))
    assert (cohort.features, cohort.visits.tolist()) == (("a\nb",), [[[2], [3]]])


def test_a_separator_in_quotes_is_none(write):
    cohort = read_cohort(write('id;visit;"x,y,z,w"\n1;0;2\n'))
    assert (cohort.features, cohort.visits.tolist()) == (("x,y,z,w",), [[[2]]])


def test_target(write):
    assert read_cohort(write("id,visit,x\na,0,1\na,1,2\na,2,3\n"), target=2).followup.tolist() == [[3]]
    with pytest.raises(InputError, match="target=0"):
        read_cohort(write(LONG), target=0)


# -- writing ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.arrow"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_write_then_read_gives_the_same(name, dtype):
    @given(cohorts(dtype=dtype))
    @settings(max_examples=25, deadline=None)
    def check(cohort):
        columns: dict[str, Any] = {"static": list(cohort.covariate_table), "outcomes": list(cohort.outcomes)}
        with tempfile.TemporaryDirectory() as folder:
            cohort.write(Path(folder) / name)
            back = read_cohort(
                Path(folder) / name, features=cohort.features, target=cohort.target, checks="warn", **columns
            )
        same(back, cohort)
        assert back.target == cohort.target
        assert back.visits.dtype == (np.float64 if "sv" in name else dtype)

    check()


def test_write_leaves_nothing_else_and_refuses(tmp_path, write):
    cohort = read_cohort(write(LONG))
    write_cohort(cohort, tmp_path / "out" / "new.parquet")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new.parquet"]
    with pytest.raises(InputError, match="names no format"):
        cohort.write(tmp_path / "new.xlsx")
    with pytest.raises(InputError, match="read as missing"):
        Cohort(ids=np.array(["NA"]), visits=np.ones((1, 2, 1)), features=("x",)).write(tmp_path / "new.csv")
    with pytest.raises(InputError, match="same name: visit"):
        Cohort(ids=np.array(["1"]), visits=np.ones((1, 2, 1)), features=("visit",)).write(tmp_path / "new.csv")
    assert not (tmp_path / "new.csv").exists()


# -- bad input ----------------------------------------------------------------------

BAD_TEXT = {
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "header only": ("id,visit,x\n", "a header and no rows"),
    "ragged": ("id,visit,x\n1,0,1\n\n2,0\n", r"row 4: the row has 2 cells, the header has 3"),
    "duplicate columns": ("id,visit,x,x\n1,0,1,2\n", "columns occur twice: x"),
    "duplicate visit": ("id,visit,x\n1,0,1\n2,0,1\n1,0,2\n", "subject 1 has visit 0 twice, in rows 2 and 4"),
    "duplicate person": ("id,x_0,x_1\n1,0,1\n1,2,3\n", "subject 1 stands in rows 2 and 3"),
    "braces": ("id,visit,x\n{a},0,1\n{a},0,1\n", r"subject \{a\} has visit 0 twice, in rows 2 and 3"),
    "no id": ("id,visit,x\n1,0,1\n,0,1\n", r"column 'id', row 3: the id is missing"),
    "no visit": ("id,visit,x\n1,0,1\n2,,1\n", r"column 'visit', row 3: the visit is missing"),
    "no id column": ("who,visit,x\n1,0,1\n", "no id column was found"),
    "bad number": ("id,visit,x\n1,0,1\n2,0,abc\n3,0,3\n4,0,4\n", r"column 'x', row 3: 'abc' is no number"),
    "decimal comma": ('id,visit,x\n1,0,1.5\n2,0,3\n3,0,"3,5"\n', r"column 'x', row 4: '3,5' is no number beside '1.5'"),
    "quoted breaks": ('id,visit,c,x\n1,0,"a\nb",1\n2,0,c,-inf\n', r"column 'x', row 4: the value is infinite"),
    "inf": ("id,visit,x\n1,0,inf\n", r"column 'x', row 2: the value is infinite"),
    "huge": ("id,visit,x\n1,0,1\n2,0,-1e999\n", r"column 'x', row 3: the value is infinite"),
    "infinite covariate": ("id,visit,age,x\n1,0,inf,1\n", r"column 'age', row 2: the value is infinite"),
    "no value": ("id,visit,x\n1,0,\n2,0,\n", r"row 2: subject 1 has no measured feature at any visit \(2 people"),
    "no features": ("id,visit,sex,note\n1,0,F,hm\n", "no feature column was found"),
    "no layout": ("id,a,b\n1,0,1\n", "looked for a visit column"),
    "bad time": ("id,visit,time,x\n1,0,0,1\n1,1,soon,2\n", r"column 'time', row 3: 'soon' is no time"),
    "bad date": ("id,visit,date,x\n1,0,2014-01-01,1\n1,1,31/05/2014,2\n", r"'31/05/2014' is no time"),
    "infinite time": ("id,visit,time,x\n1,0,inf,1\n", r"column 'time', row 2: the time is infinite"),
    "backwards": (
        "id,visit,time,x\n1,0,0,1\n1,1,2,1\n3,0,0,1\n3,1,2,1\n2,0,3,1\n2,1,1,2\n",
        r"column 'time', row 7: subject 2: visit 1 is recorded -2 years after visit 0",
    ),
    "no order": ("id,time,x\n1,0,1\n1,,2\n", r"row 3: the time is missing"),
    "two names of one field": ("eid,f.25.2.0,25-2.0\n1,2,3\n", "are both '25' at visit 2"),
}


def test_visits_at_one_time_are_replicates(write):
    text = "id,visit,time,x\n1,0,0,1\n1,1,2,2\n1,2,2,2.1\n2,0,0,1\n2,1,1,2\n2,2,3,2\n"
    cohort = read_cohort(write(text), target=2)
    assert any(note.startswith("1 people have visits at one time: replicates") for note in cohort.notes)
    # Whoever else has some, the row is that of the slip.
    slip = text + "3,0,1,1\n3,1,2,1\n3,2,1,1\n"
    with pytest.raises(InputError, match="row 10: subject 3: visit 2 is recorded 0 years after visit 0"):
        read_cohort(write(slip), target=2)


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text(write, case):
    content, message = BAD_TEXT[case]
    with pytest.raises(InputError, match=message) as raised:
        read_cohort(write(content))
    assert "table.csv" in str(raised.value)


BAD_BYTES = {
    "picture.csv": (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG picture"),
    "junk.csv": (bytes(range(256)) * 8, "binary data"),
    "unknown.dat": (b"hello\nworld\n", "Parquet, Arrow and Feather files can be read"),
    "cut.parquet": (b"PAR1" + bytes(100), "cut short"),
    "cut.feather": (b"ARROW1\0\0" + bytes(100), "cut short"),
    "book.xlsx": (b"PK\x03\x04" + bytes(50), "Excel workbook"),
    "cut.csv.gz": (gzip.compress(LONG.encode() * 3000)[:60], "unpacked|cannot be read"),
    "latin.csv": ("id,visit,sex,x\n1,0,féminin,1\n".encode("latin-1"), r"row 2: is no UTF-8 text \(byte 20\)"),
    "header.csv": ("id,visit,volumé\n1,0,1\n".encode("latin-1"), "row 1: is no UTF-8 text"),
    "wide.csv": ("id,visit,x\n1,0,1\n".encode("utf-16"), "is no UTF-8 text"),
}


def test_a_bad_cell_far_down(write):
    # The types are first taken from the head of the file, which says nothing of its end.
    rows = [f"{place},0,{place}.5,{place}" for place in range(100_000)]
    text = "\n".join(["id,visit,x,code", *rows, "last,0,oops,k"])
    with pytest.raises(InputError, match=r"column 'x', row 100002: 'oops' is no number"):
        read_cohort(write(text), features=["x"])
    cohort = read_cohort(write(text.replace("oops", "1")), features=["x"])
    assert cohort.visits.shape == (100_001, 1, 1)
    with pytest.raises(InputError, match="row 100003: the row has 1 cells"):
        read_cohort(write(text + "\nmore"))


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_files(write, name):
    content, message = BAD_BYTES[name]
    with pytest.raises(InputError, match=message) as raised:
        read_cohort(write(content, name), layout="long")
    assert name in str(raised.value)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["t.pkl", "t.csv", "t.parquet"])
def test_a_pickle_is_refused_unopened(write, name, protocol):
    with pytest.raises(InputError):
        read_cohort(write(pickle.dumps(_Trap(), protocol=protocol), name))


def test_truncated_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": range(1000), "visit": 0, "x": 1.0}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cut short"):
        read_cohort(path)


def test_places_that_are_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cohort(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_cohort(tmp_path)
    with pytest.raises(InputError, match="cannot be read from int"):
        read_cohort(3)


@pytest.mark.parametrize("role", ["id", "visit", "time", "groups", "site", "static", "outcomes", "features"])
def test_unknown_column(write, role):
    named: dict[str, Any] = {role: "vol_aa"}
    with pytest.raises(InputError, match="Did you mean 'vol_a'"):
        read_cohort(write(LONG), **named)


def test_patterns_without_a_match(write):
    for role in ("features", "static", "outcomes"):
        named: dict[str, Any] = {role: "thick_*"}
        with pytest.raises(InputError, match="no free column matches 'thick_"):
            read_cohort(write(LONG), **named)


@pytest.mark.parametrize(
    "roles",
    [
        {"id": "vol_a", "visit": "vol_a"},
        {"static": ["vol_a"], "outcomes": ["vol_a"]},
        {"time": "vol_a", "features": ["vol_a", "vol_b"]},
        {"groups": "sex", "site": "sex"},
        {"features": ["subject_id"]},
    ],
)
def test_one_column_in_two_roles(write, roles):
    with pytest.raises(InputError, match="the column is named as"):
        read_cohort(write(LONG), **roles)


def test_text_named_as_feature(write):
    with pytest.raises(InputError, match=r"column 'sex', row 2: 'F' is no number"):
        read_cohort(write(LONG), features=["sex", "vol_a"])


def test_bad_layout(write):
    with pytest.raises(InputError, match="layout='tall' is unknown"):
        read_cohort(write(LONG), layout="tall")
    with pytest.raises(InputError, match="no visit column"):
        read_cohort(write(LONG), layout="wide", visit="visit")


def test_records_of_a_binary_table_count_from_one():
    frame = pd.DataFrame({"id": [1, 2], "visit": [0, 0], "x": [1.0, np.inf]})
    with pytest.raises(InputError, match="column 'x', row 2"):
        read_cohort(frame)
    nested = frame.assign(x=[[1], [2]])
    with pytest.raises(InputError, match="not numbers"):
        read_cohort(nested, features=["x"])
    with pytest.raises(InputError, match="columns occur twice"):
        read_cohort(pd.concat([frame, frame], axis=1))


# -- real tables --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "people", "features", "pairs"),
    [
        ("refund_dti/data.parquet", 142, 148, 100),
        ("refund_dti/data_ms_full.parquet", 100, 296, 100),
        ("corr_qap/data.parquet", 1482, 46, 1038),
        ("qtab_mriqc/data.parquet", 415, 82, 304),
        ("qtab_mriqc/data.csv", 415, 82, 304),
    ],
)
def test_real_tables(tmp_path, name, people, features, pairs):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in the shared data folder (SECONDGRAM_DATA names another)")
    cohort = read_cohort(DATA / name, outcomes=["pasat"] if "refund" in name else [])
    assert (len(cohort), len(cohort.features), int(cohort.paired.sum())) == (people, features, pairs)
    cohort.write(tmp_path / "t.csv")
    back = read_cohort(tmp_path / "t.csv", outcomes=list(cohort.outcomes))
    same(back, cohort)
