"""The values that a model was trained on, feature by feature, and what lies outside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .scaling import quantiles
from .value_checks import Suspect, is_code, short

# Rows that tell quantiles.
_ROWS = 20_000
# Spreads from the middle within which training values make the range, spreads beyond it that are far, and the same of
# logarithms of positive values.
_KEPT, _FAR, _FAR_LOG = 12.0, 10.0, 4.0
# Share of a column that lies outside where all of it is of another unit.
_MOST = 0.8
_UNIT = "Bring the column to the unit of training"
_SAME = "See that it is the measure that the model was trained on, in the same unit"


@dataclass(frozen=True, eq=False)
class FeatureRanges:
    """Of D features: names, least and largest values without far ones, middle and robust spread, each (D,) float64.

    log_spread : of the logarithms of positive values, NaN where a feature is not positive.
    """

    features: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray
    spread: np.ndarray
    log_spread: np.ndarray

    @classmethod
    def fit(cls, visits: np.ndarray, features: Sequence[str]) -> FeatureRanges:
        """From visits (N, V, D) of training people, NaN where missing."""
        parts = [_range(visits[:, :, place].ravel()) for place in range(len(features))]
        columns = np.array(parts, dtype=float).reshape(len(features), 5).T
        return cls(tuple(features), *columns)

    def of(self, features: Sequence[str]) -> FeatureRanges:
        """Of some of the features, in this order."""
        place = {name: row for row, name in enumerate(self.features)}
        rows = [place[name] for name in features]
        columns = (self.low, self.high, self.middle, self.spread, self.log_spread)
        return FeatureRanges(tuple(features), *(column[rows] for column in columns))

    def check(self, baseline: np.ndarray) -> list[tuple[str, Suspect]]:
        """Names of features and what is outside in baseline (N, D), of these features in this order, NaN where missing.

        First columns of another unit, which are refused, and then single people far outside.
        """
        low, high = np.fmin.reduce(baseline, axis=0, initial=np.nan), np.fmax.reduce(baseline, axis=0, initial=np.nan)
        columns = np.flatnonzero((low < self.low) | (high > self.high))
        whole = {int(place): found for place in columns if (found := self._unit(int(place), baseline[:, place]))}
        whole |= self._unit_of_few(baseline, [int(place) for place in columns if int(place) not in whole])
        single = [
            (self.features[place], suspect)
            for place in map(int, columns)
            if place not in whole
            for suspect in self._people(place, baseline[:, place])
        ]
        return [*((self.features[place], suspect) for place, suspect in whole.items()), *single]

    def _outside(self, place: int, values: np.ndarray) -> float:
        """Share of values (n,) on the side of the range where more of them are."""
        return max(float((values < self.low[place]).mean()), float((values > self.high[place]).mean()))

    def _power(self, place: int, value: float) -> int:
        """The power of ten that a value is of the middle, 0 where it is none."""
        if not (self.middle[place] > 0 and value > 0):
            return 0
        ratio = float(np.log10(value / self.middle[place]))
        power = round(ratio)
        return power if abs(ratio - power) <= 0.2 else 0

    def _unit(self, place: int, values: np.ndarray) -> Suspect | None:
        cells = np.flatnonzero(~np.isnan(values))
        known = values[cells].astype(float)
        if len(known) < 3 or self._outside(place, known) < _MOST:
            return None
        middle = float(np.median(known))
        power = self._power(place, middle)
        beyond = max(middle - self.high[place], self.low[place] - middle)
        if not power and beyond < _FAR * self.spread[place]:
            return None
        return self._other_unit(place, cells, middle, power)

    def _unit_of_few(self, baseline: np.ndarray, columns: list[int]) -> dict[int, Suspect]:
        """Of one or two people a column tells nothing, and several columns of one ratio do."""
        measured = np.isfinite(baseline)
        few = {
            place: int(np.flatnonzero(measured[:, place])[0])
            for place in columns
            if measured[:, place].sum() < 3 and self._outside(place, baseline[measured[:, place], place]) == 1
        }
        powers = {place: self._power(place, float(baseline[row, place])) for place, row in few.items()}
        common = [power for power in powers.values() if power]
        if len(common) < 2:
            return {}
        most = max(set(common), key=common.count)
        alike = [place for place, power in powers.items() if power == most]
        if len(alike) < max(2, _MOST * measured.any(axis=0).sum()):
            return {}
        return {
            place: self._other_unit(
                place, np.flatnonzero(measured[:, place]), float(np.nanmedian(baseline[:, place])), most
            )
            for place in alike
        }

    def _other_unit(self, place: int, cells: np.ndarray, middle: float, power: int) -> Suspect:
        trained = f"{short(self.low[place])} to {short(self.high[place])}"
        if power:
            times = f"{10**power:,} times" if power > 0 else f"1/{10**-power:,} of"
            problem = (
                f"the median of {len(cells)} baselines is {short(middle)}, {times} that of training "
                f"({short(self.middle[place])}): another unit?"
            )
        else:
            problem = f"the median of {len(cells)} baselines is {short(middle)}, far outside of training ({trained})"
        return Suspect("units", middle, cells, problem, _UNIT if power else _SAME, True)

    def _people(self, place: int, values: np.ndarray) -> list[Suspect]:
        found = []
        for cell in np.flatnonzero((values < self.low[place]) | (values > self.high[place])):
            value = float(values[cell])
            if not self._far(place, value):
                continue
            usual = f"outside of training ({short(self.low[place])} to {short(self.high[place])})"
            where = np.array([cell])
            if value != 0 and is_code(value):
                code = short(value)
                mend = f"Where it stands for missing: --missing {code} (missing=[{code!r}])"
                problem = f"{code} is a usual code for missing, and {usual}"
                found.append(Suspect("code", value, where, problem, mend, True, code))
            else:
                mend = "Correct the cell, or empty it: a missing one is drawn"
                found.append(Suspect("outside", value, where, f"{short(value)} is far {usual}", mend, False))
        return found

    def _far(self, place: int, value: float) -> bool:
        low, high, spread, log = (
            float(column[place]) for column in (self.low, self.high, self.spread, self.log_spread)
        )
        positive = log == log
        if value > high:
            far = value > high + _FAR * spread
            return far and not (positive and high > 0 and np.log(value / high) < _FAR_LOG * log)
        if not positive:
            return value < low - _FAR * spread
        if value <= 0:
            # Below zero where nothing was; and zero where everything was far from it.
            return value < 0 or low > 3.0 * spread
        return value < 0.3 * low and np.log(low / value) > _FAR_LOG * log

    def state(self) -> dict[str, Any]:
        """JSON values and arrays that `from_state` takes back."""
        return {name: list(value) if name == "features" else value for name, value in vars(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureRanges:
        return cls(
            tuple(state["features"]), *(state[name] for name in ("low", "high", "middle", "spread", "log_spread"))
        )


def _range(values: np.ndarray) -> tuple[float, float, float, float, float]:
    known = values[~np.isnan(values)].astype(float)
    if not len(known):
        return -np.inf, np.inf, np.nan, np.nan, np.nan
    few = known[:: max(1, len(known) // _ROWS)][:, None]
    middle, spread = _middle(few)
    keep = np.abs(known - middle) <= _KEPT * spread
    log_spread = np.nan
    inside = known[keep]
    if (inside >= 0).all() and (known > 0).sum() >= 10:
        log_middle, log_spread = _middle(np.log(few[few > 0])[:, None])
        with np.errstate(divide="ignore"):
            logs = np.log(np.where(known > 0, known, 1.0))
        keep |= (known > 0) & (np.abs(logs - log_middle) <= 0.5 * _KEPT * log_spread)
    return float(known[keep].min()), float(known[keep].max()), middle, spread, log_spread


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Median and robust spread of values (n, 1)."""
    low, first, middle, third, high = (float(each[0]) for each in quantiles(values, 0.05, 0.25, 0.5, 0.75, 0.95))
    spread = (third - first) / 1.349 or (high - low) / 3.29 or float(values.std())
    return middle, spread or max(abs(middle) * 0.05, 1e-300)
