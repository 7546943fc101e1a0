"""Reading and writing against pandas, which is told the layout and checks nothing; contents are compared first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from interleaved import interleaved

import secondgram as sg
from secondgram.imputation.draws_file import read_draws
from secondgram.imputation.model_data import People
from secondgram.imputation.result import Imputation

# people, features, draws, rounds
SIZES: dict[str, Any] = {"small": (500, 24, 5, 7), "large": (10_000, 256, 10, 5)}


class Kept:
    """A model whose draws are there already, so that writing alone is timed."""

    def __init__(self, ids: np.ndarray, values: np.ndarray) -> None:
        self.place, self.values = {name: row for row, name in enumerate(ids)}, values

    def draw(self, people: People, *given: object) -> np.ndarray:
        return self.values[:, [self.place[name] for name in people.ids]]

    def mean(self, people: People, *given: object) -> np.ndarray:
        return self.draw(people).mean(axis=0)

    def sample(self, people: People, draws: np.ndarray, *given: object) -> np.ndarray:
        return np.empty((len(draws), len(people), 0), dtype=np.float32)

    def finish(self, people: People, *given: object) -> np.ndarray:
        return self.draw(people)


def _cohort(name: str) -> sg.SimulatedCohort:
    people, features = SIZES[name][:2]
    return sg.simulate(people, features, 0.3, seed=0, mode="gaussian")


def _by_hand(cohort: sg.Cohort, read: Callable[[Path], pd.DataFrame], path: Path) -> np.ndarray:
    """(N, V, D) by pandas, told which columns are what."""
    table = read(path).set_index(["subject_id", "visit"])[list(cohort.features)]
    wide = table.unstack("visit").reindex(cohort.ids)
    return wide.to_numpy().reshape(len(cohort), len(cohort.features), -1).transpose(0, 2, 1)


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"subject_id": str, "visit": str})


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", SIZES)
def test_reading(benchmark: Any, name: str, form: str, tmp_path: Path, threads: int) -> None:
    cohort, path = _cohort(name), tmp_path / f"cohort.{form}"
    cohort.write(path)
    read = _read_csv if form == "csv" else pd.read_parquet
    ours = lambda: sg.read_cohort(path, features=cohort.features).visits  # noqa: E731
    np.testing.assert_allclose(ours(), cohort.visits, rtol=1e-6)
    np.testing.assert_array_equal(ours(), _by_hand(cohort, read, path))
    interleaved(
        benchmark,
        ours,
        {"pandas, told the layout": lambda: _by_hand(cohort, read, path)},
        rounds=SIZES[name][3],
        group=f"reading {form}, {name}",
        bytes=path.stat().st_size,
        threads=threads,
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", SIZES)
def test_writing_a_cohort(benchmark: Any, name: str, form: str, tmp_path: Path, threads: int) -> None:
    cohort, path, other = _cohort(name), tmp_path / f"ours.{form}", tmp_path / f"theirs.{form}"
    seen = np.isfinite(cohort.visits).any(axis=2) | np.isfinite(cohort.times)
    person, slot = np.nonzero(seen)

    def by_hand() -> None:
        values = cohort.visits[person, slot]
        head = cohort.covariate_table.iloc[person].reset_index(drop=True)
        head.insert(0, "subject_id", cohort.ids[person])
        head.insert(1, "visit", np.array(cohort.visit_labels)[slot])
        head.insert(2, "time_years", cohort.times[person, slot])
        table = pd.concat([head, pd.DataFrame(values, columns=list(cohort.features))], axis=1)
        table.to_csv(other, index=False) if form == "csv" else table.to_parquet(other, index=False)

    cohort.write(path)
    by_hand()
    read = _read_csv if form == "csv" else pd.read_parquet
    np.testing.assert_array_equal(_by_hand(cohort, read, path), _by_hand(cohort, read, other))
    interleaved(
        benchmark,
        lambda: cohort.write(path),
        {"pandas": by_hand},
        rounds=SIZES[name][3],
        group=f"writing {form}, {name}",
        bytes=path.stat().st_size,
        threads=threads,
    )


@pytest.mark.parametrize("name", SIZES)
def test_writing_draws(benchmark: Any, name: str, tmp_path: Path, threads: int) -> None:
    cohort, (people, features, draws, rounds) = _cohort(name), SIZES[name]
    values = np.random.default_rng(0).normal(size=(draws, people, features))
    result = Imputation(
        Kept(cohort.ids, values), People.of(cohort, keep_known=False), cohort.features, "1", np.arange(draws), 0
    )
    path, other = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"

    def by_hand() -> None:
        rows = values.transpose(1, 0, 2).reshape(-1, features)
        table = pd.DataFrame(rows, columns=list(cohort.features))
        table.insert(0, "subject_id", np.repeat(cohort.ids, draws))
        table.insert(1, "visit", "1")
        table.insert(2, "draw", np.tile(np.arange(draws, dtype=np.int32), people))
        table.to_parquet(other, index=False)

    result.to_parquet(path)
    by_hand()
    np.testing.assert_array_equal(read_draws(path)[2], values)
    np.testing.assert_array_equal(read_draws(other)[2], values)
    interleaved(
        benchmark,
        lambda: result.to_parquet(path),
        {"pandas": by_hand},
        rounds=rounds,
        group=f"writing draws, {name}",
        bytes=path.stat().st_size,
        threads=threads,
    )
