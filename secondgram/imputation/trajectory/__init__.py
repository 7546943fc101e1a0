"""Trajectories: what a person showed at any visit conditions every visit that is missing."""
