"""Commands from end to end: what they write, what they say, and what their help tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import secondgram as sg
from secondgram.errors import MissingColumn
from secondgram.imputation.paper import PaperModel

COHORT_OPTIONS = [
    *"--id --visit --time --time-unit --static --outcomes --groups --site --features --layout --target".split(),
    *"--visits --missing --checks --wide --exclude --decimal --delimiter".split(),
]
OPTIONS = {
    "fit": [
        *COHORT_OPTIONS,
        "--out",
        "--preset",
        "--precision",
        "--set",
        "--kind",
        "--seed",
        "--resume",
        "--save-every",
        "--quiet",
    ],
    "check": [*COHORT_OPTIONS, "--json", "--quiet"],
    "verdict": ["--out", "--quiet"],
    "impute": [
        *COHORT_OPTIONS,
        *"--out --draws --seed --who --steps --solver --gap --history --at --precision".split(),
        *"--threads --resume --quiet".split(),
    ],
    "evaluate": [*COHORT_OPTIONS, "--out", "--seed", "--quiet"],
    "compare": [
        *COHORT_OPTIONS,
        *"--out --methods --folds --repeats --task --draws --seed --time-limit --quiet".split(),
    ],
    "simulate": [
        *("--out", "--subjects", "--features", "--paired", "--seed", "--mode", "--selection"),
        *("--visits", "--slope", "--wander", "--sites", "--dropout"),
    ],
    "report": ["--out", "--open", "--quiet"],
    "demo": ["--out", "--subjects", "--features", "--seed"],
    "doctor": [],
    "import-checkpoint": [*COHORT_OPTIONS, "--cohort", "--out", "--quiet"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", OPTIONS)
def test_help_tells_every_option(command, cli):
    outcome = cli(command, "--help")
    assert outcome.code == 0
    told = set(re.findall(r"(?<![\w-])--[a-z-]+", outcome.out))
    assert set(OPTIONS[command]) | {"--help"} <= told
    # Every option is explained, and no option is missing from the table above.
    assert told - {"--help"} == set(OPTIONS[command]) | ({"--no-resume"} & told)


def test_help_tells_every_command(cli):
    outcome = cli("--help")
    assert outcome.code == 0
    for command in OPTIONS:
        assert re.search(rf"\b{command}\b", outcome.out)
    assert cli("nonsense").code == 2
    assert cli("fit").code == 2


def test_from_a_simulation_to_scores(here, cli):
    done = cli(*"simulate --subjects 120 --features 4 --paired 0.5 --seed 3 --mode gaussian --out study.csv".split())
    assert done.code == 0, done.err
    assert {path.name for path in here.iterdir()} == {"study.csv", "study-truth.csv"}
    done = cli(*"fit study.csv --out model --set shape=off --seed 2".split())
    assert done.code == 0, done.err
    assert "static covariates: age, sex" in done.err
    assert "model written to model" in done.err
    done = cli(*"impute model study.csv --out draws.parquet --draws 9 --seed 5".split())
    assert done.code == 0, done.err
    assert "60 people x 9 draws written to draws.parquet" in done.err
    done = cli(*"evaluate draws.parquet study-truth.csv --out scores.csv".split())
    assert done.code == 0, done.err
    assert "crps" in done.out
    names = {"study.csv", "study-truth.csv", "model", "draws.parquet", "scores.csv"}
    assert {path.name for path in here.iterdir()} == names

    # The same from Python, to the bit.
    cohort = sg.read_cohort("study.csv")
    imputer = sg.SecondgramImputer(seed=2, shape="off").fit(cohort, show=False)
    imputer.save("again")
    for name in ("model.json", "weights.safetensors"):
        assert Path("again", name).read_bytes() == Path("model", name).read_bytes()
    result = imputer.impute(cohort, draws=9, seed=5, out="again.parquet", show=False)
    assert Path("again.parquet").read_bytes() == Path("draws.parquet").read_bytes()
    scores = pd.read_csv("scores.csv", index_col="metric")
    expected = sg.evaluate(result, sg.read_cohort("study-truth.csv"))
    # A file holds no posterior mean, only the average of its draws.
    same = ["pearson_draw", "crps", "coverage_90"]
    np.testing.assert_allclose(scores["value"][same], expected["value"][same], rtol=1e-9)


def test_quiet_says_nothing(here, cli):
    cli(*"simulate --subjects 60 --features 2 --paired 0.5 --mode gaussian --out study.csv".split())
    for command in (
        "fit study.csv --out model --set shape=off -q",
        "impute model study.csv --out draws.parquet --draws 2 -q",
    ):
        outcome = cli(*command.split())
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_column_options_reach_the_reader(here, cli):
    cohort = sg.simulate(80, 3, 0.5, mode="gaussian")
    cohort.write("study.tsv")
    frame = pd.read_csv("study.tsv", sep="\t", dtype=str, keep_default_na=False)
    renamed = {"subject_id": "who", "visit": "wave", "time_years": "when", "disease": "ill"}
    frame.rename(columns=renamed).assign(clan=frame["subject_id"].str[:7], place="x", junk="1.5").to_csv(
        "study.tsv", sep="\t", index=False
    )
    roles = "--id who --visit wave --time when --static age,ill --groups clan --site place --features feature_*".split()
    done = cli("fit", "study.tsv", "--out", "model", "--set", "shape=off", "--outcomes", "sex", *roles)
    assert done.code == 0, done.err
    imputer = sg.load("model")
    assert imputer.columns_.covariates == ["age", "ill"]
    assert len(imputer.columns_.features) == 3
    # Features and covariates are the model's; the rest is named again.
    done = cli(*"impute model study.tsv --out draws.parquet --id who --visit wave --time when --draws 2".split())
    assert done.code == 0, done.err
    assert pq.read_schema("draws.parquet").names == ["subject_id", "visit", "draw", *imputer.columns_.features]


def test_static_may_be_none(here, cli):
    cli(*"simulate --subjects 60 --features 2 --paired 0.5 --mode gaussian --out study.csv".split())
    assert cli(*"fit study.csv --out model --set shape=off -q --static".split(), "").code == 0
    assert sg.load("model").columns_.covariates == []
    assert cli(*"impute model study.csv --out draws.parquet -q".split()).code == 0


def test_compare_writes_a_run(here, cli):
    cli(*"simulate --subjects 120 --features 3 --paired 0.5 --mode gaussian --out study.csv".split())
    methods = "carry-forward,ridge-gaussian"
    done = cli(*f"compare study.csv --out run --methods {methods} --folds 3 --draws 4 --seed 1".split())
    assert done.code == 0, done.err
    assert "60 people held out whole" in done.out
    names = {path.name for path in Path("run").iterdir()}
    assert {"table.csv", "table.md", "features.csv", "run.json", "coverage.csv", "parts"} <= names
    assert {"evidence.json", "report.html"} <= names
    told = json.loads(Path("run/run.json").read_text())
    assert (told["people"], told["draws"], told["folds"], told["seed"]) == (60, 4, 3, 1)


def test_import_checkpoint_then_impute(here, cli):
    cli(*"simulate --subjects 100 --features 5 --paired 0.4 --mode gaussian --out study.csv".split())
    cohort = sg.read_cohort("study.csv")
    # Covariates age, sex=F and sex=M, then the five features.
    net = sg.Denoiser(5, 8, embedding=16, widths=(16, 8, 8), generator=torch.Generator().manual_seed(0))
    torch.save({"model": net.state_dict(), "epoch": 3}, "authors.pt")
    done = cli(*"import-checkpoint authors.pt --cohort study.csv --out model".split())
    assert done.code == 0, done.err
    imputer = sg.load("model")
    assert imputer.preset == "paper"
    assert isinstance(imputer.model_, PaperModel)
    for name, value in imputer.model_.net.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])
    done = cli(*"impute model study.csv --out draws.parquet --draws 2 --steps 4".split())
    assert done.code == 0, done.err
    values = pq.read_table("draws.parquet").to_pandas()[list(cohort.features)].to_numpy()
    assert values.shape == (2 * 60, 5)
    # Draws are clamped to the range of the follow-ups.
    seen = cohort.followup[cohort.paired]
    assert (values >= seen.min(axis=0) - 1e-9).all()
    assert (values <= seen.max(axis=0) + 1e-9).all()


def test_doctor(cli):
    outcome = cli("doctor")
    assert outcome.code == 0
    for word in ("Python", "secondgram", "torch", "C++ extension", "processors", "CUDA", "backend of"):
        assert word in outcome.out


@pytest.mark.slow
def test_demo(here, cli):
    outcome = cli(*"demo --out shown --subjects 400 --features 4".split())
    assert outcome.code == 0, outcome.err
    names = {path.name for path in Path("shown").iterdir()}
    expected = {"model", "imputed.parquet", "table.csv", "table.md", "features.csv", "run.json", "report.html"}
    assert expected <= names
    assert any(name.endswith(".png") for name in names)
    for method in ("carry-forward", "ridge-gaussian", "default"):
        assert method in outcome.out


def test_a_column_that_the_model_misses_is_told_by_kind_and_not_by_text(here, monkeypatch):
    from secondgram.cli import ROLES, _cohort

    class Trained:
        class columns_:
            features, covariates = ("volume",), ("age",)

    def read(error: sg.InputError) -> str:
        def fails(*given, **options):
            raise error

        monkeypatch.setattr("secondgram.cohort.read_cohort", fails)
        with pytest.raises(sg.InputError) as told:
            _cohort([Path("table.csv")], True, dict.fromkeys(ROLES), Trained())  # type: ignore[arg-type]
        return str(told.value)

    trained = "the model was trained with this column"
    assert trained in read(MissingColumn("keine solche Spalte", file="table.csv", column="age"))
    assert trained not in read(MissingColumn("there is no such column", file="table.csv", column="site"))
    assert trained not in read(sg.InputError("there is no such column", file="table.csv", column="age"))


def test_a_name_that_the_table_lacks_is_a_missing_column(here):
    pd.DataFrame({"id": ["a", "a"], "visit": [0, 1], "x": [1.0, 2.0]}).to_csv("table.csv", index=False)
    for roles in ({"features": ["y"]}, {"site": "where"}, {"id": "who"}):
        with pytest.raises(MissingColumn, match="there is no such column") as told:
            sg.read_cohort("table.csv", **roles)
        assert isinstance(told.value, sg.InputError)
        assert told.value.column in ("y", "where", "who")
