"""hypothesis, which is loaded only by whoever asks for a strategy."""

from __future__ import annotations

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "the strategies of secondgram.testing need hypothesis: pip install 'secondgram[testing]'"
    ) from error

__all__ = ["st"]
