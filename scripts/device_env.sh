#!/usr/bin/env bash
# Make .venv-device with the versions that a machine with a GPU has (constraints-device.txt), to try there what would
# otherwise fail first on the device. Needs Python 3.12 (PYTHON names it) and some gigabytes: torch comes with CUDA's libraries.
# The package itself is not installed, and neither is what such a machine lacks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
env=.venv-device

packages=(
  torch triton numpy
  pytest pytest-benchmark pytest-timeout pytest-xdist hypothesis
  matplotlib pandas pyarrow rich safetensors scikit-learn scipy threadpoolctl typer
  cmake ninja pybind11 scikit-build-core setuptools
)

suitable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }
python=""
for name in ${PYTHON:-python3.12 python3 python}; do
  if suitable "$name"; then python=$name; break; fi
done
if [[ -z $python ]]; then
  echo "No Python 3.12 with venv was found${PYTHON:+ as $PYTHON}. Install it, or name it: PYTHON=/path/to/python3.12" >&2
  exit 1
fi

# Everything is named by its place and its interpreter, so a change of either starts afresh; versions change in place.
maker=$(pwd; "$python" -VV)
state=$(cat constraints-device.txt scripts/device_env.sh | cksum)
if [[ -f $env/maker && $(<"$env/maker") == "$maker" && -f $env/stamp && $(<"$env/stamp") == "$state" ]]; then
  exit 0
fi
if [[ -e $env && ! (-f $env/maker && $(<"$env/maker") == "$maker") ]]; then
  rm -rf "$env"
fi
echo "Installing the device's versions into $env (gigabytes the first time)" >&2
if [[ ! -e $env ]]; then
  "$python" -m venv "$env"
  echo "$maker" > "$env/maker"
fi
pip() { "$env/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
pip "pip>=24"
# What is kept of a download is only room on the disk here: it is used once.
pip --no-cache-dir -c constraints-device.txt "${packages[@]}"
"$env/bin/python" -c 'import numpy, torch, triton; print(f"torch {torch.__version__}, triton {triton.__version__}, numpy {numpy.__version__}")'
echo "$state" > "$env/stamp"
