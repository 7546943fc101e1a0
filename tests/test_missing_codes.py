"""Codes for missing: what they stand for, in which columns, and that a model reads as its training was read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secondgram as sg
from secondgram.cohort.missing_codes import SETS, listed_codes, read_codes
from secondgram.errors import InputError

STATA = 2.0**1023


def frame(people: int = 60, seed: int = 0) -> pd.DataFrame:
    """A long table of two visits with volumes, an age, years of education, a text, an outcome and times."""
    rng = np.random.default_rng(seed)
    level = rng.normal(4000, 300, people)
    rows = []
    for person in range(people):
        for visit in (0, 1):
            rows.append(
                {
                    "subject_id": f"P{person:03d}",
                    "visit": visit,
                    "time_years": 2.0 * visit,
                    "age": 50.0 + person % 30,
                    "education": float(10 + person % 8),
                    "sex": "FM"[person % 2],
                    "smoker": ("yes", "no", "refused")[person % 3],
                    "memory": float(person % 5),
                    "left": round(level[person] - 20 * visit + rng.normal(0, 20), 1),
                    "right": round(level[person] - 25 * visit + rng.normal(0, 20), 1),
                }
            )
    return pd.DataFrame(rows)


OPTIONS: dict[str, Any] = {"static": ["age", "education", "sex", "smoker"], "outcomes": ["memory"]}


def read(table: pd.DataFrame, **more: Any) -> sg.Cohort:
    return sg.read_cohort(table, **(OPTIONS | more))


@pytest.mark.parametrize(
    ("asked", "entries"),
    [
        (None, ()),
        ("-4,-9999", ("-4", "-9999")),
        ("", ()),
        ([], ()),
        (-4, (-4.0,)),
        ([np.int64(-4), " unknown "], (-4.0, "unknown")),
        ("adni", ("adni",)),
        ({"left": 0, "r*": [-1, "none"]}, ("left=0", "r*=-1", "r*=none")),
        (["ukb", {"left": 0}], ("ukb", "left=0")),
    ],
)
def test_codes_are_listed_one_by_one(asked: Any, entries: tuple[Any, ...]) -> None:
    found = () if asked is None else listed_codes(asked)
    assert found == entries
    # A model folder keeps them as JSON.
    assert tuple(json.loads(json.dumps(found))) == entries
    assert len(read_codes(found)) == len(entries)


@pytest.mark.parametrize("asked", [[None], [float("nan")], [True], object(), {"left": []}, [""], ["left="], ["=4"]])
def test_what_is_no_code_is_refused(asked: Any) -> None:
    with pytest.raises(InputError, match="no code"):
        read(frame(), missing=asked)


@pytest.mark.parametrize("kind", ["memory", "csv", "parquet"])
@pytest.mark.parametrize("code", [-4, -9999, "-4.0", 999.5, "-1e3"])
def test_a_number_is_missing_wherever_it_stands(code: Any, kind: str, tmp_path: Path) -> None:
    table = frame()
    value = float(code)
    places = {"left": [0, 5], "education": [4], "memory": [8, 9], "time_years": [7]}
    for name, rows in places.items():
        table.loc[rows, name] = value
    source: Any = table
    if kind == "csv":
        source = tmp_path / "t.csv"
        table.to_csv(source, index=False)
    elif kind == "parquet":
        source = tmp_path / "t.parquet"
        table.to_parquet(source)
    cohort = read(source, missing=[code])
    assert np.argwhere(np.isnan(cohort.visits[:, :, 0])).tolist() == [[0, 0], [2, 1]]
    assert not np.isnan(cohort.visits[:, :, 1]).any()
    assert np.flatnonzero(np.isnan(cohort.covariate_table["education"])).tolist() == []  # the next visit tells
    assert np.flatnonzero(np.isnan(cohort.outcomes["memory"])).tolist() == [4]
    assert np.argwhere(np.isnan(cohort.times)).tolist() == [[3, 1]]
    said = next(note for note in cohort.notes if note.startswith("read as missing"))
    written = code if isinstance(code, str) else f"{code:g}"
    assert f"left (2 of {written})" in said
    assert f"education (1 of {written})" in said


def test_text_is_missing_as_it_is_written_and_numbers_survive_it() -> None:
    table = frame()
    table["left"] = table["left"].astype(str)
    table.loc[3, "left"] = " not done "
    table.loc[4, "left"] = "-4.00"
    table.loc[[5, 6], "smoker"] = "-4"
    cohort = read(table, missing=["not done", -4, "refused"])
    assert np.argwhere(np.isnan(cohort.visits[:, :, 0])).tolist() == [[1, 1], [2, 0]]
    assert list(cohort.covariate_table["smoker"].cat.categories) == ["no", "yes"]
    with pytest.raises(InputError, match="not done"):
        read(table, features=["left", "right"])


def test_zero_is_a_code_of_features_alone_unless_a_column_is_named() -> None:
    table = frame()
    table.loc[2, "left"] = table.loc[4, "right"] = 0
    table["education"] = 0.0 + (table.index // 2) % 2
    cohort = read(table, missing=[0])
    assert np.isnan(cohort.visits).sum() == 2
    assert np.isfinite(cohort.times).all()
    assert np.isfinite(cohort.covariate_table["education"]).all()
    assert np.isnan(read(table, missing=["left=0"]).visits).sum() == 1
    assert np.isnan(read(table, missing={"education": 0}).covariate_table["education"]).sum() == 30


SET_CELLS: list[tuple[str, str, float | str, bool]] = [
    ("adni", "left", -4, True),
    ("adni", "left", -1, True),
    ("adni", "education", -4, True),
    ("adni", "left", -9, False),
    ("ukb", "education", -1, True),
    ("ukb", "education", -3, True),
    ("ukb", "education", -818, True),
    ("ukb", "education", -7, False),
    ("ukb", "education", -10, False),
    ("ukb", "left", -1, False),
    ("stata", "left", STATA, True),
    ("stata", "left", 8.98846567431158e307, True),
    ("stata", "left", STATA * (1 + 26 / 4096), True),
    ("stata", "left", 2.0**127, True),
    ("stata", "left", 1.70141173319264e38, False),
    ("stata", "left", 1e38, False),
    ("stata", "memory", ".a", True),
    ("spss", "left", -1.797693134862316e308, True),
    ("spss", "left", -1.7976931348623157e308, True),
    ("spss", "left", "#NULL!", True),
    ("spss", "left", -1e308, False),
]


@pytest.mark.parametrize(("name", "column", "value", "gone"), SET_CELLS)
def test_sets_by_name(name: str, column: str, value: Any, gone: bool, tmp_path: Path) -> None:
    table = frame()
    table[column] = table[column].astype(object)
    table.loc[[2, 3], column] = value if isinstance(value, str) else f"{value:.16g}"
    table.to_csv(tmp_path / "t.csv", index=False)
    # What looks like a code of another kind is refused otherwise.
    reading: Callable[[], sg.Cohort] = lambda: read(tmp_path / "t.csv", missing=name, checks="warn")  # noqa: E731
    if not gone and abs(float(value)) > 1e150:
        with pytest.raises(InputError, match=column):
            reading()
        return
    cohort = reading()
    places = {"education": cohort.covariate_table, "memory": cohort.outcomes}
    cells = np.asarray(places[column][column]) if column in places else cohort.visits[:, 0, 0]
    assert np.flatnonzero(np.isnan(cells.astype(float))).tolist() == ([1] if gone else [])


def test_every_set_is_described() -> None:
    assert set(SETS) == {"adni", "spss", "stata", "ukb"}
    for name in SETS:
        assert f'"{name}"' in (sg.read_cohort.__doc__ or "")


@pytest.mark.parametrize("kind", [pa.int64(), pa.int16(), pa.float32(), pa.decimal128(22, 2), pa.string()])
def test_codes_of_every_type_of_column(kind: pa.DataType) -> None:
    table = frame()
    whole = table["left"].round()
    whole.iloc[6] = -999
    cells = [f"{value:.0f}" for value in whole] if kind == pa.string() else whole.astype(int).tolist()
    columns = {name: pa.array(table[name]) for name in table} | {"left": pa.array(cells).cast(kind)}
    cohort = sg.read_cohort(pa.table(columns), **OPTIONS, missing=[-999])
    assert np.argwhere(np.isnan(cohort.visits[:, :, 0])).tolist() == [[3, 0]]


def test_ids_visits_sites_and_families_keep_their_codes() -> None:
    table = frame()
    table["subject_id"] = [str(row // 2) for row in range(len(table))]
    table["site"] = table["family_id"] = "1"
    cohort = read(table, missing=[1, "2"])
    assert len(cohort) == 60
    assert cohort.visit_labels == ("0", "1")
    assert cohort.site is not None
    assert set(cohort.site) == {"1"}
    assert cohort.groups is not None


def test_wide_tables_and_a_code_of_one_visit() -> None:
    table = pd.DataFrame({"subject_id": ["a", "b", "c"], "v_0": [1.0, -9, 3.0], "v_1": [-9, 2.0, 3.0], "w_0": 1.5})
    cohort = sg.read_cohort(table, missing=[-9])
    assert np.argwhere(np.isnan(cohort.visits[:, :, 0])).tolist() == [[0, 1], [1, 0]]
    assert "read as missing: v (2 of -9)" in cohort.notes
    assert np.isnan(sg.read_cohort(table, missing={"v": -9}).visits[:, :, 0]).sum() == 2


def test_codes_that_stand_nowhere_and_columns_that_are_not_there() -> None:
    assert "codes for missing that stand nowhere: -77" in read(frame(), missing=[-77]).notes
    with pytest.raises(InputError, match=r"'Left'.*is no feature") as error:
        read(frame(), missing={"Left": 0})
    assert "left" in str(error.value)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with codes, and a model of it that knows them."""
    folder = tmp_path_factory.mktemp("codes")
    table = frame()
    table.loc[table.index % 24 == 5, "left"] = -9999
    table.loc[table["visit"].eq(1) & (table.index > 80), ["left", "right"]] = -9999
    table.to_csv(folder / "t.csv", index=False)
    imputer = sg.SecondgramImputer(shape="off").fit(read(folder / "t.csv", missing=[-9999]), show=False)
    imputer.save(folder / "model")
    return folder


def test_a_model_reads_with_the_codes_of_its_training(study: Path) -> None:
    imputer = sg.load(study / "model")
    assert imputer.known.missing == (-9999.0,)
    cohort = sg.read_cohort(study / "t.csv", like=imputer)
    assert cohort.missing == (-9999.0,)
    assert np.nanmin(cohort.visits) > 0
    assert any(note.startswith("read as missing: left") for note in cohort.notes)
    assert not any("nowhere" in note for note in sg.read_cohort(frame(), like=imputer, **OPTIONS).notes)
    # An explicit list replaces them.
    assert sg.read_cohort(frame(), like=imputer, missing=[], **OPTIONS).missing == ()


def test_a_model_of_before_knows_no_codes(study: Path, tmp_path: Path) -> None:
    from secondgram.imputation.imputer import MODEL_KIND
    from secondgram.model_folder import read_folder, write_folder

    tree = read_folder(study / "model", MODEL_KIND)
    del tree["missing"]
    write_folder(tmp_path / "old", MODEL_KIND, tree)
    assert sg.load(tmp_path / "old").known.missing == ()


def test_the_command_takes_codes(study: Path, tmp_path: Path, cli: Any) -> None:
    roles = ["--static", "age,education,sex,smoker", "--outcomes", "memory"]
    done = cli(
        "fit", study / "t.csv", "--out", tmp_path / "m", "--set", "shape=off", "--missing", "-9999,left=-4", *roles
    )
    assert done.code == 0, done.err
    assert "of -9999" in done.err
    assert sg.load(tmp_path / "m").known.missing == ("-9999", "left=-4")
    done = cli("impute", tmp_path / "m", study / "t.csv", "--out", tmp_path / "d.parquet", "--draws", "2")
    assert done.code == 0, done.err
    assert pd.read_parquet(tmp_path / "d.parquet")["left"].min() > 0


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.sampled_from([1.5, 2.0, 3.25, -4.0, 0.0, 77.0]), min_size=4, max_size=12),
    codes=st.sets(st.sampled_from([-4.0, 0.0, 77.0]), max_size=3),
    text=st.booleans(),
)
def test_what_is_left_is_what_was_measured(values: list[float], codes: set[float], text: bool) -> None:
    kept = [value if value not in codes else None for value in values]
    kept[0] = values[0] = 1.5
    table = pd.DataFrame({"subject_id": [f"p{row}" for row in range(len(values))], "visit": 0, "x": values, "y": 1.0})
    if text:
        table["x"] = table["x"].map(str)
    cohort = sg.read_cohort(table, missing=sorted(codes), features=["x", "y"])
    np.testing.assert_array_equal(cohort.visits[:, 0, 0], np.array(kept, dtype=float))
