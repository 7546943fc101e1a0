"""Methods that claims are held against: each is what it says, sees training people alone, and repeats to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV

import secondgram as sg
from secondgram.comparison.compare import METHODS, predictions
from secondgram.comparison.methods import ARMS, BASELINES, PEERS, RIVALS, gan, mixed
from secondgram.comparison.methods.known_cells import GaussianResidual
from secondgram.comparison.methods.linear import PENALTIES, FeatureRidge, PartialLeastSquares
from secondgram.comparison.methods.mixed import MixedModel
from secondgram.comparison.methods.peers import Peer
from secondgram.imputation.model_data import People
from secondgram.imputation.paper import PaperModel

LEARNERS = BASELINES | RIVALS | PEERS
POINTS = {"carry-forward": 1, "mean-change": 1, "ridge": 1, "hyperimpute": 1}


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "STEPS", 8)


@pytest.fixture(scope="module")
def people() -> sg.SimulatedCohort:
    """120 people, 3 features, all with a follow-up."""
    return sg.simulate(120, 3, 1.0, seed=5, mode="gaussian")


def learner(name: str) -> Any:
    if name in PEERS and PEERS[name].absent():
        pytest.skip(f"{PEERS[name].absent()} is not installed")
    return LEARNERS[name]()


def test_every_method_is_described() -> None:
    assert set(METHODS) == {*LEARNERS, *ARMS, "paper", "default", "exact-posterior"}


# -- what all have in common ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_a_method_repeats_and_sees_no_follow_up_of_those_it_judges(name, people):
    learner(name)
    learn, judge = people.take(np.arange(90)), people.take(np.arange(90, 120))
    mean, drawn = predictions(name, learn, judge, 3, 1)
    assert mean.shape == judge.baseline.shape
    assert drawn.shape == (POINTS.get(name, 3), *mean.shape)
    assert np.isfinite(mean).all()
    assert np.isfinite(drawn).all()
    if name not in POINTS:
        assert not np.array_equal(drawn[0], drawn[1])
    visits = judge.visits.copy()
    visits[:, 1] += 1e3
    again = predictions(name, learn, replace(judge, visits=visits), 3, 1)
    np.testing.assert_array_equal(again[0], mean)
    np.testing.assert_array_equal(again[1], drawn)


@pytest.mark.parametrize("name", LEARNERS)
def test_missing_cells_no_covariates_and_no_times_are_taken(name, people):
    learner(name)
    visits = people.visits.copy()
    holes = np.random.default_rng(0).random(visits.shape) < 0.1
    visits[holes] = np.nan
    bare = sg.Cohort(ids=people.ids, visits=visits, features=people.features)
    bare = bare.take(bare.paired)
    cut = len(bare) - 20
    mean, drawn = predictions(name, bare.take(np.arange(cut)), bare.take(np.arange(cut, len(bare))), 2, 0)
    assert np.isfinite(mean).all()
    assert np.isfinite(drawn).all()
    # Of the size of what was measured.
    assert np.abs(mean - np.nanmean(people.truth, axis=0)).max() < 8 * people.truth.std(axis=0).max()


@pytest.mark.parametrize("name", BASELINES | RIVALS)
def test_a_feature_without_any_follow_up_is_taken_for_unchanged(name, people):
    visits = people.visits.copy()
    visits[:, 1, 1] = np.nan
    hidden = replace(people, visits=visits)
    mean, drawn = predictions(name, hidden.take(np.arange(90)), hidden.take(np.arange(90, 120)), 2, 0)
    assert np.isfinite(mean).all()
    assert np.isfinite(drawn).all()
    if name != "wgan-gp":  # a few steps have taught it nothing yet
        moved = np.abs(mean - people.baseline[90:])[:, 1]
        assert np.median(moved) < 0.3 * people.baseline[:, 1].std()


@pytest.fixture(scope="module")
def modality() -> sg.Cohort:
    """2,400 people, 10 features; of the first 1,600, 70 % have no follow-up of the last five features."""
    rng = np.random.default_rng(3)
    true = rng.normal(size=(2400, 10)) + rng.normal(size=(2400, 1))
    baseline, later = (true + rng.normal(size=true.shape) for _ in range(2))
    later += 0.3 * rng.normal(size=(2400, 1))
    lacking = rng.random(2400) < 0.7
    visits = np.stack([baseline, later], axis=1)
    visits[:1600][lacking[:1600], 1, 5:] = np.nan
    return sg.Cohort(ids=np.arange(2400), visits=visits, features=tuple("abcdefghij"))


@pytest.mark.parametrize("name", ["ridge-gaussian", "ridge-empirical", "feature-ridge", "carry-forward-gaussian"])
def test_what_is_missing_teaches_nothing(name, modality):
    learn, judge = modality.take(np.arange(1600)), modality.take(np.arange(1600, 2400))
    mean, drawn = predictions(name, learn, judge, 99, 0)
    truth, predicted = judge.followup - judge.baseline, mean - judge.baseline
    for half in (slice(0, 5), slice(5, 10)):
        low, high = np.sort(drawn, axis=0)[[4, 94]][:, :, half]
        coverage = ((judge.followup[:, half] >= low) & (judge.followup[:, half] <= high)).mean()
        assert 0.87 < coverage < 0.93
        if "ridge" in name:
            x, y = predicted[:, half].ravel(), truth[:, half].ravel()
            assert 0.9 < np.polyfit(x, y, 1)[0] < 1.15


@pytest.mark.parametrize("name", ["mean-change", "ridge", "feature-ridge"])
def test_a_feature_is_learned_from_the_pairs_that_know_it(name, modality):
    """Features of a modality are predicted as if nobody else had come back."""
    learn, judge = modality.take(np.arange(1600)), modality.take(np.arange(1600, 1660))
    model = LEARNERS[name]()
    model.fit(learn, 0)
    X = model.context.inputs(model.pairs.people)
    change = model.context.scaling.apply(model.pairs.later) - X[:, :10]
    known = np.isfinite(change[:, 5])
    asked = model.context.inputs(People.of(judge, keep_known=False))
    whole = model.change(asked)
    model.pairs = replace(model.pairs, unit=model.pairs.unit[known])
    model.learn(X[known], change[known])
    np.testing.assert_allclose(model.change(asked)[:, 5:], whole[:, 5:], rtol=1e-9, atol=1e-12)


def test_the_correlation_of_residuals_is_that_of_ledoit_and_wolf_and_every_variance_is_its_own():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)) * [1, 1, 1, 1, 1, 50]
    found = GaussianResidual.fit(residual)
    spread = np.sqrt((residual**2).mean(axis=0))
    expected = ledoit_wolf(residual / spread, assume_centered=True)[0] * np.outer(spread, spread)
    np.testing.assert_allclose(found.factor.T @ found.factor, expected, rtol=1e-9)
    np.testing.assert_allclose(found.components(residual, 0) @ found.factor, residual, rtol=1e-9)


def test_residuals_that_some_rows_lack_keep_their_variance_and_correlation():
    rng = np.random.default_rng(1)
    residual = rng.normal(size=(4000, 4)) + rng.normal(size=(4000, 1))
    hidden = residual.copy()
    hidden[rng.random(4000) < 0.7, 2:] = np.nan
    hidden[rng.random(hidden.shape) < 0.1] = np.nan
    found = GaussianResidual.fit(hidden)
    np.testing.assert_allclose(found.factor.T @ found.factor, np.eye(4) + 1, atol=0.15)
    components = found.components(hidden, 0)
    np.testing.assert_allclose(np.cov(components.T), np.eye(4), atol=0.08)


# -- linear ones ------------------------------------------------------------------------------------------------------


def test_feature_ridge_is_a_ridge_of_every_feature_alone(people):
    model = FeatureRidge()
    model.fit(people, 0)
    X = model.context.inputs(model.pairs.people)
    change = model.context.scaling.apply(model.pairs.later) - X[:, :3]
    for j in range(3):
        columns = np.concatenate([X[:, [j]], X[:, 3:]], axis=1)
        expected = RidgeCV(alphas=PENALTIES * len(X)).fit(columns, change[:, j]).predict(columns)
        np.testing.assert_allclose(model.change(X)[:, j], expected, rtol=1e-12)


def test_partial_least_squares_finds_a_latent_direction_and_leaves_noise_alone():
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(300, 12))
    latent = baseline @ np.full(12, 1 / np.sqrt(12))
    visits = np.stack([baseline, baseline + latent[:, None] + 0.3 * rng.normal(size=baseline.shape)], axis=1)
    features = [f"f{number}" for number in range(12)]
    model = PartialLeastSquares()
    model.fit(sg.Cohort(ids=np.arange(300), visits=visits, features=tuple(features)), 0)
    assert model.directions >= 1
    X = model.context.inputs(model.pairs.people)
    assert np.corrcoef(model.change(X)[:, 0], latent)[0, 1] > 0.97
    visits[:, 1] = baseline + rng.normal(size=baseline.shape)
    model.fit(sg.Cohort(ids=np.arange(300), visits=visits, features=tuple(features)), 0)
    assert model.directions == 0
    np.testing.assert_allclose(model.change(X[:5]), model.change(X[:1]).repeat(5, axis=0))


# -- mixed model ------------------------------------------------------------------------------------------------------


def longitudinal(people: int, visits: int, seed: int) -> sg.Cohort:
    """One covariate, one feature with a random intercept and slope, a second one without a slope; visits missed."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(
        np.concatenate([np.zeros((people, 1)), rng.uniform(0.5, 2, (people, visits - 1))], axis=1), axis=1
    )
    x = rng.normal(size=people)
    u, v = rng.multivariate_normal([0, 0], [[1.0, 0.1], [0.1, 0.09]], people).T
    first = 3 + 0.5 * x[:, None] + (-0.3 + 0.2 * x[:, None]) * times + u[:, None] + v[:, None] * times
    second = 1 + u[::-1][:, None] - 0.1 * times
    values = np.stack([first, second], axis=2) + 0.4 * rng.normal(size=(people, visits, 2))
    values[:, 1:][rng.random((people, visits - 1)) < 0.2] = np.nan
    table = pd.DataFrame({"x": x})
    labels = tuple(str(number) for number in range(visits))
    return sg.Cohort(
        ids=np.arange(people),
        visits=values,
        features=("a", "b"),
        visit_labels=labels,
        times=times,
        covariate_table=table,
    )


def _likelihood(model: MixedModel, cohort: sg.Cohort, feature: int) -> float:
    """Largest log likelihood of a feature by direct search, less what the model's parameters reach."""
    years = (cohort.times - cohort.times[:, :1]) / model.usual_gap
    y = np.stack([model.context.scaling.apply(cohort.visits[:, k])[:, feature] for k in range(years.shape[1])], axis=1)
    static = model.context.encoder.transform(cohort.covariate_table)
    F = mixed._fixed(years, static)

    def fit(parameters: np.ndarray) -> float:
        a, b, c, s = parameters
        root = np.array([[np.exp(a), 0.0], [b, np.exp(c)]])
        G, s2 = root @ root.T, np.exp(2 * s)
        normal, moment, parts = 0.0, 0.0, []
        for i in range(len(y)):
            seen = np.isfinite(y[i])
            Z = np.stack([np.ones(seen.sum()), years[i, seen]], axis=1)
            V = Z @ G @ Z.T + s2 * np.eye(len(Z))
            W = np.linalg.inv(V)
            normal, moment = normal + F[i, seen].T @ W @ F[i, seen], moment + F[i, seen].T @ W @ y[i, seen]
            parts.append((W, np.linalg.slogdet(V)[1], y[i, seen], F[i, seen]))
        beta = np.linalg.solve(normal, moment)
        return 0.5 * sum(det + (t - f @ beta) @ W @ (t - f @ beta) for W, det, t, f in parts)

    g0, g01, g1 = model.G[:, feature]
    root = np.linalg.cholesky(np.array([[g0, g01], [g01, g1]]))
    ours = np.array([np.log(root[0, 0]), root[1, 0], np.log(root[1, 1]), 0.5 * np.log(model.s2[feature])])
    best = optimize.minimize(fit, ours, method="Nelder-Mead", options={"maxiter": 120})
    return float(fit(ours) - best.fun)


def test_the_mixed_model_reaches_the_largest_likelihood():
    cohort = longitudinal(120, 4, 1)
    model = MixedModel()
    model.fit(cohort, 0)
    assert 0.0 <= _likelihood(model, cohort, 0) < 0.1


def test_the_mixed_model_finds_what_it_was_made_from():
    cohort = longitudinal(3000, 4, 2)
    model = MixedModel()
    model.fit(cohort, 0)
    spread, gap = model.context.scaling.spread[0], model.usual_gap
    g0, g01, g1 = model.G * spread**2
    assert g0[0] == pytest.approx(1.0, abs=0.1)
    assert g01[0] / gap == pytest.approx(0.1, abs=0.04)
    assert g1[0] / gap**2 == pytest.approx(0.09, abs=0.02)
    np.testing.assert_allclose(np.sqrt(model.s2) * spread, 0.4, atol=0.03)
    assert g1[1] / gap**2 < 0.01


def test_the_mixed_model_predicts_by_conditioning_on_the_baseline():
    cohort = longitudinal(200, 3, 3)
    model = MixedModel()
    model.fit(cohort, 0)
    judge = cohort.take(np.arange(8))
    people = People.of(judge, keep_known=False)
    people = replace(people, baseline=np.where(np.arange(8)[:, None] == 2, np.nan, people.baseline))
    mean, variance = model._conditional(people)
    static = model.context.encoder.transform(judge.covariate_table)
    y = model.context.scaling.apply(people.baseline)
    for i in range(8):
        for j in range(2):
            g0, g01, g1 = model.G[:, j]
            t = np.array([0.0, judge.gap[i] / model.usual_gap])
            Z = np.stack([np.ones(2), t], axis=1)
            V = Z @ np.array([[g0, g01], [g01, g1]]) @ Z.T + model.s2[j] * np.eye(2)
            middle = mixed._fixed(t[None], static[i : i + 1])[0] @ model.beta[:, j]
            if i == 2:
                expected = middle[1], V[1, 1]
            else:
                expected = middle[1] + V[0, 1] / V[0, 0] * (y[i, j] - middle[0]), V[1, 1] - V[0, 1] ** 2 / V[0, 0]
            assert (mean[i, j], variance[i, j]) == pytest.approx(expected)
    drawn = model.draw(people, np.arange(4000), 0)
    z = (drawn - model.mean(people, np.arange(1), 0)) / (np.sqrt(variance) * model.context.scaling.spread[0])
    assert stats.kstest(z.ravel(), "norm").statistic < 0.01


# -- networks ---------------------------------------------------------------------------------------------------------


def test_the_gradient_penalty_is_zero_for_a_critic_of_slope_one():
    import torch

    critic = torch.nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[0.6, 0.8, 5.0, 5.0]]))
    real, made, condition = torch.randn(3, 6, 2).unbind()
    penalty = gan._gradient_penalty(critic, real, made, condition)
    assert penalty.item() == pytest.approx(0.0, abs=1e-10)
    with torch.no_grad():
        critic.weight *= 3
    penalty = gan._gradient_penalty(critic, real, made, condition)
    assert penalty.item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.slow
def test_the_gan_learns_a_conditional_distribution(monkeypatch):
    monkeypatch.setattr(gan, "STEPS", 1500)
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(1000, 2))
    visits = np.stack([baseline, 0.8 * baseline + 0.6 * rng.normal(size=baseline.shape)], axis=1)
    cohort = sg.Cohort(ids=np.arange(1000), visits=visits, features=("a", "b"))
    mean, drawn = predictions("wgan-gp", cohort.take(np.arange(800)), cohort.take(np.arange(800, 1000)), 50, 0)
    for j in range(2):
        assert np.corrcoef(mean[:, j], baseline[800:, j])[0, 1] > 0.9
        assert 0.3 < drawn[:, :, j].std(axis=0).mean() < 0.9


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_the_published_method_but_for_what_it_says(name):
    preset, overrides = ARMS[name]
    options = sg.SecondgramImputer(preset, **overrides).options
    assert preset == "paper"
    projected = name.removeprefix("paper-") if name in ("paper-pcgrad", "paper-upgrad") else None
    assert options.self_conditioning == (name == "paper-no-gradient" or projected is not None)
    assert options.gradients == (projected or ("gate" if name == "paper-no-self" else "none"))
    assert bool(options.pretraining) == (name == "paper-pretrained")


def test_pretraining_is_on_everybody_and_training_starts_from_it(people, tmp_path):
    small: dict[str, Any] = {"embedding": 8, "widths": [8, 8, 8], "epochs": 2, "self_conditioning": False, "steps": 4}
    half = people.take(np.arange(120))
    visits = half.visits.copy()
    visits[60:, 1] = np.nan
    half = replace(half, visits=visits)
    plain = sg.SecondgramImputer("paper", **small).fit(half, show=False)
    imputer = sg.SecondgramImputer("paper", **small, pretraining=3)
    imputer.fit(half, show=False, state=tmp_path / "state", state_every=0.0)
    assert isinstance(imputer.model_, PaperModel)
    assert len(imputer.model_.record["pretraining"]["epochs"]) == 3
    assert len(imputer.model_.record["history"]["epochs"]) == 2
    assert isinstance(plain.model_, PaperModel)
    assert "pretraining" not in plain.model_.record
    one, other = (each.impute(half, draws=1, show=False).draws for each in (plain, imputer))
    assert not np.allclose(one, other)
    again = sg.SecondgramImputer("paper", **small, pretraining=3)
    again.fit(half, show=False, state=tmp_path / "state", resume=True)
    np.testing.assert_array_equal(again.impute(half, draws=1, show=False).draws, other)
    imputer.save(tmp_path / "model")
    np.testing.assert_array_equal(sg.load(tmp_path / "model").impute(half, draws=1, show=False).draws, other)
    with pytest.raises(sg.InputError, match="pretraining=-1"):
        sg.SecondgramImputer("paper", pretraining=-1)


# -- peers ------------------------------------------------------------------------------------------------------------


def test_an_absent_package_is_named():
    class Absent(Peer):
        needs: ClassVar = {"numpy": None, "no_such_package": None}

    class TooNew(Peer):
        needs: ClassVar = {"numpy": "99.0", "pandas": "0.9"}

    assert Absent.absent() == "no_such_package"
    assert TooNew.absent() == "pandas<0.9"
    assert PEERS["iterative-imputer"].absent() is None
