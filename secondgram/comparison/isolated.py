"""Another library at work in a process of its own: what it does there can end it, and not the comparison."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..cohort.table import Cohort
from .predictions import predictions

TASK, RESULT = "task.pickle", "result.npz"
# Sums over several threads come out differently with their number: a seed decides a method.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class PeerFailure(Exception):
    """Another library raised, crashed or took too long; the text says which."""


def predictions_isolated(
    name: str, learn: Cohort, judge: Cohort, draws: int, seed: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `predictions`, in a new process and within `limit` seconds; raises `PeerFailure`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TASK).write_bytes(pickle.dumps((name, learn, judge, draws, seed)))
        try:
            ended = subprocess.run(
                [sys.executable, "-m", __name__, folder],
                env=os.environ | ONE_THREAD,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerFailure(f"took longer than {limit:g} s") from error
        if ended.returncode:
            lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
            raise PeerFailure(lines[-1][:200] if lines else f"ended with code {ended.returncode}")
        with np.load(Path(folder) / RESULT, allow_pickle=False) as stored:
            mean, drawn = stored["mean"], stored["draws"]
    if mean.shape != judge.baseline.shape or drawn.shape[1:] != mean.shape:
        raise PeerFailure(f"gave a mean of shape {mean.shape} and draws of shape {drawn.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(drawn).all()):
        raise PeerFailure("gave values that are no numbers")
    return mean, drawn


def _work(folder: Path) -> None:
    # Written by the process that started this one, into a folder that nobody else may read.
    mean, drawn = predictions(*pickle.loads((folder / TASK).read_bytes()))
    np.savez(folder / RESULT, mean=mean, draws=drawn)


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
