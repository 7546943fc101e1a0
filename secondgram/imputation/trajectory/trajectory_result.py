"""`TrajectoryImputation`: visits of each person that are drawn together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from ...errors import InputError
from ...ops.buffers import empty
from ...ops.thread_pool import in_parallel
from ..default.joint import Conditional, Drawn
from ..model_data import People
from ..numeric_faults import whole
from ..provenance import tree_digest
from ..result import CHUNK_CELLS, Imputation
from ..stream import DrawColumns, Part, write_draws
from .joint_visits import conditioned, draw_visits
from .posterior import Posterior
from .targets import Targets
from .trajectory_model import TrajectoryModel

# Share of the draws between the ends of an interval of `trajectories`.
INTERVAL = 0.9


@dataclass(eq=False, repr=False)
class TrajectoryImputation(Imputation):
    """Visits that N people missed, or times between: R rows, M draws each, D features.

    The visits of one draw of a person belong together, and lack the same covariates alike. Every draw is keyed by
    seed, person, visit (or asked time) and draw number: it can be made again at any time, with any other people.

    people : N, and all that is known of them in their history;  targets : the rows;  otherwise as `Imputation`, N of
    which is R.
    """

    targets: Targets = None  # type: ignore[assignment]

    @property
    def ids(self) -> np.ndarray:
        """(R,) subject ids, those of a person together."""
        return self.people.ids[self.targets.person]

    @property
    def gap(self) -> np.ndarray:
        """(R,) years after the first visit."""
        targets = self.targets
        return np.asarray(targets.times[targets.person, targets.slot] - targets.times[targets.person, 0])

    @property
    def baseline(self) -> np.ndarray:
        """(R, D) the first visit, NaN where it is not known."""
        return self.people.baseline[self.targets.person]

    @property
    def rows(self) -> pd.DataFrame:
        """R rows: `subject_id`, `visit` (its label, or the asked time) and `time_years` after the first visit."""
        labels = np.array(self.targets.labels, dtype=object)[self.targets.slot]
        return pd.DataFrame({"subject_id": self.ids, "visit": labels, "time_years": self.gap})

    def __repr__(self) -> str:
        people = len(np.unique(self.targets.person))
        return (
            f"TrajectoryImputation({len(self.targets)} visits of {people} people, {len(self.draw_numbers)} draws, "
            f"{len(self.features)} features)"
        )

    @cached_property
    def draws(self) -> np.ndarray:
        """(M, R, D) draws in original units, made at the first use and then kept. For large cohorts use `chunks`."""
        return np.concatenate([self._together(*part) for _, part in self._visits()], axis=1)

    @cached_property
    def mean(self) -> np.ndarray:
        """(R, D) posterior means given what is known, original units."""
        return np.concatenate([self._expected(*part) for _, part in self._visits()])

    def covariates(self, people: People | None = None) -> dict[str, np.ndarray]:
        """None: an analysis takes one imputed visit."""
        return {}

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Draws of a few people at a time: (slice of the R rows, (M, r, D)). Nothing is kept."""
        for rows, part in self._visits():
            yield rows, self._together(*part)

    def trajectories(self, subject: str) -> pd.DataFrame:
        """A person's visits in the order of time, for a plot.

        Columns `feature`, `visit`, `time_years`, `measured`, `value` (measured, or the posterior mean), `low` and
        `high` (of the 90 % interval; the value itself where it was measured). Raises `InputError` for someone who is
        not among the imputed.
        """
        place = np.flatnonzero(self.people.ids == str(subject))
        if not len(place):
            raise InputError(f"subject {subject} was not imputed", mend=f"Imputed were {len(self.people)} people")
        only = slice(int(place[0]), int(place[0]) + 1)
        people, targets = self.people.take(only), self.targets.take(only)
        mean = self._expected(people, targets)
        low, high = np.quantile(self._together(people, targets), [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
        assert people.history is not None
        known, times = people.history.visits[0], targets.times[0] - targets.times[0, 0]
        row_of = {int(targets.slot[row]): row for row in np.flatnonzero(~targets.alone)}
        found = []
        for column, name in enumerate(self.features):
            for slot in np.argsort(times, kind="stable"):
                value, row = known[slot, column], row_of.get(int(slot))
                if np.isfinite(value):
                    found.append((name, targets.labels[slot], times[slot], True, value, value, value))
                elif row is not None:
                    of = mean[row, column], low[row, column], high[row, column]
                    found.append((name, targets.labels[slot], times[slot], False, *of))
        return pd.DataFrame(found, columns=["feature", "visit", "time_years", "measured", "value", "low", "high"])

    def to_parquet(self, path: str | os.PathLike[str], resume: bool = False, show: bool = False) -> None:
        """Write subject_id, visit, draw and the features, one row a visit and draw, in bounded memory.

        resume=True goes on where an interrupted call with the same path stopped.
        """
        columns = DrawColumns("", self.features, self.draw_numbers, self.people.baseline.dtype)
        self.notes += write_draws(
            path, columns, self._parts(), len(self.targets), self._facts, resume=resume, show=show
        )

    @property
    def chunk_people(self) -> int:
        """People per chunk; a function of the shape alone, so that files are cut alike whatever the machine."""
        cells = len(self.draw_numbers) * len(self.targets.labels) * len(self.features)
        return max(1, CHUNK_CELLS // max(1, cells))

    def _visits(self) -> Iterator[tuple[slice, tuple[People, Targets]]]:
        """Slices of the rows, and their people and targets."""
        start = 0
        for people in self._slices():
            targets = self.targets.take(people)
            yield slice(start, start + len(targets)), (self.people.take(people), targets)
            start += len(targets)

    def _parts(self) -> Iterator[Part]:
        labels = np.array(self.targets.labels, dtype=object)
        for _, (people, targets) in self._visits():
            ids = people.ids[targets.person]
            sample, finish = partial(self._sampled, people, targets), partial(self._together, people, targets)
            yield Part(ids, sample, finish, labels[targets.slot])

    def _facts(self) -> dict[str, Any]:
        targets = self.targets
        parts = (targets.person, targets.slot, targets.turn, targets.alone, targets.times)
        return super()._facts() | {"visits": tree_digest([list(targets.labels), *parts])}

    def _sampled(self, people: People, targets: Targets) -> np.ndarray:
        """The components that come from the denoiser: (M, R, k)."""
        return self._sample(conditioned(people, targets, np.arange(len(targets))))

    def _together(self, people: People, targets: Targets, sampled: np.ndarray | None = None) -> np.ndarray:
        """(M, R, D) from what `_sampled` gave."""
        model: TrajectoryModel = self.model  # type: ignore[assignment]
        components = self._sampled(people, targets) if sampled is None else sampled
        found = empty((len(self.features), len(targets), len(self.draw_numbers)), people.baseline.dtype)

        def of_some(some: slice) -> None:
            mine = np.flatnonzero((targets.person >= some.start) & (targets.person < some.stop))
            own = slice(mine[0], mine[-1] + 1)

            def finish(
                people: People, posterior: Posterior, rows: np.ndarray, given: Conditional | None, tells: bool
            ) -> Drawn:
                part, inner = components[:, own][:, rows], model.anchored(people, posterior)
                return model.ladder_model.finish_given(inner, self.draw_numbers, self.seed, part, given, tells)

            draw_visits(finish, model.posterior, model.anchor.s2, people.take(some), targets.take(some), found[:, own])

        half = (len(people) + 1) // 2
        with self._as_asked():
            in_parallel(of_some, [slice(0, half), slice(half, len(people))][: len(people)])
        return whole(found.transpose(2, 1, 0), self.features, people.ids[targets.person])

    def _expected(self, people: People, targets: Targets) -> np.ndarray:
        return self._mean(conditioned(people, targets, np.arange(len(targets))))
