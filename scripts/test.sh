#!/usr/bin/env bash
# Set secondgram up and check it: style, types, tests. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test kernels
bash scripts/device_triton.sh
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/pytest -n 2 -m "not slow and not gpu" "$@"
