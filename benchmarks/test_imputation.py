"""A whole imputation on the CPU: from the file of a cohort to the file of its draws.

Ours against the same model on eager torch, a step at a time. Both files are compared before either is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interleaved import interleaved

import secondgram as sg
from secondgram.imputation.draws_file import read_draws
from secondgram.ops import native

# people, features, share with a follow-up, draws, epochs, rounds
SIZES: dict[str, Any] = {"small": (400, 12, 0.4, 10, 3, 5), "large": (10_000, 128, 0.2, 20, 20, 5)}
GATE = 1e-4


def _gain(net: object, schedule: object, components: np.ndarray, *given: object) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((9, components.shape[1])), np.ones((9, components.shape[1]))


@pytest.mark.skipif(
    native.sampler_reason_unavailable() is not None, reason=f"native: {native.sampler_reason_unavailable()}"
)
@pytest.mark.parametrize("name", SIZES)
def test_imputation(benchmark: Any, name: str, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    people, features, paired, draws, epochs, rounds = SIZES[name]
    cohort = sg.simulate(people, features, paired, seed=0, mode="converters")
    # A part without gain is dropped, and then there would be no chain to time.
    monkeypatch.setattr("secondgram.imputation.default.shape._fall", _gain)
    imputer = sg.SecondgramImputer(components=8, epochs=epochs).fit(cohort.take(range(min(people, 2_000))), show=False)
    file = tmp_path / "cohort.parquet"
    cohort.write(file)
    known = imputer.columns_

    def run(backend: str) -> Path:
        imputer.backend, imputer.precision = backend, "fp32"
        out = tmp_path / f"{backend}.parquet"
        read = sg.read_cohort(file, static=known.covariates, features=known.features)
        imputer.impute(read, draws=draws, who="all", out=out, show=False)
        return out

    ours, plain = (read_draws(run(backend))[2] for backend in ("cpu", "reference"))
    distance = float(np.abs(ours - plain).max() / plain.std())
    assert distance <= GATE
    shape = imputer.model_.joint.shape  # type: ignore[attr-defined]
    assert shape is not None
    interleaved(
        benchmark,
        lambda: run("cpu"),
        {"the same on eager torch": lambda: run("reference")},
        rounds=rounds,
        group=f"imputation, file to file, {name}",
        threads=threads,
        distance=distance,
        people=people,
        features=features,
        draws=draws,
    )
