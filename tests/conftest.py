"""Settings that must stand before any test module is read, and what several modules share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import secondgram as sg

# Triton chooses between interpreter and compiler when a kernel is read. On a CUDA machine: TRITON_INTERPRET=0.
os.environ.setdefault("TRITON_INTERPRET", "1")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    interpreted = [item for item in items if item.get_closest_marker("interpreted")]
    reason = _no_interpreter() if interpreted else None
    for item in interpreted if reason else []:
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


@pytest.fixture(scope="session")
def cohort() -> sg.SimulatedCohort:
    """300 people, 6 features, 100 complete pairs, every cell measured."""
    return sg.simulate(300, 6, 1 / 3, seed=11, mode="gaussian")


@pytest.fixture(scope="session")
def imputers(cohort: sg.SimulatedCohort) -> dict[str, sg.SecondgramImputer]:
    """Small fitted imputers: `off` (rungs without the denoiser), `default` (denoiser always kept), `paper`."""
    from secondgram.imputation.ladder import Ladder

    def fitted(preset: str, **options: Any) -> sg.SecondgramImputer:
        return sg.SecondgramImputer(preset, **options).fit(cohort, show=False)

    with pytest.MonkeyPatch.context() as patch:
        # Three epochs earn nothing, and what earns nothing is dropped; here it has to stay.
        patch.setattr("secondgram.imputation.shape._fall", lambda net, *arguments: (np.ones((9, 4)), np.ones((9, 4))))
        shaped = fitted("default", components=4, **SMALL_NET)
    assert isinstance(shaped.model_, Ladder)
    assert shaped.model_.joint.shape is not None
    return {"off": fitted("default", shape="off"), "default": shaped, "paper": fitted("paper", steps=10, **SMALL_NET)}
