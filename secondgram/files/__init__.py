"""Writing output: the target is checked before the work, and a reader never sees half a file."""

from .lock import locked
from .output import clear, explained, filled, remove, replacing, writing
from .target import Kind, Target, look

__all__ = ["Kind", "Target", "clear", "explained", "filled", "locked", "look", "remove", "replacing", "writing"]
