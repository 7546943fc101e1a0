"""Sampling: draws from a denoiser by the reverse chain, and from its components to original units."""
