"""The imputer: fit, impute, save and load."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..cohort.checking import outside
from ..cohort.feature_ranges import FeatureRanges
from ..cohort.known import Known
from ..cohort.table import Cohort
from ..cohort.value_findings import CHECKS, REFUSE, Finding, refuse, sentences
from ..denoiser import Denoiser
from ..diffusion.solvers import SOLVERS
from ..errors import InputError, some
from ..model_folder import read_folder, write_folder
from ..ops import native
from ..ops.registry import AUTO, BackendUnavailableError, preferred_precision, preferring, resolve
from ..ops.row_tiles import one_blas_thread, one_thread
from ..ops.sampling import BACKENDS, CANDIDATES, PRECISIONS
from ..ops.semantics import processor_path
from ..training.trainer import Run
from .default.model import HISTORIES, DefaultModel, DefaultOptions
from .interfaces import CovariateModel, PresetModel
from .kinds.declared import declared
from .kinds.supported_model import default_from_state, fit_supported
from .model_data import People
from .numeric_faults import named_faults
from .paper import PaperModel, PaperOptions
from .provenance import versions
from .result import Imputation
from .selection import as_trained, check_sites, complete, feature_order, select_people, select_visits
from .trainable import check_trainable
from .trajectory.trajectory_model import TrajectoryModel
from .trajectory.trajectory_result import TrajectoryImputation

MODEL_KIND = "imputer"
DEVICES = ("auto", "cpu")
PRESETS: dict[str, tuple[type, type]] = {"default": (DefaultOptions, DefaultModel), "paper": (PaperOptions, PaperModel)}


@dataclass
class Columns:
    """Columns that a model was trained on, and expects again; also the median gap in years for people without one.

    visits : labels, earliest first, of which `visit` is the follow-up;  earlier : those before the baseline;
    table : what its table called id, visit, time and site;  time_unit : of its time column.
    None where a model of an earlier release does not say.
    """

    features: list[str]
    covariates: list[str]
    visit: str
    gap: float | None
    visits: list[str] | None = None
    earlier: list[str] | None = None
    table: dict[str, str] | None = None
    time_unit: str | None = None


@dataclass
class Arithmetic:
    """How a model computes: precision of its products, and the path that its training's processor took."""

    precision: str
    path: str


class SecondgramImputer:
    """Imputes missing follow-up visits.

    Parameters
    ----------
    preset : `default`, built to be accurate and calibrated, or `paper`, the published method.
    seed : decides training; 0 or more.
    device, backend, precision : `auto`, or what `secondgram doctor` lists.
    kinds : what values features can have, by name or pattern, `{"*WMH*": "zero-inflated"}`; `continuous`, `positive`,
        `bounded`, `bounded(low, high)`, `count`, `ordinal`, `binary` or `zero-inflated`; or how others determine it,
        `{"Total": "Left + Right"}`. What is not named is recognised.
    overrides : any field of `DefaultOptions` or `PaperOptions`.

    As in scikit-learn, `fit` returns the imputer, and what it learned ends in an underscore. What `auto` is for the
    precision is decided when it is fitted and kept with the model, so that every part of a cohort is drawn alike.
    Raises `InputError` for an unknown preset or override.

    Examples
    --------
    >>> import secondgram as sg
    >>> train, test = sg.simulate(subjects=400, features=8, paired=0.5).split(test=0.25)
    >>> imputer = sg.SecondgramImputer(shape="off").fit(train)
    >>> imputer.impute(test, draws=5).draws.shape[2]
    8
    """

    def __init__(
        self,
        preset: str = "default",
        seed: int = 0,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        kinds: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> None:
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}", mend=f"Use one of {', '.join(PRESETS)}")
        if device not in DEVICES:
            raise InputError(f"device={device!r}: this release trains and samples on the CPU", mend="Use device='auto'")
        for name, value, names in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
            if value not in names:
                raise InputError(f"{name}={value!r} is not in this release", mend=f"Use one of {', '.join(names)}")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"seed={seed!r}", mend="Use a whole number, 0 or more")
        options = PRESETS[preset][0]
        known = [field.name for field in fields(options)]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise InputError(f"preset {preset!r} has no option {some(unknown)}", mend=f"It has {', '.join(known)}")
        self.preset, self.seed = preset, int(seed)
        self.device, self.backend, self.precision = device, backend, precision
        self.kinds, self.overrides = kinds, overrides
        _check_declared(preset, self.kinds)
        _check_kinds(preset, overrides)
        self.options = options(**overrides)
        self.model_: PresetModel
        self.arithmetic_: Arithmetic | None
        self.missing_: tuple[str | float, ...]
        self.ranges_: FeatureRanges | None
        _check_sampling(self.options.solver, self.options.steps)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor arguments, as scikit-learn has them."""
        names = ("preset", "seed", "device", "backend", "precision", "kinds")
        return {name: getattr(self, name) for name in names} | self.overrides

    def set_params(self, **params: Any) -> SecondgramImputer:
        """Change constructor arguments, as scikit-learn has it; what was learned is forgotten."""
        fresh = type(self)(**(self.get_params() | params))
        self.__dict__ = fresh.__dict__
        return self

    # -- learning -----------------------------------------------------------------------

    def fit(
        self,
        train: Cohort,
        y: object = None,
        *,
        state: str | os.PathLike[str] | None = None,
        state_every: float = 20.0,
        resume: bool = False,
        show: bool = True,
    ) -> SecondgramImputer:
        """Learn from a cohort in which some people have a follow-up.

        y : ignored, for scikit-learn.
        state : folder for the state of the training, so that a killed run can go on with resume=True.
        state_every : seconds between two savings of it.
        show : draw a progress bar when standard error is a terminal.

        Raises `InputError` for a cohort that cannot be learned from: no or fewer than ten pairs, a feature that is
        constant or empty, at the baseline alone too, a recorded gap of zero or less, kinds that no feature has or that
        its values contradict.
        """
        check_trainable(train)
        kinds, shows_all = declared(train, self.kinds), self._shows_all(train)
        if shows_all and self.kinds:
            raise InputError(
                "kinds of features are known where the first visit conditions the missing one",
                mend="Leave out kinds, or use history='first'",
            )
        run = Run(None if state is None else Path(state), state_every, resume, show)
        # Sums come out differently with the order of what they add: who comes first in a file is to decide nothing.
        train = train.in_order()
        # On one thread, because sums over several come out differently with their number: a seed decides a model. In
        # fp32, because a model is chosen by small differences between scores.
        faults = named_faults(train.visits, train.features, train.source)
        with one_thread(), one_blas_thread(), preferring(self.backend, "fp32"), faults:
            if isinstance(self.options, DefaultOptions) and not shows_all:
                self.model_ = fit_supported(train, self.options, kinds, seed=self.seed, run=run)
            else:
                model = TrajectoryModel if shows_all else PRESETS[self.preset][1]
                self.model_ = model.fit(train, self.options, seed=self.seed, run=run)  # type: ignore[attr-defined]
        self._remember(train)
        return self

    def _shows_all(self, train: Cohort) -> bool:
        # Of two visits, the one that is known is the first.
        return getattr(self.options, "history", "first") == "all" and len(train.visit_labels) > 2

    def _settle(self) -> None:
        with preferring(self.backend, self.precision):
            wanted = preferred_precision()
            precision = self.model_.resolved_precision() if wanted == AUTO else wanted
            self.arithmetic_ = Arithmetic(precision, processor_path(precision))

    def _remember(self, train: Cohort) -> None:
        self._settle()
        self.missing_ = train.missing
        self.ranges_ = FeatureRanges.fit(train.visits, train.features)
        gap = train.gap[train.paired]
        gap = gap[np.isfinite(gap)]
        self.columns_ = Columns(
            list(train.features),
            [str(name) for name in train.covariate_table.columns],
            train.followup_label,
            float(np.median(gap)) if len(gap) else None,
            list(train.visit_labels),
            list(train.earlier_labels),
            dict(train.columns),
            train.time_unit,
        )

    @property
    def known(self) -> Known:
        """Columns and visits of this model, for `read_cohort(like=...)`."""
        self._check_fitted()
        columns = self.columns_
        kinds = self.model_.encoder.columns
        return Known(
            tuple(columns.features),
            {name: kinds.get(name) for name in columns.covariates},
            None if columns.visits is None else tuple(columns.visits),
            1 if columns.visits is None else columns.visits.index(columns.visit),
            tuple(columns.earlier or ()),
            columns.table or {},
            self.missing_,
            columns.time_unit,
            self.ranges_,
        )

    # -- imputing -----------------------------------------------------------------------

    def impute(
        self,
        cohort: Cohort,
        draws: int = 20,
        seed: int = 7,
        who: str = "missing",
        steps: int | None = None,
        solver: str | None = None,
        out: str | os.PathLike[str] | None = None,
        *,
        gap: float | None = None,
        history: str | None = None,
        resume: bool = False,
        show: bool = True,
        precision: str | None = None,
        threads: int | None = None,
        checks: str = REFUSE,
        visits: str | Sequence[str] | None = None,
        at: Sequence[float] | float = (),
    ) -> Imputation:
        """Impute follow-up visits; with `visits` or `at` several of each person, as a `TrajectoryImputation`.

        Parameters
        ----------
        cohort : people with a baseline; features in any order. Baseline and follow-up are the visits that have the
            labels of those in training, whoever else is in the cohort; `read_cohort(like=imputer)` reads parts of one.
        draws : M, plausible follow-ups per person;  seed : 0 .. 2^64 - 1, decides them.
        who : `missing` for everyone whose follow-up is not complete (measured cells are kept and conditioned on), or
            `all` for everyone, as if no follow-up had been measured.
        steps, solver : of the diffusion; None takes the preset's.
        out : a Parquet file to stream the draws to in bounded memory.
        gap : years after baseline, for people without a recorded time; None takes the training pairs' median.
        history : what conditions the imputed visit, `all` others of a person or the `first` alone; None takes what the
            model was fitted for. With `all`, whoever has any other visit is imputed.
        resume : go on where an interrupted call with the same `out` stopped.
        precision : of matrix products, None takes that which was decided with the model. Draws of two precisions differ
            by rounding: use one for all parts of a cohort.
        threads : at most so many, None takes every processor there is; it never changes a value.
        checks : of baselines outside of the values of training: "refuse" columns of another unit and codes for missing,
            or "warn" of them too; single people far outside are in the notes.
        visits : of a model that was fitted with `history="all"`: `missing` for every visit that anybody lacks, drawn
            together, so that those of a person belong together; labels for some of them; `all` for measured ones too,
            each told from the others as if it were missing.
        at : years after the first visit at which everybody is imputed, instead of or beside visits.

        Raises `InputError` for an unfitted imputer, an absent feature or covariate, a category unseen in training, no
        one to impute, visits or sites that are not those of training, or arguments out of range, and
        `BackendUnavailableError` where this processor lacks the precision.
        """
        self._check_fitted()
        if not isinstance(draws, (int, np.integer)) or not 1 <= draws < 2**20:
            raise InputError(f"draws={draws!r}", mend="Use a whole number from 1 to 1,048,575")
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise InputError(f"seed={seed!r}", mend="Use a whole number from 0 to 2^64 - 1")
        _check_sampling(solver, steps)
        if gap is not None and not gap > 0:
            raise InputError(f"gap={gap}", mend="Use a number of years above zero")
        if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
            raise InputError(f"threads={threads!r}", mend="Use a whole number, 1 or more")
        if checks not in CHECKS:
            raise InputError(f"checks={checks!r}", mend=f"Use one of {', '.join(CHECKS)}")
        several = visits is not None or np.size(at) > 0
        trajectory = self._trajectory_model(history, who, gap) if several else None
        every, read = self._history(history), cohort.findings or ()
        cohort, visit, notes = as_trained(cohort, self.columns_.visits, self.columns_.visit, every)
        notes += self._compared(cohort, checks, read)
        targets, features = None, self.columns_.features
        if trajectory is None:
            people, of_people = select_people(cohort, who, features, gap, self.columns_.gap, visit, every)
        else:
            people, targets, of_people = select_visits(cohort, features, trajectory.usual, visits, at)
            of_people += trajectory.beyond_notes(targets.distance)
        column = (self.columns_.table or {}).get("site", "site")
        notes += check_sites(cohort, self.model_.sites, column, wanted=self.preset == "paper") + of_people
        # Fail before drawing: unusable covariates, then an unknown solver or number of steps.
        notes += self._lacking(people) + self.model_.cautions()
        notes += self.model_.notes(people) if trajectory is None else []
        self.model_.check(solver, steps)
        precision, of_precision = self._precision(precision)
        result = (Imputation if targets is None else partial(TrajectoryImputation, targets=targets))(
            self.model_,
            people,
            tuple(self.columns_.features),
            visit,
            np.arange(draws),
            int(seed),
            solver,
            steps,
            notes=notes + of_precision,
            backend=self.backend,
            precision=precision,
            threads=threads,
        )
        if out is not None:
            result.to_parquet(out, resume=resume, show=show)
            result.path = os.fspath(out)
        return result

    def _trajectory_model(self, history: str | None, who: str, gap: float | None) -> TrajectoryModel:
        """The model, for several visits of a person. Raises `InputError` where it or an argument is of one visit."""
        if not isinstance(self.model_, TrajectoryModel):
            raise InputError(
                "visits and times are imputed together by a model that is conditioned on all of a person's visits",
                mend="Fit it with history='all' (--set history=all), on a cohort of three or more visits",
            )
        apart = {"history": history == "first", "who": who != "missing", "gap": gap is not None}
        for name, value in (("history", history), ("who", who), ("gap", gap)):
            if apart[name]:
                raise InputError(f"{name}={value!r} does not go with visits or at", mend=f"Leave out {name}")
        return self.model_

    def _history(self, asked: str | None) -> bool:
        """Whether all other visits are shown."""
        trained = isinstance(self.model_, TrajectoryModel)
        if asked is not None and asked not in HISTORIES:
            raise InputError(f"history={asked!r}", mend=f"Use one of {', '.join(HISTORIES)}")
        if asked == "all" and not trained:
            raise InputError(
                "history='all': the model is conditioned on the first visit alone",
                mend="Fit it with history='all' (--set history=all), on a cohort of three or more visits",
            )
        return trained and asked != "first"

    def _compared(self, cohort: Cohort, checks: str, read: Sequence[Finding]) -> list[str]:
        """Notes on baselines outside of the training's values. read : what reading found of it, with rows.

        Raises `InputError` for another unit and codes, unless they are only warned of.
        """
        if self.ranges_ is None:
            return ["the model does not say which values it was trained on: those of the cohort are not compared"]
        where = {(found.subject, found.value): found for found in read}
        found = []
        for each in outside(self.ranges_, cohort):
            known = where.get((each.subject, each.value), each)
            found.append(known if known.refused or not each.refused else each)
        if checks == REFUSE:
            refuse(found, cohort.source)
        return sentences(found)

    def _lacking(self, people: People) -> list[str]:
        """Notes on missing covariates. Raises `InputError` for one that cannot be used."""
        encoder = self.model_.encoder
        gone = np.isnan(encoder.encode(people.table, people.source, people.ids))
        names = [name for name, columns in encoder.places.items() if gone[:, columns].any()]
        if not names:
            return []
        drawn = isinstance(self.model_, CovariateModel)
        what = "drawn, given what else is known of them" if drawn else "taken as the mean of training"
        return [f"{int(gone.any(axis=1).sum())} people lack {some(names)}: {what}"]

    def _arithmetic(self) -> Arithmetic | None:
        # Absent before a fit, as everything learned is.
        return getattr(self, "arithmetic_", None)

    def _precision(self, asked: str | None) -> tuple[str, list[str]]:
        """The precision of an imputation, and notes on it."""
        if asked is not None and asked not in PRECISIONS:
            raise InputError(f"precision={asked!r}", mend=f"Use one of {', '.join(PRECISIONS)}")
        kept = self._arithmetic()
        notes = []
        with preferring(self.backend, self.precision if asked is None else asked):
            found = preferred_precision()
            if asked == AUTO:
                found = self.model_.resolved_precision()
            elif found == AUTO and kept is not None:
                found = kept.precision
            elif found == AUTO:
                found = self.model_.resolved_precision()
                notes.append(f"the model does not say its precision: {found}, by a check on this processor")
            backend = resolve("the sampler", CANDIDATES)
            if backend == "reference" and found != "fp32":
                notes.append(f"the backend reference computes in fp32, and the model was fitted for {found}")
                found = "fp32"
            elif backend == "cpu" and not native.architectures(found):
                whose = "that of the model" if asked is None else "asked for"
                raise BackendUnavailableError(
                    f"precision {found!r} is {whose}, and this processor has no instructions for it. "
                    "Use --precision fp32 (precision='fp32') for every part of the cohort"
                )
            if kept is not None and kept.path != processor_path(found):
                notes.append(
                    "another kind of processor, precision or library than in training: draws differ by rounding"
                )
        return found, notes

    def transform(self, cohort: Cohort) -> np.ndarray:
        """(N, D) the follow-up of everyone: measured cells as they are, the others by their posterior mean.

        People without a baseline stay NaN.
        """
        self._check_fitted()
        cohort, _, _ = as_trained(cohort, self.columns_.visits, self.columns_.visit)
        columns = feature_order(cohort, self.columns_.features)
        left = cohort.scanned & ~complete(cohort, columns)
        result = self.impute(cohort, who="missing") if left.any() else None
        values = cohort.followup[:, columns].copy()
        if result is not None:
            place = {name: row for row, name in enumerate(cohort.ids)}
            values[[place[name] for name in result.ids]] = result.mean
        return values

    def fit_transform(self, cohort: Cohort, y: object = None) -> np.ndarray:
        """`fit` and then `transform`."""
        return self.fit(cohort).transform(cohort)

    # -- keeping ------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted imputer as a folder of JSON and safetensors; the same model gives the same bytes."""
        self._check_fitted()
        write_folder(folder, MODEL_KIND, self._tree())

    def _tree(self) -> dict[str, Any]:
        arithmetic = self._arithmetic()
        return {
            "preset": self.preset,
            "seed": self.seed,
            "options": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.options).items()},
            "overrides": {key: list(v) if isinstance(v, tuple) else v for key, v in self.overrides.items()},
            **({} if self.kinds is None else {"kinds": list(map(list, self.kinds.items()))}),
            "columns": asdict(self.columns_),
            "arithmetic": None if arithmetic is None else asdict(arithmetic),
            "missing": list(self.missing_),
            "ranges": None if self.ranges_ is None else self.ranges_.state(),
            "versions": versions(),
            "model": self.model_.state(),
        }

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise InputError("the imputer is not fitted", mend="Call fit, or load a saved one")


def _check_declared(preset: str, kinds: Mapping[str, str] | None) -> None:
    if kinds and preset != "default":
        raise InputError(
            f"preset {preset!r} knows no kinds of features: it draws any number", mend="Use preset='default'"
        )


def _check_kinds(preset: str, overrides: dict[str, Any]) -> None:
    defaults = PRESETS[preset][0]()
    for name, value in overrides.items():
        default = getattr(defaults, name)
        if not _same_kind(value, default):
            raise InputError(
                f"option {name} of preset {preset!r} cannot be {value!r}", mend=f"Use a value such as {default!r}"
            )


def _same_kind(value: Any, default: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        sequence = isinstance(value, (list, tuple)) and len(value) == len(default)
        return sequence and all(map(_same_kind, value, default))
    if default is None:
        return value is None or whole
    if isinstance(default, float):
        return whole or isinstance(value, (float, np.floating))
    return whole if type(default) is int else isinstance(value, type(default))


def _check_sampling(solver: str | None, steps: int | None) -> None:
    # A model without a denoiser would never look at them.
    if solver is not None and solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}", mend=f"Use one of {', '.join(SOLVERS)}")
    if steps is not None and not 1 <= steps <= 4095:
        raise InputError(f"steps={steps}", mend="Use 1 to 4095 network evaluations")


def load(folder: str | os.PathLike[str]) -> SecondgramImputer:
    """Read an imputer that `save` wrote. Nothing is unpickled.

    Raises `InputError` for a folder that is absent, truncated, tampered with, or no imputer.
    """
    tree = read_folder(folder, MODEL_KIND)
    try:
        kinds = None if tree.get("kinds") is None else dict(tree["kinds"])
        imputer = SecondgramImputer(tree["preset"], tree["seed"], kinds=kinds, **tree["overrides"])
        imputer.options = PRESETS[tree["preset"]][0](**tree["options"])
        imputer.columns_ = Columns(**tree["columns"])
        imputer.missing_ = tuple(tree.get("missing", ()))
        ranges = tree.get("ranges")
        imputer.ranges_ = None if ranges is None else FeatureRanges.from_state(ranges)
        stored = tree.get("arithmetic")
        imputer.arithmetic_ = None if stored is None else Arithmetic(**stored)
        if "trajectory" in tree["model"]:
            from_state: Any = TrajectoryModel.from_state
        else:
            from_state = default_from_state if tree["preset"] == "default" else PaperModel.from_state
        imputer.model_ = from_state(tree["model"], imputer.options)
        written, here = tree["versions"].get("secondgram"), versions()["secondgram"]
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"does not hold what an imputer needs ({error})", file=folder, mend="Use the release that wrote it"
        ) from error
    if written != here:
        warnings.warn(f"the model was written by secondgram {written}, this is {here}", stacklevel=2)
    return imputer


def from_reference_checkpoint(path: str | os.PathLike[str], cohort: Cohort) -> SecondgramImputer:
    """An imputer of preset `paper` around a published checkpoint, scaled by a cohort of training people.

    The checkpoint holds weights alone; ranges and covariate coding come from the cohort it was trained on.
    """
    check_trainable(cohort)
    imputer = SecondgramImputer("paper")
    imputer.model_ = PaperModel.around(Denoiser.from_reference_checkpoint(path), cohort)
    imputer.options = imputer.model_.options
    imputer._remember(cohort)
    return imputer
