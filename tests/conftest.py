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
