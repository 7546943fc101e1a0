"""The evidence of a run: everything its report draws, gathered while truth, means and draws are still at hand.

What is written holds no subject id, no covariate of one person and no row of the cohort: sums over people, and a few
people's visits under the number of their row.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cohort.scaling import SharedScaling
from ..cohort.table import Cohort
from ..cohort.value_findings import Finding
from ..evaluation.evaluate import true_followup
from ..evaluation.memorisation import memorisation
from ..evaluation.metrics import FURTHER, METRICS, Cells, Estimate, interval_rank, resamples
from ..files import writing
from ..imputation.interfaces import FollowupModel, JudgedModel
from ..imputation.provenance import versions
from ..ops import noise, sampling
from ..ops.registry import choose
from . import findings
from .cache import cohort_digest
from .columns import labels_of, numbers_of
from .hidden_visits import HiddenVisits

EVIDENCE_VERSION = 2
FILE, TRAINING = "evidence.json", "training.json"
BOOTSTRAPS = 300
# The check for copies costs draws x people x training people; this many of each tell a copier from others.
MEMORY_DRAWS, MEMORY_PEOPLE = 4, 400
# Distances need complete people; features are left out until there are this many on both sides.
COMPLETE_PEOPLE = 40
# Points of a training curve.
CURVE_POINTS = 160
CARRY = "carry-forward"
RIDGES = ("ridge-gaussian", "ridge-empirical", "ridge")
OURS = ("default", "paper")


@dataclass(frozen=True, eq=False)
class Drawn:
    """What draws tell of the people of one fold and cells do not, in scaled units.

    ends : (4, N, D) float32, ends of the central 90 and 50 % of the draws: low, inner low, inner high, high; N is 0 for
        methods the report is not about.
    memory : (7,) float64, nearer and copies with their intervals (`memorisation.Memorisation`), and people checked;
        NaN where it was not asked for or could not be told.
    """

    ends: np.ndarray
    memory: np.ndarray


@dataclass(frozen=True, eq=False)
class Tested:
    """Who was tested: rows' ids (N,), whom they are of, and age, gap in years, sex, site, NaN or None where unknown.

    known : (N,) text, how many visits a hidden one was told from; None where all are told from the first.
    """

    ids: np.ndarray
    person: np.ndarray
    age: np.ndarray
    gap: np.ndarray
    sex: np.ndarray
    site: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, judge: Cohort) -> Tested:
        table, people = judge.covariate_table, len(judge)
        none = np.full(people, None, dtype=object)
        age, sex = numbers_of(table, "age"), labels_of(table, "sex", "gender")
        return cls(
            judge.ids,
            judge.whole.ids[judge.person] if isinstance(judge, HiddenVisits) else judge.ids,
            np.full(people, np.nan) if age is None else age.to_numpy(dtype=float),
            judge.gap.astype(float),
            none if sex is None else _texts(sex),
            none if judge.site is None else judge.site.astype(object),
            judge.known.sum(axis=1).astype(str).astype(object) if isinstance(judge, HiddenVisits) else none,
        )

    @classmethod
    def joined(cls, parts: Sequence[Tested]) -> Tested:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def _texts(column: pd.Series) -> np.ndarray:
    return np.array([None if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
                     for value in column], dtype=object)  # fmt: skip


class Evidence:
    """Gathers what the report of a comparison shows; folds come in one order for all methods.

    folder : of the run.  methods : those that take part; it is about `default`, else `paper`, else the last one.
    `add` takes each method's draws for the people of a fold while they are there, `write` what is left at the end.
    """

    def __init__(self, folder: str | os.PathLike[str], methods: Sequence[str]) -> None:
        self.folder = Path(folder)
        # The one the report is about; the others' intervals are not kept.
        self.ours = next((name for name in OURS if name in methods), methods[-1])
        self.drawn: dict[str, list[Drawn]] = {}
        self.tested: list[Tested] = []
        self.models: dict[str, dict[str, Any]] = {}
        self.scaling: SharedScaling | None = None

    def add(self, method: str, learn: Cohort, judge: Cohort, scaling: SharedScaling, draws: np.ndarray) -> None:
        """draws (M, N, D) of `judge`, original units, by a method that learned from `learn`."""
        parts, self.scaling = self.drawn.setdefault(method, []), scaling
        if len(parts) == len(self.tested):
            self.tested.append(Tested.of(judge))
        scaled = np.stack([scaling.apply(draw, judge.site) for draw in draws])
        truth = scaling.apply(true_followup(judge), judge.site)
        memory = np.full(7, np.nan)
        if len(draws) > 1 and method in (self.ours, RIDGES[0]):
            memory = _memory(scaled, truth, learn, judge, scaling)
        ends = _ends(scaled if method == self.ours else scaled[:, :0])
        parts.append(Drawn(ends, memory))

    def fitted(self, method: str, model: FollowupModel) -> None:
        """How the training of a method went; that of one fold is kept, on disk too.

        A comparison that goes on where it was stopped does not train again what is finished.
        """
        if method not in self.models:
            self.models[method] = rounded(_trained(model))
            self._put(TRAINING, self._earlier() | self.models)

    def _earlier(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / TRAINING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _put(self, name: str, content: Any) -> None:
        with writing(self.folder / name) as file:
            file.write((json.dumps(content, allow_nan=False) + "\n").encode())

    def write(self, table: pd.DataFrame, cells: dict[str, Cells], cohort: Cohort) -> None:
        """Write evidence.json into the run's folder; `table` and `cells` are the comparison's."""
        content = self.content(table, cells, cohort)
        self._put(FILE, {"evidence_version": EVIDENCE_VERSION, "sha256": digest(content), "content": content})

    def content(self, table: pd.DataFrame, cells: dict[str, Cells], cohort: Cohort) -> dict[str, Any]:
        """What evidence.json holds: JSON values, NaN as None."""
        roles = _roles(list(cells), self.ours)
        seed, folds = int(table.attrs.get("seed", 0)), int(table.attrs.get("folds", 1))
        ours = cells[roles["ours"]]
        weights = resamples(ours.unit, BOOTSTRAPS, seed)
        tested = Tested.joined(self.tested)
        focus = {role: cells[name] for role, name in roles.items()}
        judged = [roles[role] for role in ("ours", "ridge") if role in roles]
        drawing = [name for name in judged if cells[name].draws > 1]
        ends = np.concatenate([part.ends for part in self.drawn[roles["ours"]]], axis=1)
        place = {name: row for row, name in enumerate(cohort.ids)}
        rows = np.array([place[name] for name in tested.ids])
        people = cohort.person[rows] if isinstance(cohort, HiddenVisits) else rows
        models = self._earlier() | self.models
        found = {
            "roles": roles,
            "run": {key: value for key, value in table.attrs.items() if isinstance(value, (int, float, str))},
            "table": table.to_dict(orient="list"),
            "meaning": METRICS | FURTHER,
            "absent": table.attrs.get("skipped", {}) | table.attrs.get("failed", {}),
            "features": findings.feature_findings(focus, list(cohort.features), weights),
            "change": {name: findings.change(cells[name], weights) for name in judged},
            "calibration": {name: findings.calibration(cells[name], weights) for name in drawing},
            "pit": {name: findings.pit(cells[name], weights) for name in drawing},
            "groups": findings.groups(focus, _grouped(tested), tested.person, weights),
            "correlation": findings.correlations(ours, seed),
            "people": findings.people(ours, ends, tested.gap, list(people), cohort.features),
            "memory": {name: _joined_memory(self.drawn[name][:folds]) for name in drawing},
            "training": {name: models[name] for name in cells if name in models},
            "values": [_doubtful(finding) for finding in cohort.check()],
            "provenance": _provenance(cohort, table),
        }
        for person in (found["people"] or {"people": []})["people"]:
            row = rows[person.pop("place")]
            if isinstance(cohort, HiddenVisits):
                person["shown"] = self._shown(cohort.take([row]), found["people"]["features"])
        return rounded(found)

    def _shown(self, one: HiddenVisits, features: Sequence[str]) -> list[list[tuple[float, float]]]:
        """Per feature, of the visits that one hidden visit is told from: years after it, and change from the nearest,
        scaled."""
        assert self.scaling is not None
        history = one.history()
        nearest = self.scaling.apply(one.baseline, one.site)[0]
        away = history.times[0] - history.at[0]
        sites = None if one.site is None else np.repeat(one.site, len(away))
        values = self.scaling.apply(history.visits[0], sites if history.sites is None else history.sites[0])
        return [
            [(away[v], values[v, column] - nearest[column]) for v in np.flatnonzero(np.isfinite(values[:, column]))]
            for column in map(one.features.index, features)
        ]


def digest(content: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rounded(value: Any) -> Any:
    """JSON values of what holds numpy's: five significant digits, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


def _roles(methods: list[str], ours: str) -> dict[str, str]:
    """Which method stands for carrying forward and for ridge, as far as they took part, and the one it is about."""
    # Another library's method may have failed.
    ours = ours if ours in methods else methods[-1]
    ridge = next((name for name in RIDGES if name in methods and name != ours), None)
    carry = CARRY if CARRY in methods and ours != CARRY else None
    return {role: name for role, name in (("ours", ours), ("ridge", ridge), ("carry", carry)) if name is not None}


def _ends(draws: np.ndarray) -> np.ndarray:
    ordered, count = np.sort(draws, axis=0), len(draws)
    outer, inner = interval_rank(count), max(1, round(0.25 * (count + 1)))
    return ordered[[outer - 1, inner - 1, -inner, -outer]].astype(np.float32)


def _memory(drawn: np.ndarray, truth: np.ndarray, learn: Cohort, judge: Cohort, scaling: SharedScaling) -> np.ndarray:
    base = scaling.apply(judge.baseline, judge.site)
    pairs = learn.take(learn.paired & learn.same_site)
    learned = scaling.apply(pairs.followup, pairs.site) - scaling.apply(pairs.baseline, pairs.site)
    truth = truth - base
    columns = _complete_features(truth, learned)
    people = np.flatnonzero(np.isfinite(truth[:, columns]).all(axis=1))[:MEMORY_PEOPLE]
    learned = learned[:, columns]
    if len(people) < COMPLETE_PEOPLE or np.isfinite(learned).all(axis=1).sum() < COMPLETE_PEOPLE:
        return np.full(7, np.nan)
    change = (drawn[:MEMORY_DRAWS] - base)[:, people][:, :, columns]
    found = memorisation(change, truth[people][:, columns], learned, judge.units()[people].astype(str))
    return np.array([*found.nearer, *found.copies, len(people)])


def _complete_features(truth: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Positions of as many features as leave enough people without a missing cell, those best observed first."""
    gaps = np.isnan(truth).mean(axis=0) + np.isnan(learned).mean(axis=0)
    order = np.argsort(gaps, kind="stable")
    left = [np.logical_and.accumulate(np.isfinite(each[:, order]), axis=1).sum(axis=0) for each in (truth, learned)]
    enough = (left[0] >= COMPLETE_PEOPLE) & (left[1] >= COMPLETE_PEOPLE)
    return np.sort(order[: max(1, int(enough.sum()))])


def _joined_memory(parts: list[Drawn]) -> dict[str, Any] | None:
    """Folds of one repeat together: means weighted by people; squares of intervals add, as folds share nobody."""
    memory = np.stack([part.memory for part in parts])
    memory = memory[np.isfinite(memory).all(axis=1)]
    if not len(memory):
        return None
    weight = memory[:, 6] / memory[:, 6].sum()
    found: dict[str, Any] = {"people": int(memory[:, 6].sum())}
    for name, start in (("nearer", 0), ("copies", 3)):
        value, low, high = memory[:, start : start + 3].T
        middle = float(weight @ value)
        below, above = np.sqrt((weight**2) @ (value - low) ** 2), np.sqrt((weight**2) @ (high - value) ** 2)
        found[name] = Estimate(middle, middle - below, middle + above)
    return found


def _grouped(tested: Tested) -> dict[str, np.ndarray]:
    """Labels (N,) of the groups of people a report tells apart, in their order; "" where it is not known."""
    return {
        "gap": findings.quarters(tested.gap),
        "shown": findings.named(tested.known, tested.person),
        "age": findings.quarters(tested.age),
        "sex": findings.named(tested.sex, tested.person),
        "site": findings.named(tested.site, tested.person),
    }


def _trained(model: FollowupModel) -> dict[str, Any]:
    """Rungs and training curves of a fitted model, as far as it keeps them."""
    record = getattr(model, "record", {})
    shape = record.get("shape", {})
    histories = shape.get("histories") or ([record["history"]] if record.get("history") else [])
    course: dict[str, Any] = {"networks": [_thinned(history) for history in histories]}
    course |= {"kept": bool(shape.get("kept", bool(histories))), "reason": shape.get("reason", "")}
    if isinstance(model, JudgedModel):
        course["ladder"] = model.ladder().reset_index().to_dict(orient="list")
        course["means"] = dict(Counter(model.verdict()["mean"]))
    return course


def _thinned(history: dict[str, Any]) -> dict[str, Any]:
    """A training history in at most `CURVE_POINTS` points: means of losses, sums of skips, the latest score."""
    epochs = history["epochs"]
    step = -(-len(epochs) // CURVE_POINTS)
    runs = [epochs[start : start + step] for start in range(0, len(epochs), step)]
    scores = [[e["score"] for e in run if e["score"] is not None] for run in runs]
    cosines = [[number + 1, *e["cosines"]] for number, e in enumerate(epochs) if e["cosines"]]
    every = -(-len(cosines) // CURVE_POINTS) if cosines else 1
    return {
        "tasks": history["tasks"],
        "pairs": history["cosines"],
        "best": history["best"] + 1,
        "epochs": len(epochs),
        "epoch": [min(start + step, len(epochs)) for start in range(0, len(epochs), step)],
        "losses": [np.mean([e["task_losses"] for e in run], axis=0) for run in runs],
        "score": [each[-1] if each else None for each in scores],
        "skipped": [sum(e["skipped"] for e in run) for run in runs],
        "cosines": cosines[::every],
    }


def _doubtful(finding: Finding) -> dict[str, Any]:
    """What a report tells of a finding: of covariates and outcomes no value."""
    entry = {"kind": finding.kind, "column": finding.column, "cells": finding.cells, "refused": finding.refused}
    return entry | ({"problem": finding.problem} if finding.visit is not None else {})


def _provenance(cohort: Cohort, table: pd.DataFrame) -> dict[str, Any]:
    backends = {"noise": noise.CANDIDATES, "sampler": sampling.CANDIDATES}
    return {
        "data": cohort_digest(cohort),
        "source": Path(cohort.source or "simulated").name,
        "people": len(cohort),
        "width": len(cohort.features),
        "notes": list(cohort.notes),
        "versions": versions(),
        "backends": {name: choose(name, candidates).name for name, candidates in backends.items()},
        "command": _command(table),
    }


def _command(table: pd.DataFrame) -> str:
    """The command as it was typed, paths cut to their last name; or what was called from Python."""
    program = Path(sys.argv[0])
    if program.stem in ("secondgram", "cli"):
        return " ".join(["secondgram", *(_short(word) for word in sys.argv[1:])])
    settings = {name: value for name, value in table.attrs.items() if name in ("folds", "draws", "repeats", "seed")}
    return "from Python: " + ", ".join(f"{name}={value}" for name, value in settings.items())


def _short(word: str) -> str:
    option, equals, value = word.partition("=")
    if option.startswith("-") and equals:
        return f"{option}={Path(value).name}"
    return Path(word).name if os.sep in word else word
