"""What is handed on: that each part gets the people, the scales and the arguments that are meant for it.

FoldCache are tested where they stand; here a part is often replaced by one that notes what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.evidence import Evidence
from secondgram.diffusion.schedule import Schedule
from secondgram.imputation import paper
from secondgram.imputation.default import shape
from secondgram.imputation.default.model import DefaultModel, DefaultOptions
from secondgram.imputation.default.shape import Shape, ShapeOptions, fit_shape
from secondgram.imputation.imputer import PRESETS
from secondgram.imputation.model_data import People, TrainingPairs
from secondgram.imputation.paper import PaperModel, PaperOptions
from secondgram.imputation.refit import impute_refitted
from secondgram.imputation.result import Imputation
from secondgram.ops import native
from secondgram.ops.registry import preferred_precision, resolve
from secondgram.ops.sampling import CANDIDATES
from secondgram.sampling.sampler import Sampler
from secondgram.training.trainer import History, Run, Trainer, TrainingOptions

TINY: dict[str, Any] = {"embedding": 8, "widths": [8, 8, 8], "epochs": 1}


@pytest.fixture(scope="module")
def people() -> sg.SimulatedCohort:
    """90 people, 3 features, 45 complete pairs."""
    return sg.simulate(90, 3, 0.5, seed=5, mode="gaussian")


def small(**more: Any) -> sg.Denoiser:
    width = {"features": 3, "conditions": 4} | more
    return sg.Denoiser(
        width["features"],
        width["conditions"],
        embedding=8,
        widths=(8, 8, 8),
        generator=torch.Generator().manual_seed(0),
    )


def noting(into: dict[str, Any], name: str, answer: Any = None) -> Callable[..., Any]:
    def noted(*given: Any, **named: Any) -> Any:
        into[name] = given, named
        return answer

    return noted


# -- scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_sites_with_shifted_scales_give_the_same_draws(preset: str, people: sg.SimulatedCohort) -> None:
    """The same people at another scanner, which moves all that is measured: what is imputed moves alike."""
    some = people.take(np.argsort(people.paired, kind="stable")[23:68])
    visits, far = some.visits.copy(), 1000.0
    # Some follow-ups are half measured, and conditioned on.
    visits[:8, 1, 0] = some.truth[:8, 0]
    cohort = sg.Cohort(
        np.concatenate([some.ids, np.array([f"{name} again" for name in some.ids], dtype=object)]),
        np.concatenate([visits, visits + far]),
        some.features,
        some.visit_labels,
        np.concatenate([some.times, some.times]),
        pd.concat([some.covariate_table] * 2, ignore_index=True),
        pd.concat([some.outcomes] * 2, ignore_index=True),
        None,
        np.repeat(np.array(["A", "B"], dtype=object), len(some)),
    )
    options = {"shape": "off"} if preset == "default" else {**TINY, "steps": 3}
    imputer = sg.SecondgramImputer(preset, precision="fp32", **options).fit(cohort, show=False)
    model = imputer.model_
    assert model.sites == ("A", "B")
    shown = imputer.impute(cohort, draws=1, show=False).people
    half = len(shown) // 2
    assert shown.ids.tolist() == cohort.ids[~np.isfinite(cohort.followup).all(axis=1)].tolist()
    assert np.isfinite(shown.known).any(axis=1).sum() == 16
    # The same noise too.
    shown = replace(shown, keys=np.tile(shown.keys[:half], 2))
    numbers = np.arange(3)
    for made in (model.draw(shown, numbers, 7), model.mean(shown, numbers, 7)[None]):
        np.testing.assert_allclose(made[:, half:] - far, made[:, :half], atol=0.01 * people.baseline.std())


# -- who teaches, and who judges ------------------------------------------------------------------


class Noted(Trainer):
    """A trainer that trains nothing and keeps what it was given."""

    made: list[Noted]

    def fit(self) -> History:
        type(self).made.append(self)
        return History()


def stood_in(monkeypatch: pytest.MonkeyPatch, name: str, kind: Any) -> Any:
    """What is made of a class from now on that stands in for another in both presets."""
    kind.made = []
    for module in (paper, shape):
        monkeypatch.setattr(module, name, kind)
    return kind.made


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    made: list[Noted] = stood_in(monkeypatch, "Trainer", Noted)
    return made


def rows_of(values: Any, among: np.ndarray) -> set[int]:
    """Which rows of `among` the rows of `values` are; each must be one."""
    near = np.abs(np.asarray(values, dtype=float)[:, None] - among[None]).max(axis=2) < 1e-5
    assert (near.sum(axis=1) == 1).all()
    return set(near.argmax(axis=1).tolist())


def families(people: sg.SimulatedCohort) -> sg.SimulatedCohort:
    """A person with a follow-up and one without in a family, as far as it goes."""
    paired, single = np.flatnonzero(people.paired), np.flatnonzero(~people.paired)
    groups = np.empty(len(people), dtype=object)
    groups[paired] = [f"f{number}" for number in range(len(paired))]
    groups[single] = [f"f{number}" for number in range(len(single))]
    return replace(people, groups=groups)


def test_held_back_people_teach_the_published_network_nothing(
    people: sg.SimulatedCohort, trainers: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = families(people)
    model = PaperModel.fit(cohort, PaperOptions(pretraining=1, **TINY), seed=3, run=Run(show=False))
    before, training = trainers
    visits = model.before.apply(cohort.baseline)
    later = model.after.apply(cohort.followup)
    width = len(cohort.features)
    taught = rows_of(training.rows.paired_target, np.where(np.isfinite(later), later, 9.0))
    assert rows_of(training.rows.paired_condition[:, -width:], visits) == taught
    held = set(np.flatnonzero(cohort.paired).tolist()) - taught
    assert len(held) == round(paper.VALIDATION_SHARE * cohort.paired.sum())
    assert cohort.groups is not None
    kin = set(np.flatnonzero(np.isin(cohort.groups, cohort.groups[sorted(held)])).tolist())
    assert len(kin) == 2 * len(held)
    everyone = set(range(len(cohort)))
    assert rows_of(training.rows.self_visit, visits) == everyone - kin
    assert rows_of(before.rows.paired_target, visits) == everyone - kin

    # They, and nobody else, judge it.
    judged: list[np.ndarray] = []

    class Judging:
        def __init__(self, *given: Any, **named: Any) -> None:
            self.precision = "fp32"

        def resolve_precision(self) -> Judging:
            return self

        def sample(self, conditions: np.ndarray, *given: Any, **named: Any) -> np.ndarray:
            judged.append(conditions)
            # Pairs are in the order of the cohort.
            return later[sorted(rows_of(conditions[:, -width:], visits))][None]

    monkeypatch.setattr(paper, "Sampler", Judging)
    again = PaperModel.fit(cohort, PaperOptions(**TINY), seed=3, run=Run(show=False))
    validate = trainers[-1].validate
    assert validate is not None
    # What it predicts is compared with those people's own follow-ups.
    assert validate(again.net) == pytest.approx(1.0)
    assert rows_of(judged[-1][:, -width:], visits) == held


def test_a_self_row_of_the_published_method_is_blurred_as_published(
    people: sg.SimulatedCohort, trainers: list[Noted]
) -> None:
    PaperModel.fit(people, PaperOptions(**TINY), seed=3, run=Run(show=False))
    signal, noise = trainers[0].rows.self_noise
    schedule = Schedule.make("linear")
    # Step 6 of 100, of spread 0.12.
    assert (signal, noise) == (float(schedule.signal[6]), float(schedule.noise_at(6)))
    assert noise == pytest.approx(0.12, abs=0.005)


def test_without_self_conditioning_nobody_is_their_own_condition(
    people: sg.SimulatedCohort, trainers: list[Noted]
) -> None:
    PaperModel.fit(people, PaperOptions(self_conditioning=False, **TINY), seed=3, run=Run(show=False))
    assert len(trainers[0].rows.self_visit) == len(trainers[0].rows.self_static) == 0


SHAPING = ShapeOptions(2, 3, "cosine", 8, (8, 8, 8), "ddim", 4, TrainingOptions(epochs=1, prediction="v", rate=0.5))


def test_each_network_of_the_shape_is_judged_by_the_pairs_it_was_not_taught(
    trainers: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    components, conditions = rng.standard_normal((66, 3)), rng.standard_normal((66, 4))
    unit = np.repeat([f"u{number:02d}" for number in range(33)], 2)
    asked: list[tuple[np.ndarray, Any, str, int]] = []

    class Drawing(Shape):
        def draw(
            self, conditions: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, solver: str, steps: int
        ) -> np.ndarray:
            asked.append((conditions, self.nets[0], solver, steps))
            return np.zeros((len(draws), len(conditions), len(self.kept)), dtype=np.float32)

    monkeypatch.setattr(shape, "Shape", Drawing)
    fit_shape(components, np.ones(3), conditions, unit, None, SHAPING, seed=2, run=Run(show=False))
    judged = []
    for trainer, (shown, net, solver, steps) in zip(trainers, asked, strict=True):
        taught, held = rows_of(trainer.rows.paired_target, components[:, :2]), rows_of(shown, conditions)
        assert rows_of(trainer.rows.paired_condition, conditions) == taught
        assert (taught | held, taught & held) == (set(range(66)), set())
        assert not set(unit[sorted(taught)]) & set(unit[sorted(held)])
        assert (net, solver, steps) == (trainer.net, "ddim", 4)
        assert trainer.options == SHAPING.training
        assert trainer.schedule.name == "cosine"
        assert trainer.schedule.zero_terminal
        judged.append(held)
    assert sum(map(len, judged)) == 66
    assert [trainer.seed for trainer in trainers] == [2, 3, 4]


def test_a_network_of_the_shape_is_stopped_by_its_loss_on_held_back_pairs(trainers: list[Noted]) -> None:
    components, conditions = np.arange(198.0).reshape(66, 3), np.arange(66.0)[:, None]
    unit = np.arange(66).astype(str)
    fit_shape(components, np.ones(3), conditions, unit, None, SHAPING, seed=2, run=Run(show=False))
    for trainer in trainers:
        assert trainer.validate is not None
        shown: list[torch.Tensor] = []

        def net(noisy: torch.Tensor, t: torch.Tensor, c: torch.Tensor, seen: Any = shown) -> torch.Tensor:
            seen.append(c)
            return torch.zeros_like(noisy)

        trainer.validate(net)  # type: ignore[arg-type]
        judged = rows_of(shown[0], conditions)
        assert not judged & rows_of(trainer.rows.paired_condition, conditions)
        assert len(judged) == 22


def visited(counts: Sequence[int]) -> sg.Cohort:
    """People with so many visits each."""
    number, most = len(counts), max(counts)
    visits = np.arange(number * most * 2, dtype=float).reshape(number, most, 2)
    for person, count in enumerate(counts):
        visits[person, count:] = np.nan
    return sg.Cohort(
        np.array([f"p{person}" for person in range(number)], dtype=object),
        visits,
        ("a", "b"),
        tuple(str(visit) for visit in range(most)),
        np.tile(np.arange(float(most)), (number, 1)),
        pd.DataFrame(index=range(number)),
        pd.DataFrame(index=range(number)),
    )


def test_a_person_counts_once_however_many_visits_they_have() -> None:
    pairs = TrainingPairs.of(visited([2, 3, 4, 1]), every=True)
    assert {name: (pairs.people.ids == name).sum() for name in set(pairs.people.ids)} == {"p0": 1, "p1": 3, "p2": 6}
    for name in ("p0", "p1", "p2"):
        assert pairs.weight[pairs.people.ids == name].sum() == pytest.approx(1.0)
    assert pairs.wanted.sum() == 3
    first = TrainingPairs.of(visited([2, 3, 4, 1]), every=False)
    np.testing.assert_array_equal(first.weight, 1.0)


# -- arguments of an imputation -------------------------------------------------------------------


class Asked:
    """A model that notes what it is asked, and how things are set then."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.calls: dict[str, tuple[Any, ...]] = {}
        self.set: set[tuple[str, str, int]] = set()

    def _note(self, name: str, people: People, draws: np.ndarray, *more: Any) -> None:
        self.calls[name] = (people.ids.tolist(), draws.tolist(), *more)
        backend = resolve("the sampler", CANDIDATES)
        self.set.add((backend, preferred_precision(), native.default_threads()))

    def mean(self, people: People, draws: np.ndarray, *more: Any) -> np.ndarray:
        self._note("mean", people, draws, *more)
        return np.zeros((len(people), self.width))

    def draw(self, people: People, draws: np.ndarray, *more: Any) -> np.ndarray:
        self._note("draw", people, draws, *more)
        return np.zeros((len(draws), len(people), self.width))

    def sample(self, people: People, draws: np.ndarray, *more: Any) -> np.ndarray:
        self._note("sample", people, draws, *more)
        return np.full((len(draws), len(people), 1), 5.0, dtype=np.float32)

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        self._note("finish", people, draws, seed, float(sampled.min()))
        return np.zeros((len(draws), len(people), self.width))


def test_what_is_asked_of_an_imputation_reaches_the_model_however_it_is_read(
    people: sg.SimulatedCohort, tmp_path: Path
) -> None:
    model = Asked(3)
    some = People.of(people.take(np.arange(4)), keep_known=False)
    numbers = np.array([2, 5])
    result = Imputation(
        model,
        some,
        people.features,
        "1",
        numbers,
        11,
        "ddim",
        5,
        backend="reference",
        precision="fp32",
        threads=3,
    )
    ids = some.ids.tolist()
    assert (result.draws.shape, result.mean.shape) == ((2, 4, 3), (4, 3))
    result.to_parquet(tmp_path / "draws.parquet")
    asked = (ids, [2, 5], 11, "ddim", 5)
    assert model.calls == {"draw": asked, "mean": asked, "sample": asked, "finish": (ids, [2, 5], 11, 5.0)}
    assert model.set == {("reference", "fp32", 3)}


def test_what_is_asked_of_an_imputer_is_what_the_imputation_holds(people: sg.SimulatedCohort, half: sg.Cohort) -> None:
    net = small(conditions=3 + people.static.shape[1])
    imputer = sg.SecondgramImputer("paper", backend="reference")
    imputer.model_ = PaperModel.around(net, people)
    imputer._remember(people)
    made = imputer.impute(half, 3, 11, "all", 4, "ddim", gap=2.5, precision="fp32", threads=2, show=False)
    assert made.draw_numbers.tolist() == [0, 1, 2]
    told = (made.seed, made.solver, made.steps, made.backend, made.precision, made.threads, made.visit)
    assert told == (11, "ddim", 4, "reference", "fp32", 2, people.followup_label)
    assert made.ids.tolist() == people.ids.tolist()
    assert np.isnan(made.people.known).all()
    unknown = ~np.isfinite(half.gap)
    assert unknown.sum() == 3
    assert (made.gap[unknown] == 2.5).all()
    np.testing.assert_array_equal(made.gap[~unknown], half.gap[~unknown])
    missing = imputer.impute(people, 1, show=False)
    assert missing.ids.tolist() == people.ids[~people.paired].tolist()
    assert set(imputer.impute(half, 1, show=False).gap[3:6]) == {np.median(people.gap[people.paired])}
    assert (missing.solver, missing.steps) == (None, None)


class Sampled:
    """A sampler that notes what it is made with and what it is asked."""

    made: list[Sampled]

    def __init__(self, net: Any, schedule: Any, *given: Any, **named: Any) -> None:
        self.net, self.schedule, self.prediction = net, schedule, named.get("prediction", "noise")
        type(self).made.append(self)

    def sample(
        self, c: np.ndarray, ids: Any, draws: Any, seed: int, solver: str, steps: Any, **more: Any
    ) -> np.ndarray:
        self.asked = {
            "c": c,
            "draws": np.asarray(draws).tolist(),
            "seed": seed,
            "solver": solver,
            "steps": steps,
        } | more
        # Told apart by network, draw, person and feature.
        shape = (len(draws), len(c), self.net.features)
        made = self.net.features * 100 + np.asarray(draws)[:, None, None] + np.zeros(shape)
        return (made + np.arange(shape[2]) / 10).astype(np.float32)


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> list[Sampled]:
    made: list[Sampled] = stood_in(monkeypatch, "Sampler", Sampled)
    return made


def test_the_networks_of_the_shape_are_sampled_as_asked(samplers: list[Sampled]) -> None:
    nets = [small(features=3), small(features=3)]
    schedule = Schedule.make("cosine", 100, zero_terminal=True)
    conditions, keys = np.ones((5, 4)), np.arange(5, dtype=np.uint64) + 7
    drawn = Shape(nets, schedule, np.array([0, 2])).draw(conditions, keys, np.array([3, 4, 6]), 11, "ddim", 5)
    assert [sampler.net for sampler in samplers] == nets
    for sampler, mine in zip(samplers, ([4, 6], [3]), strict=True):
        asked = sampler.asked
        assert (asked["draws"], asked["seed"], asked["solver"], asked["steps"]) == (mine, 11, "ddim", 5)
        assert (sampler.schedule, sampler.prediction) == (schedule, "v")
        assert asked["keys"].tolist() == keys.tolist()
    np.testing.assert_allclose(drawn[:, 0], [[303.0, 303.2], [304.0, 304.2], [306.0, 306.2]], rtol=1e-6)


@pytest.mark.parametrize("start", ["normal", "baseline"])
def test_the_published_network_is_sampled_as_asked(
    people: sg.SimulatedCohort, samplers: list[Sampled], start: str
) -> None:
    net = small(conditions=3 + people.static.shape[1])
    model = PaperModel.around(net, people)
    model.options = PaperOptions(start=start, solver="sde-dpm++2m", steps=9)
    shown = People.of(people, keep_known=False)
    for asked, expected in ((("ddim", 5), ("ddim", 5)), ((None, None), ("sde-dpm++2m", 9))):
        model.sample(shown, np.array([3, 4]), 11, *asked)
        got = samplers[-1].asked
        assert (got["draws"], got["seed"], got["solver"], got["steps"]) == ([3, 4], 11, *expected)
        assert got["start"] == start
        assert got["keys"].tolist() == shown.keys.tolist()
        np.testing.assert_allclose(got["c"][:, -3:], model.before.apply(people.baseline))


def test_draws_of_the_published_method_end_where_follow_ups_of_training_did(people: sg.SimulatedCohort) -> None:
    model = PaperModel.around(small(conditions=3 + people.static.shape[1]), people)
    shown = People.of(people, keep_known=False)
    far = np.tile(np.array([-3.0, 0.0, 3.0], dtype=np.float32), (1, len(people), 1))
    drawn = model.finish(shown, np.zeros(1, dtype=int), 0, far)[0]
    later = people.followup[people.paired]
    low, high = later.min(axis=0), later.max(axis=0)
    np.testing.assert_allclose(drawn, np.tile([low[0], (low[1] + high[1]) / 2, high[2]], (len(people), 1)), rtol=1e-5)


@pytest.mark.native
def test_a_precision_reaches_the_native_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    made = SimpleNamespace(sample=lambda *given, **named: np.zeros((1, 2, 3), dtype=np.float32))
    monkeypatch.setattr("secondgram.sampling.sampler.native_sampler", noting(asked, "sampler", made))
    net = small()
    for precision in ("fp32", "auto"):
        Sampler(net, backend="cpu", precision=precision).sample(np.zeros((2, 4)), ["a", "b"])
        given = asked["sampler"][0]
        assert (given[0], given[2]) == (net, precision)


@pytest.fixture(scope="module")
def half(people: sg.SimulatedCohort) -> sg.Cohort:
    """The same people; of some of them one cell of the follow-up is known, of others the time of it is not."""
    visits, times = people.visits.copy(), people.times.copy()
    single = np.flatnonzero(~people.paired)
    visits[single[:3], 1, 0] = people.truth[single[:3], 0]
    times[single[3:6], 1] = np.nan
    return replace(people, visits=visits, times=times)


@pytest.fixture(scope="module")
def ladder(people: sg.SimulatedCohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off", precision="fp32").fit(people, show=False)


def test_a_seed_and_the_numbers_of_draws_decide_them(ladder: sg.SecondgramImputer, half: sg.Cohort) -> None:
    """Of everybody, whether some of the follow-up is known or not."""
    model = ladder.model_
    shown = People.of(half.take(~half.paired | (np.isfinite(half.followup).sum(axis=1) == 1)), keep_known=True)
    drawn = model.draw(shown, np.arange(3), 7)
    open_cells = np.isnan(shown.known)
    assert (open_cells.sum(axis=1) == 2).sum() == 3
    np.testing.assert_array_equal(model.draw(shown, np.arange(3), 7), drawn)
    np.testing.assert_array_equal(model.draw(shown, np.array([2, 0]), 7), drawn[[2, 0]])
    assert (model.draw(shown, np.arange(3), 8) != drawn)[:, open_cells].all()
    assert (drawn[0] != drawn[1])[open_cells].all()
    other = replace(shown, keys=shown.keys + np.uint64(1))
    assert (model.draw(other, np.arange(3), 7) != drawn)[:, open_cells].all()


def test_solver_and_steps_reach_the_network_of_the_default_preset(
    ladder: sg.SecondgramImputer, people: sg.SimulatedCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ladder.model_
    assert isinstance(model, DefaultModel)
    asked: dict[str, Any] = {}
    shown = People.of(people, keep_known=False)
    nets = Shape([small()], Schedule.make("linear", 100, zero_terminal=True), np.array([0]))
    monkeypatch.setattr(model.joint, "shape", nets)
    monkeypatch.setattr(model.joint, "sample", noting(asked, "sample", np.zeros((2, len(people), 1))))
    for given, expected in ((("ddim", 5), ("ddim", 5)), ((None, None), (model.options.solver, model.options.steps))):
        for call in (model.sample, model.mean):
            call(shown, np.array([3, 4]), 11, *given)
            X, keys, draws, seed, *sampling = asked["sample"][0]
            assert (draws.tolist(), seed, tuple(sampling)) == ([3, 4], 11, expected)
            np.testing.assert_array_equal(keys, shown.keys)
            np.testing.assert_array_equal(X, model.context.inputs(shown))
    with pytest.raises(sg.InputError, match="solver steps"):
        model.check("ddim", 5000)


def test_what_a_fit_is_asked_reaches_the_model(
    people: sg.SimulatedCohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    class Fitted:
        @classmethod
        def fit(cls, train: sg.Cohort, options: Any, *, seed: int, run: Run) -> Fitted:
            set_to = resolve("the sampler", CANDIDATES), preferred_precision(), torch.get_num_threads()
            asked["fit"] = train, options, seed, run, set_to
            return cls()

        def resolved_precision(self) -> str:
            return "fp32"

    monkeypatch.setitem(PRESETS, "paper", (PaperOptions, Fitted))
    made = sg.SecondgramImputer("paper", 4, backend="reference", precision="auto", epochs=3)
    made.fit(people, state=tmp_path / "state", state_every=2.5, resume=True, show=False)
    train, options, seed, run, set_to = asked["fit"]
    assert train is people
    assert (options.epochs, seed, set_to) == (3, 4, ("reference", "fp32", 1))
    assert run == Run(tmp_path / "state", 2.5, True, False)


class Telling(Asked):
    """Draws that say whose they are, and which."""

    def finish(self, people: People, draws: np.ndarray, seed: int, sampled: np.ndarray) -> np.ndarray:
        who = np.array([int(name[-4:]) for name in people.ids])
        return 100.0 * who[None, :, None] + draws[:, None, None] + np.arange(self.width) / 10


def told(people: sg.SimulatedCohort, model: Any = None) -> Imputation:
    ids = np.array([f"p{number:04d}" for number in range(5)], dtype=object)
    some = replace(People.of(people.take(np.arange(5)), keep_known=False), ids=ids)
    return Imputation(model or Telling(3), some, people.features, "1", np.array([2, 5]), 11, precision="fp32")


def test_a_file_says_whose_draw_each_row_is(
    people: sg.SimulatedCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", 12)
    told(people).to_parquet(tmp_path / "draws.parquet")
    table = pd.read_parquet(tmp_path / "draws.parquet")
    assert table["subject_id"].tolist() == [f"p{number:04d}" for number in range(5) for _ in range(2)]
    assert table["draw"].tolist() == [2, 5] * 5
    assert set(table["visit"]) == {"1"}
    for place, name in enumerate(people.features):
        expected = 100.0 * np.repeat(np.arange(5), 2) + table["draw"] + place / 10
        np.testing.assert_allclose(table[name], expected)


OTHERS: dict[str, Callable[[Imputation], Imputation]] = {
    "seed": lambda made: replace(made, seed=12),
    "solver": lambda made: replace(made, solver="ddim"),
    "steps": lambda made: replace(made, steps=5),
    "draws": lambda made: replace(made, draw_numbers=np.array([2])),
    "numbers": lambda made: replace(made, draw_numbers=np.array([2, 6])),
    "visit": lambda made: replace(made, visit="2"),
    "features": lambda made: replace(made, features=made.features[::-1]),
    "backend": lambda made: replace(made, backend="reference"),
    "precision": lambda made: replace(made, precision="bf16"),
    "gap": lambda made: replace(made, people=replace(made.people, gap=made.people.gap + 1)),
    "baseline": lambda made: replace(made, people=replace(made.people, baseline=made.people.baseline + 1)),
    "known": lambda made: replace(made, people=replace(made.people, known=made.people.baseline)),
    "keys": lambda made: replace(made, people=replace(made.people, keys=made.people.keys + np.uint64(1))),
    "site": lambda made: replace(made, people=replace(made.people, site=np.array(["A"] * 5, dtype=object))),
    "covariates": lambda made: replace(made, people=replace(made.people, table=made.people.table.iloc[::-1])),
}


def test_all_that_decides_draws_is_told_of_them(people: sg.SimulatedCohort) -> None:
    made = told(people)
    facts = made._facts()
    assert told(people)._facts() == facts
    assert not [name for name, other in OTHERS.items() if other(made)._facts() == facts]


def test_parts_of_another_imputation_are_not_gone_on_from(people: sg.SimulatedCohort, tmp_path: Path) -> None:
    class Stopped(Telling):
        def finish(self, *given: Any) -> np.ndarray:
            raise KeyboardInterrupt

    out = tmp_path / "draws.parquet"
    with pytest.raises(KeyboardInterrupt):
        told(people, Stopped(3)).to_parquet(out)
    made = told(people)
    with pytest.raises(sg.InputError, match="parts of another imputation"):
        OTHERS["seed"](made).to_parquet(out, resume=True)
    made.to_parquet(out, resume=True)
    # What was sampled before is not sampled again.
    assert set(made.model.calls) == set()  # type: ignore[attr-defined]


def test_refitted_models_differ_in_people_and_noise(
    people: sg.SimulatedCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Refitted:
        def __init__(self, **named: Any) -> None:
            self.named = named
            made.append(self)

        def fit(self, cohort: sg.Cohort, show: bool) -> Refitted:
            self.people = [str(name).split("#")[0] for name in cohort.ids]
            return self

        def impute(self, cohort: sg.Cohort, **asked: Any) -> Any:
            self.imputed, self.asked = cohort, asked
            return self

    monkeypatch.setattr("secondgram.imputation.refit.SecondgramImputer", Refitted)
    plain = sg.SecondgramImputer("paper", 4, epochs=3)
    impute_refitted(plain, people, 3, 9, show=False, who="all", gap=2.0)
    assert [each.named for each in made] == [plain.get_params()] * 3
    assert len({tuple(each.people) for each in made}) == 3
    assert len({each.asked["seed"] for each in made}) == 3
    for each in made:
        assert each.imputed is people
        assert each.asked == {"draws": 1, "seed": each.asked["seed"], "show": False, "who": "all", "gap": 2.0}


# -- options --------------------------------------------------------------------------------------


def changed(options: Any, fixed: Sequence[str]) -> dict[str, Any]:
    """Another value for every field of preset options that training takes too."""
    shared = [each.name for each in fields(TrainingOptions) if hasattr(options, each.name) and each.name not in fixed]
    return {name: getattr(options, name) + (1 if name != "dropout" else 0.5) for name in shared if name != "average"}


def test_options_of_a_preset_are_those_of_its_training() -> None:
    for options, fixed in ((PaperOptions(), ()), (DefaultOptions(), ("prediction", "whole_steps"))):
        told = changed(options, ("gradients", *fixed)) | {"gradients": "pcgrad"}
        training = replace(options, **told).training()
        assert {name: getattr(training, name) for name in told} == told
    training = DefaultOptions(average=0.5).training()
    assert (training.average, training.prediction, training.whole_steps) == (0.5, "v", False)
    assert (PaperOptions().training().prediction, PaperOptions().training().whole_steps) == ("noise", True)


def test_options_of_the_default_preset_are_those_of_its_shape() -> None:
    told = {"components": 3, "networks": 5, "schedule": "cosine", "embedding": 32, "solver": "ddim", "steps": 7}
    options = DefaultOptions(widths=(9, 8, 7), **told)  # type: ignore[arg-type]
    shaping = options.shaping()
    assert {name: getattr(shaping, name) for name in told} == told
    assert (shaping.widths, shaping.training) == ((9, 8, 7), options.training())


# -- commands -------------------------------------------------------------------------------------


def test_options_of_impute_reach_the_imputer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    asked: dict[str, Any] = {}
    imputer = SimpleNamespace(impute=noting(asked, "impute", SimpleNamespace(notes=[], ids=[1])))
    monkeypatch.setattr("secondgram.imputation.imputer.load", noting(asked, "load", imputer))
    monkeypatch.setattr("secondgram.cli._cohort", noting(asked, "cohort", "the cohort"))
    monkeypatch.chdir(tmp_path)
    Path("good.csv").touch()
    out = tmp_path / "out.parquet"
    Path("model").mkdir()
    words = "--draws 3 --seed 11 --who all --steps 5 --solver ddim --gap 2.5 --precision bf16 --threads 2 --resume "
    words += "--history all --checks warn --visits missing --at 2.5,5"
    outcome = cli("impute", "model", "good.csv", "--out", out, *words.split(), "--site", "centre", "--quiet")
    assert outcome.code == 0, outcome.err
    given, named = asked["impute"]
    assert given == ("the cohort", 3, 11, "all", 5, "ddim", out)
    options = {"gap": 2.5, "history": "all", "resume": True, "show": False, "precision": "bf16", "threads": 2}
    assert named == options | {"checks": "warn", "visits": "missing", "at": [2.5, 5.0]}
    path, quiet, roles, like = asked["cohort"][0]
    assert (path, quiet, roles["site"], roles["visits"], like) == ([Path("good.csv")], True, "centre", None, imputer)
    # Labels are the order of the table's visits, as everywhere.
    outcome = cli("impute", "model", "good.csv", "--out", out, "--visits", "b,a", "--quiet")
    assert outcome.code == 0, outcome.err
    assert asked["impute"][1]["visits"] is None
    assert asked["impute"][1]["at"] == []
    assert asked["cohort"][0][2]["visits"] == "b,a"


@pytest.mark.parametrize("resume", [True, False])
def test_options_of_fit_reach_the_imputer(
    resume: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    asked: dict[str, Any] = {}
    # What a stopped run left.
    state = tmp_path / ".model.training"
    state.mkdir()

    def fit(*given: Any, **named: Any) -> None:
        asked["fit"], asked["kept"] = (given, named), state.exists()

    def made(*given: Any, **named: Any) -> Any:
        asked["made"] = given, named
        return SimpleNamespace(fit=fit, save=noting(asked, "save"), model_=SimpleNamespace(summary=lambda: []))

    monkeypatch.setattr("secondgram.imputation.imputer.SecondgramImputer", made)
    monkeypatch.setattr("secondgram.cli._cohort", noting(asked, "cohort", "the cohort"))
    monkeypatch.chdir(tmp_path)
    Path("good.csv").touch()
    out = tmp_path / "model"
    words = "--preset paper --seed 4 --precision fp32 --set epochs=3 --set solver=ddim --save-every 2.5"
    words += " --kind W*=count"
    outcome = cli("fit", "good.csv", "--out", out, *words.split(), "--quiet", *["--resume"] * resume)
    assert outcome.code == 0, outcome.err
    given = {"precision": "fp32", "kinds": {"W*": "count"}, "epochs": 3, "solver": "ddim"}
    assert asked["made"] == (("paper", 4), given)
    assert asked["fit"] == (("the cohort",), {"state": state, "state_every": 2.5, "resume": resume, "show": False})
    assert (asked["kept"], state.exists()) == (resume, False)
    assert asked["save"] == ((out,), {})


def test_options_of_compare_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Callable[..., Any]) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("secondgram.comparison.compare.compare", noting(asked, "compare"))
    monkeypatch.setattr("secondgram.comparison.run_folder.show_comparison", noting(asked, "show"))
    monkeypatch.setattr("secondgram.cli._cohort", noting(asked, "cohort", "the cohort"))
    monkeypatch.chdir(tmp_path)
    Path("good.csv").touch()
    out = tmp_path / "run"
    words = "--methods ridge,paper --folds 3 --repeats 2 --draws 9 --task forecast --seed 4 --time-limit 60 --quiet"
    outcome = cli("compare", "good.csv", "--out", out, *words.split())
    assert outcome.code == 0, outcome.err
    given, named = asked["compare"]
    assert given == ("the cohort", ["ridge", "paper"], 3, 9)
    assert named == {"task": "forecast", "seed": 4, "repeats": 2, "out": out, "time_limit": 60.0, "show": False}


def test_options_of_simulate_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Callable[..., Any]) -> None:
    asked: dict[str, Any] = {}
    written = SimpleNamespace(write=noting(asked, "write"), write_truth=noting(asked, "truth"))
    monkeypatch.setattr("secondgram.cohort.simulate", noting(asked, "simulate", written))
    words = "--subjects 30 --features 4 --paired 0.4 --seed 6 --mode converters --selection health"
    outcome = cli("simulate", "--out", tmp_path / "made.csv", *words.split())
    assert outcome.code == 0, outcome.err
    unsaid = dict.fromkeys(("visits", "slope", "wander", "sites", "dropout"))
    assert asked["simulate"] == ((30, 4, 0.4, 6, "converters", "health"), unsaid)
    assert (asked["write"][0], asked["truth"][0]) == ((tmp_path / "made.csv",), (tmp_path / "made-truth.csv",))
    more = "--mode trajectories --visits 4 --slope 0.1 --wander 0.2 --sites 3 --dropout 0.5"
    assert cli("simulate", "--out", tmp_path / "more.csv", *more.split()).code == 0
    assert asked["simulate"][1] == {"visits": 4, "slope": 0.1, "wander": 0.2, "sites": 3, "dropout": 0.5}


# -- the report -----------------------------------------------------------------------------------


def test_the_inner_interval_of_the_report_lies_within_the_outer_one(people: sg.SimulatedCohort, tmp_path: Path) -> None:
    judge = people.take(np.arange(6))
    order = np.random.default_rng(0).permutation(99)
    # Draw k of a cell is the k-th smallest, in another order.
    draws = judge.truth + (order[:, None, None] - 49.0)
    evidence = Evidence(tmp_path, ["default", "ridge"])
    scaling = SharedScaling(np.zeros((1, 3)), np.ones((1, 3)))
    evidence.add("default", people.take(np.arange(6, 90)), judge, scaling, draws)
    (drawn,) = evidence.drawn["default"]
    found = drawn.ends - judge.truth
    # Of 99 draws the central 90 % lie between the 5th and the 95th, the central half between the 25th and the 75th.
    expected = np.broadcast_to(np.array([-45.0, -25.0, 25.0, 45.0])[:, None, None], (4, 6, 3))
    np.testing.assert_allclose(found, expected, atol=1e-3)
