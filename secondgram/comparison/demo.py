"""The demonstration: from a simulated cohort to a table, a file of draws, three plots and a report."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from ..cohort.scaling import SharedScaling
from ..cohort.simulate import simulate
from ..files import filled
from ..imputation.imputer import SecondgramImputer
from . import plots
from .compare import METHODS, comparison_table, predictions, scored
from .evidence import Evidence
from .methods import BASELINES
from .report import report
from .run_folder import show_comparison, write_run

DRAWS = 20
PAIRED = 0.2
BOOTSTRAPS = 300
PEER = "ridge-gaussian"


def run(out: Path, subjects: int, features: int, seed: int) -> None:
    """Simulate, hold a quarter of the people out whole, learn from the rest, impute, score, write, plot and report."""
    console = Console()
    started = time.monotonic()
    filled(out)
    cohort = simulate(subjects, features, PAIRED, seed, mode="cohort")
    train, test = cohort.split(test=0.25, seed=seed)
    console.print(
        f"Simulated {len(cohort)} people and {features} features; {int(train.paired.sum())} of {len(train)} training "
        f"people have a follow-up. {len(test)} people are held out whole; their true follow-ups are known."
    )
    imputer = SecondgramImputer(seed=seed).fit(train)
    imputer.save(out / "model")
    result = imputer.impute(test.without_followup(), draws=DRAWS, seed=seed + 7, out=out / "imputed.parquet")

    scaling = SharedScaling.fit(test.baseline, test.site)
    drawn = {name: predictions(name, train, test, DRAWS, seed) for name in BASELINES}
    drawn["default"] = (result.mean, result.draws)
    cells = {name: scored(scaling, test, mean, draws) for name, (mean, draws) in drawn.items()}
    table = comparison_table(cells, BOOTSTRAPS, seed)
    table.attrs.update(people=len(test), draws=DRAWS, features=features, seed=seed, pairs=int(train.paired.sum()))
    write_run(out, table, cells, cohort)
    evidence = Evidence(out, list(drawn))
    for name, (_, draws) in drawn.items():
        evidence.add(name, train, test, scaling, draws)
    evidence.fitted("default", imputer.model_)
    evidence.write(table, cells, cohort)
    report(out)

    panels = {
        "change": plots.change(cells["default"]),
        "calibration": plots.calibration({name: cells[name] for name in ("default", PEER)}),
        "wins": plots.wins(cells["default"], cells["carry-forward"]),
    }
    for name, panel in panels.items():
        plots.save(out / f"{name}.png", panel)
    plots.save(out / "overview.png", *panels.values())

    show_comparison(table, console)
    for name in cells:
        console.print(f"  [bold]{name}[/bold]: {METHODS[name]}")
    console.print(
        f"In {out}: imputed.parquet ({len(result.ids)} people x {DRAWS} draws), model, table.csv, table.md, "
        f"features.csv, change.png, calibration.png, wins.png, overview.png, and report.html, which shows and explains "
        f"it all. {time.monotonic() - started:.0f} s."
    )
