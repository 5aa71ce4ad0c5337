"""Time of one launch with a cold L2 cache: a CUDA graph that goes round several input sets."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

COLD_BYTES = 256_000_000
MAX_SETS = 48
_REPLAYS = 7
_MIN_GRAPH_US = 2000.0


def time_launches_us(launches: Sequence[Callable[[], Any]], rest_s: float = 0.0) -> float:
    """Median microseconds of one launch.

    Args:
        launches: one per input set, in the order of rotation; each enqueues one kernel on torch's current stream.
        rest_s: how long the chip idles before it is timed, so that kernels that are compared meet the power limit,
            which averages over tens of milliseconds, in the same state.
    """
    import torch

    for launch in launches:
        launch()
    torch.cuda.synchronize()
    graph = _capture(launches, 1)
    graph.replay()
    rounds = max(1, math.ceil(_MIN_GRAPH_US / max(_replay_us(graph), 1e-3)))
    graph = _capture(launches, rounds)
    if rest_s:
        torch.cuda.synchronize()
        time.sleep(rest_s)
    graph.replay()
    return statistics.median(_replay_us(graph) for _ in range(_REPLAYS)) / (rounds * len(launches))


def _capture(launches: Sequence[Callable[[], Any]], rounds: int) -> Any:
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for launch in launches:
                launch()
    return graph


def _replay_us(graph: Any) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000.0
