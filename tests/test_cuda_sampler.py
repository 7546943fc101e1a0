"""The CUDA sampler's logic, carried out on a CPU (csrc/cuda/emulator.hpp) and, where there is one, on a device.

The same source gives the kernels and the emulation; only the instructions differ.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secondgram import Denoiser
from secondgram.diffusion.folding import BLOCKS, FoldedDenoiser, fold
from secondgram.diffusion.noise import Purpose, normals
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.errors import InputError
from secondgram.ops import cuda, native

SOURCES = Path(__file__).parents[1] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))

ZERO = Schedule.make("linear", zero_terminal=True)
# Sizes that are no multiple of a square of 64, small and large; 769 is the paper's.
SIZES = {
    1: (1, 3, 8, (12, 10, 6)),
    17: (17, 20, 24, (40, 33, 16)),
    70: (70, 81, 64, (128, 64, 32)),
    300: (300, 310, 136, (260, 200, 129)),
    769: (769, 783, 256, (512, 256, 128)),
    # What the `default` preset takes, and one whose widths are all alike.
    16: (16, 21, 64, (128, 64, 32)),
    30: (30, 44, 128, (64, 64, 64)),
}
# Every tile that is compiled, on machines with and without bulk copies and products of four warps.
LAYOUTS: dict[str, dict[str, Any]] = {
    "graph, sm_80": {},
    "graph, sm_80, 128 rows": {"rows": 2},
    "graph, sm_90a": {"bulk": 1},
    "persistent, sm_80": {"persistent": 1, "rows": 1},
    "persistent, sm_80, 128 rows, little shared memory": {"persistent": 1, "rows": 2, "shared_bytes": 101376},
    "persistent, sm_90a": {"persistent": 1, "bulk": 1, "rows": 2, "columns": 4, "cluster": 2},
    "persistent, sm_90a, 64 rows": {"persistent": 1, "bulk": 1, "rows": 1, "cluster": 4},
    "persistent, sm_90a, two stages": {"persistent": 1, "bulk": 1, "rows": 2, "columns": 2, "stages": 2, "cluster": 1},
}
# Relative, in the norm, of draws in bfloat16 against float64.
TOLERANCE = 1e-2

device_only = pytest.mark.skipif(cuda.reason_unavailable() is not None, reason=f"CUDA: {cuda.reason_unavailable()}")


class _Array(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("rows", ctypes.c_size_t), ("columns", ctypes.c_size_t))


class _Request(ctypes.Structure):
    _fields_ = (
        ("conditions", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("draws", ctypes.c_void_p),
        ("people", ctypes.c_size_t),
        ("n_draws", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("times", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("n_steps", ctypes.c_size_t),
        ("start", ctypes.c_void_p),
        ("start_noise", ctypes.c_float),
        ("start_purpose", ctypes.c_uint32),
        ("step_purpose", ctypes.c_uint32),
        ("out", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("persistent", "recorded", "rows", "columns", "stages", "cluster")),
        ("step_block", ctypes.c_uint32),
        ("context", ctypes.c_uint32),
        *((name, ctypes.c_uint32) for name in ("bulk", "order", "shared_bytes")),
        *((name, ctypes.c_uint64) for name in ("chunk_rows", "memory_bytes")),
    )


Emulate = Callable[..., np.ndarray]


def _compile(sources: Path, target: Path) -> ctypes.CDLL:
    command = [str(COMPILER), "-std=c++17", "-O3", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    partial = target.with_suffix(".part")
    subprocess.run([*command, "-o", str(partial), str(sources / "cuda" / "emulated.cpp")], check=True)
    partial.replace(target)
    return _opened(target)


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.secondgram_failure.restype = ctypes.c_char_p
    for name in ("network", "device", "forget_network", "forget_device", "counts", "emulate"):
        function = getattr(library, f"secondgram_{name}")
        function.restype = ctypes.c_void_p if name in ("network", "device") else ctypes.c_int
    return library


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], ctypes.CDLL]:
    """The emulation of some sources, compiled once for a state of them where pytest keeps a cache."""
    if COMPILER is None or os.name != "posix":
        pytest.skip("needs a C++ compiler on a POSIX system")
    import fcntl

    cache = getattr(pytestconfig, "cache", None)
    folder = tmp_path_factory.mktemp("emulated") if cache is None else Path(cache.mkdir("emulated"))

    def built(sources: Path) -> ctypes.CDLL:
        digest = hashlib.sha256()
        for path in sorted([*sources.glob("core/*.hpp"), *sources.glob("cuda/*")]):
            digest.update(path.read_bytes())
        target = folder / f"{digest.hexdigest()[:16]}.so"
        # Another worker may be compiling the same.
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _opened(target) if target.exists() else _compile(sources, target)

    return built


@pytest.fixture(scope="session")
def library(build: Callable[[Path], ctypes.CDLL]) -> ctypes.CDLL:
    return build(SOURCES)


class _Network:
    """A network as the emulated device takes it."""

    def __init__(self, library: ctypes.CDLL, folded: FoldedDenoiser) -> None:
        self.library, self.folded = library, folded
        arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in native._arrays(folded)]
        listed = (_Array * len(arrays))(*[_Array(a.ctypes.data, *np.atleast_2d(a).shape) for a in arrays])
        widths = [len(folded.blocks[name].bias) for name in BLOCKS[:3]]
        sizes = (ctypes.c_size_t * 6)(
            folded.features, folded.conditions[0].weight.shape[0], len(folded.conditions[0].bias), *widths
        )
        self.at = ctypes.c_void_p(library.secondgram_network(sizes, listed, ctypes.c_size_t(len(arrays))))
        assert self.at, library.secondgram_failure()

    def __del__(self) -> None:
        self.library.secondgram_forget_network(self.at)


class _Device:
    """An emulated device, which keeps its memory and its recordings from one request to the next."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self.at = library, ctypes.c_void_p(library.secondgram_device())

    def __del__(self) -> None:
        self.library.secondgram_forget_device(self.at)

    def counts(self) -> tuple[int, int, int]:
        """Uploads, recordings and replays so far."""
        counts = (ctypes.c_size_t * 3)()
        self.library.secondgram_counts(self.at, counts)
        return counts[0], counts[1], counts[2]

    def sample(
        self,
        network: _Network,
        c: np.ndarray,
        keys: np.ndarray,
        draws: np.ndarray,
        seed: int,
        table: np.ndarray,
        *,
        start: np.ndarray | None = None,
        start_noise: float = 1.0,
        recorded: int = 1,
        **options: int,
    ) -> np.ndarray:
        """As `CudaSampler.sample`; what is not written stays not a number."""
        folded = network.folded
        times, steps = native._time_table(folded, table), np.ascontiguousarray(table, dtype=np.float32)
        times, c, draws = np.ascontiguousarray(times), np.ascontiguousarray(c), np.ascontiguousarray(draws)
        out = np.full((len(draws), len(keys), folded.features), np.nan, dtype=np.float32)
        request = _Request(
            c.ctypes.data,
            keys.ctypes.data,
            draws.ctypes.data,
            len(keys),
            len(draws),
            seed,
            times.ctypes.data,
            steps.ctypes.data,
            len(steps),
            None if start is None else start.ctypes.data,
            start_noise,
            int(Purpose.START),
            int(Purpose.STEP),
            out.ctypes.data,
        )
        chosen = _Options(recorded=recorded, **options)
        if self.library.secondgram_emulate(self.at, network.at, ctypes.byref(request), ctypes.byref(chosen)):
            raise RuntimeError(self.library.secondgram_failure().decode())
        return out


def _emulate(library: ctypes.CDLL, folded: FoldedDenoiser, *arguments: Any, **options: Any) -> np.ndarray:
    """The draws of one request to a device of its own."""
    return _Device(library).sample(_Network(library, folded), *arguments, **options)


@pytest.fixture
def emulate(library: ctypes.CDLL) -> Emulate:
    return lambda *arguments, **options: _emulate(library, *arguments, **options)


def _folded(net: Denoiser) -> FoldedDenoiser:
    return fold({name: value.detach().numpy() for name, value in net.state_dict().items()})


def _net(features: int) -> Denoiser:
    size = SIZES[features]
    return Denoiser(*size[:2], embedding=size[2], widths=size[3], generator=torch.Generator().manual_seed(features))


class Case:
    """People, draws and steps for a network, with the float64 chain of the folded denoiser."""

    def __init__(
        self,
        features: int,
        people: int,
        draws: int,
        steps: int,
        solver: str = "sde-dpm++2m",
        net: Denoiser | None = None,
    ) -> None:
        self.folded = _folded(net or _net(features))
        generator = np.random.default_rng(features)
        self.c = generator.normal(size=(people, self.folded.conditions[0].weight.shape[0])).astype(np.float32)
        self.keys = np.arange(people, dtype=np.uint64) * 7 + (1 << 40) + 1
        self.draws = np.arange(draws, dtype=np.uint32)
        self.table = solver_table(ZERO, solver, steps, "v").rows

    def arguments(self) -> tuple[Any, ...]:
        return self.folded, self.c, self.keys, self.draws, 3, self.table

    def exact(self, start: np.ndarray | None = None, start_noise: float = 1.0) -> np.ndarray:
        width, people = self.folded.features, np.tile(np.arange(len(self.keys)), len(self.draws))

        def noise(step: int | None) -> np.ndarray:
            purpose = Purpose.START if step is None else Purpose.STEP
            made = normals(
                self.keys, width, seed=3, purpose=purpose, draws=self.draws, step=step or 0, dtype=np.float64
            ).reshape(-1, width)
            if step is not None:
                return made
            return start_noise * made + (0.0 if start is None else start[people])

        return self.folded.chain(self.c[people], self.table, noise).reshape(len(self.draws), len(self.keys), width)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


# -- the chain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("features", [1, 70])
def test_every_layout_gives_the_float64_chain(emulate: Emulate, features: int, layout: str) -> None:
    case = Case(features, 5, 15, 3)
    assert _distance(emulate(*case.arguments(), **LAYOUTS[layout]), case.exact()) < TOLERANCE


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++2m", "sde-dpm++2m"])
def test_every_solver(emulate: Emulate, solver: str) -> None:
    case = Case(17, 3, 5, 6, solver)
    assert _distance(emulate(*case.arguments(), persistent=1), case.exact()) < TOLERANCE


@pytest.mark.parametrize("layout", ["graph, sm_80", "persistent, sm_90a"])
def test_the_paper_s_widths(emulate: Emulate, layout: str) -> None:
    case = Case(769, 3, 4, 1, "ddim")
    assert _distance(emulate(*case.arguments(), **LAYOUTS[layout]), case.exact()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("features", [300, 769])
def test_wide_networks(emulate: Emulate, features: int, layout: str) -> None:
    case = Case(features, 20, 7, 2)
    assert _distance(emulate(*case.arguments(), **LAYOUTS[layout]), case.exact()) < TOLERANCE


def test_a_start_from_a_mean(emulate: Emulate) -> None:
    case = Case(17, 6, 3, 3)
    start = np.random.default_rng(1).normal(size=(6, 17)).astype(np.float32)
    got = emulate(*case.arguments(), start=start, start_noise=0.5)
    assert _distance(got, case.exact(start, 0.5)) < TOLERANCE


def test_noise_is_the_statement_s(emulate: Emulate) -> None:
    """A network whose output is zero leaves start and step noise alone, in float32."""
    net = _net(70)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.startswith("out."):
                value.zero_()
    case = Case(70, 3, 50, 5, net=net)
    for layout in ("graph, sm_80", "persistent, sm_90a"):
        np.testing.assert_allclose(emulate(*case.arguments(), **LAYOUTS[layout]), case.exact(), rtol=1e-5, atol=2e-5)


def _trained(features: int, steps: int) -> Denoiser:
    """A denoiser of correlated features given a noisy copy of themselves, trained to predict v."""
    generator = torch.Generator().manual_seed(0)
    net = Denoiser(features, features, embedding=64, widths=(64, 64, 32), generator=generator)
    mix = torch.randn(features, features, generator=generator) / features**0.5
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    signal = torch.from_numpy(ZERO.signal).float()
    for _ in range(steps):
        x0 = torch.randn(256, features, generator=generator) @ mix
        c = x0 + 0.5 * torch.randn(256, features, generator=generator)
        t = torch.randint(0, ZERO.steps, (256,), generator=generator)
        a, z = signal[t][:, None], torch.randn(256, features, generator=generator)
        b = (1 - a**2).sqrt()
        loss = (net(a * x0 + b * z, t.float(), c) - (a * z - b * x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


@pytest.mark.slow
def test_draws_of_a_trained_network(emulate: Emulate) -> None:
    case = Case(24, 6, 10, 10, net=_trained(24, 250))
    exact, got = case.exact(), emulate(*case.arguments(), persistent=1, bulk=1)
    assert _distance(got, exact) < TOLERANCE
    assert np.sqrt(np.mean((got - exact) ** 2)) < 0.03 * exact.std(axis=0).mean()


@pytest.mark.slow
def test_a_trained_network_keeps_its_distribution(emulate: Emulate) -> None:
    """Over the published number of steps: close in the norm, and moments within their Monte-Carlo error."""
    case = Case(24, 2, 320, 99, "ddpm", net=_trained(24, 1500))
    exact, got = case.exact(), emulate(*case.arguments(), persistent=1, bulk=1)
    assert _distance(got, exact) < TOLERANCE
    draws = len(exact)
    assert np.sqrt(np.mean((got - exact) ** 2)) < 0.03 * exact.std(axis=0).mean()
    for person in range(2):
        one, other = got[:, person], exact[:, person]
        spread = other.std(axis=0)
        assert np.all(np.abs(one.mean(axis=0) - other.mean(axis=0)) < spread / draws**0.5)
        assert np.all(np.abs(one.std(axis=0) / spread - 1.0) < 1.0 / (2 * draws) ** 0.5)
        difference = np.corrcoef(one, rowvar=False) - np.corrcoef(other, rowvar=False)
        assert np.abs(difference).max() < 1.0 / draws**0.5


# -- cut as you like --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(library: ctypes.CDLL) -> tuple[Case, np.ndarray]:
    case = Case(17, 31, 5, 3)
    return case, _emulate(library, *case.arguments())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_changes_a_bit(emulate: Emulate, plain: tuple[Case, np.ndarray], layout: str) -> None:
    case, one = plain
    np.testing.assert_array_equal(emulate(*case.arguments(), **LAYOUTS[layout]), one)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_rows": 64},
        {"chunk_rows": 70, "persistent": 1, "step_block": 2},
        {"stages": 5},
        {"recorded": 0},
    ],
    ids=str,
)
def test_no_cut_changes_a_bit(emulate: Emulate, plain: tuple[Case, np.ndarray], options: dict[str, Any]) -> None:
    case, one = plain
    np.testing.assert_array_equal(emulate(*case.arguments(), **options), one)


@pytest.mark.parametrize("order", range(1, 3))
def test_no_order_of_warps_and_copies_changes_a_bit(
    emulate: Emulate, plain: tuple[Case, np.ndarray], order: int
) -> None:
    case, one = plain
    for layout in ("graph, sm_80", "persistent, sm_80", "persistent, sm_90a"):
        np.testing.assert_array_equal(emulate(*case.arguments(), **LAYOUTS[layout], order=1000 * order), one)


# Networks whose activations once lay where one group of warps wrote while the other still read.
HELD = [(16, 0), (16, 1), (30, 0), (30, 1)]


@pytest.mark.parametrize(("features", "persistent"), HELD)
def test_a_group_that_is_held_back_changes_no_bit(emulate: Emulate, features: int, persistent: int) -> None:
    case = Case(features, 13, 10, 2)
    one = emulate(*case.arguments())
    for order in range(10):
        got = emulate(*case.arguments(), persistent=persistent, bulk=1, rows=2, order=1000 * order + 1)
        np.testing.assert_array_equal(got, one)


@pytest.mark.parametrize("persistent", [0, 1])
def test_neither_does_one_whose_people_have_one_draw(emulate: Emulate, persistent: int) -> None:
    """Then the embedding is streamed through the ring of stages, too."""
    case = Case(16, 130, 1, 2)
    one = emulate(*case.arguments())
    for order in range(4):
        got = emulate(*case.arguments(), persistent=persistent, bulk=1, rows=2, order=1000 * order + 1)
        np.testing.assert_array_equal(got, one)


WIDTHS = ((512, 256, 128), (256, 128, 64), (128, 64, 32), (64, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("embedding", [64, 128, 256])
@pytest.mark.parametrize("features", [8, 16, 32, 64, 128, 256, 400, 769, 1200])
def test_no_default_plan_has_a_schedule_that_changes_a_bit(
    emulate: Emulate, features: int, embedding: int, widths: tuple[int, int, int]
) -> None:
    net = Denoiser(features, features + 14, embedding=embedding, widths=widths)
    case = Case(features, 13, 10, 2, net=net)
    one = emulate(*case.arguments())
    for persistent in (0, 1):
        for order in range(10):
            got = emulate(*case.arguments(), persistent=persistent, bulk=1, order=1000 * order + 1)
            np.testing.assert_array_equal(got, one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_the_embedding_is_multiplied_changes_no_bit(emulate: Emulate, layout: str) -> None:
    case = Case(17, 70, 1, 3)
    options = LAYOUTS[layout]
    before = emulate(*case.arguments(), **options, context=1)
    np.testing.assert_array_equal(emulate(*case.arguments(), **options), before)
    np.testing.assert_array_equal(emulate(*case.arguments(), **options, context=2, chunk_rows=60, step_block=2), before)
    assert _distance(before, case.exact()) < TOLERANCE


def test_only_one_draw_has_the_embedding_among_its_products(emulate: Emulate) -> None:
    case = Case(17, 3, 2, 2)
    with pytest.raises(RuntimeError, match="context 2 takes one draw"):
        emulate(*case.arguments(), context=2)
    with pytest.raises(RuntimeError, match="context is 0, 1 or 2"):
        emulate(*case.arguments(), context=3)


def test_company_and_order_change_nothing(emulate: Emulate, plain: tuple[Case, np.ndarray]) -> None:
    case, one = plain
    chosen = np.array([30, 2, 7])
    got = emulate(case.folded, case.c[chosen], case.keys[chosen], case.draws[[4, 1]], 3, case.table, persistent=1)
    np.testing.assert_array_equal(got, one[[4, 1]][:, chosen])
    # A draw alone has the embedding among its products.
    got = emulate(case.folded, case.c[chosen], case.keys[chosen], case.draws[[4]], 3, case.table, bulk=1)
    np.testing.assert_array_equal(got, one[[4]][:, chosen])


def test_recordings_and_weights_are_kept(library: ctypes.CDLL) -> None:
    """A second request of the same shape uploads no weights and records nothing, whatever its people, keys and seed."""
    case, other = Case(17, 31, 5, 3), Case(1, 31, 5, 3)
    device, network, second = _Device(library), _Network(library, case.folded), _Network(library, other.folded)
    _, c, keys, draws, seed, table = case.arguments()
    requests: list[tuple[_Network, Case, tuple[Any, ...], dict[str, Any], int, int]] = [
        # Times and coefficients are uploaded always, weights where another network's are there.
        (network, case, (c, keys, draws, seed, table), {}, 2, 1),
        (network, case, (c[::-1], keys + np.uint64(5), draws + np.uint32(9), seed + 1, table), {}, 2, 0),
        (network, case, (c[:7], keys[:7], draws, seed, table), {}, 2, 1),  # a chunk of another size
        (second, other, other.arguments()[1:], {}, 3, 1),
        (network, case, (c, keys, draws, seed, table), {}, 3, 0),
        (network, case, (c, keys, draws, seed, table), {"stages": 5}, 2, 1),
        (network, case, (c, keys, draws, seed, table[:2]), {}, 2, 1),
        (network, case, (c, keys, draws, seed, table), {"recorded": 0}, 2, 0),
        (network, case, (c, keys, draws, seed, table), {"persistent": 1}, 2, 0),
    ]
    # The largest piece of memory first: what is kept goes with the memory.
    device.sample(network, *Case(17, 90, 5, 3).arguments()[1:])
    uploads, recordings, replays = device.counts()
    assert (uploads, recordings) == (3, 1)
    for number, (net, one, arguments, options, uploaded, recorded) in enumerate(requests):
        got = device.sample(net, *arguments, **options)
        np.testing.assert_array_equal(got, _emulate(library, one.folded, *arguments, **options), err_msg=str(number))
        before, (uploads, recordings, replays) = (uploads, recordings), device.counts()
        assert (uploads - before[0], recordings - before[1]) == (uploaded, recorded), number
    assert replays > 0


def test_few_recordings_are_kept(library: ctypes.CDLL) -> None:
    case = Case(17, 31, 5, 3)
    device, network = _Device(library), _Network(library, case.folded)
    for people in (31, 9, 8, 7, 6, 31):  # the first is no longer among the last four
        device.sample(network, case.c[:people], case.keys[:people], *case.arguments()[3:])
    assert device.counts()[1] == 6
    device.sample(network, *case.arguments()[1:])
    assert device.counts()[1] == 6


def test_what_chunks_bring_is_staged_for_each(emulate: Emulate) -> None:
    """Means, conditions, keys and draws of every chunk, in both turns, and a start of its own."""
    case = Case(17, 40, 3, 2)
    start = np.random.default_rng(1).normal(size=(40, 17)).astype(np.float32)
    whole = emulate(*case.arguments(), start=start, start_noise=0.5)
    for options in ({"chunk_rows": 30}, {"chunk_rows": 64, "persistent": 1}, {"chunk_rows": 20, "bulk": 1}):
        np.testing.assert_array_equal(
            emulate(*case.arguments(), start=start, start_noise=0.5, **options), whole, err_msg=str(options)
        )
    assert _distance(whole, case.exact(start, 0.5)) < TOLERANCE


def test_too_little_memory_is_said(emulate: Emulate) -> None:
    with pytest.raises(RuntimeError, match=r"takes \d+ MiB of the device's memory"):
        emulate(*Case(17, 3, 5, 3).arguments(), memory_bytes=100_000)


@pytest.mark.parametrize(("cluster", "bulk"), [(1, 0), (1, 1), (2, 1)])  # clusters need bulk copies
def test_streamed_weights_arrive(library: ctypes.CDLL, cluster: int, bulk: int) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, (9, 2048), dtype=np.uint32)
    sums = np.zeros((2, 256), dtype=np.uint32)
    sizes = (ctypes.c_uint32(n) for n in (9, 2, 3, cluster, 10, 2, bulk))
    assert (
        library.secondgram_emulate_stream(ctypes.c_void_p(words.ctypes.data), *sizes, ctypes.c_void_p(sums.ctypes.data))
        == 0
    )
    rounds = [2 * (round_ % 4) for round_ in range(10)]
    np.testing.assert_array_equal(sums, np.tile(words[rounds, :256].sum(axis=0, dtype=np.uint32), (2, 1)))


# What keeps threads and copies apart, each with what stands in its place where it is left out.
GUARDS = {
    "rows at the end of a product": ("          sync_rows();\n          if", "          if"),
    "rows' scales": ("    sync_rows();\n  }", "  }"),
    "the last reading of a stage": ("      Machine::consumers_sync();\n      target", "      target"),
    "the gathering of a result": (
        "    if (w_.split) {\n      Machine::consumers_sync();\n      for",
        "    if (w_.split) {\n      for",
    ),
    "tensor cores' view of what was written": ("          Machine::proxy_fence(op.target.shared == kNowhere);", ""),
    "a stage that is full": ("        Machine::wait(kFull + 8 * slot_, phase_);", ""),
    "a stage that is empty": ("        Machine::wait(kEmpty + 8 * slot_, phase_ ^ 1);", ""),
    "activations that are complete": ("if (writer < o || s > 0)", "if (false)"),
}


# Activations as they were laid out once, by the line and not by the group of warps.
BY_LINE = [
    ("const std::uint32_t bytes = panels_of(n, b) * kSquareBytes;",
     "const std::uint32_t bytes = tile.rows * panels_of(n, b) * kSquareBytes;"),
    ("bool free = at + bytes <= strip_limit;", "bool free = at + bytes <= limit;"),
    ("tile.shared_bytes = base + tile.rows * (top - base);", "tile.shared_bytes = top;"),
    ("place == kNowhere ? panels_of(net_, b) : shared->strip", "panels_of(net_, b)"),
    ("place == kNowhere ? panels_of(net_, line.target) : shared->strip", "panels_of(net_, line.target)"),
]  # fmt: skip


def _changed(folder: Path, name: str, changes: list[tuple[str, str]]) -> Path:
    """Sources in which each text, found once, is another."""
    shutil.copytree(SOURCES, folder / "csrc")
    path = folder / "csrc" / "cuda" / name
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return folder / "csrc"


@pytest.fixture(scope="module")
def by_line(build: Callable[[Path], ctypes.CDLL], tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(_changed(tmp_path_factory.mktemp("by_line"), "plan.hpp", BY_LINE))


@pytest.mark.slow
@pytest.mark.parametrize(("features", "persistent"), HELD[1:])
def test_the_adversary_finds_a_race_between_groups(by_line: ctypes.CDLL, features: int, persistent: int) -> None:
    case = Case(features, 13, 10, 2)
    one, wrong = _emulate(by_line, *case.arguments()), 0
    for order in range(10):
        got = _emulate(by_line, *case.arguments(), persistent=persistent, bulk=1, rows=2, order=1000 * order + 1)
        wrong += not np.array_equal(got, one)
    assert wrong > 0


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS)
def test_no_guard_can_be_left_out(
    build: Callable[[Path], ctypes.CDLL], library: ctypes.CDLL, tmp_path: Path, guard: str
) -> None:
    """The emulation notices each missing barrier: what it lets pass is worth something."""
    without = build(_changed(tmp_path, "block_program.hpp", [GUARDS[guard]]))
    case = Case(70, 20, 5, 2)
    whole, changed = _emulate(library, *case.arguments()), 0
    for layout in LAYOUTS.values():
        try:
            changed += not np.array_equal(_emulate(without, *case.arguments(), **layout), whole)
        except RuntimeError:
            changed += 1
    assert changed > 0


# -- on a device ------------------------------------------------------------------------------------------------------


def test_without_a_device_there_is_a_reason() -> None:
    reason = cuda.reason_unavailable(99)
    assert reason is not None
    if cuda.built() is not None:
        pytest.skip(str(cuda.built()))
    case = Case(17, 3, 2, 2)
    with pytest.raises(RuntimeError, match="The CUDA sampler cannot run"):
        cuda.CudaSampler(case.folded).sample(*case.arguments()[1:], device=99)
    with pytest.raises(InputError, match="no mode 'fast'"):
        cuda.CudaSampler(case.folded).sample(*case.arguments()[1:], mode="fast")


@pytest.mark.gpu
@device_only
@pytest.mark.parametrize("mode", cuda.MODES)
@pytest.mark.parametrize("features", [1, 17, 70, 300, 769])
def test_the_device_gives_the_float64_chain(features: int, mode: str) -> None:
    case = Case(features, 11, 13, 4)
    got = cuda.CudaSampler(case.folded).sample(*case.arguments()[1:], mode=mode)
    assert _distance(got, case.exact()) < TOLERANCE


@pytest.mark.gpu
@device_only
@pytest.mark.parametrize("mode", cuda.MODES)
def test_on_the_device_no_cut_changes_a_bit(mode: str) -> None:
    case = Case(70, 300, 5, 4)
    net = cuda.CudaSampler(case.folded)
    one = net.sample(*case.arguments()[1:], mode=mode)
    cuts: list[dict[str, Any]] = [{"chunk_rows": 64}, {"chunk_rows": 1000, "step_block": 3}]
    for options in cuts:
        np.testing.assert_array_equal(net.sample(*case.arguments()[1:], mode=mode, **options), one)
    for people in (1, 7, 64):
        some = net.sample(case.c[:people], case.keys[:people], case.draws[[3]], 3, case.table, mode=mode)
        np.testing.assert_array_equal(some, one[[3], :people])


@pytest.mark.gpu
@device_only
def test_tensors_stay_on_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    case = Case(70, 30, 5, 4)
    net = cuda.CudaSampler(case.folded)
    there = net.sample(torch.from_numpy(case.c).cuda(), *case.arguments()[2:])
    assert there.is_cuda
    np.testing.assert_array_equal(there.cpu().numpy(), net.sample(*case.arguments()[1:]))


@pytest.mark.gpu
@device_only
@pytest.mark.parametrize("options", [{"cluster": 1}, {"cluster": 4}, {"rows": 1}, {"rows": 2, "columns": 2}], ids=str)
def test_every_tile_on_the_device(options: dict[str, Any]) -> None:
    case = Case(300, 40, 5, 4)
    got = cuda.CudaSampler(case.folded).sample(*case.arguments()[1:], mode="persistent", **options)
    assert _distance(got, case.exact()) < TOLERANCE


@pytest.mark.gpu
@device_only
def test_streaming_is_measured() -> None:
    rates = cuda.stream_rates(rounds=50)
    assert rates
    assert all(rate.bytes_per_clock > 0 for rate in rates)
