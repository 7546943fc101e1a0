"""Writing a file so that a reader never sees half of it; links, devices, pipes and sockets are kept."""

from __future__ import annotations

import errno
import os
import platform
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import InputError
from .durable import finish_replacing, remove, replace_folder, sync, sync_folder, temporary
from .target import Kind, Target, foreign, look, refused, word_for

# Seconds to wait for a reader of a pipe.
READER_WAIT = 30.0


@contextmanager
def explained(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals to write into an `InputError` that names the file."""
    try:
        yield
    except OSError as error:
        raise refused(target, error) from error


@contextmanager
def replacing(target: str | os.PathLike[str], kind: Kind = Kind.FILE) -> Iterator[Path]:
    """Yield a temporary path; on success what was written there takes the name of `target`, else it is removed.

    Killed at any moment it leaves the old content or the new one: for a folder, see `kept`. Both content and name are
    on the disk when it ends.

    kind : `FILE`, or `WHOLE_FOLDER` where the temporary path is made a folder. Where `target` is a link, what it leads
    to is replaced. Raises `InputError` as `look` does, and where the operating system refuses (full disk).
    """
    with explained(target):
        if kind is Kind.WHOLE_FOLDER:
            finish_replacing(Path(target))
        place = look(target, kind)
        real = place.real
        made = temporary(real)
        # Those in which a name is new: of what is written, and of the folders made for it.
        named = [real.parent, *(folder.parent for folder in real.parents if not folder.exists())]
        real.parent.mkdir(parents=True, exist_ok=True)
        _drop_leftovers(real)
        # Of an earlier call, to which removing it was refused.
        remove(made)
        try:
            yield made
            sync(made)
            if look(target, kind) != place:
                raise InputError("was changed while it was being written", file=target, mend="Run it again")
            if made.is_dir() and real.is_dir():
                replace_folder(made, real)
            else:
                os.replace(made, real)
            # Before what stood there goes.
            for folder in named:
                sync_folder(folder)
        finally:
            remove(made)


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield an open file: of a regular file's temporary stand-in, or of the device, pipe or socket that `target` is.

    For content that is written from its beginning to its end. Raises `InputError` as `replacing` does, and where nobody
    reads from a pipe or listens at a socket.
    """
    with explained(target):
        place = look(target, streams=True)
        if place.stream:
            with _through(place) as stream:
                yield stream
            return
    with replacing(target) as temporary, open(temporary, "wb") as file:
        yield file


def filled(folder: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there, for files to be written into; raises `InputError` as `look` does."""
    with explained(folder):
        real = look(folder, Kind.FOLDER).real
        real.mkdir(parents=True, exist_ok=True)
    return Path(folder)


@contextmanager
def _through(place: Target) -> Iterator[BinaryIO]:
    if stat.S_ISSOCK(os.stat(place.real).st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(os.fspath(place.real))
            with connection.makefile("wb") as file:
                yield cast(BinaryIO, file)
        return
    with open(_descriptor(place), "wb") as file:
        yield file


def _descriptor(place: Target) -> int:
    """Of a device or pipe, opened for writing. It is not made where it went away meanwhile."""
    until = time.monotonic() + READER_WAIT
    while True:
        try:
            number = os.open(place.real, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(place.real).st_mode):
                raise
            if time.monotonic() > until:
                raise InputError(
                    f"is a pipe from which nobody has read for {READER_WAIT:g} seconds",
                    file=place.given,
                    mend="Start its reader first",
                ) from error
            time.sleep(0.02)
            continue
        if stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise InputError("was changed while it was being written", file=place.given, mend="Run it again")
        os.set_blocking(number, True)
        return number


def _drop_leftovers(target: Path) -> None:
    """Remove what processes of this machine left when they were killed while writing `target`."""
    beginning = f".{target.name}.{platform.node()}-"
    for path in target.parent.glob(f"{escape(beginning)}*.tmp"):
        number = path.name[len(beginning) : -len(".tmp")]
        if number.isdigit() and not alive(int(number)):
            # Another user's is theirs to remove.
            with suppress(OSError):
                remove(path)


def alive(process: int) -> bool:
    """Whether a process of this machine may still run."""
    if os.name != "posix":
        # Elsewhere signal 0 is not a question.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def clear(folder: Path) -> None:
    """Delete a hidden folder of ours, as the state of a training or the parts of an imputation, if it is there.

    Raises `InputError` for anything else of its name: a link, a device, a mount point, or a folder with other files.
    """
    finish_replacing(folder)
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return
    mend = "Remove or rename it yourself: a folder of this name is needed for what a stopped run goes on from"
    if not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else word_for(status.st_mode)
        raise InputError(f"is {what}, not a folder that this library made", file=folder, mend=mend)
    with explained(folder):
        look(folder, Kind.FOLDER)
        strange = foreign(folder)
    if strange is not None or os.path.ismount(folder):
        what = f"holds {strange}" if strange else "is a mount point"
        raise InputError(f"{what}, which this library did not put there", file=folder, mend=mend)
    remove(folder)
