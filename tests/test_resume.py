"""Runs that are killed: what they leave, and that going on gives the bytes of an undisturbed run."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import secondgram as sg
from secondgram.files import replacing
from secondgram.imputation.paper import PaperModel
from secondgram.training.trainer import Trainer

# Ten moments spread over a run; the normal run takes one.
MOMENTS = [pytest.param((place + random.Random(place).random()) / 10, marks=pytest.mark.slow) for place in range(10)]
ONE_MOMENT = [0.8]
EPOCHS = 15
FIT = (
    "fit study.csv --out model --preset paper --set embedding=16 --set widths=[16,8,8] --set batch=32 "
    f"--set epochs={EPOCHS} --set patience=1000 --set validate_every=5 --seed 4 --save-every 0 --quiet"
)
# Several networks, one after the other: a killed run takes up the one that it was at.
FIT_RUNGS = (
    "fit study.csv --out model --set networks=3 --set embedding=16 --set widths=[16,8,8] --set epochs=6 "
    "--set batch=32 --set patience=1000 --seed 4 --save-every 0 --quiet"
)
IMPUTE = "impute ready study.csv --out draws.parquet --draws 12 --quiet"
RUNS = [(FIT, "model"), (FIT_RUNGS, "model"), (IMPUTE, "draws.parquet")]
# The same of trajectories: networks on an anchor, and all missing visits.
FIT_ANCHORED = f"{FIT_RUNGS} --set history=all --target 2"
IMPUTE_VISITS = "impute ready study.csv --out draws.parquet --visits missing --at 1.5 --draws 12 --quiet"
RUNS_OF_TRAJECTORIES = [(FIT_ANCHORED, "model"), (IMPUTE_VISITS, "draws.parquet")]
# Parts as small as these make a small file go through many of them.
CELLS = 12 * 6 * 4
PARTS = 23
SMALL_PARTS = f"import secondgram.imputation.result as r; r.CHUNK_CELLS = {CELLS}"
Start = Callable[[str, Path], Any]


class Undisturbed(NamedTuple):
    """A run that nobody stopped: its seconds and what it wrote."""

    seconds: float
    written: dict[str, bytes]


@pytest.fixture(scope="session")
def start(start_command: Callable[..., Any]) -> Start:
    """Start a command in a folder, in small parts."""
    return lambda command, folder: start_command(command.split(), folder, SMALL_PARTS)


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort and a model that is slow enough to be interrupted."""
    folder = tmp_path_factory.mktemp("study")
    sg.simulate(150, 6, 0.4, seed=2, mode="gaussian").write(folder / "study.csv")
    options: dict[str, Any] = {"embedding": 16, "widths": [16, 8, 8], "epochs": 2}
    cohort = sg.read_cohort(folder / "study.csv")
    sg.SecondgramImputer("paper", **options).fit(cohort, show=False).save(folder / "ready")
    return folder


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of people with up to four visits."""
    folder = tmp_path_factory.mktemp("trajectories")
    sg.simulate(90, 4, 0.5, seed=2, mode="trajectories", visits=4).write(folder / "study.csv")
    cohort = sg.read_cohort(folder / "study.csv").with_target(2)
    options: dict[str, Any] = {"history": "all", "networks": 2, "embedding": 16, "widths": [16, 8, 8], "epochs": 2}
    sg.SecondgramImputer(**options).fit(cohort, show=False).save(folder / "ready")
    return folder


class RunOnce(dict[str, Undisturbed]):
    """Commands by their text, each run to its end in a copy of a folder when it is first asked for."""

    def __init__(self, study: Path, runs: list[tuple[str, str]], start: Start, folder: Path) -> None:
        super().__init__()
        self.study, self.out, self.start, self.folder = study, dict(runs), start, folder

    def __missing__(self, command: str) -> Undisturbed:
        copy = self.folder / str(len(self))
        shutil.copytree(self.study, copy)
        began = time.monotonic()
        process = self.start(command, copy)
        assert process.wait() == 0, process.said
        self[command] = Undisturbed(time.monotonic() - began, contents(copy / self.out[command]))
        return self[command]


@pytest.fixture(scope="module")
def undisturbed(study: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> RunOnce:
    return RunOnce(study, RUNS, start, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_trajectories(trajectories: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> RunOnce:
    return RunOnce(trajectories, RUNS_OF_TRAJECTORIES, start, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def folder(study: Path, work_in_copy: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    place = work_in_copy(study)
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", CELLS)
    return place


def kill_at(
    moment: float, command: str, out: str, folder: Path, undisturbed: dict[str, Undisturbed], start: Start
) -> None:
    """Run a command and kill it at this share of its time; it leaves nothing, or the whole, under the final name."""
    process = start(command, folder)
    if process.wait(moment * undisturbed[command].seconds) is None:
        process.kill()
    assert process.code in (0, -signal.SIGKILL), process.said
    if (folder / out).exists():
        assert contents(folder / out) == undisturbed[command].written


@pytest.mark.parametrize("moment", [*ONE_MOMENT, *MOMENTS])
@pytest.mark.parametrize(("command", "out"), RUNS, ids=["fit", "fit rungs", "impute"])
def test_killed_then_resumed(command, out, moment, folder, undisturbed, start, cli):
    kill_at(moment, command, out, folder, undisturbed, start)
    outcome = cli(*command.split(), "--resume")
    assert outcome.code == 0, outcome.err
    assert contents(folder / out) == undisturbed[command].written
    assert {path.name for path in folder.iterdir()} == {"study.csv", "ready", out}


@pytest.mark.slow
@pytest.mark.parametrize("moment", [*ONE_MOMENT, *MOMENTS])
@pytest.mark.parametrize(("command", "out"), RUNS_OF_TRAJECTORIES, ids=["fit", "impute"])
def test_trajectories_killed_then_resumed(
    command, out, moment, trajectories, undisturbed_trajectories, start, cli, work_in_copy, monkeypatch
):
    folder = work_in_copy(trajectories)
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", CELLS)
    kill_at(moment, command, out, folder, undisturbed_trajectories, start)
    outcome = cli(*command.split(), "--resume")
    assert outcome.code == 0, outcome.err
    assert contents(folder / out) == undisturbed_trajectories[command].written
    assert {path.name for path in folder.iterdir()} == {"study.csv", "ready", out}


def interrupted(command: str, folder: Path, done: int, start: Start) -> None:
    """A command killed once its state holds `done` epochs or parts."""
    process = start(command, folder)
    try:
        while progress(folder) < done:
            assert process.code is None, process.said
            time.sleep(0.005)
    finally:
        process.kill()


def progress(folder: Path) -> int:
    try:
        state = json.loads((folder / ".model.training" / "model.json").read_text())
        return len(state["content"]["history"]["epochs"])
    except (OSError, ValueError):
        return len(list(folder.glob(".draws.parquet.parts/part-*.npy")))


@pytest.mark.parametrize(
    ("command", "out", "others"),
    [
        (FIT, "model", ["--seed 5", "--set epochs=99", "--set embedding=8", "--features feature_1,feature_2"]),
        (IMPUTE, "draws.parquet", ["--draws 11", "--seed 8", "--steps 5", "--who all"]),
    ],
    ids=["fit", "impute"],
)
def test_a_state_is_used_and_belongs_to_its_run(command, out, others, folder, undisturbed, start, cli, monkeypatch):
    interrupted(command, folder, 5, start)
    assert not (folder / out).exists()
    assert progress(folder) >= 5
    for other in others:
        outcome = cli(*command.split(), *other.split(), "--resume")
        assert outcome.code == 2, other
        assert "of another" in outcome.err
        assert "Remove it" in outcome.err
        assert not (folder / out).exists()
    # Without --resume the state is ignored.
    copied = folder.parent / "copy"
    shutil.copytree(folder, copied)
    monkeypatch.chdir(copied)
    assert cli(*command.split()).code == 0
    assert contents(copied / out) == undisturbed[command].written
    assert not [path for path in copied.iterdir() if path.name.endswith((".training", ".parts"))]

    # With it, what was done is not done again.
    monkeypatch.chdir(folder)
    before = progress(folder)
    count = itertools.count()
    owner, name = (Trainer, "_epoch") if command == FIT else (PaperModel, "sample")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: (next(count), original(*given))[1])
    assert cli(*command.split(), "--resume").code == 0
    assert contents(folder / out) == undisturbed[command].written
    total = EPOCHS if command == FIT else PARTS
    assert next(count) == total - before


@pytest.mark.parametrize("harm", ["empty", "cut", "text", "other people"])
def test_a_damaged_part_is_told(harm, folder, undisturbed, start, cli):
    interrupted(IMPUTE, folder, 3, start)
    part = min(folder.glob(".draws.parquet.parts/part-*.npy"))
    if harm == "other people":
        np.save(part, np.load(part)[:, :1])
    else:
        part.write_bytes({"empty": b"", "cut": part.read_bytes()[:-7], "text": b"no samples"}[harm])
    outcome = cli(*IMPUTE.split(), "--resume")
    assert outcome.code == 2
    assert part.name in outcome.err
    assert "damaged" in outcome.err
    assert not (folder / "draws.parquet").exists()
    part.unlink()
    assert cli(*IMPUTE.split(), "--resume").code == 0
    assert contents(folder / "draws.parquet") == undisturbed[IMPUTE].written


def test_resume_without_a_state_is_a_run(folder, undisturbed, cli):
    assert cli(*IMPUTE.split(), "--resume").code == 0
    assert contents(folder / "draws.parquet") == undisturbed[IMPUTE].written


def test_an_existing_result_is_replaced_whole(folder, undisturbed, cli):
    shutil.copytree(folder / "ready", folder / "model")
    (folder / "model" / "stray.txt").touch()
    (folder / "draws.parquet").write_bytes(b"old")
    for command, out in RUNS:
        assert cli(*command.split()).code == 0
        assert contents(folder / out) == undisturbed[command].written
    assert {path.name for path in folder.iterdir()} == {"study.csv", "ready", "model", "draws.parquet"}


def test_what_a_killed_process_left_is_removed(tmp_path):
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    names = {}
    for number in (finished.pid, os.getppid()):
        with replacing(tmp_path / "a[1].txt") as temporary:
            names[number] = temporary.name.replace(str(os.getpid()), str(number))
            temporary.touch()
    for name in names.values():
        (tmp_path / name).mkdir()
    with replacing(tmp_path / "a[1].txt") as temporary:
        temporary.touch()
    # The parent is alive and may still be writing.
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].txt", names[os.getppid()]}
