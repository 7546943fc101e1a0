"""The bed of cohorts: nobody is judged who was learned from, and its figures are what they say."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.compare import predictions, scored
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.kinds.supported_model import SupportedModel


@pytest.fixture
def tasks(benchmark_module: Any) -> Any:
    return benchmark_module("bed_tasks")


@pytest.fixture
def scores(benchmark_module: Any) -> Any:
    return benchmark_module("bed_scores")


@pytest.fixture
def bed(benchmark_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The benchmark, with one tiny task of its own and a folder of its own."""
    module = benchmark_module("cohorts")
    tasks = benchmark_module("bed_tasks")
    tiny = tasks.Task(lambda data: sg.simulate(120, 3, 1.0, 0, mode="gaussian"), 25, 20, repeats=2)
    monkeypatch.setattr(module, "TASKS", {"tiny": tiny})
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "FOREST_PAIRS", 0)
    return module


def families(people: int = 80) -> sg.Cohort:
    """Families of two or three people, each person with two visits, a few without the second."""
    rng = np.random.default_rng(0)
    visits = rng.normal(size=(people, 2, 4))
    visits[rng.permutation(people)[:10], 1] = np.nan
    groups = np.array([f"family {number // 3 if number < 30 else number // 2}" for number in range(people)])
    return sg.Cohort(ids=np.arange(people), visits=visits, features=("a", "b", "c", "d"), groups=groups)


def assert_apart(learn: sg.Cohort, judge: sg.Cohort) -> None:
    assert not set(learn.ids) & set(judge.ids)
    assert not set(learn.units()) & set(judge.units())
    assert len(set(learn.ids)) == len(learn)
    assert len(set(judge.ids)) == len(judge) >= 4


# -- who learns and who is judged --------------------------------------------------------------------------------------


def test_there_are_tasks_enough_and_a_dozen_quick_ones(tasks):
    assert len(tasks.TASKS) >= 44
    assert sum(task.quick for task in tasks.TASKS.values()) == 12
    assert not set(tasks.REAL) & set(tasks.SIMULATED)


def test_nobody_is_judged_who_was_learned_from(tasks):
    for name, task in tasks.TASKS.items():
        if task.data:
            continue
        cohort = task.cohort(Path())
        splits = list(task.splits(name, cohort))
        assert len(splits) == task.repeats
        for learn, judge in splits:
            assert_apart(learn, judge)
            assert (int(learn.paired.sum()), len(learn)) == (task.pairs, task.pairs + task.unpaired)
            assert len(judge) == tasks.JUDGED
        assert len({learn.ids[0] for learn, _ in splits}) > 1


@pytest.mark.parametrize(("pairs", "unpaired"), [(None, 0), (10, 0), (20, 8), (20, 30)])
def test_families_are_held_out_whole(tasks, pairs, unpaired):
    cohort = families()
    task = tasks.Task(lambda data: cohort, pairs, unpaired, repeats=2)
    splits = list(task.splits("families", cohort))
    assert len(splits) == (10 if pairs is None else 2)
    for learn, judge in splits:
        assert_apart(learn, judge)
        assert judge.paired.all()
        if pairs is not None:
            assert (int(learn.paired.sum()), len(learn)) == (pairs, pairs + unpaired)


def test_a_task_for_which_there_are_too_few_people_is_refused(tasks):
    task = tasks.Task(lambda data: families(), 75)
    with pytest.raises(sg.InputError, match="70 people have a follow-up"):
        list(task.splits("families", families()))


def test_a_feature_that_does_not_vary_in_those_who_learn_is_left_out_of_the_split(tasks):
    cohort = families()
    visits = cohort.visits.copy()
    visits[:, :, 2] = 5.0
    flat = replace(cohort, visits=visits)
    for learn, judge in tasks.Task(lambda data: flat, 20).splits("flat", flat):
        assert learn.features == judge.features == ("a", "b", "d")
        assert learn.visits.shape[2] == 3


def test_a_cut_simulated_cohort_keeps_its_truth(tasks):
    cohort = sg.simulate(20, 4, 0.5, 0, mode="gaussian")
    cut = tasks.only(cohort, np.array([True, False, True, False]))
    np.testing.assert_array_equal(cut.truth, cohort.truth[:, [0, 2]])
    assert cut.posterior_mean is None
    assert cut.features == (cohort.features[0], cohort.features[2])


def test_hard_forms_are_what_they_say(benchmark_module):
    simulate = benchmark_module("bed_simulate")

    def made(**hard: Any) -> Any:
        return simulate.simulated(4000, 10, simulate.Hard(**hard), 0)

    plain = made()
    assert np.isfinite(plain.visits).all()
    np.testing.assert_array_equal(plain.truth, plain.followup)
    change = (plain.followup - plain.baseline) / plain.baseline.std(axis=0)
    correlation = np.corrcoef(change.T)[np.triu_indices(10, 1)]
    assert np.abs(correlation).mean() > 0.1
    assert np.isnan(made(holes=0.1).baseline).mean() == pytest.approx(0.1, abs=0.01)
    lacking = made(lacking=0.7)
    assert np.isnan(lacking.followup).mean(axis=0) == pytest.approx([0.0] * 5 + [0.7] * 5, abs=0.03)
    assert np.isfinite(lacking.truth).all()
    flat = made(flat=0.3).baseline[:, -3:]
    assert np.subtract(*np.quantile(flat, [0.84, 0.16])) / 2 == pytest.approx(0.013, abs=0.001)
    assert 0.005 < (np.abs(flat - 1000) > 0.1).mean() < 0.02
    far = made(contaminated=0.01).visits
    middle, half = np.median(far, axis=(0, 1)), np.subtract(*np.quantile(far, [0.75, 0.25], axis=(0, 1)))
    assert (np.abs(far - middle) > 10 * half).mean() == pytest.approx(0.01, abs=0.002)
    three = made(visits=3)
    assert three.target == 2
    assert np.isnan(three.visits[:, 1]).mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(three.truth, three.visits[:, 2])
    for more in ({"errors": "t3"}, {"clusters": 0.3}, {"covariate": 0.2}, {"lognormal": 0.5}, {"errors": "skewed"}):
        assert not np.allclose(made(**more).truth, plain.truth)


# -- figures -----------------------------------------------------------------------------------------------------------


def test_relative_is_a_ratio_of_errors_with_an_interval_over_units(scores):
    rng = np.random.default_rng(0)
    theirs = rng.exponential(size=(200, 3))
    unit = np.arange(200).astype(str)
    (value, low, high), place = scores.relative(0.9 * theirs, theirs, unit)
    assert (value, low, high) == pytest.approx((0.9, 0.9, 0.9))
    assert place == "first"
    assert scores.relative(1.1 * theirs, theirs, unit)[1] == "behind"
    noisy = theirs * rng.choice([0.5, 1.5], size=theirs.shape)
    (value, low, high), place = scores.relative(noisy, theirs, unit)
    assert value == pytest.approx(noisy.mean() / theirs.mean())
    assert low < 1 < high
    assert place == "tied"
    # Every person twice, as two repeats judge them, says no more than once.
    (_, again_low, again_high), _ = scores.relative(np.tile(noisy, (2, 1)), np.tile(theirs, (2, 1)), np.tile(unit, 2))
    assert again_high - again_low == pytest.approx(high - low, rel=0.1)
    noisy[::2, 1] = theirs[::2, 1] = np.nan
    expected = np.nanmean(noisy, axis=0).mean() / np.nanmean(theirs, axis=0).mean()
    assert scores.relative(noisy, theirs, unit)[0][0] == pytest.approx(expected)


def test_a_task_is_held_against_its_best_peer(scores):
    rng = np.random.default_rng(0)
    crps, covered = rng.exponential(size=(100, 4)), np.ones((100, 4))
    covered[:10] = 0.0

    def made(times: float) -> Any:
        return scores.Scores(times * crps, (times * crps) ** 2, covered)

    worse = made(0.99)
    worse.crps[:, 2] *= 2
    found = scores.compared({"a": made(1.2), "b": made(1.1)}, worse, np.arange(100), ["w", "x", "y", "z"])
    assert found["best"] == "b"
    assert found["methods"]["b"]["crps"] == pytest.approx(1.1 * crps.mean())
    assert found["methods"]["default"]["rmse"] == pytest.approx(0.99 * np.sqrt((crps**2).mean()))
    assert found["relative_rmse"][0] == pytest.approx(0.9)
    assert found["coverage"] == pytest.approx(0.9)
    assert found["features_behind"] == 0.25
    assert next(iter(found["worst_features"].items())) == ("y", pytest.approx(1.8))


def test_judgement_compares_the_features_that_both_know(scores):
    expected = np.array([[0.9, 1.0, np.nan], [1.1, 1.0, 3.0]])
    held_out = np.array([[1.0, 1.0, 5.0], [1.0, 2.0, np.nan]])
    found = scores.judgement(expected, held_out)
    assert found == pytest.approx({"expected": 1.0, "held_out": 1.25, "off": -0.2, "error": 0.12})
    # One split says nothing of its luck.
    assert scores.judgement(expected[:1], held_out[:1])["error"] == 0.0


def result(task: str, pairs: int, ratio: float, place: str, coverage: float, off: float) -> dict[str, Any]:
    return {
        "task": task,
        "pairs": pairs,
        "features": 5,
        "best": "ridge-gaussian",
        "methods": {"ridge-gaussian": {"crps": 0.5}, "default": {"crps": 0.5 * ratio}},
        "relative_crps": [ratio, ratio - 0.01, ratio + 0.01],
        "relative_rmse": [1.0, 0.9, 1.1],
        "standing": place,
        "coverage": coverage,
        "judgement": {"expected": 1.0 + off, "held_out": 1.0, "off": off, "error": 0.021},
        "judgement_of_carry_forward": {"expected": 1.0, "held_out": 1.0, "off": 0.0},
        "chance": {"expected": 0.8, "held_out": 1.0, "off": -0.2},
    }


def test_the_summary_of_a_bed(scores):
    results = [
        result("few", 10, 0.95, "first", 0.60, 0.30),
        result("some", 30, 1.05, "behind", 0.88, -0.20),
        result("many", 60, 0.97, "tied", 0.92, -0.04),
        {"task": "broken", "pairs": 60, "features": 5, "failed": "ValueError: no"},
    ]
    found = scores.summary(results)
    assert found["failed"] == ["broken"]
    value, low, high = found["relative_crps"]
    assert value == pytest.approx(0.99)
    assert (low, high) == pytest.approx((0.95, 1.05))
    assert low < value < high
    assert found["worst"] == ["some", 1.05]
    assert found["first_or_tied"] == 0.5
    assert found["first"] == 0.25
    assert (found["lowest_coverage"], found["highest_coverage"]) == (["some", 0.88], ["many", 0.92])
    assert found["judgement_off"][0] == pytest.approx(0.02)
    assert found["judgement_worst"] == ["many", -0.04]
    assert found["judgement_worst_beyond_chance"] == ["many", pytest.approx(0.2)]
    assert found["judgement_off_beyond_chance"][0] == pytest.approx((1.3 + 0.8 + 0.96) / 3 / 0.8 - 1)
    text = scores.summary_text(found)
    assert "worst 1.050 (some)" in text
    assert "failed: broken" in text
    lines = scores.table(results).splitlines()
    assert len(lines) == 5
    assert "0.950 (0.940 to 0.960)" in lines[1]
    assert "+30.0 (2.1)  +62.5" in lines[1]
    assert "at most -4.0 (many), beyond chance +20.0 (many)" in text
    assert "failed: ValueError: no" in lines[4]
    assert scores.summary(results[3:]) == {"tasks": 1, "failed": ["broken"]}
    assert "none came through" in scores.summary_text(scores.summary(results[3:]))


def test_the_page_tells_the_bed(benchmark_module, monkeypatch, tmp_path):
    page, scores = benchmark_module("results_page"), benchmark_module("bed_scores")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.bed() == []
    about = {"commit": "abc", "processor": "some", "shape": "auto"}
    good, bad = (
        result("few", 10, 0.95, "first", 0.6, 0.3) | about,
        result("many", 60, 1.02, "behind", 0.92, -0.04) | about,
    )
    broken = {"task": "broken", "pairs": 60, "features": 5, "failed": "ValueError: no", **about, "commit": "def"}
    tasks = [good, bad, broken]
    content = {"draws": 99, "summary": scores.summary(tasks), "tasks": tasks}
    (tmp_path / "cohorts.json").write_text(json.dumps(content))
    text = "\n".join(page.bed())
    assert text.startswith("## A bed of cohorts")
    assert "| few | 10 | 5 | ridge-gaussian | 0.5000 | 0.4750 | 0.950 (0.940 to 0.960) | 1.000 | 0.600 | " in text
    assert "0.600 | +30.0 (2.1) | +62.5 | first |" in text
    assert "failed: ValueError: no" in text
    assert "worst 1.020 (many)" in text
    assert "commits abc, def" in text
    assert "processor some" in text


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_tiny_task_from_end_to_end_and_again_with_the_peers_that_were_kept(bed, monkeypatch, tmp_path, capsys):
    task = bed.TASKS["tiny"]
    found = bed.run("tiny", task, Path(), "off")
    assert set(found["methods"]) == {*bed.SIMPLE, "default"}
    assert (found["pairs"], found["learned"], found["judged"], found["features"]) == (25, 45, 150, 3)
    assert 0.5 < found["relative_crps"][0] < 2
    assert 0.7 < found["coverage"] <= 1
    assert abs(found["judgement"]["off"]) < 0.5
    assert abs(found["chance"]["off"]) < 0.5
    assert {path.name for path in bed.KEPT.iterdir()} == {f"tiny.{name}.npz" for name in (*bed.SIMPLE, "default")}
    # Judged again by what was kept, it is what it was; of another task it is not.
    assert bed.judged_again("tiny", task, Path()) == pytest.approx(found["judgement"], rel=1e-5)
    with pytest.raises(OSError, match="and the task judges"):
        bed.judged_again("tiny", replace(task, repeats=task.repeats + 1), Path())
    # The scores are those of `compare`, in units of the whole task.
    cohort = task.cohort(Path())
    splits = list(task.splits("tiny", cohort))
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    cells = [scored(scaling, judge, *predictions("ridge-gaussian", learn, judge, 99, 0)) for learn, judge in splits]
    crps = np.concatenate([each.crps for each in cells])
    assert found["methods"]["ridge-gaussian"]["crps"] == pytest.approx(crps.mean(), rel=1e-5)

    def none(*arguments: Any) -> Any:
        raise AssertionError("a peer was run again")

    monkeypatch.setattr(bed, "predictions", none)
    again = bed.run("tiny", task, Path(), "off")
    for method in found["methods"]:
        assert again["methods"][method] == found["methods"][method]
    other = replace(task, cohort=lambda data: sg.simulate(120, 3, 1.0, 1, mode="gaussian"))
    with pytest.raises(AssertionError, match="run again"):
        bed.run("tiny", other, Path(), "off")
    monkeypatch.setattr(bed, "peers_digest", lambda: "other sources")
    with pytest.raises(AssertionError, match="run again"):
        bed.run("tiny", task, Path(), "off")
    assert bed.run("tiny", task, Path(), "off", as_kept=True)["best"] == found["best"]
    with pytest.raises(AssertionError, match="run again"):
        bed.run("tiny", other, Path(), "off", as_kept=True)


def test_a_peer_that_fails_is_told_of_and_the_others_stand(bed, monkeypatch):
    def broken(name: str, *arguments: Any) -> Any:
        if name == "mixed-model":
            raise ValueError("no model")
        return predictions(name, *arguments)

    monkeypatch.setattr(bed, "predictions", broken)
    for _ in range(2):
        found = bed.run("tiny", bed.TASKS["tiny"], Path(), "off")
        assert found["peers_failed"] == {"mixed-model": "no model"}
        assert "ridge-gaussian" in found["methods"]


def test_results_of_tasks_that_are_not_run_stay_in_the_file(bed, tmp_path, monkeypatch):
    monkeypatch.setattr(bed, "TASKS", {"a": None, "b": None})
    file = tmp_path / "cohorts.json"
    bed.write(file, [result("b", 60, 1.1, "behind", 0.9, 0.0), result("a", 60, 1.0, "tied", 0.9, 0.0)])
    found = bed.write(file, [result("b", 60, 0.9, "first", 0.9, 0.0)])
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    assert [(each["task"], each["standing"]) for each in found["tasks"]] == [("a", "tied"), ("b", "first")]
    assert found["summary"]["relative_crps"][0] == pytest.approx(0.95)


def test_a_preset_that_fails_is_a_result(bed, monkeypatch):
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ValueError("singular matrix")

    monkeypatch.setattr(bed.sg, "SecondgramImputer", broken)
    found = bed.run("tiny", bed.TASKS["tiny"], Path(), "off")
    assert found["failed"] == "ValueError: singular matrix"


def test_the_shape_is_handed_on(bed, monkeypatch):
    asked = []

    class Told(sg.SecondgramImputer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            asked.append(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(bed.sg, "SecondgramImputer", Told)
    bed.run("tiny", bed.TASKS["tiny"], Path(), "off")
    assert asked[0] == {"seed": 0, "shape": "off"}


def test_what_a_ladder_expects_is_told_in_units_of_the_task(bed):
    cohort = sg.simulate(80, 3, 1.0, 0, mode="gaussian")
    with bed.judgements() as judged:
        model = sg.SecondgramImputer(seed=0, shape="off").fit(cohort, show=False).model_
    assert isinstance(model, DefaultModel)
    names = ("absent", *cohort.features)
    own = SharedScaling.fit(cohort.baseline)
    spread = np.concatenate([[1.0], 2 * own.spread[0]])
    twice = SharedScaling(np.zeros((1, 4)), spread[None])
    for rung, column in (("margins", "crps"), ("carry-forward", "crps_carry_forward")):
        found = bed.expectation(judged[0], model, twice, cohort, names, rung)
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], 0.5 * model.verdict()[column], rtol=1e-6)
    moved = bed.change(twice, names, cohort)
    assert np.isnan(moved[0])
    np.testing.assert_allclose(moved[1:], np.abs(cohort.truth - cohort.baseline).mean(axis=0) / spread[1:], rtol=1e-6)


def test_what_is_expected_is_converted_pair_by_pair(bed):
    """A site whose own unit is tiny counts with its errors in the task's units, not with its errors in its own."""
    cohort = sg.simulate(120, 3, 1.0, 0, mode="gaussian")
    site = np.where(np.arange(120) % 4 == 0, "small", "large").astype(object)
    visits = np.where((site == "small")[:, None, None], 0.01 * cohort.visits, cohort.visits)
    sited = sg.Cohort(cohort.ids, visits, cohort.features, cohort.visit_labels, cohort.times, site=site, target=1)
    with bed.judgements() as judged:
        model = sg.SecondgramImputer(seed=0, shape="off").fit(sited, show=False).model_
    assert isinstance(model, DefaultModel)
    own = SharedScaling.fit(sited.baseline, site)
    one = SharedScaling(np.zeros((1, 3)), np.ones((1, 3)))
    found = bed.expectation(judged[0], model, one, sited, sited.features, "margins")
    judgement, whole = judged[0]
    unit = own.original_scale(len(whole.pairs), whole.pairs.people.site)[1]
    score = np.stack([judgement.scores[name]["margins"][:, f] for f, name in enumerate(model.mean_change.chosen)], 1)
    np.testing.assert_allclose(found, np.nanmean(score * unit, axis=0), rtol=1e-6)
    assert (np.abs(found / (np.nanmean(score, axis=0) * unit.mean(axis=0)) - 1) > 1e-3).any()


def test_peers_are_known_by_all_they_import(bed, monkeypatch):
    read: list[Path] = []
    plain = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    bed.peers_digest.cache_clear()
    bed.peers_digest()
    names = {"/".join(path.parts[-2:]) for path in read}
    assert {"methods/linear.py", "methods/known_cells.py", "imputation/context.py", "cohort/scaling.py"} <= names
    assert not {"default/model.py", "comparison/compare.py", "methods/gan.py"} & names


def test_the_command_leaves_out_what_is_not_there(benchmark_module, monkeypatch, tmp_path, capfd):
    bed = benchmark_module("cohorts")
    out = tmp_path / "out.json"
    # What the command sets of these is gone with the test.
    for name in bed.ONE_THREAD:
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = ["cohorts.py", "--data", str(tmp_path), "--only", "kirby", "qtab", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(bed.signal, "signal", lambda *what: None)
    bed.main()
    said = capfd.readouterr().out
    assert said.count("left out.") == 2
    assert "kirby21_mricloud" in said
    assert not out.exists()


def test_an_interrupted_run_ends_its_processes(benchmark_module, monkeypatch, tmp_path):
    bed = benchmark_module("cohorts")
    begun: list[Any] = []

    def interrupted(waiting: Any) -> Any:
        begun.extend(multiprocessing.active_children())
        raise KeyboardInterrupt

    for name in bed.ONE_THREAD:
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setattr(bed, "as_completed", interrupted)
    monkeypatch.setattr(sys, "argv", ["cohorts.py", "--data", str(tmp_path), "--only", "qtab"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            bed.main()
        # A command to end is an interruption too.
        assert signal.getsignal(signal.SIGTERM) != before
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.exitcode for process in begun] == [-signal.SIGTERM]


def test_what_is_expected_of_features_with_kinds_is_that_of_the_verdict(bed):
    """Computed features are not judged, and those on a scale of their own are as the verdict tells them."""
    cohort = sg.simulate(160, 3, 1.0, 0, mode="gaussian")
    visits = np.concatenate([cohort.visits, cohort.visits[:, :, :1] + cohort.visits[:, :, 1:2]], axis=2)
    visits[:, :, 2] = np.round(np.exp((visits[:, :, 2] - visits[:, :, 2].mean()) / visits[:, :, 2].std()), 2)
    made = sg.Cohort(cohort.ids, visits, ("a", "b", "lesions", "total"), cohort.visit_labels, cohort.times, target=1)
    with bed.judgements() as judged:
        model = sg.SecondgramImputer(seed=0, shape="off", kinds={"lesions": "positive"}).fit(made, show=False).model_
    assert isinstance(model, SupportedModel)
    learned, scaled = bed.learned_features(model, made.features)
    assert len(learned) == 3
    assert "lesions" in learned
    own = SharedScaling.fit(made.baseline)
    found = bed.expectation(judged[0], model, own, made, made.features, "margins")
    gone = [name not in learned for name in made.features]
    np.testing.assert_array_equal(np.isnan(found), gone)
    told = model.verdict()["crps"].to_numpy(dtype=float)
    np.testing.assert_allclose(found[~np.array(gone)], told[~np.array(gone)], rtol=1e-6)
    assert bool(scaled[learned.index("lesions")]) == bool(model.kinds.maps[learned.index("lesions")].scale)
