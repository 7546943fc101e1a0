"""Which arithmetic a processor does: two paths give the same statement and differ in the last bits."""

from __future__ import annotations

import functools

import torch
from threadpoolctl import threadpool_info

from . import native
from .registry import resolve
from .sampling import CANDIDATES

# Raised whenever the arithmetic of a path changes, so that what was made before is not mixed with what comes after.
SEMANTICS = 1


def processor_path(precision: str) -> str:
    """What decides the bits of draws beside model, people and seed: backend, instruction sets, precision, libraries."""
    backend = resolve("the sampler", CANDIDATES)
    instructions = native.architectures(precision)[:1] if backend != "reference" else ()
    return ", ".join([f"path {SEMANTICS}", backend, *instructions, precision, *_libraries()])


@functools.cache
def _libraries() -> tuple[str, ...]:
    blas = {
        f"{each['internal_api']} {each.get('architecture', '')}".strip()
        for each in threadpool_info()
        if each.get("user_api") == "blas"
    }
    return (f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}", *sorted(blas))
