"""Tables of scans, several tables as one, folders of parts, and wide names by a pattern."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.scan_names import split_names

SCANS = [
    ("70001_01.long.70001_base", "70001", "01"),
    ("70001_01.long.base_70001", "70001", "01"),
    ("011_S_0002_bl.long.011_S_0002", "011_S_0002", "bl"),
    ("011_S_0002_m06.long.011_S_0002_base", "011_S_0002", "m06"),
    ("sub-01_ses-2.long.sub-01", "sub-01", "ses-2"),
    ("subjects/S001_V2.long.S001/", "S001", "V2"),
    ("OAS30001_MR_d0129.long.OAS30001", "OAS30001", "d0129"),
    ("pat-7-tp1.long.pat-7", "pat-7", "tp1"),
    ("sub-001_ses-1_T1w", "sub-001", "ses-1"),
    ("sub-NDARINV003_ses-baselineYear1Arm1_run-01_T1w.nii.gz", "sub-NDARINV003", "ses-baselineYear1Arm1"),
    ("011_S_0002_m06", "011_S_0002", "m06"),
    ("OAS30001_MR_d0129", "OAS30001", "d0129"),
    ("OAS30001_Freesurfer53_d0129", "OAS30001", "d0129"),
    ("OAS2_0001_MR2", "OAS2_0001", "MR2"),
]


@pytest.mark.parametrize(("name", "person", "visit"), SCANS)
def test_a_scan_name_tells_person_and_visit(name: str, person: str, visit: str) -> None:
    assert split_names([name], any_form=False) == ([person], [visit])


def test_names_of_other_kinds_are_cut_where_people_share_visits() -> None:
    names = ["a_x_V1", "a_x_V2", "b_V1", "c_V1"]
    assert split_names(names, any_form=True) == (["a_x", "a_x", "b", "c"], ["V1", "V2", "V1", "V1"])
    assert split_names(names, any_form=False) is None
    assert split_names(["a_d012", "a_d700", "b_d003", "b_d900"], any_form=True) is not None
    assert split_names(["7_01", "7_02", "8_01"], any_form=True) == (["7", "7", "8"], ["01", "02", "01"])
    for alone in (["b_V1"], ["b_V1", "c_V1"]):
        assert split_names(alone, any_form=True) is None
        assert split_names(alone, any_form=True, alone=True) is not None


@pytest.mark.parametrize(
    "names",
    [
        ["011_S_0002", "011_S_0003"],
        ["F01_1234", "F01_5678", "F02_1111"],
        ["S001", "S002"],
        ["a_left", "a_right", "b_left"],
        ["S1.long.T7", "S2.long.T7"],
        ["sub-01_ses-1.long.sub-01", "sub-01_ses-2"],
        [""],
    ],
)
def test_names_without_a_visit_are_not_cut(names: list[str]) -> None:
    assert split_names(names, any_form=True) is None


# -- tables of scans ------------------------------------------------------------------


def scans(people: int = 30, name: str = "{0}_{1:02}.long.{0}_base", seed: int = 0) -> pd.DataFrame:
    """A row for each scan, as asegstats2table writes it; the last person has one scan."""
    rng = np.random.default_rng(seed)
    rows = [(70001 + who, visit) for who in range(people) for visit in (1, 2) if who < people - 1 or visit == 1]
    own = dict(zip(range(70001, 70001 + people), rng.normal(4000, 300, people), strict=True))
    return pd.DataFrame(
        {
            "Measure:volume": [name.format(who, visit) for who, visit in rows],
            "Left-Hippocampus": [round(own[who] - 40 * visit + rng.normal(0, 9), 1) for who, visit in rows],
            "Right-Hippocampus": [round(own[who] + rng.normal(0, 90), 1) for who, visit in rows],
            "5th-Ventricle": 0.0,
        }
    )


def listed(people: int = 30) -> pd.DataFrame:
    """People and visits of `scans`, with ages."""
    rows = [(70001 + who, visit) for who in range(people) for visit in (1, 2)]
    return pd.DataFrame(
        {
            "subject_id": [str(who) for who, _ in rows],
            "visit": [f"{visit:02}" for _, visit in rows],
            "age": [50.5 + who % 30 + 2 * visit for who, visit in rows],
            "sex": ["FM"[who % 2] for who, _ in rows],
        }
    )


def write(folder: Path, table: pd.DataFrame, name: str) -> Path:
    path = folder / name
    table.to_csv(path, index=False, sep="\t" if name.endswith((".txt", ".tsv")) else ",")
    return path


@pytest.mark.parametrize("name", ["{0}_{1:02}.long.{0}_base", "{0}_{1:02}", "sub-{0}_ses-{1}", "{0}-v{1}.nii.gz"])
def test_a_table_of_freesurfer_is_read_by_its_scan_names(tmp_path: Path, name: str) -> None:
    table = scans(name=name)
    cohort = sg.read_cohort(write(tmp_path, table, "aseg_stats.txt"))
    assert (len(cohort), int(cohort.paired.sum())) == (30, 29)
    assert cohort.ids[0] in ("70001", "sub-70001")
    assert cohort.features == ("Left-Hippocampus", "Right-Hippocampus")
    np.testing.assert_array_equal(cohort.visits[0], table.iloc[:2, 1:3])
    assert any("tell person and visit" in note and table.iloc[0, 0] in note for note in cohort.notes)
    # A bad cell is found in its row of the file.
    table["Left-Hippocampus"] = table["Left-Hippocampus"].astype(str).where(table.index != 4, "oops")
    with pytest.raises(sg.InputError, match="column 'Left-Hippocampus', row 6: 'oops' is no number"):
        sg.read_cohort(write(tmp_path, table, "bad.csv"), features=["Left-Hippocampus"])


def test_scan_names_that_tell_nothing_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, scans(name="case{0}x{1}"), "aseg_stats.txt")
    with pytest.raises(sg.InputError, match=r"'Measure:volume': scan names \(case70001x1.*<scan>.long.<base>"):
        sg.read_cohort(path)
    with pytest.raises(sg.InputError, match="'Measure:volume': scan names"):
        sg.read_cohort(write(tmp_path, scans(name="{0}"), "aseg_stats.txt"))


@pytest.mark.parametrize("named", [{}, {"id": "bids_name"}])
def test_a_group_table_of_mriqc_has_no_visits_in_its_measures(tmp_path: Path, named: dict[str, Any]) -> None:
    table = scans(name="sub-{0}_ses-{1}_T1w").rename(columns={"Measure:volume": "bids_name"})
    rng = np.random.default_rng(1)
    measures = {
        name: rng.normal(1, 0.1, len(table)) for name in ("cjv", "cnr", "efc", "fber", "qi_1", "qi_2", "wm2max")
    }
    cohort = sg.read_cohort(write(tmp_path, table.assign(**measures, size_x=188), "group_T1w.tsv"), **named)
    assert cohort.visit_labels == ("ses-1", "ses-2")
    assert set(measures) <= set(cohort.features)
    assert "size_x" not in cohort.features


def test_a_few_numbered_names_among_many_are_no_visits(tmp_path: Path) -> None:
    table = pd.DataFrame({"subject": [f"s{who}" for who in range(9)], "qi_1": 1.5, "qi_2": 2.5})
    table = table.assign(**{f"measure {part}": np.arange(9) * 1.5 for part in "abcdefgh"})
    with pytest.raises(sg.InputError, match="layout cannot be determined"):
        sg.read_cohort(table)
    assert sg.read_cohort(table[["subject", "qi_1", "qi_2"]], layout="wide").features == ("qi",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> sg.SecondgramImputer:
    folder = tmp_path_factory.mktemp("model")
    cohort = sg.read_cohort(write(folder, scans(60, "{0}_{1:02}"), "aseg.csv"))
    return sg.SecondgramImputer(shape="off").fit(cohort, show=False)


def test_one_scan_alone_is_read_as_among_all(tmp_path: Path, model: sg.SecondgramImputer) -> None:
    one = write(tmp_path, scans(60, "{0}_{1:02}").iloc[[4]], "one.csv")
    cohort = sg.read_cohort(one, like=model)
    assert (cohort.ids.tolist(), cohort.visit_labels[0]) == (["70003"], "01")


# -- several tables -------------------------------------------------------------------


def parts(folder: Path) -> tuple[Path, Path, Path]:
    aseg = write(folder, scans(), "aseg.csv")
    thickness = scans(seed=1).rename(columns=lambda name: name.replace("Right-Hippocampus", "lh_insula_thickness"))
    thickness = thickness.rename(columns={"Measure:volume": "lh.aparc.thickness"})
    thickness = thickness.drop(columns="5th-Ventricle").assign(**{"Left-Hippocampus": scans()["Left-Hippocampus"]})
    lh = write(folder, thickness.sample(frac=1, random_state=0), "lh.aparc.csv")
    return aseg, lh, write(folder, listed(), "scans.csv")


def test_tables_are_merged_by_scan(tmp_path: Path) -> None:
    aseg, lh, people = parts(tmp_path)
    cohort = sg.read_cohort([aseg, lh, people], time="age", static=["sex"])
    assert cohort.features == ("Left-Hippocampus", "Right-Hippocampus", "lh_insula_thickness")
    assert (len(cohort), int(cohort.paired.sum())) == (30, 29)
    np.testing.assert_array_equal(cohort.visits[:29, :, 1].ravel(), scans()["Right-Hippocampus"][:58])
    np.testing.assert_array_equal(cohort.visits[:29, :, 2].ravel(), scans(seed=1)["Right-Hippocampus"][:58])
    np.testing.assert_array_equal(cohort.gap, 2.0)
    assert cohort.covariate_table["sex"][:2].tolist() == ["M", "F"]
    told = "3 tables are merged by person and visit: aseg.csv ('Measure:volume', 'visit'), "
    assert any(note.startswith(told) for note in cohort.notes)
    assert "aseg.csv has no row for 1 of 60 visits: they lack its cells" in cohort.notes
    # In another order, the same.
    again = sg.read_cohort([people, lh, aseg], time="age", static=["sex"], features=cohort.features)
    rows = [again.ids.tolist().index(who) for who in cohort.ids]
    np.testing.assert_array_equal(again.visits[rows], cohort.visits)


def test_a_bad_cell_is_found_in_its_own_file(tmp_path: Path) -> None:
    aseg, _, _ = parts(tmp_path)
    table = listed().astype({"age": str})
    table.loc[7, "age"] = "old"
    people = write(tmp_path, table, "scans.csv")
    with pytest.raises(sg.InputError, match=r"scans\.csv, column 'age', row 9: 'old' is no"):
        sg.read_cohort([aseg, people])


def test_people_in_a_table_of_their_own(tmp_path: Path) -> None:
    aseg, _, _ = parts(tmp_path)
    own = listed(33).drop_duplicates("subject_id").drop(columns="visit").sample(frac=1, random_state=1)
    cohort = sg.read_cohort([aseg, write(tmp_path, own, "people.csv")])
    assert len(cohort) == 30
    assert cohort.covariates == ("age", "sex=F", "sex=M")
    np.testing.assert_array_equal(cohort.covariate_table["age"], [52.5 + (70001 + who) % 30 for who in range(30)])
    assert "3 people of people.csv are in no other table: they are left out" in cohort.notes
    # People alone, one row each, are merged by person.
    left = pd.DataFrame({"id": ["1", "2"], "a_0": [1.0, 2], "a_1": [2.0, 3]})
    right = pd.DataFrame({"id": ["2", "1"], "b_0": [5.0, 4], "b_1": [6.0, 5], "age": [61.5, 60.5]})
    cohort = sg.read_cohort([left, right])
    assert cohort.features == ("a", "b")
    assert cohort.visits.tolist() == [[[1, 4], [2, 5]], [[2, 5], [3, 6]]]


def test_scan_names_are_looked_for_in_a_list_of_scans(tmp_path: Path) -> None:
    table = scans(name="case{0}x{1}")
    names = table["Measure:volume"]
    rows = listed().iloc[: len(table)].assign(fsid=names)
    cohort = sg.read_cohort([write(tmp_path, table, "aseg.csv"), write(tmp_path, rows, "scans.csv")])
    assert (cohort.ids[0], cohort.visit_labels) == ("70001", ("01", "02"))
    np.testing.assert_array_equal(cohort.visits[0, :, 0], table["Left-Hippocampus"][:2])
    with pytest.raises(sg.InputError, match=r"aseg.csv, column 'Measure:volume', row 4: scan 'case70002x1' is in none"):
        sg.read_cohort([tmp_path / "aseg.csv", write(tmp_path, rows.drop(index=2), "scans.csv")])


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    aseg, _, people = parts(tmp_path)
    twice = pd.concat([listed(), listed().iloc[[3]]])
    with pytest.raises(
        sg.InputError, match=r"scans\.csv, column 'visit': subject 70002 has visit 02 twice, in rows 5 and 62"
    ):
        sg.read_cohort([aseg, write(tmp_path, twice, "scans.csv")])
    with pytest.raises(sg.InputError, match="column 'subject_id': subject 70001 stands in rows 2 and 3"):
        sg.read_cohort([aseg, write(tmp_path, listed().drop(columns="visit"), "scans.csv")])
    other = listed().assign(visit=lambda table: "ses-" + table["visit"])
    with pytest.raises(sg.InputError, match=r"no person and visit in common.*70001 01.*70001 ses-01"):
        sg.read_cohort([aseg, write(tmp_path, other, "scans.csv")])
    clash = listed().assign(**{"Left-Hippocampus": 1.0})
    with pytest.raises(
        sg.InputError, match=r"'Left-Hippocampus': the cell is '\d+\.\d+' in row 2 of aseg.csv, and '1.0'"
    ):
        sg.read_cohort([aseg, write(tmp_path, clash, "scans.csv")])
    with pytest.raises(sg.InputError, match="no id column was found"):
        sg.read_cohort([aseg, write(tmp_path, listed()[["age", "sex"]], "scans.csv")])
    holed = listed()
    holed.loc[2, "visit"] = None
    with pytest.raises(sg.InputError, match=r"scans\.csv, column 'visit', row 4: the cell is missing"):
        sg.read_cohort([aseg, write(tmp_path, holed, "scans.csv")])
    with pytest.raises(sg.InputError, match="no table is given"):
        sg.read_cohort([])
    with pytest.raises(sg.InputError, match="no such file"):
        sg.read_cohort([aseg, tmp_path / "absent.csv"])
    with pytest.raises(sg.InputError, match="several tables are merged"):
        sg.read_cohort([aseg, people], layout="wide")


def test_row_numbers_of_each_table_are_no_clash(tmp_path: Path) -> None:
    left, right = scans().reset_index(names="Unnamed: 0"), listed().sample(frac=1, random_state=2)
    right = right.reset_index(drop=True).reset_index(names="Unnamed: 0")
    left = left.rename(columns={"Measure:volume": "fsid"})
    cohort = sg.read_cohort([write(tmp_path, left, "aseg.csv"), write(tmp_path, right, "scans.csv")], id="fsid")
    assert cohort.features == ("Left-Hippocampus", "Right-Hippocampus")


def test_several_tables_reach_the_reader(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts(tmp_path)
    done = cli(*"fit aseg.csv lh.aparc.csv scans.csv --out model --time age --set shape=off".split())
    assert done.code == 0, done.err
    assert "aseg.csv + lh.aparc.csv + scans.csv: Cohort(30 people" in done.err
    done = cli(*"impute model scans.csv aseg.csv lh.aparc.csv --time age --out draws.parquet --draws 2".split())
    assert done.code == 0, done.err
    assert cli(*"fit aseg.csv absent.csv --out again".split()).code == 2


# -- parts of a table, and wide names --------------------------------------------------


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    table = scans()
    folder = tmp_path / "parts"
    folder.mkdir()
    table.iloc[:20].to_parquet(folder / "part-0.parquet")
    table.iloc[20:].astype({"5th-Ventricle": int}).to_parquet(folder / "part-1.parquet")
    (folder / "_SUCCESS").touch()
    whole = sg.read_cohort(table)
    cohort = sg.read_cohort(folder)
    np.testing.assert_array_equal(cohort.visits, whole.visits)
    assert "2 Parquet files in parts are read as one table" in cohort.notes
    table.assign(**{"Left-Hippocampus": np.inf}).iloc[20:].to_parquet(folder / "part-1.parquet")
    with pytest.raises(sg.InputError, match=r"part-1.parquet, column 'Left-Hippocampus', row 1: the value is infinite"):
        sg.read_cohort(folder)
    table.drop(columns="5th-Ventricle").to_parquet(folder / "part-2.parquet")
    with pytest.raises(sg.InputError, match="different columns: 5th-Ventricle"):
        sg.read_cohort(folder)
    with pytest.raises(sg.InputError, match="is a folder"):
        sg.read_cohort(tmp_path)


WIDE = {
    "{feature}_{visit}": ["lh_x_bl", "lh_x_m12", "lh_y_bl", "lh_y_m12"],
    "{visit}_{feature}": ["bl_lh_x", "m12_lh_x", "bl_lh_y", "m12_lh_y"],
    "V{visit}.{feature}": ["V1.lh_x", "V2.lh_x", "V1.lh_y", "V2.lh_y"],
    "{feature}({visit})": ["lh_x(1)", "lh_x(2)", "lh_y(1)", "lh_y(2)"],
    "{feature}{visit}": ["lh_x1", "lh_x2", "lh_y1", "lh_y2"],
}


@pytest.mark.parametrize("pattern", WIDE)
def test_wide_names_by_a_pattern(tmp_path: Path, pattern: str) -> None:
    names = WIDE[pattern]
    table = pd.DataFrame({"id": ["1", "2"], "family_id": ["f", "g"], "age": [60.5, 70.5]})
    table = table.assign(**{name: [place + 0.5, place + 5.5] for place, name in enumerate(names)})
    cohort = sg.read_cohort(write(tmp_path, table, "wide.csv"), wide=pattern)
    assert (cohort.features, cohort.covariates) == (("lh_x", "lh_y"), ("age",))
    np.testing.assert_array_equal(cohort.visits[0], [[0.5, 2.5], [1.5, 3.5]])
    assert cohort.groups is not None


def test_a_pattern_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["1", "2"], "a_0": [1.0, 2], "a_1": [2.0, 3]})
    with pytest.raises(sg.InputError, match="no name of a column fits"):
        sg.read_cohort(table, wide="{feature}#{visit}")
    for pattern in ("{feature}", "{feature}_{visit}_{visit}", "x"):
        with pytest.raises(sg.InputError, match="is no pattern of names"):
            sg.read_cohort(table, wide=pattern)


def test_a_pattern_reaches_the_reader_and_is_named_again(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    own = rng.normal(4000, 300, (60, 1))
    table = pd.DataFrame(np.round(own + rng.normal(0, 30, (60, 4)), 1), columns=WIDE["{visit}_{feature}"])
    table.insert(0, "id", [f"s{who}" for who in range(60)])
    write(tmp_path, table, "wide.csv")
    done = cli(*"fit wide.csv --out model --set shape=off --wide {visit}_{feature}".split())
    assert done.code == 0, done.err
    assert sg.load("model").columns_.visits == ["bl", "m12"]
    done = cli(*"impute model wide.csv --out draws.parquet --who all --draws 2 --wide {visit}_{feature}".split())
    assert done.code == 0, done.err
