"""Operations a second of multiply-adds in registers, for each precision of the sampler: peak.cpp, built on demand."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from secondgram.ops import native

SOURCE = Path(__file__).with_name("peak.cpp")


def compiler() -> str | None:
    """GCC or Clang: CXX, or `c++`. None where there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def reason_unavailable() -> str | None:
    return None if compiler() else "no C++ compiler"


@functools.cache
def _library(isa: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "peak.so"
        options = [
            "-std=gnu++17",
            "-O3",
            "-ffp-contract=fast",
            "-fPIC",
            "-shared",
            "-pthread",
            f"-DSECONDGRAM_FOR_{isa}",
        ]
        subprocess.run([str(compiler()), *options, str(SOURCE), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))
    library.flop_per_second.restype = ctypes.c_double
    library.flop_per_second.argtypes = [ctypes.c_uint, ctypes.c_size_t]
    return library


def peak(precision: str, threads: int, rounds: int = 2_000_000) -> float:
    """Operations a second on `threads` threads with the best instruction set for a precision, which there has to be.

    The best of twenty loops: threads of other libraries may still spin while they wait for work.
    """
    best = native.architectures(precision)[0]
    library = _library((best if precision == "fp32" else f"{best}_{precision}").upper())
    return float(max(library.flop_per_second(threads, rounds) for _ in range(20)))
