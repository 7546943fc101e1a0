"""The imputer from Python: the names of docs/design.md#public-names, determinism, and what may influence what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import secondgram as sg
from secondgram.training import gradients

PRESETS = ("off", "default", "paper")
SMALL_NET: dict[str, Any] = {"embedding": 16, "widths": [16, 8, 8], "epochs": 3}


def draws(imputer: sg.SecondgramImputer, people: sg.Cohort, count: int = 3, seed: int = 7, **more: Any) -> np.ndarray:
    return imputer.impute(people, draws=count, seed=seed, show=False, **{"who": "all", **more}).draws


def altered(people: sg.Cohort, visit: int, rows: np.ndarray, columns: Any, value: float) -> sg.Cohort:
    """The cohort with some cells of a visit replaced."""
    visits = people.visits.copy()
    visits[np.asarray(rows)[:, None], visit, np.atleast_1d(columns)] = value
    return replace(people, visits=visits)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def partly(cohort: sg.SimulatedCohort) -> sg.Cohort:
    """Holes in baselines, half-measured follow-ups, people without baseline, and unknown gaps."""
    paired, single = np.flatnonzero(cohort.paired), np.flatnonzero(~cohort.paired)
    holed = altered(cohort, 1, paired[:10], [1, 4], np.nan)
    holed = altered(holed, 1, paired[10:14], [0, 1, 2, 3, 4], np.nan)
    holed = altered(holed, 0, single[:8], [0, 5], np.nan)
    holed = altered(holed, 0, paired[-3:], np.arange(6), np.nan)
    times = holed.times.copy()
    times[single[20:30], 1] = np.nan
    return replace(holed, times=times)


# -- the names that must stay ---------------------------------------------------------


def test_read_cohort_has_its_arguments(tmp_path):
    table = pd.DataFrame(
        {
            "who": ["01", "01", "2"],
            "wave": ["a", "b", "a"],
            "years": [0.0, 2.0, 0.0],
            "weight": [1.0, 1.0, 2.0],
            "died": [0, 0, 1],
            "family": ["f", "f", "g"],
            "centre": ["x", "x", "y"],
            "vol_1": [1.0, 1.5, 2.0],
            "vol_2": [3.0, 3.5, 4.0],
        }
    )
    roles: dict[str, Any] = {"id": "who", "visit": "wave", "time": "years", "static": ["weight"], "outcomes": ["died"]}
    path = tmp_path / "table.parquet"
    table.to_parquet(path)
    cohort = sg.read_cohort(path, **roles, groups="family", site="centre", features="vol_*", layout="long")
    assert cohort.ids.tolist() == ["01", "2"]
    np.testing.assert_array_equal(cohort.static, [[1.0], [2.0]])
    assert (cohort.visits.shape, cohort.times.shape) == ((2, 2, 2), (2, 2))
    assert (cohort.features, cohort.covariates) == (("vol_1", "vol_2"), ("weight",))
    pairs = cohort.pairs()
    assert (pairs.person[0], pairs.earlier[0], pairs.later[0], pairs.gap[0]) == (0, 0, 1, 2.0)
    np.testing.assert_array_equal(cohort.baseline, [[1, 3], [2, 4]])
    np.testing.assert_array_equal(cohort.followup, [[1.5, 3.5], [np.nan, np.nan]])
    assert cohort.gap[0] == 2.0
    assert cohort.groups is not None
    assert cohort.groups.tolist() == ["f", "g"]
    assert cohort.site is not None
    assert cohort.site.tolist() == ["x", "y"]


def test_split_keeps_people_and_groups_whole(cohort):
    families = replace(cohort, groups=np.array([f"f{number // 3}" for number in range(len(cohort))]))
    train, test = families.split(test=0.25, seed=0)
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == len(cohort)
    assert not set(train.groups) & set(test.groups)


@pytest.mark.parametrize("selection", ["random", "health"])
@pytest.mark.parametrize(
    ("mode", "extras"),
    [
        ("cohort", ["truth", "axis", "converted"]),
        ("gaussian", ["truth", "posterior_mean", "posterior_cov"]),
        ("converters", ["truth", "axis", "converted"]),
    ],
)
def test_simulate_has_its_modes_and_extras(mode, extras, selection):
    cohort = sg.simulate(subjects=40, features=4, paired=0.5, seed=0, mode=mode, selection=selection)
    shapes = {"truth": (40, 4), "axis": (4,), "converted": (40,), "posterior_mean": (40, 4)}
    for name in extras:
        value = getattr(cohort, name)
        assert value[0].shape == (4, 4) if name == "posterior_cov" else value.shape == shapes[name]
    seen = np.isfinite(cohort.followup)
    np.testing.assert_array_equal(cohort.followup[seen], cohort.truth[seen])


def test_the_imputer_has_its_arguments_and_result(cohort, tmp_path):
    imputer = sg.SecondgramImputer(
        preset="default", seed=0, device="auto", backend="auto", precision="auto", shape="off"
    )
    assert imputer.fit(cohort, show=False) is imputer
    out = tmp_path / "draws.parquet"
    result = imputer.impute(cohort, draws=4, seed=7, who="missing", steps=5, solver="ddim", out=out, show=False)
    absent = ~cohort.paired
    assert result.ids.tolist() == cohort.ids[absent].tolist()
    assert result.draws.shape == (4, absent.sum(), 6)
    assert result.mean.shape == result.quantile(0.5).shape == (absent.sum(), 6)
    assert result.quantile([0.1, 0.9]).shape == (2, absent.sum(), 6)
    result.to_parquet(tmp_path / "again.parquet")
    assert out.read_bytes() == (tmp_path / "again.parquet").read_bytes()
    with pytest.raises(sg.InputError, match="no share"):
        result.quantile(1.5)
    imputer.save(tmp_path / "model")
    np.testing.assert_array_equal(draws(sg.load(tmp_path / "model"), cohort), draws(imputer, cohort))


def test_denoiser_and_sampler_have_their_arguments(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = sg.Denoiser(features=769, conditions=783)
    assert sum(value.numel() for value in net.parameters()) == 4_727_688
    x, c = torch.zeros(2, 769), torch.zeros(2, 783)
    assert net(x, torch.tensor([3.0, 4.0]), c).shape == (2, 769)
    torch.save({"model": net.state_dict()}, tmp_path / "net.pt")
    again = sg.Denoiser.from_reference_checkpoint(tmp_path / "net.pt")
    torch.testing.assert_close(again(x, 3.0, c), net(x, 3.0, c), rtol=0, atol=0)
    sampler = sg.Sampler(net, schedule="linear", backend="auto", precision="auto")
    drawn = sampler.sample(c.numpy(), ["a", "b"], draws=2, seed=0, solver="ddim", steps=2)
    assert (type(drawn), drawn.shape) == (np.ndarray, (2, 2, 769))
    assert isinstance(sampler.sample(c, ["a", "b"], solver="ddpm", steps=1), torch.Tensor)


def test_task_gradients_gram_aggregate_and_combine():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    J = gradients.task_gradients([w.square().sum(), -w.sum()], [w])
    K = gradients.gram(J)
    assert K.tolist() == [[20.0, -6.0], [-6.0, 2.0]]
    weights = gradients.aggregate(K, "pcgrad", order=torch.tensor([0, 1]))
    # The closed form for two conflicting tasks.
    torch.testing.assert_close(weights, torch.tensor([1 + 6 / 20, 1 + 6 / 2], dtype=torch.float64))
    torch.testing.assert_close(gradients.combine(J, weights), weights.float() @ J)


# -- determinism ----------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_draws_do_not_depend_on_company_count_saving_or_threads(preset, imputers, partly, tmp_path):
    imputer = imputers[preset]
    people = partly.take(partly.scanned)
    whole = {who: imputer.impute(people, draws=3, who=who, show=False) for who in ("all", "missing")}
    imputer.save(tmp_path / "model")
    loaded = sg.load(tmp_path / "model")
    for who, result in whole.items():
        row = {name: place for place, name in enumerate(result.ids)}

        def same(part: np.ndarray, ids: np.ndarray, count: int = 3, row: Any = row, result: Any = result) -> None:
            np.testing.assert_array_equal(part[:count], result.draws[:count, [row[name] for name in ids]])

        shuffled = people.take(np.random.default_rng(0).permutation(len(people)))
        # The first of the shuffled people with holes comes alone, so that a partly known visit is among the singles.
        first = int(np.flatnonzero([name in row for name in shuffled.ids])[0])
        for start, stop in ((first, first + 1), (0, 7), (7, 263), (0, len(shuffled))):
            part = shuffled.take(np.arange(start, stop))
            found = imputer.impute(part, draws=3, who=who, show=False)
            same(found.draws, found.ids)
        for count in (1, 2, 5):
            found = imputer.impute(people, draws=count, who=who, show=False)
            same(found.draws, found.ids, min(count, 3))
        same(draws(loaded, people, who=who), result.ids)
        threads = torch.get_num_threads()
        try:
            for number in (1, 2):
                torch.set_num_threads(number)
                with threadpool_limits(limits=number, user_api="blas"):
                    same(draws(imputer, people, who=who), result.ids)
        finally:
            torch.set_num_threads(threads)
        assert (draws(imputer, people, seed=8, who=who) != result.draws).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_chunks_mean_and_draws_agree(preset, imputers, cohort, monkeypatch):
    kept = imputers[preset].impute(cohort, draws=3, show=False)
    whole, mean = kept.draws, kept.mean
    monkeypatch.setattr("secondgram.imputation.result.CHUNK_CELLS", 3 * 6 * 7)
    cut = imputers[preset].impute(cohort, draws=3, show=False)
    np.testing.assert_array_equal(np.concatenate([part for _, part in cut.chunks()], axis=1), whole)
    np.testing.assert_array_equal(cut.mean, mean)
    assert np.abs(mean - whole.mean(axis=0)).max() < 5 * whole.std()


@pytest.mark.parametrize(
    ("preset", "options"), [("default", {"shape": "off"}), ("default", SMALL_NET), ("paper", SMALL_NET)]
)
def test_the_same_fit_gives_the_same_bytes(preset, options, cohort, tmp_path):
    for name in ("one", "two"):
        sg.SecondgramImputer(preset, seed=5, **options).fit(cohort, show=False).save(tmp_path / name)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    sg.SecondgramImputer(preset, seed=6, **options).fit(cohort, show=False).save(tmp_path / "other")
    assert folder_bytes(tmp_path / "one") != folder_bytes(tmp_path / "other")


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("default", {"shape": "off"}),
        ("paper", SMALL_NET),
        pytest.param("default", SMALL_NET, marks=pytest.mark.slow),
        pytest.param("default", {"shape": "off", "history": "all"}, marks=pytest.mark.slow),
    ],
)
def test_the_order_of_people_and_rows_decides_nothing(preset, options, tmp_path):
    mode = "trajectories" if "history" in options else "gaussian"
    sg.simulate(60, 3, 0.6, 3, mode).write(tmp_path / "one.csv")
    table = pd.read_csv(tmp_path / "one.csv")
    table.sample(frac=1.0, random_state=1).to_csv(tmp_path / "other.csv", index=False)
    one, other = (sg.read_cohort(tmp_path / f"{name}.csv") for name in ("one", "other"))
    assert list(one.ids) != list(other.ids)
    found = {}
    for name, cohort in ("one", one), ("other", other):
        imputer = sg.SecondgramImputer(preset, seed=5, **options).fit(cohort, show=False)
        imputer.save(tmp_path / name)
        # Either model draws for either order.
        result = imputer.impute(one if name == "other" else other, draws=2, show=False)
        found[name] = {who: result.draws[:, row].tobytes() for row, who in enumerate(result.ids)}
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "other")
    assert found["one"] == found["other"]


# -- who is imputed, and from what ------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_arguments_are_checked_without_a_draw(preset, imputers, cohort, monkeypatch):
    def never(*given: Any) -> Any:
        raise AssertionError("ran a network")

    monkeypatch.setattr("torch.nn.Module.__call__", never)
    monkeypatch.setattr("secondgram.sampling.sampler.Sampler.sample", never)
    for method in ("mean", "sample", "finish"):
        monkeypatch.setattr(type(imputers[preset].model_), method, never)
    assert len(imputers[preset].impute(cohort, draws=3, show=False).ids)
    no_age = replace(cohort, covariate_table=cohort.covariate_table.iloc[:, :0])
    for people, options in ((cohort, {"solver": "euler"}), (cohort, {"steps": 5000}), (no_age, {})):
        with pytest.raises(sg.InputError):
            imputers[preset].impute(people, draws=3, show=False, **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_measured_cells_come_back_exactly(preset, imputers, partly):
    result = imputers[preset].impute(partly, draws=4, who="missing", show=False)
    place = {name: row for row, name in enumerate(partly.ids)}
    rows = [place[name] for name in result.ids]
    measured = partly.followup[rows]
    known = np.isfinite(measured)
    assert known.any(axis=1).sum() == 14
    for values in (*result.draws, result.mean):
        np.testing.assert_array_equal(values[known], measured[known])
    assert np.isfinite(result.draws).all()
    # Unknown cells are drawn, not repeated; `paper` may clamp a few to the end of their range.
    assert (result.draws.std(axis=0)[~known] > 0).mean() > 0.9


@pytest.mark.parametrize("preset", ["off", "default"])
def test_a_half_measured_followup_is_conditioned_on(preset, imputers, cohort):
    person = np.flatnonzero(cohort.paired)[:1]
    free = altered(cohort, 1, person, np.arange(6), np.nan)
    spread = np.nanstd(cohort.baseline[:, 0])
    means = []
    for shift in (-3.0, 3.0):
        seen = altered(free, 1, person, [0], cohort.baseline[person, 0] + shift * spread)
        means.append(imputers[preset].impute(seen.take(person), draws=50, show=False).draws.mean(axis=0)[0])
    # The simulated features share their changes, so a cell tells about the others.
    assert np.abs(means[1] - means[0])[1:].max() > 1e-6


def test_who_all_looks_at_no_followup(imputers, cohort):
    for preset in PRESETS:
        hidden = draws(imputers[preset], cohort.without_followup())
        np.testing.assert_array_equal(hidden, draws(imputers[preset], cohort))


@pytest.mark.parametrize("preset", PRESETS)
def test_features_are_matched_by_name(preset, imputers, cohort):
    order = np.array([3, 0, 5, 1, 4, 2])
    mixed = replace(
        cohort,
        visits=np.concatenate([cohort.visits[:, :, order], cohort.visits[:, :, :1] * 2], axis=2),
        features=(*np.array(cohort.features)[order], "something_else"),
        covariate_table=cohort.covariate_table.assign(unused=1.0)[::1],
    )
    result = imputers[preset].impute(mixed, draws=3, who="all", show=False)
    assert result.features == cohort.features
    np.testing.assert_array_equal(result.draws, draws(imputers[preset], cohort))
    assert any("matched by name" in note for note in result.notes)
    # `transform` fills the measured cells by the model's order too.
    np.testing.assert_array_equal(imputers[preset].transform(mixed), imputers[preset].transform(cohort))


@pytest.mark.parametrize("preset", PRESETS)
def test_people_without_baseline_are_left_out_and_said(preset, imputers, partly):
    result = imputers[preset].impute(partly, draws=2, who="all", show=False)
    gone = partly.ids[~partly.scanned]
    assert len(gone) == 3
    assert not set(gone) & set(result.ids)
    assert any("3 people have no baseline" in note for note in result.notes)
    filled = imputers[preset].transform(partly)
    assert filled.shape == partly.followup.shape
    measured = np.isfinite(partly.followup)
    np.testing.assert_array_equal(filled[measured], partly.followup[measured])
    assert np.isfinite(filled[partly.scanned]).all()
    assert (np.isnan(filled) == np.isnan(partly.followup))[~partly.scanned].all()


def test_an_unknown_gap_is_the_median_or_as_asked(imputers, cohort):
    blind = replace(cohort, times=np.full_like(cohort.times, np.nan))
    median = float(np.median(cohort.gap[cohort.paired]))
    result = imputers["off"].impute(blind, draws=2, who="all", show=False)
    np.testing.assert_array_equal(result.gap, median)
    assert any("no recorded time gap" in note and "median" in note for note in result.notes)
    asked = imputers["off"].impute(blind, draws=2, who="all", gap=4.5, show=False)
    np.testing.assert_array_equal(asked.gap, 4.5)
    told = replace(cohort, times=np.stack([np.zeros(len(cohort)), np.full(len(cohort), 4.5)], axis=1))
    np.testing.assert_array_equal(asked.draws, draws(imputers["off"], told, count=2))
    assert (asked.draws != result.draws).any()


def test_sklearn_can_handle_the_imputer(cohort):
    imputer = sg.SecondgramImputer("default", seed=3, shape="off", epochs=7)
    assert imputer.get_params() == {
        "preset": "default",
        "seed": 3,
        "device": "auto",
        "backend": "auto",
        "precision": "auto",
        "kinds": None,
        "shape": "off",
        "epochs": 7,
    }
    copy = clone(imputer)
    assert copy is not imputer
    assert copy.get_params() == imputer.get_params()
    assert copy.set_params(seed=4, epochs=8) is copy
    assert (copy.seed, copy.options.epochs, copy.options.shape) == (4, 8, "off")
    np.testing.assert_array_equal(
        clone(imputer).fit_transform(cohort), imputer.fit(cohort, show=False).transform(cohort)
    )
    with pytest.raises(sg.InputError, match="not fitted"):
        clone(imputer).impute(cohort)
    with pytest.raises(sg.InputError, match="no option nonsense"):
        copy.set_params(nonsense=1)


def test_more_than_two_visits(cohort):
    rng = np.random.default_rng(2)
    third = cohort.visits[:, 1:] + rng.normal(0, 0.3, (len(cohort), 1, 6))
    longer = replace(
        cohort,
        visits=np.concatenate([cohort.visits, third], axis=1),
        visit_labels=("0", "1", "2"),
        times=np.concatenate([cohort.times, cohort.times[:, 1:] + 2.0], axis=1),
    )
    for target in (1, 2):
        people = longer.with_target(target)
        for imputer in (
            sg.SecondgramImputer(shape="off"),
            sg.SecondgramImputer(shape="off", pairs="first"),
            sg.SecondgramImputer("paper", validate_every=9, **SMALL_NET),
        ):
            result = imputer.fit(people, show=False).impute(people, draws=2, show=False)
            assert result.visit == str(target)
            assert np.isfinite(result.draws).all()
            np.testing.assert_array_equal(result.gap, people.gap[~people.paired])


@pytest.mark.parametrize("preset", PRESETS)
def test_outcomes_never_change_the_draws(preset, imputers, cohort, tmp_path):
    options: dict[str, Any] = {"off": {"shape": "off"}, "default": SMALL_NET, "paper": SMALL_NET}[preset]
    outcomes = [
        pd.DataFrame({"dementia": np.arange(len(cohort)) % 2}),
        pd.DataFrame({"other": cohort.truth[:, 0], "text": ["x"] * len(cohort)}),
    ]
    for number, table in enumerate(outcomes):
        told = replace(cohort, outcomes=table)
        np.testing.assert_array_equal(draws(imputers[preset], told), draws(imputers[preset], cohort))
        name = "paper" if preset == "paper" else "default"
        sg.SecondgramImputer(name, **options).fit(told, show=False).save(tmp_path / str(number))
    assert folder_bytes(tmp_path / "0") == folder_bytes(tmp_path / "1")


@pytest.mark.parametrize(("preset", "options"), [("default", {"shape": "off"}), ("paper", SMALL_NET)])
def test_test_people_never_influence_a_fit(preset, options, cohort, tmp_path):
    train, test = cohort.split(test=0.3, seed=4)
    outside = np.isin(cohort.ids, test.ids)
    moved = altered(cohort, 0, np.flatnonzero(outside), np.arange(6), 1e6)
    moved = altered(moved, 1, np.flatnonzero(outside), np.arange(6), -1e6)
    covariates = moved.covariate_table.copy()
    covariates.loc[outside, "age"] = 500.0
    moved = replace(moved, covariate_table=covariates)
    for name, people in (("one", cohort), ("two", moved)):
        learn, judge = people.split(test=0.3, seed=4)
        assert judge.ids.tolist() == test.ids.tolist()
        sg.SecondgramImputer(preset, **options).fit(learn, show=False).save(tmp_path / name)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    assert train.ids.tolist() == learn.ids.tolist()


# -- arguments that cannot be used --------------------------------------------------------

BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown preset": ({"preset": "best"}, "unknown preset 'best'"),
    "unknown override": ({"epoch": 3}, "no option epoch"),
    "unknown device": ({"device": "tpu"}, "device='tpu'"),
    "unknown backend": ({"backend": "magic"}, "backend='magic'"),
    "unknown precision": ({"precision": "fp8"}, "precision='fp8'"),
    "negative seed": ({"seed": -1}, "seed=-1"),
    "text for a number": ({"epochs": "many"}, "option epochs .* cannot be 'many'"),
    "a share of a component": ({"components": 1.5}, "option components .* cannot be 1.5"),
    "one width": ({"widths": [8]}, "option widths"),
    "no rate": ({"rate": None}, "option rate"),
    "true for a number": ({"batch": True}, "option batch"),
    "no epochs": ({"epochs": 0}, "1 or more"),
    "unknown shape": ({"shape": "round"}, "shape='round'"),
    "unknown solver": ({"solver": "euler"}, "unknown solver 'euler'"),
    "unknown manipulation": ({"gradients": "magic"}, "gradients='magic'"),
    "unknown start": ({"preset": "paper", "start": "warm"}, "unknown start 'warm'"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_constructor_arguments(case):
    arguments, message = BAD_ARGUMENTS[case]
    with pytest.raises(sg.InputError, match=message):
        sg.SecondgramImputer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws=0"),
        ({"draws": 2**20}, "draws=1048576"),
        ({"draws": 2.5}, "draws=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed="),
        ({"steps": 0}, "steps=0"),
        ({"steps": 5000}, "steps=5000"),
        ({"solver": "euler"}, "unknown solver 'euler'"),
        ({"who": "some"}, "who='some'"),
        ({"gap": 0.0}, "gap=0"),
        ({"gap": float("nan")}, "gap=nan"),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_bad_impute_arguments(preset, arguments, message, imputers, cohort):
    with pytest.raises(sg.InputError, match=message):
        imputers[preset].impute(cohort, show=False, **arguments)


def test_there_may_be_no_one_to_impute(imputers, cohort):
    with pytest.raises(sg.InputError, match="no one to impute: every person"):
        imputers["off"].impute(cohort.take(cohort.paired), show=False)
    with pytest.raises(sg.InputError, match="no person has a baseline"):
        imputers["off"].impute(altered(cohort, 0, np.arange(300), np.arange(6), np.nan), show=False)


def test_the_file_holds_the_draws(imputers, partly, tmp_path):
    result = imputers["off"].impute(partly, draws=3, out=tmp_path / "draws.parquet", show=False)
    table = pq.read_table(tmp_path / "draws.parquet").to_pandas()
    assert list(table.columns) == ["subject_id", "visit", "draw", *partly.features]
    values = table[list(partly.features)].to_numpy().reshape(len(result.ids), 3, 6).transpose(1, 0, 2)
    np.testing.assert_array_equal(values, result.draws)
