"""Schedules: signal and noise at each step of the diffusion (docs/design.md#schedules)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError

NAMES = ("linear", "cosine")


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving schedule: x_t = signal(t) x_0 + noise(t) z, with signal^2 + noise^2 = 1.

    Attributes
    ----------
    name, steps, zero_terminal : the configuration; `Schedule.make` builds the table from it.
    signal : (steps,) float64, sqrt(alpha_bar) at t = 0 .. steps - 1, strictly falling.

    Between whole steps the signal is linear in t, so a solver may stop at any real t and training may draw one.
    """

    name: str
    steps: int
    zero_terminal: bool
    signal: np.ndarray

    @classmethod
    def make(cls, name: str = "linear", steps: int = 100, zero_terminal: bool = False) -> Schedule:
        """Build a schedule.

        `linear`: beta from 0.0015 to 0.02, as in the paper (10.1016/j.patter.2025.101212).
        `cosine`: Nichol and Dhariwal 2021, whose last step already has no signal.
        zero_terminal : rescale so that the last step has no signal (Lin et al. 2023, algorithm 1).

        Raises `InputError` for an unknown name or steps outside 2 .. 4095.
        """
        if not 2 <= steps <= 4095:
            raise InputError(f"{steps} diffusion steps", mend="Use 2 to 4095")
        if name == "linear":
            signal = np.sqrt(np.cumprod(1.0 - np.linspace(0.0015, 0.02, steps)))
        elif name == "cosine":
            offset = 0.008
            share = np.arange(steps + 1) / steps
            curve = np.cos((share + offset) / (1 + offset) * np.pi / 2)
            signal = curve[1:] / curve[0]
            signal[-1] = 0.0
        else:
            raise InputError(f"unknown schedule {name!r}", mend=f"Use one of {', '.join(NAMES)}")
        if zero_terminal:
            signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        return cls(name, steps, bool(signal[-1] == 0.0), signal)

    @property
    def last(self) -> int:
        """The noisiest step, steps - 1."""
        return self.steps - 1

    def signal_at(self, t: np.ndarray | float) -> np.ndarray:
        """signal(t) at real t in [0, last], float64."""
        return np.interp(t, np.arange(self.steps), self.signal)

    def noise_at(self, t: np.ndarray | float) -> np.ndarray:
        """noise(t) = sqrt(1 - signal(t)^2), float64."""
        return np.sqrt(1.0 - self.signal_at(t) ** 2)

    def log_ratio_at(self, t: np.ndarray | float) -> np.ndarray:
        """lambda(t) = log(signal / noise), float64; -inf where there is no signal."""
        with np.errstate(divide="ignore"):
            return np.log(self.signal_at(t)) - np.log(self.noise_at(t))

    def time_of(self, log_ratio: np.ndarray) -> np.ndarray:
        """The real t whose lambda is `log_ratio`, float64, clipped to [0, last]."""
        signal = 1.0 / np.sqrt(1.0 + np.exp(-2.0 * np.asarray(log_ratio)))
        return np.interp(-signal, -self.signal, np.arange(self.steps, dtype=float))
