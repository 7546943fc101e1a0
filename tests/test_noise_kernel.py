"""The Triton kernel of keyed noise against the statement in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.diffusion import noise as reference
from secondgram.diffusion.noise import Purpose, person_keys

triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")
torch = pytest.importorskip("torch", reason="torch is not installed")
kernel = pytest.importorskip("secondgram.kernels.noise")


KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@triton.jit
def _write_words(counter, out, seed, purpose, step):
    """Words of one counter, its parts read from int64 [block, draw, person]."""
    one = tl.arange(0, 1)
    block = tl.load(counter + one).to(tl.uint32)
    draw = tl.load(counter + 1 + one).to(tl.uint32)
    person = tl.load(counter + 2 + one).to(tl.uint64, bitcast=True)
    x0, x1, x2, x3 = kernel.words_of(seed, purpose, block, draw, step, person)
    tl.store(out + one, x0.to(tl.int64))
    tl.store(out + 1 + one, x1.to(tl.int64))
    tl.store(out + 2 + one, x2.to(tl.int64))
    tl.store(out + 3 + one, x3.to(tl.int64))


@triton.jit
def _write_normals(words, out):
    """z0 and z1 of eight words, each in both places."""
    i = tl.arange(0, 8)
    x = tl.load(words + i).to(tl.uint32, bitcast=True)
    z0, z1, _, _ = kernel.normals_of_words(x, x, x, x)
    tl.store(out + i, z0)
    tl.store(out + 8 + i, z1)


@pytest.mark.interpreted
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (int(word, 16) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    person = np.array([c2 | c3 << 32], dtype=np.uint64).view(np.int64)[0]
    parts = torch.tensor([c0 & 0xFFFFFF, c1 >> 12, int(person)])
    out = torch.zeros(4, dtype=torch.int64)
    _write_words[(1,)](parts, out, low | high << 32, c0 >> 24, c1 & 0xFFF)
    assert [f"{word:08x}" for word in out.tolist()] == answer.split()


@pytest.mark.interpreted
def test_ends_of_the_range() -> None:
    """Words where a float32 u would round to 0 or 1, and at the borders of the quarter turns."""
    words = np.array([0, 1, 0x1FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF], dtype=np.uint32)
    out = torch.full((16,), float("nan"))
    _write_normals[(1,)](torch.from_numpy(words.view(np.int32)), out)
    u = (words + 0.5) / 2**32
    radius = np.sqrt(-2 * np.log(u))
    expected = np.concatenate([radius * np.cos(2 * np.pi * u), radius * np.sin(2 * np.pi * u)])
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=kernel.TOLERANCE)


def _agrees(width: int, device: str) -> None:
    keys, draws, seed = person_keys(["a", "b", "c"], "followup"), [0, 5, (1 << 20) - 1], (1 << 63) + 9
    got = kernel.normals(
        torch.from_numpy(keys.view(np.int64)).to(device),
        width,
        seed=seed,
        purpose=Purpose.COMPONENTS,
        draws=torch.tensor(draws, dtype=torch.int32, device=device),
        step=4095,
    )
    plain = reference.normals(
        keys, width, seed=seed, purpose=Purpose.COMPONENTS, draws=draws, step=4095, dtype=np.float64
    )
    assert got.shape == plain.shape
    np.testing.assert_allclose(got.cpu().numpy(), plain, rtol=0, atol=kernel.TOLERANCE)


@pytest.mark.interpreted
@pytest.mark.parametrize("width", [0, 1, 5, 64, 1027])
def test_agrees_in_the_interpreter(width: int) -> None:
    _agrees(width, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("width", [1, 3, 4, 5, 64, 257, 769, 1027])
def test_agrees_on_the_device(width: int) -> None:
    _agrees(width, "cuda")


def test_refuses_other_dtypes() -> None:
    with pytest.raises(ValueError, match=r"draws must be a contiguous torch\.int32 vector"):
        kernel.normals(torch.zeros(2, dtype=torch.int64), 4, seed=0, purpose=0, draws=torch.zeros(2))
