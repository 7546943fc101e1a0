"""Recycled memory: used again when nobody holds it, never while somebody does."""

import numpy as np

from secondgram.ops import buffers


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_outside_it_is_numpys() -> None:
    first = buffers.empty((3, 4), np.float32)
    assert first.shape == (3, 4)
    assert first.dtype == np.float32
    assert first.base is None


def test_used_again_once_dropped() -> None:
    with buffers.reusing_buffers():
        first = buffers.empty((100, 10), np.float64)
        here = address(first)
        del first
        again = buffers.empty((10, 50), np.float32)
        assert address(again) == here
        assert again.shape == (10, 50)
        assert again.dtype == np.float32


def test_never_while_a_part_is_held() -> None:
    with buffers.reusing_buffers():
        first = buffers.empty((100, 10), np.float64)
        first[:] = 1.0
        row = first[7]
        turned = row.reshape(2, 5).T[1:]
        del first, row
        second = buffers.empty((100, 10), np.float64)
        second[:] = 2.0
        assert np.all(turned == 1.0)
        del turned
        third = buffers.empty((100, 10), np.float64)
        assert not np.shares_memory(second, third)


def test_what_pyarrow_holds_is_held() -> None:
    import pyarrow as pa

    with buffers.reusing_buffers():
        first = buffers.empty((2, 8), np.float64)
        first[:] = 3.0
        column = pa.array(first[1])
        del first
        buffers.empty((2, 8), np.float64)[:] = 4.0
        assert column.to_pylist() == [3.0] * 8


def test_a_longer_one_gets_its_own() -> None:
    with buffers.reusing_buffers():
        short = address(buffers.empty((4,), np.float64))
        assert address(buffers.empty((4,), np.float64)) == short
        assert buffers.empty((400,), np.float64).size == 400


def test_empty_shapes() -> None:
    with buffers.reusing_buffers():
        assert buffers.empty((0, 5), np.float64).shape == (0, 5)
