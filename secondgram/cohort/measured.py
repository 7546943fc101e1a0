"""What the modules below `Cohort` read of one: they cannot import it, which imports them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd


class Measured(Protocol):
    """The attributes of `Cohort` of these names: people, their visits, and what else is known of them."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def visits(self) -> np.ndarray: ...
    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def visit_labels(self) -> tuple[str, ...]: ...
    @property
    def covariate_table(self) -> pd.DataFrame: ...
    @property
    def outcomes(self) -> pd.DataFrame: ...
