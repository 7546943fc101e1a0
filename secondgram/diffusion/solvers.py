"""Solvers of the reverse diffusion as tables of coefficients, a row a network evaluation (docs/design.md#solver-table).

Every solver here has the form

    x0_i    = from_state * x_i + from_output * network(x_i, t_i)
    x_{i+1} = keep * x_i + now * x0_i + before * x0_{i-1} + fresh * z_i,      z_i ~ N(0, I)

so a backend needs to know no solver: it reads one row a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .schedule import Schedule

SOLVERS = ("ddpm", "ddim", "dpm++2m", "sde-dpm++2m")
PREDICTIONS = ("noise", "v")
COLUMNS = ("time", "from_state", "from_output", "keep", "now", "before", "fresh")
# Ends of the grid in lambda = log(signal / noise): below the first a unit-variance feature is all noise, above the
# second the noise left is under 2 % of it. The exact Gaussian tests hold the default solver to its variance with them.
FIRST_LOG_RATIO, LAST_LOG_RATIO = -3.0, 4.0


@dataclass(frozen=True, eq=False)
class SolverTable:
    """rows : (evaluations, 7) float64, columns as `COLUMNS`."""

    solver: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def solver_table(
    schedule: Schedule,
    solver: str = "dpm++2m",
    steps: int | None = None,
    prediction: str = "v",
    grid: str | None = None,
) -> SolverTable:
    """Coefficients of a solver on a schedule.

    Parameters
    ----------
    solver : `ddpm` (ancestral), `ddim`, `dpm++2m` (Lu et al. 2022, DPM-Solver++(2M)) or `sde-dpm++2m`.
    steps : network evaluations; None takes every step of the schedule for `ddpm` and 20 otherwise.
    prediction : output of the network, `noise` (epsilon) or `v` (Salimans and Ho 2022).
    grid : `time` (uniform in t) or `lambda` (uniform in log(signal / noise)); None takes time for ddpm and ddim.

    Raises `InputError` for unknown names and for steps outside 1 .. 4095.
    """
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}", mend=f"Use one of {', '.join(SOLVERS)}")
    if prediction not in PREDICTIONS:
        raise InputError(f"unknown prediction {prediction!r}", mend=f"Use one of {', '.join(PREDICTIONS)}")
    if prediction == "noise" and schedule.zero_terminal:
        raise InputError("a network that predicts noise cannot start from zero signal", mend="Use prediction='v'")
    if steps is None:
        steps = schedule.last if solver == "ddpm" else 20
    if not 1 <= steps <= 4095:
        raise InputError(f"{steps} solver steps", mend="Use 1 to 4095")
    grid = grid or ("time" if solver in ("ddpm", "ddim") else "lambda")
    times = _times(schedule, steps, grid)
    # The last step lands on the data: signal 1 and noise 0. Over all of its own steps the paper's ancestral sampler
    # lands on step 0 instead.
    signal, noise = schedule.signal_at(times), schedule.noise_at(times)
    whole = solver == "ddpm" and grid == "time" and steps == schedule.last
    signal = np.append(signal, schedule.signal[0] if whole else 1.0)
    noise = np.append(noise, np.sqrt(1.0 - schedule.signal[0] ** 2) if whole else 0.0)

    rows = np.zeros((steps, len(COLUMNS)))
    rows[:, 0] = times
    rows[:, 1], rows[:, 2] = _data_estimate(signal[:-1], noise[:-1], prediction)
    step = _ancestral if solver == "ddpm" else _exponential
    rows[:, 3:] = step(signal, noise, solver, schedule)
    rows[-1, 6] = 0.0
    return SolverTable(solver, rows)


def _times(schedule: Schedule, steps: int, grid: str) -> np.ndarray:
    if grid == "time":
        # steps = last gives the whole steps last .. 1, without rounding.
        return schedule.last * (steps - np.arange(steps)) / steps
    if grid != "lambda":
        raise InputError(f"unknown grid {grid!r}", mend="Use 'time' or 'lambda'")
    first = max(FIRST_LOG_RATIO, float(schedule.log_ratio_at(schedule.last)))
    last = min(LAST_LOG_RATIO, float(schedule.log_ratio_at(0.0)))
    if schedule.zero_terminal:
        # The noisiest point has lambda = -inf; the finite points share the rest of the range.
        finite = np.linspace(first, last, steps)[1:] if steps > 1 else np.zeros(0)
        return np.append(float(schedule.last), schedule.time_of(finite))
    return schedule.time_of(np.linspace(first, last, steps))


def _data_estimate(signal: np.ndarray, noise: np.ndarray, prediction: str) -> tuple[np.ndarray, np.ndarray]:
    if prediction == "v":
        return signal, -noise
    return 1.0 / signal, -noise / signal


def _ancestral(signal: np.ndarray, noise: np.ndarray, solver: str, schedule: Schedule) -> np.ndarray:
    """Ho et al. 2020, equation 7, between any two noise levels.

    The step noise has the variance beta of the paper; from zero signal beta is 1 whatever the next level, so that one
    step takes the posterior variance.
    """
    here, there = signal[:-1], signal[1:]
    ratio = (here / there) ** 2
    beta = 1.0 - ratio
    variance = np.where(here == 0.0, noise[1:] ** 2, beta)
    keep = np.sqrt(ratio) * noise[1:] ** 2 / noise[:-1] ** 2
    now = there * beta / noise[:-1] ** 2
    return np.stack([keep, now, np.zeros_like(keep), np.sqrt(variance)], axis=1)


def _exponential(signal: np.ndarray, noise: np.ndarray, solver: str, schedule: Schedule) -> np.ndarray:
    """DDIM and both DPM-Solver++(2M): linear in the state, first or second order in the data estimate."""
    with np.errstate(divide="ignore"):
        log_ratio = np.log(signal) - np.log(noise)
    width = np.diff(log_ratio)
    # exp(-width), written so that a step from zero signal (width = inf) and one to zero noise come out exactly.
    decay = signal[:-1] * noise[1:] / (signal[1:] * noise[:-1])
    stochastic = solver == "sde-dpm++2m"
    keep = noise[1:] / noise[:-1] * (decay if stochastic else 1.0)
    pull = signal[1:] * (1.0 - decay**2 if stochastic else 1.0 - decay)
    fresh = noise[1:] * np.sqrt(1.0 - decay**2) if stochastic else np.zeros_like(keep)
    slope = np.zeros_like(keep)
    if solver != "ddim":
        # Second order wherever both neighbouring widths are finite.
        inner = np.isfinite(width[1:]) & np.isfinite(width[:-1])
        slope[1:][inner] = width[1:][inner] / (2.0 * width[:-1][inner])
    return np.stack([keep, pull * (1.0 + slope), -pull * slope, fresh], axis=1)
