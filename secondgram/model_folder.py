"""A folder that holds a fitted model or a training state: numbers in safetensors, everything else in JSON.

Nothing in it is ever unpickled. `model.json` carries a digest of itself and of the numbers, so that a truncated or
edited folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from .errors import InputError
from .files import Kind, kept, replacing

FORMAT = "secondgram"
FORMAT_VERSION = 2
# Versions that can be read: models of version 1 have neither visits nor a precision.
READABLE = (1, 2)
DESCRIPTION, NUMBERS = "model.json", "weights.safetensors"
ARRAY = "$array"


def write_folder(folder: str | os.PathLike[str], kind: str, tree: dict[str, Any]) -> None:
    """Write a nested dict of JSON values and numpy arrays as a folder.

    An existing folder is replaced in one step: a reader sees the old one or the new one, also after a kill at any
    moment. The same tree gives the same bytes. Raises `InputError` where the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    body = _part(tree, "", arrays)
    numbers = save_tensors({name: np.asarray(value, order="C") for name, value in sorted(arrays.items())})
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "numbers_sha256": hashlib.sha256(numbers).hexdigest(),
        "content": body,
    }
    description["sha256"] = _digest(description)
    with replacing(folder, Kind.WHOLE_FOLDER) as temporary:
        temporary.mkdir()
        (temporary / NUMBERS).write_bytes(numbers)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def find_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of this name, or the one kept while it is replaced. Raises `InputError` where there is none."""
    place = kept(Path(folder))
    if not place.is_dir():
        found = "is a file, not a model folder" if place.exists() else "there is no such model folder"
        raise InputError(found, file=place, mend="Give the folder that `secondgram fit --out` or `imputer.save` wrote")
    return place


def read_folder(folder: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `write_folder` wrote.

    Raises `InputError` for a folder that is absent, truncated, tampered with, of another kind or of a newer version.
    """
    folder = find_folder(folder)
    description = _read_description(folder / DESCRIPTION)
    if description.get("format") != FORMAT or description.get("kind") != kind:
        raise InputError(f"is no secondgram {kind}", file=folder / DESCRIPTION)
    if description.get("format_version") not in READABLE:
        raise InputError(
            f"has format version {description.get('format_version')}, "
            f"this release reads {' and '.join(map(str, READABLE))}",
            file=folder / DESCRIPTION,
            mend="Use the release that wrote it, or train again",
        )
    claimed = description.pop("sha256", None)
    if claimed != _digest(description):
        raise InputError("was changed after it was written", file=folder / DESCRIPTION, mend="Restore or train again")
    try:
        numbers = (folder / NUMBERS).read_bytes()
        if hashlib.sha256(numbers).hexdigest() != description["numbers_sha256"]:
            raise InputError(
                "is truncated or was changed after it was written",
                file=folder / NUMBERS,
                mend="Restore the file from a copy, or train again",
            )
        arrays = load_tensors(numbers)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot be read ({error})", file=folder / NUMBERS, mend="Restore it or train again"
        ) from error
    try:
        return _whole(description["content"], arrays)
    except KeyError as error:
        raise InputError(
            f"is damaged: {error} is named and not there", file=folder / DESCRIPTION, mend="Restore or train again"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("is missing: this is no model folder", file=path, mend="Check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            "is damaged: it is not readable JSON", file=path, mend="Restore it from a copy, or train again"
        ) from error
    if not isinstance(description, dict):
        raise InputError("is damaged: it holds no model description", file=path, mend="Restore it, or train again")
    return description


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _part(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(node, np.ndarray):
        arrays[path] = node
        return {ARRAY: path}
    if isinstance(node, dict):
        return {str(key): _part(value, f"{path}/{key}" if path else str(key), arrays) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_part(value, f"{path}/{index}", arrays) for index, value in enumerate(node)]
    if isinstance(node, np.generic):
        return node.item()
    return node


def _whole(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(node, dict):
        if set(node) == {ARRAY}:
            # A copy: arrays read from a buffer are read-only.
            return arrays[node[ARRAY]].copy()
        return {key: _whole(value, arrays) for key, value in node.items()}
    if isinstance(node, list):
        return [_whole(value, arrays) for value in node]
    return node
