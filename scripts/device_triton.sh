#!/usr/bin/env bash
# Put the Triton of the machine with the GPU into .venv/triton-<version>, for the tests that compile kernels with it.
# Needs .venv (scripts/setup.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$(sed -n 's/^triton==//p' constraints-device.txt)
folder=.venv/triton-$version
[[ ! -e $folder ]] || exit 0
# Under another name first, so that what was cut off is not taken for whole.
rm -rf "$folder.part"
.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --target "$folder.part" "triton==$version"
mv "$folder.part" "$folder"
