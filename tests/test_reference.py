"""The denoiser's mathematics: a second statement in numpy, exact gradients, and the training targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from secondgram.denoiser import Denoiser
from secondgram.diffusion import reference
from secondgram.diffusion.reference import Dropout


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZES = [(1, 1), (1, 4), (2, 3), (5, 6), (8, 8), (13, 20)]
Arrays = dict[str, np.ndarray]


def _network(features: int, conditions: int, seed: int = 0) -> Denoiser:
    """A small network in float64, with layer norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    net = Denoiser(features, conditions, embedding=6, widths=(7, 5, 3), generator=generator).double()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if ".ln." in name:
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return net


def _inputs(features: int, conditions: int, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(features)
    x, c = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (features, conditions))
    return x, torch.rand(rows, generator=generator, dtype=torch.float64) * 99, c


# -- the network as docs/design.md#network writes it, one row at a time -----------------------------------------------


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def _linear(w: Arrays, name: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: w[name + ".weight"] @ x + w[name + ".bias"]


def _norm(w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    standard = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return w[name + ".weight"] * standard + w[name + ".bias"]


def _two_layers(w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return _linear(w, name + ".2")(_silu(_linear(w, name + ".0")(x)))


def _one_block(w: Arrays, name: str, h: np.ndarray, emb: np.ndarray, skip: np.ndarray | float) -> np.ndarray:
    W1, W2, Wi, We, Wo = (_linear(w, f"{name}.{part}") for part in ("imgFC", "embdFC", "imgOut", "embdOut", "outFC"))
    return _silu(Wo(Wi(_silu(W1(_norm(w, name + ".ln", h)))) + We(_silu(W2(emb))) + skip))


def _one_row(w: Arrays, x: np.ndarray, t: float, c: np.ndarray) -> np.ndarray:
    features = len(x)
    frequencies = [100.0 ** (-2.0 * k / features) for k in range(-(-features // 2))]
    sincos = np.array([np.sin(t * f) for f in frequencies] + [np.cos(t * f) for f in frequencies])[:features]
    emb = _two_layers(w, "time_embed", sincos) + _two_layers(w, "cond_embed", c)
    down1 = _one_block(w, "down1", x, emb, 0.0)
    down2 = _one_block(w, "down2", down1, emb, 0.0)
    h = _one_block(w, "down3", down2, emb, 0.0)
    for name in ("bot1", "bot2"):
        h = h + _silu(_linear(w, name + ".fc2")(_silu(_linear(w, name + ".fc1")(h))))
    h = _one_block(w, "up1", h, emb, down2)
    h = _one_block(w, "up2", h, emb, down1)
    h = _one_block(w, "up3", h, emb, x)
    return _linear(w, "out")(h)


@pytest.mark.parametrize(("features", "conditions"), SIZES)
def test_the_network_equals_a_second_statement_of_it(features: int, conditions: int) -> None:
    net = _network(features, conditions)
    x, t, c = _inputs(features, conditions)
    weights = {name: value.detach().numpy() for name, value in net.named_parameters()}
    expected = [_one_row(weights, *row) for row in zip(x.numpy(), t.tolist(), c.numpy(), strict=True)]
    np.testing.assert_allclose(net(x, t, c).detach().numpy(), np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("features", "conditions"), [(1, 2), (3, 4), (4, 4)])
def test_gradients_of_inputs_and_of_every_weight_are_exact(features: int, conditions: int) -> None:
    net = _network(features, conditions)
    x, t, c = _inputs(features, conditions, rows=2)
    names = [name for name, _ in net.named_parameters()]

    def function(x: Tensor, c: Tensor, *values: Tensor) -> Tensor:
        return reference.denoise(dict(zip(names, values, strict=True)), x, t, c)

    arguments = [value.detach().clone().requires_grad_() for value in (x, c, *net.parameters())]
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    # The fast mode checks a random direction of each argument; the inputs are few enough for every entry.
    fixed = [value.detach() for value in net.parameters()]
    assert torch.autograd.gradcheck(lambda x, c: function(x, c, *fixed), arguments[:2])


@pytest.mark.parametrize("features", [1, 2, 3, 769])
def test_time_features_at_step_zero_are_sines_then_cosines(features: int) -> None:
    made = reference.time_features(torch.zeros(2, dtype=torch.float64), features)
    assert made.shape == (2, features)
    half = (features + 1) // 2
    assert not made[:, :half].any()
    assert (made[:, half:] == 1).all()


def test_rows_do_not_see_each_other() -> None:
    net, (x, t, c) = _network(5, 6), _inputs(5, 6)
    whole = net(x, t, c)
    x[1:], t[1:], c[1:] = 9.0, 3.0, -9.0
    torch.testing.assert_close(net(x, t, c)[0], whole[0], rtol=0, atol=1e-14)


def test_noise_is_added_by_signal_and_noise_of_each_row() -> None:
    x0, z = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    signal, noise = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
    torch.testing.assert_close(reference.add_noise(x0, z, signal, noise), torch.tensor([[6.8, 13.6], [25.8, 34.4]]))


@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_the_training_target_gives_back_the_data(prediction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, z = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    signal = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    noise = (1 - signal**2).sqrt()
    x = reference.add_noise(x0, z, signal, noise)
    target = reference.training_target(x0, z, signal, noise, prediction)
    if prediction == "noise":
        estimate = (x - noise[:, None] * target) / signal[:, None]
    else:
        estimate = signal[:, None] * x - noise[:, None] * target
    torch.testing.assert_close(estimate, x0, rtol=0, atol=1e-12)


def test_a_solver_row_is_applied_as_written() -> None:
    x, output, before, z = (torch.tensor([[value]]) for value in (2.0, 3.0, 5.0, 7.0))
    row = (50.0, 0.5, -0.25, 0.1, 0.2, 0.3, 0.4)
    following, x0 = reference.solver_step(row, x, output, before, z)
    assert x0.item() == pytest.approx(0.25)
    assert following.item() == pytest.approx(0.1 * 2 + 0.2 * 0.25 + 0.3 * 5 + 0.4 * 7)
    assert reference.solver_step(row, x, output, before, None)[0].item() == pytest.approx(
        0.1 * 2 + 0.2 * 0.25 + 0.3 * 5
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(share: float) -> None:
    dropped = Dropout(share, torch.Generator().manual_seed(0))(torch.ones(400, 500))
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    again = Dropout(share, torch.Generator().manual_seed(0))(torch.ones(400, 500))
    assert torch.equal(dropped, again)


def test_dropout_in_the_network_is_its_generator_and_nothing_else() -> None:
    net, (x, t, c) = _network(5, 6), _inputs(5, 6)

    def run(seed: int, share: float) -> Tensor:
        return net(x, t, c, Dropout(share, torch.Generator().manual_seed(seed)))

    assert torch.equal(run(0, 0.5), run(0, 0.5))
    assert not torch.equal(run(0, 0.5), run(1, 0.5))
    assert torch.equal(run(0, 0.0), net(x, t, c))
