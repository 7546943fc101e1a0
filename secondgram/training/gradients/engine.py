"""Gradients of all tasks from one backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...ops import gradients as ops
from ...ops.layer_sums import runs_natively
from ...ops.registry import AUTO
from .capture import Record, Site, capturing, refuse_mixing_layers
from .sums import LayerSums

MODES = ("auto", "jac", "layer", "ghost", "sums")
# The cost rule counts multiply-adds; a number moved to or from memory weighs as much as this many.
NUMBER = 16
# Numbers that the slices of a layer may take at a time where J is not stored.
SLICES = 1 << 22
# Beyond this, J is not stored where the choice is free.
LARGEST_JACOBIAN = 1 << 30
# Most tasks and rows for which `auto` takes `sums`: its products grow with tasks^2, and with rows faster than the cost
# of a stored J.
MOST_SUMMED, LARGEST_SUMMED = 16, 1024


def cheapest(rows: int, tasks: int, widths: Sequence[tuple[int, int]]) -> str:
    """The mode of least cost for linear layers of these (outputs, inputs).

    Multiply-adds plus 16 x numbers moved, for a layer of o outputs, i inputs and B rows of T tasks:

    - `jac`: B o i, and three times T o i (J is written, read for K and read for g);
    - `layer`: twice B o i (slices, then the weighted product), and 1.5 T o i, because a slice is read out of cache;
    - `ghost`: 2 B^2 (o + i) in float64 and B o i, and 3 B^2.

    `jac` is left out where J would take more than a GiB as float32.
    """
    both = [(o * i, o + i) for o, i in widths]
    cost = {
        "jac": sum(rows * area + NUMBER * 3 * tasks * area for area, _ in both),
        "layer": sum(2 * rows * area + NUMBER * 1.5 * tasks * area for area, _ in both),
        "ghost": sum(2 * rows**2 * edge + rows * area + NUMBER * 3 * rows**2 for area, edge in both),
    }
    if 4 * tasks * sum(area for area, _ in both) > LARGEST_JACOBIAN:
        del cost["jac"]
    return min(cost, key=lambda mode: cost[mode])


@dataclass(eq=False)
class _FusedRows:
    """A block of rows as a fused denoiser sees it: `fused.Tasks` of an engine."""

    engine: TaskGradients
    offsets: Tensor
    ends: list[int]

    def begin(self, rows: int) -> None:
        if self.ends and rows != self.ends[-1]:
            raise InputError(f"the denoiser was given {rows} rows, the tasks have {self.ends[-1]}")
        self.engine._chosen, self.engine._fused = "jac", True

    def take(self, weights: Sequence[Tensor], J: Tensor) -> None:
        self.engine._take(weights, J)


class TaskGradients:
    """The gradients of a network's tasks, rows sorted by task, from one backward pass.

        gradients.clear()
        with gradients.rows(offsets):
            loss = ...          # summed over the tasks, from one forward pass of the network
            loss.backward()
        K = gradients.gram()
        g = gradients.combine(aggregate(K, "pcgrad"))

    Parameters
    ----------
    net : of Linear and LayerNorm layers and functions that keep rows apart; any other use of a trained parameter is
        refused when it happens. Its parameters' `.grad` are left alone.
    tasks : T, 1 or more; a task may be without rows.
    mode : `jac` keeps J (T, P); `layer` forms the slices of one layer at a time and goes through the layers a second
        time for g, so J is never stored; `ghost` gets K from products of rows, X X^T and dY dY^T, in float64, for
        batches small against the widths; `sums` gets K and the plain sum while a layer's slices are in the cache, and
        goes through the layers again only where tasks weigh differently. `auto` takes `sums` for up to 16 tasks and
        1,024 rows where the extension has it (float32, AVX-512), else the cheapest of the others (`cheapest`), when
        rows come first.
    backend : of the products on a CUDA device, "triton" or "reference".

    A denoiser that runs on its fused kernels gives J itself; modes `jac` and `auto` take it and keep it. In the other
    modes, and where J would take more than a GiB, the denoiser runs on its reference.

    Several blocks of `rows` before `gram` add up: J is accumulated, not K. In all modes but `jac` each block's
    inputs are kept until `clear`.
    """

    def __init__(self, net: nn.Module, tasks: int, mode: str = "auto", backend: str = AUTO) -> None:
        if tasks < 1:
            raise InputError(f"{tasks} tasks", mend="Give one task or more")
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}", mend=f"Use one of {', '.join(MODES)}")
        self.net, self.tasks, self.mode, self.backend = net, tasks, mode, backend
        named = {name: value for name, value in net.named_parameters() if value.requires_grad}
        if not named:
            raise InputError("the network has no trained parameter")
        first = next(iter(named.values()))
        if any(value.device != first.device or value.dtype != first.dtype for value in named.values()):
            raise InputError("the parameters have several devices or dtypes", mend="Move them to one")
        self.dtype, self.device = first.dtype, first.device
        self.parameters = list(named.values())
        self._names = {id(value): name for name, value in named.items()}
        self._triton = ops.backend_for(first, backend) == "triton"
        self.shapes = {name: value.shape for name, value in named.items()}
        self.start: dict[str, int] = {}
        self.size = 0
        for name, value in named.items():
            self.start[name] = self.size
            self.size += value.numel()
        self._J: Tensor | None = None
        self._views: dict[str, Tensor] = {}
        self._written: set[str] = set()
        self._records: list[Record] = []
        self._sites: list[Site] = []
        self._member: Tensor | None = None
        self._summed: LayerSums | None = None
        self._g: Tensor | None = None
        self._chosen, self._fused = mode, False
        self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)

    @property
    def recordable(self) -> bool:
        """Whether a step of this can be recorded: no shape and no launch depends on how many rows a task has."""
        return self._triton or self.device.type == "cpu"

    # -- taking the gradients ---------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget the rows there were; buffers are kept for the next ones."""
        self._written.clear()
        self._records.clear()
        self._fused = False
        if self._summed is not None:
            self._summed.clear()

    @contextmanager
    def rows(self, offsets: Tensor | Sequence[int]) -> Iterator[None]:
        """Inside, one forward and one backward pass of rows sorted by task are taken in.

        offsets : (T + 1,), from 0 to the number of rows B, never falling; B is the first axis of every layer's input.

        Raises `InputError` for other offsets (on a CUDA device only their length is checked, which costs no waiting),
        for a layer that is not given B rows, and for a parameter used by anything but Linear and LayerNorm.
        """
        place = torch.as_tensor(offsets)
        if place.ndim != 1 or len(place) != self.tasks + 1 or place.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"offsets are {place.dtype} {tuple(place.shape)}", mend=f"Give {self.tasks + 1} whole numbers"
            )
        ends = [] if place.is_cuda else place.tolist()
        if ends and (ends[0] != 0 or any(a > b for a, b in pairwise(ends))):
            raise InputError(f"offsets {ends} fall or do not begin at 0")
        place = place.to(self.device)
        self._sites = []
        self._member = None

        def receive(site: Site, X: Tensor, dY: Tensor) -> None:
            self._receive(site, X, dY, place, ends)

        taker = _FusedRows(self, place, ends) if self._takes_fused() else None
        with capturing(self._names, receive, taker):
            yield
        if not self._sites:
            raise InputError(
                "no gradient reached a layer inside `rows`", mend="Call the network and loss.backward() inside it"
            )

    def _takes_fused(self) -> bool:
        """Whether a denoiser on its fused kernels may give J here."""
        fits = 4 * self.tasks * self.size <= LARGEST_JACOBIAN or self.mode == "jac"
        kept = self._chosen == "jac" or not (self._records or self._written)
        # Addresses name a parameter only where no copy of it is made.
        return self.mode in ("auto", "jac") and fits and kept and all(p.is_contiguous() for p in self.parameters)

    def _take(self, weights: Sequence[Tensor], J: Tensor) -> None:
        """Add the Jacobian of a fused denoiser's weights, end to end; the first of a parameter replaces what stood."""
        self._sites.append(Site("denoiser", None, None))
        # Autograd hands on tensors that are not the parameters themselves, but lie where they lie.
        places = {value.data_ptr(): name for value, name in zip(self.parameters, self.shapes, strict=True)}
        names = [places.get(weight.data_ptr()) for weight in weights]
        if names == list(self.shapes) and not self._written and J.dtype == self.dtype:
            self._J = J
            self._views = self._places(J)
            self._written.update(self.shapes)
            return
        self._jacobian()
        for name, part in zip(names, J.split([weight.numel() for weight in weights], dim=1), strict=True):
            if name is None:
                continue
            view = self._views[name].flatten(1)
            if name in self._written:
                view.add_(part)
            else:
                view.copy_(part)
                self._written.add(name)

    def _receive(self, site: Site, X: Tensor, dY: Tensor, offsets: Tensor, ends: list[int]) -> None:
        rows = len(X)
        if X.ndim < 2 or (ends and rows != ends[-1]):
            raise InputError(f"{site.name} was given {rows if X.ndim > 1 else 'no'} rows, the tasks have {ends[-1:]}")
        self._sites.append(site)
        X, dY = X.detach(), dY.detach()
        if X.ndim > 2:
            # Positions inside a row belong to its task.
            inner = X[0, ..., 0].numel()
            offsets, ends = offsets * inner, [end * inner for end in ends]
            X, dY = X.reshape(-1, X.shape[-1]), dY.reshape(-1, dY.shape[-1])
        if self._member is None or self._member.shape[1] != len(X):
            self._member = self._membership(offsets, len(X))
        record = Record(site, X, dY, offsets, ends, self._member)
        if self.mode == "auto" and not self._fused and not self._records and not self._written:
            self._chosen = self._choose(rows)
        if self._chosen == "jac" and not self.device.type == "cuda":
            # While input and gradient are still in the cache.
            self._jacobian()
            self._write(record, self._views)
            return
        if self._chosen == "sums":
            if self._summed is None:
                places = {name: view[0] for name, view in self._places(self.g[None]).items()}
                self._summed = LayerSums(places, self.tasks)
            self._summed.add(record)
        self._records.append(record)

    def _choose(self, rows: int) -> str:
        if self.tasks <= MOST_SUMMED and rows <= LARGEST_SUMMED and runs_natively(self.parameters[0]):
            return "sums"
        widths = [(shape[0], shape[1]) for shape in self.shapes.values() if len(shape) == 2]
        return cheapest(rows, self.tasks, widths)

    def _jacobian(self) -> Tensor:
        if self._J is None:
            self._J = torch.zeros(self.tasks, self.size, dtype=self.dtype, device=self.device)
            self._views = self._places(self._J)
        return self._J

    def _write(self, record: Record, places: dict[str, Tensor]) -> None:
        """Add a record's slices to these (T, ...); the first of a parameter replaces what stood there."""
        site = record.site
        if site.weight is not None:
            fresh = site.weight not in self._written
            if site.kind == "linear":
                self._products(record, places[site.weight], fresh)
            else:
                self._sums(record, record.X * record.dY, places[site.weight], fresh)
            self._written.add(site.weight)
        if site.bias is not None:
            self._sums(record, record.dY, places[site.bias], site.bias not in self._written)
            self._written.add(site.bias)

    def _launched(self) -> list[Record]:
        """Write the first use of each linear layer, several layers a launch, and return the records that are left."""
        from ...kernels import gradients

        together, left = [], []
        for record in self._records:
            weight, bias = record.site.weight, record.site.bias
            first = not {weight, bias} & self._written and record.X.dtype in ops.DTYPES
            if weight is None or record.site.kind != "linear" or not first:
                left.append(record)
                continue
            place = -1 if bias is None else self.start[bias]
            layer = gradients.LayerRows(record.dY, record.X, self.start[weight], place)
            together.append((layer, record.offsets))
            self._written.update(name for name in (weight, bias) if name is not None)
        for offsets in {id(each): each for _, each in together}.values():
            gradients.layer_gradients([layer for layer, of in together if of is offsets], offsets, self._jacobian())
        return left

    def _places(self, J: Tensor) -> dict[str, Tensor]:
        """Views (rows of J, *shape), by parameter."""
        return {
            name: J[:, self.start[name] : self.start[name] + shape.numel()].view(len(J), *shape)
            for name, shape in self.shapes.items()
        }

    def _sums(self, record: Record, rows: Tensor, out: Tensor, fresh: bool) -> None:
        flat = out.view(self.tasks, -1)
        if fresh:
            torch.mm(record.member, rows, out=flat)
        else:
            flat.addmm_(record.member, rows)

    def _products(self, record: Record, out: Tensor, fresh: bool) -> None:
        if self._triton:
            from ...kernels import gradients

            made = gradients.weight_gradients(record.dY, record.X, record.offsets, out if fresh else None)
            if not fresh:
                out.add_(made)
            return
        ends = record.ends or record.offsets.tolist()
        sizes = [stop - start for start, stop in pairwise(ends)]
        parts = zip(record.dY.t().split(sizes, dim=1), record.X.split(sizes), out.unbind(), strict=True)
        for columns, rows, place in parts:
            if fresh:
                torch.mm(columns, rows, out=place)
            else:
                place.addmm_(columns, rows)

    def _membership(self, offsets: Tensor, rows: int) -> Tensor:
        place = torch.arange(rows, device=self.device)
        return ((place >= offsets[:-1, None]) & (place < offsets[1:, None])).to(self.dtype)

    # -- using the gradients ----------------------------------------------------------------------------------------

    @property
    def J(self) -> Tensor:
        """(T, P), parameters in the order of `net.parameters()`; kept by mode `jac`, made on demand by the others."""
        if self._chosen == "jac":
            J = self._jacobian()
            for record in self._launched() if self._triton else self._records:
                self._write(record, self._views)
            self._records.clear()
            for name, place in self._views.items():
                if name not in self._written:
                    # No row reached it: an earlier step's values must not stay.
                    place.zero_()
            return J
        J = torch.zeros(self.tasks, self.size, dtype=self.dtype, device=self.device)
        places = self._places(J)
        for record in self._records:
            self._write(record, places)
        self._written.clear()
        return J

    def gram(self) -> Tensor:
        """K (T, T), float64."""
        if self._chosen == "jac":
            return ops.gram(self.J, self.backend)
        K = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.device)
        by_rows = self._chosen == "ghost"
        done: set[str] = set()
        if self._summed is not None and self._chosen == "sums":
            part, done = self._summed.gram(self._uses())
            K += part
        for name, uses in self._uses().items():
            if name not in done and not (by_rows and uses[0].is_matrix(name)):
                K += self._layer(name, uses)
        return K + self._ghost() if by_rows else K

    def _uses(self) -> dict[str, list[Record]]:
        uses: dict[str, list[Record]] = {}
        for record in self._records:
            for name in (record.site.weight, record.site.bias):
                if name is not None:
                    uses.setdefault(name, []).append(record)
        return uses

    def _layer(self, name: str, uses: list[Record]) -> Tensor:
        """The part of K of one parameter, from its slices; a large weight's are formed some outputs at a time."""
        shape = self.shapes[name]
        K = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.device)
        if not uses[0].is_matrix(name):
            slices = self._space((self.tasks, shape.numel()))
            for number, record in enumerate(uses):
                rows = record.dY if name == record.site.bias else record.X * record.dY
                self._sums(record, rows, slices, fresh=number == 0)
            return K + ops.gram(slices, self.backend)
        outputs, inputs = shape
        tall = max(1, min(outputs, SLICES // (self.tasks * inputs)))
        for first in range(0, outputs, tall):
            some = slice(first, min(first + tall, outputs))
            slices = self._space((self.tasks, some.stop - first, inputs))
            for number, record in enumerate(uses):
                self._products(replace(record, dY=record.dY[:, some]), slices, fresh=number == 0)
            K += ops.gram(slices.flatten(1), self.backend)
        return K

    def _space(self, shape: tuple[int, ...]) -> Tensor:
        """Memory for slices, used again by the next ones."""
        wanted = math.prod(shape)
        if self._buffer.numel() < wanted:
            self._buffer = torch.empty(wanted, dtype=self.dtype, device=self.device)
        return self._buffer[:wanted].view(shape)

    def _ghost(self) -> Tensor:
        """The part of K of all weights, without slices: <dY_t^T X_t, dY_u^T X_u> is the sum over rows r of t and s of u
        of (x_r . x_s) (dy_r . dy_s). Products are in the precision of the rows, sums over rows in float64."""
        products: dict[tuple[int, torch.Size], Tensor] = {}

        def by_rows(matrices: list[Tensor]) -> Tensor:
            # Layers share inputs and gradients.
            key = matrices[0].data_ptr(), matrices[0].shape
            if len(matrices) > 1:
                whole = torch.cat(matrices)
                return whole @ whole.t()
            if key not in products:
                products[key] = matrices[0] @ matrices[0].t()
            return products[key]

        K = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.device)
        totals: dict[int, tuple[Tensor, Tensor]] = {}
        for name, uses in self._uses().items():
            if uses[0].is_matrix(name):
                both = by_rows([record.X for record in uses]) * by_rows([record.dY for record in uses])
                if len(both) in totals:
                    totals[len(both)][0].add_(both)
                else:
                    member = torch.cat([record.member for record in uses], dim=1).double()
                    totals[len(both)] = both.double(), member
        for total, member in totals.values():
            K += member @ total @ member.t()
        return K

    @property
    def g(self) -> Tensor:
        """Memory (P,) of the engine's own for `combine`, which saves a copy in mode `sums`; the next `rows` uses it."""
        if self._g is None:
            self._g = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        return self._g

    def combine(self, w: Tensor, out: Tensor | None = None) -> Tensor:
        """g = w^T J (P,), in the dtype of the parameters and their order, into `out` or fresh memory."""
        if self._chosen == "jac":
            return ops.combine(self.J, w, out, self.backend)
        if w.shape != (self.tasks,) or w.device != self.device:
            raise InputError(f"{tuple(w.shape)} weights on {w.device} for {self.tasks} tasks on {self.device}")
        g = torch.empty(self.size, dtype=self.dtype, device=self.device) if out is None else out
        places = {name: view[0] for name, view in self._places(g[None]).items()}
        done = self._summed.combine(w, places) if self._summed is not None and self._chosen == "sums" else set()
        written = set(done)
        for record in self._records:
            site = record.site
            if {site.weight, site.bias} <= {None, *done}:
                continue
            share = w.to(self.dtype) @ record.member  # (R,)
            if site.weight is not None and site.weight not in done:
                place = places[site.weight]
                if site.kind != "linear":
                    place = place.view(1, -1)
                linear = site.kind == "linear"
                rows = ((record.dY * share[:, None]).t(), record.X) if linear else (share[None], record.X * record.dY)
                torch.mm(*rows, out=place) if site.weight not in written else place.addmm_(*rows)
                written.add(site.weight)
            if site.bias is not None and site.bias not in done:
                place = places[site.bias].view(1, -1)
                rows = share[None], record.dY
                torch.mm(*rows, out=place) if site.bias not in written else place.addmm_(*rows)
                written.add(site.bias)
        for name in self.shapes.keys() - written:
            places[name].zero_()
        return g


def task_jacobian(
    net: nn.Module,
    row_losses: Callable[[Tensor], Tensor],
    *inputs: Tensor,
    offsets: Tensor | Sequence[int],
    mode: str = "auto",
    check: bool = True,
) -> Tensor:
    """J (T, P) of any network of Linear, LayerNorm and functions that keep rows apart.

    row_losses : from the network's output to one loss a row (B,), or to their sum.
    inputs : arguments of the network, (B, ...) each, rows sorted by task.
    check : refuse a layer that mixes rows, by its name; a network of unknown layers is called twice more for it.

    Raises `InputError` for such a layer and for a parameter used by anything but Linear and LayerNorm.
    """
    if check and len(inputs[0]) > 1:
        refuse_mixing_layers(net, *inputs)
    gradients = TaskGradients(net, len(offsets) - 1, mode)
    with gradients.rows(offsets):
        row_losses(net(*inputs)).sum().backward()
    return gradients.J


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[Tensor], retain_graph: bool = False) -> Tensor:
    """J (T, P): the gradient of each task's loss for all parameters, flattened in their order, one backward a task.

    Reference implementation of `TaskGradients`, for any network and any losses.

    retain_graph : keep the graph for another backward pass afterwards.
    """
    if not losses:
        raise InputError("there is no task", mend="Give one loss per task")
    rows = []
    for number, loss in enumerate(losses):
        parts = torch.autograd.grad(
            loss,
            parameters,
            retain_graph=retain_graph or number + 1 < len(losses),
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)
