"""`check_model`: what every model of the follow-up keeps, checked one thing after the other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..cohort.table import Cohort
from ..errors import InputError, some
from .checks import CHECKS, Broken, NotApplicable
from .subject import subject_of

HOLDS = "holds"


class BrokenContractError(AssertionError):
    """A model that fails checks of `check_model`.

    failures : by name of the check, what is broken and how to mend it, in the order of the checks.
    """

    def __init__(self, model: str, failures: dict[str, str], checked: int) -> None:
        self.failures = failures
        lines = [f"- {name}: {text}" for name, text in failures.items()]
        super().__init__("\n".join([f"{model} fails {len(failures)} of {checked} checks:", *lines]))


def check_model(model: Any, cohort: Cohort | None = None, *, skip: Collection[str] = ()) -> dict[str, str]:
    """Check that a model keeps what every model of the follow-up keeps; docs/testing.md lists the checks.

    Parameters
    ----------
    model : an imputer, fitted or not; a method of a comparison (a class or an object with `fit(train, seed)`,
        `mean(people, draws, seed)` and `draw(people, draws, seed)`), which is copied and fitted; or a fitted model with
        `mean` and `draw`.
    cohort : people to learn from and to be tried on, at most 24 of them; by default a small simulated one. A fitted
        model needs it, with the features and visits that it knows.
    skip : names of checks that this model is not meant to pass.

    Returns
    -------
    By name of the check: `holds`, or why it says nothing of this model.

    Raises `BrokenContractError`, an AssertionError, which lists every check that fails, each with what is broken and
    how to mend it; `InputError` for something that is no model, and for an unknown name in `skip`.
    """
    unknown = sorted(set(skip) - set(CHECKS))
    if unknown:
        raise InputError(f"there is no check {some(unknown)}", mend=f"The checks are {', '.join(CHECKS)}")
    subject = subject_of(model, cohort)
    outcomes: dict[str, str] = {}
    failures: dict[str, str] = {}
    cause: Exception | None = None
    for name, check in CHECKS.items():
        if name in skip:
            outcomes[name] = "not checked: skipped as asked"
            continue
        try:
            check(subject)
            outcomes[name] = HOLDS
        except NotApplicable as reason:
            outcomes[name] = f"not checked: {reason}"
        except Broken as broken:
            failures[name] = str(broken)
        except Exception as error:
            # The other checks may tell more, and the first exception shows where it happened.
            failures[name] = f"stops with {type(error).__name__}: {error}"
            cause = cause or error
    if failures:
        checked = len(failures) + sum(outcome == HOLDS for outcome in outcomes.values())
        raise BrokenContractError(subject.name, failures, checked) from cause
    return outcomes
