"""Which columns are imaging features: what is left out by its name, its values or as asked, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secondgram as sg
from secondgram.cohort.column_kinds import clinical_scores, kind_by_name

PEOPLE = 30
NO_FEATURES = {
    "row number": ["Unnamed: 0", "Unnamed: 0.1", "...1", "index", "row_number", "rownames", "level_0", "X.1"],
    "id": ["scan_id", "IMAGEUID", "LONIUID", "ScanID", "image_id", "MRI ID", "record_number", "SeriesID", "subject.id"],
    "setting": ["run", "software_version", "FSVERSION", "magStrength", "device_serial_number"],
    "quality": ["qc_pass", "QC", "OVERALLQC", "fs_qc", "imgincl_t1w_include", "euler_number", "t1_qa", "usable"],
    "time": [
        *("days_from_baseline", "MR Delay", "Month_bl", "Years_bl", "Month", "M", "visit_month", "scan_interval"),
        *("time_since_baseline", "mri_age", "delay", "year_of_scan", "yrs.from.bl", "DaysSinceEntry"),
    ],
}
FEATURES = [
    *("Left-Hippocampus", "lh_bankssts_thickness", "smri_vol_scs_hpuslh", "Ventricles", "eTIV", "WMH"),
    *(
        "lhSurfaceHoles",
        "qi_1",
        "snr_total",
        "cjv",
        "CC_Mid_Anterior",
        "rh_pericalcarine",
        "25005",
        "5th-Ventricle",
        "brain_age",
    ),
    *("fa_mid", "x", "tpm_overlap_gm", "years_of_education", "passive_volume", "idp_12", "BrainSegVol-to-eTIV"),
]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NO_FEATURES.items() for name in names])
def test_a_name_tells_that_a_column_is_no_measurement(kind: str, name: str) -> None:
    assert kind in str(kind_by_name(name))


@pytest.mark.parametrize("name", FEATURES)
def test_names_of_measurements_tell_nothing(name: str) -> None:
    assert kind_by_name(name) is None


def test_scores_are_known_by_name() -> None:
    names = ["MMSE", "CDRSB", "Ventricles", "ADAS13", "UPDRS_total", "MoCA", "CDR", "EDSS", "essential", "cerebellum"]
    assert clinical_scores(names) == ["MMSE", "CDRSB", "ADAS13", "UPDRS_total", "MoCA", "CDR", "EDSS"]


def study(people: int = PEOPLE, visits: int = 2, seed: int = 0) -> pd.DataFrame:
    """A row for each person and visit; volumes and gaps are each person's own."""
    rng = np.random.default_rng(seed)
    person, visit = np.repeat(np.arange(people), visits), np.tile(np.arange(visits), people)
    own = rng.normal(4000, 300, people)[person]
    return pd.DataFrame(
        {
            "subject_id": [f"S{who:03}" for who in person],
            "visit": visit,
            "time_years": np.round(np.where(visit > 0, visit * 2 + rng.uniform(-0.5, 0.5, len(visit)), 0), 3),
            "age": np.round(rng.uniform(50, 80, people), 1)[person],
            "hippocampus": np.round(own - 40 * visit + rng.normal(0, 20, len(visit)), 1),
            "thalamus": np.round(1.8 * own + rng.normal(0, 60, len(visit)), 1),
        }
    )


def read(folder: Path, table: pd.DataFrame, **roles: object) -> sg.Cohort:
    path = folder / "table.csv"
    table.to_csv(path, index=False)
    return sg.read_cohort(path, **roles)  # type: ignore[arg-type]


def left_out(cohort: sg.Cohort, name: str) -> str:
    """The reason in the notes, or nothing."""
    notes = [note for note in cohort.notes if note.startswith("left out: ")]
    found = [note for note in notes if name in note.removeprefix("left out: ").split(" (")[0].split(", ")]
    return found[0].split(" (", 1)[1] if found else ""


BY_VALUE = {
    "X": (lambda table: np.arange(1, len(table) + 1), "row numbers"),
    "nr of row": (lambda table: np.arange(len(table)), "row numbers"),
    "fifth ventricle": (lambda table: 0.0, "the same in every row: 0"),
    "chiasm": (lambda table: np.nan, "no value at any visit"),
    "step": (lambda table: table["visit"] * 12, "grows with the visits"),
    "elapsing": (lambda table: table["time_years"] * 365.25, "grows with the visits"),
    "weighed at": (lambda table: table["time_years"] + table["age"], "grows with the visits"),
    "education": (lambda table: table["subject_id"].str[1:].astype(int), ""),
    "personal": (lambda table: table["subject_id"].str[1:].astype(int) % 7, "the same at every visit of a person"),
    "beta": (
        lambda table: np.where(table.index == 4, ">1700", table["thalamus"].astype(str)),
        "row 6 of 'beta' holds '>1700'",
    ),
}


@pytest.mark.parametrize("name", BY_VALUE)
def test_values_tell_that_a_column_is_no_measurement(tmp_path: Path, name: str) -> None:
    make, reason = BY_VALUE[name]
    table = study()
    table.insert(0, name, make(table))
    cohort = read(tmp_path, table)
    assert cohort.features == ("hippocampus", "thalamus")
    assert left_out(cohort, name).startswith(reason)
    if reason and reason != "row 6 of 'beta' holds '>1700'":
        # Named in full, it is taken.
        assert name in read(tmp_path, table, features=["hippocampus", name], checks="warn").features


def test_a_textual_cell_stops_a_column_that_was_named(tmp_path: Path) -> None:
    table = study()
    table["beta"] = BY_VALUE["beta"][0](table)
    for roles in ({"features": ["hippocampus", "beta"]}, {"static": ["beta"]}, {"outcomes": ["beta"]}):
        with pytest.raises(sg.InputError, match=r"column 'beta', row 6: '>1700' is no number"):
            read(tmp_path, table, **roles)
    assert read(tmp_path, table, features="*").features == ("hippocampus", "thalamus")


def test_a_name_that_looks_like_a_pattern_is_named_in_full() -> None:
    table = pd.DataFrame({"id": [1, 2], "a_0": 0.0, "a_1": 0.0, "*_0": 0.0, "*_1": 0.0})
    assert sg.read_cohort(table, features=["a", "*"]).features == ("a", "*")


def test_the_features_are_named(tmp_path: Path) -> None:
    cohort = read(tmp_path, study())
    assert "2 numeric columns taken as features: hippocampus, thalamus" in cohort.notes
    table = study().assign(**{f"area_{part}": study(seed=place)["thalamus"] for place, part in enumerate("abcdefg", 1)})
    assert any(note.endswith("area_a, area_b, area_c and 4 more") for note in read(tmp_path, table).notes)


def test_scores_are_taken_and_told(tmp_path: Path) -> None:
    table = study().assign(MMSE=np.random.default_rng(1).integers(20, 30, 2 * PEOPLE))
    cohort = read(tmp_path, table)
    assert "MMSE" in cohort.features
    assert any(note.startswith("scores of tests are features too") and "MMSE" in note for note in cohort.notes)
    assert not any("scores" in note for note in read(tmp_path, table, features=["thalamus", "MMSE"]).notes)


def test_atrophy_of_everyone_is_no_time(tmp_path: Path) -> None:
    # It shrinks in everyone, but to each their own.
    table = study(60)
    table["ventricles"] = table["thalamus"] + 300 * table["visit"]
    assert {"hippocampus", "ventricles"} <= set(read(tmp_path, table).features)


def test_steady_growth_at_equal_gaps_is_no_time(tmp_path: Path) -> None:
    table = study()
    table["time_years"] = 2.0 * table["visit"]
    table["steady"] = table["hippocampus"].where(table["visit"] == 0).ffill() + 5.0 * table["visit"]
    assert "steady" in read(tmp_path, table).features


def test_few_people_do_not_tell_a_kind(tmp_path: Path) -> None:
    table = study(5).assign(step=lambda table: table["visit"] * 12)
    assert "step" in read(tmp_path, table).features


def test_a_table_of_nothing_else_is_not_emptied(tmp_path: Path) -> None:
    table = study()[["subject_id", "visit"]].assign(only=lambda table: table["visit"] * 12.0)
    assert read(tmp_path, table).features == ("only",)
    table = table.rename(columns={"only": "scan_id"})
    with pytest.raises(sg.InputError, match=r"no feature column was found; left out: scan_id \(an id by its name\)"):
        read(tmp_path, table)


def test_months_of_a_wide_table_are_left_out(tmp_path: Path) -> None:
    long = study()
    wide = long.pivot(index="subject_id", columns="visit", values=["hippocampus", "thalamus"])
    wide.columns = [f"{name}_{visit}" for name, visit in wide.columns]
    wide = wide.reset_index().assign(step_0=0, step_1=12, Month_0=0, Month_1=24, none_0=np.nan, none_1=np.nan)
    cohort = read(tmp_path, wide)
    assert cohort.features == ("hippocampus", "thalamus")
    assert left_out(cohort, "step").startswith("grows")
    assert left_out(cohort, "Month").startswith("a time")
    assert left_out(cohort, "none").startswith("no value")


@pytest.mark.parametrize(
    "name",
    "PTGENDER PTEDUCAT PTETHCAT PTRACCAT M/F Hand EDUC AgeatEntry educyrs age_at_visit interview_age demo_sex_v2 "
    "race_ethnicity Age_in_Yrs SSAGA_Educ Gender Handedness".split(),
)
def test_covariates_of_well_known_cohorts_are_recognised(tmp_path: Path, name: str) -> None:
    table = study().drop(columns="age")
    values = np.arange(PEOPLE).repeat(2) % 3
    cohort = read(tmp_path, table.assign(**{name: values}))
    assert list(cohort.covariate_table) == [name]


# -- exclude --------------------------------------------------------------------------


def test_excluded_columns_are_not_there(tmp_path: Path) -> None:
    table = study().assign(putamen=study(seed=5)["thalamus"], sex="F", IMAGEUID=7)
    cohort = read(tmp_path, table, exclude=["thal*", "putamen", "age"])
    assert (cohort.features, cohort.covariates) == (("hippocampus",), ("sex=F",))
    assert "excluded as asked: thalamus, putamen, age" in cohort.notes
    assert read(tmp_path, table, exclude="putamen").features == ("hippocampus", "thalamus")
    # Not even as what names the time.
    assert np.isnan(read(tmp_path, table, exclude="time_years").gap).all()


def test_every_visit_of_a_feature_is_excluded(tmp_path: Path) -> None:
    wide = pd.DataFrame({"id": [1, 2], "a_0": [1.0, 2], "a_1": [2.0, 3], "b_0": [3.0, 5], "b_1": [4.0, 6]})
    assert read(tmp_path, wide, exclude="a").features == ("b",)
    assert read(tmp_path, wide, exclude="a_*").features == ("b",)
    ukb = pd.DataFrame({"eid": [1, 2], "25005-2.0": [1.0, 2], "25005-3.0": [2.0, 3], "25006-2.0": [3.0, 5]})
    assert read(tmp_path, ukb, exclude="25006").features == ("25005",)


def test_what_cannot_be_excluded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sg.InputError, match=r"'talamus': there is no such column to exclude.*Did you mean 'thal"):
        read(tmp_path, study(), exclude="talamus")
    for roles in ({"features": ["thalamus"]}, {"static": ["thalamus"]}, {"time": "thalamus"}):
        with pytest.raises(sg.InputError, match="excluded and named"):
            read(tmp_path, study(), exclude="thalamus", **roles)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> sg.SecondgramImputer:
    """Of a table with a column of row numbers and an excluded one."""
    table = study(60).assign(X=np.arange(120), putamen=study(60, seed=5)["thalamus"])
    cohort = read(tmp_path_factory.mktemp("model"), table, exclude="putamen")
    return sg.SecondgramImputer(shape="off").fit(cohort, show=False)


def test_a_part_is_read_as_the_whole_was(tmp_path: Path, model: sg.SecondgramImputer) -> None:
    # Nothing in so few rows tells that one column is a row number, or that the other varies.
    part = study(60).assign(X=np.arange(120), putamen=1.0).iloc[[6, 7, 40]].assign(thalamus=5.0)
    assert read(tmp_path, part, like=model).features == ("hippocampus", "thalamus")
    with pytest.raises(sg.InputError, match="excluded, and the model was trained with it"):
        read(tmp_path, part, like=model, exclude="thalamus")


def test_exclude_reaches_the_reader(tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study(60).assign(putamen=study(60, seed=5)["thalamus"], sex="F").to_csv("study.csv", index=False)
    done = cli(*"fit study.csv --out model --set shape=off --exclude".split(), "put*, sex")
    assert done.code == 0, done.err
    assert "excluded as asked: putamen, sex" in done.err
    columns = sg.load("model").columns_
    assert (columns.features, columns.covariates) == (["hippocampus", "thalamus"], ["age"])


@given(
    shift=st.sampled_from([0, 1, 1000, 9000]),
    step=st.sampled_from([1, 2, 30]),
    shuffled=st.booleans(),
    name=st.sampled_from(["image_id", "IMAGEUID", "Unnamed: 0", "scan_number"]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_ids_are_no_features_in_whatever_order(shift: int, step: int, shuffled: bool, name: str, seed: int) -> None:
    table = study(12, seed=seed)
    table[name] = shift + step * np.arange(len(table))
    if shuffled:
        table = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    assert sg.read_cohort(table).features == ("hippocampus", "thalamus")


def test_ses_in_capitals_is_a_status_and_in_small_letters_a_session() -> None:
    table = study(12).assign(SES=np.tile([2, 3], 12))
    assert sg.read_cohort(table).covariates == ("age", "SES")
    session = study(12).rename(columns={"visit": "ses"})
    assert sg.read_cohort(session).covariates == ("age",)
    assert len(sg.read_cohort(session).visit_labels) == 2
    # With neither a visit nor scan names, nothing says which rows are visits.
    with pytest.raises(sg.InputError, match="the layout cannot be determined"):
        sg.read_cohort(table.drop(columns=["visit", "time_years"], errors="ignore"))
