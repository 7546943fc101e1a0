"""secondgram imputes missing follow-up MRI visits of a longitudinal cohort.

    import secondgram as sg

    cohort = sg.read_cohort("visits.csv")
    imputer = sg.SecondgramImputer().fit(cohort)
    result = imputer.impute(cohort, draws=20)
    result.to_parquet("imputed.parquet")

The names below are loaded when they are first used: importing the package loads neither torch nor triton, and probes no
GPU.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("secondgram")
except PackageNotFoundError:
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from .analysis.fit import completed_tables, fit_pooled
    from .analysis.pool import Pooled, pool
    from .cohort import Cohort, SimulatedCohort, SimulatedTrajectories, read_cohort, simulate
    from .comparison.compare import compare
    from .comparison.report import report
    from .denoiser import Denoiser
    from .errors import InputError
    from .evaluation.evaluate import evaluate
    from .imputation.imputer import SecondgramImputer, load
    from .imputation.refit import impute_refitted
    from .imputation.result import Imputation
    from .imputation.trajectory.trajectory_result import TrajectoryImputation
    from .sampling.sampler import Sampler

_HOME = {
    "Cohort": "cohort",
    "SimulatedCohort": "cohort",
    "SimulatedTrajectories": "cohort",
    "read_cohort": "cohort",
    "simulate": "cohort",
    "Denoiser": "denoiser",
    "InputError": "errors",
    "completed_tables": "analysis.fit",
    "fit_pooled": "analysis.fit",
    "compare": "comparison.compare",
    "evaluate": "evaluation.evaluate",
    "Pooled": "analysis.pool",
    "pool": "analysis.pool",
    "report": "comparison.report",
    "SecondgramImputer": "imputation.imputer",
    "load": "imputation.imputer",
    "impute_refitted": "imputation.refit",
    "Imputation": "imputation.result",
    "TrajectoryImputation": "imputation.trajectory.trajectory_result",
    "Sampler": "sampling.sampler",
}

__all__ = [
    "Cohort",
    "Denoiser",
    "Imputation",
    "InputError",
    "Pooled",
    "Sampler",
    "SecondgramImputer",
    "SimulatedCohort",
    "SimulatedTrajectories",
    "TrajectoryImputation",
    "__version__",
    "compare",
    "completed_tables",
    "evaluate",
    "fit_pooled",
    "impute_refitted",
    "load",
    "pool",
    "read_cohort",
    "report",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'secondgram' has no attribute {name!r}")
    # Sub-packages and public names share one namespace; the name is bound after its module is loaded.
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
