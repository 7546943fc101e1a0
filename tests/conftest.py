"""Settings that must stand before any test module is read, and what several modules share."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import secondgram as sg

# Triton chooses between interpreter and compiler when a kernel is read. On a CUDA machine: TRITON_INTERPRET=0.
os.environ.setdefault("TRITON_INTERPRET", "1")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL_NET = {"embedding": 16, "widths": [16, 8, 8], "epochs": 3}


def _no_interpreter() -> str | None:
    """Why Triton's interpreter cannot be used here, or None."""
    if os.environ["TRITON_INTERPRET"] != "1":
        return "TRITON_INTERPRET is not 1: kernels are compiled here"
    try:
        import torch
        import triton

        from secondgram.kernels.gradients import weight_gradients
    except ImportError:
        # The modules skip themselves, each with its reason.
        return None
    try:
        weight_gradients(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0, 1]))
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        # Whatever else fails is ours, and the tests show it.
        if isinstance(cause, TypeError) and "Python scalars" in str(cause):
            versions = f"triton {triton.__version__}'s interpreter cannot run with numpy {np.__version__}"
            return f"{versions}: a loop's bound is an array of one element there, and {cause}"
    return None


def _no_device() -> str | None:
    """Why kernels cannot be compiled and run here, or None."""
    try:
        import torch
    except ImportError:
        return None
    if os.environ["TRITON_INTERPRET"] == "1" or not torch.cuda.is_available():
        return "needs a CUDA device and TRITON_INTERPRET=0"
    return None


def _no_extension() -> str | None:
    """Why the C++ extension cannot be used here, or None."""
    from secondgram.ops import native

    reason = native.sampler_reason_unavailable()
    return reason and f"needs the C++ extension: {reason}"


# What a mark asks of the machine.
ASKED: dict[str, Callable[[], str | None]] = {
    "interpreted": _no_interpreter,
    "gpu": _no_device,
    "native": _no_extension,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, whatever this machine cannot run."""
    for mark, why_not in ASKED.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        reason = why_not() if marked else None
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason or ""))


class Outcome(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a secondgram command in this process: a process of its own would spend seconds on importing torch."""
    from secondgram.cli import main

    monkeypatch.setenv("COLUMNS", "240")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["secondgram", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


# What a command imports; a process that has done so is copied for each command.
LOADED = [
    "secondgram.cli",
    "secondgram.imputation.imputer",
    "secondgram.comparison.compare",
    "secondgram.cohort.formats",
    "secondgram.training.trainer",
    # An optimiser loads it when it first steps.
    "torch._dynamo",
]
IN_PROCESS = """
import os, sys
os.chdir({folder!r})
said = os.open({said!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(said, 1)
os.dup2(said, 2)
{before}
sys.argv = ["secondgram", *{arguments!r}]
from secondgram.cli import main
main()
"""


class Started:
    """A command that runs in a process of its own."""

    def __init__(self, process: Any, said: Path) -> None:
        self.process, self._said = process, said

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Exit code, the signal's number below zero, None while it runs."""
        return self.process.exitcode

    @property
    def said(self) -> str:
        """What it wrote to standard output and standard error."""
        return self._said.read_text(encoding="utf-8") if self._said.exists() else ""

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, None where it still runs after so many seconds."""
        self.process.join(seconds)
        return self.code

    def kill(self) -> None:
        """End it by SIGKILL, which it cannot see coming."""
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="session")
def start_command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Started]:
    """Start a secondgram command in a folder, after some lines of Python; importing torch has been done before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    place = tmp_path_factory.mktemp("said")
    number = itertools.count()

    def start(arguments: list[str], folder: Path, before: str = "") -> Started:
        said = place / f"{next(number)}.txt"
        code = IN_PROCESS.format(folder=str(folder), said=str(said), before=before, arguments=arguments)
        process = context.Process(target=exec, args=(code, {"__name__": "command"}), daemon=True)
        process.start()
        return Started(process, said)

    return start


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Load a module of the benchmarks by name; they stand beside one another, outside of any package."""
    if not BENCHMARKS.exists():
        pytest.skip("needs the sources: there are no benchmarks here")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            sys.modules.pop(name)


@pytest.fixture(scope="session")
def write_study() -> Callable[[sg.SimulatedCohort, Path], sg.Cohort]:
    """Write what commands read into a folder: good.csv, truth.csv, a model of it, and draws.parquet with 2 draws."""

    def write(cohort: sg.SimulatedCohort, folder: Path) -> sg.Cohort:
        cohort.write(folder / "good.csv")
        cohort.write_truth(folder / "truth.csv")
        read = sg.read_cohort(folder / "good.csv")
        imputer = sg.SecondgramImputer(shape="off").fit(read, show=False)
        imputer.save(folder / "model")
        imputer.impute(read, draws=2, out=folder / "draws.parquet", show=False)
        return read

    return write


@pytest.fixture
def work_in_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Copy a folder, and go there for the test."""

    def copied(folder: Path) -> Path:
        place = tmp_path / "work"
        shutil.copytree(folder, place)
        monkeypatch.chdir(place)
        return place

    return copied


@pytest.fixture(scope="session")
def cohort() -> sg.SimulatedCohort:
    """300 people, 6 features, 100 complete pairs, every cell measured."""
    return sg.simulate(300, 6, 1 / 3, seed=11, mode="gaussian")


@pytest.fixture(scope="session")
def imputers(cohort: sg.SimulatedCohort) -> dict[str, sg.SecondgramImputer]:
    """Small fitted imputers: `off` (rungs without the denoiser), `default` (denoiser always kept), `paper`."""
    from secondgram.imputation.default.model import DefaultModel

    def fitted(preset: str, **options: Any) -> sg.SecondgramImputer:
        return sg.SecondgramImputer(preset, **options).fit(cohort, show=False)

    with pytest.MonkeyPatch.context() as patch:
        # Three epochs earn nothing, and what earns nothing is dropped; here it has to stay.
        gains = np.ones((9, 4)), np.ones((9, 4))
        patch.setattr("secondgram.imputation.default.shape._fall", lambda net, *arguments: gains)
        shaped = fitted("default", components=4, **SMALL_NET)
    assert isinstance(shaped.model_, DefaultModel)
    assert shaped.model_.joint.shape is not None
    return {"off": fitted("default", shape="off"), "default": shaped, "paper": fitted("paper", steps=10, **SMALL_NET)}
