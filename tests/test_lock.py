"""One run at a time for one output: the second is refused, and what a killed one left is taken over and told."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram.files import locked, look

HOLD = """
import sys
from secondgram.files import locked, look
with locked(look(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    out = tmp_path / "draws.parquet"
    process = holder(out)
    try:
        with pytest.raises(sg.InputError) as told, locked(look(out)):
            pass
        for text in (str(out), f"process {process.pid} on {platform.node()} since 20", "Wait for it"):
            assert text in str(told.value)
        # Under another name it goes on.
        with locked(look(tmp_path / "other.parquet")) as notes:
            assert notes == []
    finally:
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == []
    with locked(look(out)) as notes:
        assert notes == []


def test_two_names_of_one_file_are_one_output(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "draws.parquet")
    with (
        locked(look(tmp_path / "draws.parquet")),
        pytest.raises(sg.InputError, match="another run"),
        locked(look(tmp_path / "link")),
    ):
        pass


def test_the_lock_of_a_killed_run_is_taken_over_and_told(tmp_path):
    out = tmp_path / "draws.parquet"
    process = holder(out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".draws.parquet.lock").exists()
    with locked(look(out)) as notes:
        assert len(notes) == 1
        assert f"process {process.pid}" in notes[0]
        assert json.loads((tmp_path / ".draws.parquet.lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_machine_stays(tmp_path):
    lock = tmp_path / ".draws.parquet.lock"
    content = json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"})
    lock.write_text(content)
    with pytest.raises(sg.InputError) as told, locked(look(tmp_path / "draws.parquet")):
        pass
    for text in ("process 1 on elsewhere", "if it has ended, remove", lock.name):
        assert text in str(told.value)
    assert lock.read_text() == content


@pytest.mark.parametrize("content", [b"", b"no lock", b"[]", b"\xff"])
def test_a_lock_that_says_nothing_is_taken(content, tmp_path):
    (tmp_path / ".out.lock").write_bytes(content)
    with locked(look(tmp_path / "out")) as notes:
        assert notes == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(sg.InputError, match="cannot be written"), locked(look(tmp_path / "out")):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_without_the_systems_lock_the_process_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("secondgram.files.lock.fcntl", None)
    lock = tmp_path / ".out.lock"
    lock.write_text(json.dumps({"pid": os.getppid(), "host": platform.node(), "since": "now"}))
    with pytest.raises(sg.InputError, match="being written by another run"), locked(look(tmp_path / "out")):
        pass
    lock.write_text(json.dumps({"pid": 2**22 + 1, "host": platform.node(), "since": "then"}))
    with locked(look(tmp_path / "out")) as notes:
        assert len(notes) == 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, write_study: Callable[..., sg.Cohort]) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(sg.simulate(80, 2, 0.5, seed=1, mode="gaussian"), folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "fit good.csv --set shape=off --quiet --out new",
        "impute model good.csv --draws 2 --quiet --out new",
        "evaluate draws.parquet truth.csv --quiet --out new",
        "verdict model --quiet --out new",
        "compare good.csv --methods carry-forward --folds 2 --draws 2 --quiet --out new",
        "simulate --subjects 20 --features 2 --out new.csv",
    ],
    ids=lambda command: command.split()[0],
)
def test_every_command_that_writes_holds_it(command, study, tmp_path, monkeypatch, cli):
    place = tmp_path / "here"
    shutil.copytree(study, place)
    monkeypatch.chdir(place)
    process = holder(Path(command.split()[-1]))
    try:
        outcome = cli(*command.split())
        assert outcome.code == 2, outcome.err
        assert f"process {process.pid}" in outcome.err
        assert not Path(command.split()[-1]).exists()
    finally:
        process.communicate()
    assert cli(*command.split()).code == 0
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_two_runs_at_once_give_one_whole_file(study, tmp_path, monkeypatch):
    """One of two seeds, and no row of the other; whoever was refused says so."""
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys, secondgram.imputation.result as r; r.CHUNK_CELLS = 2000;"
        "import secondgram as sg; cohort = sg.read_cohort('good.csv'); model = sg.load('model');"
        "print('ready', flush=True); sys.stdin.readline();"
        "model.impute(cohort, draws=400, seed=int(sys.argv[1]), out='both.parquet', show=False)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    told = [run.communicate()[1] for run in runs]
    assert 0 in [run.returncode for run in runs]
    for run, text in zip(runs, told, strict=True):
        assert run.returncode == 0 or "another run" in text, text
    cohort, model = sg.read_cohort("good.csv"), sg.load("model")
    wholes = []
    for seed in (1, 2):
        model.impute(cohort, draws=400, seed=seed, out=f"{seed}.parquet", show=False)
        wholes.append(pq.read_table(f"{seed}.parquet"))
    both = pq.read_table("both.parquet")
    assert any(both.equals(whole) for whole in wholes)


def test_takeover_is_told_by_the_command(study, tmp_path, monkeypatch, cli):
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    process = holder(Path("new.parquet"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outcome = cli(*"impute model good.csv --draws 2 --out new.parquet".split())
    assert outcome.code == 0, outcome.err
    assert f"process {process.pid}" in outcome.err
