"""Reading a run's folder, and refusing what is none, half of one, or of another release."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...evaluation.metrics import Estimate
from ..evidence import EVIDENCE_VERSION, FILE, digest
from ..run_folder import RUN_VERSION

AGAIN = "Run `secondgram compare` (or demo) again with the same --out"
SHARED = ("seed", "draws", "features", "people")
# Values with intervals by name: one of them, or a list.
ESTIMATES = ("ours_carry", "ridge_carry", "ours_ridge", "slope", "r", "share", "coverage", "copies", "nearer")
PARTS = (
    *(
        "roles",
        "run",
        "table",
        "meaning",
        "absent",
        "features",
        "change",
        "calibration",
        "pit",
        "groups",
        "correlation",
    ),
    *("people", "memory", "training", "values", "provenance"),
)


@dataclass(frozen=True)
class RunFolder:
    """What a run left: `about` of run.json, and the evidence."""

    about: dict[str, Any]
    evidence: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> RunFolder:
        """Raises `InputError` for a folder that is absent, of another version, half written, cut or changed."""
        if not folder.is_dir():
            found = "is a file, not a run's folder" if folder.exists() else "there is no such folder"
            raise InputError(found, file=folder, mend="Give the folder that compare --out or demo --out wrote")
        about = _json(folder / "run.json")
        version = about.get("run_version")
        if version != RUN_VERSION:
            older = isinstance(version, int) and 0 < version < RUN_VERSION
            raise InputError(
                f"has run version {version!r}, this release reads {RUN_VERSION}",
                file=folder / "run.json",
                mend=AGAIN if older else "Use the release that wrote it, or run compare again",
            )
        stored = _json(folder / FILE)
        if stored.get("evidence_version") != EVIDENCE_VERSION:
            raise InputError(
                f"has evidence version {stored.get('evidence_version')!r}, this release reads {EVIDENCE_VERSION}",
                file=folder / FILE,
                mend="Use the release that wrote it, or run compare again",
            )
        evidence = stored.get("content")
        if not isinstance(evidence, dict) or digest(evidence) != stored.get("sha256"):
            raise InputError("was changed after it was written", file=folder / FILE, mend=AGAIN)
        absent = [part for part in PARTS if part not in evidence]
        if absent:
            raise InputError(f"does not hold {absent[0]!r}", file=folder / FILE, mend=AGAIN)
        for name in SHARED:
            here, there = about.get(name), evidence["run"].get(name)
            if here is not None and there is not None and here != there:
                raise InputError(
                    f"is of another run: its {name} is {there}, that of run.json is {here}",
                    file=folder / FILE,
                    mend=AGAIN,
                )
        return cls(about, with_estimates(evidence))


def with_estimates(evidence: dict[str, Any]) -> dict[str, Any]:
    """Evidence as a file holds it, its values with intervals as `Estimate`s."""
    found = dict(evidence)
    for name in ("change", "memory"):
        found[name] = {method: each and _estimates(each) for method, each in found[name].items()}
    found["features"] = _estimates(found["features"])
    found["groups"] = [_estimates(group) for group in found["groups"]]
    found["calibration"] = {method: _estimates(each) for method, each in found["calibration"].items()}
    found["pit"] = {method: [Estimate.of(bar) for bar in bars] for method, bars in found["pit"].items()}
    return found


def _estimates(part: dict[str, Any]) -> dict[str, Any]:
    return {key: _read(value) if key in ESTIMATES else value for key, value in part.items()}


def _read(value: Any) -> Any:
    return [Estimate.of(each) for each in value] if not value or isinstance(value[0], list) else Estimate.of(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            "is missing: the folder holds no run, or one that was interrupted", file=path, mend=AGAIN
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("is cut or damaged: it is no readable JSON", file=path, mend=AGAIN) from error
    if not isinstance(found, dict):
        raise InputError("is damaged: it holds no description", file=path, mend=AGAIN)
    return found
