"""What is named of methods and metrics exists."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from secondgram.evaluation import compare, demo, evidence, run_folder
from secondgram.evaluation.baselines import ARMS, BASELINES, PEERS, RIVALS
from secondgram.evaluation.compare import DEFAULT_METHODS, METHODS
from secondgram.evaluation.metrics import BETTER, FURTHER, METRICS
from secondgram.evaluation.metrics.further import JOINT
from secondgram.evaluation.report import words
from secondgram.imputation.imputer import PRESETS


@pytest.mark.parametrize(
    "names",
    [
        DEFAULT_METHODS,
        BASELINES,
        RIVALS,
        PEERS,
        ARMS,
        words.METHODS,
        evidence.RIDGES,
        evidence.OURS,
        [evidence.CARRY, compare.REFERENCE, compare.CARRY, demo.PEER],
        PRESETS,
    ],
)
def test_every_method_that_is_named_exists(names: Iterable[str]) -> None:
    assert [name for name in names if name not in METHODS] == []


def test_every_method_has_one_maker() -> None:
    made = [*BASELINES, *RIVALS, *PEERS, *ARMS, *PRESETS, "exact-posterior"]
    assert sorted(made) == sorted(METHODS)
    assert {preset for preset, _ in ARMS.values()} <= set(PRESETS)


@pytest.mark.parametrize("names", [BETTER, run_folder.HEADINGS, words.HEADINGS, JOINT])
def test_every_metric_that_is_named_exists(names: Iterable[str]) -> None:
    assert [name for name in names if name not in METRICS | FURTHER] == []


def test_every_metric_has_a_better_side_and_the_main_ones_headings() -> None:
    assert set(BETTER) == {*METRICS, *FURTHER}
    assert set(run_folder.HEADINGS) == set(METRICS) == set(words.HEADINGS)
