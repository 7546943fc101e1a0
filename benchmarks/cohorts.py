"""A bed of cohorts, which a change of the preset `default` is judged by:

    python benchmarks/cohorts.py [--data FOLDER] [--quick | --only NAME ...] [--shape off|auto] [--jobs N]

Every task holds people and their families out whole. `default` is run anew; simple peers are kept in
build/cohorts/TASK.PEER.npz for as long as neither their sources nor the data of a task change (`--peers` makes these
alone, and with `--kept` their sources may have changed). CRPS with 99 draws, in the baseline SD of the whole task;
coverage is the share of true values between the 5th and the 95th of them. Beside these stands what the ladder expected
of itself, again from what was kept with `--judge`. Writes benchmarks/results/cohorts.json, in which tasks that are not
run keep their entries, or with `--shape off` build/cohorts/off.json.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ledger
import numpy as np
from bed_scores import Scores, compared, judgement, summary, summary_text, table
from bed_tasks import TASKS, Split, Task

import secondgram as sg
from secondgram.cohort.scaling import SharedScaling
from secondgram.comparison.cache import cohort_digest
from secondgram.comparison.compare import predictions
from secondgram.comparison.isolated import ONE_THREAD, PeerFailure, predictions_isolated
from secondgram.comparison.methods import PEERS
from secondgram.evaluation.evaluate import true_followup
from secondgram.evaluation.metrics import central_interval
from secondgram.files import replacing
from secondgram.imputation.context import levels
from secondgram.imputation.default import model as default_model
from secondgram.imputation.default.design import Design
from secondgram.imputation.default.judgement import Judgement, judge
from secondgram.imputation.default.model import DefaultModel
from secondgram.imputation.default.verdict import by_feature
from secondgram.imputation.kinds.supported_model import SupportedModel
from secondgram.imputation.provenance import versions
from secondgram.imputation.scores import crps

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cohorts.json"
KEPT = ROOT / "build" / "cohorts"
DRAWS = 99
SIMPLE = ("mixed-model", "feature-ridge", "ridge-gaussian", "ridge-empirical", "carry-forward-gaussian")
CARRIED = "carry-forward-gaussian"
# Chained equations with trees take long: for few features and pairs, and so many seconds a split.
FOREST, FOREST_FEATURES, FOREST_PAIRS, FOREST_SECONDS = "miceforest", 10, 100, 60.0


def peers_of(splits: list[Split]) -> list[str]:
    """The simple peers that a task is small enough for, of those installed."""
    small = all(len(a.features) <= FOREST_FEATURES and a.paired.sum() <= FOREST_PAIRS for a, _ in splits)
    return [*SIMPLE, FOREST] if small and PEERS[FOREST].absent() is None else list(SIMPLE)


def scored(
    scaling: SharedScaling, names: tuple[str, ...], judge: sg.Cohort, predicted: tuple[np.ndarray, np.ndarray]
) -> Scores:
    """Scores (N, D) of mean and draws in original units; features the split lacks are NaN."""
    mean, drawn = predicted
    column = {name: place for place, name in enumerate(names)}
    columns = [column[name] for name in judge.features]
    _, unit = scaling.original_scale(len(judge), judge.site)
    unit = unit[:, columns]
    truth, drawn = true_followup(judge) / unit, drawn / unit
    low, high = central_interval(drawn)
    known = np.isfinite(truth)

    def spread(values: np.ndarray) -> np.ndarray:
        found = np.full((len(judge), len(names)), np.nan, dtype=np.float32)
        found[:, columns] = np.where(known, values, np.nan)
        return found

    return Scores(
        spread(crps(drawn, truth)), spread((mean / unit - truth) ** 2), spread((truth >= low) & (truth <= high))
    )


def joined(parts: list[Scores]) -> Scores:
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("crps", "square", "covered")))


# -- peers, which are kept ---------------------------------------------------------------------------------------------


@functools.cache
def peers_digest() -> str:
    """SHA-256 of the peers' sources and of all they import, and of the versions of what they rest on."""
    package = Path(sg.__file__).parent
    methods = package / "comparison" / "methods"
    waiting = [path for path in methods.glob("*.py") if path.stem not in ("gan", "method_catalogue")]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and path.name != "__init__.py":
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                waiting += [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
    digest = hashlib.sha256(json.dumps(versions() | PEERS[FOREST].versions(), sort_keys=True).encode())
    for path in sorted(found):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def task_digest(cohort: sg.Cohort, splits: list[Split]) -> str:
    """SHA-256 of the data that decide a peer's scores."""
    digests = [cohort_digest(cohort), *(cohort_digest(part) for split in splits for part in split)]
    return hashlib.sha256(json.dumps([*digests, DRAWS]).encode()).hexdigest()


def peer_scores(
    task: str, peer: str, digest: str, scaling: SharedScaling, cohort: sg.Cohort, splits: list[Split], as_kept: bool
) -> Scores:
    """The scores of a peer, from an earlier run where nothing has changed. Raises `PeerFailure`.

    as_kept : whatever has become of the peers' sources since.
    """
    file, key = KEPT / f"{task}.{peer}.npz", f"{digest} {peers_digest()}"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            kept = str(stored["key"])
            if kept == key or (as_kept and kept.startswith(digest)):
                if str(stored["failed"]):
                    raise PeerFailure(str(stored["failed"]))
                return Scores(stored["crps"], stored["square"], stored["covered"])
    start, failed = time.perf_counter(), ""
    parts: list[Scores] = []
    try:
        for learn, judge in splits:
            if peer in PEERS:
                predicted = predictions_isolated(peer, learn, judge, DRAWS, 0, FOREST_SECONDS)
            else:
                predicted = predictions(peer, learn, judge, DRAWS, 0)
            parts.append(scored(scaling, cohort.features, judge, predicted))
        found = joined(parts)
    # One that cannot learn from a task is told of, and the others stand.
    except (PeerFailure, sg.InputError, ValueError, np.linalg.LinAlgError) as failure:
        failed, found = str(failure)[:300], Scores(*np.empty((3, 0, 0), dtype=np.float32))
    KEPT.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, key=key, failed=failed, seconds=time.perf_counter() - start, **vars(found))
    if failed:
        raise PeerFailure(failed)
    return found


# -- the preset --------------------------------------------------------------------------------------------------------


@contextmanager
def judgements() -> Iterator[list[tuple[Judgement, Design]]]:
    """Of the ladders that are fitted inside, with what each was fitted to: pair by pair, as no model keeps them."""
    kept: list[tuple[Judgement, Design]] = []

    def noted(cohort: sg.Cohort, whole: Design, *more: Any) -> Judgement:
        kept.append((judge(cohort, whole, *more), whole))
        return kept[-1][0]

    with mock.patch.object(default_model, "judge", noted):
        yield kept


def expectation(
    judged: tuple[Judgement, Design],
    model: DefaultModel,
    scaling: SharedScaling,
    learn: sg.Cohort,
    names: tuple[str, ...],
    rung: str,
) -> np.ndarray:
    """(D,) CRPS by feature that a ladder expects of others than it learned from, in units of the task.

    Converted pair by pair: a site's own unit is a bad one where few of its people are learned from.
    """
    judgement, whole = judged
    place = {name: number for number, name in enumerate(names)}
    learned, scaled = learned_features(model, learn.features)
    columns = [place[name] for name in learned]
    yardstick = SharedScaling.fit(levels(learn), learn.site)
    here = [learn.features.index(name) for name in learned]
    people = whole.pairs.people
    own = yardstick.original_scale(len(people), people.site)[1][:, here]
    _, unit = scaling.original_scale(len(people), people.site)
    ratio = own / unit[:, columns]
    score = by_feature(judgement, model.mean_change.chosen)[rung] * ratio
    weight = judgement.weight[:, None] * np.isfinite(score)
    total = weight.sum(axis=0)
    expected = np.where(np.isfinite(score), score * weight, 0.0).sum(axis=0) / np.where(total > 0, total, np.nan)
    # Judged on a scale of their own, and told in original units by the verdict.
    told = np.asarray(model.record["features"][{"margins": "crps"}.get(rung, "crps_carry_forward")], dtype=float)
    average = (weight * ratio).sum(axis=0) / np.where(total > 0, total, np.nan)
    expected[scaled] = (told * average)[scaled]
    found = np.full(len(names), np.nan)
    found[columns] = expected
    return found


def learned_features(model: DefaultModel, names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Features that are learned, not computed from others, and (D,) bool, those on a scale of their own."""
    if not isinstance(model, SupportedModel):
        return list(names), np.zeros(len(names), dtype=bool)
    learned = list(model.kinds.features)
    scaled = {*(place for place, each in model.kinds.maps.items() if each.scale), *model.kinds.scores}
    return learned, np.array([place in scaled for place in range(len(learned))])


def judged_again(name: str, task: Task, data: Path) -> dict[str, float]:
    """The judgement of a task by the scores and expectations that its last run kept. Raises `OSError` without any."""
    cohort = task.cohort(data)
    ends = np.cumsum([len(judge) for _, judge in task.splits(name, cohort)])
    with np.load(KEPT / f"{name}.default.npz", allow_pickle=False) as kept:
        if len(kept["crps"]) != ends[-1]:
            raise OSError(f"{name}: what is kept is of {len(kept['crps'])} people, and the task judges {ends[-1]}")
        held_out = np.stack([_mean(rows) for rows in np.split(kept["crps"], ends[:-1])])
        return judgement(kept["expected"], held_out)


def change(scaling: SharedScaling, names: tuple[str, ...], people: sg.Cohort) -> np.ndarray:
    """(D,) mean absolute change of those whose follow-up is known, in units of the task."""
    pairs = people.take(people.paired)
    place = {name: number for number, name in enumerate(names)}
    columns = [place[name] for name in pairs.features]
    _, unit = scaling.original_scale(len(pairs), pairs.site)
    found = np.full(len(names), np.nan)
    found[columns] = _mean(np.abs(true_followup(pairs) - pairs.baseline) / unit[:, columns])
    return found


def run(
    name: str, task: Task, data: Path, shape: str, only_peers: bool = False, as_kept: bool = False
) -> dict[str, Any] | None:
    """One task: scores of peers and preset; None where its data are absent."""
    try:
        cohort = task.cohort(data)
    except sg.InputError as error:
        print(f"{name}: left out. {error}", flush=True)
        return None
    splits = list(task.splits(name, cohort))
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    digest = task_digest(cohort, splits)
    start = time.perf_counter()
    peers: dict[str, Scores] = {}
    gone: dict[str, str] = {}
    for peer in peers_of(splits):
        try:
            peers[peer] = peer_scores(name, peer, digest, scaling, cohort, splits, as_kept)
        except PeerFailure as failure:
            gone[peer] = str(failure)
    found: dict[str, Any] = {
        "task": name,
        "pairs": int(np.median([learn.paired.sum() for learn, _ in splits])),
        "learned": int(np.median([len(learn) for learn, _ in splits])),
        "judged": sum(len(judge) for _, judge in splits),
        "splits": len(splits),
        "features": len(cohort.features),
        "peers_failed": gone,
        "seconds_of_peers": time.perf_counter() - start,
    }
    if only_peers:
        return found
    about = {"shape": shape, "commit": ledger.commit(), "processor": ledger.processor()}
    unit = np.concatenate([judge.units().astype(str) for _, judge in splits])
    start = time.perf_counter()
    try:
        parts: list[Scores] = []
        expected: list[np.ndarray] = []
        carried: list[np.ndarray] = []
        rungs: list[dict[str, str]] = []
        for learn, judge in splits:
            with judgements() as judged:
                imputer = sg.SecondgramImputer(seed=0, shape=shape).fit(learn, show=False)
            result = imputer.impute(judge, draws=DRAWS, seed=0, who="all")
            parts.append(scored(scaling, cohort.features, judge, (result.mean, result.draws)))
            model = imputer.model_
            assert isinstance(model, DefaultModel)
            for into, rung in ((expected, "margins"), (carried, "carry-forward")):
                into.append(expectation(judged[0], model, scaling, learn, cohort.features, rung))
            rungs.append(model.ladder()["choice"].to_dict())
    # Whatever a preset stumbles over is a result of this bed.
    except Exception as error:
        return found | about | {"failed": f"{type(error).__name__}: {error}"[:300]}
    default = joined(parts)
    ends = np.cumsum([len(judge) for _, judge in splits])[:-1]
    held_out, held_out_carried = (
        np.stack([_mean(rows) for rows in np.split(each.crps, ends)]) for each in (default, peers[CARRIED])
    )
    moved = [[change(scaling, cohort.features, part) for part in split] for split in splits]
    KEPT.mkdir(parents=True, exist_ok=True)
    with replacing(KEPT / f"{name}.default.npz") as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, unit=unit, expected=expected, features=np.array(cohort.features), **vars(default))
    return (
        found
        | compared(peers, default, unit, list(cohort.features))
        | {
            "chance": judgement(*map(np.stack, zip(*moved, strict=True))),
            "judgement": judgement(np.stack(expected), held_out),
            "judgement_of_carry_forward": judgement(np.stack(carried), held_out_carried),
            "rungs": rungs,
            "seconds": time.perf_counter() - start,
        }
        | about
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """(D,) over the known cells of (N, D)."""
    seen = np.isfinite(values)
    return np.where(seen, values, 0.0).sum(axis=0) / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)


def write(file: Path, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge results into a file, in the order of the tasks, with the summary of all in it; returns that."""
    earlier = json.loads(file.read_text(encoding="utf-8"))["tasks"] if file.exists() else []
    by_task = {each["task"]: each for each in [*earlier, *results]}
    ordered = [by_task[name] for name in TASKS if name in by_task]
    found = {"draws": DRAWS, "summary": summary(ordered), "tasks": ordered}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real cohorts")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), help="tasks to run; all if left out")
    parser.add_argument("--quick", action="store_true", help="a dozen of the smaller tasks")
    parser.add_argument("--shape", choices=("auto", "off"), default="auto", help="of the preset")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--peers", action="store_true", help="only fill what is kept of the peers")
    parser.add_argument(
        "--kept", action="store_true", help="take what is kept of the peers, their sources changed or not"
    )
    parser.add_argument(
        "--judge", action="store_true", help="only judge again by the scores that were kept, which takes no fitting"
    )
    parser.add_argument("--out", type=Path, help="the file of results")
    given = parser.parse_args()
    chosen = given.only or [name for name, task in TASKS.items() if task.quick or not given.quick]
    out = given.out or (RESULTS if given.shape == "auto" else KEPT / "off.json")
    if given.judge:
        earlier = json.loads(out.read_text(encoding="utf-8"))["tasks"]
        again = [each for each in earlier if each["task"] in chosen and "judgement" in each]
        for each in again:
            of_task = judged_again(each["task"], TASKS[each["task"]], given.data)
            moved = of_task["off"] - each["judgement"]["off"]
            print(f"{each['task']}: off {of_task['off']:+.4f}, error {of_task['error']:.4f}, moved {moved:+.1e}")
            each["judgement"] = of_task
        write(out, again)
        print(summary_text(summary(again)))
        return
    results = {}
    # Read by numpy when a process loads it.
    os.environ |= ONE_THREAD
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_run, name, given.data, given.shape, given.peers, given.kept) for name in chosen]
        try:
            for done in as_completed(waiting):
                found = done.result()
                if found is not None:
                    results[found["task"]] = found
                    _say(found)
                    if not given.peers:
                        # A run that is stopped keeps what is done.
                        write(out, [found])
        except BaseException:
            # Results of the processes under way are not waited for.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    ordered = [results[name] for name in TASKS if name in results]
    if given.peers or not ordered:
        return
    write(out, ordered)
    print(f"\n{table(ordered)}\n\n{summary_text(summary(ordered))}")


def _run(name: str, data: Path, shape: str, only_peers: bool, as_kept: bool) -> dict[str, Any] | None:
    return run(name, TASKS[name], data, shape, only_peers, as_kept)


def _say(found: dict[str, Any]) -> None:
    """A line when a task is done."""
    line = f"{found['task']}: peers {found['seconds_of_peers']:.0f} s"
    if "failed" in found:
        line += f", failed: {found['failed']}"
    elif "best" in found:
        value, low, high = found["relative_crps"]
        line += f", default {found['seconds']:.0f} s, {value:.3f} ({low:.3f} to {high:.3f}) of {found['best']}"
    print(line + "".join(f"; {peer} {why}" for peer, why in found["peers_failed"].items()), flush=True)


if __name__ == "__main__":
    main()
