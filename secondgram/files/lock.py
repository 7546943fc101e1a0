"""One run at a time for one output: the second is refused and told of the first."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import InputError
from .output import alive, explained
from .target import Target

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(place: Target) -> Iterator[list[str]]:
    """Hold the lock of an output; yields what to tell about it, one sentence each.

    The lock is a hidden file beside the output that says which process holds it. The system lets go of it when that
    process ends, however it ends; what a killed one left is taken over and told. A device, pipe or socket needs none:
    what goes through it is not replaced. Raises `InputError`, naming the other run, where it is held.
    """
    if place.stream:
        yield []
        return
    path = place.real.with_name(f".{place.real.name}.lock")
    with explained(place.given):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, notes = _acquired(path, place)
    try:
        yield notes
    finally:
        # Removed while it is still held, so that nobody else's is.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquired(path: Path, place: Target) -> tuple[int, list[str]]:
    while True:
        # Not through a link, which somebody else may have put there.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            free = _claim(handle)
            holder = _holder(handle)
            if not free or _held_elsewhere(holder):
                raise _refusal(path, place, holder)
            if not _is_at(handle, path):
                # Its holder removed it between our opening and our claim.
                os.close(handle)
                continue
            try:
                _sign(handle)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        except BaseException:
            os.close(handle)
            raise
        if holder is None:
            return handle, []
        return handle, [f"the lock of a run that was killed ({_holder_text(holder)}) was taken over"]


def _claim(handle: int) -> bool:
    """Take the system's lock of an open file, which ends with the process; False where another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _held_elsewhere(holder: dict[str, Any] | None) -> bool:
    # Another machine's lock may not show here, and without the system's the process is asked for.
    if holder is None:
        return False
    if holder.get("host") != platform.node():
        return True
    return fcntl is None and alive(int(holder.get("pid", 0)))


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> dict[str, Any] | None:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 4096) or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _sign(handle: int) -> None:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now.isoformat()}).encode())


def _holder_text(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"


def _refusal(path: Path, place: Target, holder: dict[str, Any] | None) -> InputError:
    who = "another run" if holder is None else f"another run: {_holder_text(holder)}"
    mend = "Wait for it, or choose another name for --out"
    if holder is not None and holder.get("host") != platform.node():
        mend += f"; if it has ended, remove {path}"
    return InputError(f"is being written by {who}", file=place.given, mend=mend)
