"""The simulator: exactness of its posterior, who is observed, and the figures that mode `cohort` is calibrated by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow.csv import read_csv

from secondgram.cohort import Cohort, SimulatedCohort, read_cohort, simulate
from secondgram.cohort.brain_atlas import catalogue
from secondgram.cohort.simulate_linear import SLOPE_FACTORS, UNIQUE_VARIANCE, linear_model, posterior_covariance
from secondgram.errors import InputError

ARRAYS = ("visits", "times", "truth", "posterior_mean", "axis", "converted", "site")


def same(one: SimulatedCohort, other: SimulatedCohort, names: tuple[str, ...] = ARRAYS) -> None:
    for name in names:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)
    pd.testing.assert_frame_equal(one.covariate_table, other.covariate_table)
    pd.testing.assert_frame_equal(one.outcomes, other.outcomes)


# -- the exact posterior ------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_posterior_is_calibrated(seed: int) -> None:
    cohort = simulate(6000, 128, seed=seed, mode="gaussian")
    assert cohort.posterior_mean is not None
    assert cohort.posterior_cov is not None
    score = (cohort.truth - cohort.posterior_mean) / cohort.posterior_cov.standard_deviation()
    # Features of one person go together; the mean over 128 of them still varies by less than one.
    assert abs(score.mean()) < 4 / np.sqrt(6000)
    assert score.var() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(score.var(axis=0), 1, atol=5 * np.sqrt(2 / 6000))
    assert (np.abs(score) < 1.6449).mean() == pytest.approx(0.9, abs=0.01)
    gap = cohort.gap
    for part in (gap < 3.25, gap > 5.75, cohort.covariate_table.disease.to_numpy() == 1):
        assert score[part].var() == pytest.approx(1, abs=0.08)
        assert abs(score[part].mean()) < 5 / np.sqrt(part.sum())
    # Nothing that was conditioned on explains what is left.
    known = np.column_stack([cohort.baseline, cohort.static])
    known = (known - known.mean(axis=0)) / known.std(axis=0)
    assert np.abs(known.T @ score / 6000).max() < 5.5 / np.sqrt(6000)


@pytest.mark.parametrize("seed", [0, 1])
def test_whitened_residual_is_white(seed: int) -> None:
    cohort = simulate(6000, 5, seed=seed, mode="gaussian")
    assert cohort.posterior_mean is not None
    assert cohort.posterior_cov is not None
    residual = cohort.truth - cohort.posterior_mean
    white = np.stack(
        [np.linalg.solve(np.linalg.cholesky(cohort.posterior_cov[i]), residual[i]) for i in range(len(cohort))]
    )
    np.testing.assert_allclose(white.T @ white / 6000, np.eye(5), atol=5 * np.sqrt(2 / 6000))


def test_posterior_covariance_against_the_dense_formula() -> None:
    model = linear_model(7, (0.75, 0.97), False, np.random.default_rng(3))
    slopes = model.slope_loadings * model.spread
    level = model.loadings.T @ model.loadings + UNIQUE_VARIANCE * np.eye(7)
    tilt = slopes.T @ model.loadings[1 : 1 + SLOPE_FACTORS] / 2  # Cov(slope, true baseline)
    error = np.diag(model.error**2)
    found = posterior_covariance(model, np.array([2.0, 6.5]))
    for person, gap in enumerate((2.0, 6.5)):
        cross = level + gap * tilt
        slope = 1.25 * slopes.T @ slopes + np.diag((model.slope_noise * model.spread) ** 2)
        later = level + gap * (tilt + tilt.T) + gap**2 * slope + error
        expected = later - cross @ np.linalg.solve(level + error, cross.T)
        np.testing.assert_allclose(found[person], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.standard_deviation()[person], np.sqrt(np.diag(expected)), rtol=1e-10)
    assert found.shape == (2, 7, 7)
    assert len(found) == 2
    with pytest.raises(IndexError):
        found[2]


def test_posterior_draws_follow_the_posterior() -> None:
    cohort = simulate(3, 6, seed=4, mode="gaussian")
    assert cohort.posterior_mean is not None
    assert cohort.posterior_cov is not None
    draws = cohort.posterior_draws(20_000, seed=1)
    assert draws.shape == (20_000, 3, 6)
    np.testing.assert_array_equal(cohort.posterior_draws(2, seed=5), cohort.posterior_draws(2, seed=5))
    for person in range(3):
        covariance = cohort.posterior_cov[person]
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (draws[:, person] - cohort.posterior_mean[person]).T)
        np.testing.assert_allclose(white.mean(axis=1), 0, atol=5 / np.sqrt(20_000))
        np.testing.assert_allclose(white @ white.T / 20_000, np.eye(6), atol=6 * np.sqrt(2 / 20_000))


def test_spread_and_reliability_are_those_of_the_design() -> None:
    cohort = simulate(20_000, 40, seed=5, mode="gaussian", reliability=(0.9, 0.9))
    model = linear_model(40, (0.9, 0.9), False, np.random.default_rng(np.random.SeedSequence(5).spawn(1)[0]))
    np.testing.assert_allclose(cohort.baseline.std(axis=0), model.spread / np.sqrt(0.9), rtol=0.03)
    # 12 factors: .6^2 unique, 11 of .45^2 and a size factor of 1.2^2 on average.
    assert (model.loadings**2).sum(axis=0).mean() == pytest.approx(1.44 + 11 * 0.2025, rel=0.3)
    assert (model.loadings[0] > 0).all()


@pytest.mark.parametrize("mode", ["gaussian", "converters"])
def test_changes_are_those_of_the_design(mode: str) -> None:
    cohort = simulate(40_000, 6, seed=6, mode=mode)
    stream = np.random.default_rng(np.random.SeedSequence(6).spawn(1)[0])
    model = linear_model(6, (0.75, 0.97), mode == "converters", stream)
    age, gap = (cohort.covariate_table.age.to_numpy() - 62) / 18, cohort.gap
    change = (cohort.truth - cohort.baseline) / model.spread
    if cohort.axis is not None and cohort.converted is not None:
        stays = ~cohort.converted
        fell = change[~stays] / gap[~stays, None] + np.outer(1 + 0.8 * age[~stays], model.decline)
        # The mean rate of conversion is .25 axes a year; a quarter of the converters decline with disease as well.
        np.testing.assert_allclose(fell.mean(axis=0), -0.25 * cohort.axis, atol=0.02)
        age, gap, change = age[stays], gap[stays], change[stays]
        ill = cohort.covariate_table.disease.to_numpy()[stays]
    else:
        ill = cohort.covariate_table.disease.to_numpy()
    known = np.column_stack([1 + 0.8 * age, ill])
    found = -np.linalg.lstsq(known, change / gap[:, None], rcond=None)[0]
    np.testing.assert_allclose(found[0], model.decline, atol=0.006)
    np.testing.assert_allclose(found[1], model.disease_decline, atol=0.02)
    error = 2 * (model.error / model.spread) ** 2 if mode == "gaussian" else 0.25**2
    yearly = 1.25 * (model.slope_loadings**2).sum(axis=0) + model.slope_noise**2
    left = change + gap[:, None] * (known @ found)
    for low, high in ((2, 3), (6, 7)):
        part = (gap > low) & (gap < high)
        expected = error + yearly * (gap[part] ** 2).mean()
        np.testing.assert_allclose(left[part].var(axis=0), expected, rtol=0.1)


# -- who is observed ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["cohort", "gaussian", "converters"])
def test_same_seed_same_cohort(mode: str) -> None:
    arguments = {"subjects": 300, "features": 9, "mode": mode}
    first = simulate(**arguments, seed=7)  # type: ignore[arg-type]
    same(first, simulate(**arguments, seed=7))  # type: ignore[arg-type]
    other = simulate(**arguments, seed=8)  # type: ignore[arg-type]
    assert not np.array_equal(first.truth, other.truth)
    # Another share or selection changes only who is observed.
    more = simulate(**arguments, seed=7, paired=0.5)  # type: ignore[arg-type]
    healthy = simulate(**arguments, seed=7, selection="health")  # type: ignore[arg-type]
    for cohort in (more, healthy):
        same(first, cohort, ("times", "truth", "posterior_mean", "axis", "converted", "site"))
        np.testing.assert_array_equal(first.baseline, cohort.baseline)
    assert more.paired[first.paired].all()
    assert not np.array_equal(healthy.paired, first.paired)


@pytest.mark.parametrize("mode", ["cohort", "gaussian", "converters"])
@pytest.mark.parametrize("selection", ["random", "health"])
@pytest.mark.parametrize(("subjects", "paired"), [(2, 0.5), (333, 0.12), (50, 0.0), (50, 1.0)])
def test_exactly_that_many_are_paired(mode: str, selection: str, subjects: int, paired: float) -> None:
    for features in (1, 6):
        cohort = simulate(subjects, features, paired=paired, mode=mode, selection=selection)
        assert cohort.paired.sum() == round(paired * subjects)
        assert cohort.scanned.all()
        assert cohort.times.shape == (subjects, 2)
        assert ((cohort.gap >= 2) & (cohort.gap < 7)).all()
        assert np.isfinite(cohort.truth).all()
        seen = np.isfinite(cohort.followup)
        assert not seen[~cohort.paired].any()
        np.testing.assert_array_equal(cohort.followup[seen], cohort.truth[seen])
        if mode != "cohort":
            assert seen[cohort.paired].all()
    assert cohort.ids[0] == "S0000001"
    assert len(cohort.pairs()) == cohort.paired.sum()


@pytest.mark.parametrize("mode", ["cohort", "gaussian"])
def test_the_healthier_return(mode: str) -> None:
    cohort = simulate(6000, 24, mode=mode, selection="health", seed=2)
    back, table = cohort.paired, cohort.covariate_table
    assert table.age[back].mean() < table.age[~back].mean() - 2
    level = np.nanmean(
        (cohort.baseline - np.nanmean(cohort.baseline, axis=0)) / np.nanstd(cohort.baseline, axis=0), axis=1
    )
    assert level[back].mean() > level[~back].mean() + 0.1
    if mode == "gaussian":
        assert table.disease[back].mean() < 0.6 * table.disease[~back].mean()
        # It looks at what is conditioned on only: the posterior holds among those who return.
        assert cohort.posterior_mean is not None
        assert cohort.posterior_cov is not None
        score = (cohort.truth - cohort.posterior_mean) / cohort.posterior_cov.standard_deviation()
        assert np.abs(score[back].mean(axis=0)).max() < 4.5 / np.sqrt(back.sum())
        assert score[back].var() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("mode", ["cohort", "gaussian", "converters"])
def test_parts_keep_the_extras_aligned(mode: str) -> None:
    cohort = simulate(200, 8, mode=mode, paired=0.5)
    train, test = cohort.split(0.3, seed=1)
    assert isinstance(train, SimulatedCohort)
    assert len(train) + len(test) == 200
    chosen = cohort.take([5, 3, -1])
    place = {name: number for number, name in enumerate(cohort.ids)}
    for part in (train, test, chosen, cohort.without_followup()):
        rows = [place[name] for name in part.ids]
        np.testing.assert_array_equal(part.truth, cohort.truth[rows])
        if mode == "gaussian":
            assert cohort.posterior_mean is not None
            assert cohort.posterior_cov is not None
            assert part.posterior_cov is not None
            np.testing.assert_array_equal(part.posterior_mean, cohort.posterior_mean[rows])
            np.testing.assert_array_equal(part.posterior_cov[0], cohort.posterior_cov[rows[0]])
            assert part.posterior_cov.shape == (len(part), 8, 8)
            assert part.posterior_draws(2).shape == (2, len(part), 8)
        else:
            assert cohort.converted is not None
            np.testing.assert_array_equal(part.converted, cohort.converted[rows])
            np.testing.assert_array_equal(part.axis, cohort.axis)
            assert part.posterior_mean is None
            assert part.posterior_cov is None
    assert np.isnan(cohort.without_followup().followup).all()
    assert len(cohort.take([])) == 0


def test_covariates_and_outcomes() -> None:
    for mode in ("gaussian", "converters"):
        cohort = simulate(3000, 3, mode=mode)
        assert cohort.covariates == ("age", "sex=F", "sex=M", "disease")
        assert cohort.outcomes.shape == (3000, 0)
        assert cohort.covariate_table.disease.mean() == pytest.approx(0.06, abs=0.02)
    cohort = simulate(3000, 3)
    assert cohort.covariates == ("age", "sex=F", "sex=M", "education")
    assert list(cohort.outcomes) == ["diagnosis"]
    assert cohort.covariate_table.age.between(45, 80).all()
    assert cohort.site is not None
    assert set(cohort.site) == {"A", "B", "C", "D"}


# -- converters ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["converters", "cohort"])
def test_converters_lose_along_the_axis(mode: str) -> None:
    cohort = simulate(8000, 64, mode=mode, seed=1)
    assert cohort.axis is not None
    assert cohort.converted is not None
    age = (cohort.covariate_table.age.to_numpy() - 62) / 18
    ill = cohort.covariate_table.disease.to_numpy() if mode == "converters" else 0.06 * 2
    expected = 1 / (1 + np.exp(3 - 1.2 * age - 2 * ill))
    assert cohort.converted.mean() == pytest.approx(expected.mean(), abs=0.015)
    if mode == "converters":
        assert np.sum(cohort.axis < 0.2) >= 32
    baseline, followup = cohort.baseline, cohort.truth
    if mode == "cohort":
        whole = np.isfinite(baseline).all(axis=1)
        cohort, baseline, followup = cohort.take(whole), np.log(baseline[whole]), np.log(followup[whole])
    assert cohort.converted is not None
    assert cohort.axis is not None
    known = np.column_stack([np.ones(len(cohort)), baseline, cohort.static[:, [0, 2]], cohort.gap])
    residual = followup - known @ np.linalg.lstsq(known, followup, rcond=None)[0]
    along = (residual / baseline.std(axis=0)) @ cohort.axis
    along = (along - along.mean()) / along.std()
    assert (along**3).mean() < -1
    assert along[cohort.converted].mean() < -1.5
    assert abs((along[~cohort.converted] ** 3).mean()) < 0.5


# -- mode cohort ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brain() -> SimulatedCohort:
    return simulate(4000, 480, seed=1)


def columns(cohort: SimulatedCohort) -> dict[str, np.ndarray]:
    """Positions of the features by modality."""
    names = np.array(cohort.features)
    cortical = np.array([name.startswith(("lh_", "rh_")) for name in names])
    kind = np.array([name.rsplit("_", 1)[1] for name in names])
    return {
        "thickness": np.flatnonzero(kind == "thickness"),
        "area": np.flatnonzero(kind == "area"),
        "cortical volume": np.flatnonzero((kind == "volume") & cortical),
        "volume": np.flatnonzero((kind == "volume") & ~cortical),
    }


def yearly(cohort: SimulatedCohort) -> np.ndarray:
    """(D,) mean log change in per cent a year."""
    return np.nanmean(100 * np.log(cohort.truth / cohort.baseline) / cohort.gap[:, None], axis=0)


def test_names_and_units(brain: SimulatedCohort) -> None:
    median = dict(zip(brain.features, np.nanmedian(brain.baseline, axis=0), strict=True))
    assert len(set(brain.features)) == 480
    assert median["Left-Hippocampus_volume"] == pytest.approx(4000, rel=0.1)
    assert median["Right-Lateral-Ventricle_volume"] == pytest.approx(12000, rel=0.15)
    assert median["EstimatedTotalIntraCranial_volume"] == pytest.approx(1.55e6, rel=0.05)
    assert all(1.4 < value < 4 for name, value in median.items() if name.endswith("_thickness"))
    assert all(150 < value < 9000 for name, value in median.items() if name.endswith("_area"))
    for name in ("lh_entorhinal", "rh_insula"):
        product = median[f"{name}_thickness"] * median[f"{name}_area"]
        assert median[f"{name}_volume"] == pytest.approx(product, rel=0.03)
    assert np.nanmin(brain.truth) > 0
    assert np.nanmin(brain.baseline) > 0


@pytest.mark.parametrize("count", [1, 2, 5, 128, 769, 2000])
def test_any_number_of_features(count: int) -> None:
    features = catalogue(count)
    names = [feature.name for feature in features]
    assert len(set(names)) == count
    assert names == [feature.name for feature in catalogue(count + 3)][:count]
    if count >= 128:
        share = [sum(feature.modality == kind for feature in features) / count for kind in ("thickness", "area")]
        assert min(share) >= 0.25
    assert simulate(3, count).truth.shape == (3, count)


def test_between_subject_variation(brain: SimulatedCohort) -> None:
    cv = np.nanstd(brain.baseline, axis=0) / np.nanmean(brain.baseline, axis=0)
    named = dict(zip(brain.features, cv, strict=True))
    where = columns(brain)
    assert np.median(cv[where["thickness"]]) == pytest.approx(0.047, abs=0.007)
    assert np.median(cv[where["area"]]) == pytest.approx(0.14, abs=0.02)
    assert np.median(cv[where["volume"]]) == pytest.approx(0.12, abs=0.02)
    assert named["Left-Hippocampus_volume"] == pytest.approx(0.10, abs=0.02)
    assert 0.48 < named["Left-Lateral-Ventricle_volume"] < 0.68
    ventricle = brain.baseline[:, brain.features.index("Left-Lateral-Ventricle_volume")]
    ventricle = ventricle[np.isfinite(ventricle)]
    for values, low, high in ((ventricle, 1.0, 4.0), (np.log(ventricle), -0.3, 0.3)):
        assert low < ((values - values.mean()) ** 3).mean() / values.std() ** 3 < high


def test_reliability(brain: SimulatedCohort) -> None:
    # Two visits within 2.75 years lose little to change; the lag takes a few hundredths from the ICC of the table.
    soon = brain.gap < 2.75
    first, second = np.log(brain.baseline[soon]), np.log(brain.truth[soon])
    found = np.empty(len(brain.features))
    for number in range(len(found)):
        seen = np.isfinite(first[:, number])
        found[number] = np.corrcoef(first[seen, number], second[seen, number])[0, 1]
    where = columns(brain)
    for kind, low, high in (("thickness", 0.84, 0.91), ("area", 0.96, 0.995), ("cortical volume", 0.94, 0.985)):
        assert low < np.median(found[where[kind]]) < high
    assert 0.94 < np.median(found[where["volume"]]) < 0.985
    assert 0.70 < np.percentile(found[where["thickness"]], 10) < 0.85
    assert 0.90 < found[brain.features.index("Left-Hippocampus_volume")] < 0.965


def test_annual_change(brain: SimulatedCohort) -> None:
    rate, where = yearly(brain), columns(brain)
    named = dict(zip(brain.features, rate, strict=True))
    assert named["Left-Hippocampus_volume"] == pytest.approx(-0.85, abs=0.12)
    assert named["Left-Lateral-Ventricle_volume"] == pytest.approx(3.0, abs=0.5)
    assert rate[where["thickness"]].mean() == pytest.approx(-0.35, abs=0.05)
    assert rate[where["area"]].mean() == pytest.approx(-0.19, abs=0.04)
    assert rate[where["cortical volume"]].mean() == pytest.approx(-0.51, abs=0.08)
    assert -0.6 < named["Left-Cortex_volume"] < -0.3
    age = brain.covariate_table.age.to_numpy()
    hippocampus = brain.features.index("Left-Hippocampus_volume")
    assert yearly(brain.take(age > 72))[hippocampus] < yearly(brain.take(age < 55))[hippocampus] - 0.5
    # The reliability of change is modest at two years and grows with the gap.
    step = np.log(brain.truth / brain.baseline)[:, where["thickness"]]
    early, late = (np.nanvar(step[part], axis=0).mean() for part in (brain.gap < 3, brain.gap > 6))
    assert 1.05 < late / early < 1.6


def test_correlation_between_regions(brain: SimulatedCohort) -> None:
    values = np.log(brain.baseline)
    where = columns(brain)["volume"]
    whole = values[np.isfinite(values[:, where]).all(axis=1)][:, where]
    share = np.linalg.eigvalsh(np.corrcoef(whole.T))[-1] / len(where)
    assert share == pytest.approx(0.43, abs=0.08)
    for name, low, high in (("{}-Hippocampus_volume", 0.65, 0.95), ("{}_insula_thickness", 0.4, 0.85)):
        sides = ("Left", "Right") if name.startswith("{}-") else ("lh", "rh")
        both = values[:, [brain.features.index(name.format(side)) for side in sides]]
        assert low < np.corrcoef(both[np.isfinite(both).all(axis=1)].T)[0, 1] < high


def test_missing_cells(brain: SimulatedCohort) -> None:
    lost = np.isnan(brain.baseline)
    assert lost.mean() == pytest.approx(0.01, abs=0.002)
    thickness = lost[:, columns(brain)["thickness"]].all(axis=1)
    assert 1 <= thickness.sum() < 40  # people without a modality
    assert np.isnan(brain.followup[brain.paired]).mean() == pytest.approx(0.01, abs=0.004)


def test_diagnosis_follows_the_disease(brain: SimulatedCohort) -> None:
    assert brain.converted is not None
    diagnosis = brain.outcomes.diagnosis.to_numpy()
    assert 0.03 < diagnosis.mean() < 0.12
    assert diagnosis[brain.converted].mean() > 10 * diagnosis[~brain.converted].mean()


# -- arguments and files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"subjects": 1},
        {"subjects": 10.5},
        {"features": 0},
        {"paired": -0.1},
        {"paired": 1.1},
        {"paired": float("nan")},
        {"mode": "brain"},
        {"selection": "all"},
        {"seed": -1},
        {"reliability": (0.0, 0.5)},
        {"reliability": (0.9, 0.8)},
        {"reliability": (0.9, 1.2)},
    ],
)
def test_bad_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(arguments)))):
        simulate(**arguments)  # type: ignore[arg-type]


def test_no_posterior_no_draws() -> None:
    with pytest.raises(InputError, match="posterior"):
        simulate(5, 3, mode="converters").posterior_draws(2)
    with pytest.raises(InputError, match="draws"):
        simulate(5, 3, mode="gaussian").posterior_draws(0)


@pytest.mark.parametrize("mode", ["cohort", "gaussian"])
def test_reliability_can_be_given(mode: str) -> None:
    # Half of the variance is error at .5 and none at 1; the site takes a hundredth and conversion a little more.
    spread = []
    for value in (0.5, 1.0):
        baseline = simulate(3000, 12, mode=mode, reliability=(value, value)).baseline
        spread.append(np.nanstd(np.log(baseline) if mode == "cohort" else baseline, axis=0))
    np.testing.assert_allclose(spread[0] / spread[1], np.sqrt(2), rtol=0.06)


def test_single_precision_when_large(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("secondgram.cohort.simulate", fromlist=["FLOAT32_CELLS"])
    monkeypatch.setattr(module, "FLOAT32_CELLS", 100)
    for mode in ("cohort", "gaussian", "converters"):
        cohort = module.simulate(20, 5, mode=mode, paired=1.0)
        assert cohort.visits.dtype == cohort.truth.dtype == np.float32
        seen = np.isfinite(cohort.followup)
        np.testing.assert_array_equal(cohort.followup[seen], cohort.truth[seen])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_writing(tmp_path: Path, suffix: str) -> None:
    cohort = simulate(30, 6, mode="cohort", paired=0.4)
    cohort.write(tmp_path / f"cohort{suffix}")
    cohort.write_truth(tmp_path / f"cohort-truth{suffix}")
    path = tmp_path / f"cohort-truth{suffix}"
    # pyarrow reads text to the nearest float; pandas does so in some releases only.
    table = read_csv(path).to_pandas() if suffix == ".csv" else pd.read_parquet(path)
    assert list(table) == ["subject_id", "visit", "time_years", "site", *cohort.features]
    followup = table[table["visit"].astype(str) == cohort.followup_label]
    np.testing.assert_array_equal(followup[list(cohort.features)].to_numpy(), cohort.truth)
    again = read_cohort(tmp_path / f"cohort{suffix}", outcomes=["diagnosis"])
    assert isinstance(again, Cohort)
    np.testing.assert_array_equal(again.visits[np.argsort(again.ids)], cohort.visits)
