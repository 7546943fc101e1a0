"""Mode `sums`: the sum over tasks of the gradients, and their Gram matrix, without storing a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...ops import gradients as ops
from ...ops.layer_sums import Layer, layer_sums
from .capture import Record


class LayerSums:
    """Sums of the weights that were used once, and J of the parameters that are no matrices.

    places : where the sum of each parameter goes, by name;  tasks : T.
    """

    def __init__(self, places: Mapping[str, Tensor], tasks: int) -> None:
        self.tasks = tasks
        self.place = {name: place for name, place in places.items() if place.ndim == 2}
        narrow = {name: place.shape for name, place in places.items() if place.ndim != 2}
        like = next(iter(places.values()))
        self.J = like.new_zeros(tasks, sum(shape.numel() for shape in narrow.values()))
        self.rows = dict(zip(narrow, self.J.split([shape.numel() for shape in narrow.values()], dim=1), strict=True))
        self.K: Tensor | None = None
        self.written: set[str] = set()
        self.summed: set[str] = set()

    def clear(self) -> None:
        self.K = None
        self.written.clear()
        self.summed.clear()

    def add(self, record: Record) -> None:
        """Take in one use of a layer."""
        self.K = None
        site = record.site
        if site.kind != "linear" and site.weight in self.rows:
            self._add_rows(record, site.weight, record.X * record.dY)
        if site.bias in self.rows:
            self._add_rows(record, site.bias, record.dY)

    def _add_rows(self, record: Record, name: str, rows: Tensor) -> None:
        if name in self.written:
            self.rows[name].add_(record.member @ rows)
        else:
            self.rows[name].copy_(record.member @ rows)
        self.written.add(name)

    def gram(self, uses: Mapping[str, list[Record]]) -> tuple[Tensor, set[str]]:
        """The part of K (T, T) that is made here, and the names of the parameters it is of; uses : by parameter."""
        # Products of sums are no sums of products: a weight that was used twice is left to the engine, by slices.
        once = {name: of[0] for name, of in uses.items() if len(of) == 1 and of[0].is_matrix(name)}
        if self.K is None:
            for name in self.rows.keys() - self.written:
                self.rows[name].zero_()
            self.K = self.J.new_zeros(self.tasks, self.tasks, dtype=torch.float64)
            if self.J.shape[1]:
                self.K = self.K + ops.gram(self.J)
            if once:
                self.K = self.K + layer_sums([self._layer(name, record) for name, record in once.items()], self.tasks)
            self.summed = set(once)
        return self.K, self.written | once.keys()

    def _layer(self, name: str, record: Record) -> Layer:
        return Layer(record.dY, record.X, record.ends or record.offsets.tolist(), self.place[name])

    def combine(self, w: Tensor, places: Mapping[str, Tensor]) -> set[str]:
        """Write the gradients that need no second pass into the places, and return their names.

        Of biases and layer norms always; of weights that were used once, where every task weighs the same.
        """
        done = set(self.written)
        for name in self.written:
            torch.mv(self.rows[name].t(), w.to(self.J.dtype), out=places[name].view(-1))
        plain, factor = bool((w == w[0]).all()), float(w[0])
        for name in list(self.summed):
            own = places[name].data_ptr() == self.place[name].data_ptr()
            if plain:
                done.add(name)
                if not own:
                    torch.mul(self.place[name], factor, out=places[name])
                elif factor != 1.0:
                    self.place[name].mul_(factor)
            if own and not (plain and factor == 1.0):
                # Where the sum stood there is something else now.
                self.summed.discard(name)
        return done
