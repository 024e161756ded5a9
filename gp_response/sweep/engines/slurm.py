"""Workers as the tasks of a SLURM array, submitted by submitit. The one file that knows submitit.

Jobs outlive the process that submitted them: they carry the plan's name, so the same sweep called again finds its own and submits
only what is missing. A job that SLURM requeues (its node died, or it was preempted) takes up the plan as any worker does.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError, InputError, MissingDependency
from gp_response.sweep.engines.crew import Crew, Resources, command, environment

GLANCE = 2.0  # seconds between looks at the queue, which every user shares
MOST_ARRAYS = 20
MINUTES = 24 * 60  # of a job, where no `time` is asked for; it is requeued at its end while there is work


class Shift:
    """A worker's time on a node; submitit's checkpoint (on preemption or timeout) sends the same shift again."""

    def __init__(self, plan: Path, threads: int):
        self.plan, self.threads = str(plan), threads

    def __call__(self) -> int:
        words = command(Path(self.plan), parent=os.getpid())
        return subprocess.run(words, env={**os.environ, **environment(self.threads)}, check=False).returncode

    def checkpoint(self) -> Any:
        return library().helpers.DelayedSubmission(self)


class SlurmCrew(Crew):
    """Jobs of one worker each.

    Args:
        options: of submitit's SlurmExecutor, such as `partition`, `time` (minutes), `mem`, `account`, `setup`.
    """

    def __init__(self, plan: Path, resources: Resources, *, left: int, options: Mapping[str, Any] | None = None):
        missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
        if missing:
            raise InputError(f"no {', '.join(missing)} here; --engine slurm needs the commands of SLURM")
        self.name, self.folder = f"gpr-{plan.stem}", plan.parent.parent / "slurm" / plan.stem
        threads = resources.threads or 1
        self.count = min(resources.workers or 2, max(1, left))
        self.shift, self.arrays, self.looked, self.seen = Shift(plan, threads), 0, -GLANCE, 0
        self.executor = library().SlurmExecutor(folder=str(self.folder / "%j"), max_num_timeout=1000)
        gpus = {"gpus_per_node": resources.gpus} if resources.gpus else {}
        asked = {
            "job_name": self.name, "cpus_per_task": threads, "ntasks_per_node": 1, "nodes": 1, "array_parallelism": 100_000,
            "time": MINUTES, "stderr_to_stdout": True, "additional_parameters": {"requeue": True}, **gpus, **dict(options or {}),
        }  # fmt: skip
        self.executor.update_parameters(**asked)

    def tend(self) -> None:
        if time.monotonic() - self.looked < GLANCE:
            return
        self.looked, self.seen = time.monotonic(), len(self._jobs())
        if self.seen < self.count:
            self._submit(self.count - self.seen)

    def _submit(self, count: int) -> None:
        self.arrays += 1
        if self.arrays > MOST_ARRAYS:
            raise GPResponseError(
                f"{MOST_ARRAYS} arrays of jobs ended before the work was done; see the logs in {self.folder}"
            )
        with self.executor.batch():
            for _ in range(count):
                self.executor.submit(self.shift)

    def _jobs(self) -> list[str]:
        """Array tasks of this plan that wait or run, whoever submitted them."""
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--name", self.name, "--format", "%A"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise GPResponseError(f"squeue failed: {done.stderr.strip()}")
        return done.stdout.split()

    def stop(self) -> None:
        subprocess.run(["scancel", "--quiet", "--name", self.name], check=False)

    def finish(self) -> None:
        """Jobs that wait are not needed any more; those that run see that all is done."""
        subprocess.run(["scancel", "--quiet", "--state", "PENDING", "--name", self.name], check=False)

    def note(self) -> str:
        return f"{self.seen} jobs"


def library() -> Any:
    """The package submitit. Raises MissingDependency where it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise MissingDependency(
            f'--engine slurm needs submitit ({error}): pip install "gp_response[cluster]"'
        ) from None
    return submitit


__all__ = ["Shift", "SlurmCrew"]
