"""Rubin's rules: one answer from the analyses of several imputed data sets.

Rubin, Multiple Imputation for Nonresponse in Surveys (1987); degrees of freedom of Barnard and Rubin, Small-sample
degrees of freedom with multiple imputation, Biometrika 86 (1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import InputError, some


@dataclass(frozen=True, eq=False, repr=False)
class Pooled:
    """Estimates of M imputed data sets, pooled: one number, or K of them.

    estimate : (K,) or a number, the mean over the data sets, in the units of the estimates.
    within, between : variances like it: the mean squared standard error, and the variance between data sets.
    draws : M.
    complete_df : like it, degrees of freedom had nothing been missing; infinite for a large sample.
    names : the K names, or None.
    covariance : (K, K) total covariance where covariances were given, else None.
    """

    estimate: np.ndarray
    within: np.ndarray
    between: np.ndarray
    draws: int
    complete_df: np.ndarray
    names: tuple[str, ...] | None = None
    covariance: np.ndarray | None = None

    @property
    def total(self) -> np.ndarray:
        """Total variance, within + (1 + 1/M) between."""
        return self.within + (1 + 1 / self.draws) * self.between

    @property
    def standard_error(self) -> np.ndarray:
        """Square root of the total variance."""
        return np.sqrt(self.total)

    @property
    def missing_share(self) -> np.ndarray:
        """Share of the total variance that is there because values are missing, lambda = (1 + 1/M) between / total."""
        return (1 + 1 / self.draws) * self.between / self.total

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom of Barnard and Rubin (1999); Rubin's of 1987 where the complete data had infinitely many.

        1 / df = lambda^2 / (M - 1) + 1 / observed,  observed = (c + 1) / (c + 3) c (1 - lambda),  c the complete ones.
        """
        share, complete = self.missing_share, self.complete_df
        with np.errstate(invalid="ignore"):
            scaled = np.where(np.isinf(complete), np.inf, (complete + 1) / (complete + 3) * complete)
        inverse = share**2 / (self.draws - 1) + 1 / (scaled * (1 - share))
        return np.divide(1.0, inverse, out=np.full(np.shape(inverse), np.inf), where=inverse > 0)[()]

    @property
    def missing_information(self) -> np.ndarray:
        """Fraction of missing information, (r + 2 / (df + 3)) / (r + 1) with r = (1 + 1/M) between / within."""
        increase = (1 + 1 / self.draws) * self.between / self.within
        return (increase + 2 / (self.df + 3)) / (increase + 1)

    @property
    def statistic(self) -> np.ndarray:
        """Estimate over standard error; follows Student's t with `df` degrees of freedom where the truth is zero."""
        return self.estimate / self.standard_error

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided p of a true value of zero."""
        return 2 * stats.t.sf(np.abs(self.statistic), self.df)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, each like the estimate. Raises `InputError` for a level outside 0 .. 1."""
        if not 0 < level < 1:
            raise InputError(f"an interval cannot have level {level}", mend="Use a share such as 0.95")
        half = stats.t.ppf((1 + level) / 2, self.df) * self.standard_error
        return self.estimate - half, self.estimate + half

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row an estimate: estimate, standard_error, low, high, df, p_value, missing_information."""
        low, high = self.interval(level)
        columns = {
            "estimate": self.estimate,
            "standard_error": self.standard_error,
            "low": low,
            "high": high,
            "df": self.df,
            "p_value": self.p_value,
            "missing_information": self.missing_information,
        }
        index = range(np.size(self.estimate)) if self.names is None else list(self.names)
        return pd.DataFrame({name: np.atleast_1d(values) for name, values in columns.items()}, index=index)

    def __repr__(self) -> str:
        return f"{self._title()}\n{self.to_frame().to_string(formatters=_FORMATS, index=np.ndim(self.estimate) > 0)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self.to_frame().to_html(formatters=_FORMATS)}"

    def _title(self) -> str:
        return f"Pooled over {self.draws} imputed data sets, 95 % intervals"


def _four(value: float) -> str:
    return f"{value:.4g}"


_FORMATS: Any = dict.fromkeys(("estimate", "standard_error", "low", "high"), _four) | {
    "df": lambda value: f"{value:.1f}",
    "p_value": lambda value: f"{value:.3f}" if value >= 0.001 else "<0.001",
    "missing_information": lambda value: f"{value:.3f}",
}


def pool(
    estimates: Any,
    variances: Any,
    complete_df: float | Sequence[float] | np.ndarray | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Pooled:
    """Pool the same analysis of M imputed data sets by Rubin's rules.

    Parameters
    ----------
    estimates : (M,) one estimate a data set, or (M, K); a table's columns give the names.
    variances : squared standard errors, (M,) or (M, K); or covariances, (M, K, K).
    complete_df : degrees of freedom that the analysis of complete data has (n - k in a regression), one or K; None for
        a large sample.
    names : of the K estimates.

    Returns
    -------
    Pooled: estimate, standard error, interval, p, degrees of freedom and fraction of missing information.

    Raises `InputError` for fewer than two data sets, shapes that do not fit, values that are no finite numbers,
    variances that are not above zero, or covariances that are none.

    Examples
    --------
    >>> import secondgram as sg
    >>> found = sg.pool([1.0, 1.2, 1.1, 0.9, 1.3], [0.04, 0.04, 0.05, 0.04, 0.03], complete_df=100)
    >>> print(f"{found.estimate:.2f} {found.standard_error:.3f} {found.df:.1f}")
    1.10 0.265 15.7
    """
    if names is None and isinstance(estimates, pd.DataFrame):
        names = [str(name) for name in estimates.columns]
    each, spread = _numbers("estimates", estimates), _numbers("variances", variances)
    if each.ndim not in (1, 2) or spread.ndim not in (each.ndim, each.ndim + 1):
        raise InputError(
            f"estimates of shape {each.shape} with variances of shape {spread.shape}",
            mend="Give (draws,) or (draws, K) estimates, with variances of that shape or covariances (draws, K, K)",
        )
    expected = each.shape if spread.ndim == each.ndim else (*each.shape, *each.shape[1:])
    if (each.ndim == 1 and spread.ndim == 2) or spread.shape != expected:
        raise InputError(
            f"estimates have shape {each.shape}, variances {spread.shape}",
            mend="Give one squared standard error an estimate, or one covariance a data set",
        )
    if len(each) < 2:
        raise InputError(
            f"{len(each)} imputed data set(s) cannot show what is uncertain",
            mend="Use two draws or more; 20 are usual",
        )
    count = each.shape[1] if each.ndim == 2 else 1
    if count == 0:
        raise InputError("there are no estimates to pool", mend="Give at least one estimate a data set")
    named = None if names is None else tuple(str(name) for name in names)
    if named is not None and len(named) != count:
        raise InputError(f"{len(named)} names for {count} estimates", mend="Give one name an estimate")
    covariance = None
    between = each.var(axis=0, ddof=1)
    within = spread.mean(axis=0)
    if spread.ndim == 3:
        _check_covariances(spread)
        away = each - each.mean(axis=0)
        covariance = within + (1 + 1 / len(each)) * (away.T @ away) / (len(each) - 1)
        spread = np.diagonal(spread, axis1=1, axis2=2)
        within = np.diagonal(within).copy()
    if not (spread > 0).all():
        place = np.argwhere(~(spread > 0))[0]
        raise InputError(
            f"the variance of data set {place[0]} is {spread[tuple(place)]:g}"
            + (f" for {named[place[1]] if named else f'estimate {place[1]}'}" if len(place) > 1 else ""),
            mend="Give squared standard errors, which are above zero",
        )
    return Pooled(each.mean(axis=0), within, between, len(each), _complete(complete_df, each), named, covariance)


def _numbers(what: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} are no array of numbers ({error})", mend="Give as many values for every data set"
        ) from error
    if not np.isfinite(array).all():
        bad = sorted({int(place[0]) for place in np.argwhere(~np.isfinite(np.atleast_1d(array)))})
        raise InputError(
            f"{what} of data set {some(bad)} are no finite numbers",
            mend="An analysis that fails on a data set cannot be pooled: make the model simpler, or mend the data",
        )
    return array


def _check_covariances(each: np.ndarray) -> None:
    """each (M, K, K): symmetric, and no direction has a variance below zero beyond rounding."""
    size = np.abs(each).max(axis=(1, 2), keepdims=True)
    crooked = np.abs(each - each.transpose(0, 2, 1)) > 1e-6 * size
    least = np.linalg.eigvalsh((each + each.transpose(0, 2, 1)) / 2)[:, 0] < -1e-6 * size[:, 0, 0]
    wrong = np.flatnonzero(crooked.any(axis=(1, 2)) | least)
    if len(wrong):
        raise InputError(
            f"the matrix of data set {some(wrong)} is no covariance",
            mend="Give symmetric matrices without negative eigenvalues",
        )


def _complete(given: Any, each: np.ndarray) -> np.ndarray:
    """Degrees of freedom of complete data, like one row of `each`."""
    shape = each.shape[1:]
    df = np.full(shape, np.inf) if given is None else np.asarray(given, dtype=float)
    if df.shape not in ((), shape):
        raise InputError(f"{df.size} degrees of freedom for {each[0].size} estimates", mend="Give one, or one each")
    if not (df > 0).all():
        raise InputError(f"complete_df={given} is not above zero", mend="Give n - k of the complete data, or None")
    return np.broadcast_to(df, shape)[()] if shape else df[()]
