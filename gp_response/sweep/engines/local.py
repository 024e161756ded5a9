"""Workers as processes of this machine. One that is killed is started again; all end with the process that started them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import torch

from gp_response.errors import GPResponseError, InputError
from gp_response.sweep.engines.crew import ENDED, Crew, Resources, command, cores, environment

MOST_DEATHS = 3  # of one worker in a row, each soon after its start
LITTLE = 2**16  # bytes of free disk, by which a worker cannot work
GRACE = 5.0  # seconds for a worker to end by itself
SOON = 120.0  # seconds, in which a worker can import everything on a busy machine


class LocalCrew(Crew):
    """Processes, each with threads, and GPUs, of its own."""

    def __init__(self, plan: Path, resources: Resources, *, left: int):
        self.plan, self.gpus = plan, resources.gpus
        fitting = torch.cuda.device_count() // self.gpus if self.gpus else max(1, cores() // (resources.threads or 1))
        if self.gpus and not fitting:
            raise InputError(f"{self.gpus} GPUs a worker asked for, {torch.cuda.device_count()} found; ask for fewer")
        self.count = min(resources.workers or fitting, max(1, left), fitting if self.gpus else left or 1)
        self.threads = resources.per_worker(self.count)
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * self.count
        self.deaths, self.begun = [0] * self.count, [0.0] * self.count

    def tend(self) -> None:
        for place, worker in enumerate(self.workers):
            if worker is None or worker.poll() is not None:
                self._mind(place, worker)
                self.workers[place] = self._start(place)

    def _mind(self, place: int, worker: "subprocess.Popen[bytes] | None") -> None:
        """A worker that cannot even begin is an error of the set-up and not of a run."""
        if worker is None or worker.returncode in (0, -9, -15, ENDED):
            return
        soon = time.monotonic() - self.begun[place] < SOON
        self.deaths[place] = self.deaths[place] + 1 if soon else 1
        if self.deaths[place] >= MOST_DEATHS:
            if shutil.disk_usage(self.plan).free < LITTLE:  # the log has no end then
                raise GPResponseError(f"no space is left in {self.plan.parents[2]}; make some, and sweep again")
            end = (self._log(place).read_text(errors="replace").strip().splitlines() or [""])[-1]
            raise GPResponseError(
                f"a worker ended with status {worker.returncode} {MOST_DEATHS} times; its log ends: {end}"
            )

    def _start(self, place: int) -> "subprocess.Popen[bytes]":
        self.begun[place] = time.monotonic()
        gpus = [str(place * self.gpus + k) for k in range(self.gpus)] if self.gpus else None
        self._log(place).parent.mkdir(parents=True, exist_ok=True)
        with open(self._log(place), "ab") as log:
            return subprocess.Popen(
                command(self.plan, parent=os.getpid()), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **environment(self.threads, gpus)},
                start_new_session=True,  # Ctrl-C is for us alone; the workers are ended by `stop`
            )  # fmt: skip

    def _log(self, place: int) -> Path:
        return self.plan.parent.parent / "workers" / f"{self.plan.stem}-{place}.log"

    def stop(self) -> None:
        running = [worker for worker in self.workers if worker is not None and worker.poll() is None]
        for worker in running:
            worker.terminate()  # so that it ends what its run started, too
        for worker in running:
            try:
                worker.wait(GRACE)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def note(self) -> str:
        return f"{self.count} x {self.threads} threads"


__all__ = ["LocalCrew"]
