#!/usr/bin/env bash
# Set secondgram up and run its demonstration; the results go to demo-results. Further arguments go to the demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/secondgram demo --out demo-results "$@"
