"""Pieces of work on several threads: their order, what holds inside, and what becomes of an exception."""

from __future__ import annotations

import threading
import time

import pytest

from secondgram.ops import native
from secondgram.ops.registry import preferred_precision, preferring
from secondgram.ops.thread_pool import MOST, in_parallel


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_come_in_the_order_of_the_pieces(threads: int) -> None:
    def slow(number: int, text: str) -> str:
        time.sleep(0.01 * (3 - number % 3))
        return f"{number}{text}"

    with native.limited(threads):
        assert in_parallel(slow, range(7), "abcdefg") == ["0a", "1b", "2c", "3d", "4e", "5f", "6g"]
    assert in_parallel(slow, [], []) == []


def test_pieces_run_side_by_side_where_they_may() -> None:
    together = threading.Barrier(2, timeout=20)
    with native.limited(2):
        in_parallel(lambda _: together.wait(), range(2))
    with native.limited(1):
        assert set(in_parallel(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


@pytest.mark.parametrize(("threads", "pieces", "share"), [(2, 2, 1), (8, 2, 4), (16, 9, 16 // MOST), (1, 3, 1)])
def test_native_code_has_its_share_of_the_threads(threads: int, pieces: int, share: int) -> None:
    with native.limited(threads):
        assert in_parallel(lambda _: native.default_threads(), range(pieces)) == [share] * pieces
        assert native.default_threads() == threads


def test_preferences_hold_inside() -> None:
    with native.limited(2), preferring("reference", "fp32"):
        assert in_parallel(lambda _: preferred_precision(), range(2)) == ["fp32", "fp32"]


def test_pieces_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        in_parallel(lambda one, two: None, range(2), range(3))


def test_after_an_exception_nothing_is_begun() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)
        raise KeyError(number)

    with native.limited(2), pytest.raises(KeyError, match="0"):
        in_parallel(fail, range(50))
    assert len(begun) < 10
