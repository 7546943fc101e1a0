"""The design of the regressions for the mean: training people on scales that are fitted to them alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...cohort.table import Cohort
from ...diffusion.noise import person_keys
from ...ops.thread_pool import in_parallel
from ..context import Context
from ..folds import FOLDS, among, unit_folds
from ..model_data import People, TrainingPairs
from ..regression import LinearMap

# Robust spreads from the middle at which cells that teach are cut: a wrong decimal point is as far as another scanner.
FARTHEST = 25.0
# People without a pair, for each feature, that tell a fold enough of the population.
POPULATION = 10
# People, and people for each feature, that tell enough of what fills missing cells, the greater number counting; of
# everybody, for what is kept, and of a fold.
FILL, FILL_OF_FOLD = (5000, 20), (5000, 8)
# People x features^2 from which a fold takes long. Fewer then do, where units of pairs are so many for each feature.
LONG, FEWER_FOLDS, MANY = 3e9, 3, 2
# Least share of a squared error that is left when the doubt about covariates is subtracted.
LEAST = 0.1
# Of a feature's pairs with a measured baseline, enough to learn a spread from.
FEWEST_MEASURED = 10


@dataclass(frozen=True, eq=False)
class Design:
    """Pairs in the scales of a context that was fitted to the same people.

    X : (P, D + C + 1) = [baseline, covariates, gap];  change : (P, D), NaN where the later visit was not measured.
    Cells beyond `FARTHEST` count as that far.
    measured : (P, D) bool, the earlier visit's own cell was, and is not filled.
    weight, unit : (P,);  everyone : (N, D + C + 1), the first visit of all people who have one.
    first : (P,), the row of everyone that a pair's person is, -1 for none;  complete : no earlier visit lacks a cell,
    and nobody a covariate.
    """

    context: Context
    pairs: TrainingPairs
    X: np.ndarray
    change: np.ndarray
    measured: np.ndarray
    everyone: np.ndarray
    first: np.ndarray
    complete: bool

    @classmethod
    def of(cls, cohort: Cohort, every: bool, holes: bool = True, most: int | None = None) -> Design:
        """every : all earlier-later pairs of a person, or only the first visit with the target;  holes : whether any
        baseline, judged ones included, has a missing cell;  most : people that the fill is learned from, None for all.
        """
        pairs = TrainingPairs.of(cohort, every)
        context = Context.fit(cohort, pairs, holes, most)
        scanned = People.of(cohort.with_baseline(), keep_known=False)
        place = {name: row for row, name in enumerate(scanned.ids)}
        return cls(
            context,
            pairs,
            *_scaled(context, pairs),
            _cut(context.inputs(scanned), len(cohort.features)),
            np.array([place.get(name, -1) for name in pairs.people.ids], dtype=int),
            not (context.gone(scanned).any() or context.gone(pairs.people).any()),
        )

    @property
    def width(self) -> int:
        """D."""
        return self.change.shape[1]

    @property
    def weight(self) -> np.ndarray:
        """(P,) so that every person counts once."""
        return self.pairs.weight

    @property
    def absent(self) -> np.ndarray:
        """(D,) bool: features that nobody's earlier visit has, whose level is imputed and not their change."""
        return np.asarray(~self.measured.any(axis=0))

    def own_baseline(self, error: np.ndarray) -> np.ndarray:
        """error (P, D), NaN also where a feature's own baseline was not measured.

        What a filled cell leaves is in doubt twice, once for the fill. Where few cells are left that way, all are kept.
        """
        kept = (np.isfinite(error) & self.measured).sum(axis=0) >= FEWEST_MEASURED
        return np.where(self.measured | ~kept, error, np.nan)

    def less_doubt(self, error: np.ndarray, linear: LinearMap) -> np.ndarray:
        """error (P, D) of a mean of this map, smaller where a covariate was filled, by what the fill left in doubt.

        Draws have that doubt from draws of the covariate, so that spreads are to be without it.
        """
        width = self.width
        gone = self.context.gone(self.pairs.people)[:, width:]
        rows = np.flatnonzero(gone.any(axis=1))
        if not len(rows):
            return error
        precision = self.context.missing.precision[width:, width:]
        doubt = np.zeros(error.shape)
        for lost in np.unique(gone[rows], axis=0):
            mine = rows[(gone[rows] == lost).all(axis=1)]
            root = np.linalg.cholesky(np.linalg.inv(precision[np.ix_(lost, lost)]))
            moved = np.broadcast_to(root.T @ linear.W[width:-1][lost], (len(mine), len(root), width))
            if linear.by_gap is not None:
                moved = moved + self.X[mine, -1, None, None] * (root.T @ linear.by_gap[width:][lost])
            doubt[mine] = (moved**2).sum(axis=1)
        total = weighted_mean(error**2, self.weight)
        own = np.maximum(total - weighted_mean(np.where(np.isnan(error), np.nan, doubt), self.weight), LEAST * total)
        return error * np.sqrt(own / np.where(own > 0, own + doubt, 1.0))

    def judged(self, pairs: TrainingPairs, cut: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """X (Q, D + C + 1) and change (Q, D) of other people's pairs, in these scales.

        cut : far cells, as where something is learned from them; what is expected of a model counts them in full.
        """
        X, change, _ = _scaled(self.context, pairs, cut)
        return X, change


@dataclass(frozen=True, eq=False)
class Fold:
    """A design without some people, and what they are judged by.

    rows : (Q,) positions of their pairs among all;  X, change : in the design's scales;
    unit : (Q, D), how many units of the design of everybody one of this design is.
    """

    design: Design
    rows: np.ndarray
    X: np.ndarray
    change: np.ndarray
    unit: np.ndarray


def enough(cohort: Cohort, whole: Design) -> np.ndarray:
    """(N,) bool: people of pairs, and of the others as many as a fold learns its population from.

    Which ones is decided by their ids, whatever their order.
    """
    kept = among(cohort.ids, whole.pairs.people.ids)
    others = np.flatnonzero(~kept & cohort.scanned)
    keys = person_keys(cohort.ids[others], "fold")
    kept[others[np.argsort(keys, kind="stable")[: POPULATION * whole.width]]] = True
    return kept


def most_for_fill(width: int, of_fold: bool = False) -> int:
    """People that what fills missing cells of D = width features is learned from."""
    least, each = FILL_OF_FOLD if of_fold else FILL
    return max(least, each * width)


def _units(cohort: Cohort, pairs: TrainingPairs) -> tuple[np.ndarray, np.ndarray]:
    """By which people (N,) and pairs (P,) are held out: their units, or themselves where all pairs are of one."""
    if len(np.unique(pairs.unit)) > 1:
        return cohort.units().astype(str), pairs.unit
    return cohort.ids.astype(str), pairs.people.ids.astype(str)


def without(cohort: Cohort, whole: Design, rows: np.ndarray) -> Cohort:
    """The people that a fold learns from: neither those of these pairs, nor of their units where there are several."""
    names, units = _units(cohort, whole.pairs)
    return cohort.take(~among(names, units[rows]) & enough(cohort, whole))


def held_out(cohort: Cohort, whole: Design, rows: np.ndarray, every: bool) -> Fold:
    """A design that has seen no cell of the people of these pairs, nor of their units where there are several."""
    return fold_of(without(cohort, whole, rows), whole, rows, every)


def fold_of(others: Cohort, whole: Design, rows: np.ndarray, every: bool, cut: bool = True) -> Fold:
    """The design of other people, as `without` gives them, and the pairs that it judges, far cells cut or in full."""
    judged = whole.pairs.take(rows)
    design = Design.of(others, every, not whole.complete, most_for_fill(whole.width, of_fold=True))
    unit = [each.context.scaling.original_scale(len(rows), judged.people.site)[1] for each in (design, whole)]
    return Fold(design, rows, *design.judged(judged, cut), unit[0] / unit[1])


def takes_long(cohort: Cohort) -> bool:
    """Whether time is to be spared where much is known."""
    return len(cohort) * float(len(cohort.features)) ** 2 > LONG


def fit_folds(
    cohort: Cohort, whole: Design, every: bool, seed: int, folds: int | None = None
) -> tuple[list[Fold], np.ndarray]:
    """Folds by which every pair is judged once, and the fold (P,) of a pair.

    Whoever is in no pair is judged in none and takes part in each, unless somebody of their unit is.
    folds : None for the usual number.
    """
    unit = _units(cohort, whole.pairs)[1]
    if folds is None:
        many = len(np.unique(unit)) >= MANY * whole.width
        folds = FEWER_FOLDS if takes_long(cohort) and many else FOLDS
    fold = unit_folds(unit, seed, folds)
    rows = [np.flatnonzero(fold == k) for k in range(fold.max() + 1)]
    return in_parallel(lambda mine: held_out(cohort, whole, mine, every), rows), fold


def _scaled(context: Context, pairs: TrainingPairs, cut: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, width = context.inputs(pairs.people), pairs.later.shape[1]
    later = context.later(pairs, X)
    if cut:
        X, later = _cut(X, width), np.clip(later, -FARTHEST, FARTHEST)
    return X, later - X[:, :width], np.isfinite(pairs.people.baseline)


def _cut(X: np.ndarray, width: int) -> np.ndarray:
    X[:, :width] = np.clip(X[:, :width], -FARTHEST, FARTHEST)
    return X


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(D,) of values (P, D), NaN left out; 0 where all are."""
    seen = np.isfinite(values) * weight[:, None]
    return np.asarray(np.where(seen > 0, values, 0.0) * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1e-300)
