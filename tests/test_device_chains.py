"""What a device is measured with, tried on the processor: the float64 chain, its peers in torch, and the first look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from secondgram import Denoiser
from secondgram.diffusion.folding import fold
from secondgram.diffusion.reference import denoise, solver_step
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SIZE: Any = (16, 21, 24, (20, 12, 8))


def _table(solver: str = "sde-dpm++2m") -> np.ndarray:
    return solver_table(Schedule.make("linear"), solver, 5, "v").rows


@pytest.mark.parametrize("solver", ["ddpm", "sde-dpm++2m"])
def test_the_exact_chain_is_that_of_the_statement(benchmark_module: Any, solver: str) -> None:
    exact = benchmark_module("exact")
    net = Denoiser(*SIZE[:2], embedding=SIZE[2], widths=SIZE[3], generator=torch.Generator().manual_seed(0)).double()
    weights = {name: value.detach() for name, value in net.named_parameters()}
    generator, table = np.random.default_rng(0), _table(solver)
    c, z = generator.normal(size=(7, 21)), generator.normal(size=(6, 7, 16))
    x = torch.from_numpy(z[-1])
    before = torch.zeros_like(x)
    for number, row in enumerate(table.tolist()):
        output = denoise(weights, x, torch.full((7,), row[0], dtype=torch.float64), torch.from_numpy(c))
        x, before = solver_step(tuple(row), x, output, before, torch.from_numpy(z[number]) if row[-1] else None)
    folded = fold({name: value.numpy() for name, value in weights.items()})
    got = folded.chain(c, table, lambda step: z[-1 if step is None else step])
    assert exact.distance(got, x.numpy()) < 1e-12


def test_a_distance_that_is_no_number_never_passes(benchmark_module: Any) -> None:
    exact = benchmark_module("exact")
    assert exact.distance(np.array([np.nan, 1.0]), np.ones(2)) == float("inf")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("addmm", [False, True])
def test_chains_of_torch_agree_with_float64(
    benchmark_module: Any, addmm: bool, dtype: torch.dtype, bound: float
) -> None:
    exact, chains = benchmark_module("exact"), benchmark_module("device_chains")
    folded, table = exact.network(*SIZE), _table()
    c = torch.randn(9, 21, generator=torch.Generator().manual_seed(0))
    steps = []

    def wrap(step: Any) -> Any:
        def counted(*given: Any) -> Any:
            steps.append(len(given))
            return step(*given)

        return counted

    chain, witness = chains.Chain(folded, c, table, addmm=addmm, dtype=dtype, wrap=wrap), chains.Witness(few=5)
    assert isinstance(chain.net, chains.AddmmNet) is addmm
    got = chain.run(witness)
    assert len(steps) == len(table)
    assert exact.distance(got[:5].numpy(), folded.chain(c[:5].numpy(), table, witness.noise())) <= bound


def test_both_networks_share_what_a_person_s_draws_have_in_common(benchmark_module: Any) -> None:
    chains, folded = benchmark_module("device_chains"), benchmark_module("exact").network(*SIZE)
    x, emb = torch.randn(6, 16), torch.randn(2, 24)
    plain, added = (net(folded, draws=3)(x, emb) for net in (benchmark_module("chains").FoldedNet, chains.AddmmNet))
    torch.testing.assert_close(added, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_step_is_compiled_once_for_all_steps(benchmark_module: Any) -> None:
    exact, chains = benchmark_module("exact"), benchmark_module("device_chains")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    folded, table, witness = exact.network(*SIZE), _table(), chains.Witness()
    chain = chains.Chain(folded, torch.randn(9, 21), table, wrap=torch.compile)
    want = folded.chain(chain.conditions[:8].numpy(), table, witness.noise())
    assert exact.distance(chain.run(witness)[:8].numpy(), want) <= 1e-2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


# -- the first look, with a sampler of numpy in place of the device's --------------------------------------------------


def test_the_sampler_s_part_needs_no_torch() -> None:
    """Under compute-sanitizer its import would take longer than all the rest."""
    code = "import smoke, sys; raise SystemExit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.fixture
def smoke(benchmark_module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = benchmark_module("smoke")
    exact = benchmark_module("exact")

    class Opened:
        facts: ClassVar = {"groups": True}

    class Numpy:
        """Draws of the float64 chain; `wrong` says by how much, for a cluster."""

        wrong: ClassVar[dict[int, float]] = {}
        calls: ClassVar[list[dict[str, Any]]] = []

        def __init__(self, folded: Any) -> None:
            self.folded = folded

        def sample(self, c: Any, keys: Any, draws: Any, seed: int, table: Any, *, mode: str, **options: int) -> Any:
            Numpy.calls.append({"mode": mode, **options})
            if options.get("rows") == 1 and options.get("columns") == 4:
                raise found.InputError("no such tile")
            noise = exact.keyed(keys, draws, seed, self.folded.features)
            rows = np.tile(np.asarray(c), (len(draws), 1))
            made = self.folded.chain(rows, table, noise).reshape(len(draws), len(keys), -1)
            made = made * (1 + Numpy.wrong.get(options.get("cluster", 0), 0.0))
            return torch.from_numpy(made) if isinstance(c, torch.Tensor) else made.astype(np.float32)

    monkeypatch.setattr(found.cuda, "_opened", lambda number: Opened)
    monkeypatch.setattr(found.cuda, "CudaSampler", Numpy)
    monkeypatch.setattr(found, "SIZES", dict.fromkeys((16, 17, 30, 769), SIZE))
    found.numpy = Numpy
    return found


def test_every_tile_and_cluster_is_held_to_float64(smoke: Any, capsys: pytest.CaptureFixture[str]) -> None:
    smoke.numpy.wrong = {4: 0.02}
    smoke.errors("graph", "17")
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if line.startswith("BAD")]
    # Without a tile, and the three that exist.
    assert len(bad) == 4
    assert all("cluster 4" in line for line in bad)
    assert sum(line.startswith("ok ") for line in lines) == 1 + 3 + 9
    assert "4 of the tiles" in lines[-1]
    assert smoke.found_bad
    assert all(call["mode"] == "graph" for call in smoke.numpy.calls)


def test_bits_are_compared_between_repeats_clusters_and_modes(
    smoke: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SMOKE_BITS", str(tmp_path / "bits.json"))
    monkeypatch.setattr(smoke, "BITS_PEOPLE", 3)
    smoke.bits("graph")
    assert "BAD" not in capsys.readouterr().out
    smoke.numpy.wrong = {2: 1e-6}
    smoke.bits("persistent")
    out = capsys.readouterr().out
    assert out.count("BAD") == 3
    assert out.count("the bits of persistent are those of graph") == 3
    smoke.numpy.wrong = {1: 1e-6, 2: 1e-6}
    smoke.bits("persistent")
    assert capsys.readouterr().out.count("BAD D=16: the bits of persistent are those of graph") == 1


@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["nothing"], 2), (["errors"], 2), (["errors", "fast"], 2), (["gram", "graph"], 2)]
)
def test_unknown_words_end_it(smoke: Any, words: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as stop:
        smoke.main(words)
    assert stop.value.code == code


def test_without_a_device_it_says_so(benchmark_module: Any) -> None:
    smoke = benchmark_module("smoke")
    if smoke.cuda.reason_unavailable() is None:
        pytest.skip("there is a device")
    for words in (["errors", "graph"], ["gram"]):
        with pytest.raises(SystemExit, match=r"The CUDA sampler cannot run|No CUDA device"):
            smoke.main(words)


def test_something_bad_is_the_exit_status(smoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke.cuda, "reason_unavailable", lambda: None)
    for wrong, code in (({}, False), ({1: 0.02}, True)):
        smoke.numpy.wrong = wrong
        with pytest.raises(SystemExit) as stop:
            smoke.main(["errors", "persistent", "17"])
        assert stop.value.code is code


def test_parts_of_the_kernels_run(
    smoke: Any, benchmark_module: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Interpreted, at small sizes, with a clock that stands still."""
    pytest.importorskip("triton", reason="triton is not installed")
    denoiser, recorded = benchmark_module("test_denoiser"), benchmark_module("recorded")
    monkeypatch.setattr(smoke, "DEVICE", "cpu")
    monkeypatch.setattr(smoke, "PARAMETERS", 700)
    monkeypatch.setattr(smoke, "COPIED", 1000)
    monkeypatch.setattr(smoke, "FUSED", (("fp32", 17),))
    monkeypatch.setattr(smoke, "FUSED_ROWS", 3)
    monkeypatch.setattr(smoke, "TASKS", (3,))
    monkeypatch.setattr(denoiser, "SIZES", {17: (17, 20, 12, (20, 12, 8))})
    monkeypatch.setattr(denoiser, "BATCHES", (2,))

    def still(run: Any, rounds: int = 1) -> list[float]:
        run()
        return [1.0]

    monkeypatch.setattr(recorded, "seconds", still)
    monkeypatch.setattr(recorded, "Recording", lambda run: run)
    smoke.gram()
    smoke.triton()
    out = capsys.readouterr().out
    assert out.count("ok ") == 4
    assert "BAD" not in out
    assert "forward and backward" in out
