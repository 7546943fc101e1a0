"""benchmarks/gpu.sh without a device: a step that hangs, fails or is cut loses nothing, and every mode ends as it
should.

A stand-in for Python writes down what it is asked to run. With SECONDGRAM_DEVICE_PYTHON naming the Python of an
environment as on the device, slow tests run the modes themselves there, without a network where they may.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("bash") is None, reason="needs bash and coreutils on Linux"
)


def _gone(process: int) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- steps ------------------------------------------------------------------------------------------------------------


class Steps:
    """Bash that has sourced steps.sh, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.log, self.scratch = folder / "log.txt", folder / "scratch"
        self.scratch.mkdir()
        self.log.touch()

    def start(self, script: str, seconds: int = 60) -> subprocess.Popen[str]:
        whole = f"""
            log={self.log} scratch={self.scratch} deadline=$((SECONDS + {seconds}))
            source {BENCHMARKS}/steps.sh
            grace=1
            {script}
            summary
            exit $status
        """
        return subprocess.Popen(
            ["bash", "-uc", whole],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            # Where the tests themselves run in the background, these are ignored, and a shell cannot undo that.
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
        )

    def run(self, script: str, seconds: int = 60) -> tuple[int, str, str]:
        """Exit status, what was printed, and the log."""
        process = self.start(script, seconds)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out, self.log.read_text()

    def wait_for(self, words: str) -> str:
        for _ in range(200):
            if words in self.log.read_text():
                return self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


def test_a_step_that_fails_hangs_or_dies_costs_itself_alone(steps: Steps) -> None:
    code, out, log = steps.run(
        """
        step failing 9 2 bash -c 'echo begun 1; exit 3'
        step hanging 1 2 bash -c 'echo begun 2; sleep 30'
        step deaf 1 2 bash -c 'trap "" INT; echo begun 3; while :; do sleep 0.2; done'
        step dying 9 2 bash -c 'echo begun 4; kill -KILL $$'
        step missing 9 2 no-such-command
        step well 9 2 echo begun 5
        """
    )
    assert code == 1
    for number in range(1, 6):
        assert f"\nbegun {number}\n" in log
        assert f"\nbegun {number}\n" in out
    ends = [line for line in log.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in ends] == ["failing", "hanging", "deaf", "dying", "missing"]
    assert "exit status 3" in ends[0]
    assert all("cut after" in line for line in ends[1:4])


def test_all_well_is_zero(steps: Steps) -> None:
    code, _, log = steps.run("step one 9 2 true")
    assert code == 0
    assert "failed" not in log


def test_at_its_limit_a_step_hears_sigint_first(steps: Steps) -> None:
    told = "import time\ntry: time.sleep(30)\nexcept KeyboardInterrupt: print('told')"
    _, _, log = steps.run(f"grace=8; step one 2 3 {sys.executable} -c {shlex.quote(told)}")
    assert "\ntold\n" in log


def test_what_a_step_prints_is_there_when_everything_is_killed(steps: Steps) -> None:
    process = steps.start("step before 9 2 echo measured; step hanging 30 2 bash -c 'echo $$ begun; exec sleep 30'")
    log = steps.wait_for(" begun\n")
    process.kill()
    process.wait()
    assert "\nmeasured\n" in log
    found = re.search(r"^(\d+) begun$", log, re.MULTILINE)
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_script_that_is_cut_ends_its_step_and_says_so(steps: Steps, told: signal.Signals, code: int) -> None:
    deaf = "trap '' INT; echo $$ begun; while :; do sleep 0.1; done"
    process = steps.start(f"step before 9 2 echo measured; step deaf 30 2 bash -c {shlex.quote(deaf)}")
    found = re.search(r"^(\d+) begun$", steps.wait_for(" begun\n"), re.MULTILINE)
    process.send_signal(told)
    assert process.wait(timeout=90) == code
    log = steps.log.read_text()
    assert "\nmeasured\n" in log
    assert f"-- cut by {told.name}" in log
    assert found is not None
    for _ in range(50):
        if _gone(int(found[1])):
            break
        time.sleep(0.05)
    assert _gone(int(found[1]))


def test_no_step_begins_or_goes_on_beyond_the_deadline(steps: Steps) -> None:
    begin = time.monotonic()
    code, _, log = steps.run("step one 50 2 sleep 30; step two 5 2 echo begun", seconds=4)
    assert time.monotonic() - begin < 15
    assert code == 1
    assert "\nbegun\n" not in log
    assert "\nleft out: two\n" in log
    assert "failed: one: cut after" in log


def test_one_that_prints_without_end_leaves_room_for_others(steps: Steps) -> None:
    code, _, log = steps.run(
        "most=1000; step loud 9 2 bash -c 'yes | head -c 300000; echo end'; step well 9 2 echo begun"
    )
    assert code == 0
    assert len(log) < 2000
    assert "-- 299004 further bytes are left out" in log
    assert "\nbegun\n" in log


def test_what_a_step_leaves_behind_is_not_waited_for(steps: Steps) -> None:
    begin = time.monotonic()
    code, _, log = steps.run("step one 30 3 bash -c 'setsid sleep 30 & echo left $!'; step two 9 2 echo begun")
    assert time.monotonic() - begin < 15
    assert code == 0
    assert "\nbegun\n" in log
    found = re.search(r"^left (\d+)$", log, re.MULTILINE)
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)


# -- timings and their commit -----------------------------------------------------------------------------------------

FAKE = """
import os, signal

def test_first(benchmark):
    benchmark.pedantic(lambda: None, rounds=3)

def test_wrong(benchmark):
    benchmark.pedantic(lambda: None, rounds=3)
    raise AssertionError

def test_second(benchmark):
    benchmark.extra_info["way"] = "ours"
    benchmark.pedantic(lambda: None, rounds=4)

def test_deadly(benchmark):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder without git that has benchmarks of its own beside our conftest."""
    folder = tmp_path / "copy" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("conftest.py", "ledger.py"):
        shutil.copy(BENCHMARKS / name, folder)
    (folder / "test_fake.py").write_text(FAKE)
    (folder.parent / "pytest.ini").write_text("[pytest]\n")
    return folder


def _timed(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    # Under xdist pytest-benchmark would take this run for a worker, too.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "BENCHMARK_LEDGER": str(target), "GIT_CEILING_DIRECTORIES": str(folder.parents[1])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder.parent)


def test_a_run_that_is_killed_keeps_the_timings_before(fake: Path, tmp_path: Path) -> None:
    carried = fake.parent / ".gpu" / "commit"
    carried.parent.mkdir()
    carried.write_text("abc1234+ 0123456789abcdef\n")
    done = _timed(fake, tmp_path / "gpu.json")
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    entries = json.loads((tmp_path / "gpu.json").read_text())["entries"]
    assert [each["name"].split("::")[-1] for each in entries] == ["test_first", "test_second"]
    assert [each["rounds"] for each in entries] == [3, 4]
    assert entries[1]["way"] == "ours"
    assert {each["commit"] for each in entries} == {"abc1234+"}


@pytest.fixture
def ledger(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("ledger")


def test_the_commit_is_git_s_where_there_is_git_and_else_what_was_carried(
    ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = tmp_path / "commit"
    carried.write_text("abc1234 0123\n")
    monkeypatch.setattr(ledger, "CARRIED", carried)
    here = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if here.returncode == 0:
        assert ledger.commit().rstrip("+") == here.stdout.strip()
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert ledger.commit() == "abc1234"
    for content in ("", None):
        carried.unlink() if content is None else carried.write_text(content)
        assert ledger.commit() == ledger.UNKNOWN


def test_a_timing_without_its_commit_is_not_recorded(ledger: Any, tmp_path: Path) -> None:
    known = {"name": "a", "kind": "cuda", "commit": "abc"}
    assert ledger.record(tmp_path / "all.json", [{"format": 1, "entries": [known]}]) == 1
    before = (tmp_path / "all.json").read_text()
    for commit in ({"commit": "unknown"}, {}):
        with pytest.raises(ValueError, match="has no commit"):
            ledger.record(tmp_path / "all.json", [{"format": 1, "entries": [{"name": "b", "kind": "cuda", **commit}]}])
    assert (tmp_path / "all.json").read_text() == before


# -- the script, with a stand-in for Python ---------------------------------------------------------------------------

# What it is asked goes to $ASKED; HANG, FAIL and PRINT name words of a command that then hangs, fails or prints.
PYTHON = r"""#!/usr/bin/env bash
words="$*"
echo "${PYTHONPATH:-} | $words" >> "$ASKED"
[[ -z ${HANG:-} || $words != *"$HANG"* ]] || { echo begun; exec sleep 60; }
[[ -z ${FAIL:-} || $words != *"$FAIL"* ]] || { echo wrong; exit 1; }
case $words in
  *sys.version_info*) echo "${VERSION:-3.12}" ;;
  *get_device_capability*) echo "${CAPABILITY:-90}" ;;
  *cuda.MODES*) echo graph persistent launched ;;
  *"pip install"*)
    while [[ $1 != --target ]]; do shift; done
    mkdir -p "$2"
    (cd "$3" && find . -type f) > "$2/files"
    ;;
  *"import _cuda, _native"*) [[ -z ${BROKEN:-} ]] || { echo "ImportError: $BROKEN"; exit 1; } ;;
esac
"""
PROFILER = r"""#!/usr/bin/env bash
echo "$0 $*" >> "$ASKED"
while (($#)); do [[ $1 != -o ]] || echo report > "$2.ncu-rep"; shift; done
"""


class Copy:
    """The sources without git, and stand-ins for what runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.tree, self.out, self.asked = folder / "tree", folder / "out", folder / "asked"
        self.commit = ""

    def another(self, folder: Path) -> Copy:
        """As this one is, elsewhere."""
        subprocess.run(["cp", "-a", f"{self.folder}/.", str(folder)], check=True)
        other = Copy(folder)
        other.commit = self.commit
        return other

    def fill(self) -> Copy:
        self.asked.touch()
        names = ["CMakeLists.txt", "pyproject.toml", "setup.py", "csrc", "secondgram", "kernels", "tests", "benchmarks"]
        leave = shutil.ignore_patterns("__pycache__", "*.so", "*.png", "*.json", "results")
        self.tree.mkdir()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.tree / name, ignore=leave)
            else:
                shutil.copy(ROOT / name, self.tree)
        self.bin.mkdir()
        for name, text in {
            "python": PYTHON,
            "ncu": PROFILER,
            "compute-sanitizer": PROFILER,
            "nproc": "#!/bin/sh\necho 16\n",
        }.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        return self

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Exit status and everything printed."""
        environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHON": str(self.bin / "python"),
            "OUT": str(self.out),
            "ASKED": str(self.asked),
            "GIT_CEILING_DIRECTORIES": str(self.tree.parent),
            **more,
        }
        for name in ("CUDAARCHS", "GPU_SECONDS", "PYTHONPATH", "CMAKE_ARGS", "DEVICE_PYTHON"):
            if name not in more:
                environment.pop(name, None)
        self.asked.write_text("")
        command = ["bash", str(self.tree / "benchmarks" / "gpu.sh"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def commands(self) -> str:
        return self.asked.read_text()

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *words], cwd=self.tree, capture_output=True, text=True, check=True
        ).stdout.strip()

    def prepare(self, *words: str, **more: str) -> tuple[int, str]:
        """As in the checkout, whose git is then taken away."""
        if not (self.tree / ".git").exists():
            self.git("init", "-q")
            (self.tree / ".gitignore").write_text("/.gpu/\n/build/\n")
            self.git("add", "-A")
            self.git("commit", "-qm", "first")
        found = self.run("prepare", *words, **more)
        self.commit = self.git("rev-parse", "--short", "HEAD")
        return found

    def leave_git(self) -> None:
        shutil.rmtree(self.tree / ".git")


@pytest.fixture(scope="module")
def as_copied(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copied")).fill()


@pytest.fixture(scope="module")
def as_prepared(as_copied: Copy, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = as_copied.another(tmp_path_factory.mktemp("prepared"))
    code, out = copy.prepare()
    assert code == 0, out
    copy.leave_git()
    return copy


@pytest.fixture
def copy(as_copied: Copy, tmp_path: Path) -> Copy:
    return as_copied.another(tmp_path)


@pytest.fixture
def prepared(as_prepared: Copy, tmp_path: Path) -> Copy:
    return as_prepared.another(tmp_path)


@pytest.mark.parametrize("words", [["fast"], ["smoke", "more"], ["prepare", "a", "b"], ["--dry"]])
def test_unknown_words_end_it(copy: Copy, words: list[str]) -> None:
    code, out = copy.run(*words)
    assert code == 2
    assert out.startswith("usage: bash benchmarks/gpu.sh [prepare [NAME] | smoke | full |")
    assert not copy.out.exists()


def test_prepare_builds_what_git_knows_for_the_device_s_python(copy: Copy) -> None:
    (copy.tree / "build").mkdir()
    (copy.tree / "build" / "gone.py").touch()
    code, out = copy.prepare()
    assert code == 0, out
    assert "Carry .gpu" in out
    built = (copy.tree / ".gpu" / "site" / "files").read_text()
    assert "./secondgram/ops/cuda.py" in built
    assert "gone.py" not in built
    assert (copy.tree / ".gpu" / "site" / "built").read_text().split()[1] == "90a-real"
    assert (copy.tree / ".gpu" / "commit").read_text().split()[0] == copy.commit
    assert copy.git("status", "--porcelain") == ""


def test_prepare_refuses_another_python_and_what_has_no_commit(copy: Copy) -> None:
    code, out = copy.run("prepare")
    assert code == 2
    assert "No commit can be told here" in out
    code, out = copy.prepare(VERSION="3.10")
    assert code == 2
    assert "is Python 3.10, and the device's is 3.12" in out
    assert not (copy.tree / ".gpu").exists()
    assert copy.prepare(VERSION="3.10", DEVICE_PYTHON="3.10")[0] == 0
    code, out = copy.prepare(PYTHON="no-such-python")
    assert code == 2
    assert "No Python runs as no-such-python" in out


def test_prepare_that_cannot_build_leaves_nothing_to_be_taken_for_it(copy: Copy) -> None:
    code, _ = copy.prepare(FAIL="pip install")
    assert code == 1
    assert not (copy.tree / ".gpu" / "commit").exists()
    assert not (copy.tree / ".gpu" / "site" / "built").exists()


def test_a_prepared_site_is_used(prepared: Copy) -> None:
    code, out = prepared.run("smoke")
    assert code == 0, out
    assert "pip install" not in prepared.commands()
    for line in prepared.commands().splitlines():
        if "smoke.py" in line:
            assert line.startswith(f"{prepared.tree}/.gpu/site |")
    assert "is not used" not in out


@pytest.mark.parametrize("why", ["stale", "architecture", "broken", "none"])
def test_a_site_that_does_not_fit_is_built_anew_and_said(prepared: Copy, why: str) -> None:
    more: dict[str, str] = {}
    words = {"stale": "it was built of other sources", "none": "there is none"}
    if why == "stale":
        (prepared.tree / "csrc" / "cuda" / "block_program.hpp").write_text("changed")
    elif why == "architecture":
        more, words[why] = {"CAPABILITY": "100"}, "it was built for 90a-real, not for 100-real"
    elif why == "broken":
        more, words[why] = {"BROKEN": "no such symbol"}, "ImportError: no such symbol"
    else:
        shutil.rmtree(prepared.tree / ".gpu" / "site")
    code, out = prepared.run("smoke", **more)
    assert code == 0, out
    assert words[why] in out
    assert words[why] in (prepared.out / "smoke.txt").read_text()
    assert "pip install" in prepared.commands()
    assert f"{prepared.tree}/.gpu/site |" not in prepared.commands().split("pip install")[1]


def test_a_build_that_fails_ends_it(prepared: Copy) -> None:
    shutil.rmtree(prepared.tree / ".gpu" / "site")
    code, out = prepared.run("full", FAIL="pip install")
    assert code == 1
    assert "failed: build: exit status" in out
    assert "pytest" not in prepared.commands().split("pip install")[1]


def test_results_never_lack_their_commit(prepared: Copy) -> None:
    carried = prepared.tree / ".gpu" / "commit"
    (prepared.tree / "benchmarks" / "recorded.py").write_text("changed")
    code, out = prepared.run("smoke")
    assert code == 0, out
    assert f"results carry {prepared.commit}+" in out
    assert carried.read_text().split()[0] == f"{prepared.commit}+"
    assert "results carry" not in prepared.run("smoke")[1]
    assert carried.read_text().split()[0] == f"{prepared.commit}+"
    for words in (["smoke"], ["full"], ["profile"]):
        carried.unlink(missing_ok=True)
        code, out = prepared.run(*words)
        assert code == 1
        assert "No commit can be told" in out
        assert "smoke.py" not in prepared.commands()


@pytest.mark.parametrize("mode", ["smoke", "full", "profile"])
def test_without_a_device_it_says_so_at_once(prepared: Copy, mode: str) -> None:
    code, out = prepared.run(mode, FAIL="is_available")
    assert code == 1
    assert "No CUDA device: torch sees none" in out
    assert "No CUDA device" in (prepared.out / f"{mode}.txt").read_text()
    assert "smoke.py" not in prepared.commands()
    code, out = prepared.run(mode, FAIL="import pytest, torch")
    assert code == 1
    assert "cannot serve: wrong. Name the interpreter" in out


def test_smoke_asks_for_every_mode_of_the_sampler(prepared: Copy) -> None:
    assert prepared.run("smoke")[0] == 0
    asked = re.findall(r"smoke\.py (.*)", prepared.commands())
    assert asked == ["device", "chain graph", "chain persistent", "chain launched", "gram", "triton"]


def test_kernels_of_another_state_are_timed_beside(copy: Copy) -> None:
    assert copy.prepare()[0] == 0
    before = (copy.tree / ".gpu" / "commit").read_text()
    (copy.tree / "csrc" / "cuda" / "block_program.hpp").write_text("another epilogue")
    assert copy.prepare("epilogue")[0] == 0
    assert (copy.tree / ".gpu" / "commit").read_text() == before
    copy.git("checkout", "-q", "csrc")
    copy.leave_git()
    assert copy.run("smoke")[0] == 0
    asked = [line for line in copy.commands().splitlines() if "site-epilogue" in line]
    assert [line.split("smoke.py ")[1] for line in asked] == ["cohort graph", "cohort persistent", "cohort launched"]


def test_a_part_that_hangs_costs_that_part(prepared: Copy) -> None:
    begin = time.monotonic()
    code, out = prepared.run("smoke", HANG="chain graph", GPU_SECONDS="14")
    assert time.monotonic() - begin < 40
    assert code == 1
    assert "failed: chain graph: cut after" in out
    log = (prepared.out / "smoke.txt").read_text()
    assert "\nbegun\n" in log
    # What is left of the time is not enough for the others, and that is said.
    assert "left out: triton" in log


def test_a_part_that_fails_costs_that_part(prepared: Copy) -> None:
    code, out = prepared.run("full", FAIL="test_cuda_sampler.py -k not torch")
    assert code == 1
    assert "failed: timings: ceilings and sampler: exit status 1" in out
    assert "synccheck, launched" in out


def test_full_runs_every_group_and_all_modes_leave_few_files(prepared: Copy) -> None:
    for mode in ("smoke", "full", "peers", "profile"):
        code, out = prepared.run(mode)
        assert code == 0, out
        asked = prepared.commands()
        if mode == "full":
            assert "-n 8" in asked
            assert "--timeout=60" in asked
            for name in ("test_ceilings", "test_cuda_sampler", "test_gradients", "test_noise", "test_denoiser"):
                assert f"benchmarks/{name}.py" in asked
            for tool in ("memcheck", "racecheck", "synccheck"):
                for chain in ("graph", "persistent", "launched"):
                    assert re.search(rf"--tool {tool} .*smoke.py errors {chain} 17", asked)
    found = sorted(path.name for path in prepared.out.rglob("*"))
    reports = [f"{chain}.ncu-rep" for chain in ("graph", "launched", "persistent")]
    assert found == sorted(["smoke.txt", "full.txt", "peers.txt", "profile.txt", *reports])
    # And gpu.json.
    assert len(found) + 1 <= 8


def test_tests_go_without_what_the_machine_lacks(prepared: Copy) -> None:
    assert prepared.run("full", FAIL="find_spec")[0] == 0
    tests = [line for line in prepared.commands().splitlines() if "-m pytest" in line]
    assert tests
    assert not [line for line in tests if "-n 8" in line or "--timeout" in line]


def test_a_dry_run_asks_for_no_device_and_no_commit(prepared: Copy) -> None:
    (prepared.tree / ".gpu" / "commit").unlink()
    code, out = prepared.run("--dry-run", FAIL="cuda.is_available")
    assert code == 0, out
    assert (prepared.out / "dry-run.txt").exists()
    assert "--collect-only tests" in prepared.commands()


def test_every_file_with_tests_of_a_device_is_named() -> None:
    script = (BENCHMARKS / "gpu.sh").read_text()
    found = re.search(r"gpu_tests=\(([^)]*)\)", script)
    assert found is not None
    marked = {
        f"tests/{path.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        if re.search(r"^@pytest\.mark\.gpu", path.read_text(), re.MULTILINE)
    }
    assert set(found[1].split()) == marked
    timed = {path.name for path in BENCHMARKS.glob("test_*.py") if re.search(r"mark\.gpu\b", path.read_text())}
    assert timed == set(re.findall(r"benchmarks/(test_\w+\.py)", script))


# -- as on the device -------------------------------------------------------------------------------------------------

DEVICE = os.environ.get("SECONDGRAM_DEVICE_PYTHON")
as_there = pytest.mark.skipif(
    DEVICE is None, reason="SECONDGRAM_DEVICE_PYTHON names no Python of an environment as on the device"
)


def _offline() -> list[str]:
    """What cuts a command from the network, where this user may."""
    command = ["unshare", "-n"]
    try:
        return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    except OSError:
        return []


def _there(out: Path, *words: str, limit: int = 900) -> tuple[int, str]:
    environment = {**os.environ, "PYTHON": str(DEVICE), "OUT": str(out)}
    environment.pop("PYTHONPATH", None)
    command = [*_offline(), "bash", str(BENCHMARKS / "gpu.sh"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@as_there
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smoke", "full", "peers", "profile"])
def test_as_on_the_device_without_one(tmp_path: Path, mode: str) -> None:
    code, out = _there(tmp_path, mode)
    assert code == 1, out
    assert "No CUDA device: torch sees none" in (tmp_path / f"{mode}.txt").read_text()


@as_there
@pytest.mark.slow
def test_a_dry_run_as_on_the_device(tmp_path: Path) -> None:
    code, out = _there(tmp_path, "--dry-run", limit=1800)
    log = (tmp_path / "dry-run.txt").read_text()
    assert code == 0, out
    for step in ("CUDA extension", "every test, collected", "timings, collected", "timings, small, once each"):
        assert f"== {step}" in log
    assert "failed" not in [line.split(":")[0] for line in log.splitlines()]


@as_there
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_prepared_here_it_is_taken_there(tmp_path: Path) -> None:
    """Built offline from a clone, loaded from its copy without git, then stale."""
    tree = tmp_path / "tree"
    done = subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no checkout: {done.stderr}")
    environment = {**os.environ, "PYTHON": str(Path(str(DEVICE)).absolute())}
    environment.pop("PYTHONPATH", None)

    def ran(*words: str) -> str:
        command = [*_offline(), *words]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tree, timeout=900)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    ran("bash", "benchmarks/gpu.sh", "prepare")
    shutil.rmtree(tree / ".git")
    ask = "python=$PYTHON scratch=. CUDAARCHS=90a-real; source benchmarks/site.sh; check_commit; site_problem .gpu/site"
    assert ran("bash", "-uc", ask) == ""
    with open(tree / "csrc" / "cuda" / "block_program.hpp", "a") as file:
        file.write("// changed\n")
    assert "stale" in ran("bash", "-uc", ask)
