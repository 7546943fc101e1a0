"""Interleaved timing of ours and its peers, in one process, so that a busy moment slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ledger import quantiles

Way = Callable[[], object]


def interleaved(benchmark: Any, ours: Way, peers: dict[str, Way], *, rounds: int, group: str, **facts: Any) -> None:
    """Time `ours` with every peer before each of its rounds; all were checked by the caller.

    `extra_info["peers"]` has, by peer, quantiles of its seconds and of how many times faster ours was than the peer's
    run before it.
    """
    taken: dict[str, list[float]] = {name: [] for name in peers}
    own: list[float] = []

    def clocked(run: Way, into: list[float]) -> None:
        began = time.perf_counter()
        run()
        into.append(time.perf_counter() - began)

    def before() -> None:
        for name, run in peers.items():
            clocked(run, taken[name])

    for run in (*peers.values(), ours):
        run()
    benchmark.group = group
    benchmark.pedantic(lambda: clocked(ours, own), setup=before, rounds=rounds, iterations=1)
    if benchmark.disabled:
        return
    found = {}
    for name, seconds in taken.items():
        ratios = np.array(seconds) / np.array(own)
        found[name] = {"seconds": quantiles(seconds), "times_faster": quantiles(ratios)}
    benchmark.extra_info.update(peers=found, **facts)
