"""How residuals are distributed together: draws like what was fitted on, expectations, known cells, and denoisers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from secondgram.diffusion.noise import Purpose
from secondgram.imputation.default import joint as module
from secondgram.imputation.default.correlation import ResidualComponents
from secondgram.imputation.default.joint import Joint, Residuals, fit_joint
from secondgram.imputation.default.margins import fit_margins
from secondgram.imputation.default.shape import Shape, ShapeOptions
from secondgram.imputation.folds import unit_folds
from secondgram.ops.noise import normals
from secondgram.ops.row_tiles import one_thread
from secondgram.sampling.quantile_map import KNOTS, LEVELS, QuantileMap
from secondgram.sampling.sampler import Sampler
from secondgram.training.trainer import Run, TrainingOptions

FEATURES, COVARIATES = 5, 2
INPUTS = FEATURES + COVARIATES + 1
SEED = 3
TINY = ShapeOptions(
    components=3,
    networks=3,
    schedule="cosine",
    embedding=8,
    widths=(8, 8, 8),
    solver="dpm++2m",
    steps=2,
    training=TrainingOptions(epochs=2, batch=64, prediction="v", whole_steps=False),
)
KINDS = ["normal", "skewed features", "skewed component"]


def _loading() -> np.ndarray:
    """(D, D) of a correlation matrix, its components ordered by variance, its correlations of either sign."""
    turn = np.linalg.qr(np.random.default_rng(8).normal(size=(FEATURES, FEATURES)))[0]
    covariance = turn @ np.diag([2.5, 1.2, 0.7, 0.4, 0.2]) @ turn.T
    sd = np.sqrt(np.diag(covariance))
    variances, vectors = np.linalg.eigh(covariance / np.outer(sd, sd))
    return (vectors * np.sqrt(variances))[:, ::-1].T


def _residuals(kind: str, pairs: int = 1500, seed: int = 0) -> Residuals:
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(pairs, FEATURES))
    if kind == "skewed component":
        c[:, 0] = (rng.gamma(2.0, size=pairs) - 2.0) / np.sqrt(2.0)
    standard = c @ _loading()
    if kind == "skewed features":
        standard = (np.exp(0.6 * standard) - np.exp(0.18)) * np.where(np.arange(FEATURES) % 2, -1.2, 1.2)
    X = rng.normal(size=(pairs, INPUTS))
    unit = np.arange(pairs).astype(str)
    return Residuals(standard, np.ones(standard.shape), X, np.ones(pairs), unit, unit_folds(unit, 0))


def _fit(residuals: Residuals, options: ShapeOptions | None = None, lead: int = 3) -> tuple[Joint, dict[str, Any]]:
    margins = fit_margins(residuals.standard, residuals.scale, residuals.weight, residuals.unit, residuals.fold)
    # For so small a network a second thread is a burden.
    with one_thread():
        fitted, _, record = fit_joint(residuals, margins.map, lead, options, seed=SEED, run=Run(show=False))
    return fitted, record


def _draw(fitted: Joint, people: int = 200, draws: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """X of people and z (M, N, D) of theirs."""
    X = np.random.default_rng(9).normal(size=(people, INPUTS))
    return X, fitted.draw(X, _keys(people), np.arange(draws), SEED, TINY.solver, TINY.steps)


def _keys(people: int) -> np.ndarray:
    return np.arange(people, dtype=np.uint64) + 1000


# -- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_distributed_like_the_residuals(kind: str) -> None:
    residuals = _residuals(kind)
    fitted, record = _fit(residuals)
    assert record["kept"] is False
    assert (fitted.margins is None) == (kind == "normal")
    z = _draw(fitted)[1]
    assert z.dtype == np.float32
    drawn, wanted = fitted.finish(z).reshape(-1, FEATURES).astype(float), residuals.standard
    # 1,500 pairs stand behind each number that is compared.
    np.testing.assert_allclose(drawn.mean(axis=0), wanted.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), wanted.std(axis=0), rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(wanted.T), atol=0.1)
    for one, other in zip(drawn.T, wanted.T, strict=True):
        assert stats.ks_2samp(one, other).statistic < 0.06


def test_a_skewed_component_has_its_distribution_in_the_draws() -> None:
    residuals = _residuals("skewed component")
    fitted, _ = _fit(residuals)
    assert fitted.component_margins is not None
    axis = np.linalg.pinv(_loading())[:, 0]
    wanted, drawn = residuals.standard @ axis, fitted.finish(_draw(fitted)[1]).reshape(-1, FEATURES) @ axis
    # A Gaussian copula would lose most of it: what is a skewed sum of features is no matter of single features.
    assert stats.skew(wanted) > 1.2
    assert stats.skew(drawn) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_expectations_are_averages_of_many_draws(kind: str) -> None:
    fitted, _ = _fit(_residuals(kind))
    X, z = _draw(fitted, people=50, draws=400)
    expected = fitted.expected(X, _keys(50), np.arange(400), SEED, "", 0)
    assert expected.shape == (50, FEATURES)
    drawn = fitted.finish(z)
    # What is expected of a distribution that nothing conditions is the same for everyone.
    error = drawn.std(axis=(0, 1)) / np.sqrt(50 * 400)
    calibration = drawn.std(axis=(0, 1)) / np.sqrt(module.CALIBRATION_DRAWS)
    off = np.abs(drawn.mean(axis=(0, 1)) - expected[0])
    assert (off < 4.5 * np.hypot(error, calibration)).all()
    np.testing.assert_array_equal(expected, np.broadcast_to(expected[0], expected.shape))


class _Shifted:
    """Stands in for networks whose draws of two components are about 0.5."""

    kept = np.array([0, 2])

    def draw(self, conditions: np.ndarray, keys: np.ndarray, draws: np.ndarray, seed: int, *_: Any) -> np.ndarray:
        return normals(keys, 2, seed=seed, purpose=Purpose.START, draws=draws) + np.float32(0.5)


@pytest.mark.parametrize(
    "kind",
    KINDS,
)
def test_expectations_count_what_networks_draw_on_average_once(kind: str) -> None:
    residuals = _residuals(kind, 400)
    fitted, _ = _fit(residuals)
    fitted.shape = _Shifted()  # type: ignore[assignment]
    module._calibrate(fitted, residuals.X, TINY, SEED)
    arguments = (residuals.X, _keys(400), np.arange(100), SEED, TINY.solver, TINY.steps)
    drawn, expected = fitted.finish(fitted.draw(*arguments)), fitted.expected(*arguments)
    np.testing.assert_allclose(expected.mean(axis=0), drawn.mean(axis=(0, 1)), atol=0.05)


def test_unknown_cells_spoil_nothing() -> None:
    residuals = _residuals("skewed features")
    gone = np.random.default_rng(1).random(residuals.standard.shape) < 0.2
    gone[:, 0] = False
    holed = np.where(gone, np.nan, residuals.standard)
    fitted, _ = _fit(Residuals(holed, *(getattr(residuals, n) for n in ("scale", "X", "weight", "unit", "fold"))))
    drawn = fitted.finish(_draw(fitted)[1]).reshape(-1, FEATURES)
    for one, other in zip(drawn.T, holed.T, strict=True):
        assert stats.ks_2samp(one, other[np.isfinite(other)]).statistic < 0.06


def test_unknown_cells_make_no_component_vary_less_than_it_does() -> None:
    residuals = _residuals("normal", 400)
    gone = np.random.default_rng(1).random(residuals.standard.shape) < 0.6
    holed = replace(residuals, standard=np.where(gone, np.nan, residuals.standard))
    fitted, _ = _fit(holed)
    assert fitted.component_margins is None
    np.testing.assert_allclose(fitted.finish(_draw(fitted)[1]).std(axis=(0, 1)), 1.0, atol=0.12)


def test_what_fills_unknown_cells_is_decided_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    residuals = _residuals("normal", 100)
    residuals.standard[3, 2] = np.nan
    given: list[int] = []
    filled = ResidualComponents.filled

    def noted(components: ResidualComponents, standard: np.ndarray, seed: int) -> np.ndarray:
        given.append(seed)
        return filled(components, standard, seed)

    monkeypatch.setattr(ResidualComponents, "filled", noted)
    for seed in (5, 6):
        fit_joint(residuals, None, 3, None, seed=seed, run=Run(show=False))
    assert given == [5, 6]


def test_the_margins_are_those_that_are_given() -> None:
    residuals = _residuals("skewed features")
    own = QuantileMap.fit(residuals.standard, residuals.weight, 0.0)
    fitted, _, _ = fit_joint(residuals, own, 3, None, seed=SEED, run=Run(show=False))
    assert fitted.margins is own
    z = own.inverse(residuals.standard)
    np.testing.assert_allclose(fitted.components.correlation(), np.corrcoef(z.T), atol=0.05)
    assert fit_joint(residuals, None, 3, None, seed=SEED, run=Run(show=False))[0].margins is None


def test_a_draw_depends_on_its_person_and_number_alone() -> None:
    fitted, _ = _fit(_residuals("skewed features"))
    X, z = _draw(fitted)
    some = fitted.draw(X[[7, 3]], _keys(200)[[7, 3]], np.array([40, 2]), SEED, "", 0)
    np.testing.assert_array_equal(some, z[[40, 2]][:, [7, 3]])
    assert not np.array_equal(fitted.draw(X, _keys(200), np.arange(50), SEED + 1, "", 0), z)


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lead", "kept"), [(1, 1), (3, 3), (99, FEATURES)])
def test_conditions_are_leading_components_covariates_and_gap(lead: int, kept: int) -> None:
    fitted, _ = _fit(_residuals("normal"), lead=lead)
    X = np.random.default_rng(0).normal(size=(7, INPUTS))
    shown = fitted.conditions(X)
    assert fitted.lead == kept
    expected = fitted.components.components(X[:, :FEATURES])[:, :kept]
    np.testing.assert_allclose(shown[:, :kept], expected, rtol=1e-10)
    np.testing.assert_array_equal(shown[:, kept:], X[:, FEATURES:])


# -- known residuals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_known_residuals_come_back_and_others_stay_as_they_are(kind: str) -> None:
    fitted, _ = _fit(_residuals(kind))
    _, z = _draw(fitted, people=4, draws=30)
    before = z.copy()
    known = np.full((4, FEATURES), np.nan)
    known[1, [0, 3]] = [1.3, -0.4]
    known[2] = [0.1, 0.2, -0.3, 0.4, 9.0]
    made = fitted.finish(fitted.condition(z, known))
    for person in (1, 2):
        seen = np.isfinite(known[person])
        expected = np.broadcast_to(known[person, seen], (30, int(seen.sum())))
        np.testing.assert_allclose(made[:, person, seen], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(made[:, [0, 3]], fitted.finish(before)[:, [0, 3]])


def test_what_is_known_moves_what_is_correlated_with_it() -> None:
    residuals = _residuals("normal")
    fitted, _ = _fit(residuals)
    correlation = fitted.components.correlation()
    np.testing.assert_allclose(correlation, np.corrcoef(residuals.standard.T), atol=0.05)
    assert (np.abs(correlation) > 0.3).sum() > FEATURES
    assert (correlation < -0.3).any()
    _, z = _draw(fitted, people=1, draws=4000)
    known = np.full((1, FEATURES), np.nan)
    known[0, 2] = 1.5
    made = fitted.finish(fitted.condition(z, known))[:, 0]
    # Of standard normals: the mean moves by the correlation, and the rest of the variance is left.
    np.testing.assert_allclose(made.mean(axis=0), 1.5 * correlation[2], atol=0.08)
    np.testing.assert_allclose(made.var(axis=0), 1.0 - correlation[2] ** 2, atol=0.08)


def test_what_is_known_moves_the_right_way_through_skewed_margins() -> None:
    residuals = _residuals("skewed features")
    fitted, _ = _fit(residuals)
    correlation = np.corrcoef(residuals.standard.T)[2]
    moved = {}
    for level in (0.1, 0.9):
        _, z = _draw(fitted, people=1, draws=500)
        known = np.full((1, FEATURES), np.nan)
        known[0, 2] = np.quantile(residuals.standard[:, 2], level)
        moved[level] = fitted.finish(fitted.condition(z, known))[:, 0].mean(axis=0)
    clear = np.abs(correlation) > 0.3
    assert clear.sum() > 2
    np.testing.assert_array_equal(np.sign(moved[0.9] - moved[0.1])[clear], np.sign(correlation)[clear])


# -- the denoisers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shaped() -> Joint:
    """Three networks of two epochs; their first and third component are kept, as if they gained."""

    def fall(*_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat([[1.0, -1.0, 1.0]], 9, axis=0), np.ones((9, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondgram.imputation.default.shape._fall", fall)
        fitted, record = _fit(_residuals("skewed features", 200), TINY)
    assert fitted.shape is not None
    assert record["kept"]
    assert record["components"] == fitted.shape.kept.tolist() == [0, 2]
    assert len(record["histories"]) == len(fitted.shape.nets) == 3
    return fitted


def _networks(fitted: Joint) -> Shape:
    assert fitted.shape is not None
    return fitted.shape


def test_draws_take_turns_between_the_networks(shaped: Joint) -> None:
    shape, keys = _networks(shaped), _keys(4)
    conditions = shaped.conditions(np.random.default_rng(0).normal(size=(4, INPUTS)))
    drawn = shape.draw(conditions, keys, np.arange(7), SEED, TINY.solver, TINY.steps)
    assert (drawn.shape, drawn.dtype) == ((7, 4, 2), np.dtype(np.float32))
    for number in range(7):
        alone = Sampler(shape.nets[number % 3], shape.schedule, prediction="v").sample(
            conditions, keys, [number], SEED, TINY.solver, TINY.steps, keys=keys
        )
        np.testing.assert_array_equal(drawn[number], alone[0][:, [0, 2]])
    # The networks differ, or there would be no turns to take.
    one, other = (
        Sampler(net, shape.schedule, prediction="v").sample(conditions, keys, 1, SEED, "dpm++2m", 2, keys=keys)
        for net in shape.nets[:2]
    )
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("numbers", [[6], [5, 0, 2], [1, 4], [3, 3]])
def test_a_draw_does_not_depend_on_which_others_are_asked_for(shaped: Joint, numbers: list[int]) -> None:
    X, keys = np.random.default_rng(0).normal(size=(4, INPUTS)), _keys(4)
    whole = shaped.draw(X, keys, np.arange(7), SEED, TINY.solver, TINY.steps)
    some = shaped.draw(X[1:3], keys[1:3], np.array(numbers), SEED, TINY.solver, TINY.steps)
    np.testing.assert_array_equal(some, whole[numbers][:, 1:3])


def test_only_kept_components_come_from_the_networks(shaped: Joint) -> None:
    X, z = _draw(shaped, people=4, draws=6)
    c = z @ np.linalg.inv(shaped.components.loading)
    lead = _networks(shaped).draw(shaped.conditions(X), _keys(4), np.arange(6), SEED, TINY.solver, TINY.steps)
    np.testing.assert_allclose(c[..., [0, 2]], lead, atol=1e-4)
    plain = _draw(replace(shaped, shape=None), people=4, draws=6)[1] @ np.linalg.inv(shaped.components.loading)
    np.testing.assert_allclose(c[..., [1, 3, 4]], plain[..., [1, 3, 4]], atol=1e-4)
    assert np.abs(c[..., [0, 2]] - plain[..., [0, 2]]).max() > 0.01


def test_margins_are_the_chosen_ones_whatever_the_networks_draw(shaped: Joint) -> None:
    assert shaped.margins is not None
    X = _residuals("skewed features", 200).X
    z = shaped.draw(X, _keys(200), np.arange(100), SEED, TINY.solver, TINY.steps)
    drawn = shaped.finish(z).reshape(-1, FEATURES)
    inner = np.abs(KNOTS) < 2.0
    quantiles = np.quantile(drawn, LEVELS[inner], axis=0)
    np.testing.assert_allclose(quantiles, shaped.margins.end[inner], atol=0.1)


@pytest.mark.parametrize("kind", ["normal", "skewed component", "with networks"])
def test_the_state_comes_back(kind: str, request: pytest.FixtureRequest) -> None:
    fitted = request.getfixturevalue("shaped") if kind == "with networks" else _fit(_residuals(kind))[0]
    again = Joint.from_state(dict(fitted.state()))
    X, z = _draw(fitted, people=5, draws=6)
    np.testing.assert_array_equal(_draw(again, people=5, draws=6)[1], z)
    np.testing.assert_array_equal(again.finish(z), fitted.finish(z))
    arguments = (X, _keys(5), np.arange(6), SEED, TINY.solver, TINY.steps)
    np.testing.assert_array_equal(again.expected(*arguments), fitted.expected(*arguments))


def test_networks_that_do_not_gain_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondgram.imputation.default.shape._fall", lambda *_: (np.zeros((9, 3)), np.ones((9, 3))))
    fitted, record = _fit(_residuals("normal", 100), TINY)
    assert fitted.shape is None
    assert not record["kept"]
    assert "none of 3 components" in record["reason"]


def test_too_few_pairs_train_no_network() -> None:
    fitted, record = _fit(_residuals("normal", 59), TINY)
    assert fitted.shape is None
    assert record["reason"] == "59 pairs, fewer than 60"
