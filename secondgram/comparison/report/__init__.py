"""The report of a run: one HTML page that needs nothing else, for screens, phones and paper."""

from .page import report

__all__ = ["report"]
