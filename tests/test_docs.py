"""The documentation: its examples run and print what they say, and its pages build with every link in place."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
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
