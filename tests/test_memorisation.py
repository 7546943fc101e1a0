"""The memorisation check finds copies, and nothing where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from secondgram.evaluation.memorisation import memorisation

PEOPLE, FEATURES = 300, 20


def _changes(seed: int, count: int = PEOPLE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES))


def _units(count: int = PEOPLE) -> np.ndarray:
    return np.array([f"person-{number}" for number in range(count)])


@pytest.mark.parametrize("learned", [60, 300, 2000])
def test_fresh_draws_pass_whatever_the_sizes(learned: int) -> None:
    drawn = np.stack([_changes(seed) for seed in (10, 11)])
    found = memorisation(drawn, _changes(0), _changes(1, learned), _units())
    assert found.passes
    assert found.nearer[0] == pytest.approx(0.5, abs=0.05)
    assert found.nearer[1] < found.nearer[0] < found.nearer[2]
    assert found.copies[0] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_copies_of_training_people_are_found(noise: float, share: float) -> None:
    learned = _changes(1)
    fresh = np.random.default_rng(5).random((PEOPLE, 1)) > share
    drawn = np.where(fresh, _changes(3), learned + noise * _changes(2))[None]
    found = memorisation(drawn, _changes(0), learned, _units())
    assert not found.passes
    assert found.copies[0] > 0.5 * share
    assert found.nearer[0] > 0.5 + 0.3 * share


def test_a_covariance_learned_from_few_people_leaves_a_trace_but_no_copies() -> None:
    rng = np.random.default_rng(0)
    learned, truth = rng.normal(size=(80, 40)), rng.normal(size=(PEOPLE, 40))
    drawn = rng.multivariate_normal(np.zeros(40), learned.T @ learned / 80, (3, PEOPLE))
    found = memorisation(drawn, truth, learned, _units())
    assert found.nearer[0] > 0.55
    assert found.copies == (0.0, 0.0, 0.0)
    assert found.passes


def test_a_persons_own_follow_up_counts_for_none_of_their_draws() -> None:
    truth = _changes(0)
    # Perfect draws are no sign of having seen fewer training people.
    found = memorisation(truth[None], truth, _changes(1), _units())
    assert found.nearer[0] == pytest.approx(0.5, abs=0.07)


def test_people_with_missing_cells_are_left_out() -> None:
    truth, learned = _changes(0), _changes(1)
    truth[:50, 0] = np.nan
    learned[:50, 1] = np.nan
    found = memorisation(_changes(2)[None], truth, learned, _units())
    assert np.isfinite(found.nearer).all()
    same = memorisation(_changes(2)[None, 50:], truth[50:], learned[50:], _units()[50:])
    assert found == same
