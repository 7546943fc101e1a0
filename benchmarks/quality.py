"""Every table of docs/results.md, by one command: python benchmarks/quality.py [--data FOLDER] [--only NAME ...]

Each part is a cross-validation over people held out whole (`secondgram.compare`). Nearly
all of the time goes to the published method. Real cohorts are read from the folder of data; one that is not
there is left out with a line that says so, and keeps the table it had.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
import pandas as pd
import results_page
import win_tie_loss

import secondgram as sg
from secondgram.comparison.compare import ALL
from secondgram.comparison.run_folder import markdown, ranked
from secondgram.files import remove, replacing

ROOT = Path(__file__).resolve().parent.parent
# With 19 draws the interval between the smallest and the largest has a nominal share of exactly 0.9.
DRAWS = 19
RUNS = Path(__file__).resolve().parent / "results" / "quality"
PAGE = ROOT / "docs" / "results.md"
KEPT = ("table.csv", "run.json", win_tie_loss.FILE)
STANDARD = ("carry-forward", "mean-change", "ridge", "ridge-gaussian", "ridge-empirical", "paper", "default")
ORDER = ("carry-forward", "ridge-gaussian", "paper-no-self", "paper", "default", "exact-posterior")


@dataclass(frozen=True)
class Part:
    """One table: its title, the cohort, the methods, and how people are held out."""

    title: str
    text: str
    cohort: Callable[[Path], sg.Cohort]
    methods: tuple[str, ...] = STANDARD
    folds: int = 5
    repeats: int = 1


def _refund(data: Path) -> sg.Cohort:
    file = data / "refund_dti" / "data_ms_full.parquet"
    return sg.read_cohort(file, static=["sex", "pasat"], features=["cca_*", "rcst_*"])


def _corr_qap(data: Path) -> sg.Cohort:
    return sg.read_cohort(data / "corr_qap" / "data.parquet", site="site")


def _qtab_mriqc(data: Path) -> sg.Cohort:
    return sg.read_cohort(data / "qtab_mriqc" / "data.parquet", groups="family_id")


def _simulated(data: Path) -> sg.Cohort:
    return sg.simulate(2000, 48, 0.25, 0, mode="cohort")


def _order(seed: int) -> Part:
    return Part(
        f"Simulated, mode gaussian, seed {seed}: the published order",
        "6,000 people, 128 features, 12 % with a follow-up; a quarter of them held out whole. The exact posterior "
        "is the best any method can do. `paper-no-self` is the published method without self-conditioning. `r draw` "
        "rewards draws that vary too little, carry-forward being the extreme: read it beside the coverage. Where the "
        "published training goes on until it copies the baseline, its `r draw` passes the exact posterior's and its "
        "intervals hold about half of the truth.",
        lambda data: sg.simulate(6000, 128, 0.12, seed, mode="gaussian"),
        ORDER,
        folds=1,
    )


def _every(title: str, size: str, cohort: Callable[[Path], sg.Cohort], folds: int = 1) -> Part:
    """Every method there is, on fewer people held out: the slow ones take minutes a fit."""
    return Part(f"Every method: {title}", size, cohort, (ALL,), folds)


PARTS: dict[str, Part] = {
    "refund_dti": Part(
        "Real: refund_dti, diffusion-MRI tract profiles in multiple sclerosis",
        "100 people, 2 to 8 visits, 296 features; 5 folds of whole people.",
        _refund,
    ),
    "corr_qap": Part(
        "Real: corr_qap, quality measures of T1-weighted and resting-state scans",
        "1,482 people of 32 sites, 46 features, scaled within site; 5 folds of whole people.",
        _corr_qap,
    ),
    "qtab_mriqc": Part(
        "Real: qtab_mriqc, image-quality measures of adolescent twins",
        "415 people, 82 features; 5 folds, families kept together.",
        _qtab_mriqc,
    ),
    "simulated": Part(
        "Simulated, mode cohort",
        "2,000 people, 48 features, a quarter with a follow-up; 5 folds of whole people, and everyone's hidden "
        "follow-up is the truth.",
        _simulated,
    ),
    "order_0": _order(0),
    "order_1": _order(1),
    "order_2": _order(2),
    "every_refund_dti": _every("refund_dti", "100 people, 296 features; 2 folds of whole people.", _refund, 2),
    "every_qtab_mriqc": _every(
        "qtab_mriqc",
        "415 people, 82 features; a quarter held out whole, families kept together.",
        _qtab_mriqc,
    ),
    "every_corr_qap": _every(
        "corr_qap",
        "1,482 people of 32 sites, 46 features, scaled within site; a quarter held out whole.",
        _corr_qap,
    ),
    "every_simulated": _every(
        "simulated, mode cohort",
        "2,000 people, 48 features, a quarter with a follow-up; a quarter held out whole.",
        _simulated,
    ),
    "every_gaussian": _every(
        "simulated, mode gaussian",
        "2,000 people, 48 features, a quarter with a follow-up; a quarter held out whole. The exact posterior is the "
        "best any method can do.",
        lambda data: sg.simulate(2000, 48, 0.25, 0, mode="gaussian"),
    ),
}


def run(name: str, part: Part, data: Path, seed: int, methods: list[str] | None) -> None:
    """Compare and write the table and what was run; methods that are not run this time keep the rows they had."""
    try:
        cohort = part.cohort(data)
    except sg.InputError as error:
        print(f"{name}: left out. {error}")
        return
    old = _earlier(name)
    asked = ALL if ALL in (methods or part.methods) else methods or part.methods
    if ALL in part.methods and asked != ALL:
        # Where it wins and loses is said against these.
        asked = list(dict.fromkeys([*asked, win_tie_loss.OURS, *win_tie_loss.PEERS.values()]))
    table = sg.compare(cohort, asked, part.folds, DRAWS, seed=seed, repeats=part.repeats, out=RUNS / name, show=False)
    if ALL in part.methods:
        with replacing(RUNS / name / win_tie_loss.FILE) as temporary:
            temporary.write_text(json.dumps(win_tie_loss.kept(RUNS / name)) + "\n", encoding="utf-8")
    # The rest is for looking at, not for keeping.
    for path in (RUNS / name).iterdir():
        if path.name not in KEPT:
            remove(path)
    about = json.loads((RUNS / name / "run.json").read_text(encoding="utf-8"))
    made = dict.fromkeys(table["method"], ledger.commit())
    if old is not None:
        kept = old[0][~old[0]["method"].isin(made)]
        table = ranked(pd.concat([kept, table]))
        table.to_csv(RUNS / name / "table.csv", index=False)
        made = {method: made.get(method) or old[1].get(method, "unknown") for method in table["method"].unique()}
    about |= {"command": f"python benchmarks/quality.py --only {name}", "commits": made, "machine": platform.machine()}
    (RUNS / name / "run.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"{name}\n{markdown(table)}", flush=True)


def _earlier(name: str) -> tuple[pd.DataFrame, dict[str, str]] | None:
    """The table there is, and the commit of each method in it."""
    if not (RUNS / name / "table.csv").exists():
        return None
    table = pd.read_csv(RUNS / name / "table.csv")
    about = json.loads((RUNS / name / "run.json").read_text(encoding="utf-8"))
    return table, about.get("commits") or dict.fromkeys(table["method"], about["commit"])


def _commits(about: dict[str, Any]) -> str:
    """Methods by the commit that made them."""
    made: dict[str, list[str]] = {}
    for method, commit in (about.get("commits") or {"all": about["commit"]}).items():
        made.setdefault(commit, []).append(method)
    if len(made) == 1:
        return f"commit {next(iter(made))}"
    return ", ".join(f"commit {commit} ({', '.join(methods)})" for commit, methods in made.items())


def write_page() -> None:
    """Write docs/results.md from the tables there are."""
    lines = [PREFACE]
    for name, part in PARTS.items():
        if not (RUNS / name / "table.csv").exists():
            continue
        about = json.loads((RUNS / name / "run.json").read_text(encoding="utf-8"))
        table = pd.read_csv(RUNS / name / "table.csv")
        lines += [f"## {part.title}", "", part.text, "", markdown(table)]
        versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
        lines += [
            f"`{about['command']}`: {about['people']} people scored, {about['pairs']} with a "
            f"measured follow-up, {about['draws']} draws, seed {about['seed']}; {_commits(about)}; {versions}.",
            "",
        ]
        for what, why in {**about.get("failed", {}), **about.get("skipped", {})}.items():
            lines += [f"Not compared: `{what}`, {why}.", ""]
    every = [(part.title.partition(": ")[2], RUNS / name) for name, part in PARTS.items() if ALL in part.methods]
    lines += win_tie_loss.section(every)
    for section in (results_page.bed, results_page.rungs, results_page.ablations, results_page.gradients):
        lines += section()
    with replacing(PAGE) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


PREFACE = """# Results

Written by `python benchmarks/quality.py`; every number is from the command named below it. People (and families) of the
test set are held out whole: their baselines too are unseen by anything fitted. Brackets hold 95 % bootstrap intervals
over people or families. RMSE and CRPS are in baseline SD, within site where sites are declared; lower is better.
`r draw` judges a single draw, which a point prediction does not have: there it equals `r mean`, and CRPS is the mean
absolute error. The central interval of 19 draws has a nominal share of 0.900. A difference is to ridge-gaussian (ridge,
with draws from a Gaussian of its out-of-fold residuals) on the same people and resamples; below zero is better than it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real cohorts")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="parts to run; all if left out")
    parser.add_argument("--methods", nargs="*", help="only these methods, or all; others keep their rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="only write the page from the tables there are")
    given = parser.parse_args()
    for name in [] if given.page else given.only or list(PARTS):
        run(name, PARTS[name], given.data, given.seed, given.methods)
    write_page()


if __name__ == "__main__":
    main()
