"""The folded denoiser is the denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondgram.denoiser import Denoiser
from secondgram.diffusion.folding import FoldedDenoiser, flops, fold, silu

SIZES = [(5, 4, 8, (12, 10, 6)), (16, 21, 64, (128, 64, 32)), (769, 783, 256, (512, 256, 128))]


def _net(features: int, conditions: int, embedding: int, widths: tuple[int, int, int]) -> Denoiser:
    net = Denoiser(features, conditions, embedding=embedding, widths=widths, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        # A fresh layer norm does nothing; here it has to.
        for name, value in net.named_parameters():
            if ".ln." in name:
                value.add_(0.5 * torch.randn(value.shape, generator=generator))
    return net.double()


def _folded(net: Denoiser) -> FoldedDenoiser:
    return fold({name: value.numpy() for name, value in net.state_dict().items()})


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
@pytest.mark.parametrize("t", [0.0, 7.25, 99.0])
def test_folded_equals_the_reference(size: tuple[int, int, int, tuple[int, int, int]], t: float) -> None:
    net, rng = _net(*size), np.random.default_rng(0)
    x, c = 3.0 * rng.normal(size=(9, size[0])) + 1.0, rng.normal(size=(9, size[1]))
    folded = _folded(net)
    emb = folded.embedding_of_times(np.array([t])) + folded.embedding_of_conditions(c)
    with torch.inference_mode():
        expected = net(torch.from_numpy(x), t, torch.from_numpy(c)).numpy()
    got = folded(x, folded.context(emb))
    assert np.linalg.norm(got - expected) <= 1e-12 * np.linalg.norm(expected)


def test_the_context_does_not_depend_on_the_row() -> None:
    net, rng = _net(*SIZES[0]), np.random.default_rng(1)
    folded = _folded(net)
    c = rng.normal(size=(1, 4))
    context = folded.context(folded.embedding_of_times(np.array([5.0])) + folded.embedding_of_conditions(c))
    x = rng.normal(size=(20, 5))
    with torch.inference_mode():
        expected = net(torch.from_numpy(x), 5.0, torch.from_numpy(np.repeat(c, 20, axis=0))).numpy()
    np.testing.assert_allclose(folded(x, context), expected, rtol=1e-11, atol=1e-12)


def test_operations_are_those_of_the_design() -> None:
    size = (769, 783, 256, (512, 256, 128))
    assert flops(*size) == pytest.approx(9.420e6, rel=1e-4)
    assert flops(*size, draws=1) == pytest.approx(6.889e6, rel=1e-4)
    assert flops(*size, draws=20) == pytest.approx(5.706e6, rel=1e-4)


def test_silu_does_not_overflow() -> None:
    x = np.array([-1e4, -30.0, 0.0, 30.0, 1e4])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(silu(x), [0.0, -30.0 / (1.0 + np.exp(30.0)), 0.0, 30.0, 1e4], rtol=1e-6, atol=1e-11)
