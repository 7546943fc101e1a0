"""What mode `sums` keeps of a batch: the sum of the tasks' gradients and their products, never a gradient itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...ops import gradients as ops
from ...ops.layer_sums import layer_sums

if TYPE_CHECKING:
    from .engine import Record


class LayerSums:
    """Sums of weights that were used once, and J of the parameters that are no matrices.

    places : where the sum of each parameter goes, by name;  tasks : T.
    """

    def __init__(self, places: Mapping[str, Tensor], tasks: int) -> None:
        self.place = {name: place for name, place in places.items() if place.ndim == 2}
        narrow = {name: place.shape for name, place in places.items() if place.ndim != 2}
        like = next(iter(places.values()))
        self.J = like.new_zeros(tasks, sum(shape.numel() for shape in narrow.values()))
        self.rows = dict(zip(narrow, self.J.split([shape.numel() for shape in narrow.values()], dim=1), strict=True))
        self.products: dict[str, Tensor | None] = {}
        self.written: set[str] = set()

    def clear(self) -> None:
        self.products.clear()
        self.written.clear()

    def add(self, record: Record) -> None:
        """Take in one use of a layer, while its input and its gradient are still in the cache."""
        site = record.site
        weight, bias = site.weight, site.bias
        if site.kind != "linear":
            if weight in self.rows:
                self._add_rows(record, weight, record.X * record.dY)
        elif weight is not None:
            # Products of sums are no sums of products: of a weight that is used again, all are made anew.
            first = weight not in self.products
            ends = record.ends or record.offsets.tolist()
            self.products[weight] = layer_sums(record.dY, record.X, ends, self.place[weight]) if first else None
        if bias in self.rows:
            self._add_rows(record, bias, record.dY)

    def _add_rows(self, record: Record, name: str, rows: Tensor) -> None:
        if name in self.written:
            self.rows[name].add_(record.member @ rows)
        else:
            self.rows[name].copy_(record.member @ rows)
        self.written.add(name)

    def holds(self, name: str) -> bool:
        """Whether all there is of a parameter is here."""
        return name in self.written or self.products.get(name) is not None

    def gram(self) -> Tensor:
        """The part of K (T, T) that is here."""
        for name in self.rows.keys() - self.written:
            self.rows[name].zero_()
        K = ops.gram(self.J) if self.J.shape[1] else self.J.new_zeros(len(self.J), len(self.J), dtype=torch.float64)
        for each in self.products.values():
            if each is not None:
                K = K + each
        return K

    def combine(self, w: Tensor, places: Mapping[str, Tensor]) -> set[str]:
        """Write into the places what needs no second pass, and name it: all, where every task weighs the same."""
        done = set(self.written)
        for name in self.written:
            torch.mv(self.rows[name].t(), w.to(self.J.dtype), out=places[name].view(-1))
        kept = [name for name in self.products if self.holds(name)]
        plain = bool((w == w[0]).all())
        if plain:
            done.update(kept)
        for name in kept:
            if places[name].data_ptr() != self.place[name].data_ptr():
                if plain:
                    torch.mul(self.place[name], float(w[0]), out=places[name])
            elif not plain or float(w[0]) != 1.0:
                # Where the sum stood there is something else now; whoever asks again has it made anew.
                self.products[name] = None
                if plain:
                    self.place[name].mul_(float(w[0]))
        return done
