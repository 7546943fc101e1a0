"""What is finished of a long comparison: one file for each method and fold, from which a rerun goes on."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cohort.table import Cohort
from ..files import replacing
from ..imputation.provenance import versions
from .methods import PEERS

FOLDER = "parts"
Predicted = tuple[np.ndarray, np.ndarray]


class FoldCache:
    """Predictions of finished methods and folds below a run's folder; without a folder nothing is kept.

    A file counts only for the cohort, the settings, the versions and the source code it was made with; any other, and a
    damaged one, is made anew.
    """

    def __init__(self, folder: Path | None, cohort: Cohort, **settings: Any) -> None:
        self.folder = None if folder is None else folder / FOLDER
        self.settings = settings
        self.cohort = "" if folder is None else cohort_digest(cohort)

    def load(self, name: str, what: str) -> Predicted | None:
        """Mean (N, D) and draws (M, N, D) of a method in a fold, or None where they are yet to be made."""
        if self.folder is None or not self._file(name, what).is_file():
            return None
        try:
            with np.load(self._file(name, what), allow_pickle=False) as stored:
                if str(stored["key"]) == self._key(name, what):
                    return stored["mean"], stored["draws"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        return None

    def save(self, name: str, what: str, predicted: Predicted) -> None:
        """Write the file whole or not at all."""
        if self.folder is None:
            return
        with replacing(self._file(name, what)) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, key=np.array(self._key(name, what)), mean=predicted[0], draws=predicted[1])

    def _file(self, name: str, what: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{re.sub('[^a-z0-9]+', '-', f'{name} {what}'.lower())}.npz"

    def _key(self, name: str, what: str) -> str:
        peer = PEERS[name].versions() if name in PEERS else {}
        identity = [self.cohort, source_digest(), versions() | peer, self.settings, name, what]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@functools.cache
def source_digest() -> str:
    """SHA-256 of the package's Python files: another release, or a change of the code, is another method."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cohort_digest(cohort: Cohort) -> str:
    """SHA-256 of everything about a cohort that decides a model or a score; notes and the file's name do not."""
    digest = hashlib.sha256(type(cohort).__name__.encode())
    for each in fields(cohort):
        value = getattr(cohort, each.name)
        if each.name in ("source", "notes") or value is None:
            continue
        digest.update(each.name.encode() + b"\0")
        if isinstance(value, pd.DataFrame):
            digest.update("\0".join(map(str, value.columns)).encode())
            digest.update(pd.util.hash_pandas_object(value.astype(str), index=False).to_numpy().tobytes())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, (np.ndarray, tuple, list)):
            digest.update("\0".join(map(str, value)).encode())
        elif isinstance(value, (int, str)):
            digest.update(str(value).encode())
    return digest.hexdigest()
