"""The kinds of all features of a model, and the way between a cohort's numbers and those that the model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...cohort.table import Cohort
from ..model_data import People
from .levelled import Levelled, Score
from .passive import with_features
from .recognise import Kind
from .support import SoftBounds


@dataclass(eq=False)
class FeatureKinds:
    """kinds : of D features.

    maps : by position, monotone maps onto the model's scale;  scores : by position, for features with levels.
    levelled : by position, the distributions of the latter, once they are fitted.
    """

    features: tuple[str, ...]
    kinds: list[Kind]
    maps: dict[int, SoftBounds] = field(default_factory=dict)
    scores: dict[int, Score] = field(default_factory=dict)
    levelled: dict[int, Levelled] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the model learns from the numbers as they are, and nothing is done to its draws."""
        return all(kind.plain for kind in self.kinds)

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of features of whole numbers."""
        return tuple(name for name, kind in zip(self.features, self.kinds, strict=True) if kind.whole)

    def to_model(self, values: np.ndarray) -> np.ndarray:
        """values (..., D) original units -> the model's scale, of the same dtype; a copy where anything changes."""
        changed = {place: each for place, each in self.maps.items() if each.scale} | self.scores
        if not changed:
            return values
        found = np.array(values)
        for place, each in changed.items():
            found[..., place] = each.to_model(values[..., place])
        return found

    def cohort(self, cohort: Cohort) -> Cohort:
        """The same people with visits on the model's scale."""
        return with_features(cohort, self.to_model(cohort.visits), cohort.features)

    def people(self, people: People) -> People:
        """The same, with baselines on the model's scale, and known cells but those of features with levels."""
        known = people.known
        if np.isfinite(known).any():
            known = np.array(self.to_model(known))
            known[:, list(self.scores)] = np.nan
        return replace(people, baseline=self.to_model(people.baseline), known=known)

    def state(self) -> dict[str, Any]:
        def by_place(parts: dict[int, Any]) -> dict[str, Any]:
            return {str(place): part.state() for place, part in parts.items()}

        return {
            "features": list(self.features),
            "kinds": [kind.state() for kind in self.kinds],
            "maps": by_place(self.maps),
            "levelled": by_place(self.levelled),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureKinds:
        maps = {int(place): SoftBounds.from_state(each) for place, each in state["maps"].items()}
        levelled = {int(place): Levelled.from_state(each) for place, each in state["levelled"].items()}
        scores = {place: each.score for place, each in levelled.items()}
        kinds = [Kind.from_state(each) for each in state["kinds"]]
        return cls(tuple(state["features"]), kinds, maps, scores, levelled)


def notes_of(kinds: FeatureKinds, most: int = 3) -> list[str]:
    """What was recognised, declared and chosen, one sentence a kind."""
    groups: dict[str, list[str]] = {}
    for place, (name, kind) in enumerate(zip(kinds.features, kinds.kinds, strict=True)):
        if kind.plain:
            continue
        how = [_described(kind)]
        if place in kinds.maps and kinds.maps[place].scale:
            how.append("on a scale without bounds")
        groups.setdefault(", ".join(how), []).append(name)
    return [f"{how}: {_listed(names, most)}" for how, names in groups.items()]


def _described(kind: Kind) -> str:
    numbers = "whole numbers" if kind.whole else "numbers"
    ends = {True: f"from {kind.low:g}", False: f"{kind.low:g} to {kind.high:g}"}[bool(np.isinf(kind.high))]
    name = f"{kind.name} ({numbers})" if np.isinf(kind.low) else f"{kind.name} ({numbers} {ends})"
    return name + (", as declared" if kind.declared else "")


def _listed(names: Sequence[str], most: int) -> str:
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"
