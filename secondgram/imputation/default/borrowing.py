"""Features that next to nobody was measured on at both visits: what they take from the other features.

Ten pairs are asked of a cohort, and a feature of it may have none: a sequence that was added or dropped between visits.
Its change then follows the coefficients that all features share, its errors are as large as the others' in baseline SD,
and nothing is said of what it goes along with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import some

# People of both visits below which a feature's own pairs are not enough.
FEWEST = 10.0


def measured_people(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D,) people that values (P, D) of pairs tell of, NaN where unknown; weight (P,), of a person's pairs 1 in all."""
    return np.asarray((np.isfinite(values) * weight[:, None]).sum(axis=0))


def scarce(people: np.ndarray) -> np.ndarray:
    """(D,) bool: features that have fewer than ten people, and less than half of what another one has."""
    return np.asarray((people < FEWEST) & (2.0 * people < people.max(initial=0.0)))


def without_scarce(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """values (P, D) of pairs, NaN throughout where so few of a feature are known that nothing is to be fitted."""
    few = scarce(measured_people(values, weight))
    return np.where(few, np.nan, values) if few.any() else values


def borrowed_level(level: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Log spreads (D,) of which scarce ones are drawn to the average of the others, as if ten people had told."""
    few = scarce(people)
    if not few.any():
        return level
    usual = float((people[~few] * level[~few]).sum() / people[~few].sum())
    share = people / FEWEST
    return np.where(few, np.where(few, share * level, 0.0) + (1.0 - share) * usual, level)


def same_change(change: np.ndarray) -> np.ndarray:
    """(D,) bool: features whose changes (P, D) are all one number, from which no spread can be learned."""
    low, high = np.fmin.reduce(change, axis=0), np.fmax.reduce(change, axis=0)
    return np.asarray(high - low <= 1e-9 * np.maximum(np.abs(high), 1.0))


def learned_people(change: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D,) people whose changes (P, D) tell of a feature: nobody where all changes are one number."""
    return np.where(same_change(change), 0.0, measured_people(change, weight))


def borrowing_notes(features: Sequence[str], people: np.ndarray) -> list[str]:
    """What to tell of scarce features, given the (D,) people measured at both visits."""
    few = scarce(people)
    found = []
    whole = np.floor(people + 1e-9).astype(int)
    for count in np.unique(whole[few]):
        names = [name for name, own, short in zip(features, whole, few, strict=True) if short and own == count]
        whose = {0: "nobody's change", 1: "the change of only one person"}.get(
            int(count), f"the change of only {count} people"
        )
        found.append(
            f"not learned, because {whose} is known: {some(names)}. Change and spread are those usual of the other "
            "features, in baseline SD"
        )
    return found
