"""Passive features: sums, copies, constants and ratios that are found, or declared, and hold in every draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import secondgram as sg
from secondgram.imputation.kinds.declared import declared, parsed_relation
from secondgram.imputation.kinds.passive import PassiveFeatures, Relation
from secondgram.imputation.kinds.relations import found_relations, written_steps
from secondgram.imputation.kinds.supported_model import SupportedModel
from secondgram.testing import check_model

PEOPLE, PAIRS = 80, 40


def cohort_of(columns: dict[str, np.ndarray], pairs: int = PAIRS) -> sg.Cohort:
    """Columns (N, 2) by name; the later visit of people after the first `pairs` is missing."""
    visits = np.stack(list(columns.values()), axis=2)
    visits[pairs:, 1] = np.nan
    return sg.Cohort(np.arange(len(visits)).astype(str), visits, tuple(columns))


def volumes(seed: int = 0, people: int = PEOPLE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(people, 3))
    state = np.stack([first, first - 0.3 + 0.2 * rng.normal(size=first.shape)], axis=2)
    left, right, other = (np.round(4000 + 400 * state[:, place], 1) for place in range(3))
    icv = np.repeat(np.round(1.5e6 + 1e5 * rng.normal(size=(people, 1))), 2, axis=1) + np.array([0.0, 7.0])
    return {"left": left, "right": right, "other": other, "ICV": icv}


def formulas(cohort: sg.Cohort) -> list[str]:
    return [relation.text(cohort.features) for relation in found_relations(cohort, [])[0]]


@pytest.fixture(scope="module")
def cohort() -> sg.Cohort:
    made = volumes()
    made["total"] = np.round(made["left"] + made["right"], 1)
    made["left_norm"] = np.round(made["left"] / made["ICV"], 7)
    made["left_cm3"] = np.round(made["left"] / 1000, 4)
    made["bleeds_l"], made["bleeds_r"] = np.random.default_rng(5).poisson(2, (2, PEOPLE, 2)).astype(float)
    made["bleeds"] = made["bleeds_l"] + made["bleeds_r"]
    return cohort_of(made)


@pytest.fixture(scope="module")
def imputer(cohort: sg.Cohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(cohort, show=False)


# -- what is found -----------------------------------------------------------------------------------


def test_sums_ratios_and_constants_are_found(cohort):
    assert formulas(cohort) == [
        "total = left + right",
        "left_norm = left / ICV",
        "left_cm3 = 0.001 * left",
        "bleeds = bleeds_l + bleeds_r",
    ]


@pytest.mark.parametrize(
    ("name", "make", "formula"),
    [
        ("copy", lambda v: v["left"], "copy = left"),
        ("mean", lambda v: np.round((v["left"] + v["right"]) / 2, 2), "mean = 0.5 * (left + right)"),
        ("difference", lambda v: np.round(v["left"] - v["right"], 1), "difference = left - right"),
        ("three", lambda v: np.round(v["left"] + v["right"] + v["other"], 1), "three = left + right + other"),
        ("percent", lambda v: np.round(100 * v["other"] / v["ICV"], 6), "percent = 100 * other / ICV"),
        ("unrounded", lambda v: v["left"] / v["ICV"], "unrounded = left / ICV"),
        ("total_cm3", lambda v: np.round((v["left"] + v["other"]) / 1000, 4), "total_cm3 = 0.001 * (left + other)"),
        ("scaled", lambda v: v["left"] * (1501234.5 / v["ICV"]), "scaled = 1501234.5 * left / ICV"),
    ],
)
def test_forms_of_relations(name, make, formula):
    made = volumes()
    made[name] = make(made)
    assert formulas(cohort_of(made)) == [formula]


def test_what_rests_on_what_is_computed_comes_after_it():
    made = volumes()
    made["total"] = np.round(made["left"] + made["right"], 1)
    made["all"] = np.round(made["total"] + made["other"], 1)
    found, _ = found_relations(cohort_of(made), [])
    given: set[int] = set()
    targets = {each.target for each in found}
    for each in found:
        assert all(part in given or part not in targets for part in each.parts)
        given.add(each.target)
    assert len(found) == 2


def test_what_nearly_holds_is_no_relation():
    made = volumes()
    rng = np.random.default_rng(1)
    made["near"] = np.round(made["left"] + made["right"] + rng.normal(0, 5, made["left"].shape), 1)
    made["once"] = np.round(made["left"] + made["other"], 1)
    made["once"][3, 0] += 40
    assert formulas(cohort_of(made)) == []


def test_independent_features_have_no_relation():
    rng = np.random.default_rng(0)
    thickness = {f"t{place}": np.round(rng.normal(2.5, 0.2, (PEOPLE, 2)), 2) for place in range(40)}
    counts = {f"c{place}": rng.poisson(0.7, (PEOPLE, 2)).astype(float) for place in range(12)}
    assert formulas(cohort_of(thickness | counts, PEOPLE)) == []
    assert formulas(cohort_of({"a": rng.normal(size=(12, 2)), "b": rng.normal(size=(12, 2))}, 2)) == []


def test_the_step_in_which_numbers_are_written():
    values = np.array([[1.25, 3.0, 1 / 3, np.nan], [2.5, 40.0, 0.2, np.nan], [0.75, 5.0, 0.1, np.nan]])
    assert written_steps(values).tolist() == [0.01, 1.0, 0.0, 0.0]
    assert written_steps(np.array([[0.1], [0.7]], dtype=np.float32)).tolist() == [0.1]


def test_nothing_is_divided_by_what_comes_near_zero():
    """A ratio to something that varies by a half of its mean: a draw of that may be next to nothing, or negative."""
    made = volumes(people=60)
    noise = np.exp(np.random.default_rng(3).normal(1.0, 0.6, (60, 2)))
    made["noise"] = np.round(noise, 6)
    made["snr_ratio"] = made["left"] / made["noise"]
    cohort = cohort_of(made, pairs=12)
    assert formulas(cohort) == ["left = noise * snr_ratio"]
    result = sg.SecondgramImputer(shape="off").fit(cohort, show=False).impute(cohort, draws=50, show=False)
    place = cohort.features.index("snr_ratio")
    seen = cohort.visits[np.isfinite(cohort.visits[:, :, place]), place]
    assert np.abs(result.draws[:, :, place]).max() < 3 * seen.max()
    left, ratio, own = (result.draws[:, :, cohort.features.index(name)] for name in ("left", "snr_ratio", "noise"))
    np.testing.assert_allclose(left, ratio * own, rtol=1e-9)
    with pytest.raises(sg.InputError, match=r"column 'noise'.*near zero.*product that one of snr_ratio and left is"):
        sg.SecondgramImputer(shape="off", kinds={"snr_ratio": "left / noise"}).fit(cohort, show=False)
    sg.SecondgramImputer(shape="off", kinds={"left": "snr_ratio * noise"}).fit(cohort, show=False)


# -- what is declared --------------------------------------------------------------------------------


def test_formulas_are_read(cohort):
    place = {name: number for number, name in enumerate(cohort.features)}
    left, right, icv = place["left"], place["right"], place["ICV"]
    for text, relation in {
        "left + right": Relation(place["total"], (left, right), (1.0, 1.0)),
        "left - 2 * right": Relation(place["total"], (left, right), (1.0, -2.0)),
        "0.001 * left": Relation(place["total"], (left,), (1.0,), factor=0.001),
        "left / 1000": Relation(place["total"], (left,), (1.0,), factor=0.001),
        "left": Relation(place["total"], (left,), (1.0,)),
        "100 * left / ICV": Relation(place["total"], (left, icv), (1.0, -1.0), True, 100.0),
    }.items():
        assert parsed_relation(cohort, "total", text) == relation
    for text in ("left + nobody", "left + 3 *", "total + left", "left / 0"):
        with pytest.raises(sg.InputError, match="kinds says"):
            parsed_relation(cohort, "total", text)
    with pytest.raises(sg.InputError, match="no feature is called so"):
        parsed_relation(cohort, "tot*", "left + right")


def test_a_declared_relation_that_does_not_hold_names_the_row(cohort):
    with pytest.raises(sg.InputError, match=r"column 'total'.*for subject 0 at visit 0"):
        declared(cohort, {"total": "left + other"})
    found = declared(cohort, {"total": "left + right", "other": "continuous"})
    assert (len(found.relations), [kind.name for kind in found.kinds.values()]) == (1, ["continuous"])


def test_a_declared_relation_reaches_the_model(cohort):
    few = replace(cohort, visits=cohort.visits[:, :, :3], features=cohort.features[:3])
    visits = few.visits.copy()
    visits[:, :, 2] = 2.0 * visits[:, :, 0] - visits[:, :, 1]
    imputer = sg.SecondgramImputer(shape="off", kinds={"other": "2 * left - right"})
    result = imputer.fit(replace(few, visits=visits), show=False).impute(few, draws=2, show=False)
    assert "computed: other = 2 * left - right" in imputer.model_.summary()
    np.testing.assert_allclose(result.draws[..., 2], 2 * result.draws[..., 0] - result.draws[..., 1])
    assert any("does not hold at the baseline" in note for note in result.notes)


# -- draws -------------------------------------------------------------------------------------------


def test_relations_hold_in_every_draw_and_in_the_mean(imputer, cohort, tmp_path):
    result = imputer.impute(cohort, draws=30, out=tmp_path / "draws.parquet", show=False)
    for values in (result.draws, result.mean):
        left, right, _, icv, total, norm, cm3, one, two, both = np.moveaxis(values, -1, 0)
        np.testing.assert_allclose(total, left + right)
        np.testing.assert_allclose(cm3, left / 1000)
        np.testing.assert_allclose(both, one + two)
        np.testing.assert_allclose(norm, left / icv, rtol=1e-12 if values is result.draws else 0.05)
    table = pq.read_table(tmp_path / "draws.parquet").to_pandas()
    assert table["bleeds"].dtype == np.int64
    assert (table["bleeds"] == table["bleeds_l"] + table["bleeds_r"]).all()
    assert table.columns.tolist()[3:] == list(cohort.features)


def test_a_missing_part_is_what_is_left_of_the_sum(imputer, cohort):
    visits = cohort.visits.copy()
    person = PAIRS
    visits[person, 1, [0, 4]] = 3900.0, 8000.0
    found = imputer.impute(replace(cohort, visits=visits).take([person]), draws=4, show=False)
    np.testing.assert_allclose(found.draws[:, 0, 1], 4100.0)
    assert (found.draws[:, 0, 4] == 8000.0).all()
    assert not found.notes or "may not hold" not in " ".join(found.notes)


def test_a_known_sum_of_unknown_parts_is_kept_and_told(imputer, cohort):
    visits = cohort.visits.copy()
    visits[PAIRS, 1, 4] = 8000.0
    found = imputer.impute(replace(cohort, visits=visits).take([PAIRS]), draws=4, show=False)
    assert (found.draws[:, 0, 4] == 8000.0).all()
    assert any("total is known of 1 people and kept: total = left + right may not hold" in note for note in found.notes)


def test_a_missing_part_of_a_baseline_is_no_loss(cohort):
    passive = PassiveFeatures(cohort.features, tuple(found_relations(cohort, [])[0]), written_steps(cohort.baseline))
    holes = cohort.baseline.copy()
    holes[0, 1], holes[1, [0, 6]] = np.nan, np.nan
    filled = passive.completed(holes)
    assert filled[0, 1] == pytest.approx(cohort.baseline[0, 1])
    assert filled[1, 0] == pytest.approx(cohort.baseline[1, 0])
    assert np.isnan(holes[0, 1])
    whole = cohort.baseline
    assert passive.completed(whole) is whole


def test_the_model_says_what_it_computes_and_is_kept(imputer, cohort, tmp_path):
    verdict = imputer.model_.verdict()
    assert verdict.index.tolist() == list(cohort.features)
    assert verdict.loc["total", "verdict"] == "computed: total = left + right"
    imputer.save(tmp_path / "model")
    again = sg.load(tmp_path / "model")
    assert isinstance(again.model_, SupportedModel)
    wanted = imputer.impute(cohort, draws=3, show=False).draws
    assert np.array_equal(again.impute(cohort, draws=3, show=False).draws, wanted)


def test_a_model_with_passive_features_keeps_the_contract(imputer, cohort):
    outcomes = check_model(imputer, cohort)
    assert {outcome for name, outcome in outcomes.items() if name != "fitting again"} == {"holds"}
