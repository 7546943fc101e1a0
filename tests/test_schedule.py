"""Noise schedules: the paper's numbers, their shape, and the way back from a noise level to a time."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.diffusion.schedule import NAMES, Schedule
from secondgram.errors import InputError
from secondgram.training.tasks import SELF_NOISE_STEP

EVERY = [(name, steps, zero) for name in NAMES for steps in (2, 3, 100, 1000) for zero in (False, True)]


def test_linear_schedule_has_the_terminal_signal_of_the_paper() -> None:
    schedule = Schedule.make("linear")
    assert schedule.steps == 100
    assert schedule.last == 99
    assert not schedule.zero_terminal
    assert schedule.signal[99] ** 2 == pytest.approx(0.339, abs=5e-4)
    assert schedule.signal[0] ** 2 == pytest.approx(1 - 0.0015, abs=1e-15)


def test_linear_schedule_equals_the_product_of_its_betas() -> None:
    alpha_bar, schedule = 1.0, Schedule.make("linear")
    for step in range(100):
        alpha_bar *= 1.0 - (0.0015 + (0.02 - 0.0015) * step / 99)
        assert schedule.signal[step] == pytest.approx(alpha_bar**0.5, abs=1e-14)


def test_self_noise_has_the_spread_of_the_paper() -> None:
    assert float(Schedule.make("linear").noise_at(SELF_NOISE_STEP)) == pytest.approx(0.12, abs=0.005)


def test_cosine_schedule_follows_its_formula_and_ends_without_signal() -> None:
    schedule = Schedule.make("cosine", 50)

    def curve(t: float) -> float:
        return float(np.cos((t / 50 + 0.008) / 1.008 * np.pi / 2) ** 2)

    expected = [curve(step + 1) / curve(0) for step in range(49)]
    np.testing.assert_allclose(schedule.signal[:-1] ** 2, expected, rtol=1e-12)
    assert schedule.signal[-1] == 0.0
    assert schedule.zero_terminal


@pytest.mark.parametrize(("name", "steps", "zero"), EVERY)
def test_signal_falls_and_noise_rises_on_the_unit_circle(name: str, steps: int, zero: bool) -> None:
    schedule = Schedule.make(name, steps, zero)
    t = np.linspace(0.0, schedule.last, 333)
    assert schedule.signal.shape == (steps,)
    assert schedule.signal.dtype == np.float64
    assert (np.diff(schedule.signal) < 0).all()
    assert (np.diff(schedule.signal_at(t)) < 0).all()
    assert (np.diff(schedule.noise_at(t)) > 0).all()
    np.testing.assert_allclose(schedule.signal_at(t) ** 2 + schedule.noise_at(t) ** 2, 1.0, atol=1e-15)
    assert ((schedule.signal >= 0) & (schedule.signal < 1)).all()


@pytest.mark.parametrize(("name", "steps"), [(name, steps) for name in NAMES for steps in (2, 3, 100, 1000)])
def test_zero_terminal_ends_at_zero_and_keeps_the_first_signal(name: str, steps: int) -> None:
    plain, rescaled = Schedule.make(name, steps), Schedule.make(name, steps, zero_terminal=True)
    assert rescaled.signal[-1] == 0.0
    assert float(rescaled.noise_at(rescaled.last)) == 1.0
    assert rescaled.zero_terminal
    assert rescaled.signal[0] == pytest.approx(plain.signal[0], abs=1e-15)
    assert float(rescaled.log_ratio_at(rescaled.last)) == -np.inf
    # Lin et al. shift and stretch the signal, so its steps keep their proportions.
    falls, before = np.diff(rescaled.signal), np.diff(plain.signal)
    np.testing.assert_allclose(falls / falls.sum(), before / before.sum(), rtol=1e-9)


@pytest.mark.parametrize(("name", "steps", "zero"), EVERY)
def test_time_of_inverts_log_ratio_at(name: str, steps: int, zero: bool) -> None:
    schedule = Schedule.make(name, steps, zero)
    end = schedule.last * (0.999 if schedule.zero_terminal else 1.0)
    t = np.linspace(0.0, end, 257)
    np.testing.assert_allclose(schedule.time_of(schedule.log_ratio_at(t)), t, atol=1e-8 * steps)


def test_time_of_stays_inside_the_schedule() -> None:
    schedule = Schedule.make("linear")
    np.testing.assert_array_equal(schedule.time_of(np.array([-50.0, -np.inf, 50.0])), [99.0, 99.0, 0.0])


def test_log_ratio_is_the_log_of_signal_over_noise() -> None:
    schedule = Schedule.make("linear")
    expected = np.log(schedule.signal / np.sqrt(1 - schedule.signal**2))
    np.testing.assert_allclose(schedule.log_ratio_at(np.arange(100)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [-1, 0, 1, 4096])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(InputError, match="diffusion steps"):
        Schedule.make("linear", steps)


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(InputError, match=r"'quadratic'.*linear, cosine"):
        Schedule.make("quadratic")
