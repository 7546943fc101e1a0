"""A comparison for reading: its folder, Markdown, and the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ..cohort.table import Cohort
from ..evaluation.metrics import BETTER, METRICS, Cells, further_per_feature, nominal_coverage, per_feature
from ..evaluation.metrics.metric_catalogue import COLUMNS
from ..files import filled, writing
from ..imputation.provenance import versions

RUN_VERSION = 2


def write_run(folder: str | os.PathLike[str], table: pd.DataFrame, cells: dict[str, Cells], cohort: Cohort) -> None:
    """Write table.csv, table.md, features.csv and run.json, each whole or not at all."""
    folder = filled(folder)
    features = []
    for name, part in cells.items():
        once = np.ones((1, len(part.truth)))
        values = per_feature(part, once) | (further_per_feature(part, once) if part.joint else {})
        frame = pd.DataFrame({metric: column[0] for metric, column in values.items()})
        frame.insert(0, "feature", list(cohort.features))
        frame.insert(0, "method", name)
        features.append(frame)
    about = {"run_version": RUN_VERSION, **table.attrs, "source": Path(cohort.source or "simulated").name}
    about |= {"notes": list(cohort.notes), "versions": versions()}
    contents = {
        "table.csv": table.to_csv(index=False),
        "table.md": markdown(table),
        "features.csv": pd.concat(features).to_csv(index=False),
        "run.json": json.dumps(about, indent=1) + "\n",
    }
    for name, text in contents.items():
        with writing(folder / name) as file:
            file.write(text.encode())


def _cell(row: pd.Series) -> str:
    if not np.isfinite(row["value"]):
        return "-"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison with the methods of the lowest CRPS first, and those without one last."""
    crps = table[table["metric"] == "crps"].set_index("method")["value"]
    order = {name: place for place, name in enumerate(crps.sort_values(kind="stable").index)}
    return table.sort_values("method", key=lambda names: names.map(order), kind="stable")


def markdown(table: pd.DataFrame) -> str:
    """A comparison as a Markdown table: methods down by CRPS, metrics across, 95 % intervals in brackets."""
    table = ranked(table)
    lines = ["| method | " + " | ".join(METRICS) + " |", "|" + " --- |" * (len(METRICS) + 1)]
    for name, rows in table.groupby("method", sort=False):
        by_metric = rows.set_index("metric")
        lines.append(f"| {name} | " + " | ".join(_cell(by_metric.loc[metric]) for metric in METRICS) + " |")
    judged = "verdict" in table
    against = table[(table["metric"].isin(["crps", "rmse"])) & table["difference"].notna()]
    if len(against):
        words = ["CRPS against ridge-gaussian", "against carry-forward"] if judged else []
        heads = ["difference to ridge-gaussian", "crps", "rmse", *words]
        lines += ["", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for name, rows in against.groupby("method", sort=False):
            by_metric = rows.set_index("metric")
            cells = [
                f"{r['difference']:+.4f} ({r['difference_low']:+.4f} to {r['difference_high']:+.4f})"
                for r in (by_metric.loc["crps"], by_metric.loc["rmse"])
            ]
            words = by_metric.loc["crps", ["verdict", "carry_verdict"]] if judged else []
            cells += [word if isinstance(word, str) else "-" for word in words]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    left_out = [f"- {line}" for line in not_compared(table)]
    return "\n".join([*lines, *([""] if left_out else []), *left_out]) + "\n"


def not_compared(table: pd.DataFrame) -> list[str]:
    """Methods that failed or were left out, one line each."""
    failed = table.attrs.get("failed", {})
    return [
        *(f"{name} failed: {why}" for name, why in failed.items()),
        *(f"{name} was left out: {why}" for name, why in table.attrs.get("skipped", {}).items()),
    ]


def show_comparison(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a comparison, the best method first and the best value of each metric in bold."""
    console = console or Console()
    attrs, table = table.attrs, ranked(table)
    lines = Table(
        title=f"{_whom(attrs)}, {attrs['features']} features, {attrs['draws']} draws",
        caption="95 % bootstrap intervals over people; rmse and crps in baseline SD; "
        f"nominal coverage {nominal_coverage(attrs['draws']):.3f}",
    )
    lines.add_column("method", no_wrap=True)
    for metric in METRICS:
        lines.add_column(COLUMNS[metric], justify="right")
    best = {metric: _best(table, metric, attrs["draws"]) for metric in METRICS}
    for name, rows in table.groupby("method", sort=False):
        by_metric = rows.set_index("metric")
        texts = []
        for metric in METRICS:
            row = by_metric.loc[metric]
            if not np.isfinite(row["value"]):
                texts.append("-")
                continue
            value = f"{row['value']:.3f}"
            value = f"[bold]{value}[/bold]" if name in best[metric] else value
            texts.append(f"{value}\n[dim]{row['low']:.3f} {row['high']:.3f}[/dim]")
        lines.add_row(str(name), *texts)
    console.print(lines)
    for line in not_compared(table):
        console.print(line, markup=False)


def _whom(attrs: Mapping[Hashable, Any]) -> str:
    if "task" in attrs:
        return f"{attrs['people']} hidden visits ({attrs['task']}) of people held out whole"
    return f"{attrs['people']} people held out whole"


def _best(table: pd.DataFrame, metric: str, draws: int) -> set[str]:
    rows = table[(table["metric"] == metric) & table["value"].notna()].set_index("method")["value"]
    if rows.empty:
        return set()
    if metric == "coverage_90":
        distance = (rows - nominal_coverage(draws)).abs()
        return set(distance.index[distance == distance.min()])
    target = rows.max() if BETTER[metric] == "higher" else rows.min()
    return set(rows.index[np.isclose(rows, target)])
