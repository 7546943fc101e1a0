"""Triton kernels, installed as `secondgram.kernels`.

This module imports without Triton; its submodules need it. Each kernel names its reference implementation, in torch or
numpy, against which it is tested.
"""
