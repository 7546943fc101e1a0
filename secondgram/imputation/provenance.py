"""Telling models and imputations apart: digests, and the versions that decide a model's numbers."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .model_data import People

# People whose cells are copied at a time, where they do not lie side by side.
ROWS = 1024


def versions() -> dict[str, str]:
    """Versions of the libraries that decide a model's numbers."""
    found = {"python": platform.python_version()}
    for name in ("secondgram", "torch", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def tree_digest(tree: Any) -> str:
    """SHA-256 of a nested dict of JSON values and arrays."""
    digest = hashlib.sha256()

    def visit(node: Any) -> None:
        if isinstance(node, np.ndarray):
            digest.update(node.tobytes())
        elif isinstance(node, dict):
            for key in sorted(node):
                digest.update(str(key).encode())
                visit(node[key])
        elif isinstance(node, (list, tuple)):
            for value in node:
                visit(value)
        else:
            digest.update(str(node).encode())

    visit(tree)
    return digest.hexdigest()


def people_digest(people: People) -> str:
    """SHA-256 of all about people that decides their draws."""
    digest = hashlib.sha256(str(people.baseline.dtype).encode())
    digest.update("\0".join(people.ids).encode())
    digest.update(np.ascontiguousarray(people.keys).data)
    digest.update("\0".join([] if people.site is None else people.site).encode())
    if people.later_site is not None:
        digest.update("\0".join(people.later_site).encode())
    history = people.history
    if history is not None and history.sites is not None:
        digest.update("\0".join(history.sites.ravel()).encode())
    others = () if history is None else (history.visits, history.times, history.at)
    for values in (people.baseline, people.gap, people.known, *others):
        for first in range(0, len(values), ROWS):
            digest.update(np.ascontiguousarray(values[first : first + ROWS]).data)
    digest.update(pd.util.hash_pandas_object(people.table.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()
