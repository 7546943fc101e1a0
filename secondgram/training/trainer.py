"""The training loop: deterministic by seed, resumable to the bit, with a history that counts skipped updates."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion.reference import Dropout, add_noise, training_target
from ..diffusion.schedule import Schedule
from ..errors import InputError
from ..files import kept
from ..model_folder import read_folder, write_folder
from ..progress import progress
from . import gradients
from .recording import Record, Recorder, Tensors, cuda_graph
from .tasks import TASKS, Batch, TaskRows, task_losses

STATE_KIND = "training state"
GRADIENTS = ("none", "gate", *gradients.METHODS)
# Without a method, the cosines between task gradients are logged every so many epochs: they cost one backward pass a
# task.
COSINES_EVERY = 5


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the defaults are those of the paper.

    gradients : `none` (plain sum of the task gradients), `gate` (skip above `gate`, else clip to `clip`: the paper), or
        a method of `secondgram.training.gradients`, `pcgrad` say, followed by gate and clip.
    patience : epochs without a better validation score before training stops.
    validate_every : epochs between validation scores.
    average : decay of the moving average of the weights, 0 for none; the average is validated and kept.
    whole_steps : draw t from the whole steps 1 .. last (the paper) instead of the reals in [0, last].
    """

    epochs: int = 1000
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.0
    gradients: str = "gate"
    gate: float = 1.8
    clip: float = 0.3
    patience: int = 50
    validate_every: int = 1
    average: float = 0.0
    dropout: float = 0.0
    prediction: str = "noise"
    whole_steps: bool = True

    @classmethod
    def of(cls, options: object, **fixed: Any) -> TrainingOptions:
        """The fields that a preset's options share with this class, and values that the preset fixes."""
        shared = {field.name: getattr(options, field.name) for field in fields(cls) if hasattr(options, field.name)}
        return cls(**(shared | fixed))

    def __post_init__(self) -> None:
        if self.gradients not in GRADIENTS:
            raise InputError(f"unknown gradients={self.gradients!r}", mend=f"Use one of {', '.join(GRADIENTS)}")
        if min(self.epochs, self.batch, self.patience, self.validate_every) < 1:
            raise InputError("epochs, batch, patience and validate_every are 1 or more")
        if not self.rate > 0 or not 0 <= self.dropout < 1 or not 0 <= self.average < 1 or not self.decay >= 0:
            raise InputError("rate is above 0, decay 0 or more, dropout and average at least 0 and below 1")


@dataclass(frozen=True)
class Run:
    """Where a training run keeps its state, and whether it shows its progress.

    state_folder : where its state is saved, at most every `state_every` seconds; None keeps none.
    resume : go on from that state, if there is one.
    show : draw a progress bar when standard error is a terminal.
    keep_end : save the state at the end too, so that a finished training is not repeated.
    """

    state_folder: Path | None = None
    state_every: float = 20.0
    resume: bool = False
    show: bool = True
    keep_end: bool = False

    def child(self, name: str) -> Run:
        """The `Run` of one of several trainings that make up this one, in a folder of its own."""
        folder = self.state_folder
        return self if folder is None else replace(self, state_folder=folder / name, keep_end=True)


@dataclass
class Epoch:
    """One epoch's record: mean losses, skipped steps, validation score, and cosines between task gradients and their
    norms: means over the steps where a method needs them, else of one step now and then."""

    loss: float
    task_losses: list[float]
    cosines: list[float]
    skipped: int
    score: float | None = None
    norms: list[float] = field(default_factory=list)


@dataclass
class History:
    """History of a training: its epochs, and the number of the epoch whose weights were kept, -1 for the last one."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = -1

    def as_json(self) -> dict[str, Any]:
        names = [f"{TASKS[a]}/{TASKS[b]}" for a, b in _task_pairs()]
        return {"tasks": list(TASKS), "cosines": names, "best": self.best, "epochs": [asdict(e) for e in self.epochs]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> History:
        return cls([Epoch(**epoch) for epoch in content["epochs"]], content["best"])


class Trainer:
    """Trains a denoiser on task rows.

    Parameters
    ----------
    net, schedule, rows : the network, the schedule of its noise, and its training rows.
    seed : decides the order of rows, the coins, the noise and the dropout, epoch by epoch, so that a run that was
        killed continues as if it had not been.
    validate : score of the network as it stands, higher is better; None keeps the last weights.
    run : where its state is kept, and whether progress is shown.
    record : how steps are recorded and played again; None takes CUDA graphs on a CUDA device and records nothing on a
        processor. Where it is given, a step decides nothing by values, as on a device.
    """

    def __init__(
        self,
        net: Denoiser,
        schedule: Schedule,
        rows: TaskRows,
        options: TrainingOptions,
        *,
        seed: int,
        validate: Callable[[Denoiser], float] | None = None,
        run: Run | None = None,
        record: Record | None = None,
    ) -> None:
        if len(rows) == 0:
            raise InputError("there is nothing to train on: no rows")
        self.net, self.schedule, self.rows, self.options = net, schedule, rows, options
        self.seed, self.validate = seed, validate
        self.run = run or Run()
        self.device = next(net.parameters()).device
        self.on_device = self.device.type == "cuda" or record is not None
        self.optimiser = torch.optim.Adam(
            net.parameters(),
            options.rate,
            weight_decay=options.decay,
            fused=True,
            # A capturable optimiser, so that its step can be recorded.
            capturable=self.device.type == "cuda",
        )
        self.average = _copy(net) if options.average else {}
        self.best: dict[str, Tensor] = {}
        self.history = History()
        # Changed in place, like all state of a recorded step.
        self.updates = torch.zeros((), dtype=torch.int64, device=self.device)
        self.parameters = list(net.parameters())
        self.engine: gradients.TaskGradients | None = None
        self.targets: Tensor | None = None
        if options.gradients in gradients.METHODS:
            self.engine = gradients.TaskGradients(net, len(TASKS))
        if options.gradients == "gradvac":
            self.targets = torch.zeros(len(TASKS), len(TASKS), dtype=torch.float64, device=self.device)
        self.look = _Look(self.device)
        self.recorder: Recorder | None = None
        if self.on_device and not options.dropout and (self.engine is None or self.engine.recordable):
            # Dropout draws its numbers on the processor, inside the step.
            self.recorder = Recorder(self._step_of, record or cuda_graph, self.device)

    def fit(self) -> History:
        """Train to the end and leave the kept weights in the network."""
        folder = self.run.state_folder
        if self.run.resume and folder is not None and kept(folder).is_dir():
            self._restore(folder)
        saved = time.monotonic()
        with progress("training", self.options.epochs, self.run.show) as advance:
            advance(len(self.history.epochs))
            while not self._finished():
                epoch = self._epoch(len(self.history.epochs))
                self.history.epochs.append(epoch)
                if self.validate is not None and len(self.history.epochs) % self.options.validate_every == 0:
                    self._score(epoch)
                advance(1, _note(epoch))
                if folder is not None and time.monotonic() - saved >= self.run.state_every:
                    self._save(folder)
                    saved = time.monotonic()
        if folder is not None and self.run.keep_end:
            self._save(folder)
        self.net.load_state_dict(self.best or self.average or _copy(self.net))
        return self.history

    def _finished(self) -> bool:
        done = len(self.history.epochs)
        stale = self.history.best >= 0 and done - 1 - self.history.best >= self.options.patience
        return done >= self.options.epochs or stale

    def _epoch(self, number: int) -> Epoch:
        seed = _epoch_seed(self.seed, number)
        generator = torch.Generator().manual_seed(seed)
        # A generator of its own, so that rows and noise of a step do not depend on the method.
        self.orders = torch.Generator().manual_seed(seed ^ 1)
        order, clean = self.rows.plan(generator)
        losses = torch.zeros(len(TASKS), dtype=torch.float64, device=self.device)
        self.look.clear()
        skipped, batches = torch.zeros((), dtype=torch.int64, device=self.device), 0
        for start in range(0, len(order), self.options.batch):
            batch = self.rows.batch(order[start : start + self.options.batch], clean, generator)
            drawn = self._draw(batch, generator)
            dropout = Dropout(self.options.dropout, generator) if self.options.dropout else None
            look = self.engine is not None or _looks(start, number)
            if self.recorder is not None and (look == (self.engine is not None)):
                made = self.recorder(drawn)
            else:
                made = self._step_of(drawn, dropout, look)
            self.look.steps += look
            skipped += made["skipped"]
            losses += made["losses"]
            batches += 1
        mean = (losses / batches).tolist()
        cosines, norms = self.look.means()
        return Epoch(sum(mean), mean, cosines, int(skipped), norms=norms)

    def _draw(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Inputs of a step, drawn on the processor: a seed gives the same numbers wherever the network is."""
        rows = len(batch.target)
        last = self.schedule.last
        if self.options.whole_steps:
            t = torch.randint(1, last + 1, (rows,), generator=generator).double()
        else:
            t = torch.rand(rows, generator=generator, dtype=torch.float64) * last
        dtype = batch.target.dtype
        drawn = {
            "target": batch.target,
            "condition": batch.condition,
            "mask": batch.mask,
            "task": batch.task,
            "signal": torch.from_numpy(self.schedule.signal_at(t.numpy())).to(dtype),
            "noise": torch.from_numpy(self.schedule.noise_at(t.numpy())).to(dtype),
            "z": torch.randn(batch.target.shape, generator=generator, dtype=dtype),
            "t": t.to(dtype),
        }
        if self.engine is not None:
            drawn["offsets"] = batch.offsets
            if self.on_device:
                drawn["orders"] = torch.stack([torch.randperm(len(TASKS), generator=self.orders) for _ in TASKS])
        return drawn

    def _step_of(self, drawn: Tensors, dropout: Dropout | None = None, look: bool = False) -> Tensors:
        """One step: the losses (T,) float64, and `skipped`, 1 where it was. It reads no value where `on_device`."""
        if self.engine is not None:
            parts, skip = self._task_step(self.engine, drawn, dropout)
        else:
            parts, skip = self._plain_step(drawn, dropout, look)
        return {"losses": torch.stack([part.detach().double() for part in parts]), "skipped": skip}

    def _losses(self, drawn: Tensors, dropout: Dropout | None) -> list[Tensor]:
        at = {name: value.to(self.device, non_blocking=True) for name, value in drawn.items() if name != "offsets"}
        batch = Batch(at["target"], at["condition"], at["mask"], at["task"])
        x = add_noise(batch.target, at["z"], at["signal"], at["noise"])
        output = self.net(x, at["t"], batch.condition, dropout)
        wanted = training_target(batch.target, at["z"], at["signal"], at["noise"], self.options.prediction)
        return task_losses(output - wanted, batch)

    def _task_step(
        self, engine: gradients.TaskGradients, drawn: Tensors, dropout: Dropout | None
    ) -> tuple[list[Tensor], Tensor]:
        """One update from the gradients of the tasks, combined by a method; the losses, and 1 where it was skipped."""
        engine.clear()
        with engine.rows(drawn["offsets"]):
            parts = self._losses(drawn, dropout)
            torch.stack(parts).sum().backward()
        K = engine.gram()
        self.look.add(K)
        method = self.options.gradients
        if self.on_device:
            order = drawn["orders"].to(self.device, non_blocking=True)
            w = gradients.aggregate(K, method, order, targets=self.targets)
            norm = (w @ K @ w).clamp_min(0.0).sqrt()
            gradients.write_gradients(self.parameters, engine.combine(w, out=engine.g))
            return parts, self._step_on_device(norm)
        if not bool(K.isfinite().all()):
            return parts, torch.ones((), dtype=torch.int64)
        w = gradients.aggregate(K, method, generator=self.orders, targets=self.targets)
        norm = (w @ K @ w).clamp_min(0.0).sqrt()
        # The factor goes into the weights, so that g is written once and never read for its norm.
        factor = gradients.gate_and_clip(float(norm), self.options.gate, self.options.clip)
        if factor:
            gradients.write_gradients(self.parameters, engine.combine(factor * w, out=engine.g))
        return parts, self._step(factor)

    def _plain_step(self, drawn: Tensors, dropout: Dropout | None, look: bool) -> tuple[list[Tensor], Tensor]:
        """The same without a method."""
        parts = self._losses(drawn, dropout)
        if look:
            self.look.add(gradients.gram(gradients.task_gradients(parts, self.parameters, retain_graph=True)))
        made = torch.autograd.grad(torch.stack(parts).sum(), self.parameters)
        g = torch.cat([part.reshape(-1) for part in made])
        norm = torch.linalg.vector_norm(g)
        gradients.write_gradients(self.parameters, g)
        if self.on_device:
            return parts, self._step_on_device(norm)
        factor = gradients.gate_and_clip(float(norm), *self._bounds())
        g *= factor
        return parts, self._step(factor)

    def _bounds(self) -> tuple[float, float]:
        """Gate and clip; none at all for plain training."""
        return (math.inf, math.inf) if self.options.gradients == "none" else (self.options.gate, self.options.clip)

    def _step(self, factor: float) -> Tensor:
        """One step of the optimiser, left out where the factor of the gradients is zero."""
        if factor:
            self.optimiser.step()
            self._update_average(torch.zeros((), dtype=torch.bool))
        return torch.tensor(int(not factor))

    def _step_on_device(self, norm: Tensor) -> Tensor:
        skip = gradients.step_on_device(self.optimiser, norm, *self._bounds())
        self._update_average(skip)
        return skip.to(torch.int64)

    @torch.no_grad()
    def _update_average(self, skip: Tensor) -> None:
        """Count an update and let the average follow it, unless it was skipped."""
        self.updates += (~skip).to(torch.int64)
        if self.options.average:
            # The average starts at untrained weights; a shorter memory in the beginning lets them go.
            share: Tensor | float
            if self.on_device:
                early = (1.0 + self.updates) / (10.0 + self.updates)
                share = (1.0 - early.clamp_max(self.options.average)) * ~skip
            else:
                done = int(self.updates)
                share = 1.0 - min(self.options.average, (1.0 + done) / (10.0 + done))
            for name, value in self.net.named_parameters():
                self.average[name].lerp_(value, share)

    def _score(self, epoch: Epoch) -> None:
        assert self.validate is not None
        trained = _copy(self.net)
        if self.average:
            self.net.load_state_dict(self.average)
        with torch.inference_mode():
            epoch.score = float(self.validate(self.net))
        best = self.history.epochs[self.history.best].score if self.history.best >= 0 else None
        # A score that is no number never becomes the best one.
        if math.isfinite(epoch.score) and (best is None or epoch.score > best):
            self.history.best = len(self.history.epochs) - 1
            self.best = _copy(self.net)
        self.net.load_state_dict(trained)

    # -- resuming -----------------------------------------------------------------------

    def _fingerprint(self) -> str:
        arguments = {"options": asdict(self.options), "seed": self.seed, "net": self.net.configuration}
        digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
        digest.update(self.schedule.signal.tobytes())
        digest.update(json.dumps(self.rows.self_noise).encode())
        for name in ("paired_target", "paired_mask", "paired_condition", "self_visit", "self_mask", "self_static"):
            digest.update(getattr(self.rows, name).numpy().tobytes())
        return digest.hexdigest()

    def _save(self, folder: Path) -> None:
        moments = self.optimiser.state_dict()["state"]
        write_folder(
            folder,
            STATE_KIND,
            {
                "fingerprint": self._fingerprint(),
                "updates": int(self.updates),
                "history": self.history.as_json(),
                "weights": _numbers(_copy(self.net)),
                "average": _numbers(self.average),
                "best": _numbers(self.best),
                "optimiser": {str(number): _numbers(state) for number, state in moments.items()},
                "targets": None if self.targets is None else self.targets.cpu().numpy(),
            },
        )

    def _restore(self, folder: Path) -> None:
        state = read_folder(folder, STATE_KIND)
        if state["fingerprint"] != self._fingerprint():
            raise InputError(
                "holds the state of another run (other data, options or seed)",
                file=folder,
                mend="Remove it to start afresh, or call with what the interrupted run had",
            )
        self.updates.fill_(state["updates"])
        self.history = History.from_json(state["history"])
        self.net.load_state_dict(_tensors(state["weights"]))
        self.average, self.best = _tensors(state["average"]), _tensors(state["best"])
        whole = self.optimiser.state_dict()
        whole["state"] = {int(number): _tensors(moments) for number, moments in state["optimiser"].items()}
        self.optimiser.load_state_dict(whole)
        if self.targets is not None:
            self.targets.copy_(torch.from_numpy(state["targets"]))


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _looks(start: int, number: int) -> bool:
    return start == 0 and number % COSINES_EVERY == 0


def _task_pairs() -> list[tuple[int, int]]:
    return [(a, b) for a in range(len(TASKS)) for b in range(a + 1, len(TASKS))]


class _Look:
    """Sums over steps of the cosines between task gradients, where both are there, and of their norms."""

    def __init__(self, device: torch.device) -> None:
        tasks = len(TASKS)
        self.cosines, self.together = torch.zeros(2, tasks, tasks, device=device, dtype=torch.float64).unbind()
        self.norms = torch.zeros(tasks, device=device, dtype=torch.float64)
        # Number of steps summed, counted by the caller: replaying a recorded step runs no Python.
        self.steps = 0

    def clear(self) -> None:
        """Set all sums to zero, in place."""
        self.cosines.zero_()
        self.together.zero_()
        self.norms.zero_()
        self.steps = 0

    def add(self, K: Tensor) -> None:
        alive = (K.diagonal() > 0).double()
        sound = K.isfinite().all()
        self.cosines += torch.where(sound, gradients.cosine_matrix(K), 0.0)
        self.together += torch.where(sound, alive[:, None] * alive, 0.0)
        self.norms += torch.where(sound, K.diagonal().clamp_min(0.0).sqrt(), 0.0)

    def means(self) -> tuple[list[float], list[float]]:
        """Of each pair of tasks and of each task; nothing where no step was looked at."""
        if self.steps == 0:
            return [], []
        mean = (self.cosines / self.together.clamp_min(1.0)).tolist()
        return [mean[a][b] for a, b in _task_pairs()], (self.norms / self.steps).tolist()


def _note(epoch: Epoch) -> str:
    score = "" if epoch.score is None else f"  score {epoch.score:.4f}"
    cosines = "  cosines " + " ".join(f"{value:+.2f}" for value in epoch.cosines) if epoch.cosines else ""
    return f"loss {epoch.loss:.4f}{score}{cosines}  skipped {epoch.skipped}"


def _copy(net: Denoiser) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def _numbers(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
