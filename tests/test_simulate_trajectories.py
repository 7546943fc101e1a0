"""Mode `trajectories` of the simulator: its posterior against a dense formula and what was drawn; who is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secondgram as sg
from secondgram.cohort import SimulatedTrajectories
from secondgram.cohort.simulate_linear import SLOPE_FACTORS, UNIQUE_VARIANCE
from secondgram.cohort.simulate_trajectories import MEMORY
from secondgram.cohort.simulated import people_of
from secondgram.errors import InputError


def made(subjects: int = 300, features: int = 3, paired: float = 0.8, seed: int = 0, **more: Any) -> Any:
    cohort = sg.simulate(subjects, features, paired, seed, "trajectories", **more)
    assert isinstance(cohort, SimulatedTrajectories)
    return cohort


@pytest.fixture(scope="module")
def rich() -> SimulatedTrajectories:
    cohort = made(4000, 6, seed=3, wander=0.3, sites=3, dropout=1.0, slope=0.12)
    assert isinstance(cohort, SimulatedTrajectories)
    return cohort


# -- the exact posterior -----------------------------------------------------------------------------------------------


def dense(cohort: SimulatedTrajectories, times: np.ndarray) -> np.ndarray:
    """Covariance (V D, V D) of the measurements at times (V,), from the equation of the module."""
    world, width = cohort.world, len(cohort.features)
    slopes = world.model.slope_loadings * world.model.spread
    tilt = slopes.T @ world.model.loadings[1 : 1 + SLOPE_FACTORS] / 2
    level = world.model.loadings.T @ world.model.loadings + UNIQUE_VARIANCE * np.eye(width)
    slope = 1.25 * slopes.T @ slopes + np.diag(world.slope_noise**2)
    rows = []
    for s in times:
        parts = []
        for t in times:
            block = level + t * tilt.T + s * tilt + s * t * slope
            block += np.diag(world.wander**2) * np.exp(-abs(s - t) / MEMORY)
            parts.append(block + np.diag(world.model.error**2) * (s == t))
        rows.append(parts)
    return np.block(rows)


@pytest.mark.parametrize("wander", [0.0, 0.4])
def test_posterior_against_the_dense_formula(wander: float) -> None:
    cohort = made(40, 4, seed=1, wander=wander, sites=2, slope=0.2, visits=4)
    rng = np.random.default_rng(0)
    visits = np.where(rng.random(cohort.visits.shape) < 0.3, np.nan, cohort.visits)
    found = cohort.world.posterior(
        people_of(cohort.covariate_table),
        visits[:, :3],
        cohort.times[:, :3],
        cohort.times[:, 1:] + 0.01,
        cohort.visit_sites[:, :3],
        cohort.visit_sites[:, 1:],
    )
    for person in range(40):
        times = np.concatenate([cohort.times[person, :3], cohort.times[person, 1:] + 0.01])
        whole = dense(cohort, times)
        sites = np.concatenate([cohort.visit_sites[person, :3], cohort.visit_sites[person, 1:]])
        one = people_of(cohort.covariate_table.iloc[[person]])
        expected = cohort.world.expected(one, times[None], sites[None])[0].ravel()
        values = visits[person, :3].ravel()
        seen = np.flatnonzero(np.isfinite(values))
        rest = np.arange(12, 24)
        gain = np.linalg.solve(whole[np.ix_(seen, seen)], whole[np.ix_(seen, rest)]).T
        mean = expected[rest] + gain @ (values[seen] - expected[seen])
        covariance = whole[np.ix_(rest, rest)] - gain @ whole[np.ix_(seen, rest)]
        np.testing.assert_allclose(found.mean[person].ravel(), mean, rtol=1e-9, atol=1e-9)
        made_of = found.factor[person].reshape(12, -1)
        own = np.zeros((3, 4, 3, 4))
        for feature in range(4):
            own[:, feature, :, feature] = found.own[person, feature]
        np.testing.assert_allclose(made_of @ made_of.T + own.reshape(12, 12), covariance, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found.standard_deviation()[person].ravel(), np.sqrt(np.diag(covariance)), rtol=1e-8)
        diagonal = np.diag(covariance.reshape(3, 4, 3, 4)[0, :, 2, :])
        np.testing.assert_allclose(found.covariance(0, 2)[person], diagonal, rtol=1e-8, atol=1e-9)


def test_what_was_missed_is_as_the_posterior_says(rich: SimulatedTrajectories) -> None:
    found = rich.posterior()
    score = (rich.complete - found.mean) / found.standard_deviation()
    missed = ~np.isfinite(rich.visits[:, :, 0])
    count = np.isfinite(rich.visits[:, :, 0]).sum(axis=1)
    for seen in range(1, 5):
        part = score[count == seen][missed[count == seen]]
        assert len(part) > 300
        assert abs(part.mean()) < 0.06
        assert part.var() == pytest.approx(1, abs=0.06)
    # Leaving rests on what was measured: the posterior holds for those who left, at every visit.
    for visit in range(1, 5):
        part = score[missed[:, visit], visit]
        assert abs(part.mean()) < 0.05
        assert (np.abs(part) < 1.6449).mean() == pytest.approx(0.9, abs=0.015)


def test_two_missed_visits_go_together_as_the_posterior_says(rich: SimulatedTrajectories) -> None:
    missed = ~np.isfinite(rich.visits[:, 3:, 0]).any(axis=1)
    part = rich.take(missed)
    found = part.posterior(np.broadcast_to([3, 4], (len(part), 2)))
    left = part.complete[:, 3:] - found.mean
    np.testing.assert_allclose(
        (left[:, 0] * left[:, 1]).mean(axis=0), found.covariance(0, 1).mean(axis=0), rtol=0.15, atol=0.02
    )
    draws = part.take(np.arange(40)).posterior().draws(2000, seed=1)
    few = part.take(np.arange(40)).posterior()
    np.testing.assert_allclose(draws.mean(axis=0), few.mean, atol=6 * few.standard_deviation().max() / np.sqrt(2000))
    np.testing.assert_allclose(draws.std(axis=0), few.standard_deviation(), rtol=0.12)
    both = ((draws[:, :, 3] - few.mean[:, 3]) * (draws[:, :, 4] - few.mean[:, 4])).mean(axis=0)
    np.testing.assert_allclose(both, few.covariance(3, 4), atol=0.15 * few.standard_deviation().max() ** 2)


def test_times_that_are_asked_for(rich: SimulatedTrajectories) -> None:
    few = rich.take(np.arange(30))
    assert few.visit_sites is not None
    there = few.posterior(at=np.broadcast_to([1.0, 20.0], (30, 2)))
    assert (there.standard_deviation()[:, 1] > there.standard_deviation()[:, 0]).all()
    one = few.posterior(at=few.times[:, [2]])
    same = few.posterior(np.full((30, 1), 2))
    stayed = few.visit_sites[:, 2] == few.visit_sites[:, 0]
    np.testing.assert_allclose(one.mean[stayed], same.mean[stayed], rtol=1e-12)
    assert not np.allclose(one.mean[~stayed], same.mean[~stayed])
    with pytest.raises(InputError, match="two ways"):
        few.posterior(np.full((30, 1), 2), at=np.ones((30, 1)))


def test_measurements_without_error_have_a_posterior() -> None:
    cohort = made(60, 3, seed=2, reliability=(1.0, 1.0), slope=0.1)
    found = cohort.posterior()
    seen = np.isfinite(cohort.visits)
    np.testing.assert_allclose(found.mean[seen], cohort.visits[seen], atol=1e-3)
    assert np.isfinite(found.draws(2)).all()


# -- who, when and where -----------------------------------------------------------------------------------------------


def test_same_seed_same_cohort_and_asking_for_less_changes_who_is_seen_alone() -> None:
    one, again, other = made(seed=7), made(seed=7), made(seed=8)
    np.testing.assert_array_equal(one.visits, again.visits)
    assert not np.array_equal(one.complete, other.complete)
    for more in (made(seed=7, paired=0.3), made(seed=7, dropout=2.0)):
        np.testing.assert_array_equal(one.complete, more.complete)
        np.testing.assert_array_equal(one.times, more.times)
        assert np.isfinite(more.visits).sum() < np.isfinite(one.visits).sum()
    healthy = sg.simulate(300, 3, 0.5, 7, "trajectories", "health")
    age = healthy.covariate_table.age
    back = np.isfinite(healthy.visits[:, 1:]).any(axis=(1, 2))
    assert back.sum() == 150
    assert age[back].mean() < age[~back].mean()


def test_who_comes_back() -> None:
    cohort = made(5000, 2, paired=0.6, seed=2)
    seen = np.isfinite(cohort.visits).any(axis=2)
    assert cohort.scanned.all()
    assert seen[:, 1:].any(axis=1).sum() == 3000
    back = seen[seen[:, 1:].any(axis=1)]
    assert back[:, 1:4].mean() == pytest.approx(0.85, abs=0.01)
    np.testing.assert_array_equal(cohort.visits[seen], cohort.complete[seen])
    assert ((np.diff(cohort.times, axis=1) > 0.8) & (np.diff(cohort.times, axis=1) < 2.2)).all()


def test_the_ill_leave() -> None:
    cohort = made(6000, 8, paired=1.0, seed=4, dropout=1.5)
    stayed = np.isfinite(cohort.visits[:, 4, 0])
    level = ((cohort.baseline - cohort.baseline.mean(axis=0)) / cohort.baseline.std(axis=0)).mean(axis=1)
    assert level[stayed].mean() > level[~stayed].mean() + 0.3


def test_a_slope_is_as_wide_as_asked() -> None:
    for slope in (0.02, 0.12):
        cohort = made(6000, 5, seed=5, slope=slope, visits=8, reliability=(1.0, 1.0))
        spread = cohort.world.model.spread
        yearly = (cohort.complete[:, 7] - cohort.complete[:, 0]) / cohort.times[:, [7]] / spread
        age = (cohort.covariate_table.age.to_numpy() - 62) / 18
        known = np.column_stack([np.ones(6000), age, cohort.covariate_table.disease])
        left = yearly - known @ np.linalg.lstsq(known, yearly, rcond=None)[0]
        np.testing.assert_allclose(left.std(axis=0), slope, rtol=0.06)


def test_sites_move_what_is_measured() -> None:
    plain, scanned = made(2000, 3, seed=6), made(2000, 3, seed=6, sites=2)
    assert plain.visit_sites is None
    assert set(scanned.visit_sites.ravel()) == {"A", "B"}
    moved = (scanned.visit_sites[:, 1:] != scanned.visit_sites[:, :-1]).mean()
    assert moved == pytest.approx(0.05, abs=0.01)
    there = np.where(scanned.visit_sites == "A", 0, 1)
    np.testing.assert_allclose(scanned.complete - plain.complete, scanned.world.offsets[there], atol=1e-9)


def test_parts_and_targets_keep_the_truth(rich: SimulatedTrajectories) -> None:
    part = rich.take([7, 2, 9]).with_target(3)
    np.testing.assert_array_equal(part.complete, rich.complete[[7, 2, 9]])
    np.testing.assert_array_equal(part.truth, rich.complete[[7, 2, 9], 3])
    np.testing.assert_allclose(part.posterior().mean, rich.posterior().mean[[7, 2, 9]], rtol=1e-12)
    np.testing.assert_array_equal(rich.truth, rich.complete[:, 1])
    with pytest.raises(InputError, match="visits 0 to 4"):
        rich.with_target(5)


# -- arguments and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"visits": 1}, "visits=1"),
        ({"visits": 1001}, "visits=1001"),
        ({"visits": 2.5}, "visits=2.5"),
        ({"sites": 0}, "sites=0"),
        ({"sites": 27}, "sites=27"),
        ({"slope": -0.1}, "slope=-0.1"),
        ({"wander": float("nan")}, "wander=nan"),
        ({"dropout": float("inf")}, "dropout=inf"),
    ],
)
def test_arguments_that_make_no_cohort(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(**more)


@pytest.mark.parametrize("name", ["visits", "slope", "wander", "sites", "dropout"])
def test_other_modes_have_two_visits(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=3 belongs to mode 'trajectories'"):
        sg.simulate(30, 2, 0.5, mode="gaussian", **{name: 3})  # type: ignore[arg-type]


def test_every_visit_is_written(tmp_path: Path) -> None:
    cohort = made(30, 2, seed=1, visits=3, sites=2)
    cohort.write(tmp_path / "seen.csv")
    cohort.write_truth(tmp_path / "truth.csv")
    again = sg.read_cohort(tmp_path / "truth.csv", site="site", static=[])
    np.testing.assert_allclose(again.visits, cohort.complete)
    assert np.isnan(sg.read_cohort(tmp_path / "seen.csv", site="site").visits).any()
