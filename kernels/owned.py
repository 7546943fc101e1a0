"""Tables on a device that hold addresses of weights, kept as long as these weights.

A recorded CUDA graph keeps bare addresses of what its kernels read. It may be replayed as long as its weights are
there, and so long the tables must be there too; nothing else may drop them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Made = TypeVar("Made")


class Owned(Generic[Made]):
    """Tables made for some weights, by key; each is dropped, when another is made, once one of its weights is gone."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Made, list[StorageWeakRef]]] = {}
        # A backward pass runs in a thread of its own.
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, weights: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        """The result of `make` for this key, which the weights' addresses are part of.

        Raises `RuntimeError` where it would be made while a CUDA graph is being recorded: nothing can be sent to the
        device then.
        """
        with self._lock:
            found = self._made.get(key)
            if found is not None and not any(owner.expired() for owner in found[1]):
                return found[0]
            owners = [StorageWeakRef(weight.untyped_storage()) for weight in weights]
            if found is None:
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise RuntimeError(
                        "A CUDA graph is being recorded with weights that the denoiser's kernels have not seen: "
                        "call it once with these weights before recording, and do not move or copy them in between."
                    )
                self._made = {
                    name: (made, refs)
                    for name, (made, refs) in self._made.items()
                    if not any(owner.expired() for owner in refs)
                }
            # Weights that are gone may have left their addresses to new ones, which own the same table from now on.
            made = make() if found is None else found[0]
            self._made[key] = made, owners
            return made
