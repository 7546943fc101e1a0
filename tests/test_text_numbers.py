"""Numbers and tables as people write them: marks of decimals and thousands, separators, lines above the header."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secondgram as sg
from secondgram.cohort.text_format import find_format


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def read(cells: list[str], **options: object) -> list[float]:
    """Cells of a column of features of a table in memory, one person each, beside a column of plain numbers."""
    count = len(cells)
    table = pd.DataFrame({"id": np.arange(count), "visit": 0, "x": cells, "plain": np.arange(count) * 1.5 + 1})
    return sg.read_cohort(table, features=["x", "plain"], **options).baseline[:, 0].tolist()  # type: ignore[arg-type]


MEANT = [
    (["61,2", "55,0", "70"], [61.2, 55, 70]),
    (["1.480,5", "912,25", "1.480.211"], [1480.5, 912.25, 1480211]),
    (["1,480.5", "912.25", "1,480,211"], [1480.5, 912.25, 1480211]),
    (["1,480,211", "1,234", "912"], [1480211, 1234, 912]),
    (["1,480.5", "1,234", "912"], [1480.5, 1234, 912]),
    (["1480,5", "1.234", "912"], [1480.5, 1234, 912]),
    (["3,5", "1,234", "0,123"], [3.5, 1.234, 0.123]),
    (["1 480 211", "912", "12 000"], [1480211, 912, 12000]),
    (["1\u202f480\u202f211,5", "912", "12\u00a0000"], [1480211.5, 912, 12000]),
    (["1'480'211.5", "912", "12\u2019000"], [1480211.5, 912, 12000]),
    (["-3,5", "+1,25", "2,5e-3"], [-3.5, 1.25, 0.0025]),
    ([",5", "1,", "12,75"], [0.5, 1, 12.75]),
    ([" 61,2", "NA", "n/a"], [61.2, np.nan, np.nan]),
    (["1234,567", "12345,678", "1"], [1234.567, 12345.678, 1]),
    (["0,5", "7.000", "2.500"], [0.5, 7000, 2500]),
]


@pytest.mark.parametrize(("cells", "meant"), MEANT)
def test_a_column_tells_its_marks(cells: list[str], meant: list[float]) -> None:
    np.testing.assert_array_equal(read(cells), meant)


REFUSED = [
    (["3,5", "3.5", "4.25"], r"column 'x', row 1: '3,5' is no number beside '3.5' of row 2"),
    (["3,5", "3,25", "4.5"], r"row 3: '4.5' is no number beside '3,5' of row 1"),
    (["1,480.5", "3,5", "1,234.5"], r"row 2: '3,5' is no number beside '1,480.5'"),
    (["1,234", "2,500", "912"], r"row 1: '1,234' may be 1234 or 1.234, and no other cell tells which.*--decimal"),
    (["1,234", "2.500", "912"], r"row 1: '1,234' may be 1234 or 1.234"),
    (["12,34", "1,2,3", "4"], r"row 2: '1,2,3' is no number"),
    (["12,34,567.5", "1,500.5", "4"], r"row 1: '12,34,567.5' is no number"),
    (["3,5", "3,5 mm", "4"], r"row 2: '3,5 mm' is no number"),
]


@pytest.mark.parametrize(("cells", "message"), REFUSED)
def test_what_no_column_tells_is_refused(cells: list[str], message: str) -> None:
    table = pd.DataFrame({"id": range(3), "visit": 0, "x": cells})
    with pytest.raises(sg.InputError, match=message):
        sg.read_cohort(table, features=["x"])


def test_other_columns_tell_the_mark(tmp_path: Path) -> None:
    def column(header: str, rows: list[str]) -> list[float]:
        cohort = sg.read_cohort(write(tmp_path, "\n".join([header, *rows]) + "\n"))
        return cohort.baseline[:, cohort.features.index("x")].tolist()

    assert column("id\tvisit\tx\ty", ["1\t0\t1,234\t3,5", "2\t0\t2,500\t4"]) == [1.234, 2.5]
    assert column("id\tvisit\tx\ty", ["1\t0\t1,234\t1,234.5", "2\t0\t2,500\t4"]) == [1234, 2500]
    assert column('id,visit,"x",y', ['1,0,"1,234","1,480,211"', '2,0,"2,500",4']) == [1234, 2500]
    assert any(note.startswith("x: '1,234' is read as 1234") for note in sg.read_cohort(tmp_path / "table.csv").notes)
    # Points that were read as decimals are looked at again.
    with pytest.raises(sg.InputError, match=r"column 'x', row 2: '1.234' may be 1234 or 1.234"):
        column("id;visit;x;y", ["1;0;1.234;3,5", "2;0;2.500;4"])
    assert column("id;visit;x;y", ["1;0;0.234;3,5", "2;0;2.500;4"]) == [0.234, 2.5]
    assert column("id;visit;x;y", ["1;0;1.234,5;3,5", "2;0;2.500;4"]) == [1234.5, 2500]
    # Beside whole numbers and thousands alone, nothing tells that a point divides decimals: it is said.
    assert column("id\tvisit\tx\ty", ["1\t0\t1.234\t1", "2\t0\t2.500\t3.125"]) == [1.234, 2.5]
    told = "x: '1.234' is read as 1.234, though no cell tells that points divide decimals in x, y; if not so"
    assert any(note.startswith(told) for note in sg.read_cohort(tmp_path / "table.csv").notes)
    column("id\tvisit\tx\ty", ["1\t0\t1.234\t1", "2\t0\t2.500\t3.25"])
    assert not any("is read as" in note for note in sg.read_cohort(tmp_path / "table.csv").notes)
    # Beside whole hundreds, it may divide thousands all the same.
    assert column("id\tvisit\tx\ty", ["1\t0\t1.234\t1.5", "2\t0\t912\t3.25"]) == [1.234, 912]
    told = "x: '1.234' is read as 1.234, though the column has whole hundreds without a point"
    assert any(note.startswith(told) for note in sg.read_cohort(tmp_path / "table.csv").notes)
    # A file of both kinds: points stay what they are, and a lone comma cannot be told.
    assert column("id;visit;x;y;z", ["1;0;1.234;3,5;1.5", "2;0;2.500;4;2"]) == [1.234, 2.5]
    with pytest.raises(sg.InputError, match="'1,234' may be"):
        column("id;visit;x;y;z", ["1;0;1,234;3,5;1.5", "2;0;2,500;4;2"])


def test_between_semicolons_a_comma_divides_decimals(tmp_path: Path) -> None:
    path = write(tmp_path, "id;visit;x\n1;0;1,234\n2;0;2,500\n")
    cohort = sg.read_cohort(path)
    assert cohort.baseline[:, 0].tolist() == [1.234, 2.5]
    assert any("x: '1,234' is read as 1.234" in note and "decimal='.'" in note for note in cohort.notes)
    assert sg.read_cohort(path, decimal=".").baseline[:, 0].tolist() == [1234, 2500]


@pytest.mark.parametrize(
    ("decimal", "cells", "meant"),
    [
        (".", ["1,234", "2.5"], [1234, 2.5]),
        (",", ["1.234", "2,5"], [1234, 2.5]),
        (",", ["1.234", "2.500"], [1234, 2500]),
        (",", ["1,234", "912"], [1.234, 912]),
        (".", ["1,234", "3,5"], "row 3: '3,5' is no number where '.' is the mark of decimals"),
        (",", ["3.5", "2,5"], "row 2: '3.5' is no number where ',' is the mark of decimals"),
        (",", ["3805.1", "3741.9"], "row 2: '3805.1' is no number where ',' is"),
    ],
)
def test_the_mark_that_was_asked_for(tmp_path: Path, decimal: str, cells: list[str], meant: object) -> None:
    path = write(tmp_path, "id\tvisit\tx\n" + "".join(f"{place}\t0\t{cell}\n" for place, cell in enumerate(cells)))
    if isinstance(meant, str):
        with pytest.raises(sg.InputError, match=meant):
            sg.read_cohort(path, decimal=decimal)
    else:
        assert sg.read_cohort(path, decimal=decimal).baseline[:, 0].tolist() == meant


def test_other_marks_are_none() -> None:
    with pytest.raises(sg.InputError, match="decimal=';' is no mark of decimals"):
        read(["1", "2"], decimal=";")


def european(people: int = 40) -> tuple[str, np.ndarray, np.ndarray]:
    """A table as a European spreadsheet writes it, ages (N,) and volumes (N, 2, 2)."""
    rng = np.random.default_rng(3)
    age = np.round(rng.uniform(50, 80, people), 1)
    own = rng.normal([4000, 7000], 300, (people, 1, 2))
    volumes = np.round(own - [[[0.0], [50.0]]] + rng.normal(0, 9, (people, 2, 2)), 1)
    rows = [
        f"S{who};{visit};{2.5 * visit};{age[who]};F;" + ";".join(map(str, volumes[who, visit]))
        for who in range(people)
        for visit in (0, 1)
    ]
    text = "\n".join(["subject_id;visit;time_years;age;sex;hippocampus;thalamus", *rows]) + "\n"
    return text.replace(".", ","), age, volumes


def test_covariates_times_and_features_of_a_european_table(tmp_path: Path) -> None:
    text, age, volumes = european()
    cohort = sg.read_cohort(write(tmp_path, text))
    np.testing.assert_array_equal(cohort.visits, volumes)
    np.testing.assert_array_equal(cohort.covariate_table["age"], age)
    np.testing.assert_array_equal(cohort.gap, 2.5)
    told = "numbers with a decimal comma: time_years, age, hippocampus, thalamus"
    assert told in cohort.notes
    assert cohort.columns["decimal"] == ","


def test_numbers_that_are_text_are_no_categories(tmp_path: Path) -> None:
    text, _, _ = european()
    lines = [line.split(";") for line in text.splitlines()]
    for place, cells in enumerate(lines[1:]):
        cells[3] = f"{(place // 2) + 40:03}Y"
    with pytest.raises(sg.InputError, match=r"column 'age': is text with 40 different values among 40 people \(040Y"):
        sg.read_cohort(write(tmp_path, "\n".join(map(";".join, lines))))
    # Groups of ages are a category.
    for place, cells in enumerate(lines[1:]):
        cells[3] = f"{place // 2 % 4}0-{place // 2 % 4}9"
    assert len(sg.read_cohort(write(tmp_path, "\n".join(map(";".join, lines)))).covariates) == 5


def test_ids_visits_groups_and_sites_stay_as_they_are_written(tmp_path: Path) -> None:
    rows = [f"{who},5;1,{visit};{who % 2},25;{who % 3},75;{who},5" for who in range(6) for visit in (0, 1)]
    cohort = sg.read_cohort(write(tmp_path, "\n".join(["id;visit;family_id;site;x", *rows])), visits=["1,0", "1,1"])
    assert cohort.ids[:2].tolist() == ["0,5", "1,5"]
    assert cohort.visit_labels == ("1,0", "1,1")
    assert cohort.units()[1] == "1,25"
    assert np.asarray(cohort.site).tolist()[2] == "2,75"
    assert cohort.baseline[:, 0].tolist() == [who + 0.5 for who in range(6)]


def test_a_part_is_read_as_the_whole_was(tmp_path: Path) -> None:
    text, _, _ = european()
    model = sg.SecondgramImputer(shape="off").fit(sg.read_cohort(write(tmp_path, text)), show=False)
    head = text.splitlines()[0]
    part = sg.read_cohort(write(tmp_path, f"{head}\nS0;0;0;61;F;4000,5;7000,125\n"), like=model)
    assert part.baseline.tolist() == [[4000.5, 7000.125]]
    # Where the whole would tell that a point divides thousands, nothing does in a part.
    with pytest.raises(sg.InputError, match="may be 4000 or 4"):
        sg.read_cohort(write(tmp_path, f"{head}\nS0;0;0;61;F;4.000;7.125\nS1;0;0;61;F;4.100;7\n"), like=model)
    part = sg.read_cohort(write(tmp_path, f"{head}\nS0;0;0;61;F;4.000;7.125\n"), like=model, decimal=",")
    assert part.baseline.tolist() == [[4000, 7125]]
    # Written with points all the same.
    part = sg.read_cohort(write(tmp_path, f"{head}\nS0;0;0;61;F;4000.5;7.125\n"), like=model)
    assert part.baseline.tolist() == [[4000.5, 7.125]]


# -- separators and what stands above the header --------------------------------------

LONG = "subject_id,visit,sex,vol_a,vol_b\n0012,0,F,1.5,2\n0012,1,F,1.25,\n7,0,M,3,4.5\n"
LAID_OUT = {
    "pipes.csv": (LONG.replace(",", "|"), "'|' stands between cells"),
    "pipes.txt": (LONG.replace(",", "|"), "'|' stands between cells"),
    "blanks.txt": (LONG.replace("1.25,", "1.25,NA").replace(",", " "), "blanks stand between cells"),
    "aligned.dat": (
        LONG.replace("1.25,", "1.25,NA").replace(",", "   ").replace("\n", "\n  "),
        "blanks stand between cells",
    ),
    "sep.csv": ("sep=;\n" + LONG.replace(",", ";"), "the first line says that ';' stands between cells"),
    "quoted_sep.csv": ('"sep=|"\r\n' + LONG.replace(",", "|").replace("\n", "\r\n"), "first line says that '|'"),
    "comments.csv": ("# made by a script\n#\n" + LONG, "2 above the header"),
    "comments.tsv": ("## a\tb\n" + LONG.replace(",", "\t"), "1 above the header"),
    "hashed.txt": ("# made, by\n#" + LONG, "1 above the header"),
    "blank_above.csv": ("\n\n" + LONG, "layout: long"),
    "row_names.txt": (
        LONG.replace("\n", "\nr{}\t", 3).format(1, 2, 3).replace("1.25,", "1.25,NA").replace(",", "\t"),
        "rows begin with a name that the header does not have",
    ),
    "described.txt": (
        LONG.replace("\n", "\nthe person's id,name of the event,sex at birth,volume of a,\n", 1).replace(",", "\t"),
        'row 2 describes the columns and is left out: "the person\'s id" ...',
    ),
    "described.csv": (
        LONG.replace("\n", '\n"the person, by\nid",name of the event,sex at birth,volume of a,volume of b\n', 1),
        "row 2 describes",
    ),
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_every_layout_of_text_gives_the_same(tmp_path: Path, name: str) -> None:
    text, note = LAID_OUT[name]
    cohort = sg.read_cohort(write(tmp_path, text, name))
    assert (cohort.ids.tolist(), cohort.features) == (["0012", "7"], ("vol_a", "vol_b"))
    np.testing.assert_array_equal(cohort.visits, [[[1.5, 2], [1.25, np.nan]], [[3, 4.5], [np.nan, np.nan]]])
    assert any(note in told for told in cohort.notes)
    # A bad cell is found in the line where it stands.
    with pytest.raises(sg.InputError) as failure:
        sg.read_cohort(write(tmp_path, text.replace("4.5", "oops"), name), features=["vol_a", "vol_b"])
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "4.5" in line)
    assert f"column 'vol_b', row {line}: 'oops' is no number" in str(failure.value)


def test_a_quote_that_is_never_closed_takes_no_rows_away(tmp_path: Path) -> None:
    rows = [f"p{who},{visit},{who}.{visit},ok" for who in range(30) for visit in (0, 1)]
    header = "id,visit,x,comment"
    rows[9] = rows[9].replace("ok", '"see scan')
    path = write(tmp_path, "\n".join([header, *rows]) + "\n")
    for features in (None, ["x"]):
        with pytest.raises(sg.InputError, match="row 11: a quote is opened in the row and never closed: the 50 lines"):
            sg.read_cohort(path, features=features)
    # One that is closed, or stands within a cell, is none.
    for word in ('"see\nscan"', '3" slice', '"a ""word"""'):
        rows[9] = f"p4,1,4.1,{word}"
        assert len(sg.read_cohort(write(tmp_path, "\n".join([header, *rows]) + "\n"))) == 30


def test_a_first_row_of_words_alone_is_a_row(tmp_path: Path) -> None:
    # Nothing below is a number, or the words stand in every row.
    text = "id\tvisit\tnote of a\tx\nperson one\tfirst visit\tgood scan\t1\nperson two\tfirst visit\tbad scan\t2\n"
    assert sg.read_cohort(write(tmp_path, text, "t.tsv")).ids.tolist() == ["person one", "person two"]


def test_a_row_cut_short_has_no_name(tmp_path: Path) -> None:
    text = "id,visit,x\na,0,1,\nb,0,2,\n"
    with pytest.raises(sg.InputError, match="row 2: the row has 4 cells, the header has 3"):
        sg.read_cohort(write(tmp_path, text))


@pytest.mark.parametrize(
    ("delimiter", "mark"), [("tab", "\t"), ("pipe", "|"), ("^", "^"), ("semicolon", ";"), ("space", " "), (",", ",")]
)
def test_the_separator_that_was_asked_for(tmp_path: Path, delimiter: str, mark: str) -> None:
    text = LONG.replace("1.25,", "1.25,NA").replace(",", mark)
    assert sg.read_cohort(write(tmp_path, text, "t.dat"), delimiter=delimiter).features == ("vol_a", "vol_b")


def test_a_separator_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sg.InputError, match="delimiter='ab' is no single character"):
        sg.read_cohort(write(tmp_path, LONG), delimiter="ab")
    with pytest.raises(sg.InputError, match=r"is no table that can be recognised.*--delimiter"):
        sg.read_cohort(write(tmp_path, LONG.replace(",", "~"), "t.dat"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"id": 1, "visit": 0}]', "is JSON"),
        (b' {"id": [1]}', "is JSON"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"\xfd7zXZ\0" + bytes(20), "is an xz archive"),
        (b"BZh91AY&SY" + bytes(20), "is a bz2 archive"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(sg.InputError, match=told):
        sg.read_cohort(path)


def test_commas_in_names_do_not_hide_a_separator() -> None:
    assert find_format(b'id;"a,b,c,d";x\n', [".csv"], "t").delimiter == ";"
    assert find_format(b"id\tvisit\ta,b,c\n", [".tsv"], "t").delimiter == "\t"
    assert find_format(b"id,visit,a|b|c|d\n", [".csv"], "t").delimiter == "|"


def test_options_reach_the_reader(tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, _, _ = european()
    write(tmp_path, text.replace(";", "^"))
    done = cli(*"fit table.csv --out model --set shape=off --delimiter ^ --decimal ,".split())
    assert done.code == 0, done.err
    assert cli(*"fit table.csv --out model --set shape=off --delimiter ^ --decimal .".split()).code == 2
    done = cli(*"impute model table.csv --out draws.parquet --who all --delimiter ^".split())
    assert done.code == 0, done.err


# -- whatever is written --------------------------------------------------------------


def written(value: float, decimals: int, mark: str, thousands: str) -> str:
    text = f"{value:,.{decimals}f}".replace(",", "\0").replace(".", mark)
    return text.replace("\0", thousands)


@given(
    seed=st.integers(0, 10**6),
    decimals=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    scale=st.lists(st.sampled_from([0.5, 3.0, 900.0, 4000.0, 1.5e6]), min_size=3, max_size=3),
    mark=st.sampled_from([".", ","]),
    thousands=st.sampled_from(["", "", "other", " ", "'", "\u202f"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    odd=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_numbers_read_are_those_meant_or_something_is_said(
    seed: int, decimals: list[int], scale: list[float], mark: str, thousands: str, delimiter: str, odd: bool
) -> None:
    rng = np.random.default_rng(seed)
    people = 6
    meant = np.stack([np.round(rng.uniform(0.5, 1.5, people) * s, d) for s, d in zip(scale, decimals, strict=True)], 1)
    between = {"other": "," if mark == "." else "."}.get(thousands, thousands)
    if odd and (mark, between) == (",", "."):
        # Beside a column of decimal points, nothing at all tells that `4.188` is four thousand.
        between = ""
    marks = [(mark, between)] * 3
    if odd:
        # One column as another program writes it.
        marks[0] = (".", "")
    file = io.StringIO()
    table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    table.writerow(["id", "visit", "a", "b", "c"])
    for who in range(people):
        cells = [written(v, d, *m) for v, d, m in zip(meant[who], decimals, marks, strict=True)]
        table.writerow([f"S{who}", 0, *cells])
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), file.getvalue(), "t.txt")
        try:
            cohort = sg.read_cohort(path, features=["a", "b", "c"])
        except sg.InputError as error:
            if error.column in ("a", "b", "c") and error.row and ("decimals" in str(error) or "may be" in str(error)):
                return
            raise
    for place, name in enumerate("abc"):
        if not np.array_equal(cohort.baseline[:, place], meant[:, place]):
            notes = [note.split(";")[0] for note in cohort.notes if "is read as" in note]
            assert any(note.startswith(f"{name}: ") or re.search(rf"decimals in .*\b{name}\b", note) for note in notes)
