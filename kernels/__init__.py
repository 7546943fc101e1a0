"""Triton kernels, installed as `secondgram.kernels`.

This module imports without Triton; its submodules need it. Each kernel names the plain statement it is tested against.
"""
