"""Ways to run the reverse chain of one network on a CPU, for benchmarks: the library's own and its peers.

Every chain takes the same people and draws through all steps of DDPM, with noise of its own making. Peers get the
folded network too, with the embedding shared by the draws of a person, so that they do the same products.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secondgram import Denoiser
from secondgram.diffusion.folding import FoldedDenoiser, fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.ops import native

FEATURES, CONDITIONS = 769, 783
# The published batch: 16 people with 16 draws each.
PEOPLE, DRAWS = 16, 16

Predict = Callable[[Tensor, float], Tensor]  # x [rows, D], time -> output [rows, D]


class Problem:
    """A network of the published size, its people and the solver's table."""

    def __init__(self, steps: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = Denoiser(FEATURES, CONDITIONS, generator=generator).eval()
        self.folded = fold({name: value.numpy() for name, value in self.net.state_dict().items()})
        self.c = torch.randn(PEOPLE, CONDITIONS, generator=generator)
        self.x = torch.randn(PEOPLE * DRAWS, FEATURES, generator=generator)
        self.table = solver_table(Schedule.make("linear"), "ddpm", steps, "noise").rows

    def exact(self, time: float) -> Tensor:
        """The folded network's output for `x` in float64."""
        emb = self.folded.embedding_of_times(np.array([time])) + self.folded.embedding_of_conditions(
            self.c.double().numpy()
        )
        context = {name: np.tile(each, (DRAWS, 1)) for name, each in self.folded.context(emb).items()}
        return torch.from_numpy(self.folded(self.x.double().numpy(), context))


def chain(predict: Predict, problem: Problem) -> Tensor:
    """All steps of one batch with torch's own noise."""
    x = torch.randn(problem.x.shape)
    before = torch.zeros_like(x)
    for time, from_state, from_output, keep, now, last, fresh in problem.table.tolist():
        x0 = from_state * x + from_output * predict(x, time)
        x, before = keep * x + now * x0 + last * before, x0
        if fresh:
            x = x + fresh * torch.randn(x.shape)
    return x


def ours(problem: Problem, precision: str) -> Callable[[], np.ndarray]:
    """The library's sampler: one call."""
    packed = native.NativeSampler(problem.folded, precision)
    keys, numbers, c = np.arange(PEOPLE, dtype=np.uint64), np.arange(DRAWS, dtype=np.uint32), problem.c.numpy()
    return lambda: packed.sample(c, keys, numbers, 0, problem.table)


def eager(problem: Problem) -> Predict:
    """The network as written, in float32."""
    shown = problem.c.repeat(DRAWS, 1)
    return lambda x, time: problem.net(x, time, shown)


class FoldedNet(nn.Module):
    """The folded network on the draws of `PEOPLE` people: x (rows, D), emb (PEOPLE, E) -> (rows, D)."""

    def __init__(self, folded: FoldedDenoiser) -> None:
        super().__init__()
        self.count = 0

        def keep(array: np.ndarray) -> str:
            self.count += 1
            self.register_buffer(f"w{self.count}", torch.from_numpy(array).float())
            return f"w{self.count}"

        self.blocks = {
            name: {
                part: keep(getattr(block, part))
                for part in ("inner", "inner_bias", "image", "embed", "embed_bias", "context", "bias", "join")
                if getattr(block, part) is not None
            }
            for name, block in folded.blocks.items()
        }
        self.bottlenecks = [[(keep(one.weight), keep(one.bias)) for one in layers] for layers in folded.bottlenecks]
        self.out = keep(folded.out.weight), keep(folded.out.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        first = self._block("down1", x, emb)
        second = self._block("down2", first, emb)
        h = self._block("down3", second, emb)
        for (one, one_bias), (two, two_bias) in self.bottlenecks:
            inner = nn.functional.silu(h @ self.w(one) + self.w(one_bias))
            h = h + nn.functional.silu(inner @ self.w(two) + self.w(two_bias))
        h = self._block("up1", h, emb, second)
        h = self._block("up2", h, emb, first)
        return self._block("up3", h, emb, x) @ self.w(self.out[0]) + self.w(self.out[1])

    def w(self, name: str) -> Tensor:
        return getattr(self, name)

    def _block(self, name: str, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        part = {key: self.w(value) for key, value in self.blocks[name].items()}
        rstd = torch.rsqrt(h.float().var(dim=1, keepdim=True, unbiased=False) + 1e-5).to(h.dtype)
        inner = nn.functional.silu(rstd * (h @ part["inner"]) + part["inner_bias"])
        context = nn.functional.silu(emb @ part["embed"] + part["embed_bias"]) @ part["context"] + part["bias"]
        total = inner @ part["image"] + context.repeat(DRAWS, 1)
        return nn.functional.silu(total if skip is None else total + skip @ part["join"])


def _embeddings(problem: Problem) -> dict[float, Tensor]:
    """emb (PEOPLE, E) at every time of the table."""
    shown = problem.folded.embedding_of_conditions(problem.c.double().numpy())
    times = problem.table[:, 0]
    return {
        float(t): torch.from_numpy(row + shown).float()
        for t, row in zip(times, problem.folded.embedding_of_times(times), strict=True)
    }


def inductor(problem: Problem, dtype: torch.dtype) -> Predict:
    """torch.compile with frozen weights."""
    import torch._inductor.config as config

    config.freezing = True
    net = torch.compile(FoldedNet(problem.folded).eval().to(dtype))
    emb = {time: each.to(dtype) for time, each in _embeddings(problem).items()}
    return lambda x, time: net(x.to(dtype), emb[time]).float()


def onnx_runtime(problem: Problem, threads: int) -> Predict:
    """ONNX Runtime, float32."""
    import onnxruntime

    emb = _embeddings(problem)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        example = (problem.x, next(iter(emb.values())))
        torch.onnx.export(FoldedNet(problem.folded).eval(), example, str(path), input_names=["x", "emb"], dynamo=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(x: Tensor, time: float) -> Tensor:
        return torch.from_numpy(session.run(None, {"x": x.numpy(), "emb": emb[time].numpy()})[0])

    return predict


def openvino(problem: Problem, threads: int, precision: str) -> Predict:
    """OpenVINO for the CPU, told a precision of inference: f32, bf16 or f16."""
    import openvino

    emb = _embeddings(problem)
    example = (problem.x, next(iter(emb.values())))
    model = openvino.convert_model(
        FoldedNet(problem.folded).eval(), example_input=example, input=[tuple(each.shape) for each in example]
    )
    told: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", told)
    return lambda x, time: torch.from_numpy(compiled([x.numpy(), emb[time].numpy()])[0].copy())
