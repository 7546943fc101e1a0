"""Rows, losses and the training loop: what is learned from, and that a run can be stopped anywhere and repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from secondgram.denoiser import Denoiser
from secondgram.diffusion.schedule import Schedule
from secondgram.errors import InputError
from secondgram.training.tasks import TASKS, Batch, TaskRows, pairs_only, task_losses
from secondgram.training.trainer import History, Run, Trainer, TrainingOptions

FEATURES, COVARIATES = 3, 2
PAIRS, PEOPLE = 11, 17


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _rows(seed: int = 0, pairs: int = PAIRS, people: int = PEOPLE, noise: tuple[float, float] = (0.9, 0.4)) -> TaskRows:
    """Every value names its row: the first covariate is the row's number, negative for a pair."""
    generator = torch.Generator().manual_seed(seed)
    condition = torch.randn(pairs, COVARIATES + FEATURES, generator=generator)
    static = torch.randn(people, COVARIATES, generator=generator)
    condition[:, 0] = -1.0 - torch.arange(pairs)
    static[:, 0] = torch.arange(people)
    return TaskRows(
        torch.randn(pairs, FEATURES, generator=generator),
        torch.ones(pairs, FEATURES),
        condition,
        torch.randn(people, FEATURES, generator=generator),
        torch.ones(people, FEATURES),
        static,
        noise,
    )


def _network(zero_output: bool = False, seed: int = 0) -> Denoiser:
    generator = torch.Generator().manual_seed(seed)
    width = COVARIATES + FEATURES
    return Denoiser(FEATURES, width, embedding=6, widths=(8, 6, 4), zero_output=zero_output, generator=generator)


def _options(**change: Any) -> TrainingOptions:
    return TrainingOptions(**{"epochs": 4, "batch": 10, "patience": 100, "gate": 1e9, **change})


def _trainer(options: TrainingOptions, seed: int = 0, rows: TaskRows | None = None, **more: Any) -> Trainer:
    return Trainer(_network(), Schedule.make("linear"), _rows() if rows is None else rows, options, seed=seed, **more)


def _weights(net: Denoiser) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def _score(net: Denoiser) -> float:
    """Something that differs between networks: higher for weights near zero."""
    return -float(sum(value.square().sum() for value in net.parameters()))


# -- rows and batches -------------------------------------------------------------------------------------------------


def test_an_epoch_takes_every_self_row_and_every_pair_once() -> None:
    rows, generator = _rows(), torch.Generator().manual_seed(0)
    order, clean = rows.plan(generator)
    assert len(rows) == PAIRS + PEOPLE
    seen: list[int] = []
    for start in range(0, len(order), 5):
        batch = rows.batch(order[start : start + 5], clean, generator)
        seen += batch.condition[:, 0].int().tolist()
        assert ((batch.condition[:, 0] < 0) == (batch.task == TASKS.index("paired"))).all()
    assert sorted(seen) == list(range(-PAIRS, PEOPLE))


def test_the_order_of_rows_differs_from_epoch_to_epoch() -> None:
    rows, generator = _rows(), torch.Generator().manual_seed(0)
    assert not torch.equal(rows.plan(generator)[0], rows.plan(generator)[0])


def test_a_batch_is_sorted_by_task_and_keeps_rows_together() -> None:
    rows, generator = _rows(), torch.Generator().manual_seed(1)
    order, clean = rows.plan(generator)
    batch = rows.batch(order, clean, generator)
    assert (batch.task.diff() >= 0).all()
    for target, condition, task in zip(batch.target, batch.condition, batch.task.tolist(), strict=True):
        number = int(condition[0])
        if task == TASKS.index("paired"):
            assert torch.equal(target, rows.paired_target[-1 - number])
            assert torch.equal(condition, rows.paired_condition[-1 - number])
        else:
            assert torch.equal(target, rows.self_visit[number])
            assert torch.equal(condition[:COVARIATES], rows.self_static[number])
            shown_clean = torch.equal(condition[COVARIATES:], rows.self_visit[number])
            assert shown_clean == (task == TASKS.index("self_clean"))
            assert bool(clean[number]) == shown_clean


def test_the_coin_between_clean_and_noised_is_fair() -> None:
    rows = pairs_only(*(torch.zeros(40_000, width) for width in (1, 1, 2)))
    share = float(rows.plan(torch.Generator().manual_seed(0))[1].float().mean())
    assert share == pytest.approx(0.5, abs=4 * 0.5 / 200)


def test_the_noised_condition_has_its_spread_and_leaves_the_target_alone() -> None:
    people, signal, noise = 20_000, 0.95, 0.3
    visit = torch.randn(people, FEATURES, generator=torch.Generator().manual_seed(0))
    rows = TaskRows(
        torch.zeros(0, FEATURES),
        torch.zeros(0, FEATURES),
        torch.zeros(0, FEATURES + 1),
        visit,
        torch.ones(people, FEATURES),
        torch.arange(people).float()[:, None],
        (signal, noise),
    )
    before = visit.clone()
    batch = rows.batch(torch.arange(people), torch.zeros(people, dtype=torch.bool), torch.Generator().manual_seed(1))
    assert torch.equal(rows.self_visit, before)
    assert torch.equal(batch.target, before)
    assert (batch.task == TASKS.index("self_noised")).all()
    left = (batch.condition[:, 1:] - signal * batch.target) / noise
    bound = 4 / math.sqrt(left.numel())
    assert abs(float(left.mean())) < bound
    assert float(left.var()) == pytest.approx(1.0, abs=2 * bound)
    assert abs(float((left * batch.target).mean())) < bound


@pytest.mark.parametrize(("pairs", "people"), [(5, 0), (0, 5), (1, 0), (0, 1), (1, 1)])
def test_batches_of_one_kind_of_row(pairs: int, people: int) -> None:
    rows, generator = _rows(pairs=pairs, people=people), torch.Generator().manual_seed(0)
    order, clean = rows.plan(generator)
    batch = rows.batch(order, clean, generator)
    assert batch.target.shape == batch.mask.shape == (pairs + people, FEATURES)
    assert batch.condition.shape == (pairs + people, COVARIATES + FEATURES)
    assert int((batch.task == 0).sum()) == pairs


# -- losses -----------------------------------------------------------------------------------------------------------


def _batch(mask: Tensor | None = None) -> tuple[Tensor, Batch]:
    rows, generator = _rows(), torch.Generator().manual_seed(0)
    batch = rows.batch(*rows.plan(generator), generator)
    if mask is not None:
        batch.mask = mask
    return torch.randn(batch.target.shape, generator=generator, dtype=torch.float64), batch


def test_task_losses_sum_to_the_plain_mean_squared_error() -> None:
    error, batch = _batch()
    losses = task_losses(error, batch)
    assert len(losses) == len(TASKS)
    assert float(sum(losses, torch.zeros(()))) == pytest.approx(float(error.square().mean()), rel=1e-12)
    for number, loss in enumerate(losses):
        expected = error[batch.task == number].square().sum() / error.numel()
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)


def test_a_masked_cell_carries_no_loss_and_no_gradient() -> None:
    mask = (torch.rand(PAIRS + PEOPLE, FEATURES, generator=torch.Generator().manual_seed(2)) < 0.6).float()
    error, batch = _batch(mask)
    changed = torch.where(mask > 0, error, 1e6)
    for one, other in zip(task_losses(error, batch), task_losses(changed, batch), strict=True):
        assert torch.equal(one, other)
    error.requires_grad_()
    sum(task_losses(error, batch), torch.zeros(())).backward()
    assert error.grad is not None
    assert ((error.grad == 0) == (mask == 0)).all()


def test_a_task_without_rows_has_loss_zero() -> None:
    rows, generator = _rows(people=0), torch.Generator().manual_seed(0)
    batch = rows.batch(*rows.plan(generator), generator)
    losses = task_losses(torch.ones_like(batch.target), batch)
    assert [float(loss) for loss in losses] == pytest.approx([1.0, 0.0, 0.0])


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss() -> None:
    history = _trainer(_options(epochs=30, rate=1e-2, gradients="none")).fit()
    losses = [epoch.loss for epoch in history.epochs]
    assert np.mean(losses[-8:]) < 0.85 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "change",
    [
        {"gradients": "none"},
        {"gradients": "gate"},
        {"gradients": "pcgrad"},
        {"average": 0.9, "dropout": 0.2, "prediction": "v", "whole_steps": False, "decay": 1e-3},
    ],
    ids=lambda change: next(iter(change.values())),
)
def test_a_seed_decides_the_run(change: dict[str, Any]) -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], History]:
        torch.manual_seed(torch.seed() % 1000)
        trainer = _trainer(_options(**change), seed)
        history = trainer.fit()
        return _weights(trainer.net), history

    (first, history), (again, same), (other, _) = run(0), run(0), run(1)
    assert _equal(first, again)
    assert history == same
    assert not _equal(first, other)


@pytest.mark.parametrize(("pairs", "people"), [(5, 0), (0, 5), (1, 0), (0, 1)])
@pytest.mark.parametrize("gradients", ["gate", "pcgrad"])
def test_training_works_on_one_kind_of_row(pairs: int, people: int, gradients: str) -> None:
    trainer = _trainer(_options(gradients=gradients), rows=_rows(pairs=pairs, people=people))
    before = _weights(trainer.net)
    history = trainer.fit()
    assert not _equal(before, _weights(trainer.net))
    assert all(math.isfinite(epoch.loss) for epoch in history.epochs)


def test_gradient_surgery_without_conflict_is_plain_training() -> None:
    # With one task there is nothing to project.
    nets = []
    for gradients in ("gate", "pcgrad"):
        trainer = _trainer(_options(gradients=gradients, clip=1e9), rows=_rows(people=0))
        trainer.fit()
        nets.append(_weights(trainer.net))
    for name in nets[0]:
        torch.testing.assert_close(nets[0][name], nets[1][name], rtol=1e-5, atol=1e-6)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        _trainer(_options(), rows=_rows(pairs=0, people=0))


@pytest.mark.parametrize(
    "change",
    [
        {"gradients": "graddrop"},
        {"epochs": 0},
        {"batch": 0},
        {"patience": 0},
        {"validate_every": 0},
        {"rate": 0.0},
        {"rate": math.nan},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"average": 1.0},
        {"decay": -1.0},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        TrainingOptions(**change)


@pytest.mark.parametrize("gradients", ["gate", "pcgrad"])
def test_a_gate_below_every_gradient_skips_everything(gradients: str) -> None:
    trainer = _trainer(_options(gradients=gradients, gate=1e-12))
    before = _weights(trainer.net)
    history = trainer.fit()
    batches = math.ceil((PAIRS + PEOPLE) / 10)
    assert [epoch.skipped for epoch in history.epochs] == [batches] * 4
    assert trainer.updates == 0
    assert _equal(before, _weights(trainer.net))
    # The weights stood still, so only new noise and a new order can tell the epochs apart.
    assert len({epoch.loss for epoch in history.epochs}) == 4


@pytest.mark.parametrize("gradients", ["none", "gate", "pcgrad"])
def test_a_loss_that_is_no_number_skips_its_step_and_is_counted(gradients: str) -> None:
    rows = _rows()
    rows.paired_target[3, 1] = math.nan
    trainer = _trainer(_options(gradients=gradients), rows=rows)
    before = _weights(trainer.net)
    history = trainer.fit()
    assert [epoch.skipped for epoch in history.epochs] == [1] * 4
    assert trainer.updates == 4 * (math.ceil((PAIRS + PEOPLE) / 10) - 1)
    assert all(torch.isfinite(value).all() for value in trainer.net.state_dict().values())
    assert not _equal(before, _weights(trainer.net))


def test_the_clip_bounds_the_first_update() -> None:
    # Adam hides the size of a gradient, so look at the gradient that it was given.
    trainer = _trainer(_options(epochs=1, batch=1000, clip=1e-3))
    trainer.fit()
    norm = math.sqrt(
        sum(float(value.grad.square().sum()) for value in trainer.net.parameters() if value.grad is not None)
    )
    assert norm == pytest.approx(1e-3, rel=1e-5)


def test_patience_stops_and_the_best_weights_are_kept() -> None:
    scores = iter([0.1, 0.5, 0.2, math.nan, 0.4, 9.0, 9.0])
    seen: list[dict[str, Tensor]] = []

    def validate(net: Denoiser) -> float:
        seen.append(_weights(net))
        return next(scores)

    trainer = _trainer(_options(epochs=50, patience=3), validate=validate)
    history = trainer.fit()
    assert history.best == 1
    assert len(history.epochs) == 5
    assert _equal(seen[1], _weights(trainer.net))


def test_a_score_that_is_never_a_number_keeps_the_last_weights() -> None:
    trainer = _trainer(_options(), validate=lambda net: math.nan)
    undisturbed = _trainer(_options())
    undisturbed.fit()
    history = trainer.fit()
    assert history.best == -1
    assert len(history.epochs) == 4
    assert _equal(_weights(trainer.net), _weights(undisturbed.net))


def test_validation_happens_as_often_as_asked_and_changes_nothing() -> None:
    trainer = _trainer(_options(epochs=6, validate_every=2, average=0.9), validate=lambda net: 0.0 * _score(net))
    history = trainer.fit()
    assert [epoch.score is not None for epoch in history.epochs] == [False, True] * 3
    undisturbed = _trainer(_options(epochs=6, validate_every=2, average=0.9))
    assert [epoch.loss for epoch in undisturbed.fit().epochs] == [epoch.loss for epoch in history.epochs]


def test_the_average_of_the_weights_is_validated_and_kept() -> None:
    validated: list[dict[str, Tensor]] = []

    def validate(net: Denoiser) -> float:
        validated.append(_weights(net))
        return float(len(validated))

    averaged, plain = _trainer(_options(average=0.99), validate=validate), _trainer(_options())
    averaged.fit()
    plain.fit()
    assert _equal(validated[-1], _weights(averaged.net))
    assert not _equal(_weights(averaged.net), _weights(plain.net))


def test_the_average_follows_its_formula() -> None:
    trainer = _trainer(_options(epochs=1, batch=1000, average=0.99))
    start = _weights(trainer.net)
    trainer.fit()
    trained = _trainer(_options(epochs=1, batch=1000))
    trained.fit()
    end, decay = _weights(trained.net), 2 / 11
    for name, value in trainer.net.state_dict().items():
        torch.testing.assert_close(value, decay * start[name] + (1 - decay) * end[name], rtol=1e-5, atol=1e-7)


def test_a_history_survives_json() -> None:
    history = _trainer(_options(), validate=_score).fit()
    again = History.from_json(history.as_json())
    assert again == history
    assert len(history.epochs[0].cosines) == 3
    assert all(-1 <= value <= 1 for value in history.epochs[0].cosines)
    assert sum(history.epochs[0].task_losses) == pytest.approx(history.epochs[0].loss)


# -- stopping and going on --------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """A run that is killed."""


def _stop_after(calls: int, validate: Callable[[Denoiser], float]) -> Callable[[Denoiser], float]:
    left = [calls]

    def stopping(net: Denoiser) -> float:
        if left[0] == 0:
            raise _Stopped
        left[0] -= 1
        return validate(net)

    return stopping


RESUMED = [
    {"gradients": "gate"},
    {"gradients": "pcgrad"},
    {"average": 0.9, "gradients": "none"},
    {"dropout": 0.3, "average": 0.5, "whole_steps": False, "prediction": "v"},
    {"gate": 1e-12},
]


@pytest.mark.parametrize("change", RESUMED, ids=["gate", "pcgrad", "average", "dropout", "all skipped"])
@pytest.mark.parametrize("stops", [(0,), (1,), (2,), (3,), (1, 0, 1)], ids=str)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, change: dict[str, Any], stops: tuple[int, ...]
) -> None:
    options = _options(epochs=4, **change)
    undisturbed = _trainer(options, validate=_score)
    expected = undisturbed.fit()

    run = Run(state_folder=tmp_path / "state", state_every=0.0, resume=True)
    for calls in stops:
        with pytest.raises(_Stopped):
            _trainer(options, validate=_stop_after(calls, _score), run=run).fit()
    resumed = _trainer(options, validate=_score, run=run)
    history = resumed.fit()
    assert history == expected
    assert _equal(_weights(undisturbed.net), _weights(resumed.net))
    assert resumed.updates == undisturbed.updates


def test_resuming_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    run = Run(state_folder=tmp_path / "state", state_every=0.0, resume=True)
    first = _trainer(_options(), run=run)
    first.fit()
    again = _trainer(_options(), run=run, validate=None)
    assert len(again.fit().epochs) == 4
    assert _equal(_weights(first.net), _weights(again.net))


def test_a_state_that_a_killed_run_left_aside_is_gone_on_from(tmp_path: Path) -> None:
    run = Run(tmp_path / "state", 0.0, resume=True, show=False, keep_end=True)
    _trainer(_options(epochs=2), run=run).fit()
    (tmp_path / "state").rename(tmp_path / ".state.secondgram-old")
    again = _trainer(_options(epochs=2), run=run)
    again._epoch = None  # type: ignore[assignment, method-assign]
    assert len(again.fit().epochs) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_state_is_ignored_unless_resuming(tmp_path: Path) -> None:
    keep = Run(state_folder=tmp_path / "state", state_every=0.0)
    _trainer(_options(), seed=3, run=keep).fit()
    fresh, plain = _trainer(_options(), run=keep), _trainer(_options())
    fresh.fit()
    plain.fit()
    assert _equal(_weights(fresh.net), _weights(plain.net))


def _mask_changed() -> TaskRows:
    rows = _rows()
    rows.paired_mask[0, 0] = 0.0
    return rows


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"options": _options(rate=2e-3)},
        {"rows": _rows(seed=1)},
        {"rows": _rows(pairs=PAIRS - 1)},
        {"rows": _rows(noise=(0.9, 0.5))},
        {"rows": _mask_changed()},
    ],
    ids=["seed", "options", "data", "fewer pairs", "self noise", "mask"],
)
def test_the_state_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = Run(state_folder=tmp_path / "state", state_every=0.0, resume=True)
    _trainer(_options(), run=run).fit()
    with pytest.raises(InputError, match="the state of another run"):
        _trainer(**{"options": _options(), **change}, run=run).fit()


def test_the_state_on_another_schedule_is_refused(tmp_path: Path) -> None:
    run = Run(state_folder=tmp_path / "state", state_every=0.0, resume=True)
    _trainer(_options(), run=run).fit()
    other = Trainer(_network(), Schedule.make("linear", 50), _rows(), _options(), seed=0, run=run)
    with pytest.raises(InputError, match="the state of another run"):
        other.fit()


def test_no_state_is_written_without_a_folder_or_before_its_time(tmp_path: Path) -> None:
    _trainer(_options(), run=Run(state_folder=tmp_path / "state", state_every=1e9)).fit()
    assert not list(tmp_path.iterdir())
