"""Do draws keep to what a feature can be, and how good are they? python benchmarks/kinds.py [--cohorts 5]

Cohorts of one kind of feature each (skewed, bounded, count, ordinal, zero-inflated) beside plain ones; of 2,000 people
400 have a follow-up, and every hidden one is known. Three methods: the preset as it is, the preset with every
feature declared continuous (draws can be any number), and predictive mean matching as mice does it. Written to
results/kinds.json: share of draws outside the support, coverage of 90 % intervals by randomised PIT, and CRPS beside
that of the others on the same people, with intervals over people.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ledger import commit

import secondgram as sg
from secondgram.files import replacing
from secondgram.imputation.scores import crps

RESULT = Path(__file__).parent / "results" / "kinds.json"
PEOPLE, PAIRS, FEATURES, PLAIN, DRAWS = 2000, 400, 6, 4, 100
DONORS, LEVEL = 5, 0.9
# 1.96 standard errors to either side.
WIDTH = 1.96


@dataclass(frozen=True)
class Simulated:
    """people : PAIRS of whom have a follow-up;  truth (N, D) of everybody;  low, high : of the support;  whole."""

    cohort: sg.Cohort
    truth: np.ndarray
    low: float
    high: float
    whole: bool


def _latent(
    rng: np.random.Generator, width: int, people: int
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, np.ndarray]:
    """Hidden states (N, width) of unit variance at two visits, covariates, and gaps (N,)."""
    loading = rng.normal(size=(3, width))
    loading *= np.sqrt(0.4 / (loading**2).sum(axis=0))
    age, sex, gap = rng.normal(size=people), rng.integers(0, 2, people), rng.uniform(1.5, 4.5, people)
    first = rng.normal(size=(people, 3)) @ loading + 0.3 * age[:, None] + 0.7 * rng.normal(size=(people, width))
    slope = 0.1 * (1.0 + 0.5 * age[:, None]) + 0.1 * (rng.normal(size=(people, 3)) @ loading)
    second = first + slope * gap[:, None] + 0.2 * rng.normal(size=(people, width))
    table = pd.DataFrame({"age": 65 + 8 * age, "sex": np.where(sex, "M", "F")})
    table["sex"] = table["sex"].astype("category")
    return first, second, table, gap


def skewed(rng: np.random.Generator, L: np.ndarray) -> np.ndarray:
    return np.asarray(500.0 * np.exp(0.7 * L + 0.15 * rng.normal(size=L.shape)))


def bounded(rng: np.random.Generator, L: np.ndarray) -> np.ndarray:
    return np.asarray(100.0 / (1.0 + np.exp(-(1.5 + 1.2 * L + 0.3 * rng.normal(size=L.shape)))))


def count(rng: np.random.Generator, L: np.ndarray) -> np.ndarray:
    level = np.linspace(-0.5, 2.0, L.shape[1])
    return rng.poisson(np.exp(level + 0.7 * L)).astype(float)


def ordinal(rng: np.random.Generator, L: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(28.5 - 1.2 * L + 0.7 * rng.normal(size=L.shape)), 0, 30)


def zero_inflated(rng: np.random.Generator, L: np.ndarray) -> np.ndarray:
    above = L + 0.2 * rng.normal(size=L.shape) - np.linspace(-0.5, 0.8, L.shape[1])
    return np.asarray(np.where(above > 0, 200.0 * np.expm1(1.5 * above), 0.0))


KINDS: dict[str, tuple[Callable[[np.random.Generator, np.ndarray], np.ndarray], float, float, bool]] = {
    "skewed": (skewed, 0.0, np.inf, False),
    "bounded": (bounded, 0.0, 100.0, False),
    "count": (count, 0.0, np.inf, True),
    "ordinal": (ordinal, 0.0, 30.0, True),
    "zero-inflated": (zero_inflated, 0.0, np.inf, False),
}


def simulated(kind: str, seed: int, people: int = PEOPLE, pairs: int = PAIRS) -> Simulated:
    """A cohort of FEATURES features of a kind, and PLAIN volumes after them."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    make, low, high, whole = KINDS[kind]
    first, second, table, gap = _latent(rng, FEATURES + PLAIN, people)
    visits = np.empty((people, 2, FEATURES + PLAIN))
    for visit, state in enumerate((first, second)):
        visits[:, visit, :FEATURES] = make(rng, state[:, :FEATURES])
        visits[:, visit, FEATURES:] = 4000 - 400 * state[:, FEATURES:] + 80 * rng.normal(size=(people, PLAIN))
    truth = visits[:, 1].copy()
    visits[pairs:, 1] = np.nan
    names = [f"{kind}_{number}" for number in range(FEATURES)] + [f"volume_{number}" for number in range(PLAIN)]
    times = np.stack([np.zeros(people), gap], axis=1)
    cohort = sg.Cohort(np.arange(people).astype(str), visits, tuple(names), ("0", "1"), times, table)
    return Simulated(cohort, truth, low, high, whole)


def matched(made: Simulated, pairs: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Draws (M, n, D) of people without a follow-up, by predictive mean matching (Little 1988; van Buuren 2018, 3.4).

    Type 1: donors by the estimate, recipients by a draw of the coefficients; one of the DONORS nearest donors.
    """
    rng = np.random.default_rng(seed)
    cohort = made.cohort
    X = np.column_stack([np.ones(len(cohort)), cohort.baseline, cohort.static[:, :2], cohort.gap])
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
    X[:, 0] = 1.0
    known, asked = X[:pairs], X[pairs:]
    gram = known.T @ known
    inverse = np.linalg.inv(gram + 1e-5 * np.diag(np.diag(gram)))
    root = np.linalg.cholesky(inverse)
    found = np.empty((draws, len(asked), cohort.visits.shape[2]))
    for place in range(found.shape[2]):
        y = cohort.followup[:pairs, place]
        beta = inverse @ known.T @ y
        fitted = known @ beta
        square = ((y - fitted) ** 2).sum()
        order = np.argsort(fitted, kind="stable")
        for draw in range(draws):
            sigma = np.sqrt(square / rng.chisquare(pairs - X.shape[1]))
            target = asked @ (beta + sigma * root @ rng.normal(size=len(beta)))
            start = np.clip(np.searchsorted(fitted[order], target) - DONORS, 0, pairs - 2 * DONORS)
            near = order[start[:, None] + np.arange(2 * DONORS)]
            nearest = np.argsort(np.abs(fitted[near] - target[:, None]), axis=1)[:, :DONORS]
            pick = nearest[np.arange(len(target)), rng.integers(0, DONORS, len(target))]
            found[draw, :, place] = y[near[np.arange(len(target)), pick]]
    return found


def drawn(made: Simulated, seed: int, draws: int = DRAWS, **options: Any) -> np.ndarray:
    """Draws (M, n, D) of people without a follow-up by the preset."""
    imputer = sg.SecondgramImputer(shape="off", seed=seed, **options).fit(made.cohort, show=False)
    return imputer.impute(made.cohort, draws=draws, seed=seed, show=False).draws


def scored(made: Simulated, draws: np.ndarray, pairs: int, seed: int) -> dict[str, np.ndarray]:
    """Of the features of the kind: outside (M, n, F), covered (n, F) and crps (n, F) in SD of the truth."""
    truth = made.truth[pairs:, :FEATURES]
    mine = draws[:, :, :FEATURES].astype(float)
    outside = (mine < made.low) | (mine > made.high) | (made.whole & (mine != np.rint(mine)))
    rank = (mine < truth).sum(axis=0) + np.random.default_rng(seed).uniform(size=truth.shape) * (
        (mine == truth).sum(axis=0) + 1.0
    )
    pit = rank / (len(mine) + 1.0)
    size = made.truth[:, :FEATURES].std(axis=0)
    edge = (1.0 - LEVEL) / 2.0
    return {
        "outside": outside,
        "covered": (pit > edge) & (pit < 1.0 - edge),
        "crps": crps(mine, truth) / size,
        "plain": crps(draws[:, :, FEATURES:].astype(float), made.truth[pairs:, FEATURES:])
        / made.truth[:, FEATURES:].std(axis=0),
    }


def _estimate(per_person: np.ndarray) -> dict[str, float]:
    error = float(per_person.std(ddof=1) / np.sqrt(len(per_person)))
    mean = float(per_person.mean())
    return {"mean": mean, "low": mean - WIDTH * error, "high": mean + WIDTH * error}


METHODS: dict[str, Callable[[Simulated, int, int, int], np.ndarray]] = {
    "secondgram": lambda made, pairs, seed, draws: drawn(made, seed, draws),
    "any number": lambda made, pairs, seed, draws: drawn(made, seed, draws, kinds={"*": "continuous"}),
    "mean matching": lambda made, pairs, seed, draws: matched(made, pairs, seed, draws),
}


def of_kind(kind: str, cohorts: int, people: int, pairs: int, draws: int) -> dict[str, Any]:
    """Figures of each method over some cohorts of a kind."""
    each: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in METHODS}
    for seed in range(cohorts):
        made = simulated(kind, seed, people, pairs)
        for name, method in METHODS.items():
            each[name].append(scored(made, method(made, pairs, seed, draws), pairs, seed))
    rows: dict[str, Any] = {}
    score = {name: np.concatenate([part["crps"].mean(axis=1) for part in parts]) for name, parts in each.items()}
    plain = {name: np.concatenate([part["plain"].mean(axis=1) for part in parts]) for name, parts in each.items()}
    for name, parts in each.items():
        rows[name] = {
            "outside": float(np.mean([part["outside"].mean() for part in parts])),
            "coverage": _estimate(np.concatenate([part["covered"].mean(axis=1) for part in parts])),
            "coverage_by_feature": np.mean([part["covered"].mean(axis=0) for part in parts], axis=0).tolist(),
            "crps": _estimate(score[name]),
            "less": {other: _estimate(score[name] - score[other]) for other in METHODS if other != name},
            "crps_of_plain": _estimate(plain[name]),
        }
    return rows


def table(found: dict[str, Any]) -> str:
    """One row a kind and method."""
    lines = [
        "| kind | method | outside the support | coverage of 90 % | CRPS in SD | less that of secondgram |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, rows in found.items():
        for name, row in rows.items():
            cover, score = row["coverage"], row["crps"]
            less = row["less"].get("secondgram")
            difference = "" if less is None else f"{less['mean']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"
            lines.append(
                f"| {kind} | {name} | {100 * row['outside']:.2f} % | {100 * cover['mean']:.1f} % "
                f"({100 * cover['low']:.1f} to {100 * cover['high']:.1f}) | {score['mean']:.4f} | {difference} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=5)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--only", choices=list(KINDS), nargs="*", default=list(KINDS))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    about: dict[str, Any] = {
        "command": f"python benchmarks/kinds.py --cohorts {chosen.cohorts}",
        "commit": commit(),
        "people": chosen.people,
        "pairs": chosen.pairs,
        "features": FEATURES,
        "plain": PLAIN,
        "draws": chosen.draws,
        "cohorts": chosen.cohorts,
        "kinds": {},
    }
    for kind in chosen.only:
        about["kinds"][kind] = of_kind(kind, chosen.cohorts, chosen.people, chosen.pairs, chosen.draws)
        print(table({kind: about["kinds"][kind]}), flush=True)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(chosen.out) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(table(about["kinds"]))


if __name__ == "__main__":
    main()
