"""Gradients of tasks over several processes: K is not additive over them, J is.

Every rank holds J (T, P) of its own rows, of losses divided by the size of the whole batch. The sum over ranks is cut
into shards of columns; each rank sums its shard, multiplies it with itself, and the partial K (T, T) are summed. The
same K gives every rank the same weights, each combines its shard, and the shards are gathered to g.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError
from ..ops import gradients as ops


class ShardedGradients:
    """J of all ranks' rows, cut by columns: this rank keeps its shard.

    Parameters
    ----------
    J : (T, P) of this rank's rows, the same shape on every rank.
    group : the processes; None takes all of them.

    Reduce-scatter where the backend has one for tensors (NCCL); gloo sums each shard on the rank that keeps it, which
    sends as many bytes.
    """

    def __init__(self, J: Tensor, group: dist.ProcessGroup | None = None) -> None:
        ops.check_jacobian(J)
        if not dist.is_available() or not dist.is_initialized():
            raise InputError("no process group is initialised", mend="Call torch.distributed.init_process_group first")
        self.group, self.columns = group, J.shape[1]
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.width = -(-self.columns // self.ranks)
        padded = torch.nn.functional.pad(J, (0, self.width * self.ranks - self.columns))
        parts = [part.contiguous() for part in padded.split(self.width, dim=1)]
        if dist.get_backend(group) == "gloo":
            for rank, part in enumerate(parts):
                dist.reduce(part, self._global(rank), group=group)
            self.shard = parts[self.rank]
        else:
            self.shard = torch.empty_like(parts[0])
            dist.reduce_scatter(self.shard, parts, group=group)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def gram(self) -> Tensor:
        """K (T, T), float64, of the gradients summed over ranks; the same bits on every rank."""
        K = ops.gram(self.shard)
        dist.all_reduce(K, group=self.group)
        return K

    def combine(self, w: Tensor) -> Tensor:
        """g = w^T J (P,) of the gradients summed over ranks, on every rank."""
        part = ops.combine(self.shard, w)
        gathered = [torch.empty_like(part) for _ in range(self.ranks)]
        dist.all_gather(gathered, part, group=self.group)
        return torch.cat(gathered)[: self.columns]
