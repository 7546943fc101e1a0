"""Who leaves a study for good, and what that does to the visits that are learned from.

A visit that is told from an early one alone was measured because the person stayed, and who stays may depend on visits
in between, which are not shown. Such a visit then counts by

    w = product over the visits m after the last shown of  p(stay at m | the last shown) / p(stay at m | the last seen)

up to itself, so that those who stayed stand for all who were there (inverse probability weights, stabilised; Robins,
Hernan and Brumback 2000; both chances are by one model of the visit last seen). Where all visits in between are shown
the weight is one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from .hidden import Hidden

# Directions of what was last seen that leaving may depend on.
DIRECTIONS = 8
# Standard errors by which it has to tell leaving better than the number of the visit does, on people held out.
CLEARLY = 2.0
# With fewer who left, or stayed, nothing is told.
FEWEST = 20
MOST = 5.0


@dataclass(frozen=True, eq=False)
class Attendance:
    """log odds of staying: intercept + columns . slope, where columns are directions of the visit last seen, what is
    known of the person, and the number of the visit.

    centre, spread : (D,) of values.   turn : (D, K).   slope : (K + p + 1,).
    """

    centre: np.ndarray
    spread: np.ndarray
    turn: np.ndarray
    slope: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, values: np.ndarray, person: np.ndarray, rows: np.ndarray | None = None) -> Attendance | None:
        """values (N, V, D), NaN where missing;  person (N, p);  rows : (N,) bool, who is learned from, None for all.

        None where leaving does not depend on what was seen.
        """
        seen = np.isfinite(values).any(axis=2)
        who, visit, last = _at_risk(seen if rows is None else seen & rows[:, None])
        if not len(who):
            return None
        stayed = (seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1))[who] >= visit
        if min(stayed.sum(), (~stayed).sum()) < FEWEST:
            return None
        cells = values[who, last]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            centre, spread = np.nanmean(cells, axis=0), np.nanstd(cells, axis=0)
        centre, spread = np.nan_to_num(centre), np.where(spread > 1e-12, spread, 1.0)
        scaled = np.nan_to_num((cells - centre) / spread)
        turn = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, :DIRECTIONS] if len(centre) > 1 else np.eye(1)
        empty = cls(centre, spread, turn, np.zeros(0), 0.0)
        X = empty._columns(cells, person[who], visit)
        if not _tells(X, stayed, who):
            return None
        found = LogisticRegression().fit(X, stayed)
        return cls(centre, spread, turn, found.coef_[0], float(found.intercept_[0]))

    def _columns(self, cells: np.ndarray, person: np.ndarray, visit: np.ndarray) -> np.ndarray:
        scaled = np.nan_to_num((cells - self.centre) / self.spread) @ self.turn
        return np.concatenate([scaled / np.sqrt(len(self.centre)), person, visit[:, None]], axis=1)

    def log_stay(self, cells: np.ndarray, person: np.ndarray, visit: np.ndarray) -> np.ndarray:
        """(n,) log probability of staying at a visit (n,), of the last seen cells (n, D) and people (n, p)."""
        odds = self._columns(cells, person, visit) @ self.slope + self.intercept
        return -np.logaddexp(0.0, -odds)

    def weights(self, hidden: Hidden, rows: np.ndarray, values: np.ndarray, person: np.ndarray) -> np.ndarray:
        """(n,) weights of these hidden visits, by all that was seen (N, V, D) of people (N, p)."""
        seen = np.isfinite(values).any(axis=2)
        who, target, known = hidden.person[rows], hidden.visit[rows], hidden.known[rows]
        slot = np.arange(seen.shape[1])
        before = known & (slot < target[:, None])
        forecast = before.any(axis=1) & ~(known & (slot > target[:, None])).any(axis=1)
        place = np.where(before, slot, -1).max(axis=1)
        found = np.zeros(len(rows))
        for visit in slot[1:]:
            mine = np.flatnonzero(forecast & (place < visit) & (visit <= target))
            last = np.where(seen[who[mine]] & (slot < visit), slot, -1).max(axis=1)
            # Where the last seen is shown the ratio is one.
            mine, last = mine[last > place[mine]], last[last > place[mine]]
            if len(mine):
                one, at = who[mine], np.full(len(mine), visit)
                shown_to = self.log_stay(values[one, place[mine]], person[one], at)
                found[mine] += shown_to - self.log_stay(values[one, last], person[one], at)
        return np.exp(np.clip(found, -np.log(MOST), np.log(MOST)))


def _at_risk(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person, visit, and the visit last seen before it, of everybody who had not left by the visit before."""
    found = []
    slot = np.arange(seen.shape[1])
    for visit in slot[1:]:
        there = seen[:, :visit].any(axis=1) & seen[:, visit - 1 :].any(axis=1)
        person = np.flatnonzero(there)
        last = np.where(seen[person] & (slot < visit), slot, -1).max(axis=1)
        found.append((person, np.full(len(person), visit), last))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))  # type: ignore[return-value]


def _tells(X: np.ndarray, stayed: np.ndarray, who: np.ndarray) -> bool:
    """Whether columns tell who stays clearly better than the last of them, the number of the visit, on other people."""
    gain = np.zeros(len(X))
    for learn, judge in GroupKFold(5).split(X, groups=who):
        if stayed[learn].all() or not stayed[learn].any():
            return False
        loss = []
        for columns in (X[:, -1:], X):
            p = LogisticRegression().fit(columns[learn], stayed[learn]).predict_proba(columns[judge])[:, 1]
            loss.append(-np.log(np.clip(np.where(stayed[judge], p, 1.0 - p), 1e-9, 1.0)))
        gain[judge] = loss[0] - loss[1]
    per_person = np.bincount(who, gain)[np.unique(who)]
    return bool(per_person.mean() > CLEARLY * per_person.std() / np.sqrt(len(per_person)))
