"""Features, covariates and visits that a model was trained on, so that a part of a table is read as the whole is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, some
from .feature_ranges import FeatureRanges
from .visit_labels import order_visits


@dataclass(frozen=True)
class Known:
    """features : names.  covariates : name -> levels of a categorical one, None for numbers.

    visits : labels, earliest first; None where they are not known.  target : position of the follow-up among them.
    earlier : labels of visits before the baseline, which are no visits of the model.
    columns : names of the columns `id`, `visit`, `time` and `site` of the training's table, and its `decimal`.
    missing : codes that stood for missing in it, as `read_cohort` takes them.
    time_unit : of its time column (see `Cohort.time_unit`), None where a model of an earlier release does not say.
    ranges : of its features, None where they are not known.
    """

    features: tuple[str, ...] = ()
    covariates: dict[str, list[str] | None] = field(default_factory=dict)
    visits: tuple[str, ...] | None = None
    target: int = 1
    earlier: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    missing: tuple[str | float, ...] = ()
    time_unit: str | None = None
    ranges: FeatureRanges | None = None

    @classmethod
    def of(cls, model: Any) -> Known:
        """Of an imputer or itself. Raises `InputError` for anything else."""
        found = getattr(model, "known", model)
        if not isinstance(found, cls):
            raise InputError(f"like={type(model).__name__}", mend="Give a fitted imputer, as `load` gives back")
        return found


def ordered_visits(
    labels: Sequence[str], known: Sequence[str], earlier: Sequence[str], label: str | None
) -> tuple[list[str], int]:
    """Labels of a table in order, those of `known` as they stand there, and how many are before its first one.

    earlier : labels that are known to stand before it.

    Raises `InputError` where none of the labels is known: which of them is the baseline would be a guess.
    """
    others = set(labels) - set(known)
    if others == set(labels):
        raise InputError(
            f"has visits {some(order_visits(labels))}, and none of those that are known ({some(known)})",
            file=label,
            mend="Rename them, or name them with --visits or visits=[...], the baseline first",
        )
    early = [other for other in earlier if other in others]
    early += [other for other in order_visits(others - set(early)) if order_visits([other, known[0]])[0] == other]
    late = [other for other in order_visits(others) if other not in early]
    # Known ones that nobody has would take memory; one between others keeps its place.
    last = max(place for place, visit in enumerate(known) if visit in labels)
    return [*early, *known[: len(known) if late else last + 1], *late], len(early)
