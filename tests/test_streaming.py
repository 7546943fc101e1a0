"""Draws go to their file in parts, so that memory does not grow with the cohort."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram.imputation.default.model import DefaultModel

CELLS = 3 * 6 * 16  # sixteen people of six features and three draws


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("preset", ["off", "default", "paper"])
def test_a_few_people_at_a_time(preset, dtype, imputers, cohort, tmp_path, monkeypatch):
    people = replace(cohort, visits=cohort.visits.astype(dtype))
    model = imputers[preset].model_
    whole = imputers[preset].impute(people, draws=3, show=False).draws
    assert whole.dtype == dtype

    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", CELLS)
    cells = []
    draw = type(model).finish

    def watch(self: Any, *given: Any) -> np.ndarray:
        made = draw(self, *given)
        cells.append(made.size)
        return made

    monkeypatch.setattr(type(model), "finish", watch)
    path = tmp_path / "draws.parquet"
    result = imputers[preset].impute(people, draws=3, out=path, show=False)
    assert len(cells) >= 200 / 16
    assert max(cells) <= CELLS
    assert result.path == str(path)
    # Nothing is kept, and nothing else is left.
    assert "draws" not in vars(result)
    assert [entry.name for entry in tmp_path.iterdir()] == ["draws.parquet"]

    table = pq.read_table(path)
    value = pa.float32() if dtype == np.float32 else pa.float64()
    types = {"subject_id": pa.string(), "visit": pa.string(), "draw": pa.int32()} | dict.fromkeys(
        cohort.features, value
    )
    assert list(zip(table.column_names, table.schema.types, strict=True)) == list(types.items())
    assert table["subject_id"].to_pylist() == np.repeat(cohort.ids[~cohort.paired], 3).tolist()
    assert table["draw"].to_pylist() == [0, 1, 2] * 200
    assert set(table["visit"].to_pylist()) == {"1"}
    values = np.stack([table[name].to_numpy() for name in cohort.features], axis=-1)
    np.testing.assert_array_equal(values.reshape(200, 3, 6).transpose(1, 0, 2), whole)
    assert pq.ParquetFile(path).num_row_groups == len(list(result.chunks()))


def test_the_cut_decides_nothing_but_the_file_layout(imputers, cohort, tmp_path, monkeypatch):
    tables = []
    for cells in (CELLS, 5 * CELLS, 10**9):
        monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", cells)
        imputers["default"].impute(cohort, draws=3, out=tmp_path / "draws.parquet", show=False)
        tables.append(pq.read_table(tmp_path / "draws.parquet"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


# A process of its own, because the peak of memory is counted per process.
LEARN = """
import sys
import numpy as np
import secondgram as sg
import secondgram.imputation.default.shape as shape
exec(sys.argv[1])
if sys.argv[2] == "auto":
    # Keep the denoiser, whatever it earned.
    shape._fall = lambda net, *given: (np.ones((9, net.features)), np.ones((9, net.features)))
cohort = people(3000, 600)
sg.SecondgramImputer(shape=sys.argv[2], epochs=3).fit(cohort, show=False).save("model")
"""
STREAM = """
import json, resource, sys, time
import numpy as np
import secondgram as sg
exec(sys.argv[1])
cohort = people(20_000, 0)
began = time.monotonic()
result = sg.load("model").impute(cohort, draws=20, out="draws.parquet", show=False)
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak_kib": peak, "people": len(result.ids)}))
"""
PEOPLE = """
def people(count, paired, width=769):
    rng = np.random.default_rng(count)
    loading = np.random.default_rng(0).normal(size=(8, width))
    visits = np.empty((count, 2, width))
    for start in range(0, count, 1000):
        part = slice(start, min(start + 1000, count))
        level = rng.normal(size=(part.stop - start, 8)) @ loading
        for visit in range(2):
            visits[part, visit] = level + rng.normal(size=level.shape)
    visits[paired:, 1] = np.nan
    ids = np.array([f"{number:07d}" for number in range(count)])
    return sg.Cohort(ids=ids, visits=visits, features=tuple(f"f{number:03d}" for number in range(width)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["off", "auto"])
def test_a_large_cohort_stays_below_two_gigabytes(shape, tmp_path):
    """20,000 people, 769 features, 20 draws: 307,600,000 values."""

    def run(code: str, *more: str) -> str:
        command = [sys.executable, "-c", code, PEOPLE, *more]
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout

    run(LEARN, shape)
    model = sg.load(tmp_path / "model").model_
    assert isinstance(model, DefaultModel)
    assert (model.joint.shape is not None) == (shape == "auto")
    path: Path = tmp_path / "draws.parquet"
    try:
        told = json.loads(run(STREAM))
        print(f"shape={shape}: {told}, file {path.stat().st_size / 1e9:.2f} GB")
        assert told["people"] == 20_000
        assert told["peak_kib"] * 1024 < 2e9
        assert pq.read_metadata(path).num_rows == 400_000
    finally:
        path.unlink(missing_ok=True)
        shutil.rmtree(tmp_path / ".draws.parquet.parts", ignore_errors=True)
