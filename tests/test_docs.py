"""The documentation: examples run and print what they say, pages build, and every cited page, file and name exists."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SOURCES = ("*.md", "*.py", "*.toml", "*.yml", "*.hpp", "*.cpp", "*.cu", "*.cuh", "*.sh", "CMakeLists.txt")
FOLDERS = ("benchmarks", "csrc", "docs", "kernels", "scripts", "secondgram", "tests")
# A page, with an anchor or without, or a file of the code, as comments, docstrings, messages and pages cite them.
PAGE = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)*\w+\.md)(?:#([\w-]+))?")
CODE = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.(?:py|hpp|cpp|cuh|cu|sh))\b")
# A section of a document that is no page of this project.
SECTION = re.compile(r"\b(?:[A-Z]{3,}|[Dd]esign(?: document)?) (?:section|chapter|§) ?\d+")
# Written by a comparison, and by whoever follows docs/kernels.md.
MADE = {"page.md", "table.md", "kernels/scaled.py", "tests/test_scaled.py"}
# Pages that name modules, functions and files, and how they do.
NAMING = ("CONTRIBUTING.md", "csrc/README.md", "docs/design.md", "docs/glossary.md")
DOTTED = re.compile(r"`(secondgram(?:\.\w+)+)`")
IN_FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*\.\w+)(?::(\w+))?`")
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


def test_every_page_with_examples_is_known() -> None:
    assert {"index.md", "cohorts.md", "pooling.md", "presets.md", "kernels.md"} <= set(PAGES)


# A simulated cohort has holes in its baselines, and a regression says whom it leaves out.
@pytest.mark.filterwarnings("ignore:.* people have a missing value:UserWarning")
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run in order, in one namespace; a block of text after one is what that one prints."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for package in ("statsmodels", "triton"):
        if f"import {package}" in text:
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "documentation"}
    printed = ""
    for number, (language, title, content) in enumerate(FENCE.findall(text)):
        if language == "csv":
            (tmp_path / title).write_text(content, encoding="utf-8")
        elif language == "python":
            # From a file, because Triton reads the source of a kernel.
            source = tmp_path / f"block_{number}.py"
            source.write_text(content, encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(content, str(source), "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            assert printed == content


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed")
def test_pages_build_and_fetch_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*?(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8"))
        outside = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert outside == [], page.name


def _sources() -> list[Path]:
    found = {path for pattern in SOURCES for path in ROOT.glob(pattern)}
    for folder in FOLDERS:
        found |= {path for pattern in SOURCES for path in (ROOT / folder).rglob(pattern)}
    return sorted(path for path in found if "results" not in path.parts)


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as mkdocs makes them."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    slugs = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode("ascii")
        slugs.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return frozenset(slugs)


def _lost_citations(text: str, place: Path) -> list[str]:
    """Citations in the text of a file that lead nowhere."""
    lost = SECTION.findall(text)
    for name, anchor in PAGE.findall(text):
        pages = [folder / name for folder in (place.parent, ROOT, DOCS) if (folder / name).is_file()]
        if not any(not anchor or anchor in _anchors(page) for page in pages):
            lost.append(f"{name}#{anchor}" if anchor else name)
    lost += [name for name in CODE.findall(text) if not (ROOT / name).is_file()]
    return [name for name in lost if name not in MADE]


def test_every_citation_leads_somewhere() -> None:
    lost = {
        str(path.relative_to(ROOT)): found
        for path in _sources()
        if (found := _lost_citations(path.read_text(encoding="utf-8"), path))
    }
    assert not lost


@pytest.mark.parametrize(
    "text",
    [
        "docs/absent" + ".md",
        "NOTES" + ".md",
        "docs/design.md" + "#absent",
        "see DESIGN" + " section 2",
        "csrc/cpu/absent" + ".hpp",
        "secondgram/absent" + ".py",
    ],
)
def test_a_citation_that_leads_nowhere_is_found(text: str) -> None:
    assert _lost_citations(f"# Stated in {text}, exactly.", ROOT / "setup.py")
    assert not _lost_citations("# Stated in docs/design.md#noise and csrc/core/philox.hpp.", ROOT / "setup.py")


def _resolve(dotted: str) -> object:
    """The module, class, function or attribute of this name."""
    parts = dotted.split(".")
    found = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:number]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", NAMING)
def test_every_name_on_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    names, places = DOTTED.findall(text), IN_FILE.findall(text)
    assert len(names) + len(places) > 5
    for name in names:
        _resolve(name)
    for path, symbol in places:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not symbol or re.search(rf"\b{symbol}\(", source), f"{path}:{symbol}"


def test_each_way_through_the_code_has_at_most_twelve_hops() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Two ways through the code")[1].split("\n## ")[0]
    ways = re.findall(r"\n\n(1\. .*?)(?=\n\n|\Z)", section, re.DOTALL)
    assert len(ways) == 2
    for way in ways:
        hops = re.split(r"^\d+\. ", way, flags=re.MULTILINE)[1:]
        assert len(hops) <= 12
        assert not [hop for hop in hops if not (DOTTED.search(hop) or IN_FILE.search(hop))]


def test_the_glossary_says_of_every_word_where_it_lives() -> None:
    rows = re.findall(r"^\| (?!Word|-)(.+) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 30
    for row in rows:
        word, meaning, place = row.split(" | ")
        assert word
        assert meaning, word
        assert DOTTED.search(place) or IN_FILE.search(place), word
