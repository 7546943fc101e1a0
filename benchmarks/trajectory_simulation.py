"""How near to the best possible are imputed visits of a trajectory? Simulated, with the exact posterior of any pattern.

    python benchmarks/trajectory_simulation.py [--slopes .02 .06 .12] [--seeds 3] [--jobs 2] [--features 64]

2,000 people, 64 features, 5 visits; a quarter of the people is held out whole, and every visit of theirs is known, so
that any pattern can be made of them. Learned is from the others, of whom four fifths come back and miss 15 % of their
visits. Imputed are

    forecast, interpolate, backcast    as by `secondgram compare --task`, by the number of known visits
    the last two together              from the first three: their difference, and how they go together

Printed are CRPS in SD of the first visits, of the library (without its diffusion model), of the mixed model of each
feature and of the exact posterior; the share of the way from the second to the third that the first goes; and the
coverage of 90 % intervals. 95 % intervals over people. Writes benchmarks/results/trajectory_simulation.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ledger import commit, flags, processor

import secondgram as sg
from secondgram.comparison.hidden_visits import HiddenVisits
from secondgram.comparison.methods.mixed import MixedModel
from secondgram.comparison.predictions import exact_posterior, imputed
from secondgram.evaluation.metrics.bootstrap import cell_mean, interval, resamples
from secondgram.evaluation.metrics.cell_scores import central_interval
from secondgram.files import replacing
from secondgram.imputation.history import first_cells
from secondgram.imputation.scores import crps, normal_crps

RESULT = Path(__file__).parent / "results" / "trajectory_simulation.json"
PEOPLE, TEST, PAIRED = 2000, 0.25, 0.8
DRAWS, BOOTSTRAPS = 99, 1000
# Of the draws, that of the imputer where nobody says otherwise.
SEED = 7
TASKS = ("forecast", "interpolate", "backcast")
OURS, MIXED, EXACT = "secondgram", "mixed model", "exact"
Cells = dict[str, np.ndarray]


def split(features: int, slope: float, seed: int) -> tuple[sg.SimulatedTrajectories, sg.SimulatedTrajectories]:
    """People to learn from, and people to judge by, all of whose visits are known."""
    made = sg.simulate(PEOPLE, features, PAIRED, seed, "trajectories", slope=slope)
    train, test = made.split(TEST, seed)
    assert isinstance(train, sg.SimulatedTrajectories)
    assert isinstance(test, sg.SimulatedTrajectories)
    return train, replace(test, visits=test.complete)


def inside(drawn: np.ndarray, truth: np.ndarray) -> np.ndarray:
    low, high = central_interval(drawn)
    return ((truth >= low) & (truth <= high)).astype(float)


def by_task(imputer: sg.SecondgramImputer, mixed: MixedModel, test: sg.Cohort, task: str, unit: np.ndarray) -> Cells:
    """CRPS by method, coverage, known visits and people of every hidden visit."""
    judge = HiddenVisits.of(test, task)
    truth = judge.followup
    _, drawn = imputed(imputer, judge, DRAWS, SEED)
    centre, variance = mixed._conditional(judge.people())
    scale = mixed.context.scaling.original_scale(len(judge), None)[1]
    expected = mixed.context.scaling.invert(centre, None)
    best = exact_posterior(judge)
    return {
        OURS: crps(drawn, truth) / unit,
        MIXED: normal_crps(truth - expected, scale * np.sqrt(variance)) / unit,
        EXACT: normal_crps(truth - best.mean[:, 0], best.standard_deviation()[:, 0]) / unit,
        "covered": inside(drawn, truth),
        "known": judge.known.sum(axis=1),
        "unit": judge.units().astype(str),
    }


def together(imputer: sg.SecondgramImputer, test: sg.SimulatedTrajectories) -> Cells:
    """The last two visits, both told from those before: coverage of their difference, and (D,) correlations of what is
    left of both, in draws and in truth."""
    visits = test.visits.copy()
    visits[:, -2:] = np.nan
    labels = list(test.visit_labels[-2:])
    found = imputer.impute(replace(test, visits=visits), draws=DRAWS, visits=labels, show=False)
    assert isinstance(found, sg.TrajectoryImputation)
    rows = found.rows["visit"].to_numpy()
    first, second = (found.draws[:, rows == label] for label in labels)
    true = test.complete[:, -2:]
    left = [drawn - drawn.mean(axis=0) for drawn in (first, second)]
    exact = replace(test, visits=visits).posterior(np.tile([true.shape[1] + 1, true.shape[1] + 2], (len(test), 1)))
    spread = exact.standard_deviation()
    return {
        "covered": inside(second - first, true[:, 1] - true[:, 0]),
        "correlation": (left[0] * left[1]).mean(axis=(0, 1))
        / np.sqrt((left[0] ** 2).mean((0, 1)) * (left[1] ** 2).mean((0, 1))),
        "exact correlation": (exact.covariance(0, 1) / spread[:, 0] / spread[:, 1]).mean(axis=0),
        "unit": test.ids.astype(str),
    }


def one(features: int, slope: float, seed: int, shape: str) -> tuple[float, dict[str, Cells]]:
    train, test = split(features, slope, seed)
    imputer = sg.SecondgramImputer(shape=shape, history="all", seed=seed).fit(train, show=False)
    mixed = MixedModel().fit(train, seed)
    unit = first_cells(train).std(axis=0)
    found = {task: by_task(imputer, mixed, test, task, unit) for task in TASKS}
    found["together"] = together(imputer, test)
    for cells in found.values():
        cells["unit"] = np.array([f"{seed} {name}" for name in cells["unit"]])
    return slope, found


def lines(parts: list[dict[str, Cells]]) -> Iterator[dict[str, Any]]:
    """Of one slope and all seeds, by task and by number of known visits."""
    for task in TASKS:
        cells = {name: np.concatenate([part[task][name] for part in parts]) for name in parts[0][task]}
        groups: list[tuple[str, np.ndarray]] = [("all", np.ones(len(cells["known"]), dtype=bool))]
        groups += [(str(count), cells["known"] == count) for count in np.unique(cells["known"])]
        for known, mine in groups if len(groups) > 2 else groups[1:]:
            weights = resamples(cells["unit"][mine], BOOTSTRAPS, 0)
            score = {
                name: cell_mean(cells[name][mine], weights).mean(axis=1) for name in (OURS, MIXED, EXACT, "covered")
            }
            closed = (score[MIXED] - score[OURS]) / (score[MIXED] - score[EXACT])
            yield {"task": task, "known": known, "visits": int(mine.sum())} | {
                name: interval(values) for name, values in (score | {"closed": closed}).items()
            }
    cells = {name: [part["together"][name] for part in parts] for name in parts[0]["together"]}  # type: ignore[misc]
    weights = resamples(np.concatenate(cells["unit"]), BOOTSTRAPS, 0)
    yield {
        "task": "difference of the last two",
        "covered": interval(cell_mean(np.concatenate(cells["covered"]), weights).mean(axis=1)),
        "correlation": float(np.mean(cells["correlation"])),
        "exact correlation": float(np.mean(cells["exact correlation"])),
    }


def said(line: dict[str, Any]) -> str:
    """A line in words and figures."""

    def triple(name: str, digits: int) -> str:
        value, low, high = line[name]
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    if "known" not in line:
        both = f"{line['correlation']:.3f}, exact {line['exact correlation']:.3f}"
        return f"  {line['task']}: inside 90 % {triple('covered', 3)}; correlation of what is left {both}"
    scores = ", ".join(f"{name} {line[name][0]:.4f}" for name in (OURS, MIXED, EXACT))
    head = f"  {line['task']:11} from {line['known']:3}"
    return f"{head} {scores}; of the way {triple('closed', 2)}; inside 90 % {triple('covered', 3)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slopes", type=float, nargs="*", default=[0.02, 0.06, 0.12], help="SD of slopes, SD a year")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--shape", default="off", choices=("off", "auto"), help="of the preset")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    found: dict[float, list[dict[str, Cells]]] = {slope: [] for slope in given.slopes}
    with ProcessPoolExecutor(given.jobs) as pool:
        asked = [(given.features, slope, seed, given.shape) for seed in range(given.seeds) for slope in given.slopes]
        for done in as_completed([pool.submit(one, *each) for each in asked]):
            slope, cells = done.result()
            found[slope].append(cells)
            print(f"slope {slope}: {len(found[slope])} of {given.seeds}", flush=True)
    results = {str(slope): list(lines(parts)) for slope, parts in found.items()}
    for size, of_slope in results.items():
        print(f"slopes of SD {size} a year\n" + "\n".join(map(said, of_slope)))
    about = {name: getattr(given, name) for name in ("seeds", "features", "shape")}
    facts = {"commit": commit(), "processor": processor(), "flags": flags(), **about}
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(facts | {"slopes": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
