#!/usr/bin/env bash
# Build the C++ extension aside with the address and undefined-behaviour sanitizers and run the tests that reach it.
# Needs .venv (scripts/setup.sh test) and GCC or Clang. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
compiler=${CXX:-g++}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$scratch/site" \
  -C install.strip=false -C cmake.define.SECONDGRAM_CUDA=OFF -C cmake.build-type=RelWithDebInfo \
  -C "cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -DNDEBUG" -C "cmake.define.CMAKE_CXX_FLAGS=$flags" .

# Python itself is not instrumented, so the run-time library has to be there first; its leaks are not ours.
export LD_PRELOAD=$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so)
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
# Python would otherwise put the checkout first and find the sources instead of what was built.
export PYTHONSAFEPATH=1 PYTHONPATH=$scratch/site
"$python" -c 'import secondgram, sys; sys.exit(not secondgram.__file__.startswith(sys.argv[1]))' "$scratch"
# What a sanitizer says goes past Python: only Python's own output may be held back. The test that limits the address space
# is left out, because the address sanitizer itself takes terabytes of it, and the published chain, because it is long and
# takes the way of the shorter ones.
"$python" -m pytest -q --capture=sys -p no:cacheprovider -m "not slow and not gpu" "$@" \
  --deselect tests/test_native_sampler.py::test_too_little_memory_is_an_error_and_no_crash \
  --deselect tests/test_native_sampler.py::test_the_published_chain_stays_within_a_hundred_thousandth \
  tests/test_noise.py tests/test_native_sampler.py tests/test_precision.py tests/test_finishing.py tests/test_native_gram.py \
  tests/test_layer_sums.py tests/test_missing.py tests/test_tiles.py
