"""The demonstration: from a simulated cohort to a table, a file of draws and three plots."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from ..cohort.scaling import SharedScaling
from ..cohort.simulate import simulate
from ..files import explained
from .baselines import BASELINES
from .compare import METHODS, comparison_table, predictions, scored
from .evaluate import true_followup
from .files import show_comparison, write_run
from .plots import interval_coverage, plot_calibration, plot_change, plot_wins

DRAWS = 20
PAIRED = 0.2


def run(out: Path, subjects: int, features: int, seed: int) -> None:
    """Simulate, hold a quarter of the people out whole, learn from the rest, impute, score, write and plot."""
    console = Console()
    started = time.monotonic()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    cohort = simulate(subjects, features, PAIRED, seed, mode="cohort")
    train, test = cohort.split(test=0.25, seed=seed)
    test = test.take(test.scanned)
    console.print(
        f"Simulated {len(cohort)} people and {features} features; {int(train.paired.sum())} of {len(train)} training "
        f"people have a follow-up. {len(test)} people are held out whole; their true follow-ups are known."
    )
    from ..imputation.imputer import SecondgramImputer

    imputer = SecondgramImputer(seed=seed).fit(train)
    imputer.save(out / "model")
    result = imputer.impute(test.without_followup(), draws=DRAWS, seed=seed + 7, out=out / "imputed.parquet")
    scaling = SharedScaling.fit(test.baseline, test.site)
    cells = {name: scored(scaling, test, *predictions(name, train, test, DRAWS, seed)) for name in BASELINES}
    cells["default"] = scored(scaling, test, result.mean, result.draws)
    table = comparison_table(cells, bootstraps=300, seed=seed)
    table.attrs.update(people=len(test), draws=DRAWS, features=features, seed=seed, pairs=int(train.paired.sum()))
    write_run(out, table, cells, cohort)

    truth = scaling.apply(true_followup(test), test.site)
    covered, levels = {}, np.zeros(0)
    for name, draws in (
        ("secondgram", result.draws),
        ("ridge-gaussian", predictions("ridge-gaussian", train, test, DRAWS, seed)[1]),
    ):
        levels, covered[name] = interval_coverage(np.stack([scaling.apply(d, test.site) for d in draws]), truth)
    plot_change(cells["default"], out / "change.png")
    plot_calibration(levels, covered, out / "calibration.png")
    plot_wins(cells["default"], cells["carry-forward"], out / "wins.png")

    show_comparison(table, console)
    for name in cells:
        console.print(f"  [bold]{name}[/bold]: {METHODS[name]}")
    console.print(
        f"In {out}: imputed.parquet ({len(result.ids)} people x {DRAWS} draws), model, table.csv, table.md, "
        f"features.csv, change.png, calibration.png, wins.png. {time.monotonic() - started:.0f} s."
    )
