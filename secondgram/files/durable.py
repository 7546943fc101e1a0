"""What takes a name is on the disk before it does, and a folder takes another's place so that a kill loses neither."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from .target import is_ours

# Of renameat2(2): paths as they are given, and two names that change places in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# A system or file system that cannot do it says one of these.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# Readers put the old folder back where they find it aside; how often that may cross a writer.
TRIES = 5


def sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    if path.is_dir():
        for each in path.iterdir():
            sync(each)
        sync_folder(path)
    elif path.is_file():
        with open(path, "rb+") as handle:
            os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as far as the system offers it."""
    if os.name != "posix":
        # Elsewhere a folder cannot be opened.
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # Who may write there need not be allowed to look.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return found


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where this system or file system cannot."""
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))


def replace_folder(new: Path, target: Path) -> None:
    """Let `new` take the place of the folder `target`, which is then at `new`.

    By an exchange; where there is none, the old one steps aside first, and whoever comes next finds it there (`kept`).
    """
    if exchange(new, target):
        return
    aside = _aside(target)
    for left in reversed(range(TRIES)):
        os.replace(target, aside)
        try:
            os.replace(new, target)
            break
        except OSError as error:
            if left and error.errno in (errno.ENOTEMPTY, errno.EEXIST) and not aside.exists():
                # A reader came between.
                continue
            if aside.exists():
                os.replace(aside, target)
            raise
    sync_folder(target.parent)
    # Not removed under this name: half removed, nobody would know it.
    os.replace(aside, new)


def temporary(target: Path) -> Path:
    """Where what is to take the name of `target` is made; the next writer removes what a killed one left there."""
    return target.with_name(f".{target.name}.{platform.node()}-{os.getpid()}.tmp")


def kept(folder: Path) -> Path:
    """Where a folder of ours is: under its name, which the old one gets back where a killed run left it aside.

    Where it cannot be given back, to somebody who may only read say, it is where it stands aside.
    """
    real = Path(os.path.realpath(folder))
    aside = _aside(real)
    if os.path.lexists(real) or not _left(aside):
        return folder
    try:
        os.rename(aside, real)
    except OSError:
        if not real.exists():
            return aside
    return folder


def finish_replacing(folder: Path) -> None:
    """Before a folder is written: what a killed run left aside gets its name back, or goes where the new one stands."""
    real = Path(os.path.realpath(folder))
    if kept(folder) == folder and _left(_aside(real)):
        os.replace(_aside(real), temporary(real))
        remove(temporary(real))


def _aside(folder: Path) -> Path:
    # A name that nobody else gives.
    return folder.with_name(f".{folder.name}.secondgram-old")


def _left(aside: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(aside).st_mode) and is_ours(aside)
    except OSError:
        return False


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there; a link, device, pipe or socket is none of ours and stays."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode) and not os.path.ismount(path):
        shutil.rmtree(path, ignore_errors=True)
    elif stat.S_ISREG(mode):
        path.unlink(missing_ok=True)
