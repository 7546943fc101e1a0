"""Bad input through the command line: exit code 2, a message that says where and what to do, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import secondgram as sg
from secondgram.errors import InputError
from secondgram.files import explained

PEOPLE, FEATURES = 60, 4
FIT = "fit bad.csv --out new --set shape=off"
# Named in full, so that none is left out for what it holds.
NAMED = FIT + " --features feature_1,feature_2,feature_3,feature_4"
IMPUTE = "impute model good.csv --out new.parquet"


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory, write_study: Callable[..., sg.Cohort]) -> Path:
    """A folder with a cohort, its truth, a model of it, and draws."""
    folder = tmp_path_factory.mktemp("good")
    cohort = sg.simulate(PEOPLE, FEATURES, 0.5, seed=1, mode="gaussian")
    # The first half has a follow-up, and only who has one has a time for it.
    cohort = replace(cohort.take(np.argsort(~cohort.paired, kind="stable")), ids=cohort.ids)
    cohort.times[~cohort.paired, 1] = np.nan
    write_study(cohort, folder)
    return folder


@pytest.fixture
def folder(good_files: Path, work_in_copy: Callable[[Path], Path]) -> Path:
    """A working directory with copies of the good files."""
    return work_in_copy(good_files)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- ways to spoil a file -----------------------------------------------------------------

Make = Callable[[], object]


def nothing() -> None:
    """Leave everything as it is: the command is what is wrong."""


def content(text: str | bytes, name: str = "bad.csv") -> Make:
    return lambda: Path(name).write_bytes(text.encode() if isinstance(text, str) else text)


def table(edit: Callable[[pd.DataFrame], Any]) -> Make:
    """bad.csv: the good table after `edit`, which changes it in place or returns another. Line 2 is row 0."""

    def make() -> None:
        frame = pd.read_csv("good.csv", dtype=str, keep_default_na=False)
        edited = edit(frame)
        (frame if edited is None else edited).to_csv("bad.csv", index=False)

    return make


def put(row: int, column: str, value: str) -> Make:
    """One cell of bad.csv; row is the line of the file."""
    return table(lambda frame: frame.__setitem__(column, frame[column].where(frame.index != row - 2, value)))


def column(name: str, value: str) -> Make:
    return table(lambda frame: frame.assign(**{name: value}))


def pairs_left(count: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def keep(frame: pd.DataFrame) -> pd.DataFrame:
        later = frame["visit"] != "0"
        return frame[~later | (later.cumsum() <= count)]

    return keep


def empty(frame: pd.DataFrame) -> None:
    frame.loc[:, [name for name in frame if name.startswith("feature")]] = ""


def cut(path: str, share: float = 0.5) -> Make:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: int(share * Path(path).stat().st_size)])


def flip(path: str) -> Make:
    """One bit in the middle of a file."""

    def make() -> None:
        data = bytearray(Path(path).read_bytes())
        data[len(data) // 2] ^= 1
        Path(path).write_bytes(data)

    return make


# Parts of what a model folder holds, each of which is more than a number.
CONTENT = ("kinds", "missing", "ranges", "versions", "columns", "model")


def rewrite(change: Callable[[dict[str, Any]], object], signed: bool = False) -> Make:
    """Edit the model's description; signed: with the digest of the edited text."""

    def make() -> None:
        from secondgram.model_folder import _digest

        path = Path("model/model.json")
        description = json.loads(path.read_text())
        change(description)
        if signed:
            description.pop("sha256", None)
            description["sha256"] = _digest(description)
        path.write_text(json.dumps(description))

    return make


def forged(part: str) -> Make:
    """A model folder in which this part is a number, signed."""
    return rewrite(lambda told: told["content"].update({part: 7}), signed=True)


class Trap:
    """A pickle that writes a file when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('executed', 'w').close()",))


def trap(path: str) -> Make:
    def make() -> None:
        if Path(path).is_dir():
            shutil.rmtree(path)
        Path(path).write_bytes(pickle.dumps({"model": Trap()}))

    return make


def torch_trap(path: str) -> Make:
    return lambda: torch.save({"model": Trap()}, path)


def weights(
    path: str, features: int = FEATURES, conditions: int = FEATURES + 3, change: dict[str, Any] | None = None
) -> Make:
    def make() -> None:
        state = sg.Denoiser(features, conditions, embedding=8, widths=(8, 8, 8)).state_dict()
        torch.save({"model": {**state, **(change or {})}}, path)

    return make


def damaged_draws(edit: Callable[[pd.DataFrame], Any]) -> Make:
    def make() -> None:
        frame = pq.read_table("draws.parquet").to_pandas()
        edited = edit(frame)
        (frame if edited is None else edited).to_parquet("draws.parquet")

    return make


# name: (how to make it, command, what the message has to say)
CASES: dict[str, tuple[Make, str, tuple[str, ...]]] = {
    # tables
    "missing file": (nothing, FIT, ("bad.csv", "no such file", "path")),
    "folder as table": (lambda: Path("bad.csv").mkdir(), FIT, ("bad.csv", "is a folder")),
    "empty file": (content(""), FIT, ("bad.csv", "is empty", "header")),
    "header only": (content("id,visit,x\n"), FIT, ("bad.csv", "a header and no rows")),
    "picture": (content(b"\x89PNG\r\n\x1a\n" + bytes(99)), FIT, ("bad.csv", "PNG", "CSV")),
    "no table": (content("hello"), FIT, ("bad.csv",)),
    "pickle as table": (trap("bad.csv"), FIT, ("bad.csv", "pickle")),
    "not UTF-8": (content("id,visit,sex,x\n1,0,f\xe9,1\n".encode("latin-1")), FIT, ("bad.csv", "row 2", "UTF-8")),
    "unknown column": (put(2, "sex", "M"), FIT + " --id nobody", ("bad.csv", "'nobody'")),
    "duplicate visit": (put(3, "visit", "0"), FIT, ("bad.csv", "S0000001", "visit 0 twice", "rows 2 and 3")),
    "no number": (put(7, "feature_2", "abc"), NAMED, ("bad.csv", "column 'feature_2'", "row 7", "'abc'", "Correct")),
    "infinite": (put(9, "feature_3", "inf"), FIT, ("bad.csv", "column 'feature_3'", "row 9", "infinite")),
    "constant": (column("feature_3", "2.5"), NAMED, ("bad.csv", "'feature_3'", "constant", "2.5", "--features")),
    "empty feature": (
        column("feature_3", ""),
        NAMED,
        ("bad.csv", "'feature_3'", "no measured value", "Leave the feature out"),
    ),
    "nobody measured": (table(empty), NAMED, ("bad.csv", "S0000001", "no measured feature", "row 2")),
    "no pairs": (table(pairs_left(0)), FIT, ("bad.csv",)),
    "nine pairs": (table(pairs_left(9)), FIT, ("bad.csv", "9 people have a follow-up", "10")),
    "gap of zero": (put(3, "time_years", "0"), FIT, ("bad.csv", "'time_years'", "row 3", "S0000001", "0 years")),
    "gap below zero": (put(3, "time_years", "-2"), FIT, ("bad.csv", "'time_years'", "row 3", "-2 years")),
    "target beyond the visits": (table(lambda frame: None), FIT + " --target 3", ("bad.csv", "no person has both")),
    # arguments of fit
    "unknown preset": (nothing, "fit good.csv --out new --preset best", ("'best'", "default, paper")),
    "unknown option": (nothing, "fit good.csv --out new --set epoch=3", ("epoch", "epochs")),
    "no equals sign": (nothing, "fit good.csv --out new --set epochs", ("'epochs'", "name=value")),
    "option of another kind": (nothing, "fit good.csv --out new --set epochs=many", ("epochs", "'many'", "400")),
    "negative seed": (nothing, "fit good.csv --out new --seed -1", ("--seed", "0")),
    "unknown layout": (nothing, "fit good.csv --out new --layout tall", ("'tall'", "wide")),
    "model over a file": (nothing, "fit good.csv --out truth.csv", ("truth.csv", "is a file", "--out")),
    # models
    "missing model": (nothing, "impute absent good.csv --out new.parquet", ("absent", "no such model folder")),
    "model is a file": (nothing, "impute good.csv good.csv --out new.parquet", ("good.csv", "not a model folder")),
    "folder without model": (lambda: Path("bare").mkdir(), "impute bare good.csv --out new.parquet", ("model.json",)),
    "weights missing": (lambda: Path("model/weights.safetensors").unlink(), IMPUTE, ("weights.safetensors",)),
    "weights cut": (cut("model/weights.safetensors"), IMPUTE, ("weights.safetensors", "truncated", "Restore")),
    "weights empty": (cut("model/weights.safetensors", 0), IMPUTE, ("weights.safetensors", "truncated")),
    "weights flipped": (flip("model/weights.safetensors"), IMPUTE, ("weights.safetensors", "changed")),
    "description missing": (lambda: Path("model/model.json").unlink(), IMPUTE, ("model.json", "missing")),
    "description cut": (cut("model/model.json"), IMPUTE, ("model.json", "damaged", "Restore")),
    "description empty": (cut("model/model.json", 0), IMPUTE, ("model.json", "damaged")),
    "description flipped": (flip("model/model.json"), IMPUTE, ("model.json",)),
    "description a list": (content("[1]", "model/model.json"), IMPUTE, ("model.json", "damaged")),
    "description edited": (
        rewrite(lambda told: told["content"].update(seed=99)),
        IMPUTE,
        ("model.json", "changed after it was written"),
    ),
    "newer format": (rewrite(lambda told: told.update(format_version=99)), IMPUTE, ("model.json", "99", "release")),
    "training state as model": (rewrite(lambda told: told.update(kind="training state")), IMPUTE, ("model.json",)),
    "forged without numbers": (
        rewrite(lambda told: told["content"]["model"]["joint"].update(slope={"$array": "nowhere"}), signed=True),
        IMPUTE,
        ("model",),
    ),
    "forged without parts": (rewrite(lambda told: told.update(content={}), signed=True), IMPUTE, ("model",)),
    "forged content": (rewrite(lambda told: told.update(content=[1, 2]), signed=True), IMPUTE, ("model",)),
    "forged part": (rewrite(lambda told: told["content"]["model"].update(joint=7), signed=True), IMPUTE, ("model",)),
    **{f"forged {part}": (forged(part), IMPUTE, ("model",)) for part in CONTENT},
    "forged trajectory": (
        rewrite(lambda told: told["content"]["model"].update(trajectory={"anchor": 7}), signed=True),
        IMPUTE,
        ("model",),
    ),
    "pickle as model": (trap("model"), IMPUTE, ("model", "not a model folder")),
    "pickle as weights": (trap("model/weights.safetensors"), IMPUTE, ("weights.safetensors", "changed")),
    "pickle as description": (trap("model/model.json"), IMPUTE, ("model.json", "damaged")),
    # cohorts at impute time
    "unseen category": (
        table(lambda frame: frame.__setitem__("sex", frame["sex"].where(frame["subject_id"] != "S0000055", "X"))),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "'sex'", "subject S0000055", "X", "not seen in training", "F, M", "Correct"),
    ),
    "feature absent": (
        table(lambda frame: frame.drop(columns="feature_2")),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "'feature_2'"),
    ),
    "covariate absent": (
        table(lambda frame: frame.drop(columns="sex")),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "'sex'"),
    ),
    "text for a number": (
        put(4, "age", "old"),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "'age'", "'old'"),
    ),
    "another cohort": (
        table(lambda frame: frame.rename(columns=lambda name: name.replace("feature", "region"))),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "another cohort"),
    ),
    "everyone complete": (
        table(lambda frame: frame[frame["subject_id"].isin(frame.loc[frame["visit"] == "1", "subject_id"])]),
        "impute model bad.csv --out new.parquet",
        ("bad.csv", "no one to impute", "all"),
    ),
    # arguments of impute
    "no draws": (nothing, IMPUTE + " --draws 0", ("draws=0", "1")),
    "negative seed to impute": (nothing, IMPUTE + " --seed -1", ("--seed", "0")),
    "no steps": (nothing, IMPUTE + " --steps 0", ("steps=0", "1 to 4095")),
    "unknown solver": (nothing, IMPUTE + " --solver euler", ("'euler'", "ddim")),
    "unknown who": (nothing, IMPUTE + " --who some", ("'some'", "missing", "all")),
    "gap of zero asked": (nothing, IMPUTE + " --gap 0", ("gap=0", "above zero")),
    "draws over a folder": (nothing, "impute model good.csv --out model", ("model", "is a folder", "--out")),
    # evaluate
    "missing draws": (nothing, "evaluate absent.parquet truth.csv --out new.csv", ("absent.parquet", "no such file")),
    "missing truth": (nothing, "evaluate draws.parquet absent.csv --out new.csv", ("absent.csv", "no such file")),
    "draws cut": (cut("draws.parquet"), "evaluate draws.parquet truth.csv --out new.csv", ("draws.parquet",)),
    "draws empty": (cut("draws.parquet", 0), "evaluate draws.parquet truth.csv --out new.csv", ("draws.parquet",)),
    "no draws file": (nothing, "evaluate good.csv truth.csv --out new.csv", ("good.csv", "Parquet")),
    "draws of other columns": (
        damaged_draws(lambda frame: frame.rename(columns={"draw": "copy"})),
        "evaluate draws.parquet truth.csv --out new.csv",
        ("draws.parquet", "subject_id, visit, draw", "impute"),
    ),
    "a draw lost": (
        damaged_draws(lambda frame: frame.drop(index=5).reset_index(drop=True)),
        "evaluate draws.parquet truth.csv --out new.csv",
        ("draws.parquet", "equally many draws"),
    ),
    "no rows of draws": (
        damaged_draws(lambda frame: frame[:0]),
        "evaluate draws.parquet truth.csv --out new.csv",
        ("draws.parquet", "no draws"),
    ),
    "draws with holes": (
        damaged_draws(lambda frame: frame.assign(feature_1=np.nan)),
        "evaluate draws.parquet truth.csv --out new.csv",
        ("NaN",),
    ),
    "text in the draws": (
        damaged_draws(lambda frame: frame.assign(feature_1="a")),
        "evaluate draws.parquet truth.csv --out new.csv",
        ("draws.parquet",),
    ),
    "truth of others": (
        table(lambda frame: frame.assign(subject_id="T" + frame["subject_id"])),
        "evaluate draws.parquet bad.csv --out new.csv",
        ("bad.csv", "none of the 30 imputed people", "same people"),
    ),
    "truth of other features": (
        table(lambda frame: frame.rename(columns=lambda name: name.replace("feature", "region"))),
        "evaluate draws.parquet bad.csv --out new.csv",
        ("bad.csv", "feature_1"),
    ),
    # compare
    "more folds than people": (nothing, "compare good.csv --out new --folds 61", ("good.csv", "61 folds", "60 people")),
    "no folds": (nothing, "compare good.csv --out new --folds 0", ("--folds", "1")),
    "no draws to compare": (nothing, "compare good.csv --out new --draws 0", ("draws=0", "1 or more")),
    "unknown method": (nothing, "compare good.csv --out new --methods magic", ("magic", "carry-forward")),
    "posterior of a file": (
        nothing,
        "compare good.csv --out new --methods exact-posterior",
        ("simulation", "gaussian"),
    ),
    "too few pairs to compare": (table(pairs_left(3)), "compare bad.csv --out new", ("bad.csv", "3 people")),
    # simulate, demo
    "no subjects": (nothing, "simulate --subjects 0 --out new.csv", ("subjects=0", "2 or more")),
    "unknown mode": (nothing, "simulate --mode magic --out new.csv", ("'magic'", "gaussian")),
    "unknown selection": (nothing, "simulate --selection luck --out new.csv", ("'luck'", "health")),
    "all and more paired": (nothing, "simulate --paired 1.5 --out new.csv", ("paired=1.5", "0 to 1")),
    "unknown suffix": (nothing, "simulate --subjects 20 --features 2 --out new.xlsx", ("'.xlsx'", ".csv")),
    "small demo": (nothing, "demo --out new --subjects 10", ("--subjects", "200")),
    # import-checkpoint
    "missing checkpoint": (
        nothing,
        "import-checkpoint absent.pt --cohort good.csv --out new",
        ("absent.pt", "no such file"),
    ),
    "malicious checkpoint": (
        torch_trap("net.pt"),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "nothing in it was run"),
    ),
    "plain pickle as checkpoint": (
        trap("net.pt"),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "nothing in it was run"),
    ),
    "junk as checkpoint": (
        content(b"junk" * 99, "net.pt"),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "torch.save"),
    ),
    "checkpoint cut": (
        lambda: (weights("net.pt")(), cut("net.pt")()),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "torch.save"),
    ),
    "checkpoint without model": (
        lambda: torch.save({"weights": {}}, "net.pt"),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "'model'"),
    ),
    "checkpoint of other names": (
        lambda: torch.save({"model": {"layer.weight": torch.zeros(2)}}, "net.pt"),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "weights"),
    ),
    "checkpoint of other shapes": (
        weights("net.pt", change={"down1.imgFC.weight": torch.zeros(3, 3)}),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("net.pt", "weights"),
    ),
    "checkpoint of other sizes": (
        weights("net.pt", FEATURES + 1, FEATURES + 3),
        "import-checkpoint net.pt --cohort good.csv --out new",
        ("good.csv", "5 features", "4 and"),
    ),
}
# What is asked for where no file can be made, also not by root: below a regular file, and in a read-only tree.
UNWRITABLE = {
    "fit": "fit good.csv --set shape=off --out {}/model",
    "impute": "impute model good.csv --out {}/new.parquet",
    "evaluate": "evaluate draws.parquet truth.csv --out {}/new.csv",
    "compare": "compare good.csv --methods carry-forward --folds 2 --out {}/run",
    "simulate": "simulate --subjects 20 --features 2 --out {}/new.csv",
    "demo": "demo --subjects 200 --features 2 --out {}/demo",
    "import-checkpoint": "import-checkpoint net.pt --cohort good.csv --out {}/model",
}
for name, command in UNWRITABLE.items():
    for where in ("good.csv", "/proc/nope"):
        CASES[f"{name} below {where}"] = (
            weights("net.pt"),
            command.format(where),
            (where, "cannot be written", "folder"),
        )


def message(err: str) -> str:
    """Standard error on one line, without the frame that usage errors are drawn in."""
    return " ".join(err.translate({ord(sign): " " for sign in "│╭╮╰╯─"}).split())


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, folder, cli):
    make, command, words = CASES[case]
    make()
    before = listing(folder)
    name, *rest = shlex.split(command)
    quiet = ["--quiet"] if name in ("fit", "impute", "evaluate", "compare", "import-checkpoint") else []
    outcome = cli(name, *rest, *quiet)
    said = message(outcome.err)
    assert outcome.code == 2, said
    assert "Traceback" not in outcome.err + outcome.out
    assert said.startswith(("error: ", "Usage: ")), said
    assert said.count("error: ") + said.count(" Error ") == 1, said
    for word in words:
        assert word in said, said
    assert len(said) < 600, said
    assert listing(folder) == before
    assert not any(path.name.startswith(".") for path in folder.iterdir())


def test_a_letter_outside_ascii_is_no_error(folder, cli):
    put(4, "sex", "hø")()
    assert cli(*shlex.split(FIT)).code == 0


def test_features_in_another_order_are_no_error(folder, cli):
    table(lambda frame: frame[[*frame.columns[:6], *frame.columns[:5:-1]]])()
    outcome = cli("impute", "model", "bad.csv", "--out", "new.parquet", "--draws", 2)
    assert outcome.code == 0, outcome.err
    assert Path("new.parquet").read_bytes() == Path("draws.parquet").read_bytes()


@pytest.mark.parametrize("ids", ["0012", "1e5", "+7", "1.50", "NaN1", "日本", "a b"])
def test_ids_stay_text_as_written(ids, folder, cli):
    """The second person, who has one visit or two, gets an id that a careless reader would turn into a number."""
    table(lambda frame: frame.assign(subject_id=frame["subject_id"].replace("S0000002", ids).str.replace("S", "")))()
    outcome = cli("impute", "model", "bad.csv", "--out", "new.parquet", "--draws", 1, "--who", "all")
    assert outcome.code == 0, outcome.err
    found = pq.read_table("new.parquet")["subject_id"].to_pylist()
    assert found == ["0000001", ids, *(f"{number:07d}" for number in range(3, PEOPLE + 1))]


# -- a disk without room ---------------------------------------------------------------------

WRITERS = {
    "fit": ["fit", "good.csv", "--set", "shape=off", "--out", "{}/new"],
    "impute": ["impute", "model", "good.csv", "--draws", "3000", "--out", "{}/new.parquet"],
    "simulate": ["simulate", "--subjects", "4000", "--features", "8", "--out", "{}/new.csv"],
    "evaluate": ["evaluate", "draws.parquet", "truth.csv", "--out", "{}/new.csv"],
    "compare": ["compare", "good.csv", "--methods", "carry-forward", "--folds", "2", "--out", "{}/new"],
}


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of a few kilobytes of which nothing is left."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system of a chosen size cannot be mounted here (needs root)")
    (place / "filler").write_bytes(bytes(16 * 1024))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_want_of_space_is_told_from_want_of_permission():
    for number, mend in ((errno.ENOSPC, "Free some space"), (errno.EACCES, "may write to")):
        with pytest.raises(InputError, match=mend), explained("new.parquet"):
            raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name, folder, full_disk, cli):
    outcome = cli(*(word.format(full_disk) for word in WRITERS[name]))
    said = message(outcome.err)
    assert outcome.code == 2, said
    assert "No space left" in said
    assert "Free some space" in said
    assert str(full_disk) in said
    assert "Traceback" not in said
    # What is hidden is the state that --resume goes on from.
    assert not [path for path in full_disk.rglob("new*") if path.is_file()]
    assert not list(full_disk.rglob("*.tmp"))


def test_a_file_that_may_not_grow(folder, start_command):
    limit = 40_000
    confined = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""
    done = start_command([*IMPUTE.split(), "--draws", "2000"], folder, confined)
    assert done.wait() == 2, done.said
    assert "new.parquet" in done.said
    assert "cannot be written" in done.said
    assert "Traceback" not in done.said
    assert not Path("new.parquet").exists()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_ten_thousand_columns(folder, cli, monkeypatch, tmp_path):
    """They are read, and a fit either works or says that memory does not suffice."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=(40, 1, 10_000))
    visits = np.concatenate([level, level + 0.1 * rng.normal(size=level.shape)], axis=1)
    ids = np.array([f"{number:03d}" for number in range(40)])
    cohort = sg.Cohort(ids=ids, visits=visits, features=tuple(f"f{number}" for number in range(10_000)))
    cohort.write("wide.csv")
    read = sg.read_cohort("wide.csv")
    np.testing.assert_array_equal(read.visits, visits)
    done = subprocess.run(
        [sys.executable, "-c", "from secondgram.cli import main; main()", *FIT.replace("bad", "wide").split()],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or (done.returncode == 2 and "out of memory" in done.stderr), done.stderr[-2000:]
    assert Path("new").exists() == (done.returncode == 0)
