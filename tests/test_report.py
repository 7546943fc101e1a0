"""The report of a run: evidence, page, what it holds and what it must not, and folders it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison import findings
from secondgram.comparison.compare import comparison_table, scored
from secondgram.comparison.evidence import FILE, Evidence, digest, rounded
from secondgram.comparison.report.drawing import Scale
from secondgram.comparison.report.example_people import SHARES
from secondgram.comparison.report.html import Html, join, tag
from secondgram.comparison.report.labels import difference, interval, number, shares
from secondgram.evaluation.metrics import (
    Cells,
    Estimate,
    correlation,
    correlation_distances,
    pit_histogram,
    resamples,
    resemblance_table,
    win_tie_loss,
)

HOSTILE = "<b>x</b>&\"'"
METHODS = ("carry-forward", "ridge-gaussian")


def hostile_cohort() -> sg.Cohort:
    """120 people with ids to look for, and features and sites whose names are markup."""
    cohort = sg.simulate(120, 5, 0.6, seed=4, mode="gaussian")
    age, sex = cohort.covariate_table["age"].copy(), cohort.covariate_table["sex"]
    age.iloc[3] = 611.5
    return sg.Cohort(
        ids=np.array([f"person-{number:04d}-secret" for number in range(120)]),
        visits=cohort.visits,
        features=(f"f{HOSTILE}", "plain", "</style><script>alert(1)</script>", "lh_thick", "rh_thick"),
        times=cohort.times,
        covariate_table=pd.DataFrame({"age": age, "sex": sex}),
        site=np.where(np.arange(120) % 3 == 0, f"site{HOSTILE}", np.where(np.arange(120) < 6, "tiny", "other")),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two simple methods, with its report."""
    folder = tmp_path_factory.mktemp("report") / "run"
    sg.compare(hostile_cohort(), METHODS, folds=3, draws=19, seed=1, bootstraps=50, out=folder, show=False)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demonstration: it has a model, and so the curves of its training."""
    from secondgram.comparison.demo import run as demo

    folder = tmp_path_factory.mktemp("report") / "demo"
    demo(folder, 440, 4, 3)
    return folder


class Seen(HTMLParser):
    """What a page holds: elements with their attributes in order, and open ones without an end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


# -- the page ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["run", "trained"])
def test_page_is_well_formed_and_named(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Seen(text)
    assert page.open == []
    assert len(page.all("h1")) == 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    for link in page.all("a"):
        assert str(link["href"])[1:] in names
    captions = [name for name, _ in page.elements].count("figcaption")
    assert captions == len(page.all("figure")) >= 4
    # Nothing comes from elsewhere and nothing runs.
    assert "http" not in text
    assert "//" not in text.replace("data:image/png;base64,", "").split("<body>")[0]
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert len(text.encode()) < 5_000_000
    headings = [attributes["id"] for attributes in page.all("section")]
    assert headings == [
        *("verdict", "methods", "change", "calibration", "correlation"),
        *("people", "training", "memory", "groups", "values", "provenance"),
    ]


def test_names_are_escaped_and_people_are_not_named(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Seen(text)
    assert "<b>x" not in text
    assert f"f{HOSTILE}" in "".join(page.text)
    assert f"site{HOSTILE}" in "".join(page.text)
    for name in ("report.html", FILE):
        assert "secret" not in (run / name).read_text(encoding="utf-8")


def test_same_run_same_bytes(run: Path, tmp_path: Path) -> None:
    first = (run / "report.html").read_bytes()
    assert sg.report(run, tmp_path / "again.html") == tmp_path / "again.html"
    assert (tmp_path / "again.html").read_bytes() == first
    again = tmp_path / "run"
    sg.compare(hostile_cohort(), METHODS, folds=3, draws=19, seed=1, bootstraps=50, out=again, show=False)
    for name in ("report.html", FILE):
        assert (again / name).read_bytes() == (run / name).read_bytes()


def test_values_that_cannot_be_right_are_told_and_of_covariates_none(run: Path, copy: Path) -> None:
    (far,) = (finding for finding in hostile_cohort().check() if finding.column == "age")
    told = json.loads((run / FILE).read_text())
    (found,) = (each for each in told["content"]["values"] if each["column"] == "age")
    assert found == {"kind": "far", "column": "age", "cells": 1, "refused": far.refused}
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "a value stands far off alone" in text
    assert "611" not in text
    first = {"kind": "code", "cells": 7, "refused": True, "problem": "-9999 stands there for 7 people"}
    values = [first | {"column": f"f{HOSTILE}{number}"} for number in range(45)]
    for some, said in (([], "Nothing in them looks like"), (values, "315 cells in 45 columns may be no measurements")):
        content = told["content"] | {"values": some}
        (copy / FILE).write_text(json.dumps(told | {"content": content, "sha256": digest(content)}))
        page = Seen(sg.report(copy).read_text(encoding="utf-8"))
        assert said in "".join(page.text).replace("\xa0", " ")
    assert "".join(page.text).count("-9999 stands there for 7 people") == 40
    assert "5 more are not shown" in "".join(page.text)


def test_verdict_is_that_of_the_evidence(run: Path) -> None:
    evidence = json.loads((run / FILE).read_text())["content"]
    found = [win_tie_loss(Estimate.of(each)) for each in evidence["features"]["ours_carry"]]
    text = (run / "report.html").read_text(encoding="utf-8")
    heading = re.search(r"<h1>(.*?)</h1>", text)
    assert heading is not None
    better = found.count("better") or "none"
    assert f"better than carry-forward on {better} of 5" in heading.group(1)
    for kind in ("better", "tie", "worse"):
        assert f'class="outcome {kind}"' in text


def test_training_is_shown(trained: Path) -> None:
    text = "".join(Seen((trained / "report.html").read_text(encoding="utf-8")).text)
    assert "What each part earned" in text
    told = json.loads((trained / FILE).read_text())["content"]["training"]["default"]
    assert told["networks"]
    assert "Training loss by task" in text
    assert "skipped" in text


def test_cosines_and_skipped_steps_of_the_published_method(tmp_path: Path) -> None:
    cohort = sg.simulate(90, 4, 0.5, seed=2, mode="gaussian")
    imputer = sg.SecondgramImputer("paper", epochs=4, embedding=8, widths=[8, 8, 8], gradients="pcgrad", gate=0.5)
    imputer.fit(cohort, show=False)
    found = _published_page(tmp_path, cohort, imputer)
    text = "".join(found.text)
    assert "Cosines between task gradients" in text
    assert "people scanned twice / own baseline" in text
    assert "skipped for too large a gradient" in text
    assert "rival (is not <installed>)" in text
    # What is finished is not trained again, and its curves are still there.
    assert json.loads((tmp_path / "training.json").read_text())["paper"]["networks"]
    assert Evidence(tmp_path, ["paper"])._earlier().keys() == {"paper"}
    (tmp_path / "training.json").write_text("{")
    assert Evidence(tmp_path, ["paper"])._earlier() == {}


def _published_page(folder: Path, cohort: sg.SimulatedCohort, imputer: sg.SecondgramImputer) -> Seen:
    from secondgram.comparison.run_folder import write_run

    scaling = SharedScaling.fit(cohort.baseline)
    result = imputer.impute(cohort, draws=5, who="all", show=False)
    evidence = Evidence(folder, ["paper"])
    evidence.add("paper", cohort, cohort, scaling, result.draws)
    evidence.fitted("paper", imputer.model_)
    cells = {"paper": scored(scaling, cohort, result.mean, result.draws)}
    table = comparison_table(cells, 20, 0)
    table.attrs.update(people=90, draws=5, features=4, seed=0, pairs=45, skipped={"rival": "is not <installed>"})
    write_run(folder, table, cells, cohort)
    evidence.write(table, cells, cohort)
    # Neither carry-forward nor ridge took part: the page says so.
    assert "nothing simple took part" in sg.report(folder).read_text(encoding="utf-8")
    return Seen((folder / "report.html").read_text(encoding="utf-8"))


def test_more_and_fewer_metrics_and_methods(run: Path, tmp_path: Path) -> None:
    told = json.loads((run / FILE).read_text())
    table = pd.DataFrame(told["content"]["table"])
    table = table[table["metric"] != "crps"].replace({"pearson_mean": "energy_score"})
    fresh = {"method": "new-method", "metric": "energy_score", "value": 0.5, "low": 0.4, "high": 0.6}
    table = pd.concat([table, pd.DataFrame([fresh])])
    told["content"]["table"] = rounded(table.to_dict(orient="list"))
    told["sha256"] = digest(told["content"])
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    (folder / FILE).write_text(json.dumps(told))
    text = "".join(Seen(sg.report(folder).read_text(encoding="utf-8")).text)
    assert "energy score" in text
    assert "new-method" in text


def test_a_single_draw_has_no_intervals(tmp_path: Path) -> None:
    sg.compare(hostile_cohort(), ["carry-forward", "ridge"], folds=2, bootstraps=20, out=tmp_path / "run", show=False)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "there are no intervals to judge" in text


def test_command_writes_the_page(run: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    outcome = cli("report", run, "--out", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    assert "page.html" in outcome.err
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()
    assert cli("report", run, "-q").err == ""


# -- bad input -----------------------------------------------------------------------------


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", FILE):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["run.json", FILE])
def test_half_written_folder(name: str, copy: Path) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(sg.InputError, match=rf"{name}: is cut or damaged.*again"):
        sg.report(copy)
    (copy / name).unlink()
    with pytest.raises(sg.InputError, match=rf"{name}: is missing.*interrupted.*again"):
        sg.report(copy)
    assert not (copy / "report.html").exists()


@pytest.mark.parametrize("version", [99, 1, None, "x"])
def test_unknown_version(version: object, copy: Path, cli: Callable[..., Any]) -> None:
    about = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(about | {"run_version": version}))
    with pytest.raises(sg.InputError, match=r"run\.json: has run version .*this release reads \d\. \w+"):
        sg.report(copy)
    outcome = cli("report", copy)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_evidence_of_another_version_or_run(copy: Path) -> None:
    told = json.loads((copy / FILE).read_text())
    (copy / FILE).write_text(json.dumps(told | {"evidence_version": 7}))
    with pytest.raises(sg.InputError, match="evidence version 7"):
        sg.report(copy)
    told["content"]["run"]["seed"] += 1
    (copy / FILE).write_text(json.dumps(told))
    with pytest.raises(sg.InputError, match="was changed after it was written"):
        sg.report(copy)
    (copy / FILE).write_text(json.dumps(told | {"sha256": digest(told["content"])}))
    with pytest.raises(sg.InputError, match=r"is of another run: its seed is 2, that of run\.json is 1"):
        sg.report(copy)
    del told["content"]["people"]
    (copy / FILE).write_text(json.dumps(told | {"sha256": digest(told["content"])}))
    with pytest.raises(sg.InputError, match="does not hold 'people'"):
        sg.report(copy)
    (copy / FILE).write_text("[1]")
    with pytest.raises(sg.InputError, match="holds no description"):
        sg.report(copy)


def test_no_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(sg.InputError, match=r"there is no such folder.*compare --out"):
        sg.report(tmp_path / "absent")
    with pytest.raises(sg.InputError, match="is a file, not a run's folder"):
        sg.report(run / "run.json")
    with pytest.raises(sg.InputError, match="is a folder"):
        sg.report(run, tmp_path)


# -- findings ------------------------------------------------------------------------------


def _cells(truth: np.ndarray, baseline: np.ndarray, mean: np.ndarray) -> Cells:
    return Cells.of(truth, baseline, mean, mean[None], np.arange(len(truth)).astype(str))


def test_verdict_names_what_wins_ties_and_loses() -> None:
    rng = np.random.default_rng(0)
    truth, baseline = rng.normal(size=(400, 3)), np.zeros((400, 3))
    carry = truth + rng.normal(size=truth.shape)
    # Half the error, the same error, twice the error.
    ours = truth + (carry - truth)[::-1] * np.array([0.5, 1.0, 2.0])
    focus = {"ours": _cells(truth, baseline, ours), "carry": _cells(truth, baseline, carry)}
    found = findings.feature_findings(focus, ["a", "b", "c"], resamples(focus["ours"].unit, 200, 0))
    assert [win_tie_loss(each) for each in found["ours_carry"]] == ["better", "tie", "worse"]
    assert found["use"] == ["ours", "carry", "carry"]
    np.testing.assert_allclose([each.value for each in found["ours_carry"]], [-50, 0, 100], atol=1e-9)
    for role, values in (("ours", ours), ("carry", carry)):
        np.testing.assert_allclose(found["rmse"][role], np.sqrt(((values - truth) ** 2).mean(axis=0)))


def _drawn(draws: np.ndarray, truth: np.ndarray) -> Cells:
    return Cells.of(truth, np.zeros_like(truth), draws.mean(axis=0), draws, np.arange(len(truth)).astype(str))


@pytest.mark.parametrize("draws", [2, 7, 19, 50])
def test_ranks_of_exchangeable_draws_are_even(draws: int) -> None:
    rng = np.random.default_rng(draws)
    values = rng.integers(0, 5, size=(draws + 1, 4000, 3)).astype(float)
    values[0, 0, 0] = np.nan
    cells, weights = _drawn(values[1:], values[0]), np.ones((2, 4000))
    assert np.isnan(cells.below[0, 0])
    # Ties included, each of the M + 1 ranks is as likely as any other.
    np.testing.assert_allclose(pit_histogram(cells, weights, draws + 1), 1 / (draws + 1), atol=0.02)
    bars = findings.pit(cells, weights)
    assert len(bars) == min(20, draws + 1)
    assert np.mean([bar[0] for bar in bars]) == pytest.approx(1.0)


def test_calibration_counts_what_lies_inside() -> None:
    rng = np.random.default_rng(1)
    draws, truth = rng.normal(size=(19, 300, 4)), rng.normal(size=(300, 4))
    found = findings.calibration(_drawn(draws, truth), np.ones((2, 300)))
    ordered = np.sort(draws, axis=0)
    k = 1
    inside = ((truth >= ordered[k - 1]) & (truth <= ordered[-k])).mean()
    assert found["nominal"][0] == pytest.approx(0.9)
    assert found["share"][0][0] == pytest.approx(inside)


def test_correlations_agree_with_numpy_and_skip_missing_cells() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 7
    np.testing.assert_allclose(correlation(values, np.ones(50)), np.corrcoef(values.T), atol=1e-12)
    values[rng.random(values.shape) < 0.2] = np.nan
    expected = pd.DataFrame(values).corr().to_numpy()
    np.testing.assert_allclose(correlation(values, np.ones(50)), expected, atol=1e-12)
    # Neither a constant nor a feature that nobody has correlates with anything.
    values[:, 0], values[:, 1] = 3.0, np.nan
    assert np.isnan(correlation(values, np.ones(50))[:2]).all()


@pytest.mark.filterwarnings("error")
def test_a_feature_that_nobody_has_at_follow_up(tmp_path: Path) -> None:
    cohort = sg.simulate(60, 3, 0.7, seed=2, mode="gaussian")
    visits = cohort.visits.copy()
    visits[:, 1, 1] = np.nan
    poor = sg.Cohort(ids=cohort.ids, visits=visits, features=cohort.features)
    evidence = Evidence(tmp_path, ["carry-forward"])
    scaling = SharedScaling.fit(poor.baseline)
    judge = poor.take(poor.paired)
    draws = judge.baseline[None] + np.random.default_rng(0).normal(size=(5, *judge.baseline.shape))
    evidence.add("carry-forward", poor, judge, scaling, draws)
    cells = {"carry-forward": scored(scaling, judge, judge.baseline, draws)}
    weights = resamples(cells["carry-forward"].unit, 20, 0)
    found = findings.feature_findings(
        {"ours": cells["carry-forward"], "ridge": cells["carry-forward"]}, ["a", "b", "c"], weights
    )
    assert win_tie_loss(found["ours_ridge"][1]) == "tie"
    matrix = findings.correlations(cells["carry-forward"], 0)["levels"]["real"]
    assert (np.array(matrix) == 0).sum() >= 5


def test_floor_is_the_distance_of_independent_samples() -> None:
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(6, 6))
    one, other = (rng.normal(size=(4000, 6)) @ mixing for _ in range(2))
    found = findings.correlations(Cells.of(one, one * 0, other, other[None], np.arange(4000).astype(str)), 0)
    assert found["levels"]["distance"] == pytest.approx(found["levels"]["floor"], rel=0.6)
    shuffled = rng.permuted(other, axis=0)
    found = findings.correlations(Cells.of(one, one * 0, shuffled, shuffled[None], np.arange(4000).astype(str)), 0)
    assert found["levels"]["distance"] > 5 * found["levels"]["floor"]


def test_the_report_and_the_tables_have_one_correlation_distance() -> None:
    rng = np.random.default_rng(5)
    truth, baseline = rng.normal(size=(2, 120, 5)) @ rng.normal(size=(5, 5))
    truth[rng.random(truth.shape) < 0.1] = np.nan
    cells = Cells.of(truth, baseline, baseline, baseline + rng.normal(size=(3, 120, 5)), np.arange(120) // 2)
    table, found = resemblance_table(cells, seed=3), findings.correlations(cells, 3)
    for what in ("levels", "changes"):
        row = table.loc[f"correlation_distance_{what}"]
        assert (found[what]["distance"], found[what]["floor"]) == (row["value"], row["floor"])
        np.testing.assert_array_equal(
            correlation_distances(cells, 3, scattered=False)[what], correlation_distances(cells, 3)[what][:1]
        )
    of_two = Cells.of(truth[:4], baseline[:4], baseline[:4], baseline[None, :4], np.arange(4) // 2)
    few = findings.correlations(of_two, 3)
    assert np.isnan([few["levels"]["distance"], few["levels"]["floor"]]).all()


def test_a_run_holds_one_correlation_distance(run: Path) -> None:
    table = pd.read_csv(run / "resemblance.csv").set_index(["method", "measure"])
    content = json.loads((run / FILE).read_text(encoding="utf-8"))["content"]
    for what in ("levels", "changes"):
        row = table.loc[content["roles"]["ours"], f"correlation_distance_{what}"]
        for name, column in (("distance", "value"), ("floor", "floor")):
            assert content["correlation"][what][name] == pytest.approx(row[column], rel=1e-4)


def test_change_finds_slope_and_correlation() -> None:
    rng = np.random.default_rng(4)
    predicted = rng.normal(size=(500, 4))
    truth = 0.2 + 0.7 * predicted + rng.normal(size=predicted.shape)
    cells = _cells(truth, np.zeros_like(truth), predicted)
    found = findings.change(cells, resamples(cells.unit, 200, 0))
    assert found is not None
    slope, start = np.polyfit(predicted.ravel(), truth.ravel(), 1)
    assert found["slope"][0] == pytest.approx(slope)
    assert found["start"] == pytest.approx(start)
    assert found["r"][0] == pytest.approx(np.corrcoef(predicted.ravel(), truth.ravel())[0, 1])
    assert found["slope"][1] < 0.7 < found["slope"][2]
    carried = _cells(truth, np.zeros_like(truth), np.zeros_like(truth))
    assert findings.change(carried, np.ones((2, 500))) is None


def test_small_groups_are_pooled() -> None:
    person = np.arange(42)
    labels = findings.named(np.array(["big"] * 30 + ["a"] * 6 + ["b"] * 5 + [None], dtype=object), person)
    assert list(labels[[0, 30, 36, 41]]) == ["big", findings.POOLED, findings.POOLED, ""]
    rng = np.random.default_rng(0)
    cells = _cells(*(rng.normal(size=(42, 2)) for _ in range(3)))
    weights = resamples(cells.unit, 20, 0)
    rows = findings.groups({"ours": cells, "carry": cells}, {"site": labels}, person, weights)
    assert [(row["name"], row["people"]) for row in rows] == [("big", 30), (findings.POOLED, 11)]
    # A pool that is small itself is not shown, and a single group is no comparison.
    # Nor is one of few people who were tested several times.
    assert findings.named(np.array(["a"] * 12), np.arange(12) % 4)[0] == findings.POOLED
    assert findings.groups({"ours": cells}, {"site": labels}, person % 9, weights) == []
    labels[36:] = ""
    assert findings.groups({"ours": cells}, {"site": labels}, person, weights) == []


def test_quarters_cover_everyone_known() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, np.nan])
    labels = findings.quarters(values)
    assert labels[-1] == ""
    assert all(labels[:-1] != "")
    assert len(set(labels[:-1])) == 4
    assert set(findings.quarters(np.full(5, 2.0))) == {""}


def test_people_are_chosen_by_rule() -> None:
    assert set(SHARES) == set(findings.SHOWN_PEOPLE)
    rng = np.random.default_rng(5)
    truth, baseline = rng.normal(size=(101, 6)), np.zeros((101, 6))
    error = np.arange(101)[rng.permutation(101)]
    mean = truth + error[:, None]
    cells = _cells(truth, baseline, mean)
    ends = np.stack([mean - 2, mean - 1, mean + 1, mean + 2])
    found = findings.people(cells, ends, np.full(101, 2.0), list(range(101)), list("abcdef"))
    assert found is not None
    assert [error[person["row"] - 1] for person in found["people"]] == [5, 25, 50, 75, 95]
    assert len(found["features"]) == findings.SHOWN_FEATURES
    twice = [*range(50), *range(51)]
    found = findings.people(cells, ends, np.full(101, 2.0), twice, list("abcdef"))
    assert found is not None
    assert found["complete"] == 51
    truth[:, :] = np.nan
    nobody = _cells(truth, baseline, mean)
    assert findings.people(nobody, ends, np.full(101, 2.0), list(range(101)), list("abcdef")) is None


def test_folds_of_the_check_for_copies_are_put_together() -> None:
    from secondgram.comparison.evidence import Drawn, _joined_memory

    blank = np.zeros((1, 1))
    parts = [
        Drawn(blank, np.array([0.5, 0.4, 0.6, 0.0, -0.03, 0.04, 100])),
        Drawn(blank, np.array([0.6, 0.5, 0.7, 0.0, -0.03, 0.04, 300])),
        Drawn(blank, np.full(7, np.nan)),
    ]
    found = _joined_memory(parts)
    assert found is not None
    assert found["people"] == 400
    assert found["nearer"][0] == pytest.approx(0.575)
    assert found["nearer"][2] - found["nearer"][0] == pytest.approx(0.1 * np.hypot(0.25, 0.75))
    assert _joined_memory(parts[2:]) is None


def test_copies_are_found_in_changes() -> None:
    from secondgram.comparison.evidence import _memory

    cohort = sg.simulate(400, 8, 0.5, seed=1, mode="gaussian")
    learn, judge = cohort.split(0.5, 0)
    scaling = SharedScaling.fit(cohort.baseline)
    pairs = learn.take(learn.paired)
    change = scaling.apply(pairs.followup) - scaling.apply(pairs.baseline)
    base = scaling.apply(judge.baseline)
    copied = (base + change[np.arange(len(judge)) % len(change)])[None]
    found = _memory(copied, scaling.apply(judge.truth), learn, judge, scaling)
    assert found[4] > 0.2
    honest = scaling.apply(judge.posterior_draws(2, 0).reshape(-1, 8)).reshape(2, -1, 8)
    assert _memory(honest, scaling.apply(judge.truth), learn, judge, scaling)[4] < 0.01


# -- words and drawing -----------------------------------------------------------------------


def test_words() -> None:
    assert number(-0.1234) == "−0.123"
    assert number(-0.0001) == "0.000"
    assert number(None) == number(float("nan")) == "–"
    assert interval(Estimate(0.2, 0.1, 0.3)) == "0.200 (0.100 to 0.300)"
    assert difference(Estimate(-12.34, -15.0, 1.0)) == "−12.3\N{NO-BREAK SPACE}% (−15.0 to +1.0)"
    assert shares(Estimate(0.9, 0.88, 0.92)) == "90.0\N{NO-BREAK SPACE}% (88.0 to 92.0)"


def test_markup_is_escaped_once() -> None:
    assert tag("p", "<&", class_='a"b') == '<p class="a&quot;b">&lt;&amp;</p>'
    assert tag("p", tag("b", "<"), None, [1, 2.5]) == "<p><b>&lt;</b>12.5</p>"
    assert join(Html("<i>"), "<") == "<i>&lt;"
    assert tag("line", x1=1.23456, class_=None) == '<line x1="1.23"/>'


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12), (1e-6, 2e-6), (-1e5, 3e5), (99.1, 99.4)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    scale = Scale(low, high, 0, 100)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 11
    assert all(scale.holds(tick) or abs(scale(tick) - min(max(scale(tick), 0), 100)) < 1e-6 for tick in ticks)
