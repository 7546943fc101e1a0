"""What secondgram gives to those who add a model: the contract, which sees every kind of breach, and the strategies."""

from __future__ import annotations

import builtins
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings

import secondgram as sg
from secondgram.cohort.formats import read_cohort
from secondgram.comparison.methods import BASELINES, RIVALS
from secondgram.comparison.methods.linear import RidgeGaussian
from secondgram.imputation.model_data import People
from secondgram.imputation.result import Imputation
from secondgram.ops.noise import Purpose, normals
from secondgram.testing import BrokenContractError, Table, check_model, cohorts, tables
from secondgram.testing.checks import CHECKS
from secondgram.testing.material import people_to_impute, study

DOCS = Path(__file__).resolve().parents[1] / "docs" / "testing.md"
QUICK = settings(database=None, deadline=None, report_multiple_bugs=False)
TINY: dict[str, Any] = {"embedding": 8, "widths": [8, 8, 8], "epochs": 1}
# What a method that is no imputer is not asked.
OF_IMPUTERS = {"people without a baseline", "features by name", "saving and loading"}


@pytest.fixture
def shaped(monkeypatch: pytest.MonkeyPatch) -> sg.SecondgramImputer:
    """The preset `default` with a denoiser; one epoch earns nothing, and what earns nothing is dropped."""
    monkeypatch.setattr(
        "secondgram.imputation.default.shape._fall", lambda net, *arguments: (np.ones((9, 4)), np.ones((9, 4)))
    )
    return sg.SecondgramImputer("default", components=4, **TINY)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_preset_keeps_the_contract(preset, shaped):
    imputer = shaped if preset == "default" else sg.SecondgramImputer("paper", steps=4, **TINY)
    outcomes = check_model(imputer)
    assert outcomes == dict.fromkeys(CHECKS, "holds")
    assert not hasattr(imputer, "model_")


@pytest.mark.parametrize("name", [name for name in BASELINES | RIVALS if name != "wgan-gp"])
def test_a_method_keeps_the_contract(name):
    outcomes = check_model((BASELINES | RIVALS)[name])
    left = {check for check, outcome in outcomes.items() if outcome != "holds"}
    points = {"more draws", "other seeds"} if name in ("carry-forward", "mean-change", "ridge") else set()
    assert left == OF_IMPUTERS | {"known cells"} | points
    assert all(outcomes[check].startswith("not checked: ") for check in left)


def test_a_fitted_model_is_tried_on_the_people_given(imputers, cohort):
    assert check_model(imputers["off"], cohort)["fitting again"] == "not checked: it came fitted"
    outcomes = check_model(imputers["off"].model_, cohort)
    assert {check for check, outcome in outcomes.items() if outcome != "holds"} == OF_IMPUTERS | {"fitting again"}


def test_the_people_have_what_real_ones_lack():
    people = people_to_impute(study())
    measured = np.isfinite(people.followup)
    assert len(people) == 24
    assert (measured.any(axis=1) & ~measured.all(axis=1)).sum() >= 4
    assert measured.all(axis=1).any()
    assert (~people.scanned).sum() == 2
    assert (people.scanned & ~np.isfinite(people.baseline).all(axis=1)).any()
    assert np.isnan(people.gap).any()
    assert (study().visits[0] == study().visits[0]).all()


# -- every kind of breach ----------------------------------------------------------------------------


class Plain:
    """The baseline of each person, filled where it is missing, with keyed noise of a learned size."""

    def fit(self, train: sg.Cohort, seed: int) -> Any:
        change = (train.followup - train.baseline)[train.paired]
        self.center, self.spread = np.nanmean(train.baseline, axis=0), np.nanstd(change, axis=0)
        return self

    def level(self, people: People) -> np.ndarray:
        return np.where(np.isfinite(people.baseline), people.baseline, self.center)

    def mean(self, people: People, draws: np.ndarray, seed: int, solver: Any = None, steps: Any = None) -> np.ndarray:
        return self.level(people)

    def noise(self, people: People, draws: np.ndarray, seed: int) -> np.ndarray:
        return normals(people.keys, len(self.spread), seed=seed, purpose=Purpose.COMPONENTS, draws=draws)

    def draw(self, people: People, draws: np.ndarray, seed: int, solver: Any = None, steps: Any = None) -> np.ndarray:
        return self.level(people) + self.spread * self.noise(people, draws, seed)


class ByPlace(Plain):
    def noise(self, people, draws, seed):
        return np.random.default_rng(seed).normal(size=(len(draws), *people.baseline.shape))


class ByCount(Plain):
    def noise(self, people, draws, seed):
        return super().noise(people, draws, seed + len(draws))


class Company(Plain):
    def level(self, people):
        return super().level(people) - np.nanmean(people.baseline, axis=0)


class Holes(Plain):
    def level(self, people):
        return people.baseline + 0


class Shared(Plain):
    def noise(self, people, draws, seed):
        np.random.seed(seed)  # noqa: NPY002
        return super().noise(people, draws, seed) + np.random.normal()  # noqa: NPY002


class Global(Plain):
    def noise(self, people, draws, seed):
        return torch.randn(len(draws), *people.baseline.shape).numpy()


class NoSeed(Plain):
    def noise(self, people, draws, seed):
        return super().noise(people, draws, 0)


class OneDraw(Plain):
    def noise(self, people, draws, seed):
        return super().noise(people, np.zeros_like(draws), seed)


class Careless(Plain):
    def level(self, people):
        people.baseline[np.isnan(people.baseline)] = 0.0
        return people.baseline.copy()


class Aliased(Plain):
    """Gives its own array of the last call again, as a cache might."""

    kept: Any = None

    def draw(self, people, draws, seed, solver=None, steps=None):
        key = (tuple(people.ids), tuple(draws), seed)
        if self.kept is None or self.kept[0] != key:
            self.kept = key, super().draw(people, draws, seed)
        return self.kept[1]


class Turned(Plain):
    def draw(self, people, draws, seed, solver=None, steps=None):
        return super().draw(people, draws, seed).transpose(1, 0, 2)


class Threaded(Plain):
    def level(self, people):
        return super().level(people) + torch.get_num_threads()


class Unsteady(Plain):
    def fit(self, train, seed):
        super().fit(train, seed)
        self.center = self.center + np.random.default_rng().normal()
        return self


class Crashes(Plain):
    def draw(self, people, draws, seed, solver=None, steps=None):
        if len(people) == 1:
            raise ValueError("cannot standardise one row")
        return super().draw(people, draws, seed)


BREACHES: dict[type[Plain], set[str]] = {
    ByPlace: {"order of people", "subsets of people", "chunks", "more draws"},
    ByCount: {"more draws"},
    Company: {"subsets of people", "chunks"},
    Holes: {"nothing missing"},
    Shared: {"random numbers of others"},
    Global: {"repetition", "order of people", "random numbers of others"},
    NoSeed: {"other seeds"},
    OneDraw: {"other seeds"},
    Careless: {"cohort unchanged"},
    Aliased: {"results of their own"},
    Turned: {"shapes"},
    Threaded: {"threads"},
    Unsteady: {"fitting again"},
    Crashes: {"subsets of people"},
}


def failures(model: Any, cohort: sg.Cohort | None = None) -> dict[str, str]:
    with pytest.raises(BrokenContractError) as raised:
        check_model(model, cohort)
    assert isinstance(raised.value, AssertionError)
    for name, text in raised.value.failures.items():
        assert f"- {name}: {text}" in str(raised.value)
    return raised.value.failures


def test_the_plain_model_keeps_the_contract():
    assert set(check_model(Plain).values()) >= {"holds"}


@pytest.mark.parametrize("model", BREACHES, ids=lambda model: model.__name__)
def test_a_breach_is_told_with_its_mend(model):
    found = failures(model)
    assert BREACHES[model] <= set(found)
    for text in found.values():
        assert re.search(r"\. [A-Z].*\.$", text) or "stops with" in text, text


def test_only_the_check_that_is_broken_fails():
    assert set(failures(ByCount)) == {"more draws"}
    assert set(failures(Holes)) == {"nothing missing"}
    assert set(failures(NoSeed)) == {"other seeds"}
    assert set(failures(Unsteady)) == {"fitting again"}


def test_an_exception_is_told_and_shown():
    with pytest.raises(BrokenContractError, match="stops with ValueError: cannot standardise one row") as raised:
        check_model(Crashes)
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.fixture(scope="module")
def fitted() -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(study(), show=False)


def breach(imputer: sg.SecondgramImputer, change: Callable[[Imputation], Imputation]) -> Any:
    """A copy of an imputer of which each result is changed."""

    class Changed(sg.SecondgramImputer):
        def impute(self, *given: Any, **named: Any) -> Any:
            return change(super().impute(*given, **named))

    copy = Changed(shape="off")
    copy.__dict__.update(imputer.__dict__)
    return copy


def with_model(result: Imputation, **methods: Any) -> Imputation:
    model = type("Changed", (type(result.model),), methods)
    made: Any = object.__new__(model)
    made.__dict__.update(vars(result.model))
    return replace(result, model=made)


def test_a_measured_cell_that_changes_is_told(fitted):
    def finish(self: Any, people: People, *given: Any) -> np.ndarray:
        return super(type(self), self).finish(replace(people, known=np.full_like(people.known, np.nan)), *given)

    found = failures(breach(fitted, lambda result: with_model(result, finish=finish)), study())
    assert "people.with_known(draws)" in found["known cells"]


def test_a_followup_that_is_looked_at_is_told(fitted):
    everyone = study()
    change = {name: np.nan_to_num(row, nan=0.0) for name, row in zip(everyone.ids, everyone.followup, strict=True)}

    def leaking(result: Imputation) -> Imputation:
        seen = np.stack([change[name] for name in result.ids]) if len(shown) else 0.0
        return replace(result, people=replace(result.people, baseline=result.people.baseline + seen))

    class Leaks(sg.SecondgramImputer):
        def impute(self, cohort: sg.Cohort, *given: Any, **named: Any) -> Any:
            shown[:] = [1] if np.isfinite(cohort.followup).any() else []
            return leaking(super().impute(cohort, *given, **named))

    shown: list[int] = []
    copy = Leaks(shape="off")
    copy.__dict__.update(fitted.__dict__)
    assert "hidden follow-ups" in failures(copy, everyone)


def test_a_chunk_that_is_treated_by_itself_is_told(fitted):
    def finish(self: Any, people: People, *given: Any) -> np.ndarray:
        drawn = super(type(self), self).finish(people, *given)
        return people.with_known(drawn - drawn.mean(axis=1, keepdims=True))

    found = failures(breach(fitted, lambda result: with_model(result, finish=finish)), study())
    assert {"chunks", "subsets of people"} <= set(found)


def test_people_without_a_baseline_and_features_by_place_are_told(fitted):
    class ByPlaceOfFeature(sg.SecondgramImputer):
        def impute(self, cohort: sg.Cohort, *given: Any, **named: Any) -> Any:
            width = len(self.columns_.features)
            cut = replace(cohort, visits=cohort.visits[:, :, :width], features=tuple(self.columns_.features))
            result = super().impute(cut, *given, **named)
            result.notes.clear()
            return result

    copy = ByPlaceOfFeature(shape="off")
    copy.__dict__.update(fitted.__dict__)
    found = failures(copy, study())
    assert set(found) == {"people without a baseline", "features by name"}
    assert "notes" in found["people without a baseline"]


def test_a_model_that_forgets_when_it_is_saved_is_told(fitted, monkeypatch):
    kind = type(fitted.model_)
    plain = kind.state

    def forgetful(self: Any) -> dict[str, Any]:
        told = plain(self)
        change = told["mean_change"]["map"]
        return told | {"mean_change": told["mean_change"] | {"map": change | {"W": change["W"] * 0.5}}}

    monkeypatch.setattr(kind, "state", forgetful)
    assert set(failures(fitted, study())) == {"saving and loading"}


# -- arguments ----------------------------------------------------------------------------


def test_checks_can_be_left_out_by_name():
    assert check_model(NoSeed, skip=["other seeds"])["other seeds"] == "not checked: skipped as asked"
    with pytest.raises(sg.InputError, match="no check colour"):
        check_model(Plain, skip=["colour"])


def test_what_is_no_model_is_told(fitted):
    with pytest.raises(sg.InputError, match="neither impute, nor mean and draw"):
        check_model(3)
    for model in (fitted, fitted.model_):
        with pytest.raises(sg.InputError, match="is fitted, and there is no cohort"):
            check_model(model)


def test_a_model_learns_from_the_cohort_given():
    seen: list[int] = []

    class Noting(RidgeGaussian):
        def fit(self, train: sg.Cohort, seed: int) -> Any:
            seen.append(len(train))
            return super().fit(train, seed)

    check_model(Noting(), sg.simulate(80, 2, 0.5, seed=1, mode="gaussian"))
    assert seen == [80, 80]


def test_the_page_tells_of_every_check():
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == {name: (check.__doc__ or "").strip() for name, check in CHECKS.items()}


# -- strategies ----------------------------------------------------------------------------


@given(cohorts(people=(2, 4), features=(1, 3), visits=(2, 3)))
@settings(max_examples=25, deadline=None)
def test_cohorts_are_what_was_asked_for(cohort):
    people, visits, width = cohort.visits.shape
    assert 2 <= people <= 4
    assert 1 <= width <= 3
    assert 2 <= visits <= 3
    measured = np.isfinite(cohort.visits)
    assert measured.any(axis=(1, 2)).all()
    assert measured.any(axis=(0, 2)).all()
    assert 1 <= cohort.target < visits
    cohort.pairs()
    assert not any(
        column.isna().all() for _, column in cohort.covariate_table.items() if str(column.dtype) == "category"
    )


@given(cohorts(dtype=np.float32, missing=False))
@settings(max_examples=20, deadline=None)
def test_cohorts_without_holes(cohort):
    assert cohort.visits.dtype == np.float32
    assert np.isfinite(cohort.visits).all()
    assert cohort.covariate_table.notna().all(axis=None)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda cohort: np.isnan(cohort.visits).any(),
        lambda cohort: cohort.site is not None and cohort.groups is not None,
        lambda cohort: len(cohort.covariate_table.select_dtypes("category").columns) == 1,
        lambda cohort: np.isfinite(cohort.times).any(),
        lambda cohort: cohort.target == 2,
        lambda cohort: any(not name.isascii() for name in cohort.ids),
        lambda cohort: any("," in name for name in cohort.features),
        lambda cohort: np.abs(cohort.visits[np.isfinite(cohort.visits)]).max() > 1e100,
    ],
)
def test_cohorts_come_in_every_kind(wanted):
    quick = settings(QUICK, max_examples=1000, phases=[Phase.generate])
    assert wanted(find(cohorts(), wanted, settings=quick))


def test_a_cohort_shrinks_to_what_matters():
    quick = settings(QUICK, max_examples=20, phases=[Phase.generate, Phase.shrink])
    least = find(cohorts(), lambda cohort: cohort.site is not None and len(cohort) > 1, settings=quick)
    assert (least.visits.shape, least.groups, len(least.covariate_table.columns)) == ((2, 1, 1), None, 0)
    assert set(least.visits.ravel()) == {0.0}


# The first example is the simplest.
def test_the_simplest_cohort_and_table_are_plain():
    quick = settings(QUICK, max_examples=1, phases=[Phase.generate, Phase.shrink])
    least = find(cohorts(), lambda cohort: True, settings=quick)
    assert least.visits.tolist() == [[[0.0]]]
    assert (least.site, least.groups, len(least.covariate_table.columns)) == (None, None, 0)
    table = find(tables(), lambda table: True, settings=quick)
    assert (table.name, table.layout, len(table.content.splitlines())) == ("table.csv", "long", 2)


@given(table=tables())
@settings(max_examples=40, deadline=None)
def test_a_table_reads_as_its_cohort(table: Table, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"property-{table.name}"
    path.write_bytes(table.content)
    read, cohort = read_cohort(path, **table.arguments), table.cohort
    assert read.ids.tolist() == cohort.ids.tolist()
    assert (read.features, read.visit_labels, read.target) == (cohort.features, cohort.visit_labels, cohort.target)
    np.testing.assert_array_equal(read.visits, cohort.visits)
    np.testing.assert_array_equal(read.times, cohort.times)
    for name in ("covariate_table", "outcomes"):
        one, two = getattr(read, name), getattr(cohort, name)
        assert list(one) == list(two)
        for column in one:
            assert one[column].dtype == two[column].dtype
            assert one[column].equals(two[column])
    for name in ("groups", "site"):
        one, two = getattr(read, name), getattr(cohort, name)
        assert (one is None) == (two is None)
        assert one is None or one.tolist() == two.tolist()


def test_hypothesis_is_asked_for_only_by_strategies(monkeypatch):
    def absent(name: str, *given: Any, **named: Any) -> Any:
        if name.split(".")[0] == "hypothesis":
            raise ImportError(name)
        return plain(name, *given, **named)

    plain = builtins.__import__
    for name in [name for name in sys.modules if name.startswith("secondgram.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    testing = importlib.import_module("secondgram.testing")
    assert testing.check_model.__name__ == "check_model"
    for name in ("cohorts", "tables"):
        with pytest.raises(ImportError, match=r"need hypothesis: pip install 'secondgram\[testing\]'"):
            getattr(testing, name)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        testing.colour  # noqa: B018
