"""Features that nobody, or next to nobody, has at the baseline beside others that people have."""

from __future__ import annotations

import numpy as np
import pytest

import secondgram as sg

PEOPLE, PAIRS = 140, 100
NAMES = tuple("abcdef")


def cohort(baseline: np.ndarray, followup: np.ndarray) -> sg.Cohort:
    visits = np.stack([baseline, followup], axis=1)
    visits[PAIRS:, 1] = np.nan
    ids = np.array([f"s{number:03d}" for number in range(PEOPLE)], dtype=object)
    times = np.tile([0.0, 2.0], (PEOPLE, 1))
    return sg.Cohort(ids, visits, NAMES, ("1", "2"), times)


@pytest.fixture
def volumes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, (PEOPLE, len(NAMES)))
    return np.exp(level), np.exp(level + 0.2 * rng.normal(size=level.shape))


def drawn(made: sg.Cohort, **options: object) -> sg.Imputation:
    imputer = sg.SecondgramImputer(shape="off", **options)  # type: ignore[arg-type]
    return imputer.fit(made, show=False).impute(made, draws=4, show=False)


@pytest.mark.parametrize("people", [0, 3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_modality_that_next_to_nobody_had_at_the_baseline(volumes, people, bounded):
    """Their scale is chosen beside features that people had, whether these have a scale to choose or not."""
    baseline, followup = volumes
    if not bounded:
        for values in volumes:
            values[:, :3] = np.log(values[:, :3])
    baseline[people:, 3:] = np.nan
    draws = drawn(cohort(baseline, followup)).draws
    assert (draws[..., 3:] > 0).all()
    assert np.isfinite(draws).all()


@pytest.mark.parametrize("people", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_total_is_learned_where_people_have_nothing_else_at_the_baseline(volumes, people):
    for values in volumes:
        values[:, 5] = values[:, :3].sum(axis=1)
    baseline, followup = volumes
    result = drawn(cohort(baseline, followup))
    np.testing.assert_allclose(result.draws[..., 5], result.draws[..., :3].sum(axis=-1))
    baseline[people:, :5] = np.nan
    made = cohort(baseline, followup)
    result = drawn(made)
    assert np.isfinite(result.draws).all()
    assert any("f = a + b + c holds in every row and is not kept to" in note for note in result.notes)
    # Told from its own baseline.
    follow = result.mean[:, 5], baseline[PAIRS:, 5]
    assert np.corrcoef(*follow)[0, 1] > 0.8
    if not people:
        with pytest.raises(sg.InputError, match="declared to be determined, 0 people"):
            drawn(made, kinds={"f": "a + b + c"})
