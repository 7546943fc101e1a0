"""The checks of `check_model`, each with what it says of a model that fails it and how such a model is mended."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from threadpoolctl import threadpool_limits

from ..cohort.table import Cohort
from .subject import Drawn, ImputerSubject, ModelSubject, Subject

KEYED = "Key the random numbers by person, draw and seed: secondgram.ops.noise.normals(people.keys, ..., draws=draws)"
ROWWISE = "A row of the result may rest on that person alone: take scales, means and ranks from the training people"
OWN = "Give back arrays of your own, and copy before you write into what was given"


class Broken(Exception):
    """A check that fails: what is broken, and how to mend it."""

    def __init__(self, problem: str, mend: str) -> None:
        self.problem, self.mend = problem, mend
        super().__init__(f"{problem}. {mend}.")


class NotApplicable(Exception):
    """A check that says nothing of this model, and why."""


Check = Callable[[Subject], None]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Register a check under a name."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def _imputer(subject: Subject) -> ImputerSubject:
    if not isinstance(subject, ImputerSubject):
        raise NotApplicable("it is no imputer; give SecondgramImputer with this preset to check this too")
    return subject


def _differ(found: np.ndarray, wanted: np.ndarray, rounding: float) -> np.ndarray:
    """Which values (..., N, D) are not those wanted; rounding is a share of a feature's largest value."""
    room = rounding * np.fmax.reduce(np.abs(wanted).reshape(-1, wanted.shape[-1]), axis=0, initial=0.0)
    with np.errstate(invalid="ignore"):
        near = (found == wanted) | (np.abs(found - wanted) <= room)
    return ~(near | (np.isnan(found) & np.isnan(wanted)))


def _alike(found: Drawn, expected: Drawn, rounding: float, problem: str, mend: str, draws: slice = slice(None)) -> None:
    """Whoever was found has the draws expected of them."""
    place = {name: row for row, name in enumerate(expected.ids)}
    strange = [name for name in found.ids if name not in place]
    if strange:
        raise Broken(f"{problem}: subject {strange[0]} is imputed here and not there", mend)
    rows = [place[name] for name in found.ids]
    wanted = expected.draws[draws][:, rows]
    if found.draws.shape != wanted.shape:
        raise Broken(f"{problem}: draws have shape {found.draws.shape}, not {wanted.shape}", mend)
    differ = _differ(found.draws, wanted, rounding)
    if differ.any():
        draw, person, feature = (int(index) for index in np.argwhere(differ)[0])
        where = f"draw {draw} of subject {found.ids[person]}, feature {feature}"
        values = f"{float(found.draws[draw, person, feature])!r}, not {float(wanted[draw, person, feature])!r}"
        raise Broken(f"{problem}: {differ.sum()} of {differ.size} draws differ, first {where}: {values}", mend)


def _mean_alike(found: Drawn, expected: Drawn, rounding: float, problem: str, mend: str) -> None:
    place = {name: row for row, name in enumerate(expected.ids)}
    differ = _differ(found.mean, expected.mean[[place[name] for name in found.ids]], rounding)
    if differ.any():
        person, feature = (int(index) for index in np.argwhere(differ)[0])
        raise Broken(f"{problem}: the mean of subject {found.ids[person]}, feature {feature}, differs", mend)


def _same(found: Drawn, subject: Subject, problem: str, mend: str, expected: Drawn | None = None) -> None:
    """Draws and means are those of all people (or those expected)."""
    wanted = subject.whole if expected is None else expected
    _alike(found, wanted, subject.rounding, problem, mend)
    _mean_alike(found, wanted, subject.rounding, problem, mend)


def _none(found: Drawn, wrong: Callable[[np.ndarray], np.ndarray], problem: str, mend: str) -> None:
    """Of draws and mean, (..., N, D), no value is wrong."""
    for word, values in (("draws", found.draws), ("mean", found.mean[None])):
        bad = wrong(values)
        if bad.any():
            _, person, feature = np.argwhere(bad)[0]
            first = f"first that of subject {found.ids[person]}, feature {feature}"
            raise Broken(f"{bad.sum()} of {bad.size} values of the {word} {problem}, {first}", mend)


@check("shapes")
def shapes(subject: Subject) -> None:
    """Draws are (M, N, D) and the mean (N, D), people in the order of the cohort."""
    for who in ("missing", "all"):
        ids, found = subject.expected(subject.people, who), subject.drawn(subject.people, 3, who=who)
        if list(found.ids) != list(ids):
            raise Broken(
                f"who={who!r} imputes {len(found.ids)} people, not the {len(ids)} expected in the order of the cohort",
                "Impute whoever has a baseline, and with who='missing' no complete follow-up",
            )
        shape = (len(ids), len(subject.people.features))
        if found.mean.shape != shape or found.draws.shape[1:] != shape or len(found.draws) not in (1, 3):
            raise Broken(
                f"3 draws of {len(ids)} people have shape {found.draws.shape}, their mean {found.mean.shape}",
                f"Draws are (M, N, D), here (3, {shape[0]}, {shape[1]}), or (1, N, D) for a point prediction; the mean "
                "is (N, D)",
            )


@check("nothing missing")
def nothing_missing(subject: Subject) -> None:
    """Every draw and mean is a finite number, whatever people lack of baseline, covariates and times."""
    for who in ("missing", "all"):
        mend = "Fill what is missing of a baseline, a covariate or the gap with values learned from training"
        _none(subject.drawn(subject.people, who=who), lambda values: ~np.isfinite(values), "are NaN or infinite", mend)


@check("repetition")
def repetition(subject: Subject) -> None:
    """The same call gives the same values again, whatever was drawn in between."""
    _advance()
    _same(subject.drawn(subject.people), subject, "the same call gives other values the second time", KEYED)


@check("order of people")
def order_of_people(subject: Subject) -> None:
    """People in another order get the same values."""
    shuffled = subject.people.take(np.random.default_rng(1).permutation(len(subject.people)))
    _same(subject.drawn(shuffled), subject, "people in another order get other values", f"{KEYED}. {ROWWISE}")


@check("subsets of people")
def subsets_of_people(subject: Subject) -> None:
    """One person alone, or a few, get the values that they get among all."""
    imputed = np.flatnonzero(np.isin(subject.people.ids, subject.whole.ids))
    for rows in (imputed[:1], imputed[1:3], imputed[-7:]):
        part = subject.people.take(rows)
        problem = f"{len(rows)} people without the others get other values"
        _same(subject.drawn(part), subject, problem, f"{KEYED}. {ROWWISE}")


@check("chunks")
def chunks(subject: Subject) -> None:
    """Drawn and written a few people at a time, the values are the same."""
    mend = "What is done for a chunk may not rest on the chunk: " + ROWWISE[0].lower() + ROWWISE[1:]
    if isinstance(subject, ModelSubject):
        for found in subject.in_batches:
            _same(found, subject, "people in batches of five get other values", mend)
        return
    whole, cut = subject.whole, _imputer(subject).in_chunks(subject.people, 5)
    parts = [part for _, part in cut.chunks()]
    if len(parts) != -(-len(whole.ids) // 5):
        raise Broken(f"{len(whole.ids)} people come in {len(parts)} chunks of five", "Leave the cutting to Imputation")
    _same(Drawn(whole.ids, np.concatenate(parts, axis=1), cut.mean), subject, "chunks have other values", mend)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "draws.parquet"
        cut.to_parquet(path)
        table = pq.read_table(path)
    values = np.stack([table[name].to_numpy() for name in cut.features], axis=-1)
    written = values.reshape(len(whole.ids), -1, len(cut.features)).transpose(1, 0, 2)
    _alike(Drawn(whole.ids, written, whole.mean), whole, 0.0, "the file written in chunks has other values", mend)


@check("threads")
def threads(subject: Subject) -> None:
    """One thread or two, of torch, of the matrix library and of the sampler: the values are the same."""
    before = torch.get_num_threads()
    for number in (1, 2):
        with ExitStack() as stack:
            stack.callback(torch.set_num_threads, before)
            torch.set_num_threads(number)
            stack.enter_context(threadpool_limits(limits=number, user_api="blas"))
            more: dict[str, Any] = {"threads": number} if isinstance(subject, ImputerSubject) else {}
            found = subject.drawn(subject.people, **more)
        mend = (
            "Sums over threads depend on their number: compute a person's row on one, as ops.row_tiles.one_thread does"
        )
        _same(found, subject, f"{number} threads give other values", mend)


@check("more draws")
def more_draws(subject: Subject) -> None:
    """The first draws stay as they are when more are asked for, and a draw is decided by its number."""
    if subject.is_point:
        raise NotApplicable("it is a point prediction, which has one draw")
    mend = f"Make draw m from its number alone. {KEYED}"
    for count in (1, 5):
        found, shared = subject.drawn(subject.people, count), min(count, 3)
        if len(found.draws) != count:
            raise Broken(f"{count} draws were asked for, and {len(found.draws)} came", mend)
        first = replace(found, draws=found.draws[:shared])
        _alike(
            first,
            subject.whole,
            subject.rounding,
            f"of {count} draws, the first {shared} differ from those of 3",
            mend,
            slice(shared),
        )
    if isinstance(subject, ModelSubject):
        alone = subject.drawn_numbers(subject.people, np.array([2]))
        _alike(alone, subject.whole, subject.rounding, "draw 2 alone differs from draw 2 of three", mend, slice(2, 3))


@check("other seeds")
def other_seeds(subject: Subject) -> None:
    """Another seed, and another draw, give other values."""
    if subject.is_point:
        raise NotApplicable("it is a point prediction, which draws nothing")
    known = _known(subject)
    free = ~known if known is not None else np.ones(subject.whole.mean.shape, dtype=bool)
    other = subject.drawn(subject.people, seed=8).draws
    mend = "Hand seed and numbers of the draws to the noise; a point prediction gives one draw, (1, N, D)"
    if (other == subject.whole.draws)[:, free].all():
        raise Broken("seeds 7 and 8 give the same draws", mend)
    if (subject.whole.draws[0] == subject.whole.draws[1])[free].all():
        raise Broken("draws 0 and 1 are the same", mend)


def _known(subject: Subject) -> np.ndarray | None:
    """(N, D) bool: cells of the follow-up that the model was shown; None where it is shown none."""
    if isinstance(subject, ModelSubject) and not subject.keeps_known:
        return None
    place = {name: row for row, name in enumerate(subject.people.ids)}
    return np.isfinite(subject.people.followup[[place[name] for name in subject.whole.ids]])


@check("known cells")
def known_cells(subject: Subject) -> None:
    """Follow-up cells that were measured come back unchanged, in every draw and in the mean."""
    known = _known(subject)
    if known is None:
        raise NotApplicable("a method of a comparison is shown no cell of the follow-up")
    if not known.any():
        raise NotApplicable("nobody in the cohort has a follow-up of which a part is measured")
    place = {name: row for row, name in enumerate(subject.people.ids)}
    measured = subject.people.followup[[place[name] for name in subject.whole.ids]]
    mend = "Put measured cells back at the end, in original units: people.with_known(draws)"
    _none(subject.whole, lambda values: (values != measured) & known, "are measured, and have been changed", mend)


@check("hidden follow-ups")
def hidden_followups(subject: Subject) -> None:
    """With who='all', the follow-up has no influence: people without one get the same values."""
    hidden = subject.people.without_followup()
    expected = subject.drawn(hidden, who="all")
    mend = "Use nothing of the follow-up but people.known: neither its values nor which of them are missing"
    _same(subject.drawn(subject.people, who="all"), subject, "a hidden follow-up changes the values", mend, expected)


@check("outcomes")
def outcomes(subject: Subject) -> None:
    """Declared outcomes have no influence on draws."""
    with_outcome = replace(subject.people, outcomes=pd.DataFrame({"outcome": np.arange(len(subject.people)) % 2}))
    mend = "Use covariate_table alone: outcomes are what is analysed later"
    _same(subject.drawn(with_outcome), subject, "an outcome changes the values", mend)


@check("cohort unchanged")
def cohort_unchanged(subject: Subject) -> None:
    """The cohort that is given is not written into."""
    # These are handed on as they are; of people without a baseline, a copy would be made.
    people = subject.people.with_baseline()
    before = _snapshot(people)
    for who in ("missing", "all"):
        subject.drawn(people, who=who)
    changed = [name for name, value in _snapshot(people).items() if value != before[name]]
    if changed:
        raise Broken(f"imputing changes {', '.join(changed)} of the cohort", OWN)


def _snapshot(cohort: Cohort) -> dict[str, bytes]:
    return {name: pickle.dumps(value) for name, value in vars(cohort).items()}


@check("results of their own")
def results_of_their_own(subject: Subject) -> None:
    """Whoever writes into a result changes neither the cohort nor the next result."""
    people = subject.people.with_baseline()
    before = _snapshot(people)
    whole = Drawn(subject.whole.ids, subject.whole.draws.copy(), subject.whole.mean.copy())
    found = subject.drawn(people)
    for values in (found.draws, found.mean):
        if values.flags.writeable:
            values[...] = -1.0
    changed = [name for name, value in _snapshot(people).items() if value != before[name]]
    if changed:
        raise Broken(f"writing into a result changes {', '.join(changed)} of the cohort", OWN)
    again = subject.drawn(people)
    _same(again, subject, "writing into a result changes the next one", OWN, whole)


@check("random numbers of others")
def random_numbers_of_others(subject: Subject) -> None:
    """The generators that the program shares, of numpy and torch, are left as they were."""
    _advance()
    before = _shared_states()
    subject.drawn(subject.people)
    after = _shared_states()
    moved = [name for name, one, two in zip(("numpy", "torch"), before, after, strict=True) if one != two]
    if moved:
        mend = f"Use a generator of your own, seeded by the seed. {KEYED}"
        raise Broken(f"drawing takes from or seeds the shared generator of {' and '.join(moved)}", mend)


def _advance() -> None:
    np.random.random()  # noqa: NPY002 - the generator that the program shares is what is meant
    torch.rand(1)


def _shared_states() -> tuple[bytes, bytes]:
    return pickle.dumps(np.random.get_state()), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002


@check("people without a baseline")
def people_without_a_baseline(subject: Subject) -> None:
    """They are left out and said to be; nobody else changes by it."""
    imputer, people = _imputer(subject), subject.people
    gone = set(people.ids[~people.scanned])
    if not gone:
        raise NotApplicable("everyone in the cohort has a baseline")
    result = imputer.imputed(people)
    if gone & set(result.ids):
        raise Broken("people without a baseline are imputed", "Take people as select_people gives them")
    if not any("no baseline" in note for note in result.notes):
        raise Broken("result.notes does not tell of people without a baseline", "Hand on the notes of select_people")
    _same(imputer.drawn(people.with_baseline()), subject, "people without a baseline change the others", ROWWISE)


@check("features by name")
def features_by_name(subject: Subject) -> None:
    """Features in another order, and others beside them, change nothing."""
    imputer, people = _imputer(subject), subject.people
    mixed = replace(
        people,
        visits=np.concatenate([people.visits[:, :, ::-1], people.visits[:, :, :1] * 2], axis=2),
        features=(*people.features[::-1], "one more feature"),
    )
    mend = "Match features by name, as select_people does"
    # Whoever had a whole follow-up has it still.
    _same(imputer.drawn(mixed), subject, "features in another order change the values", mend)


@check("saving and loading")
def saving_and_loading(subject: Subject) -> None:
    """A model that was saved and loaded draws the same values, and is saved again as the same bytes."""
    imputer = _imputer(subject)
    mend = "Put everything that drawing uses into state(), and take it back in from_state"
    with TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        loaded = imputer.loaded(first)
        _same(loaded.drawn(subject.people), subject, "a loaded model gives other values", mend)
        loaded.imputer.save(second)
        if _bytes(first) != _bytes(second):
            raise Broken("a loaded model is saved as other bytes", mend)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@check("fitting again")
def fitting_again(subject: Subject) -> None:
    """The same people and seed make the same model, and fitting does not write into the cohort."""
    if subject.refit is None:
        raise NotApplicable("it came fitted")
    before = _snapshot(subject.people)
    again = subject.refit()
    if _snapshot(subject.people) != before:
        raise Broken("fitting changes the cohort", OWN)
    mend = "Take the random numbers of training from a generator that the seed decides, and compute on one thread"
    _same(again.drawn(subject.people), subject, "a second fit with the same seed gives other values", mend)
