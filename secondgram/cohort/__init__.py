"""Cohorts: people, visits, features and covariates; readers, writers, scaling and simulators."""

from .formats import read_cohort
from .simulate import simulate
from .simulated import SimulatedCohort, SimulatedTrajectories
from .table import Cohort, Pairs

__all__ = ["Cohort", "Pairs", "SimulatedCohort", "SimulatedTrajectories", "read_cohort", "simulate"]
