"""The site of each visit: read, kept and written, and a change of scanner that is taken for no change of the brain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.table import Cohort
from secondgram.errors import InputError
from secondgram.evaluation.evaluate import true_followup
from secondgram.imputation.model_data import People, TrainingPairs
from secondgram.imputation.provenance import people_digest
from secondgram.imputation.refit import resampled
from secondgram.imputation.scanner_moves import ScannerMoves, placeable
from secondgram.imputation.trainable import check_trainable

LONG = """subject_id,visit,age,scanner,left,right
a,0,60,old,10.0,20.0
a,1,60,new,11.0,21.0
b,0,61,old,10.5,20.5
b,1,61,old,10.7,20.1
c,0,62,new,9.0,19.0
c,1,62,,9.5,19.5
d,0,63,old,9.1,19.2
"""
SITES = [["old", "new"], ["old", "old"], ["new", "new"], ["old", "old"]]


def _file(tmp_path: Path, text: str, name: str = "visits.csv") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


# -- reading and keeping ----------------------------------------------------------------------------------------------


def test_every_visit_has_the_site_of_its_row(tmp_path: Path) -> None:
    cohort = sg.read_cohort(_file(tmp_path, LONG))
    assert cohort.site is not None
    assert cohort.site.tolist() == ["old", "old", "new", "old"]
    assert cohort.visit_sites is not None
    assert cohort.visit_sites.tolist() == SITES
    assert cohort.same_site.tolist() == [False, True, True, True]
    assert any(note.startswith("1 of 3 people who were measured again were on another site") for note in cohort.notes)


def test_wide_and_biobank_columns_of_a_visit_are_read_too(tmp_path: Path) -> None:
    wide = "id,scanner_0,scanner_1,age,left_0,left_1,right_0,right_1\na,old,new,60,1,2,3,4\nb,old,old,61,2,3,4,5\n"
    cohort = sg.read_cohort(_file(tmp_path, wide), features=["left", "right"], site="scanner")
    assert cohort.visit_sites is not None
    assert cohort.visit_sites.tolist() == [["old", "new"], ["old", "old"]]
    ukb = "eid,54-0.0,54-2.0,54-3.0,25005-2.0,25005-3.0\n1,90,11025,11026,5,6\n2,91,11025,11025,6,7\n3,92,11027,,7,\n"
    cohort = sg.read_cohort(_file(tmp_path, ukb, "ukb.csv"), features=["25005"], site="54")
    assert cohort.visit_sites is not None
    assert cohort.visit_sites.tolist() == [["11025", "11026"], ["11025", "11025"], ["11027", "11027"]]


def test_the_site_of_a_visit_before_the_baseline_is_not_its_site(tmp_path: Path) -> None:
    rows = [f"{who},screening,60,clinic,," for who in "ab"]
    rows += [f"{who},baseline,60,{site},1{place},2" for place, (who, site) in enumerate(zip("ab", "xy", strict=True))]
    rows += ["a,month 12,60,x,13,3"]
    cohort = sg.read_cohort(_file(tmp_path, "\n".join(["subject_id,visit,age,site,left,right", *rows, ""])))
    assert cohort.site is not None
    assert cohort.site.tolist() == ["x", "y"]
    assert cohort.visit_sites is None


def test_nobody_who_changes_is_one_site_a_person(tmp_path: Path) -> None:
    cohort = sg.read_cohort(_file(tmp_path, LONG.replace("new,11.0", "old,11.0")))
    assert cohort.visit_sites is None
    assert cohort.same_site.all()
    assert not any("another site" in note for note in cohort.notes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_sites_of_visits_are_written_and_come_back(tmp_path: Path, suffix: str) -> None:
    cohort = sg.read_cohort(_file(tmp_path, LONG))
    cohort.write(tmp_path / f"again.{suffix}")
    again = sg.read_cohort(tmp_path / f"again.{suffix}", site="site")
    assert again.visit_sites is not None
    assert again.visit_sites.tolist() == SITES


def test_parts_of_a_cohort_keep_them(tmp_path: Path) -> None:
    cohort = sg.read_cohort(_file(tmp_path, LONG))
    assert cohort.take([1, 0]).visit_sites is not None
    assert cohort.take([1, 0]).visit_sites.tolist() == [SITES[1], SITES[0]]  # type: ignore[union-attr]
    assert cohort.take([1, 3]).visit_sites is None
    assert cohort.without_followup().visit_sites is not None
    assert cohort.with_target(1).visit_sites is not None
    drawn = resampled(cohort, 3)
    rows = {name: row for row, name in enumerate(cohort.ids)}
    for name, site in zip(drawn.ids, drawn.site, strict=True):  # type: ignore[arg-type]
        assert cohort.site is not None
        assert site == cohort.site[rows[name.split("#")[0]]]
    one = cohort.on_one_site()
    assert np.isnan(one.visits[0, 1]).all()
    assert np.isfinite(one.visits[1:3]).all()
    assert one.visit_sites is None


def test_contradictions_and_wrong_shapes_are_refused() -> None:
    visits = np.ones((2, 2, 1)) * np.arange(4).reshape(2, 2, 1)
    with pytest.raises(InputError, match="site says a and visit_sites b of the first visit of person 1"):
        Cohort(["1", "2"], visits, ("x",), site=["a", "a"], visit_sites=[["a", "a"], ["b", "a"]])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="visit_sites has shape"):
        Cohort(["1", "2"], visits, ("x",), visit_sites=["a", "b"])  # type: ignore[arg-type]
    made = Cohort(["1", "2"], visits, ("x",), visit_sites=[[None, "a"], ["b", None]])  # type: ignore[arg-type]
    assert made.visit_sites is None
    assert made.site is not None
    assert made.site.tolist() == ["a", "b"]


# -- which pairs can be put on one scale ------------------------------------------------------------------------------


def _sites(*kinds: tuple[str, str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    earlier = np.concatenate([np.full(n, a, dtype=object) for a, _, n in kinds])
    later = np.concatenate([np.full(n, b, dtype=object) for _, b, n in kinds])
    return earlier, later, np.ones(len(earlier))


@pytest.mark.parametrize(
    ("kinds", "baselines", "used"),
    [
        # As many as are left of ten in a fold of a fold.
        ([("a", "a", 6), ("a", "b", 6)], ["a"] * 50, [True, True]),
        ([("a", "a", 5), ("a", "b", 40)], ["a"] * 50, [True, False]),
        ([("a", "a", 40), ("a", "b", 4)], ["a"] * 50, [True, False]),
        # Both ways round.
        ([("a", "b", 20), ("b", "a", 20)], ["a", "b"] * 20, [True, True]),
        ([("a", "b", 40), ("b", "a", 1)], ["a"] * 40 + ["b"], [False, False]),
        # Everybody changed: only baselines of others could tell.
        ([("a", "b", 40)], ["a"] * 150 + ["b"] * 150, [True]),
        ([("a", "b", 40)], ["a"] * 150 + ["b"] * 20, [False]),
        ([("a", "b", 40)], ["a"] * 150, [False]),
        # A third scanner of a few.
        ([("a", "a", 30), ("a", "b", 20), ("a", "c", 3)], ["a"] * 60, [True, True, False]),
    ],
)
def test_pairs_on_two_sites_teach_where_their_offset_can_be_told(
    kinds: list[tuple[str, str, int]], baselines: list[str], used: list[bool]
) -> None:
    found = placeable(*_sites(*kinds), np.array(baselines, dtype=object))
    np.testing.assert_array_equal(found, np.repeat(used, [count for _, _, count in kinds]))


def test_offsets_are_told_apart_from_the_change_its_gap_and_the_baseline() -> None:
    rng = np.random.default_rng(0)
    earlier, later, weight = _sites(("a", "a", 150), ("a", "b", 150))
    changed = later == "b"
    # Those who changed came back later, and one feature has another gain on the new scanner.
    gap = 2.0 + changed + 0.5 * rng.normal(size=300)
    x = rng.normal(size=(300, 2))
    y = -0.3 * gap[:, None] - 0.2 * x + 0.05 * rng.normal(size=x.shape)
    y[changed] += [1.5, -0.7] + np.array([0.0, 0.15]) * x[changed]
    y[7, 0] = 25.0
    y[:20, 1] = np.nan
    moves = ScannerMoves.fit(x, y, gap[:, None], earlier, later, weight)
    offset, slope = moves.between(np.array(["a"]), np.array(["b"]))
    np.testing.assert_allclose(offset[0], [1.5, -0.7], atol=0.04)
    np.testing.assert_allclose(slope[0], [0.0, 0.15], atol=0.03)
    back = moves.between(np.array(["b", "a"], dtype=object), np.array(["a", "c"], dtype=object))[0]
    np.testing.assert_allclose(back[0], -offset[0])
    assert np.isnan(back[1]).all()


# -- a model of people who changed ------------------------------------------------------------------------------------

MADE = sg.simulate(240, 3, 0.6, seed=4, mode="gaussian")
SPREAD = MADE.baseline.std(axis=0)
OFFSET = 2.0 * SPREAD


def _changed(share: float, back: bool = False, people: slice = slice(None)) -> Cohort:
    """A share of people came back on another scanner, that adds an offset; back : others went the other way."""
    number = np.arange(len(MADE))
    moved = number % 10 < 10 * share
    first = np.where(back & (number % 3 == 0), "new", "old").astype(object)
    second = np.where(moved, np.where(first == "old", "new", "old"), first).astype(object)
    sites = np.stack([first, second], axis=1)
    visits = MADE.visits + np.where(sites == "new", 1.0, 0.0)[:, :, None] * OFFSET
    made = Cohort(
        MADE.ids, visits, MADE.features, times=MADE.times, covariate_table=MADE.covariate_table, visit_sites=sites
    )
    return made.take(number[people])


@pytest.fixture(scope="module")
def half() -> sg.SecondgramImputer:
    return sg.SecondgramImputer(shape="off").fit(_changed(0.5), show=False)


def _change(model: sg.SecondgramImputer, cohort: Cohort, draws: int = 10) -> np.ndarray:
    people = cohort.take(~cohort.paired).without_followup()
    return (model.impute(people, draws=draws, show=False).mean - people.baseline).mean(axis=0) / SPREAD


def test_the_change_that_is_learned_is_that_on_one_scanner(half: sg.SecondgramImputer) -> None:
    stayed = _changed(0.5).on_one_site()
    before, later = stayed.baseline[stayed.paired], stayed.followup[stayed.paired]
    error = (later - before).std(axis=0) / np.sqrt(stayed.paired.sum()) / SPREAD
    # The true change, and what those who tell of it and those who are imputed are off by chance, of which the exact
    # posterior is free.
    alone, missing = np.isin(MADE.ids, stayed.ids[stayed.paired]), ~MADE.paired
    off = MADE.truth - MADE.posterior_mean
    true = (MADE.truth - MADE.baseline)[missing].mean(axis=0) + off[alone].mean(axis=0) - off[missing].mean(axis=0)
    apart = _change(half, _changed(0.5)) - true / SPREAD
    assert (np.abs(apart) < 1.0 * error).all()
    # Half of the offset would be ten times that.
    assert (np.abs(apart) < 0.1).all()


def test_it_is_said(half: sg.SecondgramImputer) -> None:
    (note,) = half.model_.cautions()
    pairs = _changed(0.5)
    count = int((pairs.paired & ~pairs.same_site).sum())
    assert note.startswith(f"{count} of {pairs.paired.sum()} pairs of visits are on two sites: {count} of them teach")
    assert "as on the site of the baseline" in note
    assert note in half.impute(pairs, draws=1, show=False).notes


def test_a_visit_that_is_half_measured_is_completed_on_its_own_scanner(half: sg.SecondgramImputer) -> None:
    people = _changed(0.5)
    visits = people.visits.copy()
    visits[:, 1] = MADE.truth + np.where(people.same_site, 0.0, 1.0)[:, None] * OFFSET
    visits[:, 1, 0] = np.nan
    people = replace(people, visits=visits)
    result = half.impute(people, draws=20, show=False)
    true = MADE.truth[:, 0] + np.where(people.same_site, 0.0, OFFSET[0])
    apart = (result.mean[:, 0] - true) / SPREAD[0]
    assert np.abs([apart[people.same_site].mean(), apart[~people.same_site].mean()]).max() < 0.2
    np.testing.assert_array_equal(result.mean[:, 1:], visits[:, 1, 1:])


def test_cells_on_a_scanner_of_unknown_offset_say_nothing(half: sg.SecondgramImputer) -> None:
    made = _changed(0.0)
    visits = made.visits.copy()
    visits[:, 1] = MADE.truth + 40.0 * SPREAD
    visits[:, 1, 0] = np.nan
    sites = np.stack([np.full(240, "old"), np.full(240, "third")], axis=1).astype(object)
    people = replace(made, visits=visits, visit_sites=sites, site=None)
    hidden = half.impute(people.without_followup(), draws=3, show=False).draws
    found = half.impute(people, draws=3, show=False).draws
    np.testing.assert_allclose(found[:, :, 0], hidden[:, :, 0], atol=1e-5 * SPREAD[0])


def test_a_model_comes_back_with_the_offsets(half: sg.SecondgramImputer, tmp_path: Path) -> None:
    half.save(tmp_path / "model")
    people = _changed(0.5)
    visits = people.visits.copy()
    visits[:, 1, 0] = np.nan
    people = replace(people, visits=visits)
    draws = [model.impute(people, draws=2, show=False).draws for model in (half, sg.load(tmp_path / "model"))]
    np.testing.assert_array_equal(draws[0], draws[1])


def test_everyone_on_a_new_scanner_is_refused() -> None:
    with pytest.raises(InputError, match=r"144 of 144 people came back on another site.*cannot be told from change"):
        check_trainable(_changed(1.0))
    check_trainable(_changed(1.0, back=True))
    check_trainable(_changed(0.5))
    some = _changed(0.5)
    for stayed, refused in ((9, True), (10, False)):
        rows = np.flatnonzero(some.paired & some.same_site)[:stayed]
        rows = np.concatenate([rows, np.flatnonzero(some.paired & ~some.same_site), np.flatnonzero(~some.paired)])
        if refused:
            with pytest.raises(InputError, match=r"cannot be told from change.*stayed on one site"):
                check_trainable(some.take(rows))
        else:
            check_trainable(some.take(rows))


def test_pairs_have_the_sites_of_their_visits_and_people_that_of_the_follow_up() -> None:
    cohort = _changed(0.5)
    pairs = TrainingPairs.of(cohort, every=True)
    assert pairs.people.moved.sum() == (cohort.paired & ~cohort.same_site).sum()
    assert pairs.take(np.arange(7)).people.later_site is not None
    shown, hidden = (People.of(cohort, keep_known=known) for known in (True, False))
    assert hidden.later_site is None
    np.testing.assert_array_equal(shown.moved, cohort.paired & ~cohort.same_site)
    assert people_digest(shown) != people_digest(replace(shown, later_site=None))


def test_nobody_is_judged_by_a_follow_up_on_another_scanner() -> None:
    cohort = _changed(0.5)
    found = np.isfinite(true_followup(cohort)).any(axis=1)
    np.testing.assert_array_equal(found, cohort.paired & cohort.same_site)


def test_a_baseline_at_another_visit_has_that_visits_site() -> None:
    table = pd.DataFrame(
        {"subject_id": list("aabb"), "visit": ["0", "1"] * 2, "site": list("xyxx"), "left": [1.0, 2, 3, 4]}
    )
    cohort = sg.read_cohort(table, features=["left"])
    from secondgram.imputation.selection import as_trained

    found, _, _ = as_trained(cohort, ["1", "2"], "2")
    assert found.site is not None
    assert found.site.tolist() == ["y", "x"]
