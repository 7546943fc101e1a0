"""Evaluation: scores of an imputation against the truth, with intervals over people."""
