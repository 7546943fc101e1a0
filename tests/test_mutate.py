"""The list of faults fits the tree, and the command that puts them in does what it says."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "mutate.py"
if not SCRIPT.exists():
    pytest.skip("needs the sources: there are no scripts here", allow_module_level=True)


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses ask for it by name.
    sys.modules["mutate"] = module
    spec.loader.exec_module(module)
    return module


mutate = _loaded()
FAULTS = mutate.read_faults(ROOT / mutate.FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_put_in_and_names_tests_that_are_there(fault: mutate.Fault) -> None:  # type: ignore[name-defined]
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    changed = fault.applied(text)
    assert changed != text
    ast.parse(changed)
    for test in fault.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert not name or name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], test


def test_there_are_many_faults_and_no_two_of_one_name() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_page_tells_of_all_of_them_and_each_is_caught() -> None:
    page = ROOT / "docs" / "mutations.md"
    assert mutate.told_by(page) == {fault.name: mutate.CAUGHT for fault in FAULTS}
    assert page.read_text(encoding="utf-8") == mutate.page(list(enumerate(FAULTS, 1)), [mutate.CAUGHT] * len(FAULTS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file a.py", "line 1: begin with"),
        ("@ a name\nfile a.py\ntest test_a.py\n* old", "line 4: begin with"),
        ("@ a name\nfile a.py\n- old\n+ new", "'a name' needs"),
        ("@ a name\nfile a.py\ntest test_a.py\n- same\n+ same", "'a name' needs"),
        ("@ a name\ntest test_a.py\n- old\n+ new", "'a name' needs"),
    ],
)
def test_what_is_no_fault_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "faults.txt").write_text(text, encoding="utf-8")
    with pytest.raises(mutate.BadFault, match=message):
        mutate.read_faults(tmp_path / "faults.txt")


def test_a_text_has_to_be_there_once() -> None:
    fault = mutate.Fault("twice", "a.py", ["test_a.py"], ["x = 1", "y = 2"], ["x = 2"])
    assert fault.applied("x = 1\ny = 2\n") == "x = 2\n"
    for text, count in (("x = 1\n", 0), ("x = 1\ny = 2\nx = 1\ny = 2\n", 2)):
        with pytest.raises(mutate.BadFault, match=f"occurs {count} times"):
            fault.applied(text)


LIST = """
# a comment

@ caught
file part.py
test test_part.py::test_double
-     return 2 * x
+     return 3 * x

@ survives
file part.py
test test_part.py::test_nothing
-     return 2 * x
+     return 3 * x

@ rotten
file part.py
test test_part.py
-     return 4 * x
+     return 3 * x

@ broken
file part.py
test test_part.py
-     return 2 * x
+     return 2 *
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of one function and two tests, with a built extension that git does not know."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    # Quicker, and nothing here needs them.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(mutate, "LIBRARIES", ())
    root = tmp_path / "tree"
    (root / "secondgram").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "part.py").write_text("def double(x):\n    return 2 * x\n")
    tests = "import part\n\n\ndef test_double():\n    assert part.double(2) == 4\n\n\ndef test_nothing():\n    pass\n"
    (root / "test_part.py").write_text(tests)
    (root / mutate.FAULTS).write_text(LIST)
    (root / ".gitignore").write_text("*.so\nignored\n")
    (root / "secondgram" / "_native.so").touch()
    (root / "ignored").touch()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_each_fault_is_judged_and_the_tree_stays_as_it_was(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert mutate.main(["--root", str(tree), "--jobs", "2", "--write", str(tmp_path / "page.md")]) == 1
    out = capsys.readouterr().out
    for name, outcome in {
        "caught": "caught",
        "survives": "SURVIVED",
        "rotten": "could not be put in",
        "broken": "tests could not be run",
    }.items():
        assert any(line.split(maxsplit=1)[1].startswith(outcome) for line in out.splitlines() if line.endswith(name))
    assert "occurs 0 times" in out
    assert out.splitlines()[-1] == "1 of 4 caught"
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "1 of 4 are caught." in page
    assert "| 2 | survives | `part.py` | `test_part.py::test_nothing` | SURVIVED |" in page


def test_faults_can_be_listed_and_chosen(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutate.main(["--root", str(tree), "--list"]) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "caught",
        "survives",
        "rotten",
        "broken",
    ]
    assert mutate.main(["--root", str(tree), "--only", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 caught"
    with pytest.raises(SystemExit):
        mutate.main(["--root", str(tree), "--only", "9"])
    assert "there is no fault 9" in capsys.readouterr().err


def test_a_page_keeps_what_was_not_run_again(tree: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert mutate.main(["--root", str(tree), "--only", "1", "--write", str(page)]) == 0
    assert mutate.told_by(page) == {"caught": "caught", "survives": "not run", "rotten": "not run", "broken": "not run"}
    assert mutate.main(["--root", str(tree), "--only", "2", "3", "--write", str(page)]) == 1
    assert mutate.told_by(page) == {
        "caught": "caught",
        "survives": "SURVIVED",
        "rotten": "could not be put in",
        "broken": "not run",
    }


def test_tests_that_fail_without_a_fault_are_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "part.py").write_text("def double(x):\n    return 2 * x\n\n\nassert False\n")
    assert mutate.main(["--root", str(tree), "--only", "1"]) == 2
    assert "do not pass without a fault" in capsys.readouterr().err


def test_what_is_copied_is_what_git_would_keep_and_what_was_built(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    mutate.copied(tree, copy)
    found = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert found == {".gitignore", "part.py", "test_part.py", mutate.FAULTS, "secondgram/_native.so"}


def test_a_tree_without_git_is_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree / ".git")
    assert mutate.main(["--root", str(tree), "--only", "1"]) == 2
    assert "git does not say" in capsys.readouterr().err


def test_a_test_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path) -> None:
    (tree / "test_part.py").write_text("import time\n\n\ndef test_double():\n    time.sleep(60)\n")
    monkeypatch.setattr(mutate, "LIMIT", 0.1)
    fault = mutate.read_faults(tree / mutate.FAULTS)[0]
    with mutate.Copy(tree, tmp_path / "copy") as copy:
        assert mutate.judged(fault, copy) == ("took too long", "took more than 0.1 s")
    assert (tmp_path / "copy" / "part.py").read_text().endswith("2 * x\n")


def test_a_run_that_is_ended_from_outside_is_told_and_keeps_what_it_had(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = mutate.judged

    def ended(fault: mutate.Fault, copy: mutate.Copy) -> tuple[str, str]:  # type: ignore[name-defined]
        if fault.name == "survives":
            copy.process.kill()
        return plain(fault, copy)

    monkeypatch.setattr(mutate, "judged", ended)
    assert mutate.main(["--root", str(tree), "--only", "1", "2", "--write", str(tmp_path / "page.md")]) == 2
    assert "was ended from outside" in capsys.readouterr().err
    assert mutate.told_by(tmp_path / "page.md")["caught"] == "caught"
