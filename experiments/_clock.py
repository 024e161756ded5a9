"""Times of several ways to do a thing, comparable with each other."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def timed(
    ways: dict[str, Callable[[], Any]], repeats: int, *, device: str = "cpu", warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way; run in turn, so that what else the machine does falls on all alike.

    warm: first rounds that are not counted, in which what is kept is filled and what is compiled on first use compiled.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm + repeats):
        for name, run in ways.items():
            synchronise(device)
            started = time.perf_counter()
            run()
            synchronise(device)
            if turn >= warm:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def clocked(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each way."""
    return {name: median(taken) for name, taken in timed(ways, repeats, warm=0).items()}


def synchronise(device: str) -> None:
    """Wait for what a GPU has not done yet."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
