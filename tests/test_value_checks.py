"""Values that cannot be right: codes, slips of a decimal point, other units, and none of these among clean values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secondgram as sg
from secondgram.cohort.feature_ranges import FeatureRanges
from secondgram.cohort.value_checks import Suspect, check_column, is_code, suspicious
from secondgram.cohort.value_findings import CHECKS
from secondgram.errors import InputError
from secondgram.imputation.numeric_faults import named_faults, whole

Make = Callable[[np.random.Generator, int], np.ndarray]
CLEAN: dict[str, Make] = {
    "normal": lambda rng, n: rng.normal(4000, 400, n),
    "wide normal": lambda rng, n: rng.normal(4000, 1000, n),
    "thickness": lambda rng, n: rng.normal(2.5, 0.12, n).round(3),
    "whole numbers": lambda rng, n: rng.normal(1600, 200, n).round(),
    "standardised": lambda rng, n: rng.normal(0, 1, n),
    "log-normal": lambda rng, n: np.exp(rng.normal(6, 1, n)),
    "very skewed": lambda rng, n: np.exp(rng.normal(6, 1.5, n)),
    "gamma": lambda rng, n: rng.gamma(2, 100, n),
    "zero-inflated": lambda rng, n: np.where(rng.random(n) < 0.46, 0, np.exp(rng.normal(5, 1.2, n))),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0, np.exp(rng.normal(5, 1.2, n))),
    "counts": lambda rng, n: rng.poisson(3, n).astype(float),
    "overdispersed counts": lambda rng, n: rng.negative_binomial(0.5, 0.1, n).astype(float),
    "t(3)": lambda rng, n: 4000 + 80 * rng.standard_t(3, n),
    "t(3) about 0": lambda rng, n: rng.standard_t(3, n),
    "two scanners": lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(4000, 150, n), rng.normal(6500, 200, n)),
    "percentages": lambda rng, n: 100 * rng.beta(8, 2, n),
    "a score to 30": lambda rng, n: np.minimum(30, (30 - rng.gamma(1.5, 2, n)).round()),
    "binary": lambda rng, n: (rng.random(n) < 0.05).astype(float),
    "ordinal": lambda rng, n: rng.choice(5, n, p=[0.6, 0.25, 0.1, 0.04, 0.01]).astype(float),
    "age": lambda rng, n: rng.uniform(45, 80, n).round(1),
    "education": lambda rng, n: rng.integers(8, 21, n).astype(float),
}
TABLES = 40


def visits(kind: str, people: int, seed: int) -> np.ndarray:
    """(N, 2, 1) a feature of which half of the people have a second visit, near the first one."""
    rng = np.random.default_rng([seed, people, list(CLEAN).index(kind)])
    first = CLEAN[kind](rng, people)
    second = first if len(np.unique(first)) < people // 2 else first * (1 + rng.normal(0, 0.02, people))
    return np.stack([first, np.where(rng.random(people) < 0.5, second, np.nan)], axis=1)[:, :, None]


def found(values: np.ndarray) -> list[Suspect]:
    people, slots, _ = values.shape
    suspects = check_column(values[:, :, 0].ravel(), np.repeat(np.arange(people), slots), "x")
    # The screening loses nothing that the check finds.
    assert not suspects or suspicious(values)[0]
    return suspects


@pytest.mark.parametrize("kind", CLEAN)
def test_clean_values_raise_no_alarm(kind: str) -> None:
    refused = warned = 0
    for seed in range(TABLES):
        suspects = found(visits(kind, (60, 180)[seed % 2], seed))
        refused += any(suspect.refused for suspect in suspects)
        warned += any(not suspect.refused for suspect in suspects)
    assert refused == 0
    # A single value far off is told, and not refused: one in twenty of columns with heavy tails has one.
    assert warned <= TABLES // 20


CODES: list[tuple[str, float, int]] = [
    *(("normal", code, 3) for code in (-9999.0, -999.0, -99.0, -4.0, -1.0, 0.0, 999.0, 9999.0, 99.0)),
    *(("thickness", code, 3) for code in (-9999.0, -1.0, 0.0, 99.0, 999.0)),
    *(("two scanners", code, 4) for code in (-9999.0, -4.0, 0.0, 999.0)),
    *(("log-normal", code, 4) for code in (-9999.0, -4.0, -1.0)),
    *(("zero-inflated", code, 4) for code in (-9999.0, -99.0, -4.0)),
    *(("counts", code, 4) for code in (-9999.0, 99.0, 999.0)),
    *(("standardised", code, 3) for code in (-9999.0, -99.0, 99.0, 999.0)),
    *(("normal", code, 1) for code in (-9999.0, -99.0, -4.0, 9999.0, 2147483647.0, 1e15, 2.0**1023)),
    *(("education", code, 3) for code in (-99.0, 99.0, -9999.0)),
    *(("normal", code, 60) for code in (-9999.0, -4.0)),
]


@pytest.mark.parametrize(("kind", "code", "cells"), CODES)
def test_codes_are_found_and_refused(kind: str, code: float, cells: int) -> None:
    for seed in range(8):
        values = visits(kind, 120, seed)
        who = np.random.default_rng(seed).choice(120, cells, replace=False)
        values[who, 0] = code
        refused = [suspect for suspect in found(values) if suspect.refused]
        assert [suspect.value for suspect in refused] == [code]
        assert set(refused[0].cells // 2) == set(who)


def test_several_codes_in_one_column() -> None:
    values = visits("normal", 200, 1)
    for place, code in enumerate((-4.0, -9999.0, 9999.0, -1.0)):
        values[10 * place : 10 * place + 5, 0] = code
    values[100, 0] *= 1000
    suspects = found(values)
    assert {suspect.value for suspect in suspects if suspect.refused} == {-4, -9999, 9999, -1}
    assert len([suspect for suspect in suspects if suspect.kind == "far"]) == 1


@pytest.mark.parametrize("kind", ["normal", "thickness", "whole numbers"])
@pytest.mark.parametrize("factor", [10.0, 100.0, 1000.0, 0.1, 0.01, 0.001])
def test_a_slip_of_the_decimal_point_is_told(kind: str, factor: float) -> None:
    hits = 0
    for seed in range(20):
        values = visits(kind, 120, seed)
        values[7, 0] *= factor
        suspects = found(values)
        assert not any(suspect.refused for suspect in suspects)
        hits += [suspect.cells.tolist() for suspect in suspects] == [[14]]
    assert hits >= 19


@pytest.mark.parametrize(("factor", "refused"), [(1000.0, True), (0.001, True), (10.0, False)])
def test_two_units_in_one_column(factor: float, refused: bool) -> None:
    values = visits("normal", 120, 3)
    values[:30] *= factor
    (suspect,) = found(values)
    assert suspect.kind == "units"
    assert suspect.refused is refused
    assert set(suspect.cells // 2) == set(range(30))


def test_codes_near_usual_answers_are_told() -> None:
    cups = np.arange(120.0) % 7
    cups[[3, 9]], cups[[20, 40]] = -1, -3
    assert [(suspect.value, suspect.refused) for suspect in check_column(cups, np.arange(120), "cups")] == [
        (-3, False),
        (-1, False),
    ]
    # Steps to either side are no codes.
    assert check_column(np.arange(120.0) % 9 - 3, np.arange(120), "steps") == []


def test_a_person_counts_once() -> None:
    """Whose volume is the same at both visits, and far off, is no code."""
    values = visits("normal", 120, 5)
    values[3] = 7600.0
    assert not any(suspect.refused for suspect in found(values))


@pytest.mark.parametrize("value", [0, -1, -9, 99, -99, 999, 9999, -9.99, 777, -888, 88])
def test_usual_codes(value: float) -> None:
    assert is_code(value)


@pytest.mark.parametrize("value", [1, 9, -11, 98, 9998, 3805.1, 7, 0.5, -0.5])
def test_usual_values_are_no_codes(value: float) -> None:
    assert not is_code(value)


# -- from file to findings ------------------------------------------------------------------


def frame(people: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    level, change = rng.normal(3900, 300, (people, 2)), rng.normal(-30, 40, (people, 2))
    rows = [
        {
            "subject_id": f"P{person:02d}",
            "visit": visit,
            "age": 50.0 + person % 25,
            "education": 10.0 + person % 8,
            "smoker": ("yes", "no", "never")[person % 3],
            "score": float(person % 6),
            **{
                name: round(level[person, place] + change[person, place] * visit, 1)
                for place, name in enumerate(("left", "right"))
            },
        }
        for person in range(people)
        for visit in (0, 1)
        if visit == 0 or person % 2
    ]
    return pd.DataFrame(rows)


OPTIONS: dict[str, Any] = {"static": ["age", "education", "smoker"], "outcomes": ["score"]}


def spoilt(**cells: dict[int, object]) -> pd.DataFrame:
    table = frame()
    for name, values in cells.items():
        table[name] = table[name].astype(object)
        for row, value in values.items():
            table.loc[row, name] = value
    return table


SPOILT: list[tuple[dict[str, dict[int, object]], str, int, str, bool]] = [
    ({"left": {4: -9999, 9: -9999}}, "left", 6, "-9999 stands there for 2 people", True),
    ({"right": {5: 0, 8: 0, 11: 0}}, "right", 7, "0 stands there for 3 people", True),
    ({"left": {4: 3900000}}, "left", 6, "3900000 stands far off alone", False),
    ({"left": {4: 8.98846567431158e307}}, "left", 6, "8.98847e+307 is no measurement", True),
    ({"education": {3: -99, 6: -99, 9: -99}}, "education", 5, "-99 stands there for 3 people", True),
    ({"education": {0: -1, 3: -1, 6: -1}}, "education", 2, "-1 stands there for 3 people", True),
    ({"smoker": {0: "-9", 3: "-9"}}, "smoker", 2, "a number among 3 words", False),
    ({"score": {0: -99, 3: -99, 6: -99}}, "score", 2, "-99 stands there", False),
]


@pytest.mark.parametrize(("cells", "column", "row", "problem", "refused"), SPOILT)
@pytest.mark.parametrize("file", [True, False])
def test_findings_tell_column_and_row(
    cells: dict[str, dict[int, object]], column: str, row: int, problem: str, refused: bool, file: bool, tmp_path: Path
) -> None:
    table = spoilt(**cells)
    source: Any = table.infer_objects()
    if file:
        source = tmp_path / "t.csv"
        table.to_csv(source, index=False)
    row -= 0 if file else 1
    cohort = sg.read_cohort(source, checks="list", **OPTIONS)
    first = next(finding for finding in cohort.check() if problem in finding.problem)
    assert (first.column, first.row, first.refused) == (column, row, refused)
    assert first.mend
    assert any(f"column '{column}' (row {row}" in note for note in cohort.notes)
    if refused:
        with pytest.raises(InputError, match=f"column '{column}', row {row}") as error:
            sg.read_cohort(source, **OPTIONS)
        assert "--missing" in str(error.value)
    else:
        assert sg.read_cohort(source, **OPTIONS).notes == cohort.notes


def test_the_mend_of_a_refusal_mends_it() -> None:
    table = spoilt(
        left={4: -9999, 9: -9999, 10: -4, 14: -4}, right={5: 0, 8: 0, 11: 0}, education={3: -99, 6: -99, 9: -99}
    )
    with pytest.raises(InputError, match="also column") as error:
        sg.read_cohort(table.infer_objects(), **OPTIONS)
    codes = str(error.value).partition("--missing ")[2].partition(" ")[0]
    cohort = sg.read_cohort(table.infer_objects(), missing=codes, **OPTIONS)
    assert cohort.check() == ()
    assert np.isnan(cohort.visits).sum() - np.isnan(sg.read_cohort(frame(), **OPTIONS).visits).sum() == 7
    warned = sg.read_cohort(table.infer_objects(), checks="warn", **OPTIONS)
    assert len(warned.check()) == 4
    assert np.nanmin(warned.visits) == -9999


def test_wide_tables_name_the_column_of_the_visit() -> None:
    table = frame().pivot_table(index="subject_id", columns="visit", values=["left", "right"])
    table.columns = [f"{name}_{visit}" for name, visit in table.columns]
    table.iloc[[3, 5], list(table.columns).index("right_1")] = -9999.0
    with pytest.raises(InputError, match="column 'right_1', row 4"):
        sg.read_cohort(table.reset_index())


def test_a_cohort_made_of_arrays_is_checked_when_asked() -> None:
    cohort = sg.simulate(60, 3, 0.5, seed=1)
    assert cohort.findings is None
    assert cohort.check() == ()
    values = cohort.visits.copy()
    values[[4, 9], 0, 1] = -9999
    (finding,) = replace(cohort, visits=values).check()
    assert (finding.column, finding.subject, finding.cells) == (cohort.features[1], cohort.ids[4], 2)
    # What is far off depends on who is there.
    assert sg.read_cohort(frame(), **OPTIONS).take([0, 1]).findings is None


@pytest.mark.parametrize("value", ["Refuse", "", None])
def test_unknown_checks_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=", ".join(CHECKS)):
        sg.read_cohort(frame(), checks=value, **OPTIONS)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["normal", "thickness", "log-normal", "zero-inflated", "counts", "two scanners"]),
    code=st.sampled_from([-9999.0, -999.0, -777.0]),
    cells=st.integers(2, 30),
    seed=st.integers(0, 10_000),
)
def test_a_code_is_found_in_any_kind_of_column(kind: str, code: float, cells: int, seed: int) -> None:
    values = visits(kind, 80, seed)
    values[:cells, 0] = code
    assert code in [suspect.value for suspect in found(values) if suspect.refused]


# -- what a model was trained on -----------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with one slip, a model of it, and tables to impute."""
    folder = tmp_path_factory.mktemp("ranges")
    spoilt(left={4: 3900000}).to_csv(folder / "t.csv", index=False)
    cohort = sg.read_cohort(folder / "t.csv", **OPTIONS)
    sg.SecondgramImputer(shape="off").fit(cohort, show=False).save(folder / "model")
    return folder


def fresh(scale: float = 1.0, people: int = 30) -> pd.DataFrame:
    table = frame()
    table = table[table["visit"] == 0].head(people).assign(score=1.0)
    for name in ("left", "right"):
        table[name] = (table[name] * scale).round(4)
    return table.reset_index(drop=True)


def test_a_slip_in_training_widens_no_range(study: Path) -> None:
    ranges = sg.load(study / "model").ranges_
    assert ranges is not None
    assert ranges.high.max() < 6000


@pytest.mark.parametrize(("scale", "people"), [(0.001, 30), (1000.0, 30), (10.0, 30), (0.001, 1), (1e-6, 2), (-1.0, 9)])
def test_another_unit_is_refused(study: Path, scale: float, people: int) -> None:
    imputer = sg.load(study / "model")
    table = fresh(scale, people)
    with pytest.raises(InputError, match=r"column 'left'.*right.*checks='warn'"):
        sg.read_cohort(table, like=imputer)
    cohort = sg.read_cohort(table, like=imputer, checks="warn")
    with pytest.raises(InputError, match=r"column 'left'.*right.*checks='warn'"):
        imputer.impute(cohort, draws=1, show=False)
    assert any("look at" in note for note in imputer.impute(cohort, draws=1, show=False, checks="warn").notes)


def test_people_far_outside_are_named_and_others_are_not(study: Path) -> None:
    imputer = sg.load(study / "model")
    assert not any("look at" in note for note in imputer.impute(sg.read_cohort(fresh(), like=imputer), 1).notes)
    table = fresh()
    table.loc[3, "left"] = 9800.0
    cohort = sg.read_cohort(table, like=imputer)
    notes = [note for note in imputer.impute(cohort, draws=1, show=False).notes if "look at" in note]
    assert len(notes) == 1
    assert "row 4, subject P03" in notes[0]
    assert notes[0] in cohort.notes
    assert "9800" in notes[0]
    table.loc[4, "left"] = -9
    with pytest.raises(InputError, match="'left', row 5: -9 is a usual code"):
        sg.read_cohort(table, like=imputer)


def test_a_model_of_before_says_that_values_are_not_compared(study: Path, tmp_path: Path) -> None:
    from secondgram.imputation.imputer import MODEL_KIND
    from secondgram.model_folder import read_folder, write_folder

    tree = read_folder(study / "model", MODEL_KIND)
    del tree["ranges"]
    write_folder(tmp_path / "old", MODEL_KIND, tree)
    imputer = sg.load(tmp_path / "old")
    assert imputer.known.ranges is None
    result = imputer.impute(sg.read_cohort(fresh(0.001), like=imputer), draws=1, show=False)
    assert any("does not say which values" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["log-normal", "zero-inflated", "counts", "t(3)", "normal", "gamma", "standardised"])
def test_people_of_the_same_kind_are_not_outside(kind: str) -> None:
    alarms = 0
    for seed in range(TABLES):
        ranges = FeatureRanges.fit(visits(kind, 120, seed), ["x"])
        suspects = ranges.check(visits(kind, 60, 1000 + seed)[:, 0])
        assert not any(suspect.refused for _, suspect in suspects)
        alarms += bool(suspects)
    assert alarms <= TABLES // 20


# -- no number that is none ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_draw_that_is_no_number_leaves(
    study: Path, bad: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from secondgram.imputation.default.model import DefaultModel

    imputer = sg.load(study / "model")
    finish = DefaultModel.finish

    def broken(*given: Any) -> np.ndarray:
        values = finish(*given)
        values[0, 2, 1] = bad
        return values

    monkeypatch.setattr(DefaultModel, "finish", broken)
    cohort = sg.read_cohort(fresh(), like=imputer)
    with pytest.raises(InputError, match=r"column 'right'.*P02"):
        imputer.impute(cohort, draws=2, show=False, out=tmp_path / "d.parquet")
    assert not (tmp_path / "d.parquet").exists()
    with pytest.raises(InputError, match=r"column 'right'.*P02"):
        _ = imputer.impute(cohort, draws=2, show=False).draws


def test_large_numbers_are_numbers() -> None:
    values = np.full((2, 3, 1), 3e38, dtype=np.float32)
    assert whole(values, ["x"], np.arange(3)) is values


def test_a_matrix_that_cannot_be_inverted_names_its_column() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2, 3))
    values[:, :, 1] = 4.0
    with pytest.raises(InputError, match=r"column 'b'.*Singular"), named_faults(values, ["a", "b", "c"], "t.csv"):
        np.linalg.inv(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="other"), named_faults(values, ["a", "b", "c"], None):
        raise ValueError("other")


# -- the command ---------------------------------------------------------------------------------------

ROLES = ["--static", "age,education,smoker", "--outcomes", "score"]


def test_the_command_lists_findings(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame().to_csv("clean.csv", index=False)
    spoilt(left={4: -9999, 9: -9999}, right={7: 3900000, 11: 8.98846567431158e307}).to_csv("bad.csv", index=False)
    done = cli("check", "clean.csv", *ROLES)
    assert (done.code, "nothing was found" in done.out) == (0, True)
    done = cli("check", "bad.csv", *ROLES)
    assert done.code == 1
    for word in ("left", "row 6", "-9999", "row 13", "row 9", "--missing -9999"):
        assert word in done.out
    done = cli("check", "bad.csv", "--json", *ROLES)
    facts = json.loads(done.out)
    assert done.code == 1
    assert [(each["column"], each["row"], each["refused"]) for each in facts["findings"]] == [
        ("right", 13, True),
        ("left", 6, True),
        ("right", 9, False),
    ]
    assert cli("check", "none.csv").code == 2
    assert cli("check", "bad.csv", "--missing", "-9999,stata", *ROLES).out.count("far off") == 1


def test_fit_refuses_and_warns(tmp_path: Path, cli: Any) -> None:
    spoilt(left={4: -9999, 9: -9999}).to_csv(tmp_path / "bad.csv", index=False)
    done = cli("fit", tmp_path / "bad.csv", "--out", tmp_path / "m", "--set", "shape=off", "-q", *ROLES)
    assert done.code == 2
    assert "row 6" in done.err
    assert not (tmp_path / "m").exists()


def test_impute_refuses_another_unit_and_leaves_nothing(study: Path, tmp_path: Path, cli: Any) -> None:
    fresh(0.001).to_csv(tmp_path / "cm3.csv", index=False)
    words = ["impute", study / "model", tmp_path / "cm3.csv", "--out", tmp_path / "d.parquet", "--draws", "2", "-q"]
    done = cli(*words)
    assert done.code == 2
    assert "1/1,000 of that of training" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["cm3.csv"]
    done = cli(*words, "--checks", "warn")
    assert done.code == 0
    # Told once, though -q was given.
    assert done.err.count("column 'left'") == 1


def test_one_more_of_a_few_whole_numbers_is_a_count_and_no_code() -> None:
    counts = np.array([1, 2, 2, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 3, 3, 5, 5, 4, 10, 10, 10], dtype=float)
    people = np.arange(len(counts)).astype(str)
    assert not check_column(counts, people, "holes")
    far = np.where(counts == 10, 30.0, counts)
    assert [each.kind for each in check_column(far, people, "holes")] == ["code"]
