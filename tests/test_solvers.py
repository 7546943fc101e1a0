"""Solver tables against the formulas of their papers, and against Gaussians for which everything is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondgram.diffusion.reference import solver_step
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import COLUMNS, SOLVERS, SolverTable, solver_table
from secondgram.errors import InputError

LINEAR = Schedule.make("linear")
ZERO = Schedule.make("linear", zero_terminal=True)
COSINE = Schedule.make("cosine")
VARIANCES = [0.05, 0.1, 0.25, 1.0]


def _drawn_variance(
    schedule: Schedule, table: SolverTable, variance: float, prediction: str, start: str = "normal"
) -> float:
    """Variance of the end of the chain for data of N(0, variance) and the best possible network, without sampling.

    Everything is linear, so the state is a vector of coefficients on independent unit normals: the start's, the
    baseline's and one a step.
    """
    sources = len(table) + 2
    x = torch.zeros(sources, dtype=torch.float64)
    top = schedule.last
    x[0] = 1.0
    if start == "baseline":
        x[0] = float(schedule.noise_at(top))
        x[1] = float(schedule.signal_at(top)) * variance**0.5
    before = torch.zeros_like(x)
    for number, row in enumerate(table.rows):
        a, sigma = float(schedule.signal_at(row[0])), float(schedule.noise_at(row[0]))
        estimate = a * variance / (a**2 * variance + sigma**2) * x
        # The network's output for which the estimate of the data is the best one.
        output = (x - a * estimate) / sigma if prediction == "noise" else (a * x - estimate) / sigma
        z = torch.zeros_like(x)
        z[2 + number] = 1.0
        x, before = solver_step(tuple(float(value) for value in row), x, output, before, z)
    return float(x.square().sum())


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("solver", ["dpm++2m", "sde-dpm++2m"])
def test_twenty_evaluations_reproduce_a_gaussian_from_zero_signal(solver: str, variance: float) -> None:
    table = solver_table(ZERO, solver, 20, "v")
    assert _drawn_variance(ZERO, table, variance, "v") == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("variance", VARIANCES)
def test_ancestral_steps_reproduce_a_gaussian_from_zero_signal(variance: float) -> None:
    table = solver_table(ZERO, "ddpm", None, "v")
    assert len(table) == 99
    assert _drawn_variance(ZERO, table, variance, "v") == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("variance", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_sde_from_the_baseline_repairs_the_terminal_gap(variance: float, prediction: str) -> None:
    table = solver_table(LINEAR, "sde-dpm++2m", 20, prediction)
    assert _drawn_variance(LINEAR, table, variance, prediction, "baseline") == pytest.approx(variance, rel=0.03)


def test_ode_from_a_normal_start_on_the_plain_schedule_is_known_to_be_off() -> None:
    # The reason for the baseline start: a deterministic solver keeps what the start got wrong.
    drawn = _drawn_variance(LINEAR, solver_table(LINEAR, "dpm++2m", 20, "noise"), 0.25, "noise")
    assert drawn / 0.25 > 1.2


@pytest.mark.parametrize("schedule", [LINEAR, ZERO, COSINE], ids=["linear", "zero", "cosine"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_more_evaluations_come_closer_to_the_gaussian(solver: str, schedule: Schedule) -> None:
    start = "normal" if schedule.zero_terminal else "baseline"

    def off(steps: int) -> float:
        table = solver_table(schedule, solver, steps, "v", grid="lambda")
        return abs(_drawn_variance(schedule, table, 0.1, "v", start) / 0.1 - 1.0)

    # What remains is the variance of the data given the last state, which every solver here leaves out.
    assert off(400) < 0.025
    assert off(400) < off(4)


@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_ancestral_rows_equal_the_paper_of_ho_et_al(prediction: str) -> None:
    table = solver_table(LINEAR, "ddpm", None, prediction)
    np.testing.assert_array_equal(table.rows[:, 0], np.arange(99, 0, -1))
    beta = np.linspace(0.0015, 0.02, 100)
    alpha_bar = np.cumprod(1.0 - beta)
    x, z = 0.7, -1.3
    for row in table.rows:
        t = int(row[0])
        epsilon = 0.4
        mean = (x - beta[t] / np.sqrt(1 - alpha_bar[t]) * epsilon) / np.sqrt(1 - beta[t])
        expected = mean + (np.sqrt(beta[t]) * z if t > 1 else 0.0)
        estimate = (x - np.sqrt(1 - alpha_bar[t]) * epsilon) / np.sqrt(alpha_bar[t])
        v = np.sqrt(alpha_bar[t]) * epsilon - np.sqrt(1 - alpha_bar[t]) * estimate
        _, from_state, from_output, keep, now, before, fresh = row
        x0 = from_state * x + from_output * (epsilon if prediction == "noise" else v)
        assert before == 0.0
        assert x0 == pytest.approx(estimate, abs=1e-12)
        assert keep * x + now * x0 + fresh * z == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_the_ancestral_step_from_zero_signal_lands_on_the_next_noise_level(steps: int) -> None:
    table = solver_table(ZERO, "ddpm", steps, "v")
    there = table.rows[1, 0]
    _, from_state, from_output, keep, now, _, fresh = table.rows[0]
    assert (from_state, from_output, keep) == (0.0, -1.0, 0.0)
    assert now == pytest.approx(float(ZERO.signal_at(there)), abs=1e-12)
    assert fresh == pytest.approx(float(ZERO.noise_at(there)), abs=1e-12)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO, COSINE], ids=["linear", "zero", "cosine"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 99, 300])
def test_every_table_is_finite_and_ends_without_fresh_noise(schedule: Schedule, solver: str, steps: int) -> None:
    table = solver_table(schedule, solver, steps, "v")
    assert len(table) == steps
    assert table.rows.shape == (steps, len(COLUMNS))
    assert table.rows.dtype == np.float64
    assert np.isfinite(table.rows).all()
    assert table.rows[-1, 6] == 0.0
    assert table.rows[0, 5] == 0.0
    assert (np.diff(table.rows[:, 0]) < 0).all()
    assert ((table.rows[:, 0] >= 0) & (table.rows[:, 0] <= schedule.last)).all()
    assert table.rows[0, 0] == schedule.last
    if solver in ("ddim", "dpm++2m"):
        assert not table.rows[:, 6].any()
    else:
        assert (table.rows[:-1, 6] > 0).all()


@pytest.mark.parametrize("schedule", [LINEAR, ZERO, COSINE], ids=["linear", "zero", "cosine"])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "sde-dpm++2m"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_a_constant_data_estimate_is_reproduced_at_the_end(schedule: Schedule, solver: str, steps: int) -> None:
    table = solver_table(schedule, solver, steps, "v")
    x, estimate, before = 1.9, -0.37, 0.0
    for _, _, _, keep, now, last, fresh in table.rows:
        x = keep * x + now * estimate + last * before + fresh * 0.8
        before = estimate
    assert x == pytest.approx(estimate, abs=1e-12)


def test_ddim_with_the_true_noise_stays_on_its_path() -> None:
    x0, z = 0.6, -1.1
    table = solver_table(LINEAR, "ddim", 9, "noise")
    x = float(LINEAR.signal[-1]) * x0 + float(LINEAR.noise_at(99)) * z
    for row, following in zip(table.rows, [*table.rows[1:, 0], None], strict=True):
        estimate = row[1] * x + row[2] * z
        assert estimate == pytest.approx(x0, abs=1e-12)
        x = row[3] * x + row[4] * estimate
        if following is not None:
            there = float(LINEAR.signal_at(following)) * x0 + float(LINEAR.noise_at(following)) * z
            assert x == pytest.approx(there, abs=1e-12)


def test_second_order_rows_equal_dpm_solver_plus_plus() -> None:
    table = solver_table(LINEAR, "dpm++2m", 12, "v")
    t = table.rows[:, 0]
    a, sigma, lam = LINEAR.signal_at(t), LINEAR.noise_at(t), LINEAR.log_ratio_at(t)
    for i in range(1, 11):
        h, h_before = lam[i + 1] - lam[i], lam[i] - lam[i - 1]
        r = h_before / h
        factor = -a[i + 1] * np.expm1(-h)
        expected = [sigma[i + 1] / sigma[i], factor * (1 + 1 / (2 * r)), -factor / (2 * r), 0.0]
        np.testing.assert_allclose(table.rows[i, 3:], expected, rtol=1e-10)


def test_stochastic_second_order_rows_equal_their_formula() -> None:
    table = solver_table(LINEAR, "sde-dpm++2m", 12, "v")
    t = table.rows[:, 0]
    a, sigma, lam = LINEAR.signal_at(t), LINEAR.noise_at(t), LINEAR.log_ratio_at(t)
    for i in range(1, 11):
        h, h_before = lam[i + 1] - lam[i], lam[i] - lam[i - 1]
        factor = a[i + 1] * (1 - np.exp(-2 * h))
        slope = h / (2 * h_before)
        keep, fresh = sigma[i + 1] / sigma[i] * np.exp(-h), sigma[i + 1] * np.sqrt(1 - np.exp(-2 * h))
        np.testing.assert_allclose(table.rows[i, 3:], [keep, factor * (1 + slope), -factor * slope, fresh], rtol=1e-10)


def test_the_lambda_grid_is_uniform_between_its_ends() -> None:
    t = solver_table(LINEAR, "dpm++2m", 20, "v").rows[:, 0]
    lam = LINEAR.log_ratio_at(t)
    np.testing.assert_allclose(np.diff(lam), (lam[-1] - lam[0]) / 19, rtol=1e-8)
    np.testing.assert_allclose(
        np.diff(ZERO.log_ratio_at(solver_table(ZERO, "dpm++2m", 20).rows[1:, 0]), n=2), 0, atol=1e-8
    )


def test_the_default_is_twenty_evaluations_of_the_second_order_solver() -> None:
    assert solver_table(ZERO).solver == "dpm++2m"
    assert len(solver_table(ZERO)) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "euler"}, "unknown solver 'euler'"),
        ({"prediction": "x0"}, "unknown prediction 'x0'"),
        ({"grid": "log"}, "unknown grid 'log'"),
        ({"steps": 0}, "0 solver steps"),
        ({"steps": -3}, "-3 solver steps"),
        ({"steps": 4096}, "4096 solver steps"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver_table(ZERO, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [ZERO, COSINE], ids=["zero", "cosine"])
def test_a_noise_network_cannot_start_from_zero_signal(schedule: Schedule) -> None:
    with pytest.raises(InputError, match="prediction='v'"):
        solver_table(schedule, "ddpm", prediction="noise")
