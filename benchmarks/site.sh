# The package built aside, for gpu.sh, which sources this file: in .gpu/site beforehand, or on the device's machine.
# .gpu is ignored by git; copied to a machine without git it tells the commit (.gpu/commit) there and saves the build.
# The caller sets: python, scratch (a folder of its own).

# The Python of the machine with the device: an extension is built for one of them.
device_python=${DEVICE_PYTHON:-3.12}
built_of=(CMakeLists.txt pyproject.toml setup.py csrc secondgram kernels)

digest() {
  find "$@" -type f ! -name '*.pyc' ! -name '*.so' ! -name '*.pyd' ! -name '*.dylib' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}
sources() { digest "${built_of[@]}"; }
# And what measures them.
measured() { digest "${built_of[@]}" tests/*.py benchmarks/*.py benchmarks/*.sh; }

# As ledger.py tells it; empty outside a checkout.
commit_of_git() {
  local found changed
  found=$(git rev-parse --short HEAD 2> /dev/null) || return 0
  changed=$(git status --porcelain --untracked-files=no -- secondgram kernels csrc 'benchmarks/*.py')
  echo "$found${changed:+"+"}"
}

# build TARGET: with both extensions or not at all, except where CUDA=AUTO is set.
build() {
  local from=. isolation=()
  if git rev-parse --git-dir > /dev/null 2>&1; then
    # A build folder in the checkout would hand on modules that are no more.
    from=$scratch/tree
    mkdir -p "$from"
    git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$from"
  fi
  "$python" -c 'import pybind11, scikit_build_core, setuptools' 2> /dev/null && isolation=(--no-build-isolation)
  rm -rf "$1"
  CMAKE_ARGS="-DSECONDGRAM_NATIVE=ON -DSECONDGRAM_CUDA=${CUDA:-ON} ${CMAKE_ARGS:-}" "$python" -m pip install --quiet \
    --disable-pip-version-check --no-deps "${isolation[@]}" --target "$1" "$from"
}

# Why a site cannot be used for the architectures in CUDAARCHS; nothing where it can.
site_problem() {
  [[ -f $1/built ]] || { echo "there is none"; return; }
  local of architectures
  read -r of architectures < "$1/built"
  [[ $of == "$(sources)" ]] || { echo "stale: it was built of other sources"; return; }
  [[ $architectures == "$CUDAARCHS" ]] || { echo "it was built for $architectures, not for $CUDAARCHS"; return; }
  PYTHONPATH=$PWD/$1 "$python" -c 'from secondgram import _cuda, _native' 2>&1 | tail -n 1
}

# prepare [NAME]: .gpu/commit and .gpu/site; with a name .gpu/site-NAME alone, whose timings smoke takes beside the others.
prepare() {
  local name=${1:-} found commit
  found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
    echo "No Python runs as $python: name one of version $device_python in PYTHON" >&2
    return 2
  }
  if [[ $found != "$device_python" ]]; then
    echo "$python is Python $found, and the device's is $device_python: name one of that version in PYTHON," \
      "or the device's version in DEVICE_PYTHON" >&2
    return 2
  fi
  commit=$(commit_of_git)
  [[ -n $commit ]] || { echo "No commit can be told here: prepare in a checkout, with git" >&2; return 2; }
  export CUDAARCHS=${CUDAARCHS:-90a-real}
  local site=.gpu/site${name:+-$name}
  mkdir -p .gpu
  build "$site" || return 1
  echo "$(sources) $CUDAARCHS" > "$site/built"
  [[ -n $name ]] || echo "$commit $(measured)" > .gpu/commit
  echo "$site: commit $commit, Python $found, $CUDAARCHS, $(du -sm "$site" | cut -f1) MiB. Carry .gpu to the device's machine."
}

# Outside a checkout: no result without its commit, and no commit for sources that are not its own.
check_commit() {
  [[ -z $(commit_of_git) ]] || return 0
  local commit of
  if ! read -r commit of 2> /dev/null < .gpu/commit; then
    echo "No commit can be told: this is no checkout, and .gpu/commit is missing. Run \`bash benchmarks/gpu.sh prepare\`" \
      "in the checkout and carry .gpu along" >&2
    return 1
  fi
  if [[ $of != "$(measured)" && $commit != *+ ]]; then
    echo "The sources have changed since .gpu/commit was written: results carry $commit+"
    echo "$commit+ $of" > .gpu/commit
  fi
}
