"""The fused denoiser's kernels against the plain statement in float64: output, every gradient, folded, and sampled.

Quick cases are small; all batches and widths of the published shape run with `pytest -m slow tests/test_block.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secondgram as sg
from secondgram.diffusion import folding

torch = pytest.importorskip("torch", reason="torch is not installed")
triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")
block = pytest.importorskip("secondgram.kernels.executor")

from secondgram.diffusion import reference  # noqa: E402
from secondgram.kernels import launch_plan, launches, layout  # noqa: E402
from secondgram.kernels.pack import sin_or_cos  # noqa: E402

# Relative L2 of output and gradients, one minus their cosine, and their mean error against the root mean square.
TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 1e-2, "bf16": 1e-2}
ROWS = (1, 2, 63, 64, 255, 256, 1000)
FEATURES = (1, 8, 17, 128, 769)
SMALL: dict[str, Any] = {"embedding": 12, "widths": (20, 12, 8)}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody has written is not a number."""
    empty = torch.empty

    def poisoned(*arguments: Any, **options: Any) -> Any:
        made = empty(*arguments, **options)
        return made.fill_(float("nan")) if made.is_floating_point() and made.device.type != "meta" else made

    monkeypatch.setattr(torch, "empty", poisoned)


def agree(got: Any, want: Any, bound: float) -> None:
    """Relative L2, cosine and signed bias against a float64 statement."""
    got, want = got.detach().double().cpu().reshape(-1), want.detach().reshape(-1)
    size = want.norm()
    assert torch.isfinite(got).all()
    assert (got - want).norm() <= bound * size
    assert 1.0 - got @ want / (got.norm() * size).clamp_min(1e-300) <= bound or size == 0
    assert abs((got - want).mean()) <= bound * want.square().mean().sqrt()


class Setting:
    """A denoiser with random layer norms, a batch, and an output gradient; and the same in float64."""

    def __init__(self, rows: int, features: int, device: str = "cpu", **sizes: Any) -> None:
        generator = torch.Generator().manual_seed(rows + 1009 * features)
        conditions = features + 3
        net = sg.Denoiser(features, conditions, generator=generator, **sizes)
        with torch.no_grad():
            for name, value in net.named_parameters():
                if ".ln." in name:
                    value.add_(0.3 * torch.randn(value.shape, generator=generator))
        self.net = net.to(device)
        self.x, self.g = (torch.randn(rows, features, generator=generator).to(device) for _ in range(2))
        self.c = torch.randn(rows, conditions, generator=generator).to(device)
        self.t = (torch.rand(rows, generator=generator) * 99).to(device)
        self.weights = [value.detach() for value in self.net.parameters()]
        self.size = layout.Size.of(dict(self.net.named_parameters()))

    def statement(self) -> tuple[Any, Any, Any, list[Any]]:
        """Output and gradients of x, c and all parameters by autograd through the statement."""
        wide = {name: value.detach().double().cpu().requires_grad_() for name, value in self.net.named_parameters()}
        x, c = (value.double().cpu().requires_grad_() for value in (self.x, self.c))
        out = reference.denoise(wide, x, self.t.double().cpu(), c)
        of_x, of_c, *rest = torch.autograd.grad(out, [x, c, *wide.values()], self.g.double().cpu())
        return out, of_x, of_c, rest

    def fused(self, precision: str) -> tuple[Any, Any, Any, list[Any]]:
        """The same by the kernels."""
        out, kept = block.denoise(self.size, precision, self.x, self.t, self.c, self.weights, True)
        flat, of_x, of_c = block.gradients(
            self.size, precision, self.g, kept, self.weights, x_gradient=True, c_gradient=True
        )
        return out, of_x, of_c, list(flat[0].split([weight.numel() for weight in self.weights]))


def _check(setting: Setting, precision: str) -> None:
    bound = TOLERANCE[precision]
    out, of_x, of_c, rest = setting.fused(precision)
    want, want_x, want_c, wanted = setting.statement()
    agree(out, want, bound)
    agree(of_x, want_x, bound)
    agree(of_c, want_c, bound)
    agree(torch.cat(rest), torch.cat([value.reshape(-1) for value in wanted]), bound)
    whole = torch.cat([value.reshape(-1) for value in wanted]).norm()
    for name, got, value in zip(setting.size.parameters, rest, wanted, strict=True):
        # One parameter's gradient may be tiny beside the others' and is then known as well as they are.
        away = (got.double().cpu() - value.reshape(-1)).norm()
        assert away <= bound * max(float(value.norm()), 1e-3 * float(whole)), name


@pytest.mark.interpreted
@pytest.mark.parametrize("rows", [1, 63, 64])
def test_any_batch(rows: int) -> None:
    _check(Setting(rows, 17, **SMALL), "fp32")


@pytest.mark.interpreted
@pytest.mark.parametrize("features", [1, 8, 128])
def test_any_width(features: int) -> None:
    _check(Setting(2, features, **SMALL), "fp32")


@pytest.mark.interpreted
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_lower_precision(precision: str) -> None:
    """At the shape of the preset `default`; the interpreter's products are exact, their operands are rounded."""
    _check(Setting(64, 16, embedding=64, widths=(128, 64, 32)), precision)


@pytest.mark.interpreted
def test_widths_beyond_a_tile() -> None:
    """More than one tile of columns and moments, widths that are no power of two, and a middle of 128."""
    _check(Setting(3, 70, embedding=70, widths=(300, 130, 100)), "fp32")


@pytest.mark.interpreted
@pytest.mark.slow
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("rows", ROWS)
def test_published_shape(rows: int, features: int) -> None:
    _check(Setting(rows, features), "fp32")


@pytest.mark.interpreted
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
@pytest.mark.parametrize("rows", [1, 64, 255])
def test_published_shape_in_lower_precision(rows: int, precision: str) -> None:
    _check(Setting(rows, 769), precision)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [255, 1000])
@pytest.mark.parametrize(("features", "precision"), [(769, "bf16"), (17, "tf32"), (17, "fp32")])
def test_on_the_device(rows: int, features: int, precision: str) -> None:
    _check(Setting(rows, features, "cuda"), precision)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("rows", ROWS)
def test_every_shape_on_the_device(rows: int, features: int, precision: str) -> None:
    _check(Setting(rows, features, "cuda"), precision)


@pytest.mark.interpreted
def test_directional_derivatives() -> None:
    setting = Setting(4, 8, **SMALL)
    *_, parts = setting.fused("fp32")
    generator = torch.Generator().manual_seed(1)
    wide = {name: value.detach().double() for name, value in setting.net.named_parameters()}
    for _ in range(3):
        way = {name: torch.randn(value.shape, generator=generator).double() for name, value in wide.items()}

        def along(step: float, way: dict[str, Any] = way) -> Any:
            moved = {name: value + step * way[name] for name, value in wide.items()}
            out = reference.denoise(moved, setting.x.double(), setting.t.double(), setting.c.double())
            return (out * setting.g.double()).sum()

        slope = (along(1e-5) - along(-1e-5)) / 2e-5
        got = sum((part.double() * value.reshape(-1)).sum() for part, value in zip(parts, way.values(), strict=True))
        length = float(torch.cat(parts).norm()) * sum(float(value.square().sum()) for value in way.values()) ** 0.5
        assert abs(got - slope) <= 1e-6 * length


@pytest.mark.interpreted
def test_strided_inputs() -> None:
    setting = Setting(6, 8, **SMALL)
    plain = block.denoise(setting.size, "fp32", setting.x, setting.t, setting.c, setting.weights, False)[0]
    wide = torch.full((6, 20), float("nan"))
    wide[:, 2:18:2] = setting.x
    tall = setting.c.T.contiguous().T
    time = torch.stack([setting.t, setting.t + 1], dim=1)[:, 0]
    got = block.denoise(setting.size, "fp32", wide[:, 2:18:2], time, tall, setting.weights, False)[0]
    assert torch.equal(got, plain)
    same = block.denoise(setting.size, "fp32", setting.x, setting.t[:1].expand(6), setting.c, setting.weights, False)[0]
    assert torch.equal(same[:1], plain[:1])


@pytest.mark.interpreted
def test_rows_far_from_zero_keep_their_moments() -> None:
    setting = Setting(3, 17, **SMALL)
    setting.x = setting.x + 100.0
    out = block.denoise(setting.size, "fp32", setting.x, setting.t, setting.c, setting.weights, False)[0]
    # x itself is a skip of 100 here, so the layer norm's part is small; float32 resolves x to 4e-6.
    agree(out, setting.statement()[0], TOLERANCE["fp32"])


@pytest.mark.interpreted
@pytest.mark.slow
def test_gradients_of_tasks() -> None:
    """Each task's gradients are those of its rows; an empty task has none; the tasks add up to the whole."""
    setting = Setting(7, 8, **SMALL)
    _, kept = block.denoise(setting.size, "fp32", setting.x, setting.t, setting.c, setting.weights, True)
    whole, _, _ = block.gradients(setting.size, "fp32", setting.g, kept, setting.weights)
    offsets = torch.tensor([0, 3, 3, 7])
    parts, _, _ = block.gradients(setting.size, "fp32", setting.g, kept, setting.weights, offsets=offsets)
    assert parts.shape == (3, setting.size.total)
    agree(parts.sum(dim=0), whole[0].double(), 1e-6)
    assert not parts[1].any()
    setting.g[3:] = 0.0
    *_, wanted = setting.statement()
    agree(parts[0], torch.cat([value.reshape(-1) for value in wanted]), TOLERANCE["fp32"])


@triton.jit
def _write_waves(angles, out, COUNT: tl.constexpr):  # type: ignore[no-untyped-def, name-defined]
    """Sines of angles, and behind them their cosines."""
    i = tl.arange(0, 2 * COUNT)
    tl.store(out + i, sin_or_cos(tl.load(angles + i % COUNT), i >= COUNT))


@pytest.mark.interpreted
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4, 1e7])
def test_sines_and_cosines_of_any_time(size: float) -> None:
    angles = size * torch.randn(256, generator=torch.Generator().manual_seed(0))
    angles[:6] = torch.tensor([0.0, torch.pi / 4, -torch.pi / 4, torch.pi / 2, torch.pi, -torch.pi])
    out = torch.full((512,), torch.nan)
    _write_waves[(1,)](angles, out, COUNT=256)
    exact = torch.cat([angles.double().sin(), angles.double().cos()])
    assert (out.double() - exact).abs().max() <= 2e-7


@pytest.mark.interpreted
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_time_that_is_no_number_gives_none() -> None:
    angles, out = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]), torch.zeros(8)
    _write_waves[(1,)](angles, out, COUNT=4)
    assert out.isnan().tolist() == [True, True, True, False] * 2


def test_buffers_begin_where_their_memory_begins() -> None:
    """An arena may be a part of a larger tensor, as an activation that was saved as a view is."""
    whole = torch.arange(60.0)
    arena = layout.Arena({"a": 4, "b": 8}, 3, whole[24:], slot=4)
    assert torch.equal(arena["a"], whole[24:36].view(3, 4))
    assert torch.equal(arena["b"], whole[36:60].view(3, 8))
    assert torch.equal(arena["b:1"], whole[36:60].view(3, 8)[:, 4:])


@pytest.mark.interpreted
def test_gradients_of_activations_that_are_views() -> None:
    setting = Setting(2, 8, **SMALL)
    _, kept = block.denoise(setting.size, "fp32", setting.x, setting.t, setting.c, setting.weights, True)
    # Behind numbers that are not theirs, on a multiple of 16 bytes.
    moved = [torch.cat([torch.full((64,), torch.nan).to(part), part])[64:] for part in kept]
    one, two = (
        block.gradients(setting.size, "fp32", setting.g, held, setting.weights)[0]
        for held in (kept, block.Kept(*moved))
    )
    assert torch.equal(one, two)


@pytest.mark.interpreted
def test_the_same_bits_twice() -> None:
    setting = Setting(2, 8, **SMALL)
    one, two = setting.fused("fp32"), setting.fused("fp32")
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(a, b) for a, b in zip(one[3], two[3], strict=True))


@pytest.mark.interpreted
def test_an_empty_batch() -> None:
    out, of_x, of_c, rest = Setting(0, 8, **SMALL).fused("fp32")
    assert (out.shape, of_x.shape, of_c.shape) == ((0, 8), (0, 8), (0, 11))
    assert not torch.cat(rest).any()


# -- launches ---------------------------------------------------------------------------------------------------------


@pytest.mark.interpreted
def test_launches_are_those_of_the_plan() -> None:
    setting = Setting(2, 8, **SMALL)
    with launches.counted() as names:
        _, kept = block.denoise(setting.size, "fp32", setting.x, setting.t, setting.c, setting.weights, True)
    assert names == [launch.name for launch in launch_plan.forward(setting.size, True).launches]
    assert len(names) <= 24
    with launches.counted() as back:
        block.gradients(setting.size, "fp32", setting.g, kept, setting.weights, x_gradient=True, c_gradient=True)
    assert back == [launch.name for launch in launch_plan.backward(setting.size, True, True).launches]
    assert len(names) + len(back) <= 64


# -- folded -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded() -> tuple[Any, Any]:
    setting = Setting(3, 17, embedding=12, widths=(70, 12, 8))
    return setting, folding.fold({name: value.detach().numpy() for name, value in setting.net.state_dict().items()})


def _folded(folded: tuple[Any, Any], precision: str, device: str) -> None:
    from secondgram.ops.triton_kernels import TritonSampler

    setting, weights = folded
    sampler = TritonSampler(weights, device, precision)
    draws, people = 2, 3
    x = torch.randn(draws * people, 17, generator=torch.Generator().manual_seed(0))
    with launches.counted() as names:
        got = sampler(x.to(device), 37.0, setting.c.numpy())
    assert names == [launch.name for launch in launch_plan.folded(sampler.packed.size, False).launches]
    assert len(names) <= 14
    time = weights.embedding_of_times(np.full(1, 37.0))
    emb = time + weights.embedding_of_conditions(setting.c.double().numpy())
    want = weights(x.double().numpy(), weights.context(np.tile(emb, (draws, 1))))
    agree(got, torch.from_numpy(want), TOLERANCE[precision])


@pytest.mark.interpreted
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_folded(folded: tuple[Any, Any], precision: str) -> None:
    _folded(folded, precision, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", TOLERANCE)
def test_folded_on_the_device(folded: tuple[Any, Any], precision: str) -> None:
    _folded(folded, precision, "cuda")


def _chain(folded: tuple[Any, Any], device: str, solver: str, start: str, bound: float) -> None:
    from secondgram.diffusion.solvers import solver_table
    from secondgram.ops.triton_kernels import TritonSampler

    setting, weights = folded
    plain = sg.Sampler(setting.net, backend="reference")
    keys, draws = np.arange(3, dtype=np.uint64) * 7919, np.array([0, 5])
    c = setting.c.numpy()
    want = plain.sample(c, keys, draws, 11, solver, 3, keys=keys, start=start)
    table = solver_table(plain.schedule, solver, 3, "noise")
    first, level = None, 1.0
    if start == "baseline":
        first, level = (
            float(plain.schedule.signal[-1]) * c[:, -17:],
            float(plain.schedule.noise_at(plain.schedule.last)),
        )
    got = TritonSampler(weights, device, "fp32").sample(
        c, keys, draws.astype(np.uint32), 11, table.rows, start=first, start_noise=level
    )
    assert got.shape == want.shape == (2, 3, 17)
    assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


@pytest.mark.interpreted
@pytest.mark.parametrize(("solver", "start"), [("ddpm", "normal"), ("sde-dpm++2m", "baseline")])
def test_a_chain_is_that_of_the_reference_sampler(folded: tuple[Any, Any], solver: str, start: str) -> None:
    _chain(folded, "cpu", solver, start, 1e-5)


@pytest.mark.interpreted
def test_the_sampler_has_it_by_name() -> None:
    net = sg.Denoiser(3, 5, **SMALL, generator=torch.Generator().manual_seed(0))
    c, keys = np.ones((2, 5), dtype=np.float32), np.arange(2, dtype=np.uint64)
    fused, plain = (
        sg.Sampler(net, backend=backend, precision="fp32").sample(c, keys, 2, solver="ddim", steps=3, keys=keys)
        for backend in ("triton", "reference")
    )
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize(("solver", "start"), [("ddpm", "normal"), ("sde-dpm++2m", "baseline")])
def test_a_chain_on_the_device(folded: tuple[Any, Any], solver: str, start: str) -> None:
    _chain(folded, "cuda", solver, start, 1e-4)
