"""Work of a CUDA device recorded once as a graph, and its time without what Python takes to launch it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class Recording:
    """`run` recorded; a call replays it and returns what `run` returned then, whose tensors each replay writes anew."""

    def __init__(self, run: Callable[[], Any], warmups: int = 3) -> None:
        # Held, because the graph reads the tensors that it closes over.
        self.run = run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmups):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.made = run()

    def __call__(self) -> Any:
        self.graph.replay()
        return self.made


def clock() -> float:
    """Seconds, after waiting for the device: pytest-benchmark's timer for whatever runs there."""
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run: Callable[[], object], rounds: int = 15, least: float = 4e-3) -> list[float]:
    """Seconds of a call by the device's own events, one for each round of as many calls as take `least` seconds.

    Calls of a round follow one another without a wait, so that of a recording the device's time alone is counted.
    """
    for _ in range(2):
        run()
    calls = _calls(_round(run, 1), least)
    return [_round(run, calls) / calls for _ in range(rounds)]


def timed(benchmark: Any, run: Callable[[], object], rounds: int = 15, least: float = 4e-3) -> None:
    """The same by pytest-benchmark, whose test has to be marked `benchmark(timer=recorded.clock)`."""
    for _ in range(2):
        run()
    calls = _calls(_round(run, 1), least)
    benchmark.extra_info["calls_a_round"] = calls
    benchmark.pedantic(run, rounds=rounds, iterations=calls)


def _calls(once: float, least: float) -> int:
    return max(1, min(200, round(least / max(once, 1e-7))))


def _round(run: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3
