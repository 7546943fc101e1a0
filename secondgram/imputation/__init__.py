"""Imputation: from a cohort with missing follow-up visits to draws of them."""
