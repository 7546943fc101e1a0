"""Draws: independent of how the work is cut, right where the answer is known, and refused where they would be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from secondgram import Denoiser, Sampler
from secondgram.diffusion.noise import Purpose, normals, person_keys
from secondgram.diffusion.reference import solver_step
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import SOLVERS, solver_table
from secondgram.errors import InputError

FEATURES, CONDITIONS, PEOPLE, DRAWS = 7, 9, 256, 3
ZERO = Schedule.make("linear", zero_terminal=True)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network(features: int = FEATURES, conditions: int = CONDITIONS, zero_output: bool = False) -> Denoiser:
    generator = torch.Generator().manual_seed(0)
    return Denoiser(features, conditions, embedding=8, widths=(12, 8, 6), zero_output=zero_output, generator=generator)


def _people(count: int = PEOPLE) -> tuple[np.ndarray, np.ndarray]:
    """Conditions and ids."""
    c = np.random.default_rng(0).normal(size=(count, CONDITIONS)).astype(np.float32)
    return c, np.array([f"sub-{number:04d}" for number in range(count)])


def _draw(rows: np.ndarray | slice, draws: Any = DRAWS, chunk_rows: int = 512, seed: int = 5) -> np.ndarray:
    c, ids = _people()
    sampler = Sampler(_network(), "linear", prediction="noise")
    return sampler.sample(c[rows], ids[rows], draws, seed, "sde-dpm++2m", 3, chunk_rows=chunk_rows, visit="v2")


@pytest.fixture(scope="module")
def everyone() -> np.ndarray:
    torch.set_num_threads(1)
    return _draw(slice(None))


def test_draws_have_their_shape_and_vary(everyone: np.ndarray) -> None:
    assert everyone.shape == (DRAWS, PEOPLE, FEATURES)
    assert everyone.dtype == np.float32
    assert np.isfinite(everyone).all()
    assert len(np.unique(everyone)) > 0.99 * everyone.size


@pytest.mark.parametrize("size", [1, 7, 256])
def test_batch_size_changes_nothing(everyone: np.ndarray, size: int) -> None:
    for start in range(0, min(PEOPLE, 4 * size), size):
        rows = slice(start, start + size)
        np.testing.assert_array_equal(_draw(rows), everyone[:, rows])


def test_the_order_of_people_changes_nothing(everyone: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(PEOPLE)
    np.testing.assert_array_equal(_draw(order), everyone[:, order])


@pytest.mark.parametrize("draws", [1, 2, 5, [2], [2, 0], np.array([1, 7])], ids=str)
def test_the_other_draws_change_nothing(everyone: np.ndarray, draws: Any) -> None:
    numbers = list(range(draws)) if isinstance(draws, int) else list(draws)
    got = _draw(slice(0, 90), draws)
    assert len(got) == len(numbers)
    for made, number in zip(got, numbers, strict=True):
        if number < DRAWS:
            np.testing.assert_array_equal(made, everyone[number, :90])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunk_rows", [1, 64, 4096])
def test_chunks_and_threads_change_nothing(everyone: np.ndarray, chunk_rows: int, threads: int) -> None:
    torch.set_num_threads(threads)
    count = 30 if chunk_rows == 1 else PEOPLE
    np.testing.assert_array_equal(_draw(slice(0, count), chunk_rows=chunk_rows), everyone[:, :count])
    assert torch.get_num_threads() == threads


def test_seed_id_visit_and_conditions_all_matter(everyone: np.ndarray) -> None:
    c, ids = _people()
    sampler = Sampler(_network(), "linear", prediction="noise")

    def draw(c: np.ndarray, ids: Any, seed: int, visit: str) -> np.ndarray:
        return sampler.sample(c, ids, 1, seed, "sde-dpm++2m", 3, visit=visit)[0]

    first = everyone[0, :1]
    np.testing.assert_array_equal(draw(c[:1], ids[:1], 5, "v2"), first)
    for other in (
        draw(c[:1], ids[:1], 6, "v2"),
        draw(c[:1], ["sub-0001"], 5, "v2"),
        draw(c[:1], ids[:1], 5, "v3"),
        draw(c[:1] + 0.1, ids[:1], 5, "v2"),
    ):
        assert not (other == first).any()


def test_keys_take_the_place_of_ids_and_visit() -> None:
    c, ids = _people(3)
    sampler = Sampler(_network(), "linear")
    by_key = sampler.sample(c, ["x", "y", "z"], steps=2, solver="ddim", keys=person_keys(ids, "v2"))
    np.testing.assert_array_equal(by_key, sampler.sample(c, ids, steps=2, solver="ddim", visit="v2"))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("start", ["normal", "baseline"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_chain_is_the_solver_table_applied_to_keyed_noise(solver: str, start: str, backend: str) -> None:
    net, schedule = _network(), Schedule.make("linear")
    c, ids = _people(2)
    table, keys = solver_table(schedule, solver, 4, "noise"), person_keys(ids, "")

    def noise(purpose: Purpose, step: int) -> torch.Tensor:
        return torch.from_numpy(normals(keys, FEATURES, seed=1, purpose=purpose, draws=[6], step=step)[0])

    x, conditions = noise(Purpose.START, 0), torch.from_numpy(c)
    if start == "baseline":
        x = float(schedule.signal[-1]) * conditions[:, -FEATURES:] + float(schedule.noise_at(99)) * x
    before = torch.zeros_like(x)
    for number, row in enumerate(table.rows):
        with torch.no_grad():
            output = net(x, float(row[0]), conditions)
        x, before = solver_step(tuple(map(float, row)), x, output, before, noise(Purpose.STEP, number))
    got = Sampler(net, backend=backend, precision="fp32").sample(c, ids, [6], 1, solver, 4, start=start)[0]
    np.testing.assert_allclose(got, x.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["dpm++2m", "sde-dpm++2m", "ddpm"])
def test_an_untrained_network_without_output_draws_standard_normals(solver: str) -> None:
    # From zero signal, v = 0 is the best answer for independent standard normals.
    people = 400
    sampler = Sampler(_network(5, 2, zero_output=True), ZERO, prediction="v")
    steps = 40 if solver == "ddpm" else 20
    drawn = sampler.sample(np.zeros((people, 2)), [str(i) for i in range(people)], 4, 0, solver, steps)
    count = drawn.size
    assert abs(drawn.mean()) < 4 / count**0.5
    # What a solver of few steps gets wrong in closed form, and four standard errors.
    assert drawn.var() == pytest.approx(1.0, abs=0.032 + 4 * (2 / count) ** 0.5)
    assert stats.kstest(drawn.ravel() / (drawn.std() if solver == "sde-dpm++2m" else 1.0), "norm").pvalue > 1e-3
    correlation = np.corrcoef(drawn.reshape(-1, 5).T) - np.eye(5)
    assert np.abs(correlation).max() < 4.5 / (people * 4) ** 0.5


def test_the_deterministic_solver_with_zero_output_is_a_known_multiple_of_the_start() -> None:
    net, ids = _network(5, 2, zero_output=True), ["a", "b", "c"]
    drawn = Sampler(net, ZERO, prediction="v").sample(np.zeros((3, 2)), ids, 2, 4, "dpm++2m", 20)
    start = normals(person_keys(ids, ""), 5, seed=4, purpose=Purpose.START, draws=2)
    factor, before = 1.0, 0.0
    for row in solver_table(ZERO, "dpm++2m", 20, "v").rows:
        estimate = row[1] * factor
        factor, before = row[3] * factor + row[4] * estimate + row[5] * before, estimate
    np.testing.assert_allclose(drawn, factor * start, rtol=2e-5, atol=1e-6)


def test_torch_in_torch_out_numpy_in_numpy_out() -> None:
    c, ids = _people(3)
    sampler = Sampler(_network())
    made = sampler.sample(c, ids, steps=2)
    assert isinstance(made, np.ndarray)
    for tensor in (torch.from_numpy(c), torch.from_numpy(c).double().requires_grad_()):
        drawn = sampler.sample(tensor, ids, steps=2)
        assert isinstance(drawn, torch.Tensor)
        assert drawn.dtype == torch.float32
        assert not drawn.requires_grad
        np.testing.assert_array_equal(drawn.numpy(), made)


def test_nobody_gives_no_rows() -> None:
    assert Sampler(_network()).sample(np.zeros((0, CONDITIONS)), [], 4, steps=2).shape == (4, 0, FEATURES)


def test_the_default_of_ancestral_sampling_is_every_step_of_the_schedule() -> None:
    c, ids = _people(1)
    short = Sampler(_network(), Schedule.make("linear", 6))
    np.testing.assert_array_equal(short.sample(c, ids), short.sample(c, ids, solver="ddpm", steps=5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_conditions_that_are_not_finite_name_their_subject(bad: float) -> None:
    c, ids = _people(4)
    c[2, 5] = bad
    with pytest.raises(InputError, match="subject sub-0002"):
        Sampler(_network()).sample(c, ids, steps=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": np.zeros((3, CONDITIONS + 1))}, "conditions of shape"),
        ({"c": np.zeros(CONDITIONS)}, "conditions of shape"),
        ({"ids": ["a", "b"]}, "2 ids for 3 rows"),
        ({"draws": 0}, "0 draws"),
        ({"draws": []}, "0 draws"),
        ({"draws": -2}, "draws"),
        ({"draws": 1.5}, "draw"),
        ({"draws": [0.5]}, "draw"),
        ({"draws": [1 << 20]}, "a draw is"),
        ({"steps": 0}, "0 solver steps"),
        ({"steps": 5000}, "5000 solver steps"),
        ({"solver": "euler"}, "unknown solver 'euler'"),
        ({"start": "zero"}, "unknown start 'zero'"),
        ({"seed": -1}, "the seed is -1"),
        ({"keys": np.zeros(2, dtype=np.uint64)}, "2 keys for 3 rows"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"c": np.zeros((3, CONDITIONS)), "ids": ["a", "b", "c"], "steps": 2, **change}
    with pytest.raises(InputError, match=message):
        Sampler(_network()).sample(**arguments)


@pytest.mark.parametrize("conditions", [1, FEATURES - 1])
def test_a_start_from_the_baseline_needs_a_baseline_among_the_conditions(conditions: int) -> None:
    sampler = Sampler(_network(conditions=conditions))
    with pytest.raises(InputError, match="baseline"):
        sampler.sample(np.zeros((2, conditions)), ["a", "b"], steps=2, start="baseline")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "quantum"}, "'quantum'"),
        ({"precision": "fp8"}, "'fp8'"),
        ({"schedule": "quadratic"}, "'quadratic'"),
        ({"prediction": "x0"}, "'x0'"),
        ({"schedule": "cosine"}, "prediction='v'"),
    ],
)
def test_samplers_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    c, ids = _people(1)
    with pytest.raises(InputError, match=message):
        Sampler(_network(), **change).sample(c, ids)
