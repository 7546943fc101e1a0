"""The report in headless Chromium: nothing breaks, nothing overflows, and anyone can read it.

Needs the extra `browser`, and Chromium: the one SECONDGRAM_BROWSER names, one on the path, or the one of playwright.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secondgram as sg

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `browser` is not installed")

WIDTHS = {"phone": 390, "desktop": 1280}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("SECONDGRAM_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    # Chromium refuses its own sandbox to root; the page is ours.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if root else [])]
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=found, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small demonstration, long names among its features."""
    from secondgram.comparison.demo import run

    folder = tmp_path_factory.mktemp("browser") / "demo"
    run(folder, 440, 12, 3)
    return sg.report(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_page_loads_fits_and_is_accessible(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, told, asked = context.new_page(), [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert told == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(fits)
    # What is folded has to fit as well, and to be accessible.
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate(fits)
    violations = axe.Axe().run(page).response["violations"]
    bad = {each["id"]: each["nodes"][0]["html"] for each in violations if each["impact"] in ("serious", "critical")}
    assert bad == {}
    context.close()


def test_themes_differ_and_every_drawing_has_a_size(browser: Any, page_file: Path) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        page.goto(page_file.as_uri())
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        sizes = "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect())"
        small = page.evaluate(f"{sizes}.filter(box => box.width < 10 || box.height < 10).length")
        assert small == 0
        context.close()
    assert len(grounds) == 2


def test_page_prints(browser: Any, page_file: Path, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(page_file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    # Paper is white whatever the screen is.
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
