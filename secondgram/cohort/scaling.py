"""Putting features and covariates on a common scale, fitted on training people only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, some

# A site's own spread counts as much as the sites' common one once it has this many people beyond the first.
SITE_PRIOR = 5.0


@dataclass(eq=False)
class SharedScaling:
    """One location and one spread per feature, the same for every visit, so that "nothing changed" is the identity.

    location, spread : (S, D) float64; row 0 is the whole cohort, the others the sites in `sites`.
    A site seen in training is scaled by its own figures, shrunk as far as sites do not differ; an unknown one by the
    cohort's mean and the sites' common spread, which holds no scatter between sites.
    whole : (D,), the spread of the cohort with that scatter.
    """

    location: np.ndarray
    spread: np.ndarray
    sites: tuple[str, ...] = ()
    whole: np.ndarray | None = None

    @classmethod
    def fit(cls, baseline: np.ndarray, site: np.ndarray | None = None, *, robust: bool = False) -> SharedScaling:
        """From the baselines of training people: baseline (N, D), site (N,) text or None.

        robust : outlying cells are cut, so that one of them decides no scale.
        """
        if robust:
            baseline = _near(baseline)
        mean, spread = _moments(baseline)
        if site is None:
            return cls(mean[None], spread[None])
        names = sorted({str(name) for name in site})
        parts = [baseline[site == name] for name in names]
        if robust:
            parts = [_near(part) for part in parts]
        count = np.stack([np.isfinite(rows).sum(axis=0) for rows in parts])  # [sites, features]
        moments = [_moments(rows, flat_spread=np.nan) for rows in parts]
        own_mean, own_spread = (np.stack(values) for values in zip(*moments, strict=True))
        spreads, common = _site_spreads(own_spread, count, spread)
        location = _shrunk(own_mean, spreads**2 / np.maximum(count, 1), count > 0, mean)
        return cls(np.vstack([mean, location]), np.vstack([common, spreads]), tuple(names), spread)

    def unknown(self, people: int, site: np.ndarray | None = None) -> np.ndarray:
        """(N,) bool: people of a site that was not seen, or of none, where features are scaled within sites."""
        return np.asarray(self._rows(people, site) == 0) if self.sites else np.zeros(people, dtype=bool)

    def _rows(self, people: int, site: np.ndarray | None) -> np.ndarray:
        if not self.sites or site is None:
            return np.zeros(people, dtype=int)
        place = {name: index + 1 for index, name in enumerate(self.sites)}
        return np.array([place.get(str(name), 0) for name in site], dtype=int)

    def apply(self, values: np.ndarray, site: np.ndarray | None = None) -> np.ndarray:
        """values (N, D) in original units -> (N, D) scaled, float64."""
        rows = self._rows(len(values), site)
        return (values - self.location[rows]) / self.spread[rows]

    def original_scale(self, people: int, site: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale, (N, D) each: original units are location + scale * scaled value."""
        rows = self._rows(people, site)
        return self.location[rows], self.spread[rows]

    def invert(self, values: np.ndarray, site: np.ndarray | None = None) -> np.ndarray:
        """values (..., N, D) scaled -> original units."""
        location, spread = self.original_scale(values.shape[-2], site)
        return values * spread + location

    def state(self) -> dict[str, Any]:
        own = {"location": self.location, "spread": self.spread, "sites": list(self.sites)}
        return own if self.whole is None else own | {"whole": self.whole}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SharedScaling:
        return cls(state["location"], state["spread"], tuple(state["sites"]), state.get("whole"))


def _site_spreads(own: np.ndarray, count: np.ndarray, overall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread of each site (S, D): its own, shrunk on the log scale to the sites' common one (D,), which comes second.

    own : (S, D), NaN where a site's values do not vary and say nothing;  count : (S, D);  overall : (D,) fallback.
    """
    known = np.isfinite(own) & (count > 1)
    degrees = np.where(known, count - 1, 0)
    square = (degrees * np.where(known, own, 0.0) ** 2).sum(axis=0)
    common = np.where(square > 0, np.sqrt(square / np.maximum(degrees.sum(axis=0), 1)), overall)
    # A fixed prior, not one estimated from the sites: two people who happen to agree must not get a scale of nothing.
    weight = degrees / (degrees + SITE_PRIOR)
    return np.where(known, own, common) ** weight * common ** (1.0 - weight), common


def _shrunk(own: np.ndarray, error: np.ndarray, known: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Empirical Bayes: own values (S, D) with sampling variances `error`, shrunk to `centre` (D,).

    The variance between sites is what their scatter exceeds their errors by (method of moments): sites that differ keep
    their own figures, sites that do not share one. An unknown value becomes the centre.
    """
    number = np.maximum(known.sum(axis=0), 1)
    scatter = np.where(known, (own - centre) ** 2, 0.0).sum(axis=0) / number
    between = np.maximum(scatter - np.where(known, error, 0.0).sum(axis=0) / number, 0.0)
    weight = np.where(known, between / (between + error), 0.0)
    return np.where(known, weight * own + (1.0 - weight) * centre, centre)


# Standard deviations from the middle, by the median of distances, at which cells are cut; and the fewest that tell.
FAR, FEWEST = 5.0, 10


# Columns that are worked on together: of a large cohort, so many fit the processor's memory and all do not.
TOGETHER = 32


def _blocks(width: int) -> list[slice]:
    return [slice(start, start + TOGETHER) for start in range(0, max(width, 1), TOGETHER)]


def _near(values: np.ndarray) -> np.ndarray:
    """values (N, D), each column cut to its middle +- `FAR` robust standard deviations."""
    if len(values) < FEWEST:
        return values
    cut = np.empty_like(values)
    for columns in _blocks(values.shape[1]):
        some = values[:, columns]
        (middle,) = quantiles(some, 0.5)
        spread = robust_spread(np.abs(some - middle))
        limit = np.where(np.isfinite(spread) & (spread > 0), FAR * spread, np.inf)
        cut[:, columns] = np.clip(some, middle - limit, middle + limit)
    return cut


def robust_spread(apart: np.ndarray) -> np.ndarray:
    """Standard deviations (D,) from the medians of the distances (N, D) from the middle; NaN left out.

    More than half of the values may be one, zero say: then the far ones among the distances tell.
    """
    half, most = quantiles(apart, 0.5, 0.9)
    return np.where(half > 0, 1.4826 * half, most / 1.645)


def quantiles(values: np.ndarray, *shares: float) -> list[np.ndarray]:
    """Quantiles (D,) of the columns of values (N, D), NaN left out; NaN for a column without values."""
    columns = np.ascontiguousarray(values.T)
    seen = np.isfinite(columns)
    count = seen.sum(axis=1)
    found = [np.full(len(columns), np.nan) for _ in shares]
    for number in np.unique(count[count > 0]):
        rows = np.flatnonzero(count == number)
        some = columns[rows] if number == values.shape[0] else columns[rows][seen[rows]].reshape(len(rows), number)
        places = [share * (number - 1) for share in shares]
        ends = sorted({min(int(place) + more, number - 1) for place in places for more in (0, 1)})
        parted = np.partition(some, ends, axis=1)
        for place, into in zip(places, found, strict=True):
            low = int(place)
            below, above = parted[:, low], parted[:, min(low + 1, number - 1)]
            into[rows] = below + (place - low) * (above - below)
    return found


def _moments(values: np.ndarray, flat_spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    # nan-aware, and quiet on a column without values: mean 0 and spread 1 leave it as it is.
    found = [_moments_of(values[:, columns], flat_spread) for columns in _blocks(values.shape[1])]
    return np.concatenate([mean for mean, _ in found]), np.concatenate([spread for _, spread in found])


def _moments_of(values: np.ndarray, flat_spread: float) -> tuple[np.ndarray, np.ndarray]:
    seen = np.isfinite(values)
    count = seen.sum(axis=0)
    filled = np.where(seen, values, 0.0).astype(float)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    square = (np.where(seen, values - mean, 0.0) ** 2).sum(axis=0)
    spread = np.sqrt(square / np.maximum(count - 1, 1))
    # A constant column has only rounding errors left.
    flat = spread <= 1e-9 * np.maximum(np.abs(mean), 1e-30)
    return mean, np.where(flat, flat_spread, spread)


@dataclass(eq=False)
class RangeScaling:
    """Minimum to -1 and maximum to 1 per feature, as in the paper.

    low, high : (D,) float64.
    within : where sites are declared, the scaling within site that comes first.
    """

    low: np.ndarray
    high: np.ndarray
    within: SharedScaling | None = None

    @classmethod
    def fit(
        cls, values: np.ndarray, site: np.ndarray | None = None, within: SharedScaling | None = None
    ) -> RangeScaling:
        """values (N, D), NaN where missing; a feature without a value gets the range -1 .. 1."""
        values = values if within is None else within.apply(values, site)
        seen = np.isfinite(values)
        some_seen = seen.any(axis=0)
        low = np.where(some_seen, np.where(seen, values, np.inf).min(axis=0, initial=np.inf), -1.0)
        high = np.where(some_seen, np.where(seen, values, -np.inf).max(axis=0, initial=-np.inf), 1.0)
        return cls(low.astype(float), np.where(high > low, high, low + 1.0).astype(float), within)

    def apply(self, values: np.ndarray, site: np.ndarray | None = None) -> np.ndarray:
        """values (N, D) in original units -> scaled."""
        values = values if self.within is None else self.within.apply(values, site)
        return 2.0 * (values - self.low) / (self.high - self.low) - 1.0

    def original_scale(self, people: int, site: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale, (N, D) each: original units are location + scale * scaled value."""
        centre, half = (self.high + self.low) / 2.0, (self.high - self.low) / 2.0
        if self.within is None:
            return tuple(np.broadcast_to(each, (people, len(each))) for each in (centre, half))  # type: ignore[return-value]
        location, spread = self.within.original_scale(people, site)
        return location + spread * centre, spread * half

    def invert(self, values: np.ndarray, site: np.ndarray | None = None) -> np.ndarray:
        """values (..., N, D) scaled -> original units."""
        centre, half = self.original_scale(values.shape[-2], site)
        return values * half + centre

    def state(self) -> dict[str, Any]:
        within = None if self.within is None else self.within.state()
        return {"low": self.low, "high": self.high, "within": within}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RangeScaling:
        within = None if state["within"] is None else SharedScaling.from_state(state["within"])
        return cls(state["low"], state["high"], within)


@dataclass(eq=False)
class CovariateEncoder:
    """Static covariates as numbers: numeric ones centred and scaled, categorical ones as 0/1 columns.

    columns : name -> levels of a categorical covariate, or None for a numeric one.
    shift, scale : (C,) float64, applied to the encoded columns.
    two : name -> the two values that a numeric covariate has, 0 and 1 say.
    """

    columns: dict[str, list[str] | None]
    shift: np.ndarray
    scale: np.ndarray
    two: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def fit(cls, table: pd.DataFrame, unit_range: bool = False) -> CovariateEncoder:
        """From training people. unit_range: numeric covariates to [0, 1] (the paper) instead of mean 0, spread 1."""
        columns: dict[str, list[str] | None] = {}
        for name, column in table.items():
            categorical = isinstance(column.dtype, pd.CategoricalDtype)
            columns[str(name)] = [str(level) for level in column.cat.categories] if categorical else None
        encoder = cls(columns, np.zeros(0), np.ones(0))
        raw = encoder._raw(table)
        for name, where in encoder.places.items():
            if columns[name] is None:
                found = np.unique(raw[np.isfinite(raw[:, where.start]), where.start])
                if len(found) == 2:
                    encoder.two[name] = float(found[0]), float(found[1])
        shift, scale = _moments(raw)
        if unit_range:
            bounds = RangeScaling.fit(raw)
            numeric = ~encoder.categorical
            shift = np.where(numeric, bounds.low, 0.0)
            scale = np.where(numeric, bounds.high - bounds.low, 1.0)
        encoder.shift, encoder.scale = shift, scale
        return encoder

    @property
    def width(self) -> int:
        """C, the number of encoded columns."""
        return sum(1 if levels is None else len(levels) for levels in self.columns.values())

    @property
    def discrete(self) -> np.ndarray:
        """(C,) bool: encoded columns of categories, and of numbers of two values."""
        found = self.categorical
        for name in self.two:
            found[self.places[name]] = True
        return found

    @property
    def categorical(self) -> np.ndarray:
        """(C,) bool: encoded columns of categories."""
        return np.concatenate(
            [np.full(1 if levels is None else len(levels), levels is not None) for levels in self.columns.values()]
            or [np.zeros(0, dtype=bool)]
        )

    def _raw(self, table: pd.DataFrame, source: str | None = None, ids: np.ndarray | None = None) -> np.ndarray:
        encoded = []
        for name, levels in self.columns.items():
            if name not in table:
                raise InputError(
                    "the model was trained with this covariate and the cohort has none of that name",
                    file=source,
                    column=name,
                    mend="Add the column, or train a model without it",
                )
            column = table[name]
            if levels is not None and _of_levels(column, levels):
                code = column.cat.codes.to_numpy()[:, None]
                encoded += list(np.where(code < 0, np.nan, code == np.arange(len(levels))).T)
                continue
            if levels is None:
                encoded.append(_numbers(column, name, source))
                continue
            # As objects throughout: in pandas 3 a column of text holds NaN, not None, where a value is missing.
            text = column.astype(object).map(str).astype(object).where(column.notna(), None)
            unseen = sorted({value for value in text if value is not None} - set(levels))
            if unseen:
                first = int(np.flatnonzero(text.isin(unseen))[0])
                raise InputError(
                    f"category {some(unseen)} was not seen in training (known: {some(levels, 8)})",
                    file=source,
                    column=name,
                    row=f"of subject {first + 1 if ids is None else ids[first]}",
                    mend="Correct the value, leave it empty, or train with people of that category",
                )
            for level in levels:
                encoded.append(np.where(text.isna(), np.nan, (text == level).astype(float)))
        return np.stack(encoded, axis=1) if encoded else np.zeros((len(table), 0))

    def encode(self, table: pd.DataFrame, source: str | None = None, ids: np.ndarray | None = None) -> np.ndarray:
        """(N, C) float64, scaled, NaN where a covariate is missing: in all its columns if it is categorical.

        source, ids : file and (N,) subject ids, for messages. Raises `InputError` for an absent covariate or a category
        unseen in training.
        """
        scaled = (self._raw(table, source, ids) - self.shift) / self.scale
        return np.where(np.isfinite(scaled), scaled, np.nan)

    def transform(self, table: pd.DataFrame, source: str | None = None, ids: np.ndarray | None = None) -> np.ndarray:
        """`encode` with the training mean, 0, where a covariate is missing."""
        scaled = self.encode(table, source, ids)
        return np.where(np.isnan(scaled), 0.0, scaled)

    @property
    def places(self) -> dict[str, slice]:
        """By covariate, the positions of its encoded columns."""
        widths = [1 if levels is None else len(levels) for levels in self.columns.values()]
        ends = np.cumsum(widths, dtype=int)
        return {
            name: slice(int(end) - width, int(end)) for name, end, width in zip(self.columns, ends, widths, strict=True)
        }

    def state(self) -> dict[str, Any]:
        # As a list, because the order of the columns is the meaning of shift, scale and every coefficient behind them.
        return {"columns": [[name, levels] for name, levels in self.columns.items()]} | {
            "shift": self.shift,
            "scale": self.scale,
            "two": {name: list(values) for name, values in self.two.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CovariateEncoder:
        # Models of an earlier release do not say which have two values.
        two = {name: (low, high) for name, (low, high) in state.get("two", {}).items()}
        return cls(dict(state["columns"]), state["shift"], state["scale"], two)


def _of_levels(column: pd.Series, levels: list[str]) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype) and [str(each) for each in column.cat.categories] == levels


def _numbers(column: pd.Series, name: str, source: str | None) -> np.ndarray:
    try:
        return column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(
            "the model was trained with numbers in this covariate and the cohort has text",
            file=source,
            column=name,
            mend="Give the same kind of values as in training",
        ) from error
