"""The whole chain in one native call: the reference's values, to the bit the same however the work is cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

import secondgram as sg
from secondgram import Denoiser, Sampler
from secondgram.diffusion.folding import fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.ops import native
from secondgram.ops.registry import BackendUnavailableError, preferring

pytestmark = pytest.mark.native

ZERO = Schedule.make("linear", zero_terminal=True)
# Features that are no multiple of any vector, small and large; 769 is the paper's.
SIZES = {
    1: (1, 3, 8, (12, 10, 6)),
    17: (17, 20, 24, (40, 33, 16)),
    128: (128, 131, 64, (128, 64, 32)),
    769: (769, 783, 256, (512, 256, 128)),
}


def _net(features: int) -> Denoiser:
    size = SIZES[features]
    return Denoiser(*size[:2], embedding=size[2], widths=size[3], generator=torch.Generator().manual_seed(features))


def _conditions(features: int, people: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(people, SIZES[features][1])).astype(np.float32)


def _keys(people: int) -> np.ndarray:
    return np.arange(people, dtype=np.uint64) * 7 + 1


def _numbers(draws: int) -> np.ndarray:
    return np.arange(draws, dtype=np.uint32)


def _sample(features: int, people: int = 5, draws: Any = 3, **options: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"seed": 2, "solver": "sde-dpm++2m", "steps": 4, "backend": "cpu"} | options
    backend, precision = arguments.pop("backend"), arguments.pop("precision", "fp32")
    sampler = Sampler(_net(features), ZERO, backend, precision, prediction="v")
    return sampler.sample(_conditions(features, people), _keys(people), draws, keys=_keys(people), **arguments)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("features", [1, 17, 128])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++2m", "sde-dpm++2m"])
@pytest.mark.parametrize("architecture", ["avx512", "avx2", "portable"])
def test_every_instruction_set_gives_the_float64_chain(features: int, solver: str, architecture: str) -> None:
    if architecture not in native.architectures():
        pytest.skip(f"this processor has no {architecture}")
    net, c, keys = _net(features), _conditions(features, 7), _keys(7)
    folded = fold({name: value.numpy() for name, value in net.state_dict().items()})
    table = solver_table(ZERO, solver, 12, "v").rows
    got = native.NativeSampler(folded).sample(c, keys, _numbers(15), 3, table, architecture=architecture)
    assert got.shape == (15, 7, features)
    assert _distance(got, _exact(features, c, keys, 15, 3, table)) < 1e-5


def _exact(features: int, c: np.ndarray, keys: np.ndarray, draws: int, seed: int, table: np.ndarray) -> np.ndarray:
    """The chain in float64 on the network as written."""
    from secondgram.diffusion.noise import Purpose, normals

    net = _net(features).double()
    shown = torch.from_numpy(np.tile(c, (draws, 1))).double()

    def noise(purpose: Purpose, step: int) -> torch.Tensor:
        made = normals(keys, features, seed=seed, purpose=purpose, draws=draws, step=step)
        return torch.from_numpy(made).reshape(-1, features).double()

    x = noise(Purpose.START, 0)
    before = torch.zeros_like(x)
    with torch.inference_mode():
        for number, (time, a, b, keep, now, last, fresh) in enumerate(table):
            x0 = a * x + b * net(x, float(time), shown)
            x = keep * x + now * x0 + last * before
            if fresh:
                x = x + fresh * noise(Purpose.STEP, number)
            before = x0
    return x.reshape(draws, len(keys), features).numpy()


def test_the_published_chain_stays_within_a_hundred_thousandth() -> None:
    c, keys = _conditions(769, 2), _keys(2)
    table = solver_table(Schedule.make("linear"), "ddpm", None, "noise").rows
    got = Sampler(_net(769), backend="cpu", precision="fp32").sample(c, keys, 1, 5, keys=keys)
    assert len(table) == 99
    assert _distance(got, _exact(769, c, keys, 1, 5, table)) < 1e-5


@pytest.mark.parametrize("features", [17, 128])
def test_the_reference_backend_agrees(features: int) -> None:
    assert _distance(_sample(features), _sample(features, backend="reference")) < 1e-5


def test_a_start_from_the_baseline_agrees_with_the_reference() -> None:
    c = _conditions(17, 6)
    both = [
        Sampler(_net(17), "linear", backend, "fp32").sample(c, _keys(6), 4, start="baseline", keys=_keys(6), steps=9)
        for backend in ("cpu", "reference")
    ]
    assert _distance(*both) < 1e-5


# -- cut as you like --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [1, 2, 7, 31])
def test_company_changes_nothing(people: int) -> None:
    everyone = _sample(17, 31)
    np.testing.assert_array_equal(_sample(17, people), everyone[:, :people])


@pytest.mark.parametrize("draws", [1, 2, 95, 96, 97, 200])
def test_the_number_of_draws_changes_nothing(draws: int) -> None:
    np.testing.assert_array_equal(_sample(17, draws=draws), _sample(17, draws=220)[:draws])


def test_any_draw_can_be_made_alone() -> None:
    np.testing.assert_array_equal(_sample(17, draws=[150, 3]), _sample(17, draws=160)[[150, 3]])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    net = native.NativeSampler(fold({name: value.numpy() for name, value in _net(17).state_dict().items()}))
    c, table = _conditions(17, 40), solver_table(ZERO, "ddpm", 5, "v").rows
    one = net.sample(c, _keys(40), _numbers(9), 0, table, threads=1)
    np.testing.assert_array_equal(net.sample(c, _keys(40), _numbers(9), 0, table, threads=threads), one)


def test_nobody_gives_no_rows() -> None:
    assert _sample(17, people=0).shape == (3, 0, 17)


# -- in use -----------------------------------------------------------------------------------------------------------


def test_progress_is_told_and_ends_at_one() -> None:
    net = native.NativeSampler(fold({name: value.numpy() for name, value in _net(128).state_dict().items()}))
    told: list[float] = []
    table = solver_table(ZERO, "ddpm", 20, "v").rows
    net.sample(_conditions(128, 300), _keys(300), _numbers(2), 0, table, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_failing_progress_ends_the_work() -> None:
    net = native.NativeSampler(fold({name: value.numpy() for name, value in _net(128).state_dict().items()}))
    table = solver_table(ZERO, "ddpm", 99, "v").rows

    def fail(share: float) -> None:
        raise RuntimeError("enough")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="enough"):
        net.sample(_conditions(128, 4000), _keys(4000), _numbers(4), 0, table, progress=fail)
    assert threading.active_count() == before


LONG = """
import signal
import numpy as np, torch
# Whoever started the tests in the background of a shell may have had Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from secondgram import Denoiser, Sampler
net = Denoiser(128, 128, generator=torch.Generator().manual_seed(0))
print("started", flush=True)
keys = np.arange(200_000, dtype=np.uint64)
Sampler(net, backend="cpu").sample(np.zeros((200_000, 128), np.float32), keys, 1, keys=keys)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_ends_a_long_chain() -> None:
    process = subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    threading.Event().wait(1.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in error


def test_the_imputer_runs_on_the_backend_it_is_told(imputers: dict[str, Any], cohort: Any) -> None:
    people = cohort.take(np.arange(8))
    means = {}
    for backend in ("cpu", "reference"):
        imputer = imputers["paper"]
        with preferring(backend, "fp32"):
            means[backend] = imputer.impute(people, draws=2, who="all").draws
    # `auto` leaves the choice to what is preferred around it.
    assert not np.array_equal(means["cpu"], means["reference"])
    np.testing.assert_allclose(means["cpu"], means["reference"], rtol=1e-3, atol=1e-3)
    assert sg.SecondgramImputer(backend="cpu").backend == "cpu"


def test_a_backend_that_cannot_run_is_refused_and_auto_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from secondgram.ops.registry import Candidate
    from secondgram.sampling import sampler

    absent = (Candidate("cpu", lambda: "it was not built"), Candidate("reference"))
    monkeypatch.setattr(sampler, "CANDIDATES", absent)
    with pytest.raises(BackendUnavailableError, match="it was not built"):
        _sample(17)
    with pytest.warns(RuntimeWarning, match="it was not built"):
        _sample(17, backend="auto")


@pytest.mark.parametrize("backend", ["cuda-graph", "cuda-persistent"])
def test_a_device_that_is_not_there_is_told(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from secondgram.ops import cuda

    if cuda.reason_unavailable() is None:
        pytest.skip("there is a CUDA device")
    with pytest.raises(BackendUnavailableError, match=backend):
        _sample(17, backend=backend, precision="auto")


WITHOUT_TORCH = """
import sys
import numpy as np
from secondgram.diffusion.folding import fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.ops.native import NativeSampler
with np.load(sys.argv[1]) as stored:
    net = NativeSampler(fold(dict(stored)))
table = solver_table(Schedule.make("linear"), "ddpm", 3, "noise").rows
keys = np.arange(2, dtype=np.uint64)
draws = net.sample(np.zeros((2, 20), np.float32), keys, np.arange(3, dtype=np.uint32), 0, table)
assert "torch" not in sys.modules
np.save(sys.argv[2], draws)
"""


def test_the_chain_runs_from_numpy_alone(tmp_path: Any) -> None:
    stored, made = tmp_path / "net.npz", tmp_path / "draws.npy"
    np.savez(stored, **{name: value.numpy() for name, value in _net(17).state_dict().items()})
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(stored), str(made)], check=True)
    keys = np.arange(2, dtype=np.uint64)
    same = Sampler(_net(17), backend="cpu", precision="fp32").sample(
        np.zeros((2, 20), np.float32), keys, 3, steps=3, keys=keys
    )
    np.testing.assert_array_equal(np.load(made), same)


TOO_LITTLE = """
import resource, sys
import numpy as np
from secondgram import Denoiser, Sampler
net = Denoiser(17, 20, embedding=24, widths=(40, 33, 16))
c, keys = np.zeros((1000, 20), np.float32), np.arange(1000, dtype=np.uint64)
sampler = Sampler(net, backend="cpu", precision="fp32")
sampler.sample(c[:2], keys[:2], 1, keys=keys[:2])
with open("/proc/self/statm") as told:
    now = int(told.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
try:
    sampler.sample(c, keys, 100_000, keys=keys)
except MemoryError:
    sys.exit(7)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's account of memory")
def test_too_little_memory_is_an_error_and_no_crash() -> None:
    assert subprocess.run([sys.executable, "-c", TOO_LITTLE]).returncode == 7
