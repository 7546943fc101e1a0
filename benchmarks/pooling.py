"""Do pooled 95 % intervals cover? python benchmarks/pooling.py [--studies 200]

One simulated population with every follow-up known gives the true coefficients. Each study samples people of it, hides
most follow-ups, fits a model to what is left, imputes, and pools a regression of change on age, sex and gap for every
feature. Written to results/pooling.json: the share of intervals that cover, and their width, for draws of one model
(`impute`), for a model refitted at every draw (`impute_refitted`), for people with measured pairs only, and for a
single draw taken for data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ledger import commit
from sklearn.linear_model import LinearRegression

import secondgram as sg
from secondgram.files import replacing

RESULT = Path(__file__).parent / "results" / "pooling.json"
PAGE = Path(__file__).parent.parent / "docs" / "pooling.md"
# This script writes the part of the page between these lines.
MARKS = "<!-- coverage -->", "<!-- end of coverage -->"
POPULATION, FEATURES, PEOPLE, DRAWS, LEVEL = 40_000, 6, 600, 20, 0.95
PAIRS = (60, 120, 300)
TERMS = ["age", "sex", "gap"]


def pooled(result: sg.Imputation | list[sg.Imputation], cohort: sg.Cohort, name: str) -> sg.Pooled:
    """The regression of one feature's change."""
    return sg.fit_pooled(LinearRegression(), result, cohort, y=f"{name}_change", x=TERMS)


def alone(cohort: sg.Cohort, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (K,), lower and upper ends of the usual regression of `values` (n,) on the terms."""
    from scipy import stats

    table = cohort.covariate_table
    sex = table["sex"].cat.codes.to_numpy(dtype=float)
    D = np.column_stack([np.ones(len(cohort)), table["age"], sex, cohort.gap])
    inverse = np.linalg.inv(D.T @ D)
    beta = inverse @ D.T @ values
    df = len(D) - D.shape[1]
    half = stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(np.diag(inverse) * ((values - D @ beta) ** 2).sum() / df)
    return beta, beta - half, beta + half


def study(population: sg.SimulatedCohort, true: np.ndarray, pairs: int, seed: int) -> dict[str, Any]:
    """Whether each interval (features, terms) covers, and its width, in each of three analyses."""
    rng = np.random.default_rng(seed)
    some = population.take(rng.choice(len(population), PEOPLE, replace=False))
    visits = some.visits.copy()
    visits[:, 1] = some.truth
    visits[pairs:, 1] = np.nan
    cohort = sg.Cohort(some.ids, visits, some.features, some.visit_labels, some.times, some.covariate_table)
    imputer = sg.SecondgramImputer(shape="off", seed=seed).fit(cohort, show=False)
    result = imputer.impute(cohort, draws=DRAWS, seed=seed, show=False)
    refitted = sg.impute_refitted(imputer, cohort, DRAWS, seed, show=False)
    table = next(sg.completed_tables(result, cohort))
    measured = cohort.take(range(pairs))
    found: dict[str, list[Any]] = {"one model": [], "refitted": [], "measured pairs": [], "one draw": []}
    for column, name in enumerate(cohort.features):
        found["one model"].append(pooled(result, cohort, name).interval(LEVEL))
        found["refitted"].append(pooled(refitted, cohort, name).interval(LEVEL))
        found["measured pairs"].append(alone(measured, (measured.followup - measured.baseline)[:, column])[1:])
        found["one draw"].append(alone(cohort, table[f"{name}_change"].to_numpy())[1:])
    ends = {way: np.array(each) for way, each in found.items()}  # [features, 2, terms]
    return {way: ((each[:, 0] <= true) & (true <= each[:, 1]), each[:, 1] - each[:, 0]) for way, each in ends.items()}


def write_page(about: dict[str, Any]) -> None:
    """Put the coverage into the page of the documentation."""
    ways = list(next(iter(about["pairs"].values())))
    lines = [
        f"| people with a follow-up, of {about['people']} | " + " | ".join(ways) + " |",
        "|" + " --- |" * (len(ways) + 1),
    ]
    for pairs, rows in about["pairs"].items():
        cells = [
            f"{100 * rows[way]['covered']:.1f} % (+- {196 * rows[way]['error']:.1f}), "
            f"width {rows[way]['width_of_measured_pairs']:.2f}"
            for way in ways
        ]
        lines.append(f"| {pairs} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Coverage of {100 * about['level']:.0f} % intervals, +- its 95 % interval over {about['studies']} studies of "
        f"{about['features']} features with {about['draws']} draws each, and the median width of the intervals against "
        f"that of people with measured pairs only; preset `default` without its diffusion model; commit "
        f"{about['commit']}.",
    ]
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    with replacing(PAGE) as temporary:
        text = "\n".join([before + MARKS[0], "", *lines, "", MARKS[1] + after])
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    chosen = parser.parse_args()
    population = sg.simulate(POPULATION, FEATURES, 0.5, seed=0, mode="gaussian")
    change = population.truth - population.baseline
    true = np.array([alone(population, change[:, column])[0] for column in range(FEATURES)])
    about: dict[str, Any] = {
        "command": f"python benchmarks/pooling.py --studies {chosen.studies}",
        "commit": commit(),
        "people": PEOPLE,
        "features": FEATURES,
        "draws": DRAWS,
        "studies": chosen.studies,
        "level": LEVEL,
        "pairs": {},
    }
    for pairs in PAIRS:
        each = [study(population, true, pairs, seed) for seed in range(chosen.studies)]
        rows = {}
        for way in each[0]:
            covers = np.array([one[way][0] for one in each])  # [studies, features, terms]
            width = np.array([one[way][1] for one in each])
            # Intervals of one study depend on one another: the error is taken over studies.
            per_study = covers.reshape(len(each), -1).mean(axis=1)
            rows[way] = {
                "covered": float(covers.mean()),
                "error": float(per_study.std(ddof=1) / np.sqrt(len(each))),
                "covered_by_term": dict(zip(["Intercept", *TERMS], covers.mean(axis=(0, 1)).tolist(), strict=True)),
                "width_of_measured_pairs": float(
                    np.median(width / np.array([one["measured pairs"][1] for one in each]))
                ),
            }
            print(pairs, way, json.dumps(rows[way]), flush=True)
        about["pairs"][str(pairs)] = rows
        with replacing(RESULT) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_page(about)


if __name__ == "__main__":
    main()
