"""Missing baseline cells: the conditional expectation, its scatter, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from secondgram.diffusion.noise import NoiseRequest, Purpose
from secondgram.imputation.covariance import ledoit_wolf_shrinkage, shrunk_covariance
from secondgram.imputation.missing import MissingCells
from secondgram.ops import native
from secondgram.ops.noise import normals
from secondgram.ops.registry import preferring


def _covariance(width: int) -> np.ndarray:
    root = np.random.default_rng(width).normal(size=(width, width + 2))
    return root @ root.T


@pytest.mark.parametrize("width", [1, 2, 3, 17])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_missing_cells_become_their_conditional_expectation(width: int, share: float) -> None:
    covariance, rng = _covariance(width), np.random.default_rng(1)
    values = rng.normal(size=(25, width))
    values[rng.random(values.shape) < share] = np.nan
    filled = MissingCells(np.linalg.inv(covariance)).fill(values)
    for row, got in zip(values, filled, strict=True):
        seen = np.isfinite(row)
        np.testing.assert_array_equal(got[seen], row[seen])
        expected = covariance[np.ix_(~seen, seen)] @ np.linalg.solve(covariance[np.ix_(seen, seen)], row[seen])
        np.testing.assert_allclose(got[~seen], expected, rtol=1e-8, atol=1e-8)


def test_a_person_without_any_value_gets_the_mean() -> None:
    filled = MissingCells(np.linalg.inv(_covariance(4))).fill(np.full((2, 4), np.nan))
    np.testing.assert_array_equal(filled, np.zeros((2, 4)))


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_complete_rows_are_untouched(rows: int) -> None:
    values = np.random.default_rng(0).normal(size=(rows, 5))
    np.testing.assert_array_equal(MissingCells(np.linalg.inv(_covariance(5))).fill(values), values)


def test_the_input_keeps_its_gaps() -> None:
    values = np.array([[1.0, np.nan], [np.nan, 2.0]])
    before = values.copy()
    MissingCells.fit(values).fill(values)
    np.testing.assert_array_equal(values, before)


def test_a_row_is_filled_without_looking_at_the_others() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 5))
    values[rng.random(values.shape) < 0.3] = np.nan
    cells = MissingCells.fit(values)
    np.testing.assert_array_equal(cells.fill(values)[[9, 4]], cells.fill(values[[9, 4]]))


def test_a_fit_recovers_the_precision_of_complete_data() -> None:
    covariance = _covariance(3)
    values = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance, 50_000)
    np.testing.assert_allclose(np.linalg.inv(MissingCells.fit(values).precision), covariance, rtol=0.05, atol=0.1)


def test_a_fit_on_gaps_predicts_better_than_the_mean() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 1)) + 0.4 * rng.normal(size=(500, 8))
    gone = rng.random(truth.shape) < 0.2
    filled = MissingCells.fit(np.where(gone, np.nan, truth)).fill(np.where(gone, np.nan, truth))
    off = np.sqrt(((filled - truth)[gone] ** 2).mean())
    # The best predictor, which knows the covariance, is off by about 0.4 sqrt(1 + 1 / 6).
    assert off < 0.47
    assert np.sqrt((truth[gone] ** 2).mean()) > 1.0


@pytest.mark.parametrize(("people", "width"), [(40, 6), (9, 30), (200, 1), (2, 2)])
def test_covariances_are_shrunk_as_scikit_learn_does(people: int, width: int) -> None:
    rng = np.random.default_rng(people)
    rows = rng.normal(size=(people, width)) @ rng.normal(size=(width, width))
    expected, share = ledoit_wolf(rows, assume_centered=True)
    assert ledoit_wolf_shrinkage(rows.T @ rows, rows) == pytest.approx(share, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(shrunk_covariance(rows), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shrunk_covariance(rows[:1], rows[1:]), expected, rtol=1e-9, atol=1e-12)


def test_rows_of_nothing_are_shrunk_to_nothing() -> None:
    assert ledoit_wolf_shrinkage(np.zeros((3, 3)), np.zeros((5, 3))) == 0.0
    assert not shrunk_covariance(np.zeros((5, 3))).any()


# -- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [[0], [1, 3], [0, 1, 2, 3]])
def test_scatter_has_exactly_the_covariance_of_the_missing_cells(missing: list[int]) -> None:
    precision = np.linalg.inv(_covariance(4))
    gone = np.isin(np.arange(4), missing)
    # The scatter is linear in the normals: unit vectors show its root.
    root = MissingCells(precision).scatter(np.where(gone, np.nan, 1.0)[None], np.eye(4)[:, None])[:, 0]
    expected = np.zeros((4, 4))
    expected[np.ix_(gone, gone)] = np.linalg.inv(precision[np.ix_(gone, gone)])
    np.testing.assert_allclose(root.T @ root, expected, rtol=1e-8, atol=1e-10)
    assert not root[:, ~gone].any()


def test_filled_and_scattered_values_are_distributed_like_the_missing_ones() -> None:
    covariance, rng = _covariance(3), np.random.default_rng(0)
    truth = rng.multivariate_normal(np.zeros(3), covariance, 20_000)
    gone = rng.random(truth.shape) < 0.4
    values = np.where(gone, np.nan, truth)
    cells = MissingCells(np.linalg.inv(covariance))
    drawn = cells.fill(values) + cells.scatter(values, rng.normal(size=(1, *truth.shape)))[0]
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.05 * np.abs(covariance).max())


def test_known_cells_do_not_scatter() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 5))
    gone = rng.random(values.shape) < 0.3
    gone[:4] = False
    z = rng.normal(size=(6, 20, 5)).astype(np.float32)
    before = z.copy()
    moved = MissingCells(np.linalg.inv(_covariance(5))).scatter(np.where(gone, np.nan, values), z)
    assert (moved.shape, moved.dtype) == (z.shape, z.dtype)
    assert not moved[:, ~gone].any()
    assert moved[:, gone].all()
    np.testing.assert_array_equal(z, before)


def test_a_row_scatters_by_its_own_normals_alone() -> None:
    rng = np.random.default_rng(0)
    values, z = rng.normal(size=(20, 5)), rng.normal(size=(6, 20, 5))
    values[rng.random(values.shape) < 0.3] = np.nan
    cells = MissingCells(np.linalg.inv(_covariance(5)))
    whole = cells.scatter(values, z)
    some = cells.scatter(values[[9, 4]], z[[3, 0]][:, [9, 4]])
    np.testing.assert_allclose(some, whole[[3, 0]][:, [9, 4]], rtol=1e-12)


def test_the_state_comes_back() -> None:
    cells = MissingCells.fit(np.random.default_rng(0).normal(size=(20, 3)))
    np.testing.assert_array_equal(MissingCells.from_state(cells.state()).precision, cells.precision)


# -- the extension ----------------------------------------------------------------------------------------------------


def _people(width: int, people: int = 70) -> tuple[MissingCells, np.ndarray]:
    """Some complete, some with cells missing here and there, many with the same ones, one with nothing."""
    rng = np.random.default_rng(width)
    values = rng.normal(size=(people, width))
    values[::2][rng.random(values[::2].shape) < 0.15] = np.nan
    values[1::4, : width // 2] = np.nan
    values[-1] = np.nan
    return MissingCells(np.linalg.inv(_covariance(width))), values


@pytest.mark.native
@pytest.mark.parametrize("width", [1, 2, 9, 17, 130])
def test_the_extension_does_what_is_stated(width: int) -> None:
    cells, values = _people(width)
    before = values.copy()
    np.testing.assert_allclose(cells.fill(values), cells.stated(values), rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(values, before)
    gone = np.isnan(values)
    keys = np.arange(len(values), dtype=np.uint64) * 7 + 2**40
    noise = NoiseRequest.of(keys, width, seed=2**40 + 3, purpose=Purpose.BASELINE, draws=[4, 0, 2])
    start, cell, by = cells.drawn(gone, noise)
    z = normals(keys, width, seed=2**40 + 3, purpose=Purpose.BASELINE, draws=[4, 0, 2])
    stated = cells.scatter(values, z)
    for person in range(len(values)):
        mine = slice(start[person], start[person + 1])
        np.testing.assert_array_equal(cell[mine], np.flatnonzero(gone[person]))
        np.testing.assert_allclose(by[mine], stated[:, person, gone[person]].T, rtol=2e-5, atol=2e-6)
    with preferring("reference"):
        again = cells.drawn(gone, noise)
        np.testing.assert_array_equal(cells.fill(values), cells.stated(values))
    np.testing.assert_array_equal(again[0], start)
    np.testing.assert_array_equal(again[1], cell)
    np.testing.assert_allclose(again[2], by, rtol=2e-5, atol=2e-6)


@pytest.mark.native
@pytest.mark.parametrize("width", [9, 130])
def test_neither_company_nor_threads_change_a_bit(width: int) -> None:
    cells, values = _people(width, 200)
    keys = np.arange(200, dtype=np.uint64)
    whole = cells.fill(values)

    def drawn(rows: np.ndarray, draws: object) -> list[np.ndarray]:
        noise = NoiseRequest.of(keys[rows], width, seed=1, purpose=Purpose.BASELINE, draws=draws)  # type: ignore[arg-type]
        start, _, by = cells.drawn(np.isnan(values[rows]), noise)
        return [by[start[row] : start[row + 1]] for row in range(len(rows))]

    everything = drawn(np.arange(200), 5)
    for threads in (1, 3):
        with native.limited(threads):
            np.testing.assert_array_equal(cells.fill(values), whole)
            for rows in (np.arange(200), np.array([3]), np.arange(199, 0, -7), np.arange(0)):
                np.testing.assert_array_equal(cells.fill(values[rows]), whole[rows])
                for draws in ([4, 1], [3]):
                    for person, got in zip(rows, drawn(rows, draws), strict=True):
                        np.testing.assert_array_equal(got, everything[person][:, draws])


@pytest.mark.native
def test_people_who_lack_the_same_come_together() -> None:
    gone = np.zeros((6, 11), dtype=bool)
    gone[1, [3, 10]] = gone[4, [3, 10]] = gone[5, 0] = True
    cells, cell, members, person = native.Patterns.of(gone)
    found = {
        tuple(person[members[group] : members[group + 1]]): cell[cells[group] : cells[group + 1]].tolist()
        for group in range(len(cells) - 1)
    }
    assert found == {(1, 4): [3, 10], (5,): [0]}
    assert len(native.Patterns.of(gone[:1]).person) == 0


@pytest.mark.native
def test_what_the_extension_cannot_take_is_refused() -> None:
    gone, values = np.ones((1, 2), dtype=bool), np.zeros((1, 2))
    with pytest.raises(ValueError, match="positive definite"):
        native.fill_missing(-np.eye(2), gone, values)
    with pytest.raises(ValueError, match="values float32"):
        native.fill_missing(np.eye(2), gone, values.astype(np.float32))
    with pytest.raises(ValueError, match="a precision"):
        native.fill_missing(np.eye(2, dtype=np.float32), gone, values)


def test_of_a_feature_that_hardly_anybody_has_the_few_decide() -> None:
    """The rounds alone would end far from it: a feature that 4 % have, correlated 0.8 with one that all have."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, 3))
    values[:, 1] = 0.8 * values[:, 0] + 0.6 * values[:, 1]
    values[rng.random(3000) > 0.04, 1] = np.nan
    covariance = np.linalg.inv(MissingCells.fit(values).precision)
    assert covariance[0, 1] == pytest.approx(0.8, abs=0.15)
    left = 1.0 / MissingCells.fit(values).precision[1, 1]
    assert left == pytest.approx(0.36, abs=0.15)


def test_features_that_nobody_has_together_are_filled_from_what_they_share() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2000, 4))
    values[:1000, 1] = np.nan
    values[1000:, 2] = np.nan
    values[:, 3] = np.nan
    cells = MissingCells.fit(values)
    assert np.linalg.eigvalsh(cells.precision)[0] > 0
    assert np.isfinite(cells.fill(values)).all()
