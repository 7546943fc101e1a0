"""Every command that writes, on every kind of thing that may stand where it is to write."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import secondgram as sg
from secondgram import files
from secondgram.files import target
from secondgram.files.output import _through

# Each with {} for --out; `simulate` also writes NAME-truth.
FILES = {
    "impute": ("impute model good.csv --draws 2 --quiet --out {}.parquet", "parquet"),
    "simulate": ("simulate --subjects 20 --features 2 --out {}.csv", "csv"),
    "evaluate": ("evaluate draws.parquet truth.csv --quiet --out {}.csv", "csv"),
    "verdict": ("verdict model --quiet --out {}.csv", "csv"),
    "report": ("report run --quiet --out {}.html", "html"),
}
MODELS = {
    "fit": "fit good.csv --set shape=off --quiet --out {}",
    "import-checkpoint": "import-checkpoint net.pt --cohort good.csv --quiet --out {}",
}
RUNS = {"compare": "compare good.csv --methods carry-forward --folds 2 --draws 2 --quiet --out {}"}
FOLDERS = MODELS | RUNS


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, write_study: Callable[..., sg.Cohort]) -> Path:
    """What the commands read: a cohort, its truth, a model, draws, a run, a checkpoint."""
    folder = tmp_path_factory.mktemp("study")
    read = write_study(sg.simulate(80, 2, 0.5, seed=1, mode="gaussian"), folder)
    sg.compare(read, ["carry-forward", "ridge-gaussian"], 2, 2, out=folder / "run", show=False)
    net = sg.Denoiser(2, 5, embedding=16, widths=(16, 8, 8), generator=torch.Generator().manual_seed(0))
    torch.save({"model": net.state_dict()}, folder / "net.pt")
    return folder


@pytest.fixture
def here(study: Path, work_in_copy: Callable[[Path], Path]) -> Path:
    return work_in_copy(study)


def words(command: str, out: str = "new") -> list[str]:
    return command.format(out).split()


def path_of(name: str) -> Path:
    return Path(words(FILES[name][0])[-1])


def check_content(name: str, content: bytes) -> None:
    form = FILES[name][1]
    if form == "parquet":
        assert pq.read_table(pa.BufferReader(content)).num_rows == 80
    elif form == "csv":
        assert len(pd.read_csv(io.BytesIO(content))) >= 2
    else:
        assert content.rstrip().endswith(b"</html>")


def nothing_hidden(folder: Path) -> None:
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def refused(outcome: Any, path: object, *told: str) -> None:
    assert outcome.code == 2, outcome.err
    for text in (str(path), *told):
        assert text in outcome.err
    assert "Traceback" not in outcome.err


# -- one file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("before", ["nothing", "file", "link", "dangling link", "chain of links"])
def test_a_file_is_replaced_and_a_link_stays(name, before, here, cli):
    out, real = path_of(name), here / "elsewhere" / "real.data"
    real.parent.mkdir()
    if before in ("link", "chain of links"):
        real.write_bytes(b"old")
    if before == "file":
        out.write_bytes(b"old")
    elif before == "chain of links":
        Path("middle").symlink_to(real)
        out.symlink_to("middle")
    elif before != "nothing":
        out.symlink_to(real)
    outcome = cli(*words(FILES[name][0]))
    assert outcome.code == 0, outcome.err
    assert out.is_symlink() == ("link" in before)
    check_content(name, out.read_bytes())
    assert stat.S_ISREG(os.lstat(real if "link" in before else out).st_mode)
    nothing_hidden(here)
    nothing_hidden(real.parent)


def node(path: Path, major: int, minor: int) -> None:
    """A character device of our own; there is no other way to have one that may be harmed."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"a device cannot be made and opened here ({error})")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("linked", [False, True])
def test_a_device_is_written_through_and_stays(name, linked, here, cli):
    device = here / "device" if linked else path_of(name)
    node(device, 1, 3)
    before = os.lstat(device)
    if linked:
        path_of(name).symlink_to(device)
    outcome = cli(*words(FILES[name][0]))
    assert outcome.code == 0, outcome.err
    after = os.lstat(device)
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert path_of(name).is_symlink() == linked
    nothing_hidden(here)


@pytest.mark.parametrize("name", FILES)
def test_a_full_device_is_told(name, here, cli):
    node(path_of(name), 1, 7)
    refused(cli(*words(FILES[name][0])), path_of(name), "cannot be written", "Free some space")
    assert stat.S_ISCHR(os.lstat(path_of(name)).st_mode)


def receive(read: Callable[[], bytes]) -> tuple[threading.Thread, list[bytes]]:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read()), daemon=True)
    thread.start()
    return thread, found


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_written_through_and_stays(name, here, cli):
    out = path_of(name)
    os.mkfifo(out)
    thread, found = receive(out.read_bytes)
    outcome = cli(*words(FILES[name][0]))
    thread.join(30)
    assert outcome.code == 0, outcome.err
    check_content(name, found[0])
    assert stat.S_ISFIFO(os.lstat(out).st_mode)
    nothing_hidden(here)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_that_nobody_reads_is_refused(name, here, cli, monkeypatch):
    monkeypatch.setattr("secondgram.files.output.READER_WAIT", 0.1)
    out = path_of(name)
    os.mkfifo(out)
    refused(cli(*words(FILES[name][0])), out, "nobody has read", "Start its reader")
    assert stat.S_ISFIFO(os.lstat(out).st_mode)


def test_a_reader_that_goes_away_is_told(here, cli):
    os.mkfifo("new.parquet")

    def a_little() -> bytes:
        with open("new.parquet", "rb", buffering=0) as pipe:
            return pipe.read(1)

    thread, _ = receive(a_little)
    refused(cli(*words(FILES["impute"][0]), "--draws", "4000"), "new.parquet", "has to go on to the end")
    thread.join(30)


def heard(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as file:
        return file.read()


@pytest.mark.parametrize("name", FILES)
def test_a_socket_is_written_through_and_stays(name, here, cli):
    out = path_of(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(out))
        listener.listen(1)
        thread, found = receive(lambda: heard(listener))
        outcome = cli(*words(FILES[name][0]))
        assert outcome.code == 0, outcome.err
        thread.join(30)
    check_content(name, found[0])
    assert stat.S_ISSOCK(os.lstat(out).st_mode)
    # Nobody listens any longer.
    refused(cli(*words(FILES[name][0])), out, "cannot be written", "listens")
    assert stat.S_ISSOCK(os.lstat(out).st_mode)


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_a_file_is_refused_and_stays(name, here, cli):
    out, command = path_of(name), words(FILES[name][0])
    out.mkdir()
    (out / "kept").touch()
    refused(cli(*command), out, "is a folder")
    assert (out / "kept").exists()
    shutil.rmtree(out)
    out.symlink_to("round")
    Path("round").symlink_to(out)
    refused(cli(*command), out, "loop of links")
    assert out.is_symlink()
    out.unlink()
    out.symlink_to("run")
    refused(cli(*command), out, "is a folder")
    assert Path("run", "table.csv").exists()
    nothing_hidden(here)


@pytest.mark.parametrize("name", FILES)
def test_a_read_only_file_or_folder_is_refused(name, here, cli):
    out, command = path_of(name), words(FILES[name][0])
    out.write_bytes(b"old")
    out.chmod(0o444)
    refused(cli(*command), out, "read-only", "Make it writable")
    assert out.read_bytes() == b"old"
    out.unlink()
    locked = Path("locked")
    locked.mkdir(mode=0o555)
    refused(cli(*words(FILES[name][0], "locked/new")), f"locked/{out.name}", "read-only to you")
    assert not list(locked.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_another_users_file_is_refused(name, here, cli, monkeypatch):
    out = path_of(name)
    out.write_bytes(b"old")
    monkeypatch.setattr("os.geteuid", lambda: out.stat().st_uid + 1)
    refused(cli(*words(FILES[name][0])), out, "of another user", "let its owner")
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("name", FILES)
def test_a_mounted_file_is_refused(name, here, cli, monkeypatch):
    out = path_of(name)
    out.write_bytes(b"old")
    monkeypatch.setattr(target, "_mount_points", lambda: {str(here / out)})
    refused(cli(*words(FILES[name][0])), out, "mount point")
    assert out.read_bytes() == b"old"


def test_mount_points_are_read_as_the_system_writes_them(monkeypatch):
    line = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw"
    monkeypatch.setattr(Path, "read_text", lambda *given, **named: line)
    monkeypatch.setattr("sys.platform", "linux")
    assert target._mount_points() == {"/mnt two"}


def test_a_disk_is_refused(here, monkeypatch):
    Path("disk").touch()
    plain = os.stat

    def as_a_disk(path: Any, **named: Any) -> os.stat_result:
        found = plain(path, **named)
        if Path(path).name != "disk":
            return found
        return os.stat_result((stat.S_IFBLK | 0o666, *found[1:]))

    monkeypatch.setattr(target.os, "stat", as_a_disk)
    with pytest.raises(sg.InputError, match="would destroy what is on it"):
        files.look("disk", streams=True)


def test_a_link_to_what_has_no_name_is_refused(here):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not show open files")
    with open("gone", "wb") as file:
        Path("gone").unlink()
        with pytest.raises(sg.InputError, match="no name"):
            files.look(f"/proc/self/fd/{file.fileno()}")


def test_a_device_where_a_temporary_file_is_needed_is_refused(here):
    os.mkfifo("pipe")
    with pytest.raises(sg.InputError, match="is a pipe"), files.replacing("pipe"):
        pass
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


def test_what_changes_meanwhile_is_not_replaced(here):
    late = files.replacing("new.csv")
    late.__enter__().write_text("late")
    Path("new.csv").symlink_to("good.csv")
    with pytest.raises(sg.InputError, match="was changed while"):
        late.__exit__(None, None, None)
    assert Path("new.csv").is_symlink()
    assert Path("good.csv").stat().st_size > 100
    nothing_hidden(here)
    os.mkfifo("pipe")
    place = files.look("pipe", streams=True)
    Path("pipe").unlink()
    Path("pipe").write_text("a file now")
    with pytest.raises(sg.InputError, match="was changed while"), _through(place):
        pass
    assert Path("pipe").read_text() == "a file now"


def test_nothing_is_kept_of_a_stream_to_go_on_from(here, cli):
    os.mkfifo("new.parquet")
    refused(cli(*words(FILES["impute"][0]), "--resume"), "new.parquet", "Leave out --resume")


def test_a_device_beside_takes_the_truth(here, cli):
    node(Path("new-truth.csv"), 1, 3)
    assert cli(*words(FILES["simulate"][0])).code == 0
    assert stat.S_ISCHR(os.lstat("new-truth.csv").st_mode)
    check_content("simulate", Path("new.csv").read_bytes())


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".parquet", ".arrow"])
def test_every_format_of_a_table_can_go_through_a_pipe(suffix, here):
    cohort = sg.read_cohort("good.csv")
    cohort.write(f"file{suffix}")
    os.mkfifo(f"pipe{suffix}")
    thread, found = receive(Path(f"pipe{suffix}").read_bytes)
    cohort.write(f"pipe{suffix}")
    thread.join(30)
    Path(f"again{suffix}").write_bytes(found[0])
    np.testing.assert_array_equal(sg.read_cohort(f"again{suffix}").visits, sg.read_cohort(f"file{suffix}").visits)


# -- folders ------------------------------------------------------------------------------


def check_folder(name: str, folder: Path) -> None:
    if name in MODELS:
        sg.load(folder)
    else:
        assert (folder / "table.csv").exists()


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("before", ["nothing", "empty", "same", "link", "dangling link"])
def test_a_folder_is_written_and_a_link_stays(name, before, here, cli):
    real = here / "elsewhere" / "real"
    real.parent.mkdir()
    if before == "empty":
        Path("new").mkdir()
    elif before == "same":
        shutil.copytree("model" if name in MODELS else "run", "new")
    elif before != "nothing":
        if before == "link":
            shutil.copytree("model" if name in MODELS else "run", real)
        Path("new").symlink_to(real)
    outcome = cli(*words(FOLDERS[name]))
    assert outcome.code == 0, outcome.err
    assert Path("new").is_symlink() == ("link" in before)
    check_folder(name, Path("new"))
    nothing_hidden(here)
    nothing_hidden(real.parent)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("before", ["file", "link to a file", "device", "pipe", "socket", "loop"])
def test_what_cannot_be_a_folder_is_refused_and_stays(name, before, here, cli):
    out = Path("new")
    if before == "file":
        out.write_bytes(b"old")
    elif before == "link to a file":
        Path("kept").write_bytes(b"old")
        out.symlink_to("kept")
    elif before == "device":
        node(out, 1, 3)
    elif before == "pipe":
        os.mkfifo(out)
    elif before == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("new")
    else:
        out.symlink_to("new")
    mode = os.lstat(out).st_mode
    refused(cli(*words(FOLDERS[name])), out, "loop of links" if before == "loop" else "a folder is to be written")
    assert os.lstat(out).st_mode == mode
    nothing_hidden(here)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_read_only_folder_is_refused(name, here, cli):
    Path("new").mkdir(mode=0o555)
    refused(cli(*words(FOLDERS[name])), "new", "read-only")
    assert not list(Path("new").iterdir())


@pytest.mark.parametrize("name", FOLDERS)
def test_another_users_folder_is_refused(name, here, cli, monkeypatch):
    Path("new").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: here.stat().st_uid + 1)
    refused(cli(*words(FOLDERS[name])), "new", "of another user")


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_with_other_things_is_not_replaced(name, here, cli):
    Path("new").mkdir()
    Path("new", "thesis.tex").write_text("years of work")
    refused(cli(*words(MODELS[name])), "new", "holds no model")
    assert Path("new", "thesis.tex").read_text() == "years of work"
    refused(cli(*words(MODELS[name], ".")), ".", "holds no model")
    assert Path("good.csv").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_mount_point_is_not_replaced_and_may_be_filled(name, here, cli, monkeypatch):
    Path("new").mkdir()
    monkeypatch.setattr(target, "_mount_points", lambda: {str(here / "new")})
    outcome = cli(*words(FOLDERS[name]))
    if name in MODELS:
        refused(outcome, "new", "mount point")
        assert not list(Path("new").iterdir())
    else:
        assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", ["table.csv", "run.json", "evidence.json", "report.html"])
def test_a_device_inside_a_run_stays(name, here, cli):
    Path("new").mkdir()
    node(Path("new", name), 1, 3)
    assert cli(*words(RUNS["compare"])).code == (2 if name in ("run.json", "evidence.json") else 0)
    assert stat.S_ISCHR(os.lstat(Path("new", name)).st_mode)


@pytest.mark.slow
def test_a_demo_looks_at_its_folder(here, cli):
    Path("new").write_bytes(b"old")
    refused(cli("demo", "--out", "new", "--subjects", 200, "--features", 2), "new", "a folder is to be written")


# -- what is hidden and cleaned away ------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["link", "device", "pipe", "other files", "file"])
@pytest.mark.parametrize(
    ("command", "hidden"),
    [(MODELS["fit"], ".new.training"), (FILES["impute"][0], ".new.parquet.parts")],
    ids=["state", "parts"],
)
def test_a_hidden_folder_is_removed_only_where_it_is_ours(command, hidden, before, here, cli):
    place, kept = Path(hidden), Path("mine")
    kept.mkdir()
    (kept / "thesis.tex").write_text("years of work")
    if before == "link":
        place.symlink_to(kept)
    elif before == "device":
        node(place, 1, 3)
    elif before == "pipe":
        os.mkfifo(place)
    elif before == "file":
        place.write_text("mine")
    else:
        kept.rename(place)
        kept = place
    mode = os.lstat(place).st_mode
    refused(cli(*words(command)), hidden, "Remove or rename it yourself")
    assert os.lstat(place).st_mode == mode
    assert (kept / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("before", ["link", "device", "pipe"])
def test_a_leftover_that_is_no_file_stays(before, here, cli):
    gone = 2**22 + 1  # no process has this number
    leftover = Path(f".new.csv.{os.uname().nodename}-{gone}.tmp")
    if before == "link":
        leftover.symlink_to("model")
    elif before == "device":
        node(leftover, 1, 3)
    else:
        os.mkfifo(leftover)
    assert cli(*words(FILES["simulate"][0])).code == 0
    assert os.path.lexists(leftover)
    assert Path("model", "model.json").exists()
