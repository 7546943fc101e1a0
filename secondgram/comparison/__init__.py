"""Comparisons of methods on people held out whole: methods, run folders and the report."""
