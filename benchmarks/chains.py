"""Ways to run the reverse chain of one network on a CPU, for benchmarks: the library's own and its peers.

Every chain takes the same people and draws through all steps of DDPM, with noise of its own making. Peers get the
folded network too, with the embedding shared by the draws of a person, so that they do the same products.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secondgram import Denoiser
from secondgram.diffusion.folding import LAYER_NORM_EPSILON, FoldedDenoiser, flops, fold
from secondgram.diffusion.schedule import Schedule
from secondgram.diffusion.solvers import solver_table
from secondgram.ops import native


@dataclass(frozen=True)
class Size:
    """A network, and the people and draws of a batch."""

    features: int
    conditions: int
    embedding: int
    widths: tuple[int, int, int]
    people: int
    draws: int

    @property
    def rows(self) -> int:
        return self.people * self.draws

    @property
    def flop(self) -> float:
        """Operations of one row and step, folded."""
        return flops(self.features, self.conditions, self.embedding, self.widths, self.draws)


# The published batch: 16 people with 16 draws each.
PUBLISHED = Size(769, 783, 256, (512, 256, 128), 16, 16)
SMALL = Size(32, 46, 64, (64, 32, 16), 8, 8)

Predict = Callable[[Tensor, float], Tensor]  # x [rows, D], time -> output [rows, D]


class Problem:
    """A network, its people and the solver's table."""

    def __init__(self, steps: int | None = None, size: Size = PUBLISHED) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.net = Denoiser(
            size.features, size.conditions, embedding=size.embedding, widths=size.widths, generator=generator
        ).eval()
        self.folded = fold({name: value.numpy() for name, value in self.net.state_dict().items()})
        self.c = torch.randn(size.people, size.conditions, generator=generator)
        self.x = torch.randn(size.rows, size.features, generator=generator)
        self.table = solver_table(Schedule.make("linear"), "ddpm", steps, "noise").rows

    @property
    def bytes(self) -> int:
        """Bytes that have to move at least once, in float32: weights and conditions in, draws out."""
        folded = self.folded
        arrays = [
            getattr(block, part)
            for block in folded.blocks.values()
            for part in ("inner", "inner_bias", "image", "embed", "embed_bias", "context", "bias", "join")
        ]
        arrays += [part for layers in folded.bottlenecks for one in layers for part in (one.weight, one.bias)]
        weights = sum(array.size for array in (*arrays, folded.out.weight, folded.out.bias) if array is not None)
        return 4 * (weights + self.c.numel() + self.x.numel())

    def exact(self, time: float) -> Tensor:
        """The folded network's output for `x` in float64."""
        emb = self.folded.embedding_of_times(np.array([time])) + self.folded.embedding_of_conditions(
            self.c.double().numpy()
        )
        context = {name: np.tile(each, (self.size.draws, 1)) for name, each in self.folded.context(emb).items()}
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
    size, c = problem.size, problem.c.numpy()
    keys, numbers = np.arange(size.people, dtype=np.uint64), np.arange(size.draws, dtype=np.uint32)
    return lambda: packed.sample(c, keys, numbers, 0, problem.table)


def eager(problem: Problem) -> Predict:
    """The network as written, in float32."""
    condition = problem.c.repeat(problem.size.draws, 1)
    return lambda x, time: problem.net(x, time, condition)


class FoldedNet(nn.Module):
    """The folded network on all draws of some people: x (draws * people, D), emb (people, E) -> (draws * people, D)."""

    def __init__(self, folded: FoldedDenoiser, draws: int) -> None:
        super().__init__()
        self.count, self.draws = 0, draws

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
        for layers in self.bottlenecks:
            h = self._bottleneck(h, layers)
        h = self._block("up1", h, emb, second)
        h = self._block("up2", h, emb, first)
        return self._last(self._block("up3", h, emb, x))

    def w(self, name: str) -> Tensor:
        return getattr(self, name)

    def _bottleneck(self, h: Tensor, layers: list[tuple[str, str]]) -> Tensor:
        (one, one_bias), (two, two_bias) = layers
        inner = nn.functional.silu(h @ self.w(one) + self.w(one_bias))
        return h + nn.functional.silu(inner @ self.w(two) + self.w(two_bias))

    def _last(self, h: Tensor) -> Tensor:
        return h @ self.w(self.out[0]) + self.w(self.out[1])

    def _rstd(self, h: Tensor) -> Tensor:
        return torch.rsqrt(h.float().var(dim=1, keepdim=True, unbiased=False) + LAYER_NORM_EPSILON).to(h.dtype)

    def _block(self, name: str, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        part = {key: self.w(value) for key, value in self.blocks[name].items()}
        inner = nn.functional.silu(self._rstd(h) * (h @ part["inner"]) + part["inner_bias"])
        context = nn.functional.silu(emb @ part["embed"] + part["embed_bias"]) @ part["context"] + part["bias"]
        total = inner @ part["image"] + context.repeat(self.draws, 1)
        return nn.functional.silu(total if skip is None else total + skip @ part["join"])


def _embeddings(problem: Problem) -> dict[float, Tensor]:
    """emb (people, E) at every time of the table."""
    condition = problem.folded.embedding_of_conditions(problem.c.double().numpy())
    times = problem.table[:, 0]
    return {
        float(t): torch.from_numpy(row + condition).float()
        for t, row in zip(times, problem.folded.embedding_of_times(times), strict=True)
    }


def inductor(problem: Problem, dtype: torch.dtype) -> Predict:
    """torch.compile with frozen weights."""
    import torch._inductor.config as config

    config.freezing = True
    net = torch.compile(FoldedNet(problem.folded, problem.size.draws).eval().to(dtype))
    emb = {time: each.to(dtype) for time, each in _embeddings(problem).items()}
    return lambda x, time: net(x.to(dtype), emb[time]).float()


def onnx_runtime(problem: Problem, threads: int) -> Predict:
    """ONNX Runtime, float32."""
    import onnxruntime

    emb = _embeddings(problem)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        example = (problem.x, next(iter(emb.values())))
        torch.onnx.export(
            FoldedNet(problem.folded, problem.size.draws).eval(),
            example,
            str(path),
            input_names=["x", "emb"],
            dynamo=True,
        )
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
    net = FoldedNet(problem.folded, problem.size.draws).eval()
    shapes = [tuple(each.shape) for each in example]
    model = openvino.convert_model(net, example_input=example, input=shapes)
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda x, time: torch.from_numpy(compiled([x.numpy(), emb[time].numpy()])[0].copy())


# Relative distance of a network's output from float64.
GATE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 2e-2}


def peers(problem: Problem, threads: int, precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")) -> dict[str, Predict]:
    """Every peer that is installed, checked against the float64 network; a peer that is absent or wrong is reported."""
    makers: dict[str, tuple[str, Callable[[], Predict]]] = {
        "eager torch fp32, as written": ("fp32", lambda: eager(problem)),
        "inductor fp32": ("fp32", lambda: inductor(problem, torch.float32)),
        "inductor bf16": ("bf16", lambda: inductor(problem, torch.bfloat16)),
        "ONNX Runtime fp32": ("fp32", lambda: onnx_runtime(problem, threads)),
        "OpenVINO fp32": ("fp32", lambda: openvino(problem, threads, "f32")),
        "OpenVINO bf16": ("bf16", lambda: openvino(problem, threads, "bf16")),
        "OpenVINO fp16": ("fp16", lambda: openvino(problem, threads, "f16")),
    }
    found: dict[str, Predict] = {}
    middle = float(problem.table[len(problem.table) // 2, 0])
    exact = problem.exact(middle)
    for name, (precision, make) in makers.items():
        if precision not in precisions:
            continue
        try:
            predict = make()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error.name} is not installed", flush=True)
            continue
        with torch.inference_mode():
            distance = float(torch.linalg.norm(predict(problem.x, middle).double() - exact) / torch.linalg.norm(exact))
        print(f"{name}: {distance:.1e} from float64", flush=True)
        if distance <= GATE[precision]:
            found[name] = predict
        else:
            print(f"{name}: left out, beyond {GATE[precision]}")
    return found
