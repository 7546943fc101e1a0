#!/usr/bin/env bash
# Make .venv and install secondgram into it, editable, with the extras named: scripts/setup.sh [extra ...]
# Does nothing where .venv already holds this state of the build files. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=$(IFS=,; echo "$*")

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }
complete() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

python="" incomplete=""
names=(python3 python3.13 python3.12 python3.11 python3.10 python)
[[ -z ${PYTHON:-} ]] || names=("$PYTHON")
for name in "${names[@]}"; do
  suitable "$name" || continue
  if complete "$name"; then python=$name; break; fi
  incomplete=${incomplete:-$name}
done
if [[ -z $python ]]; then
  if [[ -n $incomplete ]]; then
    echo "$incomplete lacks venv or ensurepip. On Debian and Ubuntu: apt-get install python3-venv" >&2
  else
    echo "No Python 3.10 or newer was found${PYTHON:+ as $PYTHON}. Install one, or name it: PYTHON=/path/to/python3" >&2
  fi
  exit 1
fi

# The place belongs to the state: an editable install points to it.
state=$({ pwd; "$python" -VV; find csrc -type f -print0 | LC_ALL=C sort -z |
  xargs -0 cat pyproject.toml setup.py constraints.txt CMakeLists.txt scripts/setup.sh; } | cksum)
stamp=".venv/stamp-${extras:-plain}"
if [[ -x .venv/bin/secondgram && -f $stamp && $(<"$stamp") == "$state" ]]; then
  exit 0
fi

# Another Python, or a folder that has moved: start afresh. Anything else is brought up to date in place.
maker=$(pwd; "$python" -VV)
if [[ -e .venv && ! (-f .venv/maker && $(<.venv/maker) == "$maker") ]]; then
  rm -rf .venv
fi
echo "Installing secondgram into .venv (some minutes the first time)" >&2
if [[ ! -e .venv ]]; then
  "$python" -m venv .venv
  echo "$maker" > .venv/maker
fi
for old in .venv/stamp-*; do
  [[ -f $old && $(<"$old") == "$state" ]] || rm -f "$old"
done
# Without compiling: Python does that for what is imported.
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile "$@"; }
pip "pip>=23.1"
# What pyproject.toml asks for, with these extras, one a line.
requirements() {
  .venv/bin/python - "$@" <<'PYTHON'
import re, sys
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
wanted, found = list(sys.argv[1:]), list(project["dependencies"])
for extra in wanted:
    for each in project["optional-dependencies"][extra]:
        own = re.fullmatch(r"secondgram\[(.*)\]", each)
        if own:
            wanted += own[1].split(",")
        else:
            found.append(each)
print("\n".join(found))
PYTHON
}
# The extension compiles while what it does not need is fetched and unpacked, which takes as long and one processor.
pip --no-deps -e . &
building=$!
trap 'kill "$building" 2>/dev/null || true' EXIT
failed=""
requirements "$@" > .venv/requirements.txt
pip -c constraints.txt -r .venv/requirements.txt || failed=1
wait "$building" || failed=1
trap - EXIT
[[ -z $failed ]] || exit 1
# Whether nothing is missing.
pip -c constraints.txt "secondgram${extras:+[$extras]}"
# Where Python is told to write no bytecode, each process would compile what it imports. What a package holds for another
# Python does not compile, and is not imported; nor are its tests.
if [[ -n ${PYTHONDONTWRITEBYTECODE:-} ]]; then
  .venv/bin/python -m compileall -q -j 0 -x '/(tests|torch/testing/_internal)/' .venv/lib/python*/site-packages \
    >/dev/null || true
fi
echo "$state" > "$stamp"
