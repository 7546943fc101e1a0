"""Progress bars for long work: on a terminal, and silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]


@contextmanager
def progress(what: str, total: int, show: bool = True) -> Iterator[Advance]:
    """Yield `advance(steps=1, note="")`; the note stands behind the bar.

    show=False, or standard error that is no terminal, draws nothing.
    """
    if not show or not sys.stderr.isatty():
        yield lambda steps=1, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bars.update(task, advance=steps, note=note)

        yield advance
