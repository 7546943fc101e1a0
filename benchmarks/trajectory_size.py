"""Time and memory of trajectories of the size of UK Biobank on this processor:

    python benchmarks/trajectory_size.py [--people N] [--features N] [--draws N] [--folder FOLDER]

41,706 simulated people of 769 features and 3 visits, of whom 12 % come back and miss 15 % of their visits. Each step is
a process of its own: the fit (without the diffusion model), draws of all missing visits to Parquet, and for comparison
the follow-ups of the same people by a model of two visits. Memory is the peak of the process less what it held before,
the table among it. Writes results/trajectory_size.json, by processor; other sizes are for a look, and not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ledger import commit, flags, processor

from secondgram.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "trajectory_size.json"
PEOPLE, FEATURES, VISITS, PAIRED, DRAWS = 41_706, 769, 3, 0.12, 20
STEP = """
import json, os, resource, sys, time
from pathlib import Path
import secondgram as sg

step, folder = sys.argv[1], Path(sys.argv[2])
people, features, visits, paired, draws = (float(each) for each in sys.argv[3:])
cohort = sg.simulate(int(people), int(features), paired, 0, "trajectories", visits=int(visits), sites=1)
if "two" in step:
    cohort = sg.Cohort(cohort.ids, cohort.visits[:, :2].copy(), cohort.features, times=cohort.times[:, :2],
                       covariate_table=cohort.covariate_table)
history = "first" if "two" in step else "all"
asked = {} if "two" in step else {"visits": "missing"}
# As the table is read: what simulating took is given back.
def resident():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
model = None if step.startswith("fit") else sg.load(folder / history)
before = resident()
open("/proc/self/clear_refs", "w").write("5")
wall, processor = time.perf_counter(), time.process_time()
if model is None:
    sg.SecondgramImputer(seed=0, shape="off", history=history).fit(cohort, show=False).save(folder / history)
    values = 0
else:
    result = model.impute(cohort, draws=int(draws), show=False, **asked)
    result.to_parquet(folder / "draws.parquet")
    values = int(draws) * len(result.rows if asked else result.ids) * len(cohort.features)
print(json.dumps({
    "seconds": time.perf_counter() - wall,
    "processor_seconds": time.process_time() - processor,
    "table_bytes": cohort.visits.nbytes,
    "peak_bytes": peak() - before,
    "values": values,
}))
"""


def run(step: str, folder: Path, sizes: list[float]) -> dict[str, Any]:
    """One step in a process of its own."""
    command = [sys.executable, "-c", STEP, step, str(folder), *map(str, sizes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["values"]:
        found["values_a_second"] = found["values"] / found["seconds"]
    print(step, json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--folder", type=Path, help="for draws of several GB; a temporary one if left out")
    given = parser.parse_args()
    sizes = [given.people, given.features, VISITS, PAIRED, given.draws]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        steps = ("fit", "impute", "fit two visits", "impute two visits")
        found: dict[str, Any] = {step: run(step, Path(folder), sizes) for step in steps}
    found["share of values a second"] = (
        found["impute"]["values_a_second"] / found["impute two visits"]["values_a_second"]
    )
    print(f"of the values a second of two visits: {found['share of values a second']:.2f}")
    if (given.people, given.features, given.draws) != (PEOPLE, FEATURES, DRAWS):
        return
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    kept[processor()] = found | {"commit": commit(), "flags": flags()}
    with replacing(RESULT) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
