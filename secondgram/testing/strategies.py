"""`cohorts`: small cohorts with everything that a cohort may have, for property tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..cohort.cells import LARGEST
from ..cohort.reading import MISSING
from ..cohort.table import Cohort
from ..cohort.value_checks import is_fill
from .optional import st

# Legal, and what careless code trips over: numbers, quotes, separators, patterns, formulas, other scripts.
WEIRD = (
    "007",
    "7",
    "1e5",
    "+7",
    "-0",
    "nan1",
    "True",
    'say "a"',
    "it's",
    "a,b",
    "a;b",
    "a\tb",
    "x\ny",
    "{0}",
    "%s",
    "[1]",
    "x*",
    "=1+1",
    "@here",
    "#1",
    "Ærø",
    "日本",
    "e\u0301",
    "🧠",
    "../up",
)


@cache
def words() -> st.SearchStrategy[str]:
    """Text that a table keeps as it is: no name of a missing value, no blank at either end."""
    plain = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=6)
    # The simplest come first: a single choice, to which examples shrink quickly.
    return st.sampled_from(("a", "b", "c", *WEIRD)) | plain.filter(_is_kept)


# Named functions: hypothesis reads the source of a lambda, time and again.
def _is_kept(text: str) -> bool:
    return text not in MISSING and text == text.strip()


@cache
def numbers(width: Literal[32, 64] = 64) -> st.SearchStrategy[float]:
    """Numbers of any size that is read and a float of so many bits holds, simple ones first; none that fills cells."""
    most = LARGEST if width == 64 else float(np.finfo(np.float32).max)
    return st.integers(-9, 9).map(float) | st.floats(-most, most, width=width).filter(_is_measured)


def _is_measured(value: float) -> bool:
    return not is_fill(value)


@st.composite
def cohorts(
    draw: Callable[..., Any],
    people: tuple[int, int] = (1, 6),
    features: tuple[int, int] = (1, 4),
    visits: tuple[int, int] = (1, 3),
    dtype: Any = np.float64,
    missing: bool = True,
    values: st.SearchStrategy[float] | None = None,
) -> Cohort:
    """Cohorts in which everybody has a measured cell at some visit, and every visit was attended by somebody.

    people, features, visits : least and most.  dtype : of the visits, float32 or float64.
    missing : whether cells, times, covariates and outcomes may be missing.
    values : of the cells, by default numbers of any size that the dtype holds.

    A cohort has zero to two covariates, numbers or categories, an outcome or none, sites or none, families or none,
    times or none, and a target among its visits. Ids and names of features are legal and may be weird: numbers, quotes,
    separators, patterns, other scripts. It shrinks to one person with one feature and one visit.
    """
    n, d, v = (draw(st.integers(*span)) for span in (people, features, visits))
    cells = numbers(8 * np.dtype(dtype).itemsize) if values is None else values
    filled = np.array(_cycled(draw, cells, n * v * d), dtype=dtype).reshape(n, v, d)
    if missing:
        gone = _mask(draw, (n, v, d))
        # Whoever has nothing, and a visit that nobody attended, keep one cell.
        gone[gone.all(axis=(1, 2)), -1, 0] = False
        gone[0, gone.all(axis=(0, 2)), 0] = False
        filled[gone] = np.nan
    kinds = draw(st.lists(st.booleans(), max_size=2))
    covariates = {f"covariate {'ab'[place]}": _column(draw, n, number, missing) for place, number in enumerate(kinds)}
    outcome = {"later": _column(draw, n, True, missing)} if draw(st.booleans()) else {}
    groups, site = (np.array(_cycled(draw, words(), n), dtype=object) if draw(st.booleans()) else None for _ in "gs")
    return Cohort(
        ids=np.array(_distinct(_cycled(draw, words(), n)), dtype=object),
        visits=filled,
        features=tuple(_distinct(_cycled(draw, _feature_names(), d))),
        visit_labels=tuple(str(place) for place in range(v)),
        times=_times(draw, (n, v), missing) if draw(st.booleans()) else None,  # type: ignore[arg-type]
        covariate_table=pd.DataFrame(covariates) if covariates else None,  # type: ignore[arg-type]
        outcomes=pd.DataFrame(outcome) if outcome else None,  # type: ignore[arg-type]
        groups=groups,
        site=site,
        target=draw(st.integers(1, max(1, v - 1))),
    )


def _cycled(draw: Callable[..., Any], values: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Some values, over and over: a few are quick to make and to shrink, however many are needed."""
    few = draw(st.lists(values, min_size=1, max_size=7))
    return [few[place % len(few)] for place in range(count)]


def _mask(draw: Callable[..., Any], shape: tuple[int, ...]) -> np.ndarray:
    """Any cells, as bits of one number; none of them in the simplest example."""
    size = math.prod(shape)
    bits = draw(st.integers(0, 2**size - 1))
    return np.array([bits >> place & 1 for place in range(size)], dtype=bool).reshape(shape)


def _column(draw: Callable[..., Any], people: int, number: bool, missing: bool) -> pd.Series:
    gone = _mask(draw, (people,)) if missing else np.zeros(people, dtype=bool)
    if number:
        values = np.array(_cycled(draw, numbers(), people))
        values[gone] = np.nan
        return pd.Series(values)
    # Words that are no numbers, and one at least: other columns are read as numbers.
    levels = [f"w{word}" for word in _cycled(draw, words(), people)]
    chosen = [None if hole and place else level for place, (hole, level) in enumerate(zip(gone, levels, strict=True))]
    return pd.Series(pd.Categorical(chosen, categories=sorted({level for level in chosen if level is not None})))


def _times(draw: Callable[..., Any], shape: tuple[int, int], missing: bool) -> np.ndarray:
    """(N, V) years that grow from visit to visit, each person's from an origin of their own."""
    steps = _cycled(draw, st.floats(0.25, 9), math.prod(shape))
    times = np.cumsum(np.array(steps).reshape(shape), axis=1)
    if missing:
        times[_mask(draw, shape)] = np.nan
    return times


def _distinct(texts: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        # Marked where two are alike, which costs no example.
        while text in found:
            text += "'"
        found[text] = None
    return list(found)


@cache
def _feature_names() -> st.SearchStrategy[str]:
    """Names that are a feature's in a long table and a wide one: no visit stands at their end."""
    return words().filter(_is_a_feature)


def _is_a_feature(name: str) -> bool:
    return name not in _TAKEN and not name[-1].isdigit() and not name.lower().endswith(_VISIT_WORDS)


_TAKEN = {"subject_id", "visit", "time_years", "family_id", "site", "later"}
_VISIT_WORDS = ("bl", "baseline", "fu", "followup", "follow_up", "pre", "post")
