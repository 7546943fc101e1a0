"""Model folders: what is written comes back, and what was damaged or is something else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondgram import model_folder
from secondgram.errors import InputError
from secondgram.model_folder import DESCRIPTION, NUMBERS, read_folder, write_folder

ARRAYS = {
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "one": np.array([1], dtype=np.int64),
    "odd": np.linspace(0, 1, 21).reshape(3, 7).astype(np.float32),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "strided": np.arange(10)[::-3],
    "truth": np.array([True, False]),
    "keys": np.array([2**64 - 1], dtype=np.uint64),
    "special": np.array([np.nan, np.inf, -0.0]),
}


def _tree() -> dict[str, Any]:
    return {
        "name": "Zoë",
        "none": None,
        "flag": True,
        "number": 0.1 + 0.2,
        "missing": float("nan"),
        "big": 2**60,
        "text": ["a", 'b"\n', ""],
        "nested": {"deep": {"arrays": dict(ARRAYS), "list": [np.ones(2), {"x": np.zeros(1)}, 3]}, "empty": {}},
        "nothing": [],
    }


def _assert_same(got: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)
        assert got.flags.writeable
    elif isinstance(expected, dict):
        assert list(got) == sorted(expected)
        for name in expected:
            _assert_same(got[name], expected[name])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, float) and np.isnan(expected):
        assert np.isnan(got)
    else:
        assert got == expected
        assert type(got) is type(expected)


def _written(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_folder(folder, "model", _tree())
    return folder


def test_a_nested_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    _assert_same(read_folder(_written(tmp_path), "model"), _tree())


def test_tuples_and_numpy_scalars_become_lists_and_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "model", {"a": (1, np.float64(0.5)), "b": np.bool_(True), 3: np.int32(7)})  # type: ignore[dict-item]
    assert read_folder(tmp_path / "m", "model") == {"a": [1, 0.5], "b": True, "3": 7}


def test_a_tree_without_arrays_comes_back(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "model", {})
    assert read_folder(tmp_path / "m", "model") == {}


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = _tree()
    write_folder(tmp_path / "a", "model", tree)
    write_folder(tmp_path / "b", "model", dict(reversed(tree.items())))
    for name in (DESCRIPTION, NUMBERS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_writing_again_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = _written(tmp_path)
    write_folder(folder, "model", {"new": np.ones(1)})
    assert list(read_folder(folder, "model")) == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, NUMBERS]


def test_a_write_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = _written(tmp_path)
    with pytest.raises(TypeError):
        write_folder(folder, "model", {"unwritable": object()})
    _assert_same(read_folder(folder, "model"), _tree())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("keep", [0, 1, 8, 60, -1])
@pytest.mark.parametrize("name", [DESCRIPTION, NUMBERS])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, keep: int) -> None:
    path = _written(tmp_path) / name
    # The last byte of the description is its final newline, which carries nothing.
    path.write_bytes(path.read_bytes().rstrip(b"\n")[:keep])
    with pytest.raises(InputError, match=name):
        read_folder(path.parent, "model")


@pytest.mark.parametrize("place", [0, 20, -1])
def test_changed_numbers_are_refused(tmp_path: Path, place: int) -> None:
    path = _written(tmp_path) / NUMBERS
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="truncated or was changed"):
        read_folder(path.parent, "model")


def test_numbers_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = _written(tmp_path)
    write_folder(tmp_path / "other", "model", {"a": np.ones(3)})
    (folder / NUMBERS).write_bytes((tmp_path / "other" / NUMBERS).read_bytes())
    with pytest.raises(InputError, match="truncated or was changed"):
        read_folder(folder, "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": {"name": "Eve"}}, "changed after it was written"),
        ({"sha256": "0" * 64}, "changed after it was written"),
        ({"numbers_sha256": "0" * 64}, "changed after it was written"),
        ({"format": "other"}, "is no secondgram model"),
        ({"kind": "training state"}, "is no secondgram model"),
        ({"format_version": model_folder.FORMAT_VERSION + 1}, "format version 3, this release reads 1 and 2"),
    ],
)
def test_a_changed_description_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _written(tmp_path) / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_folder(path.parent, "model")


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}", b"\xff\xfe", b"not json", b"[" * 100_000])
def test_a_description_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = _written(tmp_path) / DESCRIPTION
    path.write_bytes(content)
    with pytest.raises(InputError, match=DESCRIPTION):
        read_folder(path.parent, "model")


@pytest.mark.parametrize("name", [DESCRIPTION, NUMBERS])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = _written(tmp_path) / name
    path.unlink()
    with pytest.raises(InputError, match=name):
        read_folder(path.parent, "model")


def test_an_absent_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such model folder"):
        read_folder(tmp_path / "absent", "model")
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="is a file, not a model folder"):
        read_folder(tmp_path / "file", "model")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no secondgram training state"):
        read_folder(_written(tmp_path), "training state")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="cannot be written"):
        write_folder(tmp_path / "file" / "model", "model", _tree())
