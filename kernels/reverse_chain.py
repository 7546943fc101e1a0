"""The folded denoiser on Triton kernels: one evaluation, or a whole chain of solver steps on the device.

Reference implementation: `FoldedDenoiser` in `secondgram/diffusion/folding.py`, whose arrays are packed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import launch_plan
from .executor import PRECISIONS, Noise, Pass, Tables, arena_size, statistics_widths
from .layout import BLOCKS, Arena, Size, packed_sizes


class Folded:
    """A folded denoiser, packed for a device.

    Parameters
    ----------
    denoiser : a `FoldedDenoiser`: its blocks, bottlenecks and last layer, float64.
    conditions : width of the conditions, for `Size`.
    precision : "bf16", "fp16", "tf32" or "fp32".
    """

    def __init__(self, denoiser: Any, conditions: int, precision: str, device: torch.device | str) -> None:
        blocks = denoiser.blocks
        self.size = Size(
            len(denoiser.out.bias),
            conditions,
            blocks["down1"].inner.shape[1],
            tuple(len(blocks[name].bias) for name in BLOCKS[:3]),  # type: ignore[arg-type]
        )
        self.precision, self.device = precision, torch.device(device)
        self.dtype = PRECISIONS[precision].dtype
        self.matrices = launch_plan.folded_matrices(self.size)
        weights, biases = packed_sizes(self.matrices)
        packed, vectors = torch.zeros(weights, dtype=torch.float64), torch.zeros(biases, dtype=torch.float64)

        def put(name: str, row: int, column: int, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
            at = self.matrices[name]
            inputs, outputs = weight.shape
            whole = packed[at.start : at.start + at.rows * at.columns].view(at.rows, at.columns)
            whole[row : row + outputs, column : column + inputs] = torch.from_numpy(np.ascontiguousarray(weight.T))
            if bias is not None:
                vectors[at.bias + row : at.bias + row + outputs] = torch.from_numpy(bias)

        e = self.size.e
        for name, block in blocks.items():
            skip = self.size.ends[name].outputs if block.join is not None else 0
            put(f"{name}.inner", 0, 0, block.inner, block.inner_bias)
            put(f"{name}.join", 0, 0, block.image, block.bias)
            put(f"{name}.join", 0, e + skip, block.context)
            if block.join is not None:
                put(f"{name}.join", 0, e, block.join)
        for number, layer in enumerate(layer for pair in denoiser.bottlenecks for layer in pair):
            put("bottom", number * self.size.narrow, 0, layer.weight, layer.bias)
        put("out", 0, 0, denoiser.out.weight, denoiser.out.bias)
        self.packed = packed.to(self.dtype)
        if PRECISIONS[precision].products == "tf32":
            # To the nearest of 10 bits; the matrix units would cut the others off.
            self.packed = ((self.packed.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
        self.packed = self.packed.to(self.device)
        self.vectors = vectors.float().to(self.device)
        self.embed = np.zeros((e, len(BLOCKS) * e))
        self.embed_bias = np.zeros(len(BLOCKS) * e)
        for number, block in enumerate(blocks.values()):
            part = slice(number * e, number * e + self.size.embedding)
            self.embed[: self.size.embedding, part] = block.embed
            self.embed_bias[part] = block.embed_bias

    def time_tables(self, embedded: np.ndarray) -> Tensor:
        """W2 time(t) + bias of every block, from `embedding_of_times` (S, E): [S, blocks * E] padded, float32."""
        table = embedded @ self.embed[: self.size.embedding] + self.embed_bias
        return torch.from_numpy(table).float().to(self.device)

    def people_tables(self, embedded: np.ndarray) -> Tensor:
        """W2 cond(c) of every block, from `embedding_of_conditions` (N, E): [N, blocks * E] padded."""
        return torch.from_numpy(embedded @ self.embed[: self.size.embedding]).to(self.dtype).to(self.device)

    def __call__(self, x: Tensor, time: Tensor, people: Tensor) -> Tensor:
        """One evaluation.

        x : (M * N, D), row r of person r % N;  time : a row of `time_tables`;  people : `people_tables` of N people.

        Returns (M * N, D) in the dtype of x.
        """
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if len(x):
            self._pass(False, len(x), {"x": x, "out": out}, Tables(time, people)).run()
        return out

    def chain(
        self,
        x: Tensor,
        times: Tensor,
        people: Tensor,
        rows: Tensor,
        keys: Tensor,
        draws: Tensor,
        seed: int,
        purpose: int,
        fresh: list[bool],
    ) -> Tensor:
        """All steps of a solver, the state staying padded on the device.

        Parameters
        ----------
        x : (M * N, D) float32, the start;  times : `time_tables` of the S steps;  people : `people_tables` of N people.
        rows : (S, 6) float32, the solver's table without its times;  fresh : which steps add noise.
        keys : (N,) int64;  draws : (M,) int32;  seed, purpose : with them they key the noise, as in `kernels/noise.py`.

        Returns the last state (M * N, D) float32.
        """
        count, d = len(x), self.size.d
        state = x.new_zeros((count, d))
        state[:, : self.size.features] = x
        if count == 0:
            return state[:, : self.size.features]
        users = {"x": x, "state": state, "before": torch.zeros_like(state)}
        work = self._pass(True, count, users, Tables(times[0], people))
        # The first step's padded rows and moments; every other step gets them from the step before it.
        stage = self._pass(False, count, {"x": x}, Tables(times[0], people))
        stage.arena, stage.statistics = work.arena, work.statistics
        stage.launch(stage.program.launches[0])
        for step in range(len(rows)):
            work.tables, work.coefficients = Tables(times[step], people), rows[step]
            work.noise = Noise(keys, draws, seed, purpose, step) if fresh[step] else None
            work.first_step = step == 0
            work.run()
        return state[:, : self.size.features]

    def _pass(self, step: bool, rows: int, users: dict[str, Tensor], tables: Tables) -> Pass:
        program = launch_plan.folded(self.size, step)
        device = users["x"].device
        return Pass(
            program,
            self.precision,
            rows,
            matrices=self.matrices,
            packed=self.packed,
            vectors=self.vectors,
            arena=Arena(
                program.widths,
                rows,
                torch.empty(arena_size(program.widths, rows), dtype=self.dtype, device=device),
                self.size.e,
            ),
            statistics=torch.empty(arena_size(statistics_widths(self.size), rows), dtype=torch.float32, device=device),
            users=users,
            tables=tables,
        )
