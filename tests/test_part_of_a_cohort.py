"""Whoever is imputed from a table of their own gets what they get among all others, through files and the command."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram import model_folder
from secondgram.imputation.default import model as default_model
from secondgram.ops import native
from secondgram.ops.registry import BackendUnavailableError

MODELS = ("off", "default", "paper")


def long_table() -> pd.DataFrame:
    """Sites, a category that may look like a number, missing cells, people seen only later, a family of visits."""
    cohort = sg.simulate(160, 4, 0.5, seed=4, mode="gaussian")
    rng = np.random.default_rng(0)
    visits = cohort.visits.copy()
    visits[rng.random(visits.shape) < 0.05] = np.nan
    visits[:, 0, 0] = cohort.visits[:, 0, 0]  # everybody has a baseline
    rows = []
    for person, name in enumerate(cohort.ids):
        for slot, label in enumerate(("bl", "m24")):
            if np.isfinite(visits[person, slot]).any():
                rows.append(
                    {
                        "who": name,
                        "wave": label,
                        "age_then": 60 + person % 9 + (0 if slot == 0 else 2.0 + person % 3 / 4),
                        "place": f"scanner {person % 3}",
                        "grade": ("1", "2", "3b", "4b", "5b")[person % 5],
                        "sex": "FM"[person % 2],
                        **dict(zip(cohort.features, visits[person, slot], strict=True)),
                    }
                )
    table = pd.DataFrame(rows)
    # Three people without their baseline's row.
    later = table.loc[table["wave"] == "m24", "who"].unique()[:3]
    return table[~(table["who"].isin(later) & (table["wave"] == "bl"))].reset_index(drop=True)


ROLES: dict[str, Any] = {
    "id": "who",
    "visit": "wave",
    "time": "age_then",
    "site": "place",
    "static": ["grade", "sex"],
}
ROLE_WORDS = "--id who --visit wave --time age_then --site place --static grade,sex".split()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table, models of it, and everybody's draws from the whole."""
    folder = tmp_path_factory.mktemp("study")
    table = long_table()
    table.to_csv(folder / "whole.csv", index=False)
    cohort = sg.read_cohort(folder / "whole.csv", **ROLES)
    small: dict[str, Any] = {"embedding": 16, "widths": [16, 8, 8], "epochs": 3}
    with pytest.MonkeyPatch.context() as patch:
        gains = np.ones((9, 4)), np.ones((9, 4))
        patch.setattr("secondgram.imputation.default.shape._fall", lambda net, *given: gains)
        made = {
            "off": sg.SecondgramImputer(shape="off"),
            "default": sg.SecondgramImputer(components=4, **small),
            "paper": sg.SecondgramImputer("paper", steps=8, **small),
        }
        for name, imputer in made.items():
            imputer.fit(cohort, show=False).save(folder / name)
    return folder


@pytest.fixture
def here(study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for path in study.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(path: str) -> pd.DataFrame:
    return pq.read_table(path).to_pandas().set_index(["subject_id", "visit", "draw"])


def texts(name: str = "whole.csv") -> pd.DataFrame:
    return pd.read_csv(name, dtype=str, keep_default_na=False)


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the table by what is in the part."""
    rng = np.random.default_rng(1)
    people = np.array(sorted(table["who"].unique()))
    twice = table.groupby("who")["wave"].transform("size") == 2
    once = table[~twice & (table["wave"] == "bl")]
    found = {
        "first scans only": once,
        "followed up": table[twice],
        "shuffled": table.iloc[rng.permutation(len(table))],
        "one, first scan": once[once["who"] == once["who"].iloc[0]],
        "one of a numeric grade": table[table["who"] == table.loc[table["grade"] == "1", "who"].iloc[-1]],
        "grades like numbers": table[table["grade"].isin(["1", "2"])],
        "one site": table[table["place"] == "scanner 1"],
        "without a sex": table[table["sex"] == "F"],
    }
    for number in range(4):
        chosen = rng.choice(people, rng.integers(2, 40), replace=False)
        found[f"at random {number}"] = table[table["who"].isin(chosen)].sample(frac=1, random_state=number)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_any_part_has_the_bytes_of_the_whole(model, here, cli):
    done = cli(*f"impute {model} whole.csv --who all --out whole.parquet --draws 3".split())
    assert done.code == 0, done.err
    whole = drawn("whole.parquet")
    table = texts()
    for name, rows in parts(table).items():
        for form in ("csv", "parquet") if name.startswith("one") else ("csv",):
            if form == "csv":
                rows.to_csv("part.csv", index=False)
            else:
                # Types of its own, as another program writes them.
                frame = rows.replace("", None)
                numbers = [column for column in frame if column not in ("who", "wave", "place", "grade", "sex")]
                frame.assign(**{column: frame[column].astype(float) for column in numbers}).to_parquet("part.parquet")
            done = cli(*f"impute {model} part.{form} --who all --out part-draws.parquet --draws 3 --quiet".split())
            assert done.code == 0, (name, done.err)
            part = drawn("part-draws.parquet")
            expected = whole.loc[[key for key in whole.index if key[0] in set(rows["who"])]]
            assert len(part) == len(expected) > 0, name
            pd.testing.assert_frame_equal(part.loc[expected.index], expected, check_exact=True, obj=name)


@pytest.mark.parametrize("model", ["off"])
def test_measured_cells_are_kept_alike(model, here, cli):
    done = cli(*f"impute {model} whole.csv --out whole.parquet --draws 2 -q".split())
    assert done.code == 0, done.err
    whole, table = drawn("whole.parquet"), texts()
    rows = table[table["who"].isin(sorted(table["who"].unique())[::7])]
    rows.to_csv("part.csv", index=False)
    assert cli(*f"impute {model} part.csv --out part.parquet --draws 2 -q".split()).code == 0
    part = drawn("part.parquet")
    assert len(part)
    pd.testing.assert_frame_equal(part, whole.loc[part.index], check_exact=True)


def test_who_was_seen_only_later_is_no_baseline(here, cli):
    table = texts()
    later = table.groupby("who")["wave"].transform(lambda waves: set(waves) == {"m24"})
    assert later.sum() == 3
    table[later | (table["wave"] == "m24")].to_csv("part.csv", index=False)
    done = cli(*"impute off part.csv --who all --out part.parquet".split())
    assert done.code == 2
    assert "no person has a baseline" in done.err
    # From Python, read without the model, they are no baseline either.
    alone = sg.read_cohort("part.csv", **ROLES)
    assert alone.visit_labels == ("m24",)
    with pytest.raises(sg.InputError, match="no person has a baseline"):
        sg.load("off").impute(alone, who="all")


def test_reversed_times_are_refused_as_in_the_whole(here, cli):
    table = texts()
    person = table.loc[table["wave"] == "m24", "who"].iloc[-1]
    mine = table["who"] == person
    table.loc[mine & (table["wave"] == "m24"), "age_then"] = "58"
    for rows in (table, table[mine]):
        rows.to_csv("part.csv", index=False)
        done = cli(*"impute off part.csv --who all --out part.parquet".split())
        assert done.code == 2
        for told in ("part.csv", "row", person, "Correct the times"):
            assert told in done.err
    table[mine].to_csv("part.csv", index=False)
    with pytest.raises(sg.InputError, match="years after baseline"):
        sg.load("off").impute(sg.read_cohort("part.csv", **ROLES), who="all")


def test_sites_are_not_left_out_silently(here, cli):
    table = texts()
    table.drop(columns="place").to_csv("part.csv", index=False)
    for model in MODELS:
        done = cli(*f"impute {model} part.csv --who all --out part.parquet".split())
        # The published preset imputes levels, which a site decides; the other one changes.
        assert done.code == (2 if model == "paper" else 0)
        for told in ("scanner 0", "--site", "place"):
            assert told in done.err
    table.assign(place="").to_csv("part.csv", index=False)
    done = cli(*"impute off part.csv --who all --out part.parquet".split())
    assert done.code == 0, done.err
    assert "157 people are of sites unknown to the model (unknown)" in done.err


def test_other_labels_have_to_be_named(here, cli):
    table = texts()
    whole = cli(*"impute off whole.csv --who all --out whole.parquet --draws 2 -q".split())
    assert whole.code == 0
    table.assign(wave=table["wave"].map({"bl": "T1", "m24": "T2"})).to_csv("part.csv", index=False)
    done = cli(*"impute off part.csv --who all --out part.parquet --draws 2".split())
    assert done.code == 2
    for told in ("T1, T2", "bl, m24", "--visits"):
        assert told in done.err
    with pytest.raises(sg.InputError, match="trained on visits bl, m24, and the cohort has T1, T2"):
        sg.load("off").impute(sg.read_cohort("part.csv", **ROLES), who="all")
    done = cli(*"impute off part.csv --who all --out part.parquet --draws 2 --visits T1,T2".split())
    assert done.code == 0, done.err
    assert "visit T1 is the model's bl" in done.err
    pd.testing.assert_frame_equal(drawn("part.parquet"), drawn("whole.parquet"), check_exact=True)


def test_visits_the_model_does_not_know_are_neither_baseline_nor_follow_up(here, cli):
    table = texts()
    assert cli(*"impute off whole.csv --who all --out whole.parquet --draws 2 -q".split()).code == 0
    people = sorted(table["who"].unique())[::5]
    more = table[table["who"].isin(people) & (table["wave"] == "bl")]
    early = more.assign(wave="base", age_then="40")
    late = more.assign(wave="m48", age_then="90")
    pd.concat([early, table[table["who"].isin(people)], late]).to_csv("part.csv", index=False)
    done = cli(*"impute off part.csv --who all --out part.parquet --draws 2".split())
    assert done.code == 0, done.err
    assert "before the baseline are not used: base" in done.err
    part = drawn("part.parquet")
    pd.testing.assert_frame_equal(part, drawn("whole.parquet").loc[part.index], check_exact=True)


def test_a_visit_before_the_baseline_stays_there(here, cli):
    table = texts()
    people = sorted(table["who"].unique())
    first = table[table["wave"] == "bl"]
    # Without a feature, and with the grade of that day, which comes before the baseline's.
    early = (first["age_then"].astype(float) - 0.5).astype(str)
    screened = first.assign(wave="sc", age_then=early, **{name: "" for name in table if name.startswith("feature")})
    screened = screened.assign(grade=screened["grade"].map({"1": "2", "2": "1"}).fillna("3b"))
    pd.concat([screened, table]).to_csv("screened.csv", index=False)
    options = "--set shape=off --quiet"
    assert cli(*f"fit screened.csv --out model {options}".split(), *ROLE_WORDS).code == 0
    assert sg.load("model").columns_.earlier == ["sc"]
    assert cli(*"impute model screened.csv --who all --out whole.parquet --draws 2 -q".split()).code == 0
    mine = pd.concat([screened, table])
    mine[mine["who"].isin(people[10:14])].to_csv("part.csv", index=False)
    done = cli(*"impute model part.csv --who all --out part.parquet --draws 2 -q".split())
    assert done.code == 0, done.err
    part = drawn("part.parquet")
    pd.testing.assert_frame_equal(part, drawn("whole.parquet").loc[part.index], check_exact=True)


def test_an_order_of_visits_may_be_named(tmp_path):
    table = pd.DataFrame({"subject_id": list("aabb"), "visit": ["x", "y"] * 2, "vol": [1.0, 2.0, 3.0, 5.0]})
    cohort = sg.read_cohort(table, visits=["y", "x"])
    assert cohort.visit_labels == ("y", "x")
    np.testing.assert_array_equal(cohort.baseline[:, 0], [2.0, 5.0])
    with pytest.raises(sg.InputError, match="none of those that are known"):
        sg.read_cohort(table, visits=["1", "2"])
    with pytest.raises(sg.InputError, match="Give a fitted imputer"):
        sg.read_cohort(table, like="model")


def test_a_cohort_in_memory_is_taken_by_its_labels(study):
    imputer = sg.load(study / "off")
    whole = sg.read_cohort(study / "whole.csv", like=imputer)
    result = imputer.impute(whole, draws=2, who="all", show=False)
    swapped = replace(whole, visits=whole.visits[:, ::-1], times=whole.times[:, ::-1], visit_labels=("m24", "bl"))
    again = imputer.impute(swapped, draws=2, who="all", show=False)
    np.testing.assert_array_equal(again.draws, result.draws)
    assert (again.visit, result.visit) == ("m24", "m24")
    first = replace(whole, visits=whole.visits[:, :1], times=whole.times[:, :1], visit_labels=("bl",))
    alone = imputer.impute(first.take([5]), draws=2, who="all", gap=2.0, show=False)
    told = replace(whole, times=np.stack([np.zeros(len(whole)), np.full(len(whole), 2.0)], axis=1))
    place = list(result.ids).index(first.ids[5])
    np.testing.assert_array_equal(
        alone.draws[:, 0], imputer.impute(told, draws=2, who="all", show=False).draws[:, place]
    )


# -- what the model keeps, and what a used one can do ----------------------------------------------------------------


def test_a_model_keeps_its_visits_precision_and_path(study):
    imputer = sg.load(study / "off")
    assert imputer.columns_.visits == ["bl", "m24"]
    assert imputer.columns_.earlier == []
    assert imputer.columns_.table == {"id": "who", "visit": "wave", "time": "age_then", "site": "place"}
    assert imputer.columns_.time_unit == imputer.known.time_unit == "years"
    assert imputer.arithmetic_ is not None
    assert imputer.arithmetic_.precision in ("fp32", "fp16", "bf16")
    assert imputer.arithmetic_.precision in imputer.arithmetic_.path
    asked = sg.SecondgramImputer(shape="off", precision="fp32").fit(
        sg.read_cohort(study / "whole.csv", **ROLES), show=False
    )
    assert asked.arithmetic_ is not None
    assert asked.arithmetic_.precision == "fp32"


def test_a_model_of_the_format_before_is_read_and_told(study, tmp_path, monkeypatch):
    imputer = sg.load(study / "off")
    tree = imputer._tree()
    del tree["arithmetic"], tree["columns"]["visits"], tree["columns"]["table"]
    monkeypatch.setattr(model_folder, "FORMAT_VERSION", 1)
    model_folder.write_folder(tmp_path / "old", "imputer", tree)
    old = sg.load(tmp_path / "old")
    cohort = sg.read_cohort(study / "whole.csv", **ROLES)
    result = old.impute(cohort, draws=2, who="all", show=False)
    assert any("does not say which visits" in note for note in result.notes)
    assert any("does not say its precision" in note for note in result.notes)
    np.testing.assert_array_equal(result.draws, imputer.impute(cohort, draws=2, who="all", show=False).draws)
    old.save(tmp_path / "again")
    assert sg.load(tmp_path / "again").columns_.visits is None


@pytest.mark.native
def test_a_precision_that_the_processor_lacks_is_refused(study, monkeypatch):
    imputer = sg.load(study / "off")
    cohort = sg.read_cohort(study / "whole.csv", like=imputer)
    assert imputer.arithmetic_ is not None
    imputer.arithmetic_.precision, imputer.arithmetic_.path = "bf16", "of another"
    plain = native.architectures
    monkeypatch.setattr(native, "architectures", lambda name="fp32": () if name == "bf16" else plain(name))
    with pytest.raises(BackendUnavailableError, match=r"is that of the model.*--precision fp32"):
        imputer.impute(cohort, draws=1, who="all")
    result = imputer.impute(cohort, draws=1, who="all", precision="fp32", show=False)
    assert result.precision == "fp32"
    assert any("draws differ by rounding" in note for note in result.notes)


@pytest.mark.parametrize("model", MODELS)
def test_threads_reach_the_work_and_change_nothing(model, study, monkeypatch):
    imputer = sg.load(study / model)
    cohort = sg.read_cohort(study / "whole.csv", like=imputer)
    seen: list[int] = []
    plain = native.default_threads

    def watched() -> int:
        seen.append(plain())
        return plain()

    monkeypatch.setattr(native, "default_threads", watched)
    made = []
    for threads in (1, 3):
        seen.clear()
        made.append(imputer.impute(cohort, draws=2, who="all", threads=threads, show=False).draws)
        if native.sampler_reason_unavailable() is None:
            assert set(seen) == {threads}
    np.testing.assert_array_equal(made[0], made[1])
    bad: Any
    for bad in (0, -1, 1.5):
        with pytest.raises(sg.InputError, match="threads="):
            imputer.impute(cohort, threads=bad)
    with pytest.raises(sg.InputError, match="precision="):
        imputer.impute(cohort, precision="fp8")


@pytest.mark.parametrize("model", MODELS)
def test_a_used_model_and_its_result_can_be_copied_and_sent(model, study):
    imputer = sg.load(study / model)
    cohort = sg.read_cohort(study / "whole.csv", like=imputer).take(np.arange(20))
    result = imputer.impute(cohort, draws=2, who="all", show=False)
    made = result.draws
    for other in (pickle.loads(pickle.dumps(imputer)), copy.deepcopy(imputer)):
        np.testing.assert_array_equal(other.impute(cohort, draws=2, who="all", show=False).draws, made)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        del other.__dict__["draws"]
        np.testing.assert_array_equal(other.draws, made)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_drawn_before_it_is_asked_for(model, study, monkeypatch):
    imputer = sg.load(study / model)
    cohort = sg.read_cohort(study / "whole.csv", like=imputer)
    kind = type(imputer.model_)
    count: list[str] = []
    for name in ("mean", "draw", "sample", "finish", "state"):
        monkeypatch.setattr(kind, name, lambda *given, name=name, **named: count.append(name))
    imputer.impute(cohort, draws=2, who="all", show=False)
    assert count == []
    with pytest.raises(sg.InputError, match="solver"):
        imputer.impute(cohort, solver="euler")


def test_the_digest_is_made_once(study, tmp_path, monkeypatch):
    imputer = sg.load(study / "off")
    cohort = sg.read_cohort(study / "whole.csv", like=imputer).take(np.arange(20))
    count: list[int] = []
    plain = default_model.tree_digest

    def watched(tree: Any) -> str:
        count.append(1)
        return plain(tree)

    monkeypatch.setattr(default_model, "tree_digest", watched)
    for number in range(3):
        imputer.impute(cohort, draws=2, who="all", out=tmp_path / f"{number}.parquet", show=False)
    assert len(count) == 1


def test_drawing_on_a_processor_imports_no_kernels(study, tmp_path):
    # One process for all: whatever one of them imports is seen after it, and nothing is unloaded.
    code = """
import sys, secondgram as sg
for name in sys.argv[2:]:
    m = sg.load(name)
    m.impute(sg.read_cohort(sys.argv[1], like=m), draws=2, who='all', out='d.parquet', show=False)
    print([n for n in ('torch._dynamo', 'triton', 'secondgram.ops.triton_kernels') if n in sys.modules])
"""
    command = [sys.executable, "-c", code, str(study / "whole.csv"), *(str(study / model) for model in MODELS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"] * len(MODELS)


# -- going on --------------------------------------------------------------------------------------------------------


def stopped(imputer: sg.SecondgramImputer, cohort: sg.Cohort, out: Path, **options: Any) -> None:
    """An imputation that is stopped while its second part is finished."""
    result = imputer.impute(cohort, draws=4, who="all", show=False, **options)
    plain, count = result._finish, []

    def finish(*given: Any) -> Any:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return plain(*given)

    object.__setattr__(result, "_finish", finish)
    with pytest.raises(KeyboardInterrupt):
        result.to_parquet(out)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 8}, "seed: 7, now 8"),
        ({"precision": "other"}, "precision: "),
        ({"draws": 5}, "draws: 4, now 5"),
        ({"solver": "ddim"}, "solver: None, now ddim"),
        ({"steps": 3}, "steps: None, now 3"),
        ({"gap": 9.0}, "people"),
        ({"model": "paper"}, "model"),
        ({"path": True}, "processor: "),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_parts_go_on_for_the_same_alone(change, told, study, tmp_path, monkeypatch):
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", 4 * 4 * 30)
    imputer, out = sg.load(study / "default"), tmp_path / "draws.parquet"
    cohort = replace(sg.read_cohort(study / "whole.csv", like=imputer), times=None)  # type: ignore[arg-type]
    if change.get("precision") == "other":
        if native.half_precision() is None:
            pytest.skip("this processor has one precision")
        change = {"precision": "bf16" if native.architectures("bf16") else "fp16"}
        if imputer.arithmetic_ is not None and imputer.arithmetic_.precision == change["precision"]:
            change = {"precision": "fp32"}
    stopped(imputer, cohort, out)
    other = sg.load(study / change.pop("model", "default"))
    if change.pop("path", None):
        monkeypatch.setattr("secondgram.imputation.result.processor_path", lambda precision: "another")
    given = {"draws": 4, "who": "all", "show": False, "out": out, "resume": True}
    with pytest.raises(sg.InputError) as refused:
        other.impute(cohort, **(given | change))
    assert "holds the parts of another imputation" in str(refused.value)
    assert told in str(refused.value)
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", 4 * 4 * 30)
    imputer.impute(cohort, **given)
    imputer.impute(cohort, draws=4, who="all", show=False, out=tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_without_resume_no_part_is_read(study, tmp_path, monkeypatch):
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", 4 * 4 * 30)
    imputer, out = sg.load(study / "default"), tmp_path / "draws.parquet"
    cohort = sg.read_cohort(study / "whole.csv", like=imputer)
    stopped(imputer, cohort, out)
    (part,) = tmp_path.glob(".draws.parquet.parts/part-000000.npy")
    np.save(part, np.load(part) + 1.0)
    imputer.impute(cohort, draws=4, who="all", show=False, out=out)
    imputer.impute(cohort, draws=4, who="all", show=False, out=tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
