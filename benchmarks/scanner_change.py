"""Is a change of scanner taken for a change of the brain? python benchmarks/scanner_change.py [--seeds 40] [--jobs N]

Simulated people, some of whom come back on another scanner that moves features by two standard deviations. Fitted are:

    sites of visits      the model as it is
    same scanner         the same, to the pairs on one scanner alone
    never another        the same people, of whom nobody changed the scanner
    one site a person    without knowing that anybody changed

Printed is how far the mean imputed change of people without a follow-up is from the true one, and from that of other
ways, in standard errors of the mean change of pairs on one scanner: averages over seeds and features, with 95 %
intervals over seeds. What `never another` is off by has nothing to do with scanners.

A mean of a few hundred changes is off by luck, too, and this luck is known: the mean of what follow-ups are off by from
the exact posterior mean, of the people who are imputed and of the pairs that teach. Its expectation is zero, so that a
bias is what is left without it, and far fewer seeds show it.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

import secondgram as sg

PEOPLE, FEATURES, PAIRED, OFFSET = 400, 4, 0.5, 2.0
DESIGNS = {
    "half of the people come back on a scanner without baselines": "new",
    "two scanners, half of the people change, either way": "either",
    "two scanners, those who change come back later": "later",
}
WAYS = ("sites of visits", "same scanner", "never another", "one site a person")


def study(design: str, seed: int) -> tuple[sg.SimulatedCohort, sg.Cohort, sg.Cohort]:
    """What was simulated, the same people on scanners, and if none of them had changed."""
    made = sg.simulate(PEOPLE, FEATURES, PAIRED, seed=seed, mode="gaussian")
    rng = np.random.default_rng([seed, 1])
    first = np.where((rng.random(PEOPLE) < 0.5) & (design != "new"), "B", "A").astype(object)
    gap = made.gap
    moved = rng.random(PEOPLE) < 0.5
    if design == "later":
        moved = gap + 0.3 * gap.std() * rng.standard_normal(PEOPLE) > np.median(gap)
    second = np.where(moved, np.where(first == "A", "B", "A"), first)
    sites = np.stack([first, second], axis=1)
    offset = OFFSET * made.baseline.std(axis=0) * np.where(rng.random(FEATURES) < 0.5, -1.0, 1.0)
    stayed = np.stack([first, first], axis=1)

    def scanned(on: np.ndarray) -> sg.Cohort:
        visits = made.visits + np.where(on == "B", 1.0, 0.0)[:, :, None] * offset
        table = made.covariate_table
        return sg.Cohort(made.ids, visits, made.features, times=made.times, covariate_table=table, visit_sites=on)

    return made, scanned(sites), scanned(stayed)


def luck(made: sg.SimulatedCohort, teach: np.ndarray) -> np.ndarray:
    """(D,) what a mean imputed change is off by for no fault of a method; teach : (N,) bool, pairs that are learned
    from."""
    off = made.truth - made.posterior_mean
    return np.asarray(off[teach].mean(axis=0) - off[~made.paired].mean(axis=0))


def changes(
    design: str, made: sg.SimulatedCohort, cohort: sg.Cohort, stayed: sg.Cohort, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mean change (D,) of people without a follow-up: true, true with luck, and by way of fitting; and the standard
    error (D,)."""
    people = cohort.take(~cohort.paired)
    found = {"true": (made.truth - made.baseline)[~cohort.paired].mean(axis=0)}
    ways = {
        "sites of visits": cohort,
        "same scanner": cohort.on_one_site(),
        "never another": stayed,
        "one site a person": replace(cohort, visit_sites=None),
    }
    for name, train in ways.items():
        model = sg.SecondgramImputer(shape="off", seed=seed).fit(train, show=False)
        found[name] = (model.impute(people, draws=1, show=False).mean - people.baseline).mean(axis=0)
    one = ways["same scanner"]
    # On a scanner without baselines a change is the scanner's as much as theirs.
    alone = made.paired & np.isin(made.ids, one.ids[one.paired])
    found |= {
        "true and luck": found["true"] + luck(made, alone if design == "new" else made.paired),
        "true and luck of all": found["true"] + luck(made, made.paired),
    }
    change = (one.followup - one.baseline)[one.paired]
    return found, change.std(axis=0, ddof=1) / np.sqrt(len(change))


def one(design: str, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return changes(design, *study(design, seed), seed)


def told(values: np.ndarray) -> str:
    """Mean over seeds (S, D) and its 95 % interval."""
    each = values.mean(axis=1)
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    return f"{each.mean():+7.3f} ({each.mean() - half:+.3f} to {each.mean() + half:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for words, design in DESIGNS.items():
            print(words)
            each = list(pool.map(partial(one, design), range(chosen.seeds)))
            against_truth = [(WAYS[0], "true and luck"), (WAYS[2], "true and luck of all")]
            others = [(WAYS[0], way) for way in WAYS[1:3]]
            for way, against in [*((way, "true") for way in WAYS), *against_truth, *others]:
                apart = np.array([(found[way] - found[against]) / error for found, error in each])
                # An offset has either sign, and the mean of all would hide it.
                print(f"  {way:18} less {against:20} {told(apart)}, size {told(np.abs(apart))}", flush=True)


if __name__ == "__main__":
    main()
