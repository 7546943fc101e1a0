"""Gradients of tasks: weight gradients, Gram matrix and weighted sum, by backend and as reference implementations.

J (T, P) holds the gradient of one task a row. Rows of a batch are sorted by task: rows offsets[t] .. offsets[t + 1]
belong to task t.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from . import native
from .registry import AUTO, Candidate, resolve

# Columns multiplied at a time in float64, and how many such blocks are widened together: they stay in a cache.
BLOCK, TOGETHER = 1024, 32
# Dtypes of the kernels; float64 is computed by the reference.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def _without_triton() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    return None


def _candidates(tensor: Tensor) -> tuple[Candidate, ...]:
    reason = _without_triton()
    if tensor.dtype not in DTYPES:
        reason = f"it has no kernel for {tensor.dtype}"
    elif tensor.device.type != "cuda" and not _interpreted():
        reason = f"the tensors are on {tensor.device.type}"
    elif _interpreted() and tensor.dtype == torch.bfloat16:
        reason = "Triton's interpreter computes bfloat16 wrongly"
    return Candidate("triton", lambda: reason), Candidate("reference")


def _interpreted() -> bool:
    if _without_triton() is not None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def backend_for(tensor: Tensor, backend: str = AUTO) -> str:
    """The name of the backend, "triton" or "reference", for gradients like this tensor.

    On a processor it is "reference", unless "triton" is asked for by argument.

    Raises `InputError` for another name and `BackendUnavailableError` where the one asked for cannot run.
    """
    if backend == AUTO and tensor.device.type == "cpu":
        return "reference"
    return resolve("gradients of tasks", _candidates(tensor), backend)


# -- weight gradients -------------------------------------------------------------------------------------------------


def weight_gradients(dY: Tensor, X: Tensor, offsets: Tensor | Sequence[int], out: Tensor | None = None) -> Tensor:
    """dY_t^T X_t for each task: dY (B, outputs), X (B, inputs) -> (T, outputs, inputs), plainly, in their precision."""
    ends = _ends(offsets)
    if out is None:
        out = dY.new_empty((len(ends) - 1, dY.shape[1], X.shape[1]))
    for task, (start, stop) in enumerate(pairwise(ends)):
        torch.mm(dY[start:stop].t(), X[start:stop], out=out[task])
    return out


def _ends(offsets: Tensor | Sequence[int]) -> list[int]:
    return [int(end) for end in (offsets.tolist() if isinstance(offsets, Tensor) else offsets)]


# -- Gram matrix and weighted sum -------------------------------------------------------------------------------------


def gram(J: Tensor, backend: str = AUTO) -> Tensor:
    """K = J J^T (T, T), with float64 products and sums in a fixed order: J (T, P) of any floating-point dtype.

    Raises `InputError` for another shape or dtype.
    """
    check_jacobian(J)
    if backend_for(J, backend) == "triton":
        from ..kernels import gradients

        return gradients.gram(J)
    if J.device.type == "cpu" and J.dtype == torch.float32 and not native.sampler_reason_unavailable():
        rows = J.detach() if J.stride(1) == 1 and J.stride(0) >= J.shape[1] else J.detach().contiguous()
        return torch.from_numpy(native.gram(rows.numpy(), torch.get_num_threads(), openmp_team()))
    return _gram(J)


@cache
def openmp_team() -> int:
    """Address of GOMP_parallel in the OpenMP runtime that torch loaded, 0 where there is none that has it."""
    from threadpoolctl import threadpool_info

    found = [Path(each["filepath"]) for each in threadpool_info() if each["user_api"] == "openmp"]
    home = Path(torch.__file__).parent
    theirs = [path for path in found if home in path.parents] or (found if len(found) == 1 else [])
    start = getattr(ctypes.CDLL(str(theirs[0])), "GOMP_parallel", None) if theirs else None
    return 0 if start is None else ctypes.cast(start, ctypes.c_void_p).value or 0


def _gram(J: Tensor) -> Tensor:
    """The same in torch's products."""
    tasks, columns = J.shape
    blocks = columns // BLOCK
    cut = J[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK)).transpose(0, 1)  # (blocks, T, BLOCK)
    wide = torch.empty(min(TOGETHER, blocks), tasks, BLOCK, dtype=torch.float64, device=J.device)
    partial = wide.new_zeros(len(wide), tasks, tasks)
    for first in range(0, blocks, TOGETHER):
        part = cut[first : first + TOGETHER]
        some = wide[: len(part)].copy_(part)
        partial[: len(part)].baddbmm_(some, some.transpose(1, 2))
    rest = J[:, blocks * BLOCK :].double()
    K = partial.sum(dim=0).addmm_(rest, rest.t())
    # The two halves of a product of matrices may differ in their last bits.
    return torch.triu(K) + torch.triu(K, 1).t()


def combine(J: Tensor, w: Tensor, out: Tensor | None = None, backend: str = AUTO) -> Tensor:
    """g = w^T J (P,), in the dtype of J. Raises `InputError` where their shapes or devices differ."""
    check_jacobian(J)
    if w.shape != (len(J),) or not w.is_floating_point() or w.device != J.device:
        raise InputError(
            f"weights {w.dtype} {tuple(w.shape)} on {w.device} for {len(J)} tasks on {J.device}",
            mend="Give one floating-point weight per task, where J is",
        )
    if backend_for(J, backend) == "triton":
        from ..kernels import gradients

        return gradients.combine(J, w, out)[0]
    return torch.mv(J.t(), w.to(J.dtype)) if out is None else torch.mv(J.t(), w.to(J.dtype), out=out)


def check_jacobian(J: Tensor) -> None:
    """Raise `InputError` for anything but a (tasks, parameters) matrix of floating-point numbers."""
    if J.ndim != 2 or not J.is_floating_point() or len(J) == 0:
        raise InputError(f"J is {J.dtype} {tuple(J.shape)}", mend="Give a floating-point tensor (tasks, parameters)")
