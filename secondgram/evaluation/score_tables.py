"""Tables of scores and of a model's verdict for the terminal."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table


def show_scores(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print the scores of one imputation."""
    console = console or Console()
    lines = Table(title=f"{table.attrs.get('people', '?')} people")
    for column in ("metric", "value", "95 % interval", "meaning"):
        lines.add_column(column, justify="right" if column in ("value", "95 % interval") else "left")
    for name, row in table.iterrows():
        if np.isfinite(row["value"]):
            lines.add_row(str(name), f"{row['value']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", row["meaning"])
        else:
            lines.add_row(str(name), "-", "-", row["meaning"])
    console.print(lines)


def show_verdict(ladder: pd.DataFrame, verdict: pd.DataFrame, console: Console | None = None) -> None:
    """Print what each rung earned, and how many features have which verdict."""
    console = console or Console()
    lines = Table(title="what each rung earned", caption="on training people it was not fitted on; 95 % intervals")
    for column in ("rung", "choice", "CRPS", "difference"):
        lines.add_column(column, justify="left" if column in ("rung", "choice") else "right")
    for rung, row in ladder.iterrows():
        change = f"{row['difference']:+.4f}\n[dim]{row['low']:+.4f} {row['high']:+.4f}[/dim]"
        lines.add_row(
            str(rung),
            str(row["choice"]),
            f"{row['crps']:.4f}" if np.isfinite(row["crps"]) else "-",
            change if np.isfinite(row["difference"]) and rung != ladder.index[0] else "-",
        )
    console.print(lines)
    better = (verdict["high"] < 0) & (verdict["mean"] != "carry_forward")
    carried = int((verdict["mean"] == "carry_forward").sum())
    console.print(
        f"{len(verdict)} features: {int(better.sum())} clearly better than carry-forward, {carried} carried forward, "
        f"{len(verdict) - int(better.sum()) - carried} not clearly better"
    )
