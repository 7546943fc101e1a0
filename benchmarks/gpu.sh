#!/usr/bin/env bash
# Everything that needs a CUDA machine, offline, most telling first. Logs and timings go to ${OUT:-build/gpu} while they are
# made, at most 8 files: <mode>.txt, gpu.json, and <mode of the sampler>.ncu-rep. PYTHON names the interpreter with torch and
# triton, GPU_SECONDS another limit for a whole mode, after which no step begins and none goes on.
#   bash benchmarks/gpu.sh prepare     beforehand, in the checkout, PYTHON of the device's version: builds .gpu to be copied along
#   bash benchmarks/gpu.sh smoke       at most 2 minutes: does it run, is it right, the few times that matter
#   bash benchmarks/gpu.sh             at most 7 minutes: tests, timings, memory and race checks (`full`)
#   bash benchmarks/gpu.sh peers       at most 9 minutes: what torch.compile takes minutes to tune, beside ours
#   bash benchmarks/gpu.sh profile     at most 2 minutes: Nsight Compute on the chain's kernels
#   bash benchmarks/gpu.sh --dry-run   no GPU: kernels are interpreted, what needs a device skips
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { echo "usage: bash benchmarks/gpu.sh [prepare [NAME] | smoke | full | peers | profile | --dry-run]" >&2; exit 2; }
mode=${1:-full}
case $mode in
  prepare) (($# <= 2)) || usage ;;
  smoke | full | peers | profile | --dry-run) (($# <= 1)) || usage ;;
  *) usage ;;
esac
declare -A seconds=([smoke]=120 [full]=420 [peers]=540 [profile]=120 [--dry-run]=1500)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
source benchmarks/site.sh
if [[ $mode == prepare ]]; then
  python=${PYTHON:-python$device_python}
  prepare "${2:-}"
  exit
fi

out=${OUT:-build/gpu}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
log=$out/${mode#--}.txt
: > "$log" || exit 2
deadline=$((SECONDS + 600))
source benchmarks/steps.sh

dry=0
[[ $mode == --dry-run ]] && dry=1
# Python would otherwise put the checkout first and find the sources instead of what was built.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TRITON_INTERPRET=$dry TORCHINDUCTOR_COMPILE_THREADS=8
export TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor SMOKE_BITS=$scratch/bits.json
last() { say "$1"; exit "${2:-1}"; }

"$python" -c 'import pytest, torch' > "$scratch/why" 2>&1 ||
  last "$python cannot serve: $(tail -n 1 "$scratch/why"). Name the interpreter with torch and pytest in PYTHON"
if ((dry)); then
  export CUDAARCHS=${CUDAARCHS:-90a-real} CUDA=AUTO
else
  check_commit > "$scratch/why" 2>&1 || last "$(< "$scratch/why")"
  [[ ! -s $scratch/why ]] || say "$(< "$scratch/why")"
  "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2> /dev/null ||
    last "No CUDA device: torch sees none. Without one, \`bash benchmarks/gpu.sh --dry-run\` does what can be done"
  # For this device alone; with an "a" where it has products of four warps.
  capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  export CUDAARCHS=${CUDAARCHS:-${capability/#90/90a}-real}
fi

site=.gpu/site
problem=$(site_problem "$site")
if [[ -n $problem ]]; then
  say "$site is not used: $problem. Built now"
  site=$scratch/site
  step "build" 300 5 bash -c 'scratch=$1 python=$2; source benchmarks/site.sh; build "$3"' build "$scratch" "$python" "$site"
  ((rc == 0)) || { summary; exit 1; }
fi
export PYTHONPATH=$(cd "$site" && pwd)${PYTHONPATH:+:$PYTHONPATH}
# The build is beyond the mode's own time.
deadline=$((SECONDS + ${GPU_SECONDS:-${seconds[$mode]}}))

has() { "$python" -c "import importlib.util as u; raise SystemExit(u.find_spec('$1') is None)"; }
tests=(-q -p no:cacheprovider -p no:randomly --tb=line -rfEs)
# A kernel that hangs holds Python too, so that only the end of the process helps; torch.compile takes longer to tune.
short=() long=()
has pytest_timeout && short=(--timeout=60 --timeout-method=thread) long=(--timeout=240 --timeout-method=thread)
parallel=()
workers=$(nproc)
has xdist && parallel=(-n $((workers < 8 ? workers : 8)))
gpu_tests=(tests/test_cuda_sampler.py tests/test_gradient_kernels.py tests/test_noise_kernel.py tests/test_block.py
  tests/test_block_operator.py tests/test_gradients_fused.py tests/test_recording.py)

smoke() { step "${*:3}" "$1" "$2" "$python" benchmarks/smoke.py "${@:3}"; }
# group NAME LIMIT WORD ...: timings by pytest, each of them in gpu.json as soon as it is there.
group() {
  step "timings: $1" "$2" 25 env BENCHMARK_LEDGER="$out/gpu.json" "$python" -m pytest "${tests[@]}" \
    --benchmark-max-time=0.5 --benchmark-min-rounds=3 "${@:3}"
}
modes() { "$python" -c 'from secondgram.ops import cuda; print(*cuda.MODES)'; }

case $mode in
  smoke)
    step "machine" 20 12 bash -c 'uname -r; nvidia-smi -L; nvcc --version | tail -n 2; gcc --version | head -n 1
      command -v compute-sanitizer ncu; "$0" -m pip list 2> /dev/null |
      grep -iE "^(torch|triton|numpy|pytest.*|scikit.build.core|pybind11|cmake) "; nproc' "$python"
    smoke 25 6 device
    for chain in $(modes); do smoke 30 60 chain "$chain"; done
    smoke 25 8 gram
    smoke 60 16 triton
    # The same with kernels built from a change that waits for its measurement.
    for other in .gpu/site-*/; do
      [[ -d $other ]] || continue
      for chain in $(modes); do
        step "cohort $chain, $other" 30 14 env PYTHONPATH="$PWD/$other" "$python" benchmarks/smoke.py cohort "$chain"
      done
    done
    ;;
  full)
    step "GPU tests" 130 60 "$python" -m pytest "${tests[@]}" "${short[@]}" "${parallel[@]}" -m "gpu and not slow" "${gpu_tests[@]}"
    group "ceilings and sampler" 70 "${short[@]}" -m "gpu and not slow" benchmarks/test_ceilings.py benchmarks/test_cuda_sampler.py \
      -k "not torch"
    group "gradients and noise" 60 "${short[@]}" -m "gpu and not slow" benchmarks/test_gradients.py benchmarks/test_noise.py
    group "denoiser" 80 "${short[@]}" -m "gpu and not slow" benchmarks/test_denoiser.py
    group "chains of torch" 90 "${long[@]}" -m "gpu and not slow" benchmarks/test_cuda_sampler.py -k torch
    if command -v compute-sanitizer > /dev/null; then
      for tool in memcheck racecheck synccheck; do
        for chain in $(modes); do
          step "$tool, $chain" 30 8 compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 \
            "$python" benchmarks/smoke.py errors "$chain" 17
        done
      done
      step "memcheck, noise" 45 8 compute-sanitizer --tool memcheck --error-exitcode 1 --print-limit 20 "$python" -m pytest \
        "${tests[@]}" "${short[@]}" -m gpu tests/test_noise_kernel.py -k "device and (5 or 769)"
    else
      say "== checks of memory and races are left out: compute-sanitizer is not installed"
    fi
    ;;
  peers)
    group "chains of torch, compiled" 240 "${long[@]}" -m "gpu and slow" benchmarks/test_cuda_sampler.py
    group "steps, compiled" 120 "${long[@]}" -m "gpu and slow" benchmarks/test_gradients.py
    group "denoiser, compiled" 400 "${long[@]}" -m "gpu and slow" benchmarks/test_denoiser.py -k "769 and bf16"
    ;;
  profile)
    command -v ncu > /dev/null || last "Nsight Compute (ncu) is not installed"
    for chain in $(modes); do
      step "profile, $chain" 55 40 ncu --clock-control none --profile-from-start off --kernel-name regex:block_program \
        --launch-count 12 --section SpeedOfLight --section WarpStateStats --section MemoryWorkloadAnalysis \
        --section SchedulerStats --section SourceCounters --section InstructionStats -f -o "$out/$chain" \
        "$python" benchmarks/smoke.py once "$chain"
      # As text too, so that a log alone tells where the time goes.
      [[ ! -s $out/$chain.ncu-rep ]] || step "report, $chain" 20 40 ncu --import "$out/$chain.ncu-rep"
    done
    ;;
  --dry-run)
    step "kernel tests, interpreted" 300 8 "$python" -m pytest "${tests[@]}" tests/test_noise_kernel.py \
      tests/test_block.py tests/test_gradient_kernels.py -m "not slow"
    step "CUDA extension" 90 4 "$python" -m pytest "${tests[@]}" tests/test_cuda_build.py -m "not slow"
    step "GPU tests, skipped" 120 4 "$python" -m pytest "${tests[@]}" "${short[@]}" "${parallel[@]}" -m "gpu and not slow" \
      "${gpu_tests[@]}"
    step "every test, collected" 120 4 "$python" -m pytest "${tests[@]}" --collect-only tests
    step "timings, collected" 60 4 "$python" -m pytest "${tests[@]}" --benchmark-disable benchmarks -m "gpu and not slow"
    step "timings, small, once each" 600 4 "$python" -m pytest "${tests[@]}" --benchmark-disable benchmarks -k small
    ;;
esac
summary
exit $status
