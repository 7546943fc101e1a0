"""What a rung earned and what is used for a feature, as tables with intervals and words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from secondgram.imputation.default.judgement import CHOICES, RUNGS, Judgement
from secondgram.imputation.default.margins import Margins
from secondgram.imputation.default.mean import MeanPredictor
from secondgram.imputation.default.spread import Spread
from secondgram.imputation.default.verdict import WIDTH, feature_columns, ladder_rows, ladder_table, verdict_table
from secondgram.imputation.regression import LinearMap

NAMES = ("carried", "improved", "unclear")
CHOSEN = ["carry_forward", "blend", "own"]
PAIRS = 300
NO_SHAPE = {"kept": False, "reason": "switched off by shape='off'"}
COMPONENTS = Margins(None, "normal", {"normal": [0.0, 0.0], "own": [0.02, 0.005]})
MARGINS = Margins(None, "one shape", {})


def _mean() -> MeanPredictor:
    weights = {"mean_change": 0.001, "own": 0.75, "ridge": 0.2}
    return MeanPredictor(
        LinearMap.zero(5, 3), np.zeros(3), np.zeros((2, 6)), np.zeros((2, 3)), CHOSEN, "blend", weights, 0.3
    )


def _spread(candidate: str) -> Spread:
    return Spread(np.zeros(3), np.zeros((4, 3)), np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3)), candidate)


def _judged(
    unit: np.ndarray | None = None, weight: np.ndarray | None = None, gone: np.ndarray | None = None
) -> Judgement:
    """A feature that nothing predicts, one that is half predicted, and one that is hardly predicted.

    Each choice has scores and errors of its own.
    """
    rng = np.random.default_rng(0)
    change = rng.normal(size=(PAIRS, 3))
    left = change * np.array([1.0, 0.5, 0.99]) + rng.normal(size=(PAIRS, 3)) * np.array([0.0, 0.0, 0.2])
    if gone is not None:
        change, left = np.where(gone, np.nan, change), np.where(gone, np.nan, left)
    unit = np.arange(PAIRS).astype(str) if unit is None else unit
    weight = np.ones(PAIRS) if weight is None else weight
    carried, mean = 0.6 * np.abs(change) + 0.1, 0.6 * np.abs(left) + 0.1
    scores, errors = {}, {}
    for place, name in enumerate(CHOICES):
        by = 1.0 + 0.1 * place
        scores[name] = dict(zip(RUNGS, (carried, mean * by, 1.01 * mean * by, 0.99 * mean * by), strict=True))
        errors[name] = left * by
    return Judgement(scores, errors, change, weight, unit)


def _used(judged: Judgement, rung: str) -> np.ndarray:
    """Scores (P, 3) of what is used for each feature."""
    return np.stack([judged.scores[name][rung][:, place] for place, name in enumerate(CHOSEN)], axis=1)


def _error(judged: Judgement) -> np.ndarray:
    return np.stack([judged.errors[name][:, place] for place, name in enumerate(CHOSEN)], axis=1)


def _features(judged: Judgement) -> dict[str, list[Any]]:
    none = np.zeros(len(NAMES), dtype=bool)
    return feature_columns(judged, NAMES, _mean(), none, none)


def _ladder(judged: Judgement, shape: dict[str, Any] = NO_SHAPE, candidate: str = "gap") -> list[dict[str, Any]]:
    return ladder_rows(judged, _mean(), _spread(candidate), MARGINS, COMPONENTS, shape)


# -- features ---------------------------------------------------------------------------------------------------------


def test_a_verdict_has_a_row_a_feature_with_errors_scores_and_their_interval() -> None:
    judged = _judged()
    table = verdict_table(_features(judged))
    assert table.index.name == "feature"
    assert tuple(table.index) == NAMES
    assert list(table.columns) == [
        "mean",
        "rmse_carry_forward",
        "rmse",
        "crps_carry_forward",
        "crps",
        "difference",
        "low",
        "high",
        "verdict",
    ]
    np.testing.assert_allclose(table["rmse_carry_forward"], np.sqrt((judged.change**2).mean(axis=0)))
    np.testing.assert_allclose(table["rmse"], np.sqrt((_error(judged) ** 2).mean(axis=0)))
    np.testing.assert_allclose(table["crps_carry_forward"], _used(judged, "carry-forward").mean(axis=0))
    np.testing.assert_allclose(table["crps"], _used(judged, "margins").mean(axis=0))
    fall = _used(judged, "margins") - _used(judged, "carry-forward")
    np.testing.assert_allclose(table["difference"], fall.mean(axis=0))
    error = fall.std(axis=0, ddof=1) / np.sqrt(PAIRS)
    np.testing.assert_allclose(table["low"], fall.mean(axis=0) - WIDTH * error)
    np.testing.assert_allclose(table["high"], fall.mean(axis=0) + WIDTH * error)


def test_a_verdict_is_in_words() -> None:
    judged = _judged()
    table = verdict_table(_features(judged))
    assert table["verdict"]["carried"] == "carried forward: no predictor was better"
    share = 100 * (1 - _used(judged, "margins")[:, 1].mean() / _used(judged, "carry-forward")[:, 1].mean())
    assert table["verdict"]["improved"] == f"imputed: CRPS {share:.0f} % below carry-forward's"
    assert 25 < share < 45
    assert table["verdict"]["unclear"] == "imputed, but not clearly better than carry-forward"


@pytest.mark.parametrize("better", [1.0, 3.0])
def test_a_gain_is_clear_where_its_whole_interval_is_below_zero(better: float) -> None:
    columns: dict[str, list[Any]] = {
        "feature": ["x"],
        "mean": ["blend"],
        "absent": [False],
        "rmse_carry_forward": [1.0],
        "rmse": [0.9],
        "crps_carry_forward": [0.5],
        "crps": [0.5 - 0.01 * better],
        "difference": [-0.01 * better],
        "error": [0.01],
    }
    verdict = verdict_table(columns)["verdict"]["x"]
    assert verdict == (
        "imputed: CRPS 6 % below carry-forward's"
        if better > WIDTH
        else "imputed, but not clearly better than carry-forward"
    )


def test_unknown_cells_count_for_nothing_and_a_feature_never_known_is_not_praised() -> None:
    gone = np.random.default_rng(1).random((PAIRS, 3)) < 0.3
    gone[:, 0], gone[:, 2] = False, True
    judged = _judged(gone=gone)
    table = verdict_table(_features(judged))
    np.testing.assert_allclose(table["rmse"][:2], np.sqrt(np.nanmean(_error(judged)[:, :2] ** 2, axis=0)))
    np.testing.assert_allclose(table["crps"][:2], np.nanmean(_used(judged, "margins")[:, :2], axis=0))
    difference = np.nanmean((_used(judged, "margins") - _used(judged, "carry-forward"))[:, :2], axis=0)
    np.testing.assert_allclose(table["difference"][:2], difference)
    assert table["verdict"]["unclear"] == "imputed, and judged by nobody: too few people were measured"


def test_the_interval_is_over_units_and_the_averages_over_people() -> None:
    unit, weight = np.repeat(np.arange(PAIRS // 3), 3).astype(str), np.tile([0.5, 0.5, 1.0], PAIRS // 3)
    judged = _judged(unit, weight)
    table = verdict_table(_features(judged))
    np.testing.assert_allclose(table["crps"], weight @ _used(judged, "margins") / weight.sum())
    fall = _used(judged, "margins") - _used(judged, "carry-forward")
    np.testing.assert_allclose(table["difference"], weight @ fall / weight.sum())
    per_unit = (weight[:, None] * fall).reshape(-1, 3, 3).sum(axis=1) / 2.0
    error = per_unit.std(axis=0, ddof=1) / np.sqrt(len(per_unit))
    np.testing.assert_allclose(table["high"] - table["difference"], WIDTH * error)


# -- rungs ------------------------------------------------------------------------------------------------------------


def test_a_ladder_has_a_row_a_rung_with_its_gain_over_the_one_before() -> None:
    judged = _judged()
    table = ladder_table(_ladder(judged))
    assert table.index.name == "rung"
    assert list(table.index) == ["carry-forward", "mean", "spread", "margins", "correlation", "shape"]
    assert list(table.columns) == ["choice", "crps", "difference", "low", "high", "reason"]
    scores = [_used(judged, rung) for rung in RUNGS]
    per_person = [score.mean(axis=1) for score in scores]
    np.testing.assert_allclose(table["crps"][:4], [each.mean() for each in per_person])
    assert list(table.loc["carry-forward", ["difference", "low", "high"]]) == [0.0, 0.0, 0.0]
    for place in (1, 2, 3):
        gain = per_person[place] - per_person[place - 1]
        error = WIDTH * gain.std(ddof=1) / np.sqrt(PAIRS)
        row = table.iloc[place]
        assert row["difference"] == pytest.approx(gain.mean())
        assert (row["low"], row["high"]) == (pytest.approx(gain.mean() - error), pytest.approx(gain.mean() + error))


def test_a_ladder_says_what_was_chosen_and_why() -> None:
    table = ladder_table(_ladder(_judged()))
    assert list(table["choice"]) == ["no change", "blend", "slopes: gap", "one shape", "components: normal", "not used"]
    assert table["reason"]["mean"] == (
        "Features: carry_forward for 1, own for 1, blend for 1. Blend: 0.75 own, 0.20 ridge"
    )
    assert table["reason"]["shape"] == NO_SHAPE["reason"]
    assert ladder_table(_ladder(_judged(), candidate="constant"))["choice"]["spread"] == "one a feature"


def test_what_components_and_shape_earn_is_below_zero() -> None:
    shape = {"kept": True, "gain": 0.04, "error": 0.01, "reason": "3 of 16 components gain"}
    table = ladder_table(_ladder(_judged(), shape))
    for rung, gain, error in (("correlation", 0.02, 0.005), ("shape", 0.04, 0.01)):
        row = table.loc[rung]
        assert np.isnan(row["crps"])
        assert row["difference"] == -gain
        assert (row["low"], row["high"]) == (pytest.approx(-gain - WIDTH * error), pytest.approx(-gain + WIDTH * error))
    unused = ladder_table(_ladder(_judged())).loc["shape"]
    assert np.isnan([unused["crps"], unused["difference"], unused["low"], unused["high"]]).all()


def test_scores_of_a_ladder_are_averages_over_people_however_many_make_a_unit() -> None:
    unit, weight = np.repeat(np.arange(PAIRS // 3), 3).astype(str), np.tile([0.5, 0.5, 1.0], PAIRS // 3)
    judged = _judged(unit, weight)
    table = ladder_table(_ladder(judged))
    scores = [_used(judged, rung) for rung in RUNGS]
    expected = [weight @ score.mean(axis=1) / weight.sum() for score in scores]
    np.testing.assert_allclose(table["crps"][:4], expected)
    np.testing.assert_allclose(table["difference"][1:4], np.diff(expected))


def test_people_whom_nobody_was_judged_by_count_for_nothing() -> None:
    judged, cut = _judged(), 200
    for name in CHOICES:
        for rung in RUNGS:
            judged.scores[name][rung][cut:] = np.nan
        judged.errors[name][cut:] = np.nan
    judged.change[cut:] = np.nan
    fewer = Judgement(
        {name: {rung: score[:cut] for rung, score in each.items()} for name, each in judged.scores.items()},
        {name: error[:cut] for name, error in judged.errors.items()},
        judged.change[:cut],
        judged.weight[:cut],
        judged.unit[:cut],
    )
    for one, other in zip(_ladder(judged), _ladder(fewer), strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    whole, part = verdict_table(_features(judged)), verdict_table(_features(fewer))
    pd.testing.assert_frame_equal(whole, part)
