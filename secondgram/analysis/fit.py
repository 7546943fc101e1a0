"""An analysis on every draw, pooled: the tables that a statistical model takes, and one call that fits it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..cohort.table import Cohort
from ..cohort.visit_sites import followup_sites
from ..diffusion.noise import person_keys
from ..errors import InputError, some
from ..imputation.draws_file import drawn_features, read_draws
from ..imputation.model_data import People
from ..imputation.result import Imputation
from ..imputation.trajectory.trajectory_result import TrajectoryImputation
from .pool import Pooled, pool

PARTS = ("baseline", "followup", "change")
Source = Imputation | Sequence[Imputation] | str | os.PathLike[str]


def completed_tables(
    result: Source, cohort: Cohort, features: str | Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """One complete table a draw, for any analysis that `fit_pooled` does not do.

    Parameters
    ----------
    result : what `impute` or `impute_refitted` returned, or a Parquet file of draws.
    cohort : the people to analyse, matched by subject id; people without a baseline are left out.
    features : those wanted; None takes all, which holds all draws in memory.

    Yields
    ------
    M tables with one row a person: `subject_id`; for each feature `<feature>_baseline`, `<feature>_followup` and
    `<feature>_change` (follow-up less baseline) in original units; `gap` in years; `imputed`, whether any of these
    follow-up cells was drawn; covariates and outcomes as in the cohort; `site` and `group` where declared, and
    `followup_site` where people change the site. Measured follow-ups are as they were measured, in every table. A
    missing covariate of the model is drawn for each table, given all that is known of the person; with a file, which
    holds no model, it stays missing. A missing baseline cell stays NaN.

    Raises `InputError` for people that are neither measured nor imputed, an unknown feature, or columns of one name.
    """
    return _tables(_completion(result, cohort, features))


def fit_pooled(
    model: Any,
    result: Source,
    cohort: Cohort,
    *,
    formula: str | None = None,
    y: str | None = None,
    x: str | Sequence[str] | None = None,
    features: str | Sequence[str] | None = None,
    complete_df: float | None = None,
    **fit: Any,
) -> Pooled:
    """Fit a model on every draw and pool the coefficients by Rubin's rules.

    The columns that a model can use are those of `completed_tables`.

    Parameters
    ----------
    model : one of
        a formula, `"hippocampus_change ~ age + sex + gap"`: ordinary least squares of statsmodels;
        a model of statsmodels, `sm.Logit`, with `formula=` or with `y=` and `x=` (an intercept is added);
        scikit-learn's `LinearRegression()`, or `LogisticRegression` without penalty, with `y=` and `x=`;
        a function of the table that returns a model of statsmodels, its results, or (estimates, variances or
        covariance) with, if wanted, the degrees of freedom.
    result, cohort : as in `completed_tables`.
    formula : as statsmodels has it. Columns of features whose names are no identifiers (`25005_change`,
        `Left-Hippocampus_change`) are quoted for it; write `Q("name")` for other such columns.
    y, x : columns; categories become one 0/1 column for each level but the first. Rows with a missing value are left
        out.
    features : for a function, the features it uses; None gives it all.
    complete_df : degrees of freedom of the complete data; None takes the model's `df_resid`.
    fit : options of the fit of statsmodels, `cov_type="HC3"` say.

    Warns where people are left out because a value is missing, in a baseline cell or a covariate, and where follow-ups
    were measured on another site than their baselines. Raises `InputError`
    for fewer than two draws, an unknown column, a model without standard errors, or coefficients that differ between
    draws.

    Examples
    --------
    >>> import secondgram as sg
    >>> from sklearn.linear_model import LinearRegression
    >>> cohort = sg.simulate(400, 6, 0.3, seed=1, mode="gaussian")
    >>> result = sg.SecondgramImputer(shape="off").fit(cohort, show=False).impute(cohort, draws=5, show=False)
    >>> name = cohort.features[0] + "_change"
    >>> found = sg.fit_pooled(LinearRegression(), result, cohort, y=name, x=["age", "gap"])
    >>> list(found.to_frame().index)
    ['Intercept', 'age', 'gap']
    """
    if isinstance(model, str):
        if formula is not None:
            raise InputError("two formulas were given", mend="Give the model of statsmodels first, then formula=")
        model, formula = _statsmodels().OLS, model
    known = _known_features(result)
    formula = None if formula is None else _quoted(formula, known)
    columns = [] if x is None else [x] if isinstance(x, str) else [str(name) for name in x]
    analyse = _analysis(model, formula, y, columns, fit)
    if features is None:
        named = " ".join([formula or "", y or "", *columns])
        features = _mentioned(named, known) if named.strip() else None
    completion = _completion(result, cohort, features)
    if len(completion.drawn) < 2:
        raise InputError("one draw cannot show what is uncertain", mend="Impute with draws=20")
    _warn_of_moves(completion.rest)
    fits = [analyse(table) for table in _tables(completion)]
    first = fits[0].names
    for number, each in enumerate(fits):
        if each.names != first:
            raise InputError(
                f"draw {number} has the coefficients {some(each.names or [])}, draw 0 {some(first or [])}",
                mend="Make the columns of the model the same for every draw",
            )
    used = [each.people for each in fits if each.people is not None]
    if used and min(used) < len(completion.rest):
        left = len(completion.rest) - min(used)
        warnings.warn(
            f"{left} of {len(completion.rest)} people have a missing value in a column of the model (a baseline cell, "
            "say) and are left out",
            stacklevel=2,
        )
    found = [each.df for each in fits if each.df is not None]
    df = complete_df if complete_df is not None else min(found) if found else None
    return pool([each.estimates for each in fits], [each.variances for each in fits], df, names=first)


# -- tables ---------------------------------------------------------------------------------


class _Completion(NamedTuple):
    """What every table shares, and what differs: drawn (M, n, d) goes into the rows `people` of (N, d).

    covariates : by name the rows (k,) in which one is missing, and its draws (M, k).
    """

    features: list[str]
    baseline: np.ndarray
    measured: np.ndarray
    people: np.ndarray
    drawn: np.ndarray
    rest: pd.DataFrame
    covariates: dict[str, tuple[np.ndarray, np.ndarray]]


def _known_features(result: Source) -> tuple[str, ...]:
    if isinstance(result, (str, os.PathLike)):
        return drawn_features(result)
    each = _imputations(result)
    if any(isinstance(one, TrajectoryImputation) for one in each):
        raise InputError(
            "several visits were imputed together, and an analysis takes one", mend="Impute without visits= and at="
        )
    for one in each[1:]:
        same = one.features == each[0].features and one.visit == each[0].visit
        if not same or not np.array_equal(one.ids, each[0].ids):
            raise InputError("the imputations are of different people, visits or features", mend="Impute one cohort")
    return each[0].features


def _imputations(result: Imputation | Sequence[Imputation]) -> list[Imputation]:
    each = [result] if isinstance(result, Imputation) else list(result)
    if not each or not all(isinstance(one, Imputation) for one in each):
        raise InputError("there is no imputation", mend="Give what impute or impute_refitted returned, or a file")
    return each


def _mentioned(text: str, features: Sequence[str]) -> list[str]:
    """Features of which a part stands in the text, as a name of its own."""
    return [name for name in features if _column_of([name]).search(text)]


def _column_of(features: Sequence[str]) -> re.Pattern[str]:
    """A column of any of these features; the longest name that fits."""
    names = "|".join(re.escape(name) for name in sorted(features, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{names})_(?:{'|'.join(PARTS)})(?!\w)")


def _quoted(formula: str, features: Sequence[str]) -> str:
    """The formula with Q("...") around columns of features whose names are no identifiers."""
    odd = [name for name in features if not f"{name}_".isidentifier()]
    if not odd:
        return formula
    return re.sub(rf"""Q\(["'].*?["']\)|{_column_of(odd).pattern}""", _quote, formula)


def _quote(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("Q(") else f'Q("{found[0]}")'


def _completion(result: Source, cohort: Cohort, features: str | Sequence[str] | None) -> _Completion:
    known = _known_features(result)
    wanted = list(known) if features is None else [features] if isinstance(features, str) else list(features)
    absent = [name for name in wanted if name not in known or name not in cohort.features]
    if absent:
        raise InputError(f"no feature {some(absent)} is in both imputation and cohort", mend=f"It has {some(known)}")
    if not wanted:
        raise InputError("the model names no column of an imputed feature", mend=f"Write {known[0]}_change, say")
    rows = np.flatnonzero(cohort.scanned)
    ids, drawn, visit, gap = _draws(result, wanted)
    place = {name: row for row, name in enumerate(cohort.ids[rows])}
    here = np.array([row for row, name in enumerate(ids) if name in place], dtype=int)
    if not len(here):
        raise InputError(
            f"none of the {len(ids)} imputed people is in the cohort",
            file=cohort.source,
            mend="Give the cohort that was imputed",
        )
    people = np.array([place[ids[row]] for row in here])
    columns = [cohort.features.index(name) for name in wanted]
    measured, years = np.full((len(rows), len(wanted)), np.nan), np.full(len(rows), np.nan)
    if visit in cohort.visit_labels:
        slot = cohort.visit_labels.index(visit)
        if slot == 0:
            raise InputError(f"visit {visit} was imputed, and is the baseline of the cohort", file=cohort.source)
        measured = cohort.visits[rows, slot][:, columns]
        years = cohort.times[rows, slot] - cohort.times[rows, 0]
    if gap is not None:
        years[people] = np.where(np.isnan(years[people]), gap[here], years[people])
    filled = np.isfinite(measured)
    filled[people] = True
    left = np.flatnonzero(~filled.all(axis=1))
    if len(left):
        raise InputError(
            f"{len(left)} people have neither a measured nor an imputed follow-up: {some(cohort.ids[rows][left])}",
            file=cohort.source,
            mend="Impute them too, or analyse cohort.take(...) without them",
        )
    baseline = cohort.baseline[rows][:, columns]
    rest = _rest(cohort, rows, wanted, measured, years, _followup_sites(cohort, rows, measured, visit))
    covariates = (
        {} if isinstance(result, (str, os.PathLike)) else _covariates(_imputations(result), cohort, rows, years)
    )
    return _Completion(wanted, baseline, measured, people, drawn[:, here], _levelled(rest, covariates), covariates)


def _covariates(
    imputations: list[Imputation], cohort: Cohort, rows: np.ndarray, years: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draws of covariates that the people of these rows lack; see `_Completion`."""
    table = cohort.covariate_table.iloc[rows]
    gone = table.isna().to_numpy()
    lacking = np.flatnonzero(gone.any(axis=1))
    if not len(lacking):
        return {}
    found = [_of_each(one, cohort, rows[lacking], years[lacking]) for one in imputations]
    drawn = {}
    for column, name in enumerate(map(str, table.columns)):
        mine = gone[lacking, column]
        if mine.any() and all(name in each for each in found):
            drawn[name] = lacking[mine], np.concatenate([each[name][:, mine] for each in found])
    return drawn


def _of_each(result: Imputation, cohort: Cohort, rows: np.ndarray, years: np.ndarray) -> dict[str, np.ndarray]:
    """Covariates (M, n) of the people of these rows: as their draws rest on them, and given the measured follow-up."""
    place = {name: number for number, name in enumerate(result.people.ids)}
    imputed = np.array([place.get(name, -1) for name in cohort.ids[rows]])
    parts = [(np.flatnonzero(imputed >= 0), result.people.take(imputed[imputed >= 0]))]
    others = np.flatnonzero(imputed < 0)
    parts.append((others, _measured(result, cohort.take(rows[others]), years[others])))
    found: dict[str, np.ndarray] = {}
    for where, people in parts:
        if len(where):
            for name, drawn in result.covariates(people).items():
                found.setdefault(name, np.empty((len(drawn), len(rows)), dtype=drawn.dtype))[:, where] = drawn
    return found


def _measured(result: Imputation, cohort: Cohort, years: np.ndarray) -> People:
    """People that were not imputed, as the model of an imputation sees them, with all of their follow-up."""
    slot = cohort.visit_labels.index(result.visit) if result.visit in cohort.visit_labels else None
    place = {name: column for column, name in enumerate(cohort.features)}
    columns = [place.get(name, -1) for name in result.features]
    nothing = np.full((len(cohort), 1), np.nan, dtype=cohort.visits.dtype)

    def ordered(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, nothing], axis=1)[:, columns]  # -1 is the column of nothing

    followup = np.full_like(cohort.baseline, np.nan) if slot is None else cohort.visits[:, slot]
    keys = person_keys(cohort.ids, result.visit)
    table, site = cohort.covariate_table, cohort.site
    later = None if cohort.visit_sites is None or slot is None else cohort.visit_sites[:, slot]
    return People(
        cohort.ids, keys, ordered(cohort.baseline), table, years, site, ordered(followup), cohort.source, later
    )


def _levelled(rest: pd.DataFrame, covariates: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """The table with every level that a draw may have, so that all draws have the same."""
    changed: dict[str, Any] = {}
    for name, (_, values) in covariates.items():
        if isinstance(rest[name].dtype, pd.CategoricalDtype):
            known = [str(each) for each in rest[name].cat.categories]
            more = [level for level in np.unique(values.astype(str)) if level not in known]
            changed[name] = rest[name].cat.rename_categories(known).cat.add_categories(more)
    return rest.assign(**changed)


def _draws(result: Source, features: list[str]) -> tuple[np.ndarray, np.ndarray, str, np.ndarray | None]:
    """Ids (n,), draws (M, n, d) of these features, the visit's label, and gaps (n,) where they are known."""
    if isinstance(result, (str, os.PathLike)):
        ids, _, draws, visit = read_draws(result, features)
        return ids, draws, visit, None
    each = _imputations(result)
    columns = [each[0].features.index(name) for name in features]
    return each[0].ids, np.concatenate([_columns(one, columns) for one in each]), each[0].visit, each[0].gap


def _columns(result: Imputation, columns: list[int]) -> np.ndarray:
    """Draws (M, n, d) of these columns; those that are kept already are not made again."""
    if "draws" in vars(result):
        return result.draws[:, :, columns]
    return np.concatenate([part[:, :, columns] for _, part in result.chunks()], axis=1)


def _rest(
    cohort: Cohort,
    rows: np.ndarray,
    features: list[str],
    measured: np.ndarray,
    years: np.ndarray,
    later: np.ndarray | None,
) -> pd.DataFrame:
    """Columns that are the same in every table."""
    columns: dict[str, Any] = {"subject_id": cohort.ids[rows], "gap": years}
    columns["imputed"] = ~np.isfinite(measured).all(axis=1)
    extra: dict[str, Any] = {}
    for table in (cohort.covariate_table, cohort.outcomes):
        for name, values in table.items():
            extra.setdefault(str(name), values.iloc[rows].reset_index(drop=True))
    made = {f"{name}_{part}" for name in features for part in PARTS}
    for name, given in (("site", cohort.site), ("group", cohort.groups)):
        if given is not None:
            extra.setdefault(name, given[rows])
    if later is not None:
        extra.setdefault("followup_site", later)
    doubled = sorted((made | set(columns)) & set(extra))
    if doubled:
        raise InputError(
            f"two columns would be called {some(doubled)}", file=cohort.source, mend="Rename the covariate or outcome"
        )
    return pd.DataFrame(columns | extra)


def _followup_sites(cohort: Cohort, rows: np.ndarray, measured: np.ndarray, visit: str) -> np.ndarray | None:
    """(N,) the site of each follow-up, of an imputed one that of the baseline; None where nobody changes the site."""
    if cohort.visit_sites is None or visit not in cohort.visit_labels:
        return None
    slot = cohort.visit_labels.index(visit)
    return followup_sites(cohort.visit_sites[rows], slot, np.isfinite(measured).any(axis=1))


def _warn_of_moves(rest: pd.DataFrame) -> None:
    if "followup_site" not in rest or "site" not in rest:
        return
    moved = int((rest["followup_site"] != rest["site"]).sum())
    if moved:
        warnings.warn(
            f"the follow-ups of {moved} of {len(rest)} people were measured on another site than their baselines, and "
            "the change of these holds the offset between the two: leave these people out, or put followup_site into "
            "the model",
            stacklevel=3,
        )


def _tables(completion: _Completion) -> Iterator[pd.DataFrame]:
    features, baseline, measured, people, drawn, rest, covariates = completion
    for number, draw in enumerate(drawn):
        followup = measured.copy()
        followup[people] = np.where(np.isfinite(measured[people]), measured[people], draw)
        values = {"baseline": baseline, "followup": followup, "change": followup - baseline}
        cells = {f"{name}_{part}": values[part][:, column] for column, name in enumerate(features) for part in PARTS}
        known = rest.drop(columns="subject_id")
        for name, (rows, drawn_for_rows) in covariates.items():
            column = known[name].copy()
            column.iloc[rows] = drawn_for_rows[number]
            known[name] = column
        yield pd.concat([rest[["subject_id"]], pd.DataFrame(cells), known], axis=1)


# -- models ---------------------------------------------------------------------------------


class _Fit(NamedTuple):
    """Coefficients of one draw: estimates (K,), variances (K,) or covariance (K, K); people is None where unknown."""

    names: list[str] | None
    estimates: Any
    variances: Any
    df: float | None
    people: int | None = None


def _statsmodels() -> Any:
    try:
        import statsmodels.api
    except ImportError as error:
        raise InputError("a formula needs statsmodels", mend="Install it: pip install 'secondgram[stats]'") from error
    return statsmodels.api


def _analysis(
    model: Any, formula: str | None, y: str | None, x: list[str], fit: dict[str, Any]
) -> Callable[[pd.DataFrame], _Fit]:
    """A function of a table that gives one fit."""
    if formula is not None:
        if y is not None or x:
            raise InputError("both a formula and columns were given", mend="Give formula=, or y= and x=")
        make = getattr(model, "from_formula", model)
        if not callable(make):
            raise InputError(f"{model!r} takes no formula", mend="Use a model of statsmodels, or y= and x=")
        return lambda table: _read(_formula(make, str(formula), table), fit)
    if y is not None or x:
        if y is None or not x:
            raise InputError("y= and x= belong together", mend="Give both")
        if isinstance(model, type) and hasattr(model, "from_formula"):
            return lambda table: _read(model(*_design(table, y, x)), fit)
        if fit:
            raise InputError(f"option {some(fit)} is for models of statsmodels", mend="Set it on the estimator")
        return lambda table: _estimator(model, *_design(table, y, x))
    if isinstance(model, type) or hasattr(model, "get_params") or not callable(model):
        raise InputError(f"{model!r} was told no columns", mend="Give formula=, or y= and x=, or a function of a table")
    return lambda table: _read(model(table), fit)


def _formula(make: Callable[..., Any], formula: str, table: pd.DataFrame) -> Any:
    try:
        return make(formula, data=table)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("patsy", "formulaic"):
            raise
        raise InputError(
            f"the formula {formula!r} cannot be used ({str(error).splitlines()[0]})",
            mend="A feature has the columns <feature>_baseline, <feature>_followup and <feature>_change",
        ) from error


def _design(table: pd.DataFrame, y: str, x: list[str]) -> tuple[pd.Series, pd.DataFrame]:
    """y and a design with an intercept, without rows in which a value is missing."""
    absent = [name for name in (y, *x) if name not in table.columns]
    if absent:
        raise InputError(
            f"there is no column {some(absent)}",
            mend="A feature has the columns <feature>_baseline, <feature>_followup and <feature>_change",
        )
    columns = list(dict.fromkeys([y, *x]))
    whole = table.loc[table[columns].notna().all(axis=1), columns]
    if not pd.api.types.is_numeric_dtype(whole[y]) and not pd.api.types.is_bool_dtype(whole[y]):
        raise InputError("holds no numbers", column=y, mend="Make it 0 and 1")
    # One by one, so that the coefficients come in the order that was asked for.
    parts = [pd.get_dummies(whole[[name]], drop_first=True, dtype=float).astype(float) for name in dict.fromkeys(x)]
    design = pd.concat([pd.Series(1.0, whole.index, name="Intercept"), *parts], axis=1)
    count, width = design.shape
    if count <= width:
        raise InputError(f"{count} people for {width} coefficients", mend="Use fewer columns")
    if np.linalg.matrix_rank(design.to_numpy() / np.abs(design.to_numpy()).max(axis=0).clip(1e-300)) < width:
        raise InputError(f"the columns {some(x)} determine one another", mend="Leave one of them out")
    return whole[y].astype(float), design


def _read(found: Any, fit: dict[str, Any]) -> _Fit:
    """A fit from what a function returned."""
    if isinstance(found, tuple):
        if len(found) not in (2, 3):
            raise InputError(
                f"the function returned {len(found)} things", mend="Return (estimates, variances) or with df"
            )
        names = [str(name) for name in found[0].index] if isinstance(found[0], pd.Series) else None
        return _Fit(names, found[0], found[1], float(found[2]) if len(found) == 3 else None)
    if not hasattr(found, "params") and hasattr(found, "fit"):
        found = found.fit(**({"disp": 0} if _talks(found) else {}), **fit)
    if not (hasattr(found, "params") and hasattr(found, "cov_params")):
        raise InputError(
            f"the function returned {type(found).__name__}, which has no params and cov_params",
            mend="Return a model of statsmodels, its results, or (estimates, variances)",
        )
    params, covariance = found.params, np.asarray(found.cov_params(), dtype=float)
    # A mixed model also lists variances of its random effects, to which a normal approximation does not apply.
    count = len(getattr(found, "fe_params", params))
    if np.ndim(params) != 1:
        raise InputError("a model of several equations is not pooled", mend="Return (estimates, covariance), flattened")
    labels = [str(name) for name in getattr(params, "index", found.model.exog_names)][:count]
    names = [re.sub(r'Q\("([^"]*)"\)', r"\1", name) for name in labels]
    people = getattr(found, "nobs", None)
    df = getattr(found, "df_resid", None)
    return _Fit(
        names, np.asarray(params)[:count], covariance[:count, :count], df, None if people is None else int(people)
    )


def _talks(model: Any) -> bool:
    """Whether fitting this model of statsmodels prints a message a draw, unless told otherwise."""
    return type(model).__module__.startswith("statsmodels.discrete")


def _estimator(model: Any, y: pd.Series, design: pd.DataFrame) -> _Fit:
    """An estimator of scikit-learn, with the covariance of its coefficients by least squares or likelihood."""
    from sklearn.base import clone
    from sklearn.linear_model import LinearRegression, LogisticRegression

    D, values = design.to_numpy(), y.to_numpy()
    linear = isinstance(model, LinearRegression) and not model.positive
    logistic = isinstance(model, LogisticRegression) and (model.penalty is None or np.isinf(model.C))
    if not (linear or logistic):
        raise InputError(
            f"{model} has no standard errors",
            mend="Use LinearRegression, LogisticRegression(C=numpy.inf), a model of statsmodels, or a function that "
            "returns estimates and variances (from a bootstrap, say)",
        )
    if not model.fit_intercept:
        D, design = D[:, 1:], design.drop(columns="Intercept")
    inputs = D[:, 1:] if model.fit_intercept else D
    fitted = clone(model).fit(inputs, values)
    slopes = np.ravel(fitted.coef_)
    estimates = np.concatenate([np.ravel(fitted.intercept_), slopes]) if model.fit_intercept else slopes
    df = len(values) - D.shape[1]
    if linear:
        left = values - fitted.predict(inputs)
        covariance = np.linalg.inv(D.T @ D) * (left @ left) / df
    else:
        if len(fitted.classes_) != 2:
            raise InputError("has more than two classes", column=str(y.name), mend="Make it 0 and 1")
        share = fitted.predict_proba(inputs)[:, 1]
        covariance = np.linalg.inv((D * (share * (1 - share))[:, None]).T @ D)
    return _Fit(
        [str(name) for name in design.columns], estimates, (covariance + covariance.T) / 2, float(df), len(values)
    )
