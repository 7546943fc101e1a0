"""Time and memory of fitting a cohort of the size of UK Biobank on this processor:

    python benchmarks/fitting.py [--against FOLDER] [--shape off|auto] [--turns N] [--people N] [--pairs N]

41,706 simulated people of 769 features, 4,997 of them with a follow-up and dropping out, each fit in a process of its
own. --against is the checkout of another commit, with its extension built: both are then timed in turns, and the ratio
of the lesser times is what a change has cost. Writes results/cpu_fitting.json, by processor; other numbers of people
or pairs are for a look, and not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ledger import commit, flags, processor

from secondgram.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "cpu_fitting.json"
PEOPLE, PAIRS, FEATURES = 41_706, 4_997, 769
# Of any commit: nothing but the public names.
FIT = """
import json, resource, sys, time
import secondgram as sg
people, features, pairs, shape = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cohort = sg.simulate(people, features, pairs / people, seed=0, mode="cohort")
wall, processor = time.perf_counter(), time.process_time()
sg.SecondgramImputer(seed=0, shape=shape).fit(cohort, show=False)
print(json.dumps({
    "package": sg.__file__,
    "pairs": int(cohort.paired.sum()),
    "seconds": time.perf_counter() - wall,
    "processor_seconds": time.process_time() - processor,
    "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""


def fit(tree: Path, people: int, pairs: int, shape: str) -> dict[str, Any]:
    """One fit by the package in this tree."""
    command = [sys.executable, "-c", FIT, str(people), str(FEATURES), str(pairs), shape]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}
    )
    found: dict[str, Any] = json.loads(done.stdout)
    package = Path(found.pop("package"))
    if package.parents[1] != tree:
        raise SystemExit(f"{package} was timed, and not that of {tree}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="checkout of another commit, its extension built")
    parser.add_argument("--shape", choices=("off", "auto"), default="off", help="of the preset; auto trains denoisers")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    given = parser.parse_args()
    trees = {"this": ROOT} | ({} if given.against is None else {"against": given.against.resolve()})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for turn in range(given.turns):
        # Each is first half of the time.
        for name in sorted(trees, reverse=bool(turn % 2)):
            runs[name].append(fit(trees[name], given.people, given.pairs, given.shape))
            print(name, json.dumps(runs[name][-1]), flush=True)
    found: dict[str, Any] = {
        name: min(each, key=lambda run: run["seconds"]) | {"commit": commit(trees[name]), "turns": len(each)}
        for name, each in runs.items()
    }
    if "against" in found:
        found["ratio"] = {
            part: found["this"][part] / found["against"][part]
            for part in ("seconds", "processor_seconds", "peak_bytes")
        }
    print(json.dumps(found, indent=1))
    if (given.people, given.pairs) != (PEOPLE, PAIRS):
        return
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    kept.setdefault(processor(), {})[f"shape {given.shape}"] = found | {"flags": flags()}
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
