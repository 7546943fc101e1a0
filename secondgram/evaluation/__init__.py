"""Evaluation: metrics with intervals, simple baselines, and comparisons on people held out whole."""
