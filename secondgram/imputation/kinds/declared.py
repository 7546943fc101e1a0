"""Kinds of features as a user declares them: `{"*WMH*": "positive", "MMSE": "bounded(0, 30)"}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from ...cohort.table import Cohort
from ...errors import InputError, some
from .passive import Relation
from .recognise import BINARY, BOUNDED, CONTINUOUS, COUNT, KINDS, ORDINAL, POSITIVE, ZERO_INFLATED, Kind
from .relations import written_steps

FORM = re.compile(r"\s*([a-z_ -]+?)\s*(?:\(([^,()]+),([^,()]+)\))?\s*$")
WAYS = f"{', '.join(KINDS)}, bounded(low, high), or a formula such as 'Left + Right'"
OPERATOR = re.compile(r"\s([+*/-])\s")

# What no value of a kind is, and what that is called.
Impossible = Callable[[np.ndarray], np.ndarray]
NEVER: dict[str, tuple[Impossible, str]] = {
    CONTINUOUS: (lambda x: np.zeros(x.shape, dtype=bool), ""),
    POSITIVE: (lambda x: x < 0, "is below zero"),
    ZERO_INFLATED: (lambda x: x < 0, "is below zero"),
    COUNT: (lambda x: (x < 0) | (x != np.rint(x)), "is no count: 0, 1, 2, ..."),
    ORDINAL: (lambda x: np.zeros(x.shape, dtype=bool), ""),
    BINARY: (lambda x: np.zeros(x.shape, dtype=bool), ""),
    BOUNDED: (lambda x: np.zeros(x.shape, dtype=bool), ""),
}


def parsed_kind(text: str) -> Kind:
    """The kind that a text says. Raises `InputError` for one that is not known."""
    found = FORM.match(text) if isinstance(text, str) else None
    name = found.group(1).replace("_", "-").replace(" ", "-") if found else ""
    if found is None or name not in KINDS or (found.group(2) is not None and name != BOUNDED):
        raise InputError(f"there is no kind of feature {text!r}", mend=f"Use {WAYS}")
    if found.group(2) is None:
        return Kind(name, whole=name == COUNT)
    try:
        low, high = float(found.group(2)), float(found.group(3))
    except ValueError:
        low = high = np.nan
    if not low < high or np.isinf(high - low):
        raise InputError(f"kind {text!r} has no two ends in order", mend="Write for example bounded(0, 30)")
    return Kind(BOUNDED, low, high)


@dataclass(frozen=True)
class Declared:
    """kinds : by position of the feature;  relations : of passive ones."""

    kinds: dict[int, Kind] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)


def declared(cohort: Cohort, kinds: Mapping[str, str] | None) -> Declared:
    """What was declared of a cohort's features, by kinds and by formulas.

    Raises `InputError` as `declared_kinds` and for a formula that names no feature or that a row contradicts.
    """
    formulas = {name: text for name, text in (kinds or {}).items() if _is_formula(cohort, text)}
    others = {name: text for name, text in (kinds or {}).items() if name not in formulas}
    relations = [parsed_relation(cohort, name, text) for name, text in formulas.items()]
    for relation in relations:
        _check_relation(cohort, relation)
    return Declared(declared_kinds(cohort, others), relations)


def _is_formula(cohort: Cohort, text: str) -> bool:
    return isinstance(text, str) and (text.strip() in cohort.features or OPERATOR.search(text) is not None)


def parsed_relation(cohort: Cohort, name: str, text: str) -> Relation:
    """`a + b`, `a - 2 * b`, `0.001 * a`, `a / b`, blanks around the signs. Raises `InputError` for anything else."""
    split = OPERATOR.split(text.strip())
    words, signs = [word.strip() for word in split[::2]], split[1::2]
    product = not any(sign in "+-" for sign in signs)
    place = {feature: position for position, feature in enumerate(cohort.features)}
    if name not in place:
        raise InputError(
            f"kinds says that {name!r} is {text!r}, and no feature is called so (there are {some(cohort.features)})",
            file=cohort.source,
            mend="Correct the name; a formula takes no pattern",
        )
    parts: list[int] = []
    weights: list[float] = []
    factor, size, above = 1.0, 1.0, 1.0
    for sign, word in zip(["+", *signs], words, strict=True):
        if sign in "+-" and not product:
            size = -1.0 if sign == "-" else 1.0
        above = -1.0 if sign == "/" else 1.0
        if word in place:
            parts.append(place[word])
            weights.append(above if product else size)
            continue
        try:
            number = float(word) ** above
        except (ValueError, ZeroDivisionError):
            number = np.nan
        if not np.isfinite(number) or (not product and parts and sign in "*/"):
            raise InputError(
                f"kinds says that {name!r} is {text!r}, and {word!r} is neither a feature nor a number before one",
                file=cohort.source,
                mend="Write for example 'Left + Right', '0.001 * Left' or 'Left / ICV', with blanks around the signs",
            )
        factor, size = factor * number if product else factor, size * number
    if not parts or place[name] in parts:
        raise InputError(f"kinds says that {name!r} is {text!r}, which names no other feature", file=cohort.source)
    if product and len(parts) == 1 and weights[0] == 1:
        product = False
    return Relation(place[name], tuple(parts), tuple(weights), product, factor)


def _check_relation(cohort: Cohort, relation: Relation) -> None:
    steps = written_steps(cohort.visits.reshape(-1, len(cohort.features)))
    with np.errstate(invalid="ignore"):
        apart = np.abs(relation.value(cohort.visits) - cohort.visits[:, :, relation.target])
        wrong = apart > relation.room(cohort.visits, steps)
    if wrong.any():
        person, visit = np.argwhere(wrong)[0]
        raise InputError(
            f"{relation.text(cohort.features)} is declared, and is {apart[person, visit]:g} off for subject "
            f"{cohort.ids[person]} at visit {cohort.visit_labels[visit]}",
            file=cohort.source,
            column=cohort.features[relation.target],
            mend="Correct the cell, leave it empty, or leave the formula out",
        )


def declared_kinds(cohort: Cohort, kinds: Mapping[str, str] | None) -> dict[int, Kind]:
    """By position, the kinds of features that patterns (`*` and `?` match) declare; of several that match, the last.

    Raises `InputError` for a pattern that matches no feature, an unknown kind, or a value that the kind cannot have.
    """
    found: dict[int, Kind] = {}
    for pattern, text in (kinds or {}).items():
        kind = parsed_kind(text)
        places = [place for place, name in enumerate(cohort.features) if fnmatchcase(name, pattern)]
        if not places:
            raise InputError(
                f"kinds names {pattern!r}, and no feature is called so (there are {some(cohort.features)})",
                file=cohort.source,
                mend="Correct the name or the pattern",
            )
        found |= dict.fromkeys(places, kind)
    for place, kind in found.items():
        _check(cohort, place, kind)
    return found


def _check(cohort: Cohort, place: int, kind: Kind) -> None:
    values = cohort.visits[:, :, place]
    seen = values[np.isfinite(values)]
    impossible, what = NEVER[kind.name]
    wrong = np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        wrong = np.isfinite(values) & impossible(values)
        if kind.name == BOUNDED and np.isfinite(kind.high):
            wrong, what = (values < kind.low) | (values > kind.high), f"is outside {kind.low:g} to {kind.high:g}"
    if wrong.any():
        person, visit = np.argwhere(wrong)[0]
        raise InputError(
            f"is declared {kind.name}, and {values[person, visit]:g} of subject {cohort.ids[person]} at visit "
            f"{cohort.visit_labels[visit]} {what}",
            file=cohort.source,
            column=cohort.features[place],
            mend="Correct the cell, leave it empty, or declare another kind",
        )
    if kind.name == BINARY and len(np.unique(seen)) > 2:
        raise InputError(
            f"is declared binary, and has {len(np.unique(seen))} values ({some(np.unique(seen), 3)})",
            file=cohort.source,
            column=cohort.features[place],
            mend="Declare it ordinal or count",
        )
