"""Workers as tasks of a Ray cluster, or of one that Ray starts on this machine. The one file that knows Ray."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError, MissingDependency
from gp_response.sweep.engines.crew import Crew, Resources, command, environment

MOST_DEATHS = 50


class RayCrew(Crew):
    """Tasks of one worker each, spread over the nodes. Ray starts a task again elsewhere when its node is gone.

    Args:
        options: of `ray.init`, such as `address`; without an address, and none in RAY_ADDRESS, Ray is started here, and ended.
    """

    def __init__(self, plan: Path, resources: Resources, *, left: int, options: Mapping[str, Any] | None = None):
        self.ray, self.plan = library(), plan
        self.threads = resources.threads or 1
        self.own = not self.ray.is_initialized()
        if self.own:
            self.ray.init(
                **{
                    "include_dashboard": False,
                    "log_to_driver": False,
                    "configure_logging": False,
                    **dict(options or {}),
                }
            )
        fitting = int(self.ray.cluster_resources().get("CPU", 1)) // self.threads
        self.count = min(resources.workers or max(1, fitting), max(1, left))
        self.shift = self.ray.remote(_shift).options(
            num_cpus=self.threads, num_gpus=resources.gpus, max_retries=-1, scheduling_strategy="SPREAD"
        )
        self.tasks: list[Any] = []
        self.deaths = 0

    def tend(self) -> None:
        ended, _ = self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0) if self.tasks else ([], None)
        for task in ended:
            self._mind(task)
        self.tasks = [task for task in self.tasks if task not in ended]
        self.tasks += [self.shift.remote(str(self.plan), self.threads) for _ in range(self.count - len(self.tasks))]

    def _mind(self, task: Any) -> None:
        try:
            status, text = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            status, text = -9, str(error)
        self.deaths += status != 0
        if self.deaths > MOST_DEATHS:
            raise GPResponseError(
                f"workers ended {self.deaths} times before the work was done, at last with {status}: {text}"
            )

    def stop(self) -> None:
        for task in self.tasks:
            self.ray.cancel(task, force=True)  # the worker process dies with the task's
        if self.own:
            self.ray.shutdown()

    def note(self) -> str:
        return f"{len(self.tasks)} tasks"


def _shift(plan: str, threads: int) -> tuple[int, str]:
    """A worker's time on a node: its exit status, and the end of what it said."""
    done = subprocess.run(
        command(Path(plan), parent=os.getpid()),
        env={**os.environ, **environment(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr[-2000:]


def library() -> Any:
    """The package ray. Raises MissingDependency where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependency(f'--engine ray needs ray ({error}): pip install "gp_response[cluster]"') from None
    return ray


__all__ = ["RayCrew"]
