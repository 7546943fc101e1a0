"""Recording, during one backward pass, the factors of every layer's gradient: the input of each Linear and LayerNorm,
and the gradient of its output.

Inside `capturing`, `linear` and `layer_norm` of a network's own parameters go through the two functions below. Their
backward computes the gradient of the input alone and hands on the factors of the weight gradients, so a pass costs as
much as a plain one without weight gradients. Any other use of a parameter is refused with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.autograd import Variable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...errors import InputError
from ...ops.registry import preferring

if TYPE_CHECKING:
    from ...ops.triton_kernels import Tasks

LINEAR = functional.linear
NORMS = (functional.layer_norm, torch.layer_norm)
# Layers that keep rows apart; an empty Sequential or a container is judged by its children.
ROWWISE = (
    nn.Linear,
    nn.LayerNorm,
    nn.Identity,
    nn.Flatten,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Dropout,
    nn.SiLU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.LogSigmoid,
)


@dataclass(frozen=True)
class Site:
    """A layer by its parameters: their names, None where it has none or it is not trained."""

    kind: str
    weight: str | None
    bias: str | None

    @property
    def name(self) -> str:
        """The layer's name in the network."""
        return (self.weight or self.bias or "").rpartition(".")[0] or "the layer"


@dataclass(eq=False)
class Record:
    """One use of a layer: its input, or its normalised input, X (R, in), and the gradient dY (R, out) of its output;
    task t has the rows offsets[t] .. offsets[t + 1]."""

    site: Site
    X: Tensor
    dY: Tensor
    offsets: Tensor
    ends: list[int]
    member: Tensor  # (T, R), one where a row belongs to a task

    def is_matrix(self, name: str) -> bool:
        """Whether a parameter is the weight of a linear layer."""
        return self.site.kind == "linear" and name == self.site.weight


# site, input (B, in) or normalised input, gradient of the output (B, out)
Receive = Callable[[Site, Tensor, Tensor], None]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, site: Site, receive: Receive) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.site, ctx.receive = site, receive
        return LINEAR(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dY,) = gradients
        x, weight = ctx.saved_tensors
        with DisableTorchFunction():
            ctx.receive(ctx.site, x, dY)
            return (dY @ weight if ctx.needs_input_grad[0] else None), None, None, None, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: Sequence[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        site: Site,
        receive: Receive,
    ) -> Tensor:
        normed, mean, scale = torch.native_layer_norm(x, list(shape), weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.shape, ctx.site, ctx.receive = list(shape), site, receive
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dY,) = gradients
        x, weight, bias, mean, scale = ctx.saved_tensors
        dX, inner = None, len(ctx.shape)
        with DisableTorchFunction():
            if ctx.needs_input_grad[0]:
                dX = torch.ops.aten.native_layer_norm_backward(
                    dY, x, ctx.shape, mean, scale, weight, bias, [True, False, False]
                )[0]
            ctx.receive(ctx.site, ((x - mean) * scale).flatten(-inner), dY.flatten(-inner))
        return dX, None, None, None, None, None, None


class _Capture(TorchFunctionMode):
    def __init__(self, names: dict[int, str], receive: Receive) -> None:
        super().__init__()
        self.names, self.receive = names, receive

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward and len(args) == 1 and not any(kwargs.values()):
            # torch switches a function mode off inside its handler; layers that checkpointing recomputes need it on.
            loss = args[0]
            with self:
                return Variable._execution_engine.run_backward(
                    (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
                )
        if torch.is_grad_enabled():
            if func is LINEAR:
                return self._linear(*args, **kwargs)
            if func in NORMS:
                return self._norm(*args, **kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.requires_grad:
            used = [self.names[id(each)] for each in (*args, *kwargs.values()) if id(each) in self.names]
            if used and out is not args[0]:
                raise InputError(
                    f"the parameter {used[0]} is used by {getattr(func, '__name__', func)}",
                    mend="Gradients of tasks in one backward pass need parameters of Linear and LayerNorm only",
                )
        return out

    def _site(self, kind: str, weight: Tensor | None, bias: Tensor | None) -> Site:
        return Site(kind, self.names.get(id(weight)), self.names.get(id(bias)))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        site = self._site("linear", weight, bias)
        if site.weight is None and site.bias is None:
            return LINEAR(input, weight, bias)
        return _Linear.apply(input, weight, bias, site, self.receive)  # type: ignore[no-any-return]

    def _norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *_: object,
        **__: object,
    ) -> Tensor:
        site = self._site("norm", weight, bias)
        if site.weight is None and site.bias is None:
            return functional.layer_norm(input, list(normalized_shape), weight, bias, eps)
        return _Norm.apply(input, normalized_shape, weight, bias, eps, site, self.receive)  # type: ignore[no-any-return]


@contextmanager
def capturing(names: dict[int, str], receive: Receive, taker: Tasks | None = None) -> Iterator[None]:
    """Inside, a forward and a backward pass of a network call `receive` once for each use of a layer.

    names : of the parameters to look after, by their `id`.
    taker : of the gradients that a fused denoiser finds by task itself; None keeps denoisers on their reference.

    The backward belongs inside too: recomputed activations are captured as the first ones were. No `.grad` is written.
    """
    if taker is None:
        apart = preferring("reference")
    else:
        # Imported where it is wanted: it brings Triton along.
        from ...ops import triton_kernels

        apart = triton_kernels.tasks(taker)
    with apart, _Capture(names, receive):
        yield


def refuse_mixing_layers(net: nn.Module, *inputs: Tensor) -> None:
    """Refuse a network in which one row's output depends on another row, with the name of the layer that does it.

    inputs : (B, ...) each, B above 1, as the network is called. Layers that are known are judged by their type; the
        others, by whether their output changes when the network sees half of the rows, without dropout.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.MultiheadAttention, nn.RNNBase)):
            raise InputError(
                f"the layer {name or 'itself'} ({type(layer).__name__}) mixes rows",
                mend="Use layers that treat every row alone, LayerNorm say",
            )
    if all(isinstance(layer, ROWWISE) for layer in net.modules()):
        return
    whole, half = _outputs(net, *inputs), _outputs(net, *(each[: len(each) // 2] for each in inputs))
    for name, outputs in whole.items():
        for all_rows, fewer in zip(outputs, half.get(name, []), strict=False):
            if all_rows.ndim == 0 or fewer.ndim == 0 or len(all_rows) == len(fewer) != len(inputs[0]):
                continue
            if not torch.allclose(all_rows[: len(fewer)], fewer, rtol=1e-3, atol=1e-5 * float(all_rows.abs().max())):
                raise InputError(
                    f"the layer {name or 'itself'} mixes rows", mend="Use layers that treat every row alone"
                )


@torch.no_grad()
def _outputs(net: nn.Module, *inputs: Tensor) -> dict[str, list[Tensor]]:
    """The output of each layer, innermost first."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                seen.setdefault(name, []).append(out)

        return hook

    hooks = [layer.register_forward_hook(note(name)) for name, layer in net.named_modules()]
    modes = {layer: layer.training for layer in net.modules()}
    try:
        net.eval()
        net(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
        for layer, training in modes.items():
            layer.training = training
    return seen
