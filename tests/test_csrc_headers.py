"""Headers of csrc are ordinary ones: each compiles alone, once for every instruction set that its code depends on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
# Headers whose code is for the instruction set that the including file names (csrc/cpu/isa.hpp).
PER_ISA = "namespace secondgram::cpu::SECONDGRAM_ISA"
ONLY = {"micro_kernel_bf16.hpp": "AVX512_BF16", "micro_kernel_fp16.hpp": "AVX512_FP16"}
FLAGS = ["-std=gnu++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unknown-pragmas", "-Werror"]

pytestmark = pytest.mark.skipif(not SOURCES.exists(), reason="needs the sources: there is no csrc here")


def _headers() -> list[Path]:
    return sorted(SOURCES.rglob("*.hpp"))


def _isas(header: Path, others: tuple[str, ...] = ()) -> list[str]:
    """Instruction sets to compile a header for: `PORTABLE` and `others`, or the only one that it is for."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [] if header.name in ONLY or "immintrin.h" in header.read_text() else ["PORTABLE"]
    if header.name in ONLY:
        return [ONLY[header.name]]
    return ["PORTABLE", *others] if PER_ISA in header.read_text() else ["PORTABLE"]


def _complaint(header: Path, isa: str) -> str:
    """What the compiler says of a file that includes this header and nothing else; empty where it is content."""
    assert COMPILER
    defined = ["-DSECONDGRAM_X86"] if platform.machine() in ("x86_64", "AMD64") else []
    run = subprocess.run(
        [COMPILER, *FLAGS, *defined, f"-DSECONDGRAM_FOR_{isa}", "-x", "c++", "-"],
        input=f'#include "{header}"\n',
        capture_output=True,
        text=True,
    )
    return "" if run.returncode == 0 else f"{header.name} for {isa}:\n{run.stderr[:2000]}"


def _lacks(instruction: str) -> bool:
    assert COMPILER
    code = f'#include <immintrin.h>\n__attribute__((target("{instruction}"))) void f() {{}}\n'
    run = subprocess.run(
        [COMPILER, "-fsyntax-only", "-Werror", "-x", "c++", "-"], input=code, capture_output=True, text=True
    )
    return run.returncode != 0


def _compile(others: tuple[str, ...]) -> None:
    young = {isa for isa in ONLY.values() if isa.startswith("AVX512_") and _lacks(isa.replace("_", "").lower())}
    jobs = [(header, isa) for header in _headers() for isa in _isas(header, others) if isa not in young]
    assert len(jobs) > 20
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = [said for said in pool.map(lambda job: _complaint(*job), jobs) if said]
    assert not complaints, "\n".join(complaints)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_every_header_compiles_alone() -> None:
    """`gpu.cuh`, which needs CUDA's compiler, is left out."""
    _compile(())


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_every_header_compiles_alone_for_every_instruction_set() -> None:
    _compile(("AVX2", "AVX512", "AVX512_BF16", "AVX512_FP16"))


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_header_that_leans_on_its_includer_is_noticed(tmp_path: Path) -> None:
    leaning = tmp_path / "leaning.hpp"
    leaning.write_text("#pragma once\ninline std::size_t twice(std::size_t x) { return 2 * x; }\n")
    assert "size_t" in _complaint(leaning, "PORTABLE")


def test_headers_are_included_once_and_live_in_a_namespace() -> None:
    for header in _headers():
        text = header.read_text()
        assert text.count("#pragma once") == 1, header
        assert re.search(r"^namespace secondgram", text, re.MULTILINE), header
        # An include inside of a namespace would make the header another one for each that includes it.
        assert "#include" not in text.split("\nnamespace secondgram", 1)[1].replace("#include <", ""), header


def test_the_code_of_an_instruction_set_is_private_to_its_file() -> None:
    """An inline function of two instruction sets would be one to the linker: all but the tiles' entries are unnamed."""
    for header in _headers():
        text = header.read_text()
        if PER_ISA in text and header.name not in ("sampler_tile.hpp", "postprocess_tile.hpp"):
            assert f"{PER_ISA} {{\nnamespace {{\n" in text, header
            assert "SECONDGRAM_TARGET" not in text.split(f"}}  // {PER_ISA}")[1], header


def test_a_type_name_means_one_type() -> None:
    """Among headers; a .cpp file keeps its own in an unnamed namespace."""
    found: Counter[str] = Counter()
    for header in [*_headers(), *SOURCES.rglob("*.cuh")]:
        kinds = r"^(?:struct|class|enum class)(?: alignas\(\d+\))? (\w+)(?: : [\w:]+)? \{"
        found.update(set(re.findall(kinds, header.read_text(), re.MULTILINE)))
    assert len(found) > 50
    assert [name for name, count in found.items() if count > 1] == []
