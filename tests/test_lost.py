"""What is missing before the follow-up: covariates and cells of the baseline, drawn together with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.scaling import CovariateEncoder
from secondgram.imputation.default.missing_draws import Later
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.levels import MixedCells, decoded, groups

PEOPLE, EFFECT = 600, -0.6


def _cohort(seed: int, lacking: float, features: int = 3) -> tuple[sg.Cohort, pd.DataFrame]:
    """Half of the people have a follow-up; x and arm move the change. Also the covariates before any were lost."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, (PEOPLE, features))
    x = 0.5 * base[:, 0] + rng.normal(0, 0.9, PEOPLE)
    arm = np.where(rng.random(PEOPLE) < 0.3, "treated", "control")
    change = EFFECT * x[:, None] + 0.8 * (arm == "treated")[:, None] + rng.normal(0, 0.5, (PEOPLE, features))
    later = np.where(rng.random(PEOPLE)[:, None] < 0.5, base + change, np.nan)
    whole = pd.DataFrame({"x": x, "arm": pd.Categorical(arm), "smoker": (rng.random(PEOPLE) < 0.4).astype(float)})
    table = whole.copy()
    for name in table:
        table.loc[rng.random(PEOPLE) < lacking, name] = np.nan
    times = np.stack([np.zeros(PEOPLE), np.full(PEOPLE, 2.0)], axis=1)
    names = tuple(f"f{number}" for number in range(features))
    ids = np.array([f"s{number:04d}" for number in range(PEOPLE)], dtype=object)
    outcomes = pd.DataFrame(index=range(PEOPLE))
    return sg.Cohort(ids, np.stack([base, later], axis=1), names, ("1", "2"), times, table, outcomes), whole


@pytest.fixture(scope="module")
def lacking() -> tuple[sg.Cohort, pd.DataFrame]:
    return _cohort(0, 0.4)


@pytest.fixture(scope="module")
def imputer(lacking: tuple[sg.Cohort, pd.DataFrame]) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(lacking[0], show=False)


@pytest.fixture(scope="module")
def result(imputer: sg.SecondgramImputer, lacking: tuple[sg.Cohort, pd.DataFrame]) -> Any:
    return imputer.impute(lacking[0], draws=30, show=False)


def _encoder() -> CovariateEncoder:
    table = pd.DataFrame(
        {
            "age": [50.0, 60.0, 70.0, 65.0, 55.0],
            "scanner": pd.Categorical(["a", "b", "c", "b", "b"]),
            "smoker": [0.0, 1.0, 0.0, 0.0, np.nan],
        }
    )
    return CovariateEncoder.fit(table)


def _mixed(
    raw: list[float], precision: np.ndarray, linear: np.ndarray | None = None, quadratic: np.ndarray | None = None
) -> tuple[MixedCells, CovariateEncoder, np.ndarray]:
    """The cells of a person who lacks every covariate, with these expectations in original units."""
    encoder = _encoder()
    centre = (np.array(raw) - encoder.shift) / encoder.scale
    mine = groups(encoder, np.ones(5, dtype=bool), centre, 0)
    zero = np.zeros(5), np.zeros((5, 5))
    told = (zero[0] if linear is None else linear), (zero[1] if quadratic is None else quadratic)
    return MixedCells(precision, *told, mine), encoder, centre


def test_levels_are_drawn_with_their_expected_shares() -> None:
    cells, encoder, centre = _mixed([61.0, 0.15, 0.6, 0.25, 0.3], np.diag([1.0, 3.0, 2.0, 2.5, 1.4]))
    z = np.random.default_rng(0).standard_normal((5, 20000))
    by = cells.draws(z)
    assert np.allclose(by[0], z[0])
    found = decoded(encoder, centre + by.T)
    for level, expected in zip("abc", [0.15, 0.6, 0.25], strict=True):
        assert abs((found["scanner"] == level).mean() - expected) < 0.01
    assert abs(found["smoker"].mean() - 0.3) < 0.01
    # A draw is the encoded level itself, not near it.
    raw = encoder.shift + encoder.scale * (centre + by.T)
    assert np.abs(raw[:, 1:] - raw[:, 1:].round()).max() < 1e-9
    assert np.allclose(by.mean(axis=1), cells.mean(), atol=0.03)


def test_numbers_are_drawn_given_the_levels() -> None:
    covariance = np.eye(5)
    covariance[0, 4] = covariance[4, 0] = 0.8
    cells, encoder, centre = _mixed([60.0, 0.2, 0.6, 0.2, 0.5], np.linalg.inv(covariance))
    by = cells.draws(np.random.default_rng(1).standard_normal((5, 20000)))
    high = decoded(encoder, centre + by.T)["smoker"] == 1.0
    assert abs(by[0, high].mean() - 0.8 * by[4, high].mean()) < 0.02
    assert abs(by[0, high].std() - 0.6) < 0.02


@pytest.mark.parametrize("share", [[-0.1, 0.9, 0.2], [0.0, 0.0, 0.0], [2.0, -1.0, 0.0]])
def test_an_expectation_that_is_no_share_still_gives_levels(share: list[float]) -> None:
    cells, encoder, centre = _mixed([60.0, *share, 1.4], np.eye(5))
    by = cells.draws(np.random.default_rng(0).standard_normal((5, 50)))
    found = decoded(encoder, centre + by.T)
    assert set(found["scanner"]) <= set("abc")
    assert (found["smoker"] == 1.0).all()
    assert np.isfinite(by).all()
    assert np.isfinite(cells.mean()).all()


def test_what_else_is_known_weighs_levels_as_bayes_has_it() -> None:
    """Against a sum over levels and a grid of the number."""
    rng = np.random.default_rng(5)
    half = rng.normal(size=(5, 200))
    precision = np.linalg.inv(half @ half.T / 200 + 0.1)
    pull, later = rng.normal(size=(5, 3)), rng.normal(size=3)
    R = np.diag([0.5, 0.8, 1.1])
    solved = pull @ np.linalg.inv(R)
    cells, _, _ = _mixed([60.0, 0.3, 0.5, 0.2, 0.4], precision, solved @ later, solved @ pull.T)
    plain, _, _ = _mixed([60.0, 0.3, 0.5, 0.2, 0.4], precision)
    number = np.linspace(-8, 8, 2001)
    total = np.zeros((3, 2))
    moment = 0.0
    for scanner in range(3):
        for smoker in range(2):
            levels = (scanner, smoker)
            share = plain.weights(())[scanner] * plain.weights((scanner,))[smoker]
            v = np.concatenate([cells.groups[0].values[scanner], cells.groups[1].values[smoker]])
            mean = -precision[0, 1:] @ v / precision[0, 0]
            prior = np.exp(-((number - mean) ** 2) * precision[0, 0] / 2)
            left = later[:, None] - pull[1:].T @ v[:, None] - pull[0][:, None] * number
            fits = np.exp(-np.einsum("kn,kl,ln->n", left, np.linalg.inv(R), left) / 2)
            total[levels] = share * (prior * fits).sum() / prior.sum()
            moment += share * (number * prior * fits).sum() / prior.sum()
    moment /= total.sum()
    total /= total.sum()
    found = np.array([[cells.weights(())[a] * cells.weights((a,))[b] for b in range(2)] for a in range(3)])
    assert np.allclose(found, total, atol=1e-6)
    assert abs(cells.mean()[0] - moment) < 1e-6
    by = cells.draws(rng.standard_normal((5, 40000)))
    assert np.allclose(by.mean(axis=1), cells.mean(), atol=0.03)


def test_without_levels_it_is_the_posterior_of_a_joint_gaussian() -> None:
    rng = np.random.default_rng(3)
    half, noise = rng.normal(size=(3, 9)), rng.normal(size=(4, 9))
    prior, R = half @ half.T / 9, noise @ noise.T / 9
    pull, later = rng.normal(size=(3, 4)), rng.normal(size=4)
    solved = np.linalg.solve(R, pull.T).T
    cells = MixedCells(np.linalg.inv(prior), solved @ later, solved @ pull.T, [])
    gain = prior @ pull @ np.linalg.inv(pull.T @ prior @ pull + R)
    assert np.allclose(cells.mean(), gain @ later)
    drawn = cells.draws(rng.standard_normal((3, 200000)))
    assert np.allclose(drawn.mean(axis=1), gain @ later, atol=0.01)
    assert np.allclose(np.cov(drawn), prior - gain @ pull.T @ prior, atol=0.03)


def test_an_expectation_over_very_many_combinations_is_that_of_a_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, _, _ = _mixed([60.0, 0.3, 0.5, 0.2, 0.4], np.eye(5), np.ones(5), np.eye(5))
    monkeypatch.setattr("secondgram.imputation.levels.COMBINATIONS", 5)
    assert np.allclose(cells.mean(), 0.5)


def test_missing_covariates_are_told_and_drawn_and_never_missing(result: Any, lacking: Any) -> None:
    told = [note for note in result.notes if "lack" in note]
    assert len(told) == 1
    assert "x" in told[0]
    assert "drawn" in told[0]
    drawn = result.covariates()
    table = result.people.table
    for name, values in drawn.items():
        known = table[name].notna().to_numpy()
        assert values.shape == (30, len(result.ids))
        assert pd.notna(values).all()
        assert (pd.Series(values[:, known][7]).astype(str) == table[name][known].astype(str).to_numpy()).all() or (
            np.allclose(values[:, known].astype(float), table[name][known].to_numpy(dtype=float))
        )
        differ = (values != values[0]).any(axis=0)
        assert not differ[known].any()
        assert differ[~known].mean() > 0.95


def test_draws_of_the_follow_up_rest_on_the_drawn_covariates(result: Any) -> None:
    """Over the draws of one person, change follows the drawn x as it does between people."""
    drawn, draws = result.covariates()["x"], result.draws
    lost = result.people.table["x"].isna().to_numpy()
    x, y = drawn[:, lost] - drawn[:, lost].mean(axis=0), draws[:, lost] - draws[:, lost].mean(axis=0)
    slope = (x[:, :, None] * y).sum(axis=(0, 1)) / (x**2).sum()
    assert (np.abs(slope / EFFECT - 1) < 0.15).all(), slope


def test_people_alone_get_the_covariates_that_they_get_in_company(result: Any) -> None:
    rows = np.array([5, 2, 40])
    for name, values in result.covariates(result.people.take(rows)).items():
        assert (values == result.covariates()[name][:, rows]).all()


def test_whoever_is_drawn_has_a_share_of_a_lost_category_that_is_right(result: Any) -> None:
    lost = result.people.table["arm"].isna().to_numpy()
    assert abs((result.covariates()["arm"][:, lost] == "treated").mean() - 0.3) < 0.08


def test_a_measured_follow_up_tells_of_a_missing_covariate(imputer: Any, lacking: Any, result: Any) -> None:
    """Of people who were followed: draws of x given the follow-up are nearer to the truth than without it."""
    cohort, whole = lacking
    rows = np.flatnonzero(cohort.paired & cohort.covariate_table["x"].isna().to_numpy())
    with_it, without = (
        imputer.impute(replace(cohort.take(rows), visits=visits), draws=40, who="all", show=False).people
        for visits in (cohort.visits[rows], cohort.visits[rows])
    )
    with_it = replace(with_it, known=cohort.visits[rows, 1])
    error = [
        np.abs(result.model.covariates(people, np.arange(40), 1)["x"].mean(axis=0) - whole["x"].to_numpy()[rows]).mean()
        for people in (with_it, without)
    ]
    assert error[0] < 0.75 * error[1], error


def test_what_is_known_of_the_follow_up_moves_a_missing_baseline_too(imputer: Any, lacking: Any) -> None:
    """Mean and draws agree where a part of the follow-up is known and a part of the baseline is not."""
    cohort, _ = lacking
    visits = cohort.visits[:40].copy()
    visits[:, 0, 1] = np.nan
    visits[:, 1] = np.nan
    visits[:, 1, 0] = visits[:, 0, 0] - 1.0
    some = replace(cohort.take(np.arange(40)), visits=visits)
    found = imputer.impute(some, draws=4000, show=False)
    assert np.abs(found.draws[:, :, 2].mean(axis=0) - found.mean[:, 2]).max() < 0.12
    plain = visits.copy()
    plain[:, 1, 0] = visits[:, 0, 0]
    other = imputer.impute(replace(some, visits=plain), draws=10, show=False)
    # Less of the first feature speaks for more of x, and so for less of the others.
    assert (found.mean[:, 1] < other.mean[:, 1]).all()


def test_tables_hold_drawn_covariates_and_whoever_was_measured_is_in_them(lacking: Any, result: Any) -> None:
    cohort, whole = lacking
    tables = list(sg.completed_tables(result, cohort, "f0"))
    known = cohort.covariate_table["x"].notna().to_numpy()
    place = {name: row for row, name in enumerate(result.ids)}
    for number in (0, 17):
        table = tables[number]
        assert table["subject_id"].tolist() == cohort.ids.tolist()
        assert table[["x", "arm", "smoker", "f0_change"]].notna().all(axis=None)
        assert np.array_equal(table["x"][known], whole["x"][known])
        assert set(table["smoker"]) == {0.0, 1.0}
        drawn = [row for row in np.flatnonzero(~known) if cohort.ids[row] in place]
        mine = result.covariates()["x"][number]
        assert np.array_equal(table["x"].to_numpy()[drawn], [mine[place[cohort.ids[row]]] for row in drawn])
    assert (tables[0]["x"] != tables[1]["x"]).to_numpy()[~known].all()
    assert list(tables[0]["arm"].cat.categories) == list(tables[1]["arm"].cat.categories)


def test_a_cohort_that_knows_the_covariates_keeps_them(lacking: Any, result: Any) -> None:
    cohort, whole = lacking
    table = next(iter(sg.completed_tables(result, replace(cohort, covariate_table=whole), "f0")))
    assert table["x"].equals(whole["x"])


def test_a_file_of_draws_leaves_covariates_missing(lacking: Any, result: Any, tmp_path: Path) -> None:
    result.to_parquet(tmp_path / "draws.parquet")
    table = next(iter(sg.completed_tables(tmp_path / "draws.parquet", lacking[0], "f0")))
    assert table["x"].isna().equals(lacking[0].covariate_table["x"].isna())


def test_refitted_models_draw_covariates_too(lacking: Any) -> None:
    cohort, _ = lacking
    results = sg.impute_refitted(sg.SecondgramImputer(shape="off"), cohort, draws=2, show=False)
    first, second = sg.completed_tables(results, cohort, "f0")
    lost = cohort.covariate_table["x"].isna()
    assert (first["x"] != second["x"])[lost].all()
    assert first["x"][~lost].equals(second["x"][~lost])


def test_the_published_method_takes_means_and_says_so(lacking: Any) -> None:
    cohort, _ = lacking
    paper = sg.SecondgramImputer("paper", epochs=1, embedding=8, widths=(8, 8, 8)).fit(cohort, show=False)
    result = paper.impute(cohort, draws=2, show=False)
    assert any("mean of training" in note for note in result.notes)
    assert result.covariates() == {}
    table = next(iter(sg.completed_tables(result, cohort, "f0")))
    assert table["x"].isna().any()


def test_an_association_with_a_covariate_that_many_lack_is_kept() -> None:
    """Beside that of the measured people had nobody lacked a covariate."""
    found, measured = [], []
    for seed in (1, 2):
        cohort, whole = _cohort(seed, 0.4, features=2)
        result = sg.SecondgramImputer(shape="off").fit(cohort, show=False).impute(cohort, draws=15, show=False)
        found.append(np.asarray(sg.fit_pooled("f0_change ~ x + arm", result, cohort).estimate))
        x, arm = whole["x"].to_numpy(), (whole["arm"] == "treated").to_numpy(dtype=float)
        design = np.stack([np.ones(PEOPLE), arm, x], axis=1)[cohort.paired]
        change = (cohort.followup - cohort.baseline)[cohort.paired, 0]
        measured.append(np.linalg.lstsq(design, change, rcond=None)[0])
    ratio = np.mean(found, axis=0) / np.mean(measured, axis=0)
    assert 0.93 < ratio[2] < 1.07, ratio
    assert 0.8 < ratio[1] < 1.2, ratio


def test_models_of_an_earlier_release_are_read(imputer: Any, lacking: Any) -> None:
    state = imputer.model_.state()
    state["context"]["missing"]["precision"] = state["context"]["missing"]["precision"][:3, :3]
    del state["context"]["encoder"]["two"]
    model = DefaultModel.from_state(state, imputer.options)
    assert model.context.missing.precision.shape == imputer.model_.context.missing.precision.shape
    people = imputer.impute(lacking[0], draws=2, show=False).people
    assert np.isfinite(model.draw(people, np.arange(2), 0)).all()


def test_a_kept_model_draws_the_same_covariates(imputer: Any, lacking: Any, result: Any, tmp_path: Path) -> None:
    imputer.save(tmp_path / "model")
    again = sg.load(tmp_path / "model").impute(lacking[0], draws=30, show=False)
    for name, values in result.covariates().items():
        assert (again.covariates()[name] == values).all()


def test_a_late_cell_of_no_person_changes_nothing(imputer: Any, lacking: Any) -> None:
    """Nobody's follow-up known: the draws with and without that knowledge are the same numbers."""
    people = imputer.impute(lacking[0], draws=2, who="all", show=False).people
    model = imputer.model_
    cells = model._cells(model._prediction(people, model.context.inputs(people)))
    width = len(lacking[0].features)
    later = Later(np.full((len(people), width), np.nan), np.ones((len(people), width)), np.eye(width))
    with_it, without = cells.drawn(np.arange(3), 1, later), cells.drawn(np.arange(3), 1)
    assert np.array_equal(with_it.by, without.by)
