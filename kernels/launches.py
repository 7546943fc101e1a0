"""Every launch of the denoiser's kernels goes through `launch`, so that it can be counted, or recorded but not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Described:
    """A launch that was recorded and not run: its kernel and arguments, for an architecture that need not be here."""

    name: str
    kernel: Any
    arguments: dict[str, Any]


_counted: ContextVar[list[str] | None] = ContextVar("_counted", default=None)
_described: ContextVar[tuple[int, list[Described]] | None] = ContextVar("_described", default=None)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Collects the names of the launches made inside, in their order."""
    names: list[str] = []
    token = _counted.set(names)
    try:
        yield names
    finally:
        _counted.reset(token)


@contextmanager
def described(architecture: int) -> Iterator[list[Described]]:
    """Collects the launches made inside without making them, as for this architecture; tensors may be on "meta"."""
    calls: list[Described] = []
    token = _described.set((architecture, calls))
    try:
        yield calls
    finally:
        _described.reset(token)


def described_architecture() -> int | None:
    """The architecture that launches are described for, or None."""
    found = _described.get()
    return found[0] if found else None


def launch(name: str, kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
    """kernel[grid](**arguments), counted under `name`, or only described."""
    counted, described = _counted.get(), _described.get()
    if counted is not None:
        counted.append(name)
    if described is not None:
        described[1].append(Described(name, kernel, arguments))
        return
    kernel[grid](**arguments)
