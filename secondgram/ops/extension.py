"""Import a compiled extension at its first use; a missing one gives the reason instead of an exception."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def load(name: str, title: str, interface: int, absent: str) -> tuple[ModuleType | None, str | None]:
    """The module `secondgram.NAME` and None, or None and the reason it cannot be used.

    title : as messages call it;  interface : the number it has to carry;  absent : why it may not have been built.
    """
    try:
        module = importlib.import_module(f"secondgram.{name}")
    except ModuleNotFoundError:
        return None, f"{title} was not built ({absent}, or installed for another Python)"
    except ImportError as error:
        return None, f"{title} cannot be loaded: {error}"
    if module.interface != interface:
        return None, f"{title} is older or newer than the Python code; build it again with pip install -e ."
    return module, None
