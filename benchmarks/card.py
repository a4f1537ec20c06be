"""How long something takes on a card by itself, and what a copy there moves."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["copy_speed", "seconds"]


def seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Of one run of `work`, by graph replay."""
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def copy_speed() -> float:
    """Bytes a second that a copy on the card reads and writes."""
    source = torch.empty(2**30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source))
