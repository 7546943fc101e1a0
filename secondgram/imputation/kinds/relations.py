"""Search for relations that hold between features in every row: copies, constants, sums, means, products and ratios."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ...cohort.table import Cohort
from ...errors import InputError
from .passive import Relation

# Rows that relations are looked for in and then tried on, and the fewest that tell.
LOOKED_AT, FEWEST = 4000, 15
# Rows in which sums of two are looked for.
ANCHORS = 10
# Decimals that are looked for in what is written, and digits.
DECIMALS, DIGITS = 12, 9
# Rounding beyond this share of a target's spread would hide what does not hold.
SHARP = 0.1
# Of sums of two: the target times one of these.
FACTORS = (1.0, 2.0, 1000.0, 0.001)
# More features have too many sums of two.
WIDEST = 3000
# A share of variance that only rounding leaves, and entries of its direction that count.
NOTHING, COUNTS = 1e-4, 0.02
# A factor next to a whole number up to this, its inverse or a power of ten is that.
LARGEST, POWERS = 100.0, tuple(10.0**power for power in range(-12, 13))
# A standard deviation, as a share of the mean, up to which four of them leave a feature above zero.
STEADY = 0.25
# Names of what is derived from others.
DERIVED = re.compile(r"norm|ratio|frac|percent|pct|adj|_rel|per_|corrected", re.IGNORECASE)


def written_steps(values: np.ndarray) -> np.ndarray:
    """(D,) the step in which each column of values (n, D) is written, a power of ten; 0 where none is found."""
    steps = np.zeros(values.shape[1])
    for place in range(values.shape[1]):
        column = values[:, place]
        column = column[np.isfinite(column)].astype(float)
        for decimals in range(DECIMALS + 1):
            scaled = column * 10.0**decimals
            if not len(column) or np.abs(scaled).max() >= 10.0**DIGITS:
                break
            room = 1e-6 + np.abs(scaled) * (1e-6 if values.dtype == np.float32 else 1e-12)
            if (np.abs(scaled - np.rint(scaled)) <= np.minimum(room, 0.01)).all():
                steps[place] = 10.0**-decimals
                break
    return steps


def found_relations(cohort: Cohort, declared: list[Relation]) -> tuple[list[Relation], np.ndarray]:
    """Relations of a cohort's features, parts before what rests on them, and the steps (D,) they are written in."""
    values = cohort.visits.reshape(-1, len(cohort.features))
    step = -(-len(values) // LOOKED_AT)
    values = values[::step]
    values = values[np.isfinite(values).any(axis=1)]
    steps = written_steps(values)
    search = _Search(values, steps, cohort.features)
    for each in declared:
        _check_divisors(each, values, cohort)
        search.take(each)
    if search.values.shape[1] > 1 and len(values) >= FEWEST:
        search.multiples()
        search.pairs(product=False)
        search.pairs(product=True)
        search.longer()
    return search.ordered(), steps


def _check_divisors(relation: Relation, values: np.ndarray, cohort: Cohort) -> None:
    """Raise `InputError` where a declared ratio divides by what comes near zero."""
    if not relation.product:
        return
    names = cohort.features
    for part, weight in zip(relation.parts, relation.weights, strict=True):
        if weight < 0 and comes_near_zero(values[:, part]):
            formula, divisor = relation.text(names), names[part]
            others = [names[each] for each in (relation.target, *relation.parts) if each != part]
            raise InputError(
                f"{formula} divides by what comes near zero: {divisor} varies by more than {STEADY:g} of its mean",
                file=cohort.source,
                column=divisor,
                mend=f"Leave it out, or declare the product that one of {' and '.join(others)} is",
            )


class _Search:
    """values (n, D), some rows of the cohort."""

    def __init__(self, values: np.ndarray, steps: np.ndarray, features: tuple[str, ...]) -> None:
        self.values, self.steps, self.features = values, steps, features
        self.given: dict[int, Relation] = {}
        seen = np.isfinite(values)
        self.spread = np.array(
            [values[seen[:, j], j].std() if seen[:, j].sum() > 1 else 0.0 for j in range(values.shape[1])]
        )
        # Rows in which most was measured, and that differ.
        order = np.argsort(-seen.sum(axis=1), kind="stable")
        self.anchors = order[np.linspace(0, max(len(order) // 4, ANCHORS) - 1, ANCHORS).astype(int)]

    def take(self, relation: Relation) -> bool:
        """Keep a relation, unless its target has one or it would go in a circle."""
        if relation.target in self.given or any(self._rests(part, relation.target) for part in relation.parts):
            return False
        self.given[relation.target] = relation
        return True

    def _rests(self, place: int, on: int) -> bool:
        if place == on:
            return True
        return place in self.given and any(self._rests(part, on) for part in self.given[place].parts)

    def ordered(self) -> list[Relation]:
        done: list[Relation] = []
        left = dict(sorted(self.given.items()))
        while left:
            ready = [target for target, each in left.items() if not any(part in left for part in each.parts)]
            done += [left.pop(target) for target in ready]
        return done

    def free(self) -> np.ndarray:
        """Positions of features that vary, were measured in the anchors, and that no relation gives."""
        here = np.isfinite(self.values[self.anchors]).all(axis=0) & (self.spread > 0)
        return np.array([j for j in np.flatnonzero(here) if j not in self.given], dtype=int)

    def holds(self, relation: Relation) -> bool:
        """In every row in which all of it was measured, sharply."""
        columns = [relation.target, *relation.parts]
        rows = self.values[np.isfinite(self.values[:, columns]).all(axis=1)]
        target = rows[:, relation.target].astype(float)
        if len(rows) < FEWEST or not self.informative(target):
            return False
        room = relation.room(rows, self.steps)
        if np.median(room) > SHARP * target.std():
            if relation.product:
                return False
            # Whole numbers of few levels: their sums are exact.
            room = np.full(len(rows), 1e-6)
        return bool((np.abs(relation.value(rows) - target) <= room).all())

    def informative(self, target: np.ndarray) -> bool:
        _, counts = np.unique(target, return_counts=True)
        return len(target) - int(counts.max()) >= FEWEST // 2

    def multiples(self) -> None:
        """Copies and constants: the later column rests on the earlier one."""
        free = self.free()
        one, two = (self.values[row, free].astype(float) for row in self.anchors[[0, -1]])
        if (one == 0).any() or (two == 0).any():
            one, two = (
                np.nanmean(self.values[half][:, free], axis=0, dtype=float)
                for half in (slice(None, None, 2), slice(1, None, 2))
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = two / one
            room = np.abs(ratio) * (self.steps[free] / np.abs(one) + self.steps[free] / np.abs(two) + 1e-6)
        order = np.argsort(ratio, kind="stable")
        for number, here in enumerate(order):
            for there in order[number + 1 :]:
                if not ratio[there] - ratio[here] <= room[here] + room[there]:
                    break
                part, target = sorted((int(free[here]), int(free[there])))
                if part not in self.given and target not in self.given:
                    self._constant(target, part)

    def _constant(self, target: int, part: int) -> None:
        rows = self.values[np.isfinite(self.values[:, [target, part]]).all(axis=1)].astype(float)
        size = (rows[:, part] ** 2).sum()
        if not len(rows) or size == 0:
            return
        factor = _nice(float(rows[:, target] @ rows[:, part] / size))
        if factor == 0:
            return
        ways = [(target, part, factor), (part, target, 1.0 / factor)]
        # What is written more finely determines what is not.
        if self.steps[part] * abs(factor) > self.steps[target] * 1.001:
            ways.reverse()
        for one, other, by in ways:
            relation = Relation(one, (other,), (1.0,), factor=_nice(by))
            if self.holds(relation) and self.take(relation):
                return

    def pairs(self, product: bool) -> None:
        """z = x + y, their mean, and z = c x y, of which any may be what the others determine."""
        free = self.free()
        if product:
            positive = np.fmin.reduce(self.values[:, free], axis=0) > 0
            free = free[positive]
        if not 3 <= len(free) <= WIDEST:
            return
        rows = self.values[self.anchors][:, free].astype(float)  # [anchors, features]
        half = self.steps[free] / 2.0
        if product:
            # From the first row on, so that no constant matters.
            logs, apart = np.log(rows), half / rows + 1e-6
            x, room = logs[1:] - logs[0], apart[1:] + apart[0]
        else:
            # Few whole numbers are exact, and their sums are too.
            x, room = rows, np.where(half > SHARP * self.spread[free], 0.0, half) + 1e-7 * np.abs(rows)
        first, second = np.triu_indices(len(free), 1)
        total = x[0, first] + x[0, second]
        order = np.argsort(total, kind="stable")
        ranked = total[order]
        widest = 2.0 * float(room[0].max())
        for column in np.argsort(-np.abs(rows[0]), kind="stable"):
            for factor in (1.0,) if product else FACTORS:
                wanted, near = factor * x[0, column], factor * room[0, column] + widest
                start, stop = np.searchsorted(ranked, [wanted - near, wanted + near])
                some = order[start:stop]
                some = some[(first[some] != column) & (second[some] != column)]
                for row, apart in zip(x, room, strict=True):
                    one, two = first[some], second[some]
                    off = np.abs(row[one] + row[two] - factor * row[column])
                    some = some[off <= 1.01 * (factor * apart[column] + apart[one] + apart[two])]
                for each in some:
                    self._relate(int(free[column]), int(free[first[each]]), int(free[second[each]]), factor, product)

    def _relate(self, z: int, x: int, y: int, factor: float, product: bool) -> None:
        if all(place in self.given for place in (z, x, y)):
            return
        for relation in self._readings(z, x, y, factor, product):
            if relation.target not in self.given and self.holds(relation):
                if self.take(relation):
                    return

    def _readings(self, z: int, x: int, y: int, factor: float, product: bool) -> Iterator[Relation]:
        """The ways in which one of three is determined by the others, the likeliest first."""
        if not product:
            total = Relation(z, tuple(sorted((x, y))), (1.0, 1.0), factor=1.0 / factor)
            lowest = np.fmin.reduce(self.values[:, [z, x, y]], axis=0)
            signed = [place for place, low in zip((x, y), lowest[1:], strict=True) if low < 0]
            # A difference has both signs where the numbers it is of have one.
            if factor == 1 and lowest[0] >= 0 and signed:
                place = signed[-1]
                yield Relation(place, (z, y if place == x else x), (1.0, -1.0))
            yield total
            if factor == 1:
                for place, other in ((max(x, y), min(x, y)), (min(x, y), max(x, y))):
                    yield Relation(place, (z, other), (1.0, -1.0))
            return
        logs = np.log(self.values[:, [z, x, y]].astype(float))
        constant = float(np.exp(np.nanmedian(logs[:, 0] - logs[:, 1] - logs[:, 2])))
        ways = [(z, (x, y), (1.0, 1.0), constant)]
        ways += [(one, (z, other), (1.0, -1.0), 1.0 / constant) for one, other in ((x, y), (y, x))]
        shared = {part for each in self.given.values() if each.product for part in each.parts}
        small = {place: comes_near_zero(self.values[:, place]) for place in (x, y)}

        def doubt(way: tuple[int, tuple[int, ...], tuple[float, ...], float]) -> tuple[bool, bool, bool, int]:
            target, parts, weights, _ = way
            divides = any(small[part] for part, weight in zip(parts, weights, strict=True) if weight < 0)
            return divides, target in shared, DERIVED.search(self.features[target]) is None, -target

        ways.sort(key=doubt)
        for target, parts, weights, by in ways:
            yield Relation(target, parts, weights, True, _nice(by))

    def longer(self) -> None:
        """Sums of more, by directions in which the features do not vary."""
        free = self.free()
        rows = self.values[:, free]
        rows = rows[np.isfinite(rows).all(axis=1)].astype(float)
        if len(free) < 3 or len(rows) < len(free) + FEWEST:
            return
        scaled = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-300)
        values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
        none = values < NOTHING
        if not none.any():
            return
        involved = np.flatnonzero((np.abs(vectors[:, none]) > COUNTS).any(axis=1))
        # The largest numbers are the sums.
        targets = involved[np.argsort(-rows[:, involved].std(axis=0), kind="stable")[: int(none.sum())]]
        parts = np.setdiff1d(involved, targets)
        for target in targets:
            weights = np.linalg.lstsq(rows[:, parts], rows[:, target], rcond=None)[0]
            whole = np.rint(weights)
            used = np.flatnonzero(whole)
            if not 2 <= len(used) or np.abs(weights - whole).max() > 0.05 or np.abs(whole).max() > 3:
                continue
            places = tuple(int(free[part]) for part in parts[used])
            relation = Relation(int(free[target]), places, tuple(map(float, whole[used])))
            if self.holds(relation):
                self.take(relation)


def comes_near_zero(values: np.ndarray) -> bool:
    """Whether draws of a feature with these values (n,) may be so small that what is divided by them explodes."""
    known = values[np.isfinite(values)].astype(float)
    return bool(len(known) and known.std() > STEADY * abs(known.mean()))


def _nice(number: float) -> float:
    """A power of ten, a whole number or its inverse where one is next to this one."""
    if number <= 0 or not np.isfinite(number):
        return number
    for near in (10.0 ** np.rint(np.log10(number)), np.rint(number), 1.0 / max(np.rint(1.0 / number), 1.0)):
        if (1.0 / LARGEST <= near <= LARGEST or near in POWERS) and abs(number / near - 1.0) < 1e-4:
            return float(near)
    return number
