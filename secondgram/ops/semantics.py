"""The arithmetic of a processor as a text: paths that differ compute the same formulas, with other last bits."""

from __future__ import annotations

import functools

import torch
from threadpoolctl import threadpool_info

from . import native
from .registry import resolve
from .sampling import CANDIDATES

# Raised whenever the arithmetic of a path changes, so that parts of an imputation from before and after are not mixed.
SEMANTICS = 1


def processor_path(precision: str) -> str:
    """Backend, instruction sets, precision and libraries: beside model, people and seed, these decide bits of draws."""
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
