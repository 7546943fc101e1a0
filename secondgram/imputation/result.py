"""`Imputation`, the result of `impute`: its draws are made when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..ops.native import limited
from ..ops.registry import AUTO, preferred_precision, preferring
from ..ops.row_tiles import one_blas_thread
from ..ops.semantics import processor_path
from .interfaces import CovariateModel, JudgedModel, SampledModel, WholeModel
from .model_data import People
from .numeric_faults import named_faults, whole
from .provenance import people_digest, versions
from .stream import DrawColumns, Part, write_draws

# Cells (draws x people x features) that are held at a time while streaming.
CHUNK_CELLS = 6_000_000


@dataclass(eq=False)
class Imputation:
    """Imputed follow-up visits of N people, M draws each, D features.

    Every draw is keyed by seed, person, visit and draw number: it can be made again at any time, with any other people.

    ids : (N,) text;  features : D names;  visit : label of the imputed visit;  gap : (N,) years used.
    draw_numbers : (M,) integers;  notes : what was decided, one sentence each.
    precision : of matrix products, decided with the model;  threads : at most so many, None for every processor.
    """

    model: SampledModel
    people: People
    features: tuple[str, ...]
    visit: str
    draw_numbers: np.ndarray
    seed: int
    solver: str | None = None
    steps: int | None = None
    notes: list[str] = field(default_factory=list)
    path: str | None = None
    backend: str = AUTO
    precision: str = AUTO
    threads: int | None = None

    @property
    def ids(self) -> np.ndarray:
        """(N,) subject ids, in the order of the cohort."""
        return self.people.ids

    @property
    def gap(self) -> np.ndarray:
        """(N,) years between baseline and imputed visit that the model is given, NaN where none is known."""
        return self.people.gap

    @property
    def processor_path(self) -> str:
        """The arithmetic of the draws on this processor; bits are equal only where this text is."""
        with self._as_asked():
            return processor_path(preferred_precision())

    @property
    def baseline(self) -> np.ndarray:
        """(N, D) the visit that was conditioned on, original units."""
        return self.people.baseline

    def __repr__(self) -> str:
        return f"Imputation({len(self.people)} people, {len(self.draw_numbers)} draws, {len(self.features)} features)"

    @cached_property
    def draws(self) -> np.ndarray:
        """(M, N, D) draws in original units, made at the first use and then kept. For large cohorts use `chunks`."""
        return self._draw(self.people)

    @cached_property
    def mean(self) -> np.ndarray:
        """(N, D) posterior mean, original units."""
        parts = [self._mean(self.people.take(rows)) for rows in self._slices()]
        return np.concatenate(parts) if parts else np.zeros(self.people.baseline.shape)

    @property
    def verdict(self) -> pd.DataFrame:
        """One row a feature: which predictor is used or whether the baseline is carried forward, and why.

        Columns are those of `secondgram.imputation.default.verdict.verdict_table`: CRPS and RMSE beside
        carry-forward's, on training people that were not fitted on, and the difference with its 95 % interval over
        people. Raises `InputError` for a model that did not judge itself (preset `paper`).
        """
        return self._judged().verdict()

    @property
    def ladder(self) -> pd.DataFrame:
        """One row a rung of the preset `default`: what was chosen, and what it earned (`verdict.ladder_table`)."""
        return self._judged().ladder()

    def _judged(self) -> JudgedModel:
        if isinstance(self.model, JudgedModel):
            return self.model
        raise InputError(
            "this model keeps no verdict: the published method uses one network for every feature",
            mend="Use preset='default', or secondgram.evaluate with people held out",
        )

    @property
    def whole(self) -> tuple[str, ...]:
        """Features whose draws are whole numbers; not one of which a fractional cell of the follow-up is known."""
        names = self.model.whole if isinstance(self.model, WholeModel) else ()
        known = dict(zip(self.features, self.people.known.T, strict=True))
        # A cell that is known stays as it is.
        return tuple(name for name in names if (np.isnan(known[name]) | (known[name] == np.rint(known[name]))).all())

    def quantile(self, q: float | list[float] | np.ndarray) -> np.ndarray:
        """Quantiles over the draws: q a share -> (N, D); Q shares -> (Q, N, D). Raises `InputError` outside 0 .. 1."""
        shares = np.asarray(q, dtype=float)
        if not ((shares >= 0) & (shares <= 1)).all():
            raise InputError(f"quantile {q} is no share", mend="Use numbers from 0 to 1")
        return np.quantile(self.draws, shares, axis=0)

    def covariates(self, people: People | None = None) -> dict[str, np.ndarray]:
        """By covariate (M, N), known or, where missing, drawn as the draws of the follow-up rest on it.

        people : others than those imputed; what is known of their follow-up is taken into account. Empty for a model
        that does not draw covariates (preset `paper`).
        """
        if not isinstance(self.model, CovariateModel):
            return {}
        with self._as_asked():
            return self.model.covariates(self.people if people is None else people, self.draw_numbers, self.seed)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Draws of a few people at a time: (slice of the N people, (M, n, D)). Nothing is kept."""
        for rows in self._slices():
            yield rows, self._draw(self.people.take(rows))

    def to_parquet(self, path: str | os.PathLike[str], resume: bool = False, show: bool = False) -> None:
        """Write subject_id, visit, draw and the features in original units and order, one row a person and draw.

        Features of whole numbers are integers. Streams in bounded memory. resume=True goes on where an interrupted call
        with the same path stopped.
        """
        dtype = self.people.baseline.dtype
        columns = DrawColumns(self.visit, self.features, self.draw_numbers, dtype, frozenset(self.whole))
        self.notes += write_draws(path, columns, self._parts(), len(self.people), self._facts, resume=resume, show=show)

    @property
    def chunk_people(self) -> int:
        """People per chunk; a function of the shape alone, so that files are cut alike whatever the machine."""
        return max(1, CHUNK_CELLS // max(1, len(self.draw_numbers) * len(self.features)))

    def _slices(self) -> list[slice]:
        return [
            slice(start, min(start + self.chunk_people, len(self.people)))
            for start in range(0, len(self.people), self.chunk_people)
        ]

    def _parts(self) -> Iterator[Part]:
        for rows in self._slices():
            people = self.people.take(rows)
            yield Part(people.ids, partial(self._sample, people), partial(self._finish, people))

    def _facts(self) -> dict[str, Any]:
        """All that decides the draws, each as text or a number, by what a person would call it."""
        numbers = np.ascontiguousarray(self.draw_numbers)
        return {
            "model": getattr(self.model, "digest", ""),
            "people": people_digest(self.people),
            "features": hashlib.sha256("\0".join(self.features).encode()).hexdigest(),
            "visit": self.visit,
            "seed": self.seed,
            "draws": len(numbers),
            "numbers of the draws": hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest(),
            "solver": self.solver,
            "steps": self.steps,
            "backend": self.backend,
            "precision": self.precision,
            "processor": self.processor_path,
            "secondgram": versions()["secondgram"],
            "people in a part": self.chunk_people,
        }

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        faults = named_faults(self.people.baseline, self.features, self.people.source)
        with one_blas_thread(), limited(self.threads), preferring(self.backend, self.precision), faults:
            yield

    def _whole(self, values: np.ndarray, people: People) -> np.ndarray:
        return whole(values, self.features, people.ids)

    def _draw(self, people: People) -> np.ndarray:
        with self._as_asked():
            values = self.model.draw(people, self.draw_numbers, self.seed, self.solver, self.steps)
        return self._whole(values, people)

    def _sample(self, people: People) -> np.ndarray:
        with self._as_asked():
            return self.model.sample(people, self.draw_numbers, self.seed, self.solver, self.steps)

    def _finish(self, people: People, sampled: np.ndarray) -> np.ndarray:
        with self._as_asked():
            values = self.model.finish(people, self.draw_numbers, self.seed, sampled)
        return self._whole(values, people)

    def _mean(self, people: People) -> np.ndarray:
        with self._as_asked():
            values = self.model.mean(people, self.draw_numbers, self.seed, self.solver, self.steps)
        return self._whole(values, people)
