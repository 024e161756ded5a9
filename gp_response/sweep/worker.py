"""A worker: takes one run of a plan after another until all are over. Engines differ only in where they start it.

    python -m gp_response.sweep.worker PLAN [--parent PID]

It prints one JSON line for each run that it took. Everything is imported once; runs are forked from it.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gp_response.claims import Claims
from gp_response.errors import InputError
from gp_response.experiment import Experiment, read_experiment
from gp_response.sweep.attempt import Task, attempt, die_with
from gp_response.sweep.engines.crew import ENDED
from gp_response.sweep.plan import Plan

PAUSE = 0.25  # seconds between looks for work
PATIENCE = 600.0  # seconds that a worker waits for a growing plan to grow


def work(path: Path, alive: Callable[[], bool] = lambda: True) -> None:
    """Take runs of the plan at `path` until all are over (and no more will come), or `alive` says to stop."""
    plan = Plan.read(path)
    experiment, claims = read_experiment(plan.experiment), plan.board.claims()
    if torch.cuda.is_initialized():
        raise InputError(
            f"{plan.experiment} uses CUDA while it is imported, and then no run can be forked; use it in main only"
        )
    idle = time.monotonic()
    while alive():
        plan = Plan.read(path)
        for task in _tasks(plan, experiment, claims):
            attempt(task, alive)
            _say(task)
            idle = time.monotonic()
            if not alive():
                return
        over = all(plan.board.over(name) for name in plan.names())
        if over and (not plan.growing or time.monotonic() - idle > PATIENCE):
            return
        time.sleep(PAUSE)


def _tasks(plan: Plan, experiment: Experiment, claims: Claims) -> Iterator[Task]:
    """Runs that this worker has just claimed, each tried once in a pass over the plan."""
    for name, config in zip(plan.names(), plan.configs, strict=True):
        if not plan.board.over(name) and (claim := claims.take(name)):
            # Another may have finished it between the look and the claim: `attempt` looks again.
            yield Task(experiment, config, plan.board, plan.limits, claim)


def _say(task: Task) -> None:
    state = "done" if task.board.done(task.name) else "failed" if task.board.over(task.name) else "left"
    print(json.dumps({"run": task.name, "state": state, "attempt": task.claim.count}), flush=True)


def _begin(arguments: argparse.Namespace) -> None:
    for name in ("SIGUSR1", "SIGUSR2"):  # SLURM's warnings, which go to every process of a step, are for submitit
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ended)
    if arguments.parent:
        die_with(arguments.parent, signal.SIGTERM)
    work(arguments.plan, lambda: not arguments.parent or os.getppid() == arguments.parent)


def _ended(*_: object) -> None:
    """On SIGTERM: leave, and on the way end the run at hand and what it started."""
    sys.exit(ENDED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take runs of a plan until all are over.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="stop when this process, which started the worker, ends")
    _begin(parser.parse_args())
    sys.exit(0)


__all__ = ["work"]
