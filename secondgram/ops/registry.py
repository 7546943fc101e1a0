"""Choice of a backend: the argument, else the preference of a caller, else the environment, else the best that runs.

An explicit request never falls back to something else. The automatic choice says once, in a warning, why it passed over
a better backend.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..errors import InputError

__all__ = [
    "AUTO",
    "ENVIRONMENT",
    "BackendUnavailableError",
    "Candidate",
    "Choice",
    "choose",
    "preferred_precision",
    "preferring",
    "resolve",
]

AUTO = "auto"
ENVIRONMENT = "SECONDGRAM_BACKEND"


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot run here; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """One way to run an operation.

    name : as a user writes it, "native" say.
    reason_unavailable : None where it can run here, else the reason in one sentence without a full stop. May be called
        often, so it remembers what is expensive to find out.
    """

    name: str
    reason_unavailable: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Choice:
    """The backend of an operation, the source of the choice, and the better ones that could not run, with reasons."""

    name: str
    source: str
    rejected: dict[str, str] = field(default_factory=dict)


_warned: set[tuple[str, str]] = set()
_preferred: ContextVar[str] = ContextVar("_preferred", default=AUTO)
_precision: ContextVar[str] = ContextVar("_precision", default=AUTO)


@contextmanager
def preferring(backend: str, precision: str = AUTO) -> Iterator[None]:
    """Inside, operations that have this backend run on it unless another is asked for; the others choose as usual.

    precision : the same for operations that have several. `auto` keeps the preference that is set outside.
    """
    tokens = [
        (here, here.set(value)) for here, value in ((_preferred, backend), (_precision, precision)) if value != AUTO
    ]
    try:
        yield
    finally:
        for here, token in tokens:
            here.reset(token)


def preferred_precision() -> str:
    """The precision that `preferring` has set, or `auto`."""
    return _precision.get()


def _from_environment(operation: str, names: Sequence[str]) -> str:
    """The first name in SECONDGRAM_BACKEND (separated by commas) that this operation has; "auto" where it is unset."""
    wanted = [word.strip() for word in os.environ.get(ENVIRONMENT, "").split(",") if word.strip()]
    if not wanted:
        return AUTO
    for word in wanted:
        if word == AUTO or word in names:
            return word
    raise InputError(
        f"{ENVIRONMENT} is {','.join(wanted)!r}, and {operation} has none of these backends",
        mend=f"Add one of {', '.join((AUTO, *names))} to it, after a comma",
    )


def choose(operation: str, candidates: Sequence[Candidate], requested: str | None = None) -> Choice:
    """Choose among candidates, best first, without a warning.

    Parameters
    ----------
    operation : its name, for messages.
    candidates : best first.
    requested : a candidate's name; None or "auto" leaves it to `preferring`, then to SECONDGRAM_BACKEND, then to the
        best that is available.

    Raises
    ------
    InputError : a name that the operation does not have.
    BackendUnavailableError : the backend asked for cannot run here, or none can.
    """
    names = [candidate.name for candidate in candidates]
    source = "argument"
    if (requested is None or requested == AUTO) and _preferred.get() in names:
        requested = _preferred.get()
    if requested is None or requested == AUTO:
        requested, source = _from_environment(operation, names), ENVIRONMENT
    if requested != AUTO:
        if requested not in names:
            raise InputError(
                f"{operation} has no backend {requested!r}", mend=f"Choose one of {', '.join((AUTO, *names))}"
            )
        reason = candidates[names.index(requested)].reason_unavailable()
        if reason is not None:
            raise BackendUnavailableError(
                f"The backend {requested!r} was asked for ({source}), and {operation} cannot run on it: {reason}."
            )
        return Choice(requested, source)
    rejected: dict[str, str] = {}
    for candidate in candidates:
        reason = candidate.reason_unavailable()
        if reason is None:
            return Choice(candidate.name, AUTO, rejected)
        rejected[candidate.name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
    raise BackendUnavailableError(f"No backend can run {operation}. {reasons}.")


def resolve(operation: str, candidates: Sequence[Candidate], requested: str | None = None) -> str:
    """The name of the backend to run; as `choose`, with one warning for each better backend that was passed over."""
    choice = choose(operation, candidates, requested)
    for name, reason in choice.rejected.items():
        if (operation, name) not in _warned:
            _warned.add((operation, name))
            warnings.warn(
                f"{operation} runs on {choice.name!r} because {name!r} cannot be used: {reason}.",
                RuntimeWarning,
                stacklevel=3,
            )
    return choice.name
