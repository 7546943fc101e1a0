"""The tasks of benchmarks/cohorts.py: cohorts whole and cut, and who learns and who is judged in each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from bed_simulate import Hard, simulated

import secondgram as sg
from secondgram.comparison.compare import splits as whole_splits
from secondgram.evaluation.evaluate import true_followup

JUDGED = 300
Split = tuple[sg.Cohort, sg.Cohort]


@dataclass(frozen=True)
class Task:
    """A cohort, and how people are held out.

    cohort : from the folder of data.
    pairs : people with a follow-up to learn from, others being judged; None holds out a fifth of all people in turn.
    unpaired : further people to learn from by their first visit alone.
    repeats : choices of people, or five folds so many times.
    quick : belongs to the dozen of `--quick`.  data : needs the folder of data.
    """

    cohort: Callable[[Path], sg.Cohort]
    pairs: int | None = None
    unpaired: int = 0
    repeats: int = 3
    quick: bool = False
    data: bool = False

    def splits(self, name: str, cohort: sg.Cohort) -> Iterator[Split]:
        """(people to learn from, people to judge by); units are held out whole, features are those that can be learned.

        Raises `InputError` for a cohort that is too small.
        """
        if self.pairs is None:
            found: Iterator[Split] = ((a, b) for _, a, b in whole_splits(cohort, 5, self.repeats, seed=0))
        else:
            found = (_cut(self, cohort, zlib.crc32(f"{name} {repeat}".encode())) for repeat in range(self.repeats))
        for learn, judge in found:
            kept = learnable(learn)
            yield (learn, judge) if kept.all() else (only(learn, kept), only(judge, kept))


def _cut(task: Task, cohort: sg.Cohort, seed: int) -> Split:
    assert task.pairs is not None
    rng = np.random.default_rng(seed)
    unit = cohort.units().astype(str)
    names = rng.permutation(np.unique(unit))
    order = np.argsort(np.argsort(names)[np.searchsorted(np.sort(names), unit)], kind="stable")
    paired = order[cohort.paired[order]]
    learned = paired[: task.pairs]
    if len(learned) < task.pairs:
        raise sg.InputError(f"{len(paired)} people have a follow-up, {task.pairs} are to be learned from")
    known = cohort.scanned & np.isfinite(true_followup(cohort)).any(axis=1)
    free = order[~np.isin(unit[order], unit[learned])]
    judged = free[known[free]][:JUDGED]
    others = order[~np.isin(order, learned) & ~np.isin(unit[order], unit[judged]) & cohort.scanned[order]]
    if task.unpaired > len(others):
        # Those judged last are learned from by their first visit instead.
        spare = judged[-(task.unpaired - len(others)) :]
        spare = free[np.isin(unit[free], unit[spare])]
        judged = judged[~np.isin(judged, spare)]
        others = np.concatenate([others, spare])
    others = others[: task.unpaired]
    learn = cohort.take(np.concatenate([learned, others]))
    visits = learn.visits.copy()
    visits[len(learned) :, 1:] = np.nan
    return replace(learn, visits=visits), cohort.take(judged)


def learnable(learn: sg.Cohort) -> np.ndarray:
    """(D,) bool: measured, and not the same throughout, in the people who learn."""
    values = learn.visits.reshape(-1, len(learn.features))
    seen = np.isfinite(values)
    return np.where(seen, values, -np.inf).max(axis=0) > np.where(seen, values, np.inf).min(axis=0)


def only(cohort: sg.Cohort, kept: np.ndarray) -> sg.Cohort:
    """The cohort with the features of a mask (D,); a simulated one keeps its truth and nothing else it knows."""
    names = tuple(name for name, keep in zip(cohort.features, kept, strict=True) if keep)
    changed: dict[str, Any] = {"visits": cohort.visits[:, :, kept], "features": names}
    if isinstance(cohort, sg.SimulatedCohort):
        changed["truth"] = cohort.truth[:, kept]
        gone = {field.name for field in fields(sg.SimulatedCohort)} - {field.name for field in fields(sg.Cohort)}
        changed |= dict.fromkeys(gone - {"truth"})
    return replace(cohort, **changed)


def _some(cohort: sg.Cohort, count: int | None) -> sg.Cohort:
    """So many features, chosen at random, in their order."""
    if count is None or count >= len(cohort.features):
        return cohort
    kept = np.zeros(len(cohort.features), dtype=bool)
    kept[np.random.default_rng(count).permutation(len(kept))[:count]] = True
    return only(cohort, kept)


# -- real cohorts ------------------------------------------------------------------------------------------------------


def _refund(features: int | None = None, target: int = 1) -> Callable[[Path], sg.Cohort]:
    def read(data: Path) -> sg.Cohort:
        file = data / "refund_dti" / "data_ms_full.parquet"
        cohort = sg.read_cohort(file, static=["sex", "pasat"], features=["cca_*", "rcst_*"])
        return _some(cohort.with_target(target), features)

    return read


def _qtab(features: int | None = None) -> Callable[[Path], sg.Cohort]:
    return lambda data: _some(
        sg.read_cohort(data / "qtab_mriqc" / "data.parquet", static=["baseline_age", "sex"], groups="family_id"),
        features,
    )


def _kirby(features: int | None = None) -> Callable[[Path], sg.Cohort]:
    return lambda data: _some(
        sg.read_cohort(data / "kirby21_mricloud" / "data.parquet", static=[], features=["T1vol_*", "dMRI_*"]), features
    )


def _corr(features: int | None = None, site: str | None = None) -> Callable[[Path], sg.Cohort]:
    """The T1w measures; one site is read as a study of its own."""

    def read(data: Path) -> sg.Cohort:
        cohort = sg.read_cohort(data / "corr_qap" / "data.parquet", static=[], site="site", features="anat_*")
        if site is not None and cohort.site is not None:
            cohort = replace(cohort.take(cohort.site == site), site=None)
        return _some(cohort, features)

    return read


# Choices of people where pairs are few: with fewer of them the luck of who is judged decides. Wide ones take long.
CHOICES, CHOICES_WIDE, WIDE = 6, 3, 100
# Where single cells are far from all others, and decide a mean: the judgement's standard error is below two hundredths.
CHOICES_FAR, CHOICES_FARTHEST = 24, 60


def _real(cohort: Callable[[Path], sg.Cohort], pairs: int | None = None, unpaired: int = 0, **more: Any) -> Task:
    more = {"repeats": 1 if pairs is None else CHOICES} | more
    return Task(cohort, pairs, unpaired, data=True, **more)


REAL: dict[str, Task] = {
    "refund": _real(_refund()),
    "refund_20_296": _real(_refund(), 20, repeats=CHOICES_WIDE),
    "refund_50_296": _real(_refund(), 50, repeats=CHOICES_WIDE),
    "refund_20_296_unpaired": _real(_refund(), 20, 40, repeats=CHOICES_WIDE),
    "refund_10_50": _real(_refund(50), 10, repeats=8),
    "refund_20_50": _real(_refund(50), 20, repeats=8, quick=True),
    "refund_50_50": _real(_refund(50), 50, repeats=8),
    "refund_10_5": _real(_refund(5), 10, repeats=10),
    "refund_50_5": _real(_refund(5), 50, repeats=10, quick=True),
    "refund_third_50": _real(_refund(50, target=2), repeats=2),
    "kirby": _real(_kirby()),
    "kirby_296": _real(_kirby(296), repeats=2),
    "kirby_50": _real(_kirby(50), repeats=3, quick=True),
    "kirby_5": _real(_kirby(5)),
    "kirby_10_50": _real(_kirby(50), 10, repeats=10),
    "qtab": _real(_qtab()),
    "qtab_10_5": _real(_qtab(5), 10, repeats=10),
    "qtab_20_50": _real(_qtab(50), 20, quick=True),
    "qtab_50_5": _real(_qtab(5), 50),
    "qtab_50_82": _real(_qtab(), 50),
    "qtab_50_50_unpaired": _real(_qtab(50), 50, 150, quick=True),
    "qtab_150_50": _real(_qtab(50), 150),
    "corr": _real(_corr()),
    "corr_20_5": _real(_corr(5), 20, repeats=8),
    "corr_50": _real(_corr(), 50, repeats=CHOICES_FARTHEST),
    "corr_150": _real(_corr(), 150, repeats=CHOICES_FAR),
    "corr_150_unpaired": _real(_corr(), 150, 400),
    "corr_SWU_4_20": _real(_corr(site="SWU_4"), 20, repeats=CHOICES_FAR, quick=True),
    "corr_SWU_4_150": _real(_corr(site="SWU_4"), 150, repeats=8),
    "corr_UPSM_1_50": _real(_corr(site="UPSM_1"), 50, repeats=8),
    "corr_UM_1": _real(_corr(site="UM_1"), repeats=2),
    "corr_NYU_2_10": _real(_corr(site="NYU_2"), 10, repeats=8),
}


# -- simulated ones ----------------------------------------------------------------------------------------------------


def _hard(pairs: int, features: int, hard: Hard, unpaired: int = 0, *, quick: bool = False, seed: int = 1) -> Task:
    repeats = CHOICES_WIDE if features > WIDE else CHOICES
    people = repeats * (pairs + unpaired) + 2 * JUDGED
    return Task(lambda data: simulated(people, features, hard, seed), pairs, unpaired, repeats, quick)


def _product(mode: str, pairs: int, features: int, unpaired: int, *, quick: bool = False) -> Task:
    repeats = CHOICES_WIDE if features > WIDE else CHOICES
    people = repeats * (pairs + unpaired) + 2 * JUDGED
    return Task(lambda data: sg.simulate(people, features, 1.0, 1, mode=mode), pairs, unpaired, repeats, quick)


SIMULATED: dict[str, Task] = {
    "plain_20_20": _hard(20, 20, Hard(), quick=True),
    "plain_100_20_unpaired": _hard(100, 20, Hard(), 200),
    "t3_50_30": _hard(50, 30, Hard(errors="t3"), quick=True),
    "contaminated_50_30": _hard(50, 30, Hard(contaminated=0.01), quick=True),
    "contaminated_150_30": _hard(150, 30, Hard(contaminated=0.01)),
    "flat_50_30": _hard(50, 30, Hard(flat=0.3), quick=True),
    "flat_20_20": _hard(20, 20, Hard(flat=0.3)),
    "wide_20_300": _hard(20, 300, Hard(), quick=True),
    "wide_40_300_unpaired": _hard(40, 300, Hard(), 60),
    "wide_75_300": _hard(75, 300, Hard()),
    "clusters_60_20": _hard(60, 20, Hard(clusters=0.3), quick=True),
    "clusters_200_20": _hard(200, 20, Hard(clusters=0.3)),
    "lacking_100_20": _hard(100, 20, Hard(lacking=0.7)),
    "holes_80_20": _hard(80, 20, Hard(holes=0.1)),
    "holes_80_20_unpaired": _hard(80, 20, Hard(holes=0.1), 300),
    "covariate_60_15": _hard(60, 15, Hard(covariate=0.2)),
    "skewed_60_20": _hard(60, 20, Hard(errors="skewed", lognormal=0.5)),
    "three_visits_60_20": _hard(60, 20, Hard(visits=3), 60),
    "cohort_15": _product("cohort", 15, 24, 100),
    "cohort_50": _product("cohort", 50, 24, 300),
    "cohort_300": _product("cohort", 300, 24, 700),
    "gaussian_15": _product("gaussian", 15, 16, 100),
    "gaussian_50": _product("gaussian", 50, 48, 300),
    "gaussian_300": _product("gaussian", 300, 32, 700),
    "converters_50": _product("converters", 50, 24, 300),
    "converters_300": _product("converters", 300, 24, 700),
}
TASKS: dict[str, Task] = REAL | SIMULATED
