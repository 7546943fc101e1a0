"""Draws from a trained denoiser: the whole reverse chain, keyed by person, visit, draw and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion.noise import NoiseRequest, Purpose
from ..diffusion.reference import solver_step
from ..diffusion.schedule import Schedule
from ..diffusion.solvers import SolverTable, solver_table
from ..errors import InputError
from ..ops.noise import normals, person_keys
from ..ops.registry import AUTO, resolve
from ..ops.row_tiles import in_chunks, in_tiles
from ..ops.sampling import BACKENDS, CANDIDATES, CUDA, HAS, PRECISIONS
from .packed import decided, native_sampler, packed

STARTS = ("normal", "baseline")
Conditions = TypeVar("Conditions", np.ndarray, Tensor)
# Rows that one worker carries through all steps at a time.
CHUNK_ROWS = 2048


def common_precision(found: Sequence[str]) -> str:
    """One precision for parts that took these: the one they agree on, else `fp32`; `auto` is that of the reference."""
    return found[0] if len(set(found)) == 1 and found[0] != AUTO else "fp32"


class Sampler:
    """Samples a denoiser's conditional distribution.

    Parameters
    ----------
    net : the denoiser.
    schedule : a name of `Schedule.make` (100 steps) or a `Schedule`.
    backend : `cpu` (C++, the whole chain in one call on folded weights), `cuda-graph` and `cuda-persistent` (the same
        on a CUDA device, in bf16), `triton` (fused kernels there, a step at a time), `reference` (torch, a step at a
        time, weights as they are) or `auto`: the first of `cpu` and `reference` that can run.
    precision : `fp32`, or `fp16` or `bf16`, to which the factors of matrix products are rounded (on `cpu`, where the
        processor has instructions for it). There, `auto` takes `fp16` or `bf16` where draws hardly change by it, by a
        check of the network against `fp32`; on a device it is `bf16`.
    prediction : the training target of the network, `noise` or `v`.
    """

    def __init__(
        self,
        net: Denoiser,
        schedule: str | Schedule = "linear",
        backend: str = "auto",
        precision: str = "auto",
        prediction: str = "noise",
    ) -> None:
        if backend not in BACKENDS:
            raise InputError(f"the sampler has no backend {backend!r} here", mend=f"Use one of {', '.join(BACKENDS)}")
        if precision not in PRECISIONS:
            raise InputError(f"the sampler has no precision {precision!r}", mend=f"Use one of {', '.join(PRECISIONS)}")
        if backend != AUTO and precision not in (AUTO, *HAS[backend]):
            raise InputError(
                f"backend={backend!r} has no precision {precision!r}", mend=f"It has {', '.join(HAS[backend])}"
            )
        self.net = net.eval()
        self.schedule = Schedule.make(schedule) if isinstance(schedule, str) else schedule
        self.prediction, self.backend, self.precision = prediction, backend, precision

    def sample(
        self,
        c: Conditions,
        ids: Sequence[str] | np.ndarray,
        draws: int | Sequence[int] | np.ndarray = 1,
        seed: int = 0,
        solver: str = "ddpm",
        steps: int | None = None,
        *,
        start: str = "normal",
        visit: str | Sequence[str] = "",
        keys: np.ndarray | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> Conditions:
        """Draws (M, N, D), float32, of the kind of `c` (numpy or torch).

        Parameters
        ----------
        c : (N, conditions) conditions, finite.
        ids : N subject ids; with the visit's label they key the noise.
        draws : M, or the M numbers of the draws to make.
        solver, steps : see `solver_table`.
        start : `normal`, or `baseline`: the last D conditions at the noisiest step, which repairs most of the error of
            a schedule that keeps signal to its end (docs/design.md#terminal-signal).
        keys : (N,) uint64 in place of ids and visit.
        chunk_rows : rows a worker of the reference carries at a time; it changes memory and speed, never a value.

        Draws of one backend are the same to the bit however the work is cut; two backends differ by rounding.

        Raises `InputError` for conditions that are not finite or of another width, 0 draws or steps, unknown names.
        """
        conditions = torch.as_tensor(c).detach().cpu().float()
        self._check(conditions, ids, start)
        table = solver_table(self.schedule, solver, steps, self.prediction)
        keys = person_keys(ids, visit) if keys is None else keys
        if len(keys) != len(conditions):
            raise InputError(f"{len(keys)} keys for {len(conditions)} rows of conditions")
        indices = np.arange(draws) if isinstance(draws, (int, np.integer)) else np.asarray(draws)
        if indices.size == 0:
            raise InputError("0 draws were asked for", mend="Ask for 1 or more")
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise InputError(f"draws={draws!r}", mend="Give a whole number, or a list of draws' numbers")
        backend = resolve("the sampler", CANDIDATES, self.backend)
        if backend != "reference":
            request = NoiseRequest.of(keys, self.net.features, seed=seed, purpose=Purpose.START, draws=indices)
            out = self._native(conditions, request, table, start, backend)
            return torch.from_numpy(out) if isinstance(c, Tensor) else out
        out = np.empty((len(indices), len(conditions), self.net.features), dtype=np.float32)

        def carry(people: slice) -> None:
            with torch.inference_mode():
                out[:, people] = self._chain(conditions[people], keys[people], indices, seed, table, start)

        in_chunks(carry, len(conditions), max(1, chunk_rows // len(indices)))
        return torch.from_numpy(out) if isinstance(c, Tensor) else out

    def resolve_precision(self, solver: str = "ddpm", steps: int | None = None) -> Sampler:
        """Resolve the precision `auto` now and keep it while the weights still change. Returns the sampler itself.

        Repeated validation of a network then costs one check instead of many.
        """
        if resolve("the sampler", CANDIDATES, self.backend) == "cpu":
            table = solver_table(self.schedule, solver, steps, self.prediction)
            self.precision = decided(self.net, table.rows, self.precision)
        return self

    def _check(self, conditions: Tensor, ids: Sequence[str] | np.ndarray, start: str) -> None:
        if start not in STARTS:
            raise InputError(f"unknown start {start!r}", mend=f"Use one of {', '.join(STARTS)}")
        if conditions.ndim != 2 or conditions.shape[1] != self.net.conditions:
            raise InputError(
                f"conditions of shape {tuple(conditions.shape)} for a network of {self.net.conditions} conditions"
            )
        if start == "baseline" and self.net.conditions < self.net.features:
            raise InputError(
                f"a start from the baseline, and {self.net.conditions} conditions for {self.net.features} features",
                mend="Use start='normal': the conditions of this network do not end with the baseline",
            )
        if len(ids) != len(conditions):
            raise InputError(f"{len(ids)} ids for {len(conditions)} rows of conditions")
        bad = (~torch.isfinite(conditions).all(dim=1)).nonzero()
        if len(bad):
            raise InputError(
                f"the conditions of subject {ids[int(bad[0])]} hold values that are no finite numbers",
                mend="Fill missing values first",
            )

    def _native(self, c: Tensor, request: NoiseRequest, table: SolverTable, start: str, backend: str) -> np.ndarray:
        """All steps for everyone in one call: c (N, conditions) -> (M, N, D)."""
        conditions = c.numpy()
        baseline, level = None, 1.0
        if start == "baseline":
            level = float(self.schedule.noise_at(self.schedule.last))
            baseline = np.float32(self.schedule.signal[-1]) * conditions[:, -self.net.features :]
        arguments = conditions, request.keys, request.draws, request.seed, table.rows
        if backend in CUDA:
            made = packed(self.net).cuda().sample(*arguments, start=baseline, start_noise=level, mode=CUDA[backend])
            return np.asarray(made)
        if backend == "triton":
            return packed(self.net).triton(self.precision).sample(*arguments, start=baseline, start_noise=level)
        native = native_sampler(self.net, table.rows, self.precision)
        return native.sample(*arguments, start=baseline, start_noise=level)

    def _chain(
        self, c: Tensor, keys: np.ndarray, draws: np.ndarray, seed: int, table: SolverTable, start: str
    ) -> np.ndarray:
        """All steps for some people: c (n, conditions) -> (M, n, D)."""
        width, shape = self.net.features, (len(draws), len(c), self.net.features)

        def noise(purpose: Purpose, step: int) -> Tensor:
            made = normals(keys, width, seed=seed, purpose=purpose, draws=draws, step=step, threads=1)
            return torch.from_numpy(made).reshape(-1, width)

        conditions = c.expand(len(draws), *c.shape).reshape(-1, c.shape[1])  # [draws * people, conditions]
        x = noise(Purpose.START, 0)
        if start == "baseline":
            signal, level = float(self.schedule.signal[-1]), float(self.schedule.noise_at(self.schedule.last))
            x = signal * conditions[:, -width:] + level * x
        before = torch.zeros_like(x)
        for number, row in enumerate(table.rows):
            coefficients = tuple(float(value) for value in row)
            output = in_tiles(lambda xs, cs, t=coefficients[0]: self.net(xs, t, cs), x, conditions)
            z = noise(Purpose.STEP, number) if coefficients[-1] else None
            x, before = solver_step(coefficients, x, output, before, z)
        return x.reshape(shape).numpy()
