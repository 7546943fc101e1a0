"""Imports run one way, floor by floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secondgram

PACKAGE = Path(secondgram.__file__).parent
# Higher floors may import lower ones; a floor may import itself.
FLOORS = {
    "errors": 0,
    "files": 1,
    "progress": 1,
    "kernels": 2,
    "cohort": 2,
    "diffusion": 2,
    "ops": 3,
    "denoiser": 4,
    "training": 5,
    "imputation": 6,
    "evaluation": 7,
    "doctor": 8,
    "cli": 9,
}
# On the ground floor, no room knows another.
APART = {"kernels", "cohort", "diffusion"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a module imports, at any depth of its code."""
    place = path.relative_to(PACKAGE).parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*place[: len(place) - node.level], *(node.module or "").split(".")]
            names = [part for part in base if part] or [alias.name for alias in node.names]
            rooms.update([names[0]] if base[0] else names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secondgram."):
            rooms.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            rooms.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("secondgram."))
    return {room for room in rooms if room in FLOORS}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_rooms(path) - {room}:
        assert FLOORS[other] < FLOORS[room] or (FLOORS[other] == FLOORS[room] == 1), f"{room} imports {other}"
        assert not {room, other} <= APART, f"{room} imports {other}"


def test_the_check_sees_imports() -> None:
    assert {"cohort", "training", "errors"} <= imported_rooms(PACKAGE / "imputation" / "imputer.py")
    assert "ops" in imported_rooms(PACKAGE / "denoiser.py")


def test_every_metric_and_method_is_in_the_documentation() -> None:
    from secondgram.evaluation.compare import METHODS
    from secondgram.evaluation.metrics import FURTHER, METRICS

    text = (Path(__file__).parent.parent / "docs" / "comparing.md").read_text(encoding="utf-8")
    for name, meaning in (METRICS | FURTHER).items():
        assert f"| `{name}` | {meaning} |" in text, name
    assert not [name for name in METHODS if f"`{name}`" not in text]
