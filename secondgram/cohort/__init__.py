"""Cohorts: who was scanned, when, and what was measured."""

from .formats import read_cohort
from .simulate import SimulatedCohort, simulate
from .table import Cohort, Pairs

__all__ = ["Cohort", "Pairs", "SimulatedCohort", "read_cohort", "simulate"]
