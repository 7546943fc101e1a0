"""Small pictures of many cells: indexed PNGs with transparency, so that they suit light and dark pages."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

# Apart for people with any kind of colour blindness, and against white and near-black alike.
BLUE, ORANGE = (58, 128, 208), (217, 116, 38)
LEVELS = 100


def diverging(cells: np.ndarray) -> str:
    """Data URI of a matrix (H, W) of -100 .. 100: orange below zero, blue above, nothing at zero."""
    palette = [ORANGE] * LEVELS + [BLUE] * (LEVELS + 1)
    alpha = [round(255 * abs(level / LEVELS) ** 0.8) for level in range(-LEVELS, LEVELS + 1)]
    return _uri(np.clip(cells, -LEVELS, LEVELS) + LEVELS, palette, alpha)


def density(counts: np.ndarray) -> str:
    """Data URI of counts (H, W), the first row at the bottom: the more, the bluer."""
    share = np.sqrt(counts / max(counts.max(), 1))
    alpha = [round(255 * (0.12 + 0.88 * level / LEVELS)) if level else 0 for level in range(LEVELS + 1)]
    return _uri(np.ceil(LEVELS * share[::-1]).astype(int), [BLUE] * (LEVELS + 1), alpha)


def _uri(index: np.ndarray, palette: list[tuple[int, int, int]], alpha: list[int]) -> str:
    height, width = index.shape
    # Every row begins with its filter: none.
    rows = np.zeros((height, width + 1), dtype=np.uint8)
    rows[:, 1:] = index
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(value for colour in palette for value in colour)),
        (b"tRNS", bytes(alpha)),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()
