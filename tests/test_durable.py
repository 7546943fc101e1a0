"""What takes a name is on the disk first; whatever is refused or killed, the old or the new content is left, whole."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondgram.errors import InputError
from secondgram.files import clear, durable, kept, replacing, writing
from secondgram.model_folder import read_folder, write_folder

OLD, NEW = {"a": np.arange(3.0), "old": True}, {"a": np.arange(5.0), "old": False}
Act = Callable[[], Any]


@contextmanager
def watched(before: Callable[[str, Act], Any]) -> Iterator[None]:
    """Every call that changes the disk goes through `before`, with its name and what it does."""
    plain_exchange = durable.exchange

    def over(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: before(name, lambda: call(*given, **named))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace", "rename", "rmdir", "unlink", "mkdir"):
            patch.setattr(os, name, over(name, getattr(os, name)))
        for name in ("write_bytes", "write_text"):
            patch.setattr(Path, name, over(name, getattr(Path, name)))
        patch.setattr(durable, "exchange", over("exchange", plain_exchange))
        yield


def write_file(path: Path, content: bytes) -> None:
    with writing(path) as file:
        file.write(content)


def state(folder: Path) -> bool:
    """Whether the model is the old one; it must be whole."""
    found = read_folder(folder, "model")
    expected = OLD if found["old"] else NEW
    np.testing.assert_array_equal(found["a"], expected["a"])
    return bool(found["old"])


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """How a folder is replaced; the second is for systems that cannot exchange names."""
    if request.param == "two renames":
        monkeypatch.setattr(durable, "_renameat2", lambda: None)
    else:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        if not durable.exchange(tmp_path / "one", tmp_path / "other"):
            pytest.skip("this system or file system cannot exchange two names")
        for name in ("one", "other"):
            (tmp_path / name).rmdir()
    return str(request.param)


def test_names_are_exchanged_in_one_step(tmp_path: Path, way: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    (tmp_path / "b").mkdir()
    done = durable.exchange(tmp_path / "a", tmp_path / "b")
    assert done == (way == "exchange")
    assert (tmp_path / "b" / "mine").exists() == done
    if done:
        with pytest.raises(FileNotFoundError):
            durable.exchange(tmp_path / "a", tmp_path / "absent")


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Inodes in the order in which they were synced, and renames between them."""
    seen: list[tuple[str, int]] = []
    plain, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        seen.append(("fsync", os.fstat(handle).st_ino))
        plain(handle)

    def replace(source: Any, target: Any) -> None:
        seen.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen


def test_a_file_and_then_the_folder_of_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = synced(monkeypatch)
    write_file(tmp_path / "new" / "folder" / "file", b"content")
    file, folders = tmp_path / "new" / "folder" / "file", [tmp_path / "new" / "folder", tmp_path / "new", tmp_path]
    number = file.stat().st_ino
    expected = [("fsync", number), ("rename", number), *(("fsync", folder.stat().st_ino) for folder in folders)]
    assert seen == expected
    seen.clear()
    write_file(file, b"other")
    assert seen == [("fsync", file.stat().st_ino), ("rename", file.stat().st_ino), ("fsync", folders[0].stat().st_ino)]


def test_all_of_a_folder_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    model = tmp_path / "model"
    for _ in range(2):
        with monkeypatch.context() as patch:
            seen = synced(patch)
            write_folder(model, "model", NEW)
        inside = {path.stat().st_ino for path in (model, *model.iterdir())}
        assert len(inside) == 3
        first = seen[:3]
        assert set(first) == {("fsync", number) for number in inside}
        assert first[-1] == ("fsync", model.stat().st_ino)
        assert seen[-1] == ("fsync", tmp_path.stat().st_ino)


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "this file system cannot")
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def refusing(number: int) -> tuple[Callable[[str, Act], Any], list[str]]:
    """Refuses the call of that number, once; a write leaves half of it."""
    seen: list[str] = []

    def before(name: str, act: Act) -> Any:
        seen.append(name)
        if len(seen) == number:
            raise OSError(errno.ENOSPC, "no space left")
        return act()

    return before, seen


def test_a_file_is_the_old_or_the_new_one_whichever_call_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number in itertools.count(1):
        path.write_bytes(b"old")
        before, seen = refusing(number)
        with watched(before):
            try:
                write_file(path, b"new")
                failed = False
            except InputError:
                failed = True
        assert path.read_bytes() in ((b"old", b"new") if failed else (b"new",))
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        if len(seen) < number:
            break
    assert {"fsync", "replace"} <= set(seen)
    assert number > 3


def test_a_folder_is_the_old_or_the_new_one_whichever_call_is_refused(tmp_path: Path, way: str) -> None:
    model = tmp_path / "model"
    outcomes = set()
    for number in itertools.count(1):
        write_folder(model, "model", OLD)
        before, seen = refusing(number)
        with watched(before):
            try:
                write_folder(model, "model", NEW)
                failed = False
            except InputError:
                failed = True
        old = state(model)
        assert failed or not old
        outcomes.add((failed, old))
        # The next write clears what is left, if anything is.
        write_folder(model, "model", NEW)
        assert [each.name for each in tmp_path.iterdir()] == ["model"]
        if len(seen) < number:
            break
    assert {"write_bytes", "write_text", "fsync"} <= set(seen)
    assert "exchange" in seen
    assert ("replace" in seen) == (way == "two renames")
    assert {(True, True), (False, False)} <= outcomes


def killed(model: Path, number: int, after: bool) -> int:
    """Exit code of a process that writes the new model, and is killed before or after the call of that number."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    calls = itertools.count(1)

    def before(name: str, act: Act) -> Any:
        mine = next(calls) == number
        if mine and not after:
            os._exit(9)
        try:
            return act()
        finally:
            if mine:
                os._exit(9)

    try:
        with watched(before):
            write_folder(model, "model", NEW)
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_call_leaves_the_old_or_the_new_folder(tmp_path: Path, way: str, after: bool) -> None:
    model = tmp_path / "model"
    outcomes = []
    for number in itertools.count(1):
        write_folder(model, "model", OLD)
        code = killed(model, number, after)
        outcomes.append(state(model))
        write_folder(model, "model", NEW)
        assert [each.name for each in tmp_path.iterdir()] == ["model"]
        if code == 0:
            break
    # The old one, until the new one stands.
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[0]
    assert not outcomes[-1]


def aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.secondgram-old")


def left_aside(folder: Path) -> Path:
    """As a run leaves it that is killed between two renames."""
    write_folder(folder, "model", OLD)
    folder.rename(aside(folder))
    return folder


def test_a_reader_gives_a_folder_its_name_back(tmp_path: Path) -> None:
    model = left_aside(tmp_path / "model")
    assert state(model)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_reader_through_a_link_gives_it_back_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(left_aside(tmp_path / "model"))
    assert state(tmp_path / "link")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "model"]


def test_who_may_only_read_reads_it_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = left_aside(tmp_path / "model")

    def refuse(*names: Any) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(os, "rename", refuse)
    assert kept(model) == aside(model)
    assert state(model)


def test_what_stands_keeps_its_name_and_the_next_write_clears_what_is_aside(tmp_path: Path) -> None:
    model = left_aside(tmp_path / "model")
    write_folder(tmp_path / "other", "model", NEW)
    (tmp_path / "other").rename(model)
    assert not state(model)
    assert aside(model).exists()
    write_folder(model, "model", NEW)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_none_of_ours_stays_aside(tmp_path: Path) -> None:
    model = tmp_path / "model"
    aside(model).mkdir()
    (aside(model) / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="no such model folder"):
        read_folder(model, "model")
    write_folder(model, "model", NEW)
    assert (aside(model) / "thesis.tex").read_text() == "years of work"


def test_clearing_takes_what_was_left_aside_too(tmp_path: Path) -> None:
    clear(left_aside(tmp_path / ".state"))
    assert not list(tmp_path.iterdir())


def test_a_reader_between_the_two_renames_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    write_folder(model, "model", OLD)
    monkeypatch.setattr(durable, "_renameat2", lambda: None)
    plain = os.replace
    read: list[bool] = []

    def replace(source: Any, target: Any) -> None:
        plain(source, target)
        if Path(target) == aside(model) and not read:
            read.append(state(model))

    monkeypatch.setattr(os, "replace", replace)
    write_folder(model, "model", NEW)
    assert read == [True]
    assert not state(model)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_nothing_is_left_of_a_replacement_that_is_given_up(tmp_path: Path) -> None:
    def given_up() -> None:
        with replacing(tmp_path / "file") as made:
            made.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        given_up()
    assert not list(tmp_path.iterdir())
