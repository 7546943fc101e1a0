"""A fitted model as the checks see it: a cohort in, draws and means out, be it an imputer, a preset or a method."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..cohort.table import Cohort
from ..errors import InputError
from ..imputation.imputer import load
from ..imputation.model_data import People
from ..imputation.result import Imputation
from .material import people_to_impute, study


@dataclass(frozen=True)
class Drawn:
    """What a model made of N people: ids (N,), draws (M, N, D) and mean (N, D) in original units."""

    ids: np.ndarray
    draws: np.ndarray
    mean: np.ndarray


@dataclass
class Subject(ABC):
    """A fitted model, the people it is tried on, and how it is fitted again (None where it came fitted).

    rounding : by which values may differ that are to be the same, as a share of a feature's largest value.
    """

    name: str
    people: Cohort
    refit: Callable[[], Subject] | None
    rounding = 0.0

    @abstractmethod
    def drawn(self, cohort: Cohort, draws: int = 3, seed: int = 7, who: str = "missing", **more: Any) -> Drawn:
        """Of whom it imputes of a cohort: `missing` shows measured follow-up cells, `all` hides them."""

    @abstractmethod
    def expected(self, cohort: Cohort, who: str) -> np.ndarray:
        """(n,) ids of those it has to impute."""

    @cached_property
    def whole(self) -> Drawn:
        """All people, three draws."""
        return self.drawn(self.people)

    @property
    def is_point(self) -> bool:
        """Whether it makes one draw however many are asked for: a point prediction."""
        return len(self.whole.draws) == 1


@dataclass
class ImputerSubject(Subject):
    """An imputer: `impute`, `save`."""

    imputer: Any

    def drawn(self, cohort: Cohort, draws: int = 3, seed: int = 7, who: str = "missing", **more: Any) -> Drawn:
        result = self.imputed(cohort, draws, seed, who, **more)
        return Drawn(np.asarray(result.ids), result.draws, result.mean)

    def imputed(self, cohort: Cohort, draws: int = 3, seed: int = 7, who: str = "missing", **more: Any) -> Imputation:
        """The result as the imputer gives it."""
        return self.imputer.impute(cohort, draws, seed, who, show=False, **more)

    def expected(self, cohort: Cohort, who: str) -> np.ndarray:
        whole = np.isfinite(cohort.followup).all(axis=1)
        return cohort.ids[cohort.scanned if who == "all" else cohort.scanned & ~whole]

    def in_chunks(self, cohort: Cohort, people: int) -> Imputation:
        """A result that is drawn and written so many people at a time."""
        result = self.imputed(cohort)
        kind = type("InChunks", (type(result),), {"chunk_people": people})
        return kind(**{field.name: getattr(result, field.name) for field in fields(result)})

    def loaded(self, folder: Path) -> ImputerSubject:
        """The same imputer, written to a folder and read again."""
        self.imputer.save(folder)
        return ImputerSubject(self.name, self.people, None, load(folder))


@dataclass
class ModelSubject(Subject):
    """A preset's model or a method of a comparison: `mean` and `draw` for people it is shown."""

    model: Any
    # Its products of matrices are those of a library, which chooses its loops by the number of rows.
    rounding = 1e-6

    def drawn(self, cohort: Cohort, draws: int = 3, seed: int = 7, who: str = "missing", **more: Any) -> Drawn:
        return self.drawn_numbers(cohort, np.arange(draws), seed, who)

    def drawn_numbers(self, cohort: Cohort, numbers: np.ndarray, seed: int = 7, who: str = "missing") -> Drawn:
        """Draws of these numbers."""
        people = People.of(cohort.with_baseline(), keep_known=self.keeps_known and who == "missing")
        drawn = self.model.draw(people, numbers, seed)
        return Drawn(people.ids, drawn, self.model.mean(people, numbers, seed))

    def expected(self, cohort: Cohort, who: str) -> np.ndarray:
        return cohort.ids[cohort.scanned]

    @property
    def keeps_known(self) -> bool:
        """Whether it is shown measured follow-up cells: presets are, methods of a comparison are not."""
        return hasattr(self.model, "finish")

    @property
    def in_batches(self) -> Iterator[Drawn]:
        """The people a few at a time."""
        people = self.people.with_baseline()
        for start in range(0, len(people), 5):
            yield self.drawn(people.take(np.arange(start, min(start + 5, len(people)))))


def subject_of(given: Any, cohort: Cohort | None) -> Subject:
    """What was given, fitted where it is not.

    Raises `InputError` for anything that is no model, and for a fitted one without a cohort.
    """
    if isinstance(given, type):
        given = given()
    if hasattr(given, "impute"):
        return _imputer(given, cohort)
    if not (hasattr(given, "mean") and hasattr(given, "draw")):
        raise InputError(
            f"{type(given).__name__} is no model: it has neither impute, nor mean and draw",
            mend="Give an imputer, or a model with mean(people, draws, seed) and draw(people, draws, seed)",
        )
    return _model(given, cohort)


def _imputer(given: Any, cohort: Cohort | None) -> Subject:
    name = f"{type(given).__name__}({getattr(given, 'preset', '')!r})"
    if hasattr(given, "model_"):
        return ImputerSubject(name, people_to_impute(_needed(cohort, name)), None, given)
    train = study() if cohort is None else cohort

    def fitted() -> Subject:
        return ImputerSubject(name, people_to_impute(train), fitted, copy.deepcopy(given).fit(train, show=False))

    return fitted()


def _model(given: Any, cohort: Cohort | None) -> Subject:
    name = type(given).__name__
    # A preset's model is made by a class method, and is fitted once it is there.
    if not hasattr(given, "fit") or (inspect.ismethod(given.fit) and isinstance(given.fit.__self__, type)):
        return ModelSubject(name, people_to_impute(_needed(cohort, name)), None, given)
    train = study() if cohort is None else cohort

    def fitted() -> Subject:
        return ModelSubject(name, people_to_impute(train), fitted, copy.deepcopy(given).fit(train, 0))

    return fitted()


def _needed(cohort: Cohort | None, name: str) -> Cohort:
    if cohort is None:
        raise InputError(
            f"{name} is fitted, and there is no cohort to try it on",
            mend="Give people with its features: check_model(model, cohort); or give it before it is fitted",
        )
    return cohort
