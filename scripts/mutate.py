"""Put known faults into a copy of this tree, one at a time, and see whether the tests that should notice do.

    python scripts/mutate.py [--list] [--only N ...] [--jobs J] [--write docs/mutations.md]

The faults stand in `scripts/mutations.txt`, one block each, blank lines between them:

    @ what is wrong, in words
    file secondgram/imputation/folds.py
    test tests/test_folds.py::test_folds_keep_units_together_and_are_of_about_one_size
    - the text as it is
    + the text with the fault

`file` and `test` may have several lines of `-` and `+`, and `test` several names with blanks between them. What stands
after `- ` has to occur exactly once in the file. The tests have to pass without the fault. Exits with 1 where a fault
survives or could not be put in. Needs a system on which processes can be forked, and git.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
FAULTS = "scripts/mutations.txt"
# Of pytest: tests failed; and seconds that the tests of a fault may take.
FAILED, LIMIT = 1, 900.0
# What the tests import that is none of this tree.
LIBRARIES = ("torch", "torch.optim", "pandas", "pyarrow.parquet", "scipy.stats", "scipy.optimize", "sklearn.covariance")
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu")
CAUGHT, SURVIVED = "caught", "SURVIVED"
HEAD = """\
# Faults that the tests catch

A test that never fails says nothing. `python scripts/mutate.py` puts each fault of `scripts/mutations.txt` into a copy
of the tree, one at a time, and runs the tests that should notice. Most are faults of wiring: a part is right, and what
it is handed is not. That command writes this page with `--write docs/mutations.md`.
"""


class BadFault(Exception):
    """A fault that cannot be read or put in."""


@dataclass
class Fault:
    """name : what is wrong;  file : below the root;  old, new : texts;  tests : names for pytest."""

    name: str
    file: str = ""
    tests: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def applied(self, text: str) -> str:
        """The text of the file with the fault in it; raises `BadFault` where `old` is not there exactly once."""
        old, new = "\n".join(self.old), "\n".join(self.new)
        count = text.count(old)
        if count != 1:
            raise BadFault(f"{self.file}: the text of the fault {self.name!r} occurs {count} times, not once:\n{old}")
        return text.replace(old, new)


def read_faults(path: Path) -> list[Fault]:
    """The faults of a file; raises `BadFault` with the line for what is none."""
    faults: list[Fault] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.partition(" ")
        if not line.strip() or word == "#":
            continue
        if word == "@":
            faults.append(Fault(rest.strip()))
            continue
        if not faults or word not in ("file", "test", "-", "+"):
            raise BadFault(f"{path}, line {number}: begin with '@', 'file', 'test', '-', '+' or '#', not {line!r}")
        fault = faults[-1]
        if word == "file":
            fault.file = rest.strip()
        elif word == "test":
            fault.tests += rest.split()
        else:
            (fault.old if word == "-" else fault.new).append(rest)
    for fault in faults:
        if not (fault.name and fault.file and fault.tests and fault.old) or fault.old == fault.new:
            raise BadFault(f"{path}: the fault {fault.name!r} needs a name, a file, a test, and '-' other than '+'")
    return faults


def copied(root: Path, folder: Path) -> None:
    """Copy what git tracks, changed or not, and the extensions that were built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BadFault(f"{root}: git does not say what belongs to this tree ({error})") from error
    names = [Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]
    built = [path.relative_to(root) for end in ("so", "pyd") for path in root.glob(f"secondgram/*.{end}")]
    for name in names + built:
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    # As it is installed.
    if (folder / "kernels").is_dir() and not (folder / "secondgram" / "kernels").exists():
        (folder / "secondgram" / "kernels").symlink_to(folder / "kernels")


def _worker(libraries: Sequence[str]) -> None:
    """Run tests as they are asked for on standard input, a JSON line each, every time in a process of its own.

    That process begins with the libraries imported, which takes longer than most of the tests.
    """
    for name in libraries:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Nothing that is printed is taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        folder, tests, limit = json.loads(line)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told:
            process = os.fork()
            if process == 0:
                _tests_in(folder, tests, told.fileno())
            code, end = None, time.monotonic() + limit
            while code is None and time.monotonic() < end:
                time.sleep(0.02)
                found, status = os.waitpid(process, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if found else None
            if code is None:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            told.seek(0)
            last = "".join(told.readlines()[-15:])
        answers.write(json.dumps([code, last]) + "\n")
        answers.flush()


def _tests_in(folder: str, tests: list[str], out: int) -> NoReturn:
    code = -1
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        sys.path.insert(0, folder)
        import pytest

        code = int(pytest.main([*PYTEST, *tests]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


class Copy:
    """A copy of a tree, and a process that runs tests in it; closed at the end of a `with`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder, self.time = folder, int(time.time())
        copied(root, folder)
        around = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", *LIBRARIES]
        self.process = subprocess.Popen(
            command, cwd=folder, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def write(self, path: Path, text: str) -> None:
        """Write a file at a time of its own, or bytecode of what it was before would be taken for it."""
        path.write_text(text, encoding="utf-8")
        self.time += 2
        os.utime(path, (self.time, self.time))

    def tested(self, tests: Iterable[str]) -> tuple[int | None, str]:
        """Exit code of pytest, None where it took too long, and the last lines it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([str(self.folder), list(tests), LIMIT]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise BadFault("the process that runs the tests was ended from outside")
        code, told = json.loads(answer)
        return code, told if code is not None else f"took more than {LIMIT:g} s"


def judged(fault: Fault, copy: Copy) -> tuple[str, str]:
    """`CAUGHT`, `SURVIVED` or why neither, of a fault that is put into a copy and taken out again; what was printed."""
    path = copy.folder / fault.file
    try:
        before = path.read_text(encoding="utf-8")
        after = fault.applied(before)
    except (OSError, BadFault) as error:
        return "could not be put in", str(error)
    copy.write(path, after)
    try:
        code, told = copy.tested(fault.tests)
    finally:
        copy.write(path, before)
    return {FAILED: CAUGHT, 0: SURVIVED, None: "took too long"}.get(code, "tests could not be run"), told


def run(root: Path, faults: Sequence[tuple[int, Fault]], jobs: int, keep: Callable[[Fault, str], None]) -> list[str]:
    """Outcomes of numbered faults, in their order; each is printed and given to `keep` as it comes."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as place, contextlib.ExitStack() as stack:
        copies: Queue[Copy] = Queue()
        for number in range(jobs):
            (Path(place) / str(number)).mkdir()
            copies.put(stack.enter_context(Copy(root, Path(place) / str(number))))
        first = copies.get()
        code, told = first.tested(sorted({test for _, fault in faults for test in fault.tests}))
        copies.put(first)
        if code != 0:
            raise BadFault(f"the tests do not pass without a fault:\n{told}")

        def outcome(numbered: tuple[int, Fault]) -> str:
            copy, start = copies.get(), time.monotonic()
            try:
                found, told = judged(numbered[1], copy)
            finally:
                copies.put(copy)
            print(f"{numbered[0]:3} {found:8} {time.monotonic() - start:5.1f} s  {numbered[1].name}", flush=True)
            if found != CAUGHT:
                print(told, flush=True)
            keep(numbered[1], found)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(outcome, faults))


def page(faults: Sequence[tuple[int, Fault]], outcomes: Sequence[str]) -> str:
    """The results as Markdown."""
    lines = [
        *HEAD.splitlines(),
        "",
        f"{sum(each == CAUGHT for each in outcomes)} of {len(outcomes)} are caught.",
        "",
        "| | Fault | In | Noticed by | Outcome |",
        "|---|---|---|---|---|",
    ]
    for (number, fault), outcome in zip(faults, outcomes, strict=True):
        tests = ", ".join(f"`{test.removeprefix('tests/')}`" for test in fault.tests)
        lines.append(f"| {number} | {fault.name} | `{fault.file}` | {tests} | {outcome} |")
    return "\n".join(lines) + "\n"


def told_by(path: Path) -> dict[str, str]:
    """Outcomes by fault of a page that was written before; none where there is none."""
    if not path.exists():
        return {}
    rows = [line.strip("| ").split(" | ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {row[1]: row[-1] for row in rows if len(row) == 5 and row[0].isdigit()}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every fault is caught."""
    parser = argparse.ArgumentParser(description="Put known faults into a copy of this tree and run the tests on each.")
    parser.add_argument("--list", action="store_true", help="say which faults there are, and run nothing")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these faults, by their numbers")
    parser.add_argument("--jobs", type=int, default=1, help="copies that are tested at a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the results into a page of Markdown")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree; this one if left out")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker is not None:
        _worker(asked.worker)
        return 0
    try:
        faults = list(enumerate(read_faults(asked.root / FAULTS), 1))
        strange = sorted(set(asked.only or ()) - {number for number, _ in faults})
        if strange or asked.jobs < 1:
            parser.error(f"there is no fault {strange[0]}" if strange else "--jobs is 1 or more")
        chosen = [each for each in faults if asked.only is None or each[0] in asked.only]
        if asked.list:
            for number, fault in chosen:
                print(f"{number:3} {fault.file}: {fault.name}")
            return 0
        known = {} if asked.write is None else told_by(asked.write)
        turn = threading.Lock()

        def keep(fault: Fault, found: str) -> None:
            # As they come: a run that is stopped has not been in vain.
            with turn:
                known[fault.name] = found
                if asked.write is not None:
                    text = page(faults, [known.get(fault.name, "not run") for _, fault in faults])
                    asked.write.write_text(text, encoding="utf-8")

        outcomes = run(asked.root, chosen, asked.jobs, keep)
    except BadFault as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    caught = sum(each == CAUGHT for each in outcomes)
    print(f"{caught} of {len(outcomes)} caught")
    return int(caught < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
