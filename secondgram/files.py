"""Writing a file so that a reader never sees half of it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from .errors import InputError


@contextmanager
def explained(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals to write into an `InputError` that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "Free some space or choose another folder" if error.errno == 28 else "Choose a folder you may write to"
        raise InputError(f"cannot be written: {reason}", file=target, mend=mend) from error


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it takes the target's name, else it is removed.

    Raises `InputError` where the operating system refuses (unwritable folder, full disk).
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{platform.node()}-{os.getpid()}.tmp")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _drop_leftovers(target)
        try:
            yield temporary
            if temporary.is_file():
                with open(temporary, "rb+") as handle:
                    os.fsync(handle.fileno())
            if temporary.is_dir() and target.is_dir():
                _swap_folder(temporary, target)
            else:
                os.replace(temporary, target)
        finally:
            remove(temporary)


def _drop_leftovers(target: Path) -> None:
    """Remove what processes of this machine left when they were killed while writing `target`."""
    beginning = f".{target.name}.{platform.node()}-"
    for path in target.parent.glob(f"{escape(beginning)}*.tmp"):
        number = path.name[len(beginning) : -len(".tmp")]
        if number.isdigit() and not _alive(int(number)):
            remove(path)


def _alive(process: int) -> bool:
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


def _swap_folder(new: Path, target: Path) -> None:
    # A folder cannot replace a folder that is not empty in one step, so the old one steps aside first.
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    os.replace(target, aside)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(aside, target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
