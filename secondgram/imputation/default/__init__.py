"""The `default` preset: a mean, a spread, a correlation and a shape, each a stage fitted on what came before."""
