"""Cohorts: people, visits, features and covariates; readers, writers, scaling and simulators."""

from .formats import read_cohort
from .simulate import SimulatedCohort, simulate
from .table import Cohort, Pairs

__all__ = ["Cohort", "Pairs", "SimulatedCohort", "read_cohort", "simulate"]
