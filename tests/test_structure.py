"""Imports run one way, floor by floor."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
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
    "model_folder": 2,
    "ops": 3,
    "denoiser": 4,
    "training": 5,
    "sampling": 5,
    "imputation": 6,
    "analysis": 7,
    "evaluation": 7,
    "comparison": 8,
    "doctor": 9,
    "cli": 10,
    "testing": 11,
}
# On these floors, no room knows another.
APART = [{"kernels", "cohort", "diffusion", "model_folder"}, {"training", "sampling"}, {"analysis", "evaluation"}]
# Within a room: scores and methods below, what compares them above.
WITHIN = {
    "evaluation": {"metrics": 0, "evaluate": 1, "memorisation": 1, "score_tables": 1},
    "comparison": {
        "columns": 0,
        "hidden_visits": 0,
        "methods": 0,
        "predictions": 1,
        "cache": 2,
        "details": 2,
        "findings": 2,
        "isolated": 2,
        "evidence": 3,
        "run_folder": 3,
        "report": 4,
        "compare": 5,
        "plots": 5,
        "demo": 6,
    },
}
# Circles that are allowed: the modules, and why.
ALLOWED_CIRCLES: dict[frozenset[str], str] = {}
# Files of one name, and where: an operation keeps its name from definition to choice of backend to kernel.
SAME_NAME = {"noise": "diffusion, ops, kernels", "gradients": "ops, kernels", "postprocess": "ops, sampling"}
# Everyday words that stood for words of the field.
RETIRED = {
    *("Ladder", "Published", "Finisher", "NativeFinish", "Parts", "Triple", "standing", "settle", "settled", "told"),
    *("shown", "recycling", "predictions_apart", "stage_kernel", "finishing"),
}
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
        assert not any({room, other} <= rooms for rooms in APART), f"{room} imports {other}"


def test_the_check_sees_imports() -> None:
    assert {"cohort", "training", "errors"} <= imported_rooms(PACKAGE / "imputation" / "imputer.py")
    assert "ops" in imported_rooms(PACKAGE / "denoiser.py")


def modules(package: Path) -> dict[str, Path]:
    """Every module below a folder by its full name; packages by the name of their folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_modules(name: str, path: Path, known: Collection[str]) -> set[str]:
    """Those of the known modules that one imports: in functions and for types alone too."""
    parts = name.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            found.update(each if each in known else source for each in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return (found & set(known)) - {name}


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Modules that reach each other, by group."""
    reached = {}
    for name in graph:
        found: set[str] = set()
        left = list(graph[name])
        while left:
            other = left.pop()
            if other not in found:
                found.add(other)
                left += graph[other]
        reached[name] = found
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def import_graph(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    return {name: imported_modules(name, path, known) for name, path in known.items()}


@pytest.mark.parametrize("package", [PACKAGE, PACKAGE.parent / "kernels"], ids=lambda path: path.name)
def test_no_modules_import_each_other(package: Path) -> None:
    found = circles(import_graph(package))
    assert [group for group in found if frozenset(group) not in ALLOWED_CIRCLES] == []


def test_nothing_imports_the_package_as_a_whole() -> None:
    assert [name for name, imported in import_graph(PACKAGE).items() if PACKAGE.name in imported] == []


@pytest.mark.parametrize(
    "code",
    ["from .b import thing", "def f():\n    from . import b", "if TYPE_CHECKING:\n    from pack.b import Thing",
     "import pack.b"],
)  # fmt: skip
def test_a_circle_is_seen_wherever_it_is_written(code: str, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    (pack / "deep").mkdir(parents=True)
    (pack / "__init__.py").write_text("", encoding="utf-8")
    (pack / "deep" / "__init__.py").write_text("from ..a import thing", encoding="utf-8")
    (pack / "b.py").write_text("from .deep import thing", encoding="utf-8")
    (pack / "c.py").write_text("from .a import thing", encoding="utf-8")
    (pack / "a.py").write_text("", encoding="utf-8")
    assert circles(import_graph(pack)) == []
    (pack / "a.py").write_text(code, encoding="utf-8")
    assert circles(import_graph(pack)) == [["pack.a", "pack.b", "pack.deep"]]


def test_a_file_name_says_which_file_is_meant() -> None:
    names: dict[str, list[str]] = {}
    for path in [*MODULES, *(PACKAGE.parent / "kernels").rglob("*.py")]:
        if path.name != "__init__.py":
            names.setdefault(path.stem, []).append(str(path))
    assert [found for name, found in names.items() if len(found) > 1 and name not in SAME_NAME] == []


def test_retired_words_stay_away() -> None:
    """As names of modules, classes, functions, arguments and variables; prose may tell and show."""
    found = set()
    for path in [*MODULES, *(PACKAGE.parent / "kernels").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kinds = {ast.Name: "id", ast.arg: "arg", ast.ClassDef: "name", ast.FunctionDef: "name", ast.alias: "name"}
            name = getattr(node, kinds.get(type(node), ""), "")
            found |= {f"{path.name}: {part}" for part in str(name).split(".") if part in RETIRED}
        if path.stem in RETIRED:
            found.add(path.name)
    assert not found


@pytest.mark.parametrize("room", WITHIN)
def test_a_room_imports_one_way_inside(room: str) -> None:
    floors, prefix = WITHIN[room], f"{PACKAGE.name}.{room}."
    for name, imported in import_graph(PACKAGE).items():
        for other in imported:
            if name.startswith(prefix) and other.startswith(prefix):
                here, there = (each.removeprefix(prefix).split(".")[0] for each in (name, other))
                assert here == there or floors[there] < floors[here], f"{name} imports {other}"


def test_every_metric_and_method_is_in_the_documentation() -> None:
    from secondgram.comparison.compare import METHODS
    from secondgram.evaluation.metrics import FURTHER, METRICS

    text = (Path(__file__).parent.parent / "docs" / "comparing.md").read_text(encoding="utf-8")
    for name, meaning in (METRICS | FURTHER).items():
        assert f"| `{name}` | {meaning} |" in text, name
    assert not [name for name in METHODS if f"`{name}`" not in text]
