"""Of one linear layer's task gradients, their sum and their products, without keeping any of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import native
from .gradients import openmp_team, weight_gradients


def runs_natively(tensor: Tensor) -> bool:
    """Whether the extension has `layer_sums` for tensors like this one."""
    return (
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and native.task_sums_reason_unavailable() is None
    )


def layer_sums(dY: Tensor, X: Tensor, ends: Sequence[int], out: Tensor) -> Tensor:
    """With W_t = dY_t^T X_t, the sum of all W_t into `out` (outputs, inputs); K (T, T), <W_s, W_t> in float64.

    dY (B, outputs), X (B, inputs), rows sorted by task; ends (T + 1,), task t having the rows ends[t] .. ends[t + 1].
    """
    if runs_natively(dY):
        left, right = (each.detach().contiguous().numpy() for each in (dY, X))
        threads, place = torch.get_num_threads(), np.asarray(ends, dtype=np.int64)
        return torch.from_numpy(native.task_sums(left, right, place, out.numpy(), threads, openmp_team()))
    W = weight_gradients(dY, X, ends)
    torch.sum(W, dim=0, out=out)
    rows = W.flatten(1).double()
    return rows @ rows.t()
