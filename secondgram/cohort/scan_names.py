"""Scans named by person and visit: `70001_01.long.70001_base`, `sub-01_ses-2_T1w`, `011_S_0002_bl`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .visit_labels import VisitLabel

LONG = ".long."
_BIDS = re.compile(r"(?P<person>sub-[A-Za-z0-9]+)_(?P<visit>ses-[A-Za-z0-9]+)(?:_.*)?")
_STUDIES = (
    # ADNI's ids have two of the marks that stand before visits elsewhere.
    re.compile(r"(?P<person>\d{3}_S_\d{4,5})[_.-](?P<visit>.+)"),
    re.compile(r"(?P<person>OAS[12]_\d{4})_(?P<visit>MR\d+)(?:_.*)?"),
    re.compile(r"(?P<person>OAS\d{5})_.*?(?P<visit>d\d{4})(?:_.*)?"),
    re.compile(r"(?P<person>(?:sub-)?NDAR_?INV[A-Z0-9]+)[_.](?:ses-)?(?P<visit>.+)"),
)
# Names behind that of the visit, of images and files.
_BEHIND = re.compile(r"(?:[_.-](?:t1w?|mprage|nii|gz|mgz|mgh|stats|fs\d*|freesurfer\d*|recon|reconall))+$", re.I)
_MARK = re.compile(r"[_.-]")


def split_names(names: Sequence[str], any_form: bool, alone: bool = False) -> tuple[list[str], list[str]] | None:
    """Person and visit of each scan; None where the names do not have both.

    any_form : whether `<person>_<visit>` counts, besides the longitudinal stream's names, BIDS and those of well-known
    studies.  alone : whether it is known that they are named so, though few names may not show it.
    """
    plain = [_BEHIND.sub("", name.strip().rstrip("/").rsplit("/", 1)[-1]) for name in names]
    if not plain or not all(plain):
        return None
    if any(LONG in name for name in plain):
        return _pairs([_of_base(*name.split(LONG, 1)) if LONG in name else None for name in plain])
    for form in (_BIDS, *_STUDIES):
        matches = [form.fullmatch(name) for name in plain]
        if all(matches):
            return _pairs([(match["person"], match["visit"]) for match in matches if match])
    return _by_last_mark(plain, alone) if any_form else None


def _pairs(found: Sequence[tuple[str, str] | None]) -> tuple[list[str], list[str]] | None:
    known = [pair for pair in found if pair is not None]
    if len(known) < len(found):
        return None
    return [person for person, _ in known], [visit for _, visit in known]


def _of_base(scan: str, base: str) -> tuple[str, str] | None:
    """Person and visit of a scan, given the name of its person's template."""
    for form in (_BIDS, *_STUDIES):
        match = form.fullmatch(scan)
        if match:
            return match["person"], match["visit"]
    ends = [mark.start() for mark in _MARK.finditer(scan)]
    mine, theirs = _MARK.split(scan), _MARK.split(base)
    for count in range(len(mine) - 1, 0, -1):
        places = range(len(theirs) - count + 1)
        if any(theirs[place : place + count] == mine[:count] for place in places):
            return scan[: ends[count - 1]], scan[ends[count - 1] + 1 :]
    return None


def _by_last_mark(names: Sequence[str], alone: bool) -> tuple[list[str], list[str]] | None:
    """Split at the last mark, where what stands behind it are visits that people share, and some have several."""
    cut = [re.fullmatch(r"(.+)[_.-]([^_.-]+)", name) for name in names]
    if not all(cut):
        return None
    people, visits = [each[1] for each in cut if each], [each[2] for each in cut if each]
    read = [VisitLabel.of(visit) for visit in visits]
    if any(each.stage == "unknown" for each in read):
        return None
    # `0002` may be half of an id, unless people share it; `01`, `bl` and `d0129` are visits.
    plain = not any(re.fullmatch(r"\d{3,}", visit) for visit in visits)
    shared = 2 * len(set(visits)) <= len(visits)
    several = max(Counter(people).values()) > 1
    return (people, visits) if alone or (several and (plain or shared)) else None
