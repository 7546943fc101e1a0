"""Analyses of imputed visits: pooling by Rubin's rules, and fits on every draw."""
