"""Writing output: the target is checked before the work, and a reader never sees half a file."""

from .durable import kept, remove
from .lock import locked
from .output import clear, explained, filled, replacing, writing
from .target import Kind, Target, look

__all__ = ["Kind", "Target", "clear", "explained", "filled", "kept", "locked", "look", "remove", "replacing", "writing"]
