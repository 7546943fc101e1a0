"""Every metric there is: what it means, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from .cell_scores import LARGE_LOSS
from .multivariate import COMPONENTS, SLICES, VARIOGRAM_FEATURES


@dataclass(frozen=True)
class Metric:
    """A metric of a comparison.

    meaning : in one sentence;  better : "lower", "higher", or the value that would be right.
    main : one of the six of every table.  column : its heading in a terminal of 80 columns;  title : in a report.
    whole_visit : for a score of a person's whole visit, its name in `Cells.joint`.
    """

    name: str
    meaning: str
    better: str | float
    main: bool = False
    column: str = ""
    title: str = ""
    whole_visit: str = ""

    @property
    def heading(self) -> str:
        """As a column of a report names it."""
        return self.title or self.name.replace("_", " ")


CATALOGUE = (
    Metric(
        "pearson_mean",
        "Pearson r of the posterior mean with the truth, mean over features",
        "higher",
        main=True,
        column="r mean",
        title="r of the mean",
    ),
    Metric(
        "pearson_draw",
        "Pearson r of a single draw with the truth, mean over features",
        "higher",
        main=True,
        column="r draw",
        title="r of one draw",
    ),
    Metric(
        "delta_r",
        "Pearson r of predicted with true change from baseline, mean over features",
        "higher",
        main=True,
        column="r change",
        title="r of the change",
    ),
    Metric(
        "rmse",
        "root mean squared error of the posterior mean, in baseline SD",
        "lower",
        main=True,
        column="RMSE",
        title="RMSE",
    ),
    Metric(
        "crps",
        "continuous ranked probability score of the draws, in baseline SD (one draw: mean absolute error)",
        "lower",
        main=True,
        column="CRPS",
        title="CRPS",
    ),
    Metric(
        "coverage_90",
        "share of true values inside the draws' central 90 % interval",
        0.9,
        main=True,
        column="cover 90 %",
        title="90 % coverage",
    ),
    Metric(
        "spearman_mean",
        "Spearman rank correlation (1904) of the posterior mean with the truth, mean over features",
        "higher",
    ),
    Metric("spearman_draw", "the same of a single draw", "higher"),
    Metric(
        "r2_mean",
        "share of the truth's variance explained by the posterior mean, 1 - SSE / SST, mean over features",
        "higher",
    ),
    Metric("r2_draw", "the same of a single draw", "higher"),
    Metric("mae_mean", "mean absolute error of the posterior mean, in baseline SD", "lower"),
    Metric("mae_draw", "the same of a single draw", "lower"),
    Metric(
        "delta_r_draw",
        "Pearson r of a single draw's change from baseline with the true change, mean over features",
        "higher",
    ),
    Metric("delta_spearman", "Spearman rank correlation of predicted with true change, mean over features", "higher"),
    Metric(
        "delta_r2",
        "share of the true change's variance explained by the predicted change, mean over features",
        "higher",
    ),
    Metric("change_slope", "slope of true on predicted change, all features together (Cox 1958); 1 is right", 1.0),
    Metric(
        "annual_bias",
        "mean of predicted less true change per year between the visits, in baseline SD a year; 0 is right",
        0.0,
    ),
    Metric(
        "spread_ratio",
        "root of the draws' mean variance over the root mean squared error of their average, corrected for "
        "their number (Fortin et al. 2014); 1 is right, below 1 the draws vary too little",
        1.0,
    ),
    Metric("coverage_50", "share of true values inside the draws' central 50 % interval", 0.5),
    Metric("coverage_80", "share of true values inside the draws' central 80 % interval", 0.8),
    Metric("coverage_95", "share of true values inside the draws' central 95 % interval; needs 39 draws", 0.95),
    Metric(
        "tail_brier",
        f"Brier score (1950; fair: Ferro 2014) of the chance of a fall by {LARGE_LOSS} baseline SD",
        "lower",
    ),
    Metric(
        "energy",
        "energy score of a whole visit (Gneiting and Raftery 2007), in baseline SD per root of a feature",
        "lower",
        whole_visit="energy",
    ),
    Metric(
        "variogram",
        "variogram score of order 1/2 (Scheuerer and Hamill 2015), mean over pairs of at most "
        f"{VARIOGRAM_FEATURES} features drawn once, in baseline SD",
        "lower",
        whole_visit="variogram",
    ),
    Metric(
        "crps_sliced",
        f"CRPS along {SLICES} random directions of unit length, the same ones for all, in baseline SD",
        "lower",
        whole_visit="sliced",
    ),
    Metric(
        "crps_components",
        f"CRPS along the leading {COMPONENTS} components of the residual, each in its own SD, mean",
        "lower",
        whole_visit="components",
    ),
)
METRICS: dict[str, str] = {metric.name: metric.meaning for metric in CATALOGUE if metric.main}
FURTHER: dict[str, str] = {metric.name: metric.meaning for metric in CATALOGUE if not metric.main}
BETTER: dict[str, str | float] = {metric.name: metric.better for metric in CATALOGUE}
JOINT: dict[str, str] = {metric.name: metric.whole_visit for metric in CATALOGUE if metric.whole_visit}
HEADINGS: dict[str, str] = {metric.name: metric.heading for metric in CATALOGUE}
COLUMNS: dict[str, str] = {metric.name: metric.column for metric in CATALOGUE if metric.main}
