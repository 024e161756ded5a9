"""Times of several ways to do a thing, comparable with each other."""

import time
from collections.abc import Callable
from typing import Any


def clocked(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each; in turn, so that what else the machine does falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}
