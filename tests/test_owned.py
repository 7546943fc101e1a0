"""Tables with addresses of weights: they live as long as the weights, however many others are made."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")
block = pytest.importorskip("secondgram.kernels.executor")
gradients = pytest.importorskip("secondgram.kernels.gradients")

from secondgram.kernels.launches import described  # noqa: E402
from secondgram.kernels.layout import Size  # noqa: E402
from secondgram.kernels.owned import Owned  # noqa: E402


def _weights(count: int = 2) -> list[Tensor]:
    return [torch.zeros(3) for _ in range(count)]


def test_nothing_is_dropped_while_its_weights_live() -> None:
    kept: Owned[Tensor] = Owned()
    networks = [_weights() for _ in range(40)]
    made = [weakref.ref(kept.get(number, weights, lambda: torch.zeros(1))) for number, weights in enumerate(networks)]
    gc.collect()
    assert all(table() is not None for table in made)
    for number, weights in enumerate(networks):
        assert kept.get(number, weights, lambda: torch.ones(1)) is made[number]()


def test_what_belonged_to_weights_that_are_gone_is_let_go_at_the_next_making() -> None:
    kept: Owned[Tensor] = Owned()
    weights = _weights()
    table = weakref.ref(kept.get("old", weights, lambda: torch.zeros(1)))
    # A view keeps the memory, and a graph would still be right.
    view = weights[0][1:]
    del weights[0]
    kept.get("another", _weights(), lambda: torch.zeros(1))
    assert table() is not None
    del view
    kept.get("new", weights, lambda: torch.zeros(1))
    assert table() is None
    # "new", which has living weights, is all there is.
    assert len(kept) == 1


def test_weights_that_take_over_addresses_own_the_table_from_then_on() -> None:
    kept: Owned[Tensor] = Owned()
    first = kept.get("place", _weights(), lambda: torch.zeros(1))
    weights = _weights()
    assert kept.get("place", weights, lambda: torch.ones(1)) is first
    kept.get("other", _weights(), lambda: torch.ones(1))
    assert kept.get("place", weights, lambda: torch.ones(1)) is first


def test_nothing_is_made_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Owned[Tensor] = Owned()
    known = _weights()
    table = kept.get("known", known, lambda: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert kept.get("known", known, lambda: torch.ones(1)) is table
    with pytest.raises(RuntimeError, match="call it once with these weights before recording"):
        kept.get("new", _weights(), lambda: torch.zeros(1))


def test_the_denoiser_keeps_its_tables_through_many_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recorded graph needs it: forward, backward, and the tables of another network's many layers."""
    size = Size(2, 3, 2, (2, 2, 2))
    made: list[weakref.ref[Tensor]] = []

    def watched(make: object) -> object:
        def call(*places: object) -> object:
            tables = make(*places)  # type: ignore[operator]
            made.extend(weakref.ref(table) for table in tables if isinstance(table, Tensor))
            return tables

        return call

    for name in ("_packing_tables", "_weight_tables"):
        monkeypatch.setattr(block, name, watched(getattr(block, name)))
    # Launches are only described: no kernel runs, every table is asked for.
    networks = []
    with described(90):
        for _ in range(18):
            weights = [torch.zeros(shape) for shape in size.parameters.values()]
            x, t, c = torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3)
            out, kept = block.denoise(size, "fp32", x, t, c, weights, True)
            block.gradients(size, "fp32", out, kept, weights)
            networks.append(weights)
    gc.collect()
    assert len(made) == 18 * 6
    assert all(table() is not None for table in made)


def test_tables_without_addresses_are_never_let_go() -> None:
    assert block._frequencies.cache_parameters()["maxsize"] is None
    assert gradients._layer_table.cache_parameters()["maxsize"] is None
