"""Keyed noise: known answers, distribution, independence of how the work is cut, and agreement of the backends."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from secondgram.diffusion import noise as reference
from secondgram.diffusion.noise import Purpose, person_keys, philox4x32, uniforms
from secondgram.ops import native, noise
from secondgram.ops.registry import BackendUnavailableError

needs_native = pytest.mark.skipif(
    native.reason_unavailable() is not None, reason=f"native: {native.reason_unavailable()}"
)
BACKENDS = [pytest.param("native", marks=needs_native), "reference"]
WIDTHS = [1, 3, 4, 5, 64, 257, 769]

# Random123 1.09, kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> npt.NDArray[np.uint32]:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


def _keys(people: int = 5) -> npt.NDArray[np.uint64]:
    return person_keys([f"sub-{i:04d}" for i in range(people)], "followup")


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    np.testing.assert_array_equal(philox4x32(_words(counter), _words(key)), _words(answer))


@needs_native
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_native_philox_known_answers(counter: str, key: str, answer: str) -> None:
    low, high = (int(word) for word in _words(key))
    np.testing.assert_array_equal(native.philox4x32(_words(counter), low | high << 32)[0], _words(answer))


@needs_native
def test_native_philox_agrees_on_random_counters() -> None:
    counter = np.random.default_rng(0).integers(0, 1 << 32, size=(1000, 4), dtype=np.uint32)
    key = np.array([7, 1 << 31], dtype=np.uint32)
    np.testing.assert_array_equal(native.philox4x32(counter, 7 | 1 << 63), philox4x32(counter, key))


@pytest.mark.parametrize("backend", BACKENDS)
def test_definition(backend: str) -> None:
    """One value, computed in plain Python from the definition."""
    seed, draw, step, feature = (3 << 40) + 5, 11, 77, 6
    key = int.from_bytes(hashlib.blake2b(b"sub-0002\0followup", digest_size=8).digest(), "little")
    counter = [int(Purpose.STEP) << 24 | feature // 4, draw * 4096 + step, key & 0xFFFFFFFF, key >> 32]
    x = philox4x32(
        np.array(counter, dtype=np.uint32), np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)
    ).tolist()
    u2, u3 = ((word + 0.5) / 2**32 for word in x[2:])
    expected = np.sqrt(-2 * np.log(u2)) * np.cos(2 * np.pi * u3)
    got = noise.normals(
        _keys(), 7, seed=seed, purpose=Purpose.STEP, draws=[draw], step=step, dtype=np.float64, backend=backend
    )
    assert got.shape == (1, 5, 7)
    assert got[0, 2, 6] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distribution(backend: str) -> None:
    z = noise.normals(_keys(100), 500, seed=1, purpose=Purpose.START, draws=4, dtype=np.float64, backend=backend)
    count = z.size
    # Each bound is about four standard errors.
    assert abs(z.mean()) < 4 / count**0.5
    assert abs(z.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / count) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / count) ** 0.5
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    for lag in range(1, 5):
        assert abs((z[..., lag:] * z[..., :-lag]).mean()) < 4.5 / count**0.5
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 4.5 / count**0.5
    assert abs((z[1:] * z[:-1]).mean()) < 4.5 / count**0.5


def test_uniforms_make_the_normals() -> None:
    arguments = {"seed": 3, "purpose": Purpose.BOOTSTRAP, "draws": 2}
    u = uniforms(_keys(), 9, **arguments)  # type: ignore[arg-type]
    z = reference.normals(_keys(), 9, dtype=np.float64, **arguments)  # type: ignore[arg-type]
    assert u.shape == (2, 5, 9)
    assert ((u > 0) & (u < 1)).all()
    radius = np.sqrt(-2 * np.log(u[..., 0:8:2]))
    np.testing.assert_allclose(z[..., 0:8:2], radius * np.cos(2 * np.pi * u[..., 1:9:2]), rtol=0, atol=1e-14)
    assert stats.kstest(uniforms(_keys(50), 400, seed=3, purpose=0, draws=1).ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_values_do_not_depend_on_the_cut(backend: str, width: int) -> None:
    keys = _keys(9)

    def make(some: npt.NDArray[np.uint64], features: int, draws: int | list[int]) -> npt.NDArray[np.float32]:
        return noise.normals(some, features, seed=9, purpose=Purpose.STEP, draws=draws, step=3, backend=backend)

    whole = make(keys, width, 4)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[:, 2:7], make(keys[2:7], width, 4))
    np.testing.assert_array_equal(whole[:, ::-2], make(keys[::-2], width, 4))
    np.testing.assert_array_equal(whole[[3, 1]], make(keys, width, [3, 1]))
    np.testing.assert_array_equal(whole, make(keys, width + 3, 4)[..., :width])


@needs_native
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_nothing(threads: int) -> None:
    arguments = {"seed": 5, "purpose": Purpose.START, "draws": 3, "backend": "native"}
    one = noise.normals(_keys(200), 769, threads=1, **arguments)  # type: ignore[arg-type]
    np.testing.assert_array_equal(one, noise.normals(_keys(200), 769, threads=threads, **arguments))  # type: ignore[arg-type]


@needs_native
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_native_agrees_with_the_statement(width: int, dtype: type) -> None:
    arguments = {"seed": (1 << 64) - 1, "purpose": 255, "draws": [0, (1 << 20) - 1], "step": 4095, "dtype": dtype}
    fast = noise.normals(_keys(40), width, backend="native", **arguments)  # type: ignore[arg-type]
    plain = noise.normals(_keys(40), width, backend="reference", **arguments)  # type: ignore[arg-type]
    # Both round to float32 once, from float64 values that differ by about 1e-15: by one unit in the last place at most.
    if dtype is np.float32:
        np.testing.assert_array_max_ulp(fast, plain, maxulp=1)
    else:
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-14)


def test_every_argument_matters() -> None:
    base = {"seed": 1, "purpose": 0, "draws": [2], "step": 3}
    plain = reference.normals(_keys(), 6, **base)  # type: ignore[arg-type]
    for change in ({"seed": 2}, {"seed": 1 + (1 << 32)}, {"purpose": 1}, {"draws": [3]}, {"step": 4}):
        assert not np.isclose(plain, reference.normals(_keys(), 6, **{**base, **change})).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("people", "width", "draws"), [(0, 5, 2), (3, 0, 2), (3, 5, 0)])
def test_empty(backend: str, people: int, width: int, draws: int) -> None:
    got = noise.normals(_keys(people), width, seed=0, purpose=0, draws=draws, backend=backend)
    assert got.shape == (draws, people, width)


def test_person_keys() -> None:
    expected = int.from_bytes(hashlib.blake2b("Zoë\0v2".encode(), digest_size=8).digest(), "little")
    keys = person_keys(["Zoë", "other"], "v2")
    assert keys.dtype == np.uint64
    assert int(keys[0]) == expected
    np.testing.assert_array_equal(person_keys([1001, 7], "v2"), person_keys(np.array(["1001", "7"]), ["v2", "v2"]))
    assert len({*person_keys(["a"] * 3, ["1", "2", "3"]).tolist()}) == 3
    assert person_keys([], "v2").shape == (0,)


@pytest.mark.parametrize(
    ("ids", "visit", "message"),
    [
        ("1001", "v2", "Pass a list of ids"),
        ([1001.0], "v2", "neither text nor a whole number"),
        ([None], "v2", "neither text nor a whole number"),
        (["a\0b"], "v2", "NUL"),
        (["a", "b"], ["v2"], "1 visits for 2 ids"),
    ],
)
def test_person_keys_refuses(ids: object, visit: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        person_keys(ids, visit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 1 << 64}, "the seed"),
        ({"seed": 0.5}, "not a whole number"),
        ({"step": 4096}, "the step is 4096"),
        ({"draws": [1 << 20]}, "a draw is 1048576"),
        ({"draws": -1}, "the number of draws"),
        ({"purpose": 256}, "the purpose"),
        ({"width": (1 << 26) + 1}, "the width"),
        ({"dtype": np.float16}, "float16 is not offered"),
        ({"keys": np.arange(3)}, "person_keys"),
    ],
)
def test_refused_arguments(change: dict[str, object], message: str) -> None:
    arguments = {"keys": _keys(), "width": 4, "seed": 0, "purpose": 0, "draws": 1, **change}
    with pytest.raises(ValueError, match=message):
        noise.normals(**arguments)  # type: ignore[arg-type]


def test_explicit_native_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_load", lambda: (None, "absent for this test"))
    with pytest.raises(BackendUnavailableError, match="absent for this test"):
        noise.normals(_keys(), 4, seed=0, purpose=0, draws=1, backend="native")
