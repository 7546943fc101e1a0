"""Kinds of features: recognised or declared, and draws that keep to what each can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.draws_file import read_draws
from secondgram.imputation.kinds import choice
from secondgram.imputation.kinds.choice import Scores
from secondgram.imputation.kinds.cumulative import fit_cumulative
from secondgram.imputation.kinds.declared import declared_kinds, parsed_kind
from secondgram.imputation.kinds.levelled import Levelled, Score, fit_levelled
from secondgram.imputation.kinds.recognise import Kind, kind_of, recognised
from secondgram.imputation.kinds.support import SoftBounds, soft_bounds
from secondgram.imputation.kinds.supported_model import SupportedModel
from secondgram.testing import check_model

PEOPLE, PAIRS = 120, 70
NAMES = ("Hippocampus", "Thalamus", "InfLatVent", "percent", "bleeds", "MMSE", "open", "WMH", "voxels")


def made(people: int = PEOPLE, pairs: int = PAIRS, seed: int = 0) -> sg.Cohort:
    """One feature or two of every kind."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(people, 1)) * 0.6 + 0.8 * rng.normal(size=(people, len(NAMES)))
    gap = rng.uniform(1, 4, people)
    visits = np.empty((people, 2, len(NAMES)))
    for visit in range(2):
        L = state + 0.15 * visit * gap[:, None] + 0.25 * rng.normal(size=state.shape)
        volume = 4000 + 400 * L
        visits[:, visit] = np.stack(
            [
                volume[:, 0],
                volume[:, 1],
                300 * np.exp(0.9 * L[:, 2]),
                100 / (1 + np.exp(-1 - 1.5 * L[:, 3])),
                rng.poisson(np.exp(0.3 + 0.7 * L[:, 4])),
                np.clip(np.rint(29 - L[:, 5]), 0, 30),
                L[:, 6] > 0.3,
                np.where(L[:, 7] > 0, 150 * np.expm1(1.5 * L[:, 7]), 0.0),
                np.rint(volume[:, 8]),
            ],
            axis=1,
        )
    visits[pairs:, 1] = np.nan
    table = pd.DataFrame({"age": rng.normal(65, 8, people)})
    times = np.stack([np.zeros(people), gap], axis=1)
    return sg.Cohort(np.arange(people).astype(str), visits, NAMES, ("0", "1"), times, table)


@pytest.fixture(scope="module")
def cohort() -> sg.Cohort:
    return made()


def only(cohort: sg.Cohort, *names: str) -> sg.Cohort:
    """Some of its features."""
    places = [NAMES.index(name) for name in names]
    return replace(cohort, visits=cohort.visits[:, :, places], features=names)


@pytest.fixture(scope="module")
def few(cohort: sg.Cohort) -> sg.Cohort:
    return only(cohort, "Hippocampus", "WMH")


@pytest.fixture(scope="module")
def imputer(cohort: sg.Cohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(cohort, show=False)


@pytest.fixture(scope="module")
def result(imputer: sg.SecondgramImputer, cohort: sg.Cohort) -> sg.Imputation:
    return imputer.impute(cohort, draws=200, show=False)


# -- what is recognised ------------------------------------------------------------------------------


def test_each_kind_is_recognised(cohort):
    names = [kind.name for kind in recognised(cohort, {})]
    assert names == [
        "continuous",
        "continuous",
        "positive",
        "bounded",
        "count",
        "ordinal",
        "binary",
        "zero-inflated",
        "continuous",
    ]
    whole = [name for name, kind in zip(NAMES, recognised(cohort, {}), strict=True) if kind.whole]
    assert whole == ["bleeds", "MMSE", "open", "voxels"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (lambda rng: rng.normal(0, 1, 300), Kind()),
        (lambda rng: rng.normal(2.5, 0.2, 300), Kind()),
        (lambda rng: rng.normal(0.45, 0.03, 300), Kind()),
        (lambda rng: rng.normal(60, 6, 300), Kind()),
        (lambda rng: np.rint(rng.normal(7000, 500, 300)), Kind(whole=True)),
        (lambda rng: np.rint(rng.normal(0, 50, 300)), Kind(whole=True)),
        (lambda rng: rng.lognormal(0, 0.8, 300), Kind("positive", 0.0)),
        (lambda rng: rng.beta(5, 1, 300), Kind("bounded", 0.0, 1.0)),
        (lambda rng: rng.poisson(4, 300).astype(float), Kind("count", 0.0, whole=True)),
        (lambda rng: rng.integers(1, 5, 300).astype(float), Kind("ordinal", 1.0, 4.0, True)),
        (lambda rng: rng.choice([0.0, 0.5, 1.0, 2.0, 3.0], 300), Kind("ordinal", 0.0, 3.0, levels=(0, 0.5, 1, 2, 3))),
        (lambda rng: rng.integers(1, 3, 300).astype(float), Kind("binary", 1.0, 2.0, True, (1.0, 2.0))),
    ],
)
def test_kinds_by_values(values, kind):
    column = values(np.random.default_rng(1))
    found = kind_of(column, column.min(), column.max(), bool((column == np.rint(column)).all()))
    assert replace(found, share=0.0) == kind


def test_a_share_that_reaches_its_end_has_an_atom_there():
    column = np.minimum(np.random.default_rng(0).normal(0.9, 0.1, 400), 1.0)
    found = kind_of(np.abs(column), float(np.abs(column).min()), 1.0, False)
    assert (found.name, found.low, found.high, found.atoms) == ("bounded", 0.0, 1.0, (False, True))
    assert found.by_levels


def test_few_values_tell_no_kind():
    column = np.arange(19.0) % 4
    assert kind_of(column, 0.0, 3.0, True) == Kind()


def test_what_only_some_of_many_rows_show_is_no_whole_number(cohort, monkeypatch):
    monkeypatch.setattr("secondgram.imputation.kinds.recognise.LOOKED_AT", 60)
    visits = cohort.visits.copy()
    assert recognised(cohort, {})[8].whole
    visits[1, 0, 8] += 0.5
    assert not recognised(replace(cohort, visits=visits), {})[8].whole


# -- what is declared --------------------------------------------------------------------------------


def test_a_declaration_is_read():
    assert parsed_kind("bounded(0, 30)") == Kind("bounded", 0.0, 30.0)
    assert parsed_kind(" zero inflated ") == Kind("zero-inflated")
    for text in ("postive", "bounded(30, 0)", "bounded(a, b)", "count(0, 3)", ""):
        with pytest.raises(sg.InputError, match="kind"):
            parsed_kind(text)


def test_patterns_name_features_and_the_last_counts(cohort):
    found = declared_kinds(cohort, {"*": "continuous", "W?H": "zero-inflated", "MMSE": "bounded(0, 30)"})
    assert [found[place].name for place in range(9)].count("continuous") == 7
    assert found[7].name == "zero-inflated"
    kinds = recognised(cohort, found)
    assert (kinds[5].low, kinds[5].high, kinds[5].whole, kinds[5].declared) == (0.0, 30.0, True, True)
    assert kinds[8].plain
    assert not kinds[0].whole
    with pytest.raises(sg.InputError, match=r"WHM.*no feature is called so"):
        declared_kinds(cohort, {"*WHM*": "positive"})


def test_a_value_that_the_declared_kind_cannot_have_is_named(cohort):
    visits = cohort.visits.copy()
    visits[3, 0, 7], visits[4, 1, 0] = -5.0, 12.5
    other = replace(cohort, visits=visits)
    with pytest.raises(sg.InputError, match=r"column 'WMH'.*-5 of subject 3 at visit 0 is below zero"):
        declared_kinds(other, {"WMH": "positive"})
    with pytest.raises(sg.InputError, match=r"column 'Hippocampus'.*is no count"):
        declared_kinds(other, {"Hippo*": "count"})
    with pytest.raises(sg.InputError, match=r"outside 0 to 20"):
        declared_kinds(other, {"MMSE": "bounded(0, 20)"})
    with pytest.raises(sg.InputError, match=r"declared binary, and has"):
        declared_kinds(other, {"MMSE": "binary"})


def test_the_published_method_takes_no_kinds():
    with pytest.raises(sg.InputError, match="knows no kinds"):
        sg.SecondgramImputer("paper", kinds={"*": "positive"})


def test_declared_kinds_reach_the_model_and_its_folder(few, tmp_path):
    kinds = {"*": "continuous", "WMH": "positive"}
    imputer = sg.SecondgramImputer(shape="off", kinds=kinds).fit(few, show=False)
    assert isinstance(imputer.model_, SupportedModel)
    assert [kind.name for kind in imputer.model_.kinds.kinds] == ["continuous", "positive"]
    assert imputer.get_params()["kinds"] == kinds
    imputer.save(tmp_path / "model")
    assert sg.load(tmp_path / "model").get_params()["kinds"] == kinds
    assert any("positive (numbers from 0), as declared" in line for line in imputer.model_.summary())


def test_the_command_takes_kinds(cli, few, tmp_path):
    few.write(tmp_path / "cohort.csv")
    base = ("fit", tmp_path / "cohort.csv", "--out", tmp_path / "model", "--set", "shape=off")
    done = cli(*base, "--kind", "*=continuous", "--kind", "WMH=zero-inflated")
    assert done.code == 0
    assert "zero-inflated (numbers from 0), as declared: WMH" in done.err
    assert cli(*base, "--kind", "WMH").code == 2
    done = cli("impute", tmp_path / "model", tmp_path / "cohort.csv", "--out", tmp_path / "draws.parquet")
    assert done.code == 0
    values = pq.read_table(tmp_path / "draws.parquet").to_pandas()
    assert (values["WMH"] >= 0).all()
    assert (values["WMH"] == 0).any()


def test_continuous_features_are_learned_as_ever(few, tmp_path):
    plain = sg.SecondgramImputer(shape="off", kinds={"*": "continuous"}).fit(few, show=False)
    assert type(plain.model_) is DefaultModel
    assert plain.model_.digest == DefaultModel.fit(few.in_order(), plain.options, seed=0, run=_quiet()).digest
    assert "kinds" not in plain.model_.state()
    plain.save(tmp_path / "model")
    assert type(sg.load(tmp_path / "model").model_) is DefaultModel


def _quiet() -> Any:
    from secondgram.training.trainer import Run

    return Run(show=False)


# -- maps onto a scale without bounds ----------------------------------------------------------------


@pytest.mark.parametrize("high", [np.inf, 100.0])
def test_maps_lead_back_and_never_out(high):
    rng = np.random.default_rng(0)
    x = 100 * rng.beta(2, 2, 500)
    for each in soft_bounds(x, 0.0, high).values():
        y = each.to_model(x)
        assert np.allclose(each.to_original(y), x, rtol=1e-6)
        assert (np.diff(y[np.argsort(x)]) >= 0).all()
        far = each.to_original(np.linspace(y.min() - 50 * y.std(), y.max() + 50 * y.std(), 1000))
        assert (far >= 0).all()
        assert (far <= high).all()
        assert np.isfinite(far[far < np.inf]).all()
        assert np.isnan(each.to_model(np.array([np.nan]))).all()
        # What was never seen is far, and no NaN.
        assert np.isfinite(each.to_model(np.array([-5.0, 0.0]))).all()


def test_a_soft_end_is_the_identity_far_from_it():
    near = SoftBounds(0.0, np.inf, 1.0, (0.01, 1e300))
    assert np.allclose(near.to_model(np.array([40.0, 400.0])), [40.0, 400.0])
    both = SoftBounds(0.0, 100.0, 1.0, (0.01, 99.99))
    assert np.allclose(both.to_original(np.array([50.0, 60.0])), [50.0, 60.0])


def test_a_scale_is_chosen_by_people_not_learned_from():
    rng = np.random.default_rng(0)
    people = 300
    state = rng.normal(size=(people, 2))
    visits = np.empty((people, 2, 2))
    for visit in range(2):
        moved = state + 0.3 * rng.normal(size=state.shape)
        # The errors of the first grow with its level, and those of the second do not.
        visits[:, visit] = np.stack([np.exp(moved[:, 0]), np.exp(0.4 * state[:, 1]) + 0.02 * moved[:, 1]], axis=1)
    visits[150:, 1] = np.nan
    cohort = sg.Cohort(np.arange(people).astype(str), visits, ("skewed", "level"))
    kinds = dict.fromkeys(range(2), Kind("positive", 0.0))
    maps = choice.chosen_maps(cohort, kinds, True, True, 0)
    assert maps[0].scale > 0
    assert maps[1].scale == 0


def test_chosen_maps_do_not_depend_on_the_order_of_people(cohort):
    kinds = {2: Kind("positive", 0.0), 3: Kind("bounded", 0.0, 100.0)}
    shuffled = cohort.take(np.random.default_rng(3).permutation(len(cohort)))
    assert choice.chosen_maps(cohort, kinds, True, True, 0) == choice.chosen_maps(shuffled, kinds, True, True, 0)


# -- distributions by levels -------------------------------------------------------------------------


def test_a_cumulative_model_finds_what_it_is_a_model_of():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=3000)
    latent = 1.5 * mean + rng.normal(size=3000)
    scores = np.where(latent > 0.4, np.log1p(np.exp(latent)), 0.0)
    model = fit_cumulative(scores, mean[:, None], np.ones(3000), scores, (True, False), False)
    assert model.beta[0] / model.size[0] == pytest.approx(1.5, abs=0.12)
    location, scale = model.predicted(mean[:, None])
    drawn = model.scores(rng.normal(size=(20, 3000)), location, scale)
    for rows in (mean < -0.5, np.abs(mean) <= 0.5, mean > 0.5):
        assert np.isneginf(drawn[:, rows]).mean() == pytest.approx((scores[rows] == 0).mean(), abs=0.03)
    above = scores > 0
    low, high = model.normals(scores, scores, location, scale)
    assert np.array_equal(low < high, ~above)
    pit = low + rng.uniform(size=3000) * (high - low)
    assert np.abs(np.quantile(pit, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.03


def test_few_rows_make_a_straight_line():
    rng = np.random.default_rng(2)
    mean = rng.normal(size=40)
    scores = np.rint(10 + 3 * mean + rng.normal(size=40))
    model = fit_cumulative(scores, mean[:, None], np.ones(40), scores, (False, False), True)
    bend = np.diff(model.thresholds) / np.diff(model.edges) / model.slope
    assert (bend > 0.2).all()
    assert (bend < 5).all()
    assert np.isfinite(model.scores(np.array([[-9.0], [9.0]]), *model.predicted(mean[:, None]))).all()


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_a_level_and_its_normal_score_lead_to_each_other(lost):
    rng = np.random.default_rng(0)
    baseline = rng.poisson(2, 400).astype(float)
    value = rng.poisson(0.5 + baseline).astype(float)
    baseline[rng.random(400) < lost] = np.nan
    kind = Kind("count", 0.0, np.inf, True)
    mean = np.sqrt(np.nan_to_num(baseline, nan=2.0))
    levelled = fit_levelled(kind, Score(1.0), value, mean, baseline, np.ones(400), value)
    ends = levelled.predicted(mean, baseline)
    assert np.array_equal(levelled.values(levelled.known(value, *ends), *ends), value)
    below, upto = levelled.chances(value, *ends)
    assert (below < upto).all()
    assert (below[value == 0] == 0).all()
    draws = levelled.values(rng.normal(size=(4000, 400)), *ends)
    assert np.abs(levelled.mean(*ends) - draws.mean(axis=0)).max() < 0.25
    again = Levelled.from_state(levelled.state())
    assert np.array_equal(again.mean(*again.predicted(mean, baseline)), levelled.mean(*ends))


# -- draws -------------------------------------------------------------------------------------------


def test_draws_keep_to_the_support(result, cohort):
    draws = dict(zip(NAMES, result.draws.transpose(2, 0, 1), strict=True))
    for name in ("InfLatVent", "percent", "bleeds", "WMH"):
        assert (draws[name] >= 0).all()
    assert (draws["InfLatVent"] > 0).all()
    assert (draws["percent"] <= 100).all()
    for name in ("bleeds", "MMSE", "open", "voxels"):
        assert (draws[name] == np.rint(draws[name])).all()
    assert draws["MMSE"].max() <= 30
    assert set(np.unique(draws["open"])) == {0.0, 1.0}


def test_chances_are_those_of_people_like_them(imputer):
    others = made(1500, 1500, seed=9)
    found = imputer.impute(others, draws=10, who="all", show=False)
    for name, value in (("WMH", 0.0), ("bleeds", 0.0), ("MMSE", 30.0), ("open", 1.0)):
        place = NAMES.index(name)
        ours, true = (values == value for values in (found.draws[:, :, place], others.followup[:, place]))
        before = others.baseline[:, place] == value
        assert ours.mean() == pytest.approx(true.mean(), abs=0.06)
        # The chance rests on the person's own baseline.
        for group in (before, ~before):
            assert ours[:, group].mean() == pytest.approx(true[group].mean(), abs=0.13)


def test_intervals_cover(imputer):
    others = made(1500, 1500, seed=9)
    found = imputer.impute(others, draws=40, who="all", show=False).draws
    below, same = (found < others.followup).sum(axis=0), (found == others.followup).sum(axis=0)
    pit = (below + np.random.default_rng(0).uniform(size=below.shape) * (same + 1)) / 41
    covered = ((pit > 0.05) & (pit < 0.95)).mean(axis=0)
    assert (np.abs(covered - 0.9) < 0.07).all()
    assert covered.mean() == pytest.approx(0.9, abs=0.03)


def test_the_mean_is_that_of_the_draws(result):
    away = (result.mean - result.draws.mean(axis=0)) / np.sqrt(len(result.draws))
    scatter = (result.draws - result.mean).std(axis=(0, 1)) / len(result.draws)
    assert (np.abs(away).mean(axis=0) < scatter).all()
    assert (np.abs(away.mean(axis=0)) < scatter).all()


def test_features_of_levels_stay_correlated(imputer, cohort, result):
    correlation = imputer.model_.joint.components.correlation()
    residual = result.draws - result.mean
    for place in (NAMES.index("bleeds"), NAMES.index("WMH")):
        found = np.corrcoef(residual[:, :, 0].ravel(), residual[:, :, place].ravel())[0, 1]
        assert found == pytest.approx(correlation[0, place], abs=0.08)


def test_known_levels_inform_others_and_stay(imputer, cohort):
    visits = cohort.visits.copy()
    person = PAIRS
    visits[person, 1] = np.nan
    visits[person, 1, NAMES.index("bleeds")] = 3.0
    few = replace(cohort, visits=visits).take([person])
    found = imputer.impute(few, draws=50, show=False)
    assert (found.draws[:, 0, NAMES.index("bleeds")] == 3.0).all()
    assert found.mean[0, NAMES.index("bleeds")] == 3.0
    assert np.isfinite(found.mean).all()


def test_whole_numbers_are_written_as_integers(imputer, result, cohort, tmp_path):
    path = tmp_path / "draws.parquet"
    imputer.impute(cohort, draws=3, out=path, show=False)
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert [types[name] for name in ("bleeds", "MMSE", "open", "voxels")] == ["int64"] * 4
    assert types["Hippocampus"] == types["WMH"] == "double"
    _, features, draws, _ = read_draws(path)
    assert features == NAMES
    assert np.array_equal(draws, result.draws[:3])
    assert read_draws(path, only=["bleeds"])[2].dtype == np.float64


def test_a_known_fraction_is_written_as_it_is(imputer, cohort, tmp_path):
    visits = cohort.visits.copy()
    visits[PAIRS, 1, NAMES.index("voxels")] = 3999.5
    imputer.impute(replace(cohort, visits=visits), draws=2, out=tmp_path / "draws.parquet", show=False)
    table = pq.read_table(tmp_path / "draws.parquet")
    assert str(table.schema.field("voxels").type) == "double"
    assert 3999.5 in table["voxels"].to_pylist()


def test_scores_of_draws_are_told_in_original_units(imputer, cohort):
    verdict = imputer.model_.verdict()
    change = (cohort.followup - cohort.baseline)[:PAIRS] / cohort.baseline.std(axis=0, ddof=1)
    carried = np.sqrt((change**2).mean(axis=0))
    for name in ("InfLatVent", "bleeds", "MMSE", "open", "WMH"):
        assert verdict.loc[name, "rmse_carry_forward"] == pytest.approx(carried[NAMES.index(name)], rel=1e-6)
    assert (verdict["crps"] > 0).all()


def test_a_model_with_every_kind_keeps_the_contract(imputer, cohort):
    assert isinstance(imputer.model_, SupportedModel)
    outcomes = check_model(imputer, cohort)
    assert {outcome for name, outcome in outcomes.items() if name != "fitting again"} == {"holds"}


def test_kinds_are_kept_in_the_folder(imputer, cohort, result, tmp_path):
    imputer.save(tmp_path / "model")
    again = sg.load(tmp_path / "model")
    assert type(again.model_) is SupportedModel
    assert np.array_equal(again.impute(cohort, draws=4, show=False).draws, result.draws[:4])


def test_imputing_float32_gives_the_support_too(imputer, cohort):
    found = imputer.impute(replace(cohort, visits=cohort.visits.astype(np.float32)), draws=20, show=False)
    assert found.draws.dtype == np.float32
    assert (found.draws[:, :, [2, 3, 4, 7]] >= 0).all()
    assert (found.draws[:, :, 8] == np.rint(found.draws[:, :, 8])).all()


def test_a_feature_that_few_have_twice_keeps_to_its_support(few):
    rng = np.random.default_rng(0)
    more = {"count": rng.poisson(2, (PEOPLE, 2)), "half": rng.integers(0, 5, (PEOPLE, 2)) / 2}
    visits = np.concatenate([few.visits, np.stack(list(more.values()), axis=2)], axis=2)
    visits[5:, 1, 2:] = np.nan
    visits[5:, 1, 1] = np.nan
    rare = replace(few, visits=visits, features=(*few.features, *more))
    draws = sg.SecondgramImputer(shape="off").fit(rare, show=False).impute(rare, draws=20, show=False).draws
    assert (draws[:, :, 1:] >= 0).all()
    assert (draws[:, :, 2] == np.rint(draws[:, :, 2])).all()
    assert set(np.unique(draws[:, :, 3])) <= {0.0, 0.5, 1.0, 1.5, 2.0}


def test_scales_are_compared_on_the_pairs_that_both_were_scored_on() -> None:
    """Of features that are measured at different visits, those still open have other pairs than all together."""
    pair = pd.MultiIndex.from_arrays([["a", "a", "b"], [0, 0, 1], [1, 2, 2]])
    unit = np.array(["a", "a", "b"])
    plain = Scores(np.array([1.0, 2.0, 3.0]), np.ones(3), 0.0, np.ones(3), unit, pair)
    crps, width = plain.of(pd.MultiIndex.from_arrays([["b", "a", "c"], [1, 0, 0], [2, 1, 1]]))
    np.testing.assert_array_equal(crps, [3.0, 1.0, np.nan])
    np.testing.assert_array_equal(width, [1.0, 1.0, np.nan])
    fewer = Scores(np.array([2.5, 0.5]), np.ones(2), 0.0, np.ones(2), unit[[2, 0]], pair[[2, 0]])
    of_width, plainly = choice._gains({choice.IDENTITY: plain, "another": fewer}, choice.IDENTITY, "another")
    assert (of_width[0], plainly[0]) == (0.5, 0.5)
