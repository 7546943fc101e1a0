"""How good an imputation is, with bootstrap intervals over people.

Everything is computed in units of the baseline's spread (within site where sites are declared), so that features of
different units can be averaged. A cell without truth counts nowhere.
"""

from .bootstrap import (
    cell_mean,
    interval,
    pooled_mean,
    resamples,
    weighted_correlation,
    weighted_rank_correlation,
    win_tie_loss,
)
from .calibration import coverage_table, pit_histogram, pit_table
from .cell_scores import LARGE_LOSS, TAILS, Cells, central_interval, interval_rank, nominal_coverage
from .downstream import downstream
from .estimate import UNKNOWN, Estimate
from .further import further_per_feature, further_scores
from .marginal import per_feature, scores
from .metric_catalogue import BETTER, FURTHER, HEADINGS, METRICS, Metric
from .multivariate import Yardstick, energy_score, joint_scores, projected_crps, variogram_score
from .reliability import noise_ceilings, retest_reliability
from .resemblance import (
    classifier_auc,
    conditional_mmd,
    correlation,
    correlation_distance,
    correlation_distances,
    resemblance_table,
)

__all__ = [
    "BETTER",
    "FURTHER",
    "HEADINGS",
    "LARGE_LOSS",
    "METRICS",
    "TAILS",
    "UNKNOWN",
    "Cells",
    "Estimate",
    "Metric",
    "Yardstick",
    "cell_mean",
    "central_interval",
    "classifier_auc",
    "conditional_mmd",
    "correlation",
    "correlation_distance",
    "correlation_distances",
    "coverage_table",
    "downstream",
    "energy_score",
    "further_per_feature",
    "further_scores",
    "interval",
    "interval_rank",
    "joint_scores",
    "noise_ceilings",
    "nominal_coverage",
    "per_feature",
    "pit_histogram",
    "pit_table",
    "pooled_mean",
    "projected_crps",
    "resamples",
    "resemblance_table",
    "retest_reliability",
    "scores",
    "variogram_score",
    "weighted_correlation",
    "weighted_rank_correlation",
    "win_tie_loss",
]
