"""The Gram matrix in C++ against float64 products in torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from secondgram.ops import gradients as ops  # noqa: E402
from secondgram.ops import native  # noqa: E402
from secondgram.training.gradients import gram  # noqa: E402

pytestmark = pytest.mark.native


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 8, 11, 64])
@pytest.mark.parametrize("columns", [0, 1, 7, 8, 513, 40_001])
def test_native_gram_is_that_of_float64_products_for_any_threads(tasks: int, columns: int) -> None:
    J = torch.randn(tasks, columns + 3, generator=torch.Generator().manual_seed(columns))[:, 2 : 2 + columns]
    exact = J.double() @ J.double().T
    K = gram(J)
    assert K.dtype == torch.float64
    torch.testing.assert_close(K, exact, rtol=1e-12, atol=1e-13 * max(1, columns))
    torch.testing.assert_close(ops._gram(J), exact, rtol=1e-12, atol=1e-13 * max(1, columns))
    for threads, team in ((1, 0), (3, 0), (2, ops.openmp_team())):
        assert torch.equal(torch.from_numpy(native.gram(J.numpy(), threads, team)), K)


def test_native_gram_takes_rows_of_any_layout() -> None:
    J = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).T
    torch.testing.assert_close(gram(J), J.double() @ J.double().T, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="strides"):
        native.gram(J.numpy())
