"""Checks of an output path before anything is written: what exists there, and whether it may be replaced."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError

OTHER_NAME = "Choose another name for --out"
# Files that this library writes into folders of its own, as they are named there.
DESCRIPTION = "model.json"
OURS = re.compile(r"model\.json|weights\.safetensors|parts\.json|part-\d+\.npy|\..+\.tmp")
_WORDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk (a block device)"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
)


class Kind(Enum):
    """Kind of output: a file to replace, a folder of ours to replace, or a folder to put files into."""

    FILE = "file"
    WHOLE_FOLDER = "whole folder"
    FOLDER = "folder"


class Target(NamedTuple):
    """given : the path as a person named it.

    real : the path that is replaced, where links end.
    stream : a device, pipe or socket, which is written through and stays.
    """

    given: Path
    real: Path
    stream: bool


def look(path: str | os.PathLike[str], kind: Kind = Kind.FILE, *, streams: bool = False) -> Target:
    """What is at `path`, which need not exist.

    A link is followed to its end, which is what will be replaced; the link stays. streams : the content can be written
    through a device, pipe or socket.

    Raises `InputError`, with the mend, for what must not be replaced or filled: a folder for a file and the reverse, a
    loop of links, a disk, a device, pipe or socket where `streams` is false, a mount point, a folder with anything but
    a model in it where the whole is replaced, and what is read-only or another user's.
    """
    given = Path(path)
    status = _status(given)
    real = Path(os.path.realpath(given))
    if status is None:
        _check_around(given, real)
        return Target(given, real, False)
    _check_kind(given, status.st_mode, kind, streams)
    if kind is Kind.FILE and not stat.S_ISREG(status.st_mode):
        return Target(given, given, True)
    if not _same(status, real):
        raise InputError("is a link to what has no name", file=given, mend=OTHER_NAME)
    _check_owner(given, status)
    if kind is not Kind.FOLDER:
        _check_around(given, real)
        if _mounted(real):
            mend = "Choose a name below it" if kind is Kind.WHOLE_FOLDER else OTHER_NAME
            raise InputError("is a mount point, which cannot be replaced", file=given, mend=mend)
    if kind is Kind.WHOLE_FOLDER and not is_ours(real):
        raise InputError(
            "is a folder that holds no model: it would be replaced with all that is in it",
            file=given,
            mend="Choose another name, or remove it yourself",
        )
    return Target(given, real, False)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        # Nothing, or a link to nothing, which becomes what it leads to.
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("is a loop of links", file=path, mend="Remove the link, or choose another name") from error
        raise refused(path, error) from error


def _same(status: os.stat_result, real: Path) -> bool:
    try:
        return os.path.samestat(status, os.stat(real))
    except OSError:
        return False


def refused(path: object, error: OSError) -> InputError:
    """The operating system's refusal to write, as an `InputError` that names the file."""
    mends = {
        errno.ENOSPC: "Free some space or choose another folder",
        errno.EBUSY: "Something is mounted there: choose another name",
        errno.EPIPE: "Whoever reads has to go on to the end",
        errno.ECONNREFUSED: "Start the program that listens there first",
    }
    mend = mends.get(error.errno or 0, "Choose a folder you may write to")
    return InputError(f"cannot be written: {error.strerror or error}", file=path, mend=mend)


def word_for(mode: int) -> str:
    """The word of a message for a file of this mode."""
    return next((word for test, word in _WORDS if test(mode)), "no file")


def _check_kind(path: Path, mode: int, kind: Kind, streams: bool) -> None:
    what = word_for(mode)
    if kind is not Kind.FILE:
        if not stat.S_ISDIR(mode):
            raise InputError(f"is {what}, and a folder is to be written", file=path, mend=OTHER_NAME)
        return
    if stat.S_ISDIR(mode):
        raise InputError("is a folder", file=path, mend=f"{OTHER_NAME}, a file inside it say")
    if stat.S_ISBLK(mode):
        raise InputError(f"is {what}: writing would destroy what is on it", file=path, mend="Name a file")
    if not stat.S_ISREG(mode) and not streams:
        raise InputError(f"is {what}, through which this cannot be written", file=path, mend="Name a file")


def _check_owner(path: Path, status: os.stat_result) -> None:
    what = word_for(status.st_mode)
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise InputError(
            f"is {what} of another user ({_user(status.st_uid)})",
            file=path,
            mend=f"{OTHER_NAME}, or let its owner remove it",
        )
    # By its bits, because an administrator may write to what they forbid.
    if not status.st_mode & 0o222:
        raise InputError(f"is {what} that is read-only", file=path, mend=f"Make it writable, or {_lower(OTHER_NAME)}")


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _user(number: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return str(number)


def _check_around(given: Path, real: Path) -> None:
    """Whether a file may be made beside `real`, whose folder need not exist."""
    around = real.parent
    while not os.path.lexists(around):
        around = around.parent
    try:
        status = os.stat(around)
    except OSError as error:
        raise refused(given, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(
            f"cannot be written: {around} is {word_for(status.st_mode)}, not a folder",
            file=given,
            mend="Choose a folder you may write to",
        )
    if not status.st_mode & 0o222 or not os.access(around, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot be written: the folder {around} is read-only to you",
            file=given,
            mend="Choose a folder you may write to",
        )


def _mounted(path: Path) -> bool:
    # A file or folder of the same disk that is mounted over another is seen in the system's list alone.
    return os.path.ismount(path) or str(path) in _mount_points()


def _mount_points() -> set[str]:
    if sys.platform != "linux":
        return set()
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # Blanks and line breaks are written as three octal digits.
    return {re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in lines}


def is_ours(folder: Path) -> bool:
    """Whether a folder is empty or a model that this library wrote."""
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    return not names or names.get(DESCRIPTION, False)


def foreign(folder: Path) -> str | None:
    """The first thing below a hidden folder of ours that this library did not write there, None where there is none."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                found = foreign(Path(entry.path))
                if found is not None:
                    return found
            elif not (entry.is_file(follow_symlinks=False) and OURS.fullmatch(entry.name)):
                return entry.path
    return None
