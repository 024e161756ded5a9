"""What a driver sees: how runs are to be run, what is left, and how it ended."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tqdm

from gp_response.errors import brief
from gp_response.sweep.engines import Crew, Resources
from gp_response.sweep.plan import Limits, Plan

PAUSE = 0.1  # seconds between looks at the disk


@dataclass(frozen=True)
class How:
    """Where and within which limits runs run; see `Resources`, `Limits`, `engines`."""

    engine: str = "local"
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a sweep: the result files of its configurations in their order, and what is known of those that failed."""

    paths: list[Path]
    failures: list[dict[str, Any]]


def told(failure: Mapping[str, Any]) -> str:
    """A failure in one line, whatever its configuration and message hold."""
    return f"{brief(failure['config'], 400)}: {failure['error']}: {brief(failure['message'], 400)}"


def left_of(plan: Plan) -> list[str]:
    return [name for name in plan.names() if not plan.board.over(name)]


def outcome_of(plan: Plan) -> Outcome:
    names = plan.names()
    return Outcome([plan.board.result(n) for n in names if plan.board.done(n)], plan.board.failures(names))


class Bar:
    """Counts, failures and the time left, in one line; what was done before this call does not enter the rate."""

    def __init__(self, bar: Any):
        self.bar, self.drawn = bar, 0.0
        self.every = 1.0 if sys.stderr.isatty() else 60.0  # seconds; long runs must not look like a stand-still

    def show(self, plan: Plan, workers: Crew, left: list[str]) -> None:
        self.bar.total = len(plan.configs)
        failed = sum(plan.board.failure(name).exists() for name in plan.names())
        self.bar.set_postfix_str(f"{failed} failed, {workers.note()}", refresh=False)
        self.bar.update(len(plan.configs) - len(left) - self.bar.n)
        if time.monotonic() - self.drawn > self.every:
            self.drawn = time.monotonic()
            self.bar.refresh()


def pause(plan: Plan) -> None:
    """Between looks at the disk, whose number grows with the plan."""
    time.sleep(PAUSE + len(plan.configs) / 5000)


@contextmanager
def progress(plan: Plan) -> Iterator[Bar]:
    done = len(plan.configs) - len(left_of(plan))
    every = 0.1 if sys.stderr.isatty() else 60.0  # a file keeps every line
    with tqdm.tqdm(
        total=len(plan.configs), initial=done, desc=plan.experiment.stem, unit="run", mininterval=every
    ) as bar:
        yield Bar(bar)


__all__ = ["How", "Outcome", "left_of", "outcome_of", "pause", "progress", "told"]
