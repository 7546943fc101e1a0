"""Settings that must stand before any test module is read."""

import os

# Triton chooses between interpreter and compiler when a kernel is read. On a CUDA machine: TRITON_INTERPRET=0.
os.environ.setdefault("TRITON_INTERPRET", "1")
