#!/usr/bin/env bash
# Everything that needs a CUDA machine, in one call, offline and in under nine minutes: build, GPU tests, memory check,
# benchmarks. Results go to ${OUT:-benchmarks/results}. PYTHON names the interpreter that has torch and triton.
#   bash benchmarks/gpu.sh [--dry-run]      --dry-run: no GPU; kernels are interpreted, what needs a device skips
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=0
case ${1:-} in
  "") ;;
  --dry-run) dry=1 ;;
  *) echo "usage: bash benchmarks/gpu.sh [--dry-run]" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TRITON_INTERPRET=$dry
# Python would otherwise put the checkout first and find the sources instead of what was built.
export PYTHONSAFEPATH=1

# For this device alone, which takes seconds; sm_90a where it has products of four warps. A dry run builds that one.
if [[ -z ${CUDAARCHS:-} ]]; then
  capability=90
  ((dry)) || capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  export CUDAARCHS=${capability/#90/90a}-real
fi

# Built aside, so that the machine's own Python stays as it is.
"$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --target "$scratch/site" .
export PYTHONPATH=$scratch/site${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'from secondgram.doctor import print_report; print_report()'

if ((!dry)); then
  "$python" -c 'import sys, torch; sys.exit("No CUDA device: use --dry-run.") if not torch.cuda.is_available() else None'
fi

# A test that fails is reported at the end; what can still be measured is measured first.
status=0
step() { echo "== $1"; shift; timeout --kill-after=10 "$@" || { status=1; echo "failed: $*" >&2; }; }
test_options=(-q -p no:cacheprovider -p no:randomly)

if ((dry)); then
  step "kernel tests, interpreted" 180 "$python" -m pytest "${test_options[@]}" tests/test_noise_kernel.py \
    tests/test_block.py tests/test_gradient_kernels.py -m "not slow"
  step "CUDA extension" 60 "$python" -m pytest "${test_options[@]}" tests/test_cuda_build.py
else
  step "GPU tests" 150 "$python" -m pytest "${test_options[@]}" -m "gpu and not slow" tests
  if command -v compute-sanitizer >/dev/null; then
    step "memory check" 35 compute-sanitizer --tool memcheck --error-exitcode 1 \
      "$python" -m pytest "${test_options[@]}" -m gpu tests/test_noise_kernel.py -k "device and (5 or 769)"
    for tool in memcheck synccheck; do
      step "sampler, $tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "$python" -m pytest "${test_options[@]}" -m gpu tests/test_cuda_sampler.py -k "float64_chain and (17 or 70)"
    done
  else
    echo "== memory check left out: compute-sanitizer is not installed"
  fi
fi
step "registers and spills" 50 env -u TRITON_INTERPRET "$python" -m secondgram.kernels.aot --arch 90 --rows 4096

# The processor is measured where there is time for it. A dry run checks it at small sizes and times nothing.
if ((dry)); then
  step "benchmarks of a device, collected" 60 "$python" -m pytest "${test_options[@]}" --benchmark-disable \
    benchmarks -m "gpu and not slow"
  step "benchmarks, small, once each" 240 "$python" -m pytest "${test_options[@]}" --benchmark-disable benchmarks -k small
else
  step "benchmarks" 160 "$python" -m pytest "${test_options[@]}" --benchmark-max-time=1 \
    --benchmark-json="$out/gpu.json" benchmarks -m "gpu and not slow"
fi
exit $status
