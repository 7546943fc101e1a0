"""What is named of methods and metrics exists."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from secondgram.comparison import compare, demo, evidence
from secondgram.comparison.compare import DEFAULT_METHODS, METHODS
from secondgram.comparison.methods import ARMS, BASELINES, PEERS, RIVALS, TITLES, method_catalogue
from secondgram.evaluation.metrics import BETTER, FURTHER, METRICS, metric_catalogue
from secondgram.evaluation.metrics.metric_catalogue import COLUMNS, HEADINGS, JOINT
from secondgram.imputation.imputer import PRESETS


@pytest.mark.parametrize(
    "names",
    [
        DEFAULT_METHODS,
        BASELINES,
        RIVALS,
        PEERS,
        ARMS,
        TITLES,
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


def test_a_method_is_made_in_one_way() -> None:
    for method in method_catalogue.CATALOGUE:
        assert method.learner is None or method.preset is None, method.name
        assert not method.peer or method.learner is not None, method.name
        assert not method.options or method.preset, method.name
    assert len({method.name for method in method_catalogue.CATALOGUE}) == len(method_catalogue.CATALOGUE)


@pytest.mark.parametrize("names", [BETTER, COLUMNS, HEADINGS, JOINT])
def test_every_metric_that_is_named_exists(names: Iterable[str]) -> None:
    assert [name for name in names if name not in METRICS | FURTHER] == []


def test_every_metric_has_a_better_side_and_the_main_ones_headings() -> None:
    assert set(BETTER) == {*METRICS, *FURTHER}
    assert all(COLUMNS[name] for name in METRICS)
    assert len({metric.name for metric in metric_catalogue.CATALOGUE}) == len(metric_catalogue.CATALOGUE)
    assert {better for better in BETTER.values() if isinstance(better, str)} == {"lower", "higher"}
