"""Passive features: those that others determine, by a sum, a copy, a constant or a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ...cohort.table import Cohort
from ..model_data import People

# Rounding of a float64 and of a float32, as a share.
ROUNDING = {np.dtype(np.float32): 1e-6}
USUAL_ROUNDING = 1e-9


def with_features(cohort: Cohort, visits: np.ndarray, features: tuple[str, ...]) -> Cohort:
    """The same people with other numbers (N, V, D'); of a simulated cohort without what models are not shown."""
    kept = {each.name: getattr(cohort, each.name) for each in fields(Cohort)}
    return Cohort(**kept | {"visits": visits, "features": features})


@dataclass(frozen=True)
class Relation:
    """target = factor * sum of weight * part; as a product, factor * product of part ** weight.

    target, parts : positions of features.
    """

    target: int
    parts: tuple[int, ...]
    weights: tuple[float, ...]
    product: bool = False
    factor: float = 1.0

    def value(self, values: np.ndarray) -> np.ndarray:
        """(...) of the target from values (..., D) of all; NaN where a part is missing."""
        total = None
        for part, weight in zip(self.parts, self.weights, strict=True):
            x = values[..., part].astype(float)
            if self.product:
                with np.errstate(divide="ignore", invalid="ignore"):
                    x = x if weight == 1 else x**weight
                total = x if total is None else total * x
            else:
                x = x if weight == 1 else weight * x
                total = x if total is None else total + x
        assert total is not None
        return np.asarray(total if self.factor == 1 else self.factor * total)

    def missing(self, values: np.ndarray, place: int) -> np.ndarray:
        """(...) of a part of a sum, from the target and the other parts."""
        own = self.weights[self.parts.index(place)]
        found = values[..., self.target].astype(float) / self.factor
        for part, weight in zip(self.parts, self.weights, strict=True):
            if part != place:
                found = found - weight * values[..., part]
        return np.asarray(found / own)

    def room(self, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """(...) how far the target may be off by rounding; steps (D,) in which features are written, 0 for none."""
        share = ROUNDING.get(values.dtype, USUAL_ROUNDING)
        parts, weights = list(self.parts), np.array(self.weights)
        x, target = np.abs(values[..., parts].astype(float)), np.abs(values[..., self.target].astype(float))
        if self.product:
            with np.errstate(divide="ignore", invalid="ignore"):
                apart = (np.abs(weights) * (steps[parts] / 2.0 / x + share)).sum(axis=-1) * target
        else:
            apart = self.factor * (np.abs(weights) * (steps[parts] / 2.0 + share * x)).sum(axis=-1)
        return np.asarray(1.01 * (apart + steps[self.target] / 2.0) + share * target)

    def text(self, features: Sequence[str]) -> str:
        """As a formula."""
        if self.product:
            over = [features[part] for part, weight in zip(self.parts, self.weights, strict=True) if weight < 0]
            top = [features[part] for part, weight in zip(self.parts, self.weights, strict=True) if weight > 0]
            body = " / ".join([" * ".join(top) or "1", *over])
        else:
            body = ""
            for part, weight in zip(self.parts, self.weights, strict=True):
                sign = " - " if weight < 0 else " + "
                size = "" if abs(weight) == 1 else f"{abs(weight):g} * "
                body += (sign if body else sign.strip(" +")) + size + features[part]
            if self.factor != 1 and len(self.parts) > 1:
                body = f"({body})"
        return f"{features[self.target]} = " + (body if self.factor == 1 else f"{self.factor:.10g} * {body}")

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Relation:
        return cls(**state | {"parts": tuple(state["parts"]), "weights": tuple(state["weights"])})


@dataclass(frozen=True, eq=False)
class PassiveFeatures:
    """relations : of D features, in an order in which each rests on features that are known by then;  steps (D,) : in
    which features are written;  whole : names of targets of whole numbers.
    """

    features: tuple[str, ...]
    relations: tuple[Relation, ...]
    steps: np.ndarray
    whole: tuple[str, ...] = ()

    @property
    def learned(self) -> np.ndarray:
        """(D',) positions of the features that no relation gives."""
        return np.setdiff1d(np.arange(len(self.features)), [each.target for each in self.relations])

    def completed(self, values: np.ndarray) -> np.ndarray:
        """values (..., D), in which a missing part of a sum is what is left of it; a copy where there is one."""
        found = values
        for each in reversed(self.relations):
            if each.product:
                continue
            gone = np.isnan(found[..., list(each.parts)])
            alone = (gone.sum(axis=-1) == 1) & np.isfinite(found[..., each.target])
            if not alone.any():
                continue
            found = found.copy() if found is values else found
            for number, part in enumerate(each.parts):
                rows = alone & gone[..., number]
                found[rows, part] = each.missing(found[rows], part)
        return found

    def by_product(self, relation: Relation) -> bool:
        """Whether a product or ratio is in it, or in what it rests on."""
        given = {each.target: each for each in self.relations}
        return relation.product or any(self.by_product(given[part]) for part in relation.parts if part in given)

    def expanded(self, values: np.ndarray, rounded: bool = True) -> np.ndarray:
        """values (M, N, D') of what is learned -> (M, N, D), targets computed; the last axis is the slowest.

        rounded : targets of whole numbers are whole.
        """
        draws, people, _ = values.shape
        found = np.empty((len(self.features), people, draws), dtype=values.dtype).transpose(2, 1, 0)
        for column, place in enumerate(self.learned):
            found[:, :, place] = values[:, :, column]
        for each in self.relations:
            target = each.value(found)
            whole = rounded and self.features[each.target] in self.whole
            found[:, :, each.target] = np.rint(target) if whole else target
        return found

    def cohort(self, cohort: Cohort) -> Cohort:
        """The same people with the features that are learned; a large cohort is copied only where some are not."""
        if not self.relations:
            return cohort
        visits = self.completed(cohort.visits)[:, :, self.learned]
        names = tuple(self.features[place] for place in self.learned)
        return with_features(cohort, np.ascontiguousarray(visits), names)

    def people(self, people: People) -> People:
        """The same people with the features that are learned."""
        known = self.completed(people.known)
        return replace(people, baseline=self.completed(people.baseline)[:, self.learned], known=known[:, self.learned])

    def broken(self, values: np.ndarray, relation: Relation) -> np.ndarray:
        """(N,) bool: all of a relation is known of values (N, D), and does not hold."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(relation.value(values) - values[:, relation.target]) > self.room(values, relation))

    def room(self, values: np.ndarray, relation: Relation) -> np.ndarray:
        """(N,) how far a target may be off by rounding."""
        return relation.room(values, self.steps)

    def notes(self, people: People) -> list[str]:
        """What does not hold of these people, one sentence a relation."""
        found = []
        for each in self.relations:
            formula = each.text(self.features)
            count = int(self.broken(people.baseline, each).sum())
            if count:
                found.append(f"{formula} does not hold at the baseline of {count} people, and holds in their draws")
            known = people.known
            target = np.isfinite(known[:, each.target])
            if not target.any():
                continue
            known = self.completed(known)
            alone = target & np.isnan(known[:, list(each.parts)]).any(axis=1)
            count = int((alone | (target & self.broken(known, each))).sum())
            if count:
                found.append(
                    f"{self.features[each.target]} is known of {count} people and kept: {formula} may not hold"
                )
        return found

    def state(self) -> dict[str, Any]:
        return {
            "features": list(self.features),
            "relations": [each.state() for each in self.relations],
            "steps": self.steps,
            "whole": list(self.whole),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> PassiveFeatures:
        relations = tuple(Relation.from_state(each) for each in state["relations"])
        return cls(tuple(state["features"]), relations, state["steps"], tuple(state["whole"]))
