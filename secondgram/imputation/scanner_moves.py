"""Pairs of visits on two scanners: how far the later visit is moved by the scanner, told from the people who changed.

    y = change where the scanner stays + (offset_l - offset_e) + (slope_l - slope_e) x

y is the later visit less the earlier one x, each scaled by its own site; the change depends on covariates, gap and x.
All of it is fitted at once, so that the mean change is that of people whose scanner stayed, or of those who changed in
opposite directions, and people who changed teach everything else. Where neither says enough, two sites with many
baselines are taken at the difference of these; otherwise such pairs teach nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

# People's worth of knowledge of the mean change that offsets are told apart from it by; a fold's folds have fewer.
FEWEST_PEOPLE, FEWEST_OF_FOLD = 10.0, 6.0
# Greatest share that one pair has in its own offset: five pairs of a kind are enough.
LEVERAGE = 0.201
# Baselines that a site has for its offset to be known by them alone.
FEWEST_BASELINES = 100
# How far a scanner's slope is from another's, a priori.
SLOPE = 0.1
# Of covariates, gap and baseline, as a share of a pair; and what keeps offsets that nothing tells apart finite.
PENALTY, LEAST = 1e-3, 1e-8
# Standard deviations beyond which an error counts less, and an own baseline at most counts.
FAR, FAR_BASELINE = 3.0, 4.0
ROUNDS = 4


def differences(sites: list[str], earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """(P, S) 1 at the later site, -1 at the earlier one; zeros where they are one."""
    found = np.zeros((len(earlier), len(sites)))
    for place, name in enumerate(sites):
        found[:, place] = (later == name).astype(float) - (earlier == name)
    return found


def placeable(earlier: np.ndarray, later: np.ndarray, weight: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    """(P,) bool: pairs whose visits can be put on one scale.

    earlier, later (P,) sites;  weight (P,), of a person's pairs 1 in all;  first : (N,) sites of all baselines.
    """
    changed = earlier != later
    usable = np.ones(len(changed), dtype=bool)
    if not changed.any():
        return usable
    if told_by_pairs(earlier, later, weight):
        for _ in range(len(changed)):
            sites = sorted(set(earlier[usable]) | set(later[usable]))
            S = differences(sites, earlier, later) * np.sqrt(weight)[:, None]
            share = np.einsum("ps,ps->p", S @ np.linalg.pinv(S[usable].T @ S[usable]), S)
            left = changed & usable & (share > LEVERAGE)
            if not left.any():
                break
            usable &= ~left
        # Those that went may have been what told the others' offsets from the change.
        if told_by_pairs(earlier[usable], later[usable], weight[usable]):
            return usable
    many = [site for site, count in Counter([] if first is None else first).items() if count >= FEWEST_BASELINES]
    return ~changed | (np.isin(earlier, many) & np.isin(later, many))


def told_by_pairs(earlier: np.ndarray, later: np.ndarray, weight: np.ndarray, fewest: float = FEWEST_OF_FOLD) -> bool:
    """Whether offsets and the mean change can be told apart by the pairs themselves."""
    sites = sorted(set(earlier) | set(later))
    root = np.sqrt(weight)
    S = differences(sites, earlier, later) * root[:, None]
    left = root - S @ (np.linalg.pinv(S) @ root)
    return float(left @ left) >= fewest - 1e-9


@dataclass(eq=False)
class ScannerMoves:
    """offset, slope : (S, D) of the sites, in scaled units; differences of two of them count."""

    sites: list[str]
    offset: np.ndarray
    slope: np.ndarray

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        shared: np.ndarray,
        earlier: np.ndarray,
        later: np.ndarray,
        weight: np.ndarray,
    ) -> ScannerMoves:
        """x, y (P, D) as above, NaN where unknown;  shared (P, C + 1), covariates and gap.

        earlier, later (P,), sites;  weight (P,).
        """
        changed = earlier != later
        sites = sorted(set(earlier[changed]) | set(later[changed]))
        width = y.shape[1]
        offset, slope = np.zeros((len(sites), width)), np.zeros((len(sites), width))
        if not told_by_pairs(earlier, later, weight):
            return cls(sites, offset, slope)
        S = differences(sites, earlier, later)
        centred = shared - weight @ shared / weight.sum()
        ones = np.ones((len(y), 1))
        for feature in range(width):
            rows = np.flatnonzero(np.isfinite(y[:, feature]) & np.isfinite(x[:, feature]))
            own = np.clip(x[rows, feature, None], -FAR_BASELINE, FAR_BASELINE)
            columns = np.concatenate([ones[rows], centred[rows], own, S[rows], S[rows] * own], axis=1)
            found = _robust(columns, y[rows, feature], weight[rows], len(sites))
            offset[:, feature], slope[:, feature] = found[-2 * len(sites) : -len(sites)], found[-len(sites) :]
        return cls(sites, offset, slope)

    def between(self, earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offset and slope (P, D) of a move from site to site, NaN where that is not known."""
        S = differences(self.sites, earlier, later)
        unknown = ~(np.isin(earlier, self.sites) & np.isin(later, self.sites))
        offset, slope = S @ self.offset, S @ self.slope
        offset[unknown], slope[unknown] = np.nan, np.nan
        return offset, slope

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ScannerMoves:
        return cls(**state)


def _robust(columns: np.ndarray, y: np.ndarray, weight: np.ndarray, sites: int) -> np.ndarray:
    """Coefficients (q,) of y (P,), the last 2 * sites those of offsets and of slopes; far errors count less (Huber)."""
    count = columns.shape[1]
    found = np.zeros(count)
    if not len(y):
        return found
    penalty = np.full(count, PENALTY * weight.sum())
    penalty[0], penalty[-2 * sites : -sites] = 0.0, LEAST
    counted = weight
    variance = max(float(weight @ (y - np.median(y)) ** 2 / weight.sum()), 1e-9)
    for _ in range(ROUNDS):
        penalty[-sites:] = variance / SLOPE**2
        pulled = columns * counted[:, None]
        gram = pulled.T @ columns + np.diag(penalty)
        found = np.linalg.lstsq(gram, pulled.T @ y, rcond=1e-12)[0]
        left = np.abs(y - columns @ found)
        size = max(1.4826 * float(np.median(left)), 1e-6)
        variance = size**2
        counted = weight * FAR / np.maximum(left / size, FAR)
    return found


def move_notes(changed: int, used: int, pairs: int, by_pairs: bool) -> list[str]:
    """What to tell of a model's pairs: how many changed the site, and how many of these teach."""
    if not changed:
        return []
    text = f"{changed} of {pairs} pairs of visits are on two sites"
    if used:
        by = "by the people who changed" if by_pairs else "by the baselines of different people, which have to be alike"
        text += f": {used} of them teach, each visit scaled by its own site, whose offset is told {by}"
    if used < changed:
        text += f"; {changed - used} teach nothing, because the offset of their sites cannot be told"
    return [f"{text}. A follow-up is imputed as on the site of the baseline"]
