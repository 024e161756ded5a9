"""What every engine is: a way to have a number of workers running, and nothing else. All that matters is on disk."""

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gp_response.errors import InputError

ENDED = 128 + signal.SIGTERM  # exit status of a worker that was told to end, as shells have it
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Resources:
    """How many workers, and what each of them gets.

    Attributes:
        workers: None for as many as the cores (or GPUs, where asked for) of this machine hold.
        threads: of each worker; None shares the cores out.
        gpus: of each worker.
    """

    workers: int | None = None
    threads: int | None = None
    gpus: int = 0

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("threads", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} is {value!r}; it must be a whole number, at least {least}")

    def per_worker(self, workers: int) -> int:
        """Threads of one of so many workers."""
        return self.threads or max(1, cores() // workers)


class Crew(ABC):
    """Workers on one plan, for the time of a `with`; `count` of them at most."""

    count: int

    @abstractmethod
    def tend(self) -> None:
        """Start workers where some are missing; called again and again while there is work."""

    @abstractmethod
    def stop(self) -> None:
        """End every worker. Their claims go stale, nothing else is left of them."""

    def finish(self) -> None:
        """The work is done: end what would not end by itself."""
        self.stop()

    def note(self) -> str:
        """A few words on the workers, for the progress line."""
        return ""

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish() if kind is None else self.stop()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(plan: Path, *, parent: int | None = None) -> list[str]:
    """The command line of a worker; it ends with the process `parent` that starts it, where one is given."""
    tether = [] if parent is None else ["--parent", str(parent)]
    return [sys.executable, "-m", "gp_response.sweep.worker", str(plan), *tether]


def environment(threads: int, gpus: Sequence[str] | None = None) -> dict[str, str]:
    """Variables of a worker: its threads, its GPUs by number (None: those it is given from outside), where the package is."""
    package = str(Path(__file__).resolve().parents[3])
    own = dict.fromkeys(THREADS, str(threads))
    own["PYTHONPATH"] = os.pathsep.join(
        dict.fromkeys([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    ).strip(":")
    own["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # asking whether there is CUDA must not start it, or runs could not be forked
    )
    return own if gpus is None else {**own, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}


__all__ = ["ENDED", "Crew", "Resources", "command", "cores", "environment"]
