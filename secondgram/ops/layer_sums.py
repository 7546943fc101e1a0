"""Sums over tasks, and Gram matrix, of the weight gradients of linear layers, without storing a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import native
from .gradients import openmp_team, weight_gradients


class Layer(NamedTuple):
    """dY (B, outputs) and X (B, inputs), rows sorted by task; ends (T + 1,), task t having the rows ends[t] ..
    ends[t + 1]; out (outputs, inputs), where the sum goes."""

    dY: Tensor
    X: Tensor
    ends: Sequence[int]
    out: Tensor


def runs_natively(tensor: Tensor) -> bool:
    """Whether the extension has `layer_sums` for tensors like this one."""
    here = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return here and native.task_sums_reason_unavailable() is None


def layer_sums(layers: Sequence[Layer], tasks: int) -> Tensor:
    """With W_t = dY_t^T X_t, the sum over t into each layer's `out`; K (T, T), the sum over layers of <W_s, W_t>, in
    float64. All layers are of one device and dtype."""
    if all(runs_natively(layer.dY) for layer in layers):
        given = [
            native.TaskLayer(
                layer.dY.detach().contiguous().numpy(),
                layer.X.detach().contiguous().numpy(),
                np.asarray(layer.ends, dtype=np.int64),
                layer.out.numpy(),
            )
            for layer in layers
        ]
        return torch.from_numpy(native.task_sums(given, tasks, torch.get_num_threads(), openmp_team()))
    K = layers[0].dY.new_zeros(tasks, tasks, dtype=torch.float64)
    for dY, X, ends, out in layers:
        W = weight_gradients(dY, X, ends)
        torch.sum(W, dim=0, out=out)
        rows = W.flatten(1).double()
        # A library's product of a matrix and its own transpose need not be symmetric in its last digits.
        K += (rows @ rows.t()).triu()
    return K + K.triu(1).t()
