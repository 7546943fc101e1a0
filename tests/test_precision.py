"""Products of fewer bits: close to fp32, chosen only where draws hardly change, and the same however work is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secondgram import Denoiser, Sampler, SecondgramImputer
from secondgram.diffusion.folding import fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.errors import InputError
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.paper import PaperModel
from secondgram.ops import native
from secondgram.ops.registry import BackendUnavailableError, preferring
from secondgram.sampling import packed

pytestmark = pytest.mark.native

HALF = [
    pytest.param(
        name, marks=pytest.mark.skipif(not native.architectures(name), reason=f"this processor has no {name} products")
    )
    for name in ("fp16", "bf16")
]
needs_half = pytest.mark.skipif(native.half_precision() is None, reason="this processor has no products of fewer bits")
# Of a chain of a network of standard weights, relative to fp32: a unit in the last place of a factor is 2^-11 and 2^-8.
BOUND = {"fp16": 1e-3, "bf16": 5e-3}
# The bound for trained networks, and what a draw may change as a share of the spread of the draws.
RELATIVE, OF_SPREAD = 1e-2, 0.03
ZERO = Schedule.make("linear", zero_terminal=True)
SIZES = {1: (1, 3, 8, (12, 10, 6)), 17: (17, 21, 25, (41, 33, 16)), 130: (130, 131, 64, (128, 65, 33))}


def _net(features: int) -> Denoiser:
    size = SIZES[features]
    return Denoiser(*size[:2], embedding=size[2], widths=size[3], generator=torch.Generator().manual_seed(features))


def _chain(features: int, precision: str, people: int = 9, draws: Any = 7, **options: Any) -> np.ndarray:
    c = np.random.default_rng(0).normal(size=(40, SIZES[features][1])).astype(np.float32)[:people]
    keys = np.arange(people, dtype=np.uint64) * 7 + 1
    sampler = Sampler(_net(features), ZERO, backend="cpu", precision=precision, prediction="v")
    return sampler.sample(c, keys, draws, 2, "sde-dpm++2m", 12, keys=keys, **options)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("features", SIZES)
@pytest.mark.parametrize("precision", HALF)
def test_close_to_fp32_at_any_width(features: int, precision: str) -> None:
    plain, rounded = _chain(features, "fp32"), _chain(features, precision)
    assert not np.array_equal(plain, rounded)
    assert _distance(rounded, plain) < BOUND[precision]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("people", [1, 2, 7, 31, 40])
def test_company_changes_nothing(precision: str, people: int) -> None:
    np.testing.assert_array_equal(_chain(17, precision, people), _chain(17, precision, 40)[:, :people])


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("draws", [1, 95, 96, 97, [150, 3]])
def test_the_number_of_draws_changes_nothing(precision: str, draws: Any) -> None:
    places = np.arange(draws) if isinstance(draws, int) else draws
    np.testing.assert_array_equal(_chain(17, precision, draws=draws), _chain(17, precision, draws=160)[places])


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(precision: str, threads: int) -> None:
    folded = fold({name: value.numpy() for name, value in _net(17).state_dict().items()})
    net, table = native.NativeSampler(folded, precision), solver_table(ZERO, "ddpm", 5, "v").rows
    c, keys = np.zeros((40, 21), dtype=np.float32), np.arange(40, dtype=np.uint64)
    one = net.sample(c, keys, np.arange(9, dtype=np.uint32), 0, table, threads=1)
    np.testing.assert_array_equal(net.sample(c, keys, np.arange(9, dtype=np.uint32), 0, table, threads=threads), one)


@pytest.mark.parametrize("precision", HALF)
def test_its_noise_is_that_of_fp32(precision: str) -> None:
    """A network that says nothing leaves the start, scaled: 4e-6 is what csrc/core/normal_float.hpp promises."""
    net = Denoiser(130, 3, embedding=8, widths=(8, 8, 8), zero_output=True)
    c, keys = np.zeros((50, 3), dtype=np.float32), np.arange(50, dtype=np.uint64)
    plain, rounded = (
        Sampler(net, "linear", "cpu", name).sample(c, keys, 100, 3, "ddim", 1, keys=keys)
        for name in ("fp32", precision)
    )
    scale = plain.std()
    assert np.abs(rounded - plain).max() <= 4e-6 * np.maximum(1.0, np.abs(plain) / scale).max() * scale


# -- on trained networks ----------------------------------------------------------------------------------------------


def _trained(imputers: dict[str, Any], preset: str) -> tuple[Denoiser, Schedule, str]:
    model = imputers[preset].model_
    if isinstance(model, PaperModel):
        return model.net, Schedule.make("linear"), "noise"
    assert isinstance(model, DefaultModel)
    assert model.joint.shape is not None
    return model.joint.shape.nets[0], model.joint.shape.schedule, "v"


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_trained_network_keeps_its_draws(precision: str, preset: str, imputers: dict[str, Any]) -> None:
    net, schedule, prediction = _trained(imputers, preset)
    solver = "ddpm" if preset == "paper" else "dpm++2m"
    people, draws = 40, 50
    c = np.random.default_rng(1).uniform(-1, 1, size=(people, net.conditions)).astype(np.float32)
    keys = np.arange(people, dtype=np.uint64)
    made = {
        name: Sampler(net, schedule, backend="cpu", precision=name, prediction=prediction).sample(
            c, keys, draws, 0, solver, None if preset == "paper" else 8, keys=keys
        )
        for name in ("fp32", precision)
    }
    plain, rounded = made["fp32"].astype(float), made[precision].astype(float)
    assert _distance(rounded, plain) <= RELATIVE
    spread = np.sqrt(plain.var(axis=0, ddof=1).mean())
    assert np.sqrt(np.square(rounded - plain).mean()) <= OF_SPREAD * spread
    # Mean, variance and correlation over people and draws, within what as many draws leave open.
    flat, close = (values.reshape(-1, values.shape[2]) for values in (plain, rounded))
    deviation, count = flat.std(axis=0), len(flat)
    assert (np.abs(close.mean(axis=0) - flat.mean(axis=0)) <= deviation / np.sqrt(count)).all()
    assert (np.abs(close.var(axis=0) / flat.var(axis=0) - 1.0) <= np.sqrt(2.0 / count)).all()
    assert np.abs(np.corrcoef(close.T) - np.corrcoef(flat.T)).max() <= 1.0 / np.sqrt(count)


# -- the choice -------------------------------------------------------------------------------------------------------


@needs_half
def test_auto_takes_fewer_bits_where_draws_hardly_change() -> None:
    net = packed.packed(_net(17))
    table = solver_table(ZERO, "sde-dpm++2m", 12, "v").rows
    half = native.half_precision()
    assert half is not None
    assert 0 < net.disagreement(half, table) < packed.TOLERANCE
    np.testing.assert_array_equal(_chain(17, "auto"), _chain(17, half))


@needs_half
def test_auto_stays_with_fp32_where_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "TOLERANCE", 1e-9)
    np.testing.assert_array_equal(_chain(17, "auto"), _chain(17, "fp32"))


@pytest.mark.parametrize(("share", "taken"), [(0.0, "fp16"), (0.9, "fp16"), (1.1, "fp32"), (np.inf, "fp32")])
def test_fewer_bits_are_taken_where_draws_hardly_change(
    share: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice itself, on any processor."""
    asked: list[str] = []

    def differing(self: packed.PackedDenoiser, precision: str, table: np.ndarray) -> float:
        asked.append(precision)
        return share * packed.TOLERANCE

    monkeypatch.setattr(native, "half_precision", lambda: "fp16")
    monkeypatch.setattr(packed.PackedDenoiser, "disagreement", differing)
    net, table = packed.packed(_net(17)), solver_table(ZERO, "ddim", 3, "v").rows
    net.chosen.clear()
    assert [net.choose(table), net.choose(table)] == [taken, taken]
    # Once for a table.
    assert asked == ["fp16"]
    net.chosen.clear()
    monkeypatch.setattr(native, "half_precision", lambda: None)
    assert net.choose(table) == "fp32"


def test_draws_that_are_no_numbers_agree_with_none() -> None:
    plain = np.random.default_rng(0).normal(size=(4, 3, 2))
    assert packed.disagreement(plain, plain) == 0.0
    for wrong in (np.inf, np.nan):
        rounded = plain.copy()
        rounded[1, 2, 0] = wrong
        assert packed.disagreement(rounded, plain) == np.inf


@pytest.mark.skipif(not native.architectures("fp16"), reason="this processor has no fp16 products")
def test_numbers_beyond_its_range_are_no_agreement() -> None:
    net = _net(17)
    with torch.no_grad():
        net.out.weight.mul_(1e6)
    table = solver_table(ZERO, "ddim", 3, "v").rows
    assert packed.packed(net).disagreement("fp16", table) == np.inf
    assert packed.packed(net).choose(table) == "fp32"


def test_what_is_preferred_around_holds_for_auto() -> None:
    with preferring("auto", "fp32"):
        np.testing.assert_array_equal(_chain(17, "auto"), _chain(17, "fp32"))


def test_a_settled_sampler_decides_once_and_sees_new_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    net = _net(17)
    c, keys = np.zeros((3, 21), np.float32), np.arange(3, dtype=np.uint64)
    with preferring("reference"):
        assert Sampler(net, ZERO, prediction="v").resolve_precision().precision == "auto"
    sampler = Sampler(net, ZERO, prediction="v").resolve_precision("ddim", 3)
    assert sampler.precision == packed.decided(net, solver_table(ZERO, "ddim", 3, "v").rows, "auto")
    before = sampler.sample(c, keys, 2, solver="ddim", steps=3, keys=keys)

    def never(*given: object) -> str:
        raise AssertionError("it was decided already")

    monkeypatch.setattr(packed.PackedDenoiser, "choose", never)
    with torch.no_grad():
        net.out.weight.mul_(2.0)
    after = sampler.sample(c, keys, 2, solver="ddim", steps=3, keys=keys)
    fresh = Sampler(net, ZERO, prediction="v", precision=sampler.precision)
    np.testing.assert_array_equal(after, fresh.sample(c, keys, 2, solver="ddim", steps=3, keys=keys))
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("change", ["load", "adam"])
def test_new_weights_are_packed_anew(change: str) -> None:
    net = _net(17)
    before = packed.packed(net)
    assert packed.packed(net) is before
    if change == "load":
        net.load_state_dict({name: value * 1.5 for name, value in net.state_dict().items()})
    else:
        optimiser = torch.optim.Adam(net.parameters(), 1e-2, fused=True)
        net(torch.ones(4, 17), 1.0, torch.ones(4, 21)).square().sum().backward()
        optimiser.step()
    after = packed.packed(net)
    assert after is not before
    assert not np.allclose(after.folded.out.weight, before.folded.out.weight)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Denoiser]:
    """Networks whose weights have been hashed, one after another."""
    found: list[Denoiser] = []
    state = packed._state

    def look(net: Denoiser) -> bytes:
        found.append(net)
        return state(net)

    monkeypatch.setattr(packed, "_state", look)
    return found


def test_networks_of_a_model_are_looked_at_once(imputers: dict[str, Any], looked_at: list[Denoiser]) -> None:
    model = imputers["default"].model_
    conditions = np.zeros((2, model.joint.shape.nets[0].conditions), dtype=np.float32)
    keys = np.arange(2, dtype=np.uint64)
    drawn = model.joint.shape.draw(conditions, keys, np.arange(4), 0, "ddim", 3)
    looked_at.clear()
    np.testing.assert_array_equal(model.joint.shape.draw(conditions, keys, np.arange(4), 0, "ddim", 3), drawn)
    assert looked_at == []
    # A network that has been in no model may still learn.
    net = _net(17)
    for _ in range(2):
        packed.packed(net)
    assert looked_at == [net, net]


def test_unknown_and_impossible_precisions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="fp8"):
        Sampler(_net(1), precision="fp8")
    with pytest.raises(InputError, match="fp8"):
        SecondgramImputer(precision="fp8")
    with pytest.raises(InputError, match="reference"):
        Sampler(_net(1), backend="reference", precision="bf16")
    with pytest.raises(InputError, match="It has bf16"):
        Sampler(_net(1), backend="cuda-graph", precision="fp32")
    monkeypatch.setattr(native, "architectures", lambda precision="fp32": ("portable",) if precision == "fp32" else ())
    with pytest.raises(BackendUnavailableError, match="no instructions for it"):
        _chain(1, "bf16")
    assert _chain(1, "auto").shape == (7, 9, 1)


@needs_half
def test_the_imputer_says_which(imputers: dict[str, Any], cohort: Any, tmp_path: Path) -> None:
    people, made = cohort.take(np.arange(8)), {}
    for precision in ("auto", "fp32"):
        imputer = imputers["paper"]
        with preferring("cpu", precision):
            made[precision] = imputer.impute(people, draws=2, who="all").draws
    assert not np.array_equal(made["auto"], made["fp32"])
    np.testing.assert_allclose(made["auto"], made["fp32"], rtol=1e-2, atol=1e-2 * people.baseline.std())


def test_a_network_that_does_not_learn_is_looked_at_once(looked_at: list[Denoiser]) -> None:
    net, other = _net(1), _net(17)
    with packed.unchanging():
        first = packed.packed(net)
        assert packed.packed(net) is first
        packed.packed(other)
        assert looked_at == [net, other]
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert packed.packed(net) is not first
    with packed.unchanging():
        assert packed.packed(net) is not first
