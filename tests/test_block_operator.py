"""The fused denoiser as a backend of `Denoiser`: its choice, autograd, torch.compile, and what it refuses."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest

import secondgram as sg
from secondgram.errors import InputError
from secondgram.ops.registry import ENVIRONMENT, BackendUnavailableError

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")
layout = pytest.importorskip("secondgram.kernels.layout")

from secondgram.diffusion.reference import Dropout  # noqa: E402
from secondgram.kernels import launches  # noqa: E402
from secondgram.ops import triton_kernels  # noqa: E402


def _net(**options: Any) -> sg.Denoiser:
    generator = torch.Generator().manual_seed(0)
    options = {"embedding": 8, "widths": (8, 8, 8), "backend": "triton", **options}
    return sg.Denoiser(4, 5, generator=generator, **options)


def _batch(rows: int = 3) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rows, 4, generator=generator),
        torch.rand(rows, generator=generator) * 99,
        torch.randn(rows, 5, generator=generator),
    )


def _gradient(value: Any) -> Any:
    assert value.grad is not None
    return value.grad


def test_names_are_those_of_the_module() -> None:
    net = _net()
    assert list(triton_kernels.NAMES) == [name for name, _ in net.named_parameters()]
    size = layout.Size.of(dict(net.named_parameters()))
    assert size.parameters == {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert layout.Size(769, 783, 256, (512, 256, 128)).total == 4_727_688


@pytest.mark.interpreted
def test_gradients_are_those_of_the_reference() -> None:
    x, t, c = _batch()
    x.requires_grad_()
    found = []
    for backend in ("triton", "reference"):
        net = _net(backend=backend)
        with launches.counted() as names:
            found.append(torch.autograd.grad(net(x, t, c).square().sum(), [x, *net.parameters()]))
        assert bool(names) == (backend == "triton")
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.interpreted
def test_dropout_drops_what_the_reference_drops() -> None:
    x, t, c = _batch()
    found = []
    for backend in ("triton", "reference"):
        net = _net(backend=backend, embedding=8, widths=(12, 10, 8))
        out = net(x, t, c, Dropout(0.3, torch.Generator().manual_seed(5)))
        found.append([out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not torch.equal(found[0][0], _net(embedding=8, widths=(12, 10, 8))(x, t, c))


def test_dropout_draws_where_its_generator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed gives the same numbers wherever the network is, and a processor's generator serves a device."""
    drawn, rand = [], torch.rand

    def watched(*arguments: Any, **options: Any) -> Any:
        drawn.append(torch.device(options["device"]).type)
        return rand(*arguments, **options)

    monkeypatch.setattr(torch, "rand", watched)
    h = torch.ones(3, 4, device="meta")
    assert Dropout(0.5, torch.Generator().manual_seed(0))(h).device.type == "meta"
    assert drawn == ["cpu"]


class _Taker:
    """Keeps what a backward pass hands over."""

    def __init__(self, offsets: list[int]) -> None:
        self.offsets, self.rows = torch.tensor(offsets), 0
        self.taken: list[tuple[list[int], Any]] = []

    def begin(self, rows: int) -> None:
        self.rows = rows

    def take(self, weights: Any, J: Any) -> None:
        self.taken.append(([weight.data_ptr() for weight in weights], J))


@pytest.mark.interpreted
def test_one_backward_pass_gives_the_gradients_of_all_tasks() -> None:
    x, t, c = _batch(6)
    net, plain = _net(), _net(backend="reference")
    slices = [slice(0, 2), slice(2, 2), slice(2, 6)]
    found = _Taker([0, 2, 2, 6])
    with triton_kernels.tasks(found):
        net(x, t, c).square().sum().backward()
    ((places, J),) = found.taken
    assert found.rows == 6
    assert places == [value.data_ptr() for value in net.parameters()]
    for row, part in zip(J, slices, strict=True):
        wanted = torch.autograd.grad(plain(x[part], t[part], c[part]).square().sum(), list(plain.parameters()))
        torch.testing.assert_close(row, torch.cat([value.reshape(-1) for value in wanted]), rtol=1e-4, atol=1e-6)
    assert all(value.grad is None for value in net.parameters())
    net(x, t, c).square().sum().backward()
    whole = torch.cat([_gradient(value).reshape(-1) for value in net.parameters()])
    torch.testing.assert_close(J.sum(dim=0), whole)
    assert len(found.taken) == 1


@pytest.mark.interpreted
def test_only_what_needs_a_gradient_gets_one() -> None:
    x, t, c = _batch()
    net = _net()
    for name, value in net.named_parameters():
        value.requires_grad_(name.startswith("up3"))
    with launches.counted() as names:
        net(x, t, c).sum().backward()
    assert {name for name, value in net.named_parameters() if value.grad is not None} == {
        name for name, _ in net.named_parameters() if name.startswith("up3")
    }
    assert "c.back" not in names
    assert "down1.inner.back" not in names
    with torch.no_grad(), launches.counted() as names:
        assert not net(x, t, c).requires_grad
    assert len(names) <= 24


@pytest.mark.interpreted
def test_a_step_that_is_one_number_and_a_step_for_each_row() -> None:
    x, _, c = _batch()
    net = _net()
    with torch.no_grad():
        whole = net(x, 17, c)
        assert torch.equal(whole, net(x, torch.full((3,), 17), c))
        assert torch.equal(whole, net(x, torch.tensor(17.0), c))


def _sound(operator: Any, arguments: tuple[Any, ...], tests: tuple[str, ...]) -> None:
    assert set(torch.library.opcheck(operator, arguments, test_utils=tests).values()) == {"SUCCESS"}


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "tests",
    [
        ("test_autograd_registration", "test_faketensor"),
        pytest.param(("test_schema", "test_aot_dispatch_dynamic"), marks=pytest.mark.slow),
    ],
    ids=["fakes", "schema, and traced with symbols"],
)
def test_operators_are_sound(tests: tuple[str, ...]) -> None:
    x, t, c = _batch()
    weights = [value.detach().requires_grad_() for value in _net().parameters()]
    operators = torch.ops.secondgram
    _sound(operators.denoise.default, (x, t, c, weights, [], 0.0, "fp32", True), tests)
    fixed = [weight.detach() for weight in weights]
    out, *kept = operators.denoise(x, t, c, fixed, [], 0.0, "fp32", True)
    _sound(
        operators.denoise_gradients.default,
        (torch.ones_like(out), *kept, fixed, [], 0.0, None, "fp32", True, True),
        tests,
    )


@pytest.mark.interpreted
def test_torch_compile_traces_through_without_a_break() -> None:
    x, t, c = _batch()
    net = _net()
    plain = torch.autograd.grad(net(x, t, c).square().sum(), list(net.parameters()))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    traced = torch.autograd.grad(compiled(x, t, c).square().sum(), list(net.parameters()))
    for ours, theirs in zip(traced, plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_torch_compile_and_its_graphs_on_the_device(mode: str) -> None:
    x, t, c = (value.cuda() for value in _batch(256))
    net = _net().cuda()
    compiled = torch.compile(net, mode=mode, fullgraph=True)
    for _ in range(3):
        got = torch.autograd.grad(compiled(x, t, c).square().sum(), list(net.parameters()))
    plain = torch.autograd.grad(net(x, t, c).square().sum(), list(net.parameters()))
    for ours, theirs in zip(got, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_cuda_graph_replays_forward_and_backward() -> None:
    x, t, c = (value.cuda() for value in _batch(256))
    net = _net().cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            net.zero_grad(set_to_none=True)
            net(x, t, c).square().sum().backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    net.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph, stream=stream):
        out = net(x, t, c)
        out.square().sum().backward()
    x.mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    held = [_gradient(value).clone() for value in net.parameters()]
    net.zero_grad(set_to_none=True)
    net(x, t, c).square().sum().backward()
    for ours, value in zip(held, net.parameters(), strict=True):
        torch.testing.assert_close(ours, _gradient(value), rtol=1e-5, atol=1e-6)


# -- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.interpreted
def test_auto_is_the_reference_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with warnings.catch_warnings(), launches.counted() as names:
        warnings.simplefilter("error")
        _net(backend="auto")(*_batch())
    assert names == []
    monkeypatch.setenv(ENVIRONMENT, "triton")
    with launches.counted() as names:
        _net(backend="auto")(*_batch())
    assert names


def test_without_the_interpreter_an_explicit_request_fails_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(BackendUnavailableError, match=r"no CUDA device|on the device cpu"):
        _net()(*_batch())
    _net(backend="auto")(*_batch())


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float64}, "not torch.float64"),
        ({"precision": "bf16"}, "multiplies bfloat16 wrongly"),
        ({"widths": (8, 8, 129)}, "at most 128"),
        ({"mixed": True}, "weights of one dtype"),
    ],
    ids=["float64", "bfloat16", "wide middle", "mixed"],
)
def test_what_the_kernels_cannot_do_is_refused_and_left_to_the_reference(change: dict[str, Any], reason: str) -> None:
    dtype, mixed = change.pop("dtype", torch.float32), change.pop("mixed", False)
    x, t, c = (value.to(dtype) for value in _batch())
    net = _net(**change).to(dtype)
    if mixed:
        net.out.half()
    with pytest.raises(BackendUnavailableError, match=reason):
        net(x, t, c)
    if not mixed:
        net.backend = "auto"
        assert torch.isfinite(net(x, t, c)).all()


@pytest.mark.interpreted
def test_bad_arguments_are_refused() -> None:
    x, t, c = _batch()
    with pytest.raises(InputError, match="no gradient for t"):
        _net()(x, t.requires_grad_(), c)
    with pytest.raises(InputError, match="no precision 'fp8'"):
        _net(precision="fp8")(x, t.detach(), c)
    with pytest.raises(InputError, match="on cpu and c on meta"):
        _net()(x, t.detach(), c.to("meta"))
    with pytest.raises(InputError, match="Triton's interpreter"):
        triton_kernels.TritonSampler(None, "cpu", "bf16")  # type: ignore[arg-type]


@pytest.mark.interpreted
def test_an_empty_batch_and_weights_that_are_not_contiguous() -> None:
    net = _net()
    out = net(*_batch(0))
    assert out.shape == (0, 4)
    out.sum().backward()
    assert all(not _gradient(value).any() for value in net.parameters())
    x, t, c = _batch()
    with torch.no_grad():
        plain = net(x, t, c)
        net.out.weight = torch.nn.Parameter(net.out.weight.T.contiguous().T)
        assert torch.equal(net(x, t, c), plain)


@pytest.mark.interpreted
def test_half_precision_weights_and_inputs() -> None:
    x, t, c = _batch()
    net = _net().half()
    out = net(x.half(), t, c.half())
    assert out.dtype == torch.float16
    out.float().square().sum().backward()
    assert {_gradient(value).dtype for value in net.parameters()} == {torch.float16}
    wide = _net(backend="reference").double()
    want = wide(x.double(), t.double(), c.double())
    assert (out.double() - want).norm() <= 1e-2 * want.norm()


def test_doctor_says_which_backend_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from secondgram.doctor import report

    monkeypatch.delenv(ENVIRONMENT, raising=False)
    row = {row.topic: row for row in report()}["backend of the denoiser"]
    if os.environ["TRITON_INTERPRET"] == "1":
        assert row.value == "reference (not triton: its kernels would be interpreted)"
    else:
        assert row.value.startswith(("triton", "reference (not triton: "))


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.interpreted
@pytest.mark.slow
def test_two_hundred_steps_follow_the_reference() -> None:
    generator = torch.Generator().manual_seed(2)
    x0, c = torch.randn(64, 4, generator=generator), torch.randn(64, 5, generator=generator)
    steps = [torch.randint(0, 64, (8,), generator=generator) for _ in range(200)]
    noise = [torch.randn(8, 4, generator=generator) for _ in steps]
    times = [torch.rand(8, generator=generator) * 99 for _ in steps]

    def losses(backend: str) -> list[float]:
        net, found = _net(backend=backend), []
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for rows, z, t in zip(steps, noise, times, strict=True):
            share = (t / 100.0)[:, None]
            loss = (net((1 - share).sqrt() * x0[rows] + share.sqrt() * z, t, c[rows]) - z).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        return found

    ours, theirs = torch.tensor(losses("triton")).double(), torch.tensor(losses("reference")).double()
    assert ((ours - theirs).abs() <= 1e-4 * theirs).all()
    assert theirs[-20:].mean() < 0.9 * theirs[:20].mean()
