#!/usr/bin/env bash
# Set secondgram up and check it: style, types, tests. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test kernels
.venv/bin/ruff check .
.venv/bin/mypy &
types=$!
# Not to be had everywhere, and nothing else needs it.
bash scripts/device_triton.sh || echo "Without that Triton, tests that compile kernels with it skip." >&2
wait "$types"
.venv/bin/pytest -n 2 --dist worksteal -m "not slow and not gpu" "$@"
