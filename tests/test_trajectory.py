"""A model conditioned on every visit a person has: the anchor, hidden visits, and the way through the imputer."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.errors import InputError
from secondgram.imputation.history import History, filled_times, usual_times, years
from secondgram.imputation.model_data import People, TrainingPairs, WeightedCohort
from secondgram.imputation.trajectory.anchor import Anchor, _estimated
from secondgram.imputation.trajectory.anchored import INPUTS, PENALTIES, Anchoring, Seen
from secondgram.imputation.trajectory.factors import Factors
from secondgram.imputation.trajectory.hidden import Hidden, enough
from secondgram.imputation.trajectory.posterior import VisitSums
from secondgram.imputation.trajectory.statement import conditional, conditional_of_all, log_likelihood
from secondgram.imputation.trajectory.trajectory_model import TrajectoryModel

G = np.array([[1.0, -0.03], [-0.03, 0.04]])
ERROR = 0.3


def _people(people: int, visits: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visits (N, V, D) of levels and slopes, times (N, V) and a covariate (N,) on which both depend."""
    rng = np.random.default_rng(seed)
    time = np.arange(visits) * 1.5 + np.concatenate(
        [np.zeros((people, 1)), rng.uniform(-0.3, 0.3, (people, visits - 1))], axis=1
    )
    covariate = rng.standard_normal(people)
    both = rng.multivariate_normal([0.0, -0.1], G, (people, features)) + 0.3 * covariate[:, None, None] * [1.0, -0.1]
    y = both[:, None, :, 0] + both[:, None, :, 1] * time[:, :, None]
    return y + ERROR * rng.standard_normal(y.shape), time, covariate


def _cohort(people: int = 90, visits: int = 4, features: int = 3, seed: int = 0, target: int = 3) -> sg.Cohort:
    """Half of the people lack the last visit, some another one, and a few the first."""
    y, time, covariate = _people(people, visits, features, seed)
    y = 1000.0 + 100.0 * y
    y[::2, -1] = np.nan
    y[1::6, 1] = np.nan
    y[2::9, 0] = np.nan
    return sg.Cohort(
        ids=np.array([f"P{number:03d}" for number in range(people)], dtype=object),
        visits=y,
        features=tuple(f"vol_{number}" for number in range(features)),
        visit_labels=tuple(f"v{number}" for number in range(visits)),
        times=time,
        covariate_table=pd.DataFrame({"age": 60.0 + 8.0 * covariate}),
        target=target,
    )


@pytest.fixture(scope="module")
def cohort() -> sg.Cohort:
    return _cohort()


@pytest.fixture(scope="module")
def imputer(cohort: sg.Cohort) -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False)


def _matrix(anchor: Anchor, feature: int) -> np.ndarray:
    level, both, slope = anchor.G[:, feature]
    return np.array([[level, both], [both, slope]])


def _whole(anchor: Anchor, y: np.ndarray, time: np.ndarray, person: np.ndarray, feature: int) -> float:
    total = 0.0
    for i in range(len(y)):
        x = np.concatenate([np.broadcast_to(person[i], (len(time[i]), 2)), person[i] * time[i][:, None]], axis=1)
        b = np.concatenate([anchor.b[0, :, feature], anchor.b[1, :, feature]])
        total += log_likelihood(y[i, :, feature], time[i], x, b, _matrix(anchor, feature), float(anchor.s2[feature]))
    return total


def test_the_anchor_has_the_greatest_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondgram.imputation.trajectory.anchor.PRIOR", 0.0)
    y, time, covariate = _people(120, 4, 2, seed=1)
    y[np.random.default_rng(2).random(y.shape) < 0.3] = np.nan
    person = np.stack([np.ones(len(y)), covariate], axis=1)
    anchor = Anchor.fit(y, time, person)
    best = _whole(anchor, y, time, person, 0)
    for step in (0.97, 1.03):
        for part in range(3):
            moved = anchor.G.copy()
            moved[part] *= step
            assert _whole(replace(anchor, G=moved), y, time, person, 0) < best + 1e-3
        assert _whole(replace(anchor, s2=anchor.s2 * step), y, time, person, 0) < best + 1e-3
    for shift in (-0.03, 0.03):
        for part in np.ndindex(2, 2):
            b = anchor.b.copy()
            b[part] += shift
            assert _whole(replace(anchor, b=b), y, time, person, 0) < best + 1e-3


@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_people_who_were_seen_once_are_summed_and_features_are_alone(holes: float) -> None:
    rng = np.random.default_rng(4)
    made = sg.simulate(300, 5, 0.3, 6, "trajectories", visits=4)
    values = (made.visits - made.baseline.mean(axis=0)) / made.baseline.std(axis=0)
    values[rng.random(values.shape) < holes] = np.nan
    person = np.column_stack([np.ones(300), rng.standard_normal(300)])
    whole = _estimated(values, made.times, person)
    # Seen a moment later nobody is seen at time 0, and each is summed by itself.
    each = _estimated(values, made.times + 1e-9, person)
    for one, other in zip(whole, each, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for feature in range(5):
        alone = _estimated(values[:, :, [feature]], made.times, person)
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_allclose(one[..., [feature]], other, rtol=1e-8, atol=1e-9)


def test_the_anchor_finds_what_data_were_made_with() -> None:
    y, time, covariate = _people(2500, 4, 2, seed=3)
    anchor = Anchor.fit(y, time, np.stack([np.ones(len(y)), covariate], axis=1))
    np.testing.assert_allclose(anchor.G[[0, 2]].mean(axis=1), G[[0, 1], [0, 1]], rtol=0.1)
    np.testing.assert_allclose(anchor.s2, ERROR**2, rtol=0.1)
    np.testing.assert_allclose(anchor.b[:, 1].mean(axis=1), [0.3, -0.03], atol=0.03)


@pytest.mark.parametrize("shown", [[0], [1, 2], [0, 2, 3], []])
def test_what_is_expected_is_what_the_statement_says(shown: list[int]) -> None:
    y, time, covariate = _people(6, 5, 3, seed=4)
    person = np.stack([np.ones(len(y)), covariate], axis=1)
    anchor = Anchor(
        np.random.default_rng(5).standard_normal((2, 2, 3)),
        np.array([[1.0, 0.8, 1.2], [-0.1, 0.05, 0.0], [0.05, 0.0, 0.3]]),
        np.array([0.1, 0.2, 0.05]),
    )
    anchor.G[1, 1] = 0.0
    known = np.where(np.isin(np.arange(5), shown)[:, None], y, np.nan)
    posterior = anchor.posterior(known, time, person)
    for i, j in np.ndindex(6, 3):
        x = np.concatenate([np.broadcast_to(person[i], (5, 2)), person[i] * time[i][:, None]], axis=1)
        b = np.concatenate([anchor.b[0, :, j], anchor.b[1, :, j]])
        mean, cov = conditional(known[i, :, j], time[i], x, np.array([4]), b, _matrix(anchor, j), float(anchor.s2[j]))
        assert posterior.at(time[:, 4])[i, j] == pytest.approx(mean[0])
        assert anchor.variance(posterior, time[:, 4])[i, j] == pytest.approx(cov[0, 0])
        assert anchor.variance(posterior, time[:, 4], error=False)[i, j] == pytest.approx(cov[0, 0] - anchor.s2[j])


def test_features_that_few_have_are_drawn_towards_the_others() -> None:
    y, time, _ = _people(300, 3, 4, seed=6)
    y[6:, 1:, 0] = np.nan
    anchor = Anchor.fit(y, time, np.ones((len(y), 1)))
    assert (anchor.s2 > 0.5 * ERROR**2).all()
    assert 0.3 < anchor.G[0, 0] / anchor.G[0, 1:].mean() < 3.0


def test_visits_are_hidden_as_they_are_missing(cohort: sg.Cohort) -> None:
    hidden = Hidden.of(cohort)
    seen = np.isfinite(cohort.visits).any(axis=2)
    assert not hidden.known[np.arange(len(hidden.person)), np.minimum(hidden.visit, 3)].any()
    assert (seen[hidden.person] | ~hidden.known).all()
    assert hidden.known.any(axis=1).all()
    assert (hidden.measured == seen[hidden.person, hidden.visit]).all()
    rows = {
        (int(p), int(v), tuple(np.flatnonzero(k).tolist()))
        for p, v, k in zip(hidden.person, hidden.visit, hidden.known, strict=True)
    }
    assert len(rows) == len(hidden.person)
    # The third person was seen at all but the first visit and the last.
    mine = {row[1:] for row in rows if row[0] == 2}
    assert mine == {(1, (2,)), (2, (1,)), (3, (1, 2))}
    # The fourth one at all: told from all others, those before, those after, and the first.
    mine = {row[1:] for row in rows if row[0] == 3 and row[1] == 2}
    assert mine == {(2, (0, 1, 3)), (2, (0, 1)), (2, (3,)), (2, (0,))}
    people = hidden.people(cohort, People.of(cohort, keep_known=False))
    assert people.history is not None
    assert (people.history.known == hidden.known).all()
    np.testing.assert_array_equal(people.history.at, years(cohort)[hidden.person, hidden.visit])


def test_a_person_counts_once_however_many_visits_are_hidden(cohort: sg.Cohort) -> None:
    weighted = WeightedCohort(
        **{name: getattr(cohort, name) for name in ("ids", "visits", "features", "visit_labels", "times", "target")},
        row_weight=np.linspace(0.1, 1.0, len(cohort)),
    )
    plain, pairs = TrainingPairs.of(cohort, every=True), TrainingPairs.of(weighted, every=True)
    place = {name: row for row, name in enumerate(cohort.ids)}
    own = np.array([weighted.row_weight[place[name]] for name in pairs.people.ids])
    np.testing.assert_allclose(pairs.weight, plain.weight * own)
    assert (weighted.take(np.array([5, 2])).row_weight == weighted.row_weight[[5, 2]]).all()


def test_times_that_are_not_recorded_are_as_usual_for_the_person() -> None:
    usual = np.array([0.0, 2.0, 4.0])
    times = np.array([[0.0, np.nan, 4.4], [0.5, 2.5, np.nan], [np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(filled_times(times, usual), [[0.0, 2.2, 4.4], [0.5, 2.5, 4.5], [0.0, 2.0, 4.0]])
    cohort = _cohort()
    np.testing.assert_allclose(usual_times(cohort), [0.0, 1.5, 3.0, 4.5], atol=0.2)
    assert (years(replace(cohort, times=np.full_like(cohort.times, np.nan))) == np.arange(4)).all()


def test_every_known_visit_is_counted(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    """With the slopes of this cohort, three visits tell the fourth far better than the first alone."""
    fresh = _cohort(seed=9)
    whole = _people(90, 4, 3, seed=9)[0] * 100.0 + 1000.0
    full = imputer.impute(fresh, draws=3, show=False)
    first = imputer.impute(fresh, draws=3, history="first", show=False)
    place = {name: row for row, name in enumerate(fresh.ids)}
    both = np.array([name for name in full.ids if name in set(first.ids)])
    truth = whole[[place[name] for name in both], 3]
    error = {
        name: np.sqrt(np.mean((result.mean[[list(result.ids).index(each) for each in both]] - truth) ** 2))
        for name, result in (("all", full), ("first", first))
    }
    assert error["all"] < 0.75 * error["first"]
    # Whoever has no first visit is imputed where all count.
    without = {name for name, seen in zip(fresh.ids, fresh.scanned, strict=True) if not seen}
    assert without & set(full.ids)
    assert not without & set(first.ids)


def test_draws_depend_on_each_visit_and_on_no_other_person(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    result = imputer.impute(cohort, draws=4, show=False)
    alone = imputer.impute(cohort.take(np.array([4])), draws=4, show=False)
    row = list(result.ids).index(cohort.ids[4])
    np.testing.assert_array_equal(alone.draws[:, 0], result.draws[:, row])
    for visit in range(3):
        if np.isnan(cohort.visits[4, visit]).any():
            continue
        visits = cohort.visits.copy()
        visits[4, visit] += 50.0
        moved = imputer.impute(replace(cohort, visits=visits), draws=4, show=False)
        assert (moved.draws[:, row] != result.draws[:, row]).any()
        others = np.arange(len(result.ids)) != row
        np.testing.assert_array_equal(moved.draws[:, others], result.draws[:, others])


def test_times_and_gap_are_handed_on(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    times = cohort.times.copy()
    times[:, 3] = np.nan
    unknown = replace(cohort, times=times)
    near, far = (imputer.impute(unknown, draws=2, gap=gap, show=False).mean for gap in (4.5, 9.0))
    assert not np.allclose(near, far)
    recorded = imputer.impute(cohort, draws=2, show=False)
    assert not np.allclose(recorded.mean, near)


def test_a_model_of_all_visits_is_kept(cohort: sg.Cohort, imputer: sg.SecondgramImputer, tmp_path: Path) -> None:
    imputer.save(tmp_path / "model")
    again = sg.load(tmp_path / "model")
    assert isinstance(again.model_, TrajectoryModel)
    np.testing.assert_array_equal(
        again.impute(cohort, draws=2, show=False).draws, imputer.impute(cohort, draws=2, show=False).draws
    )
    file = tmp_path / "draws.parquet"
    again.impute(cohort, draws=2, out=file, show=False)
    assert pd.read_parquet(file)["visit"].unique().tolist() == ["v3"]
    assert not set(INPUTS) & set(imputer.impute(cohort, draws=2, show=False).covariates())


def test_other_labels_are_put_at_the_model_s_visits(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    rows = np.flatnonzero(np.isnan(cohort.visits[:, 3]).any(axis=1))[:10]
    part = cohort.take(rows)
    # Nobody here was ever seen at the target, so that the table does not know it.
    short = replace(part, visits=part.visits[:, :3], times=part.times[:, :3], visit_labels=part.visit_labels[:3])
    known = imputer.impute(replace(part, times=np.where(np.arange(4) < 3, part.times, np.nan)), draws=2, show=False)
    np.testing.assert_array_equal(imputer.impute(short, draws=2, show=False).draws, known.draws)


def test_what_cannot_be_shown_is_refused(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    plain = sg.SecondgramImputer(shape="off").fit(cohort.with_target(1), show=False)
    with pytest.raises(InputError, match="first visit alone"):
        plain.impute(cohort, history="all")
    for options in ({"history": "some"},):
        with pytest.raises(InputError, match="history='some'"):
            imputer.impute(cohort, **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="history='some'"):
            sg.SecondgramImputer(**options)  # type: ignore[arg-type]


def test_two_visits_are_imputed_as_before() -> None:
    train = sg.simulate(subjects=80, features=3, paired=0.6, mode="gaussian")
    one, other = (sg.SecondgramImputer(shape="off", history=way).fit(train, show=False) for way in ("first", "all"))
    assert not isinstance(other.model_, TrajectoryModel)
    np.testing.assert_array_equal(
        one.impute(train, draws=2, show=False).draws, other.impute(train, draws=2, show=False).draws
    )


def test_an_anchor_is_fitted_without_the_fold_it_serves(monkeypatch: pytest.MonkeyPatch, cohort: sg.Cohort) -> None:
    """Each fold's anchors, and with them its rows, are a function of the other people alone; families stay together."""
    family = np.array([f"F{number // 2}" for number in range(len(cohort))], dtype=object)
    whole = replace(cohort, groups=family)
    taught: dict[int, set[str]] = {}
    asked: list[tuple[float | None, ...]] = []
    served: dict[str, list[tuple[set[str], set[str]]]] = {"of_hidden": [], "score": []}
    kept: list[Anchor] = []
    fit = Anchoring.fit

    def noting_fit(
        parts: Anchoring, seen: Seen, rows: np.ndarray, *penalties: tuple[float | None, ...]
    ) -> list[Anchor]:
        found = fit(parts, seen, rows, *penalties)
        kept.extend(found)
        asked.extend(penalties)
        taught.update({id(anchor): set(whole.units()[rows]) for anchor in found})
        return found

    def noting(name: str) -> None:
        plain = getattr(Anchoring, name)

        def instead(parts: Anchoring, anchor: Anchor, people: sg.Cohort, hidden: Hidden) -> object:
            served[name].append((taught[id(anchor)], set(people.units()[hidden.person])))
            return plain(parts, anchor, people, hidden)

        monkeypatch.setattr(Anchoring, name, instead)

    monkeypatch.setattr(Anchoring, "fit", noting_fit)
    for name in served:
        noting(name)
    model = sg.SecondgramImputer(shape="off", history="all").fit(whole, show=False).model_
    assert isinstance(model, TrajectoryModel)
    for pairs in served.values():
        assert all(not teach & serve for teach, serve in pairs)
        assert set.union(*(serve for _, serve in pairs)) == set(family)
    assert taught[id(model.anchor)] == set(family)
    assert model.anchor is kept[-1]
    assert len(asked) == 1
    assert len(asked[0]) == 1
    assert asked[0][0] in PENALTIES


def test_a_visit_is_read_within_its_own_site() -> None:
    """The second site adds an offset to all that it measures; half of the people change to it after the first visit."""
    plain = _cohort(people=120)
    sites = np.full(plain.visits.shape[:2], "A", dtype=object)
    sites[1::4] = "B"
    sites[::2, 1:] = np.where(np.arange(60)[:, None] % 2, "B", "A")
    visits = plain.visits + np.where(sites == "B", 400.0, 0.0)[:, :, None]
    moved = replace(plain, visits=visits, site=None, visit_sites=sites)
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(moved, show=False)
    result = imputer.impute(moved, draws=2, show=False)
    one = sg.SecondgramImputer(shape="off", history="all").fit(plain, show=False).impute(plain, draws=2, show=False)
    place = {name: row for row, name in enumerate(plain.ids)}
    rows = [place[name] for name in result.ids]
    offset = np.where(sites[rows, 0] == "B", 400.0, 0.0)[:, None]
    assert np.abs(result.mean - offset - one.mean).mean() < 60.0


def test_who_is_far_off_at_every_visit_is_imputed_there(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    """Far cells decide little of what is learned; what they say of the person herself counts in full."""
    visits = cohort.visits.copy()
    visits[0] += 6000.0
    far, plain = (imputer.impute(each, draws=2, show=False) for each in (replace(cohort, visits=visits), cohort))
    moved = (far.mean - plain.mean)[list(far.ids).index(cohort.ids[0])]
    assert (moved > 0.9 * 6000.0).all()
    assert (moved < 1.1 * 6000.0).all()


def test_what_decides_draws_is_in_the_digest(cohort: sg.Cohort) -> None:
    from secondgram.imputation.provenance import people_digest

    people = People.of(cohort, keep_known=False, history=True)
    assert people.history is not None
    found = {people_digest(people), people_digest(replace(people, history=None))}
    for name in ("visits", "times", "at"):
        moved = np.nan_to_num(getattr(people.history, name)) + 1.0
        found.add(people_digest(replace(people, history=replace(people.history, **{name: moved}))))
    sites = np.full(people.history.times.shape, "A", dtype=object)
    found.add(people_digest(replace(people, history=replace(people.history, sites=sites))))
    assert len(found) == 6
    assert isinstance(people.history, History)


def test_kinds_that_are_not_kept_to_are_told(cohort: sg.Cohort, imputer: sg.SecondgramImputer) -> None:
    assert not any("not kept to" in note for note in imputer.impute(cohort, draws=1, show=False).notes)
    visits = cohort.visits.copy()
    visits[:, :, 0] = np.round((visits[:, :, 0] - np.nanmin(visits[:, :, 0])) / 100)
    total = visits[:, :, 1:2] + visits[:, :, 2:3]
    made = replace(cohort, visits=np.concatenate([visits, total], axis=2), features=(*cohort.features, "total"))
    fitted = sg.SecondgramImputer(shape="off", history="all").fit(made, show=False)
    (note,) = (note for note in fitted.impute(made, draws=1, show=False).notes if "not kept to" in note)
    assert re.search(r"(count|ordinal) \(whole numbers.*\): vol_0; total = ", note)


# -- what features tell of each other ---------------------------------------------------------------------------------


def _shared(people: int, features: int, seed: int, visits: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visits (N, V, D) whose levels and slopes share two factors, times (N, V) and the loadings (2, 2, D)."""
    rng = np.random.default_rng(seed)
    loadings = np.stack([rng.normal(0, 0.6, (2, features)), rng.normal(0, 0.15, (2, features))])
    f = rng.standard_normal((people, 2))
    level, slope = (f @ part for part in loadings)
    level = level + 0.5 * rng.standard_normal(level.shape)
    slope = slope + 0.05 * rng.standard_normal(slope.shape)
    time = np.arange(visits) * 1.5 + rng.uniform(-0.3, 0.3, (people, visits)) * (np.arange(visits) > 0)
    y = level[:, None] + time[:, :, None] * slope[:, None]
    return y + 0.4 * rng.standard_normal(y.shape), time, loadings


def test_factors_tell_what_the_dense_formula_tells() -> None:
    rng = np.random.default_rng(3)
    y, time, loadings = _shared(6, 5, seed=1)
    y[rng.random(y.shape) < 0.3] = np.nan
    y[1, 2], time[1, 2] = np.nan, np.nan
    own, s2 = np.stack([np.full(5, 0.3), np.full(5, 0.02), np.full(5, 0.01)]), rng.uniform(0.1, 0.3, 5)
    a, c = loadings
    G = own + np.stack([(a**2).sum(axis=0), (a * c).sum(axis=0), (c**2).sum(axis=0)])
    anchor = Anchor(rng.normal(0, 0.2, (2, 1, 5)), G, s2, Factors(loadings, own))
    posterior, at = anchor.posterior(y, time, np.ones((6, 1))), rng.uniform(-1, 8, 6)
    expected, variance = posterior.at(at), anchor.variance(posterior, at, error=False)
    for person in range(6):
        t = np.nan_to_num(time[person])
        left = y[person] - anchor.b[0, 0] - t[:, None] * anchor.b[1, 0]
        mean, covariance = conditional_of_all(left, t, at[person], loadings, own, s2)
        np.testing.assert_allclose(expected[person] - anchor.b[0, 0] - at[person] * anchor.b[1, 0], mean, rtol=1e-9)
        np.testing.assert_allclose(variance[person], np.diag(covariance), rtol=1e-9)


def test_factors_are_found_and_leave_each_feature_as_it_is() -> None:
    y, time, loadings = _shared(1500, 12, seed=2)
    person = np.ones((len(y), 1))
    plain = Anchor.fit(y, time, person)
    anchor = plain.with_factors(y, time, person, 3.0)
    assert anchor is not None
    assert anchor.factors is not None
    a, c = anchor.factors.loadings
    whole = anchor.factors.own + np.stack([(a**2).sum(axis=0), (a * c).sum(axis=0), (c**2).sum(axis=0)])
    np.testing.assert_allclose(whole, plain.G, rtol=1e-9, atol=1e-12)
    apart = ~np.eye(12, dtype=bool)
    for one, other in ((0, 0), (0, 1), (1, 1)):
        true = loadings[one].T @ loadings[other]
        found = anchor.factors.loadings[one].T @ anchor.factors.loadings[other]
        assert np.abs(found - true)[apart].max() < 0.25 * np.abs(true[apart]).max()


def test_means_are_those_of_all_where_other_features_decide_who_leaves() -> None:
    y, time, _ = _shared(3000, 6, seed=9)
    # Whoever is low on average by the second visit leaves.
    y[y[:, 1].mean(axis=1) < -0.1, 2:] = np.nan
    person = np.ones((len(y), 1))
    plain = Anchor.fit(y, time, person)
    anchor = plain.with_factors(y, time, person, 3.0)
    assert anchor is not None
    # Nobody's mean changes.
    assert np.abs(anchor.b[1]).mean() < 0.5 * np.abs(plain.b[1]).mean()


@pytest.mark.parametrize("covariates", ["one", "two alike"])
def test_means_given_factors_are_generalised_least_squares(covariates: str) -> None:
    rng = np.random.default_rng(4)
    people, width = 60, 4
    y, time, loadings = _shared(people, width, seed=6)
    y[rng.random(y.shape) < 0.3] = np.nan
    x = rng.normal(size=people)
    y += np.where(np.isnan(y), 0.0, x[:, None, None] * (0.5 + 0.1 * time[:, :, None]))
    person = np.stack([np.ones(people), x] + [x] * (covariates != "one"), axis=1)
    own, s2 = np.stack([np.full(width, 0.3), np.full(width, 0.02), np.full(width, 0.01)]), rng.uniform(0.1, 0.3, width)
    b, p = np.zeros((2, person.shape[1], width)), person.shape[1]
    steps = Factors(loadings, own).mean_steps(VisitSums.of(y, time, *(person @ b)), person, s2)
    for number, step in enumerate(steps):
        b += step
        if np.abs(step).max() < 1e-9:
            assert number < 60
            break
    # V of everything that was seen of a person: features, and levels and slopes of them, by Z.
    A = np.concatenate(list(loadings), axis=1)
    both = A.T @ A + np.block([[np.diag(own[0]), np.diag(own[1])], [np.diag(own[1]), np.diag(own[2])]])
    score = np.zeros((p, 2 * width))
    for each in range(people):
        visit, feature = np.nonzero(np.isfinite(y[each]))
        Z = np.zeros((len(visit), 2 * width))
        Z[np.arange(len(visit)), feature] = 1.0
        Z[np.arange(len(visit)), width + feature] = time[each, visit]
        left = y[each, visit, feature] - Z @ np.concatenate(person[each] @ b)
        V = Z @ both @ Z.T + np.diag(s2[feature])
        score += np.outer(person[each], Z.T @ np.linalg.solve(V, left))
    np.testing.assert_allclose(score, 0.0, atol=1e-4)


@pytest.mark.parametrize(("features", "people"), [(1, 200), (5, 4)])
def test_few_features_or_people_have_no_factors(features: int, people: int) -> None:
    y, time, _ = _shared(people, features, seed=5)
    person = np.ones((people, 1))
    assert Anchor.fit(y, time, person).with_factors(y, time, person, 3.0) is None


def test_what_factors_tell_of_a_person_depends_on_no_other() -> None:
    y, time, loadings = _shared(300, 6, seed=6)
    own = np.stack([np.full(6, 0.3), np.full(6, 0.0), np.full(6, 0.01)])
    factors, visits = Factors(loadings, own), VisitSums.of(y, time, np.zeros((300, 6)), np.zeros((300, 6)))
    some = np.array([7, 290, 31])
    alone = factors.posterior(VisitSums(visits.n[:, some], visits.r[:, some]), np.full(6, 0.2))
    for one, other in zip(alone, factors.posterior(visits, np.full(6, 0.2)), strict=True):
        np.testing.assert_array_equal(one, other[..., some, :])


def test_a_pickled_model_is_without_what_was_kept_for_its_draws() -> None:
    y, time, loadings = _shared(50, 6, seed=8)
    factors = Factors(loadings, np.stack([np.full(6, 0.3), np.full(6, 0.0), np.full(6, 0.01)]))
    visits, before = VisitSums.of(y, time, np.zeros((50, 6)), np.zeros((50, 6))), len(pickle.dumps(factors))
    found = factors.posterior(visits, np.full(6, 0.2))
    again = pickle.loads(pickle.dumps(factors))
    assert len(pickle.dumps(factors)) == before
    for one, other in zip(found, again.posterior(visits, np.full(6, 0.2)), strict=True):
        np.testing.assert_array_equal(one, other)


def _as_cohort(y: np.ndarray, time: np.ndarray) -> sg.Cohort:
    return sg.Cohort(
        np.array([f"P{number}" for number in range(len(y))], dtype=object),
        y,
        tuple(f"f{number}" for number in range(y.shape[2])),
        tuple("abcd"),
        time,
        target=3,
    )


def test_people_held_out_decide_whether_features_tell_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    y, time, _ = _shared(200, 8, seed=7)
    y[::2, 3] = np.nan
    fitted = sg.SecondgramImputer(shape="off", history="all").fit(_as_cohort(y, time), show=False).model_
    assert isinstance(fitted, TrajectoryModel)
    assert fitted.anchor.factors is not None
    again = TrajectoryModel.from_state(fitted.state(), fitted.options)
    np.testing.assert_array_equal(again.anchor.factors.loadings, fitted.anchor.factors.loadings)  # type: ignore[union-attr]
    # Whoever is judged worst is not chosen.
    score = Anchoring.score
    monkeypatch.setattr(
        Anchoring, "score", lambda self, anchor, *rest: score(self, anchor, *rest) + 1e3 * (anchor.factors is not None)
    )
    fitted = sg.SecondgramImputer(shape="off", history="all").fit(_as_cohort(y, time), show=False).model_
    assert isinstance(fitted, TrajectoryModel)
    assert fitted.anchor.factors is None


def test_of_many_people_and_hidden_visits_some_teach(monkeypatch: pytest.MonkeyPatch, cohort: sg.Cohort) -> None:
    whole = Hidden.of(cohort)
    assert enough(cohort) is cohort
    monkeypatch.setattr("secondgram.imputation.trajectory.hidden.FEWEST", 30)
    monkeypatch.setattr("secondgram.imputation.trajectory.hidden.LONG", 0.0)
    kept = enough(cohort)
    several = np.isfinite(kept.visits).any(axis=2).sum(axis=1) > 1
    assert several.sum() == 30
    assert set(enough(cohort.take(np.arange(len(cohort))[::-1])).ids) == set(kept.ids)
    some = Hidden.of(cohort)
    assert (some.measured.sum(), (~some.measured).sum()) == (30, (~whole.measured).sum())
    sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False).impute(cohort, draws=1, show=False)


def test_a_covariate_may_be_named_as_what_the_ladder_is_given(cohort: sg.Cohort) -> None:
    age = cohort.covariate_table["age"]
    results = [
        sg.SecondgramImputer(shape="off", history="all")
        .fit(made := replace(cohort, covariate_table=pd.DataFrame({name: age})), show=False)
        .impute(made, draws=2, show=False)
        for name in ("age", INPUTS[0])
    ]
    np.testing.assert_array_equal(results[0].draws, results[1].draws)


def test_other_features_tell_of_a_trend() -> None:
    """Features that change together: what others show tells more than a mixed model of each feature knows."""
    rng = np.random.default_rng(2)
    people, features, times = 500, 8, np.array([0.0, 1.5, 3.0, 6.0])
    slope = rng.normal(0, 0.25, (people, 1, 1)) + rng.normal(0, 0.03, (people, 1, features))
    values = rng.normal(0, 1, (people, 1, features)) + slope * times[:, None]
    values = values + rng.normal(0, 0.4, values.shape)
    truth = values[:, 3].copy()
    values[::2, 3] = np.nan
    cohort = sg.Cohort(
        np.array([f"P{number}" for number in range(people)], dtype=object),
        100 + 10 * values,
        tuple(f"f{number}" for number in range(features)),
        tuple("abcd"),
        np.tile(times, (people, 1)),
        target=3,
    )
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False)
    result = imputer.impute(cohort, draws=2, show=False)
    model = imputer.model_
    assert isinstance(model, TrajectoryModel)
    alone = replace(model.anchor, factors=None)
    anchor = replace(model, anchor=alone).anchored(result.people).baseline
    error = [np.sqrt(np.mean((each - 100 - 10 * truth[::2]) ** 2)) / 10 for each in (result.mean, anchor)]
    assert error[0] < 0.85 * error[1]


def test_errors_are_as_wide_as_the_anchor_is_in_doubt() -> None:
    """The spread of draws is that of what is known of each person: one scan, or three of four."""
    cohort = _cohort(people=240, seed=5)
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(cohort, show=False)
    whole = cohort.take(np.isfinite(cohort.visits[:, :3]).all(axis=(1, 2)))
    visits = whole.visits.copy()
    visits[:, 3] = np.nan
    visits[::2, 1:] = np.nan
    some = replace(whole, visits=visits)
    result = imputer.impute(some, draws=60, show=False)
    spread = result.draws.std(axis=0)
    model = imputer.model_
    assert isinstance(model, TrajectoryModel)
    deviation = model._anchoring.anchored(model.anchor, result.people).deviation
    np.testing.assert_allclose(
        spread[::2].mean() / spread[1::2].mean(), deviation[::2].mean() / deviation[1::2].mean(), rtol=0.15
    )
