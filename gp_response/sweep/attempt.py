"""One attempt at a run, in a process forked for it from a worker that has everything imported already.

The process has its own peak memory, its own log, and dies with its worker. The worker meanwhile keeps the claim alive, and ends
the process where it exceeds a limit or the claim is lost. What the process started and left behind ends with it.
"""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_response.claims import Claim
from gp_response.experiment import Experiment
from gp_response.provenance import resident_memory
from gp_response.sweep.board import Board
from gp_response.sweep.plan import Limits
from gp_response.sweep.records import text_of
from gp_response.sweep.run import record_of

GLANCE = 0.1  # seconds between looks at a running process
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Task:
    """A claimed run."""

    experiment: Experiment
    config: dict[str, Any]
    board: Board
    limits: Limits
    claim: Claim

    @property
    def name(self) -> str:
        return self.claim.name

    def fail(
        self, error: str, message: str, trace: str = "", *, seconds: float = 0.0, attempts: int | None = None
    ) -> None:
        self.board.fail(
            self.name,
            {
                "experiment": self.experiment.name, "config": self.config, "error": error, "message": message,
                "traceback": trace, "attempts": self.claim.count if attempts is None else attempts, "seconds": seconds,
                "log": str(self.board.log(self.name)),
            },
        )  # fmt: skip


def attempt(task: Task, alive: Callable[[], bool]) -> None:
    """Run a task until it is over, its claim is lost, or (`alive` is False) its worker is to stop.

    A process that was killed by something else than us, such as the system for want of memory, is started again as
    often as the limits allow.
    """
    status: int | None = None
    while True:
        if (gone := task.claim.count - 1) >= task.limits.attempts:
            task.fail(*_lost(gone, status), attempts=gone)
        if task.board.over(task.name):
            return task.claim.release()
        status = _watch(task, alive)
        if task.board.over(task.name):
            return None
        after = task.claim.again() if alive() else None
        if after is None:
            return None
        task = Task(task.experiment, task.config, task.board, task.limits, after)


def _lost(times: int, status: int | None) -> tuple[str, str]:
    """Name and text of the end of a run whose processes ended so many times without a word, the last of them with `status`."""
    if status is not None and status >= 0:
        return (
            "Exit",
            f"its process ended {times} times without a result, at last with exit status {status}; see the log",
        )
    if status not in (None, -signal.SIGKILL):
        return "Killed", f"its process was killed {times} times, at last by {_signal_name(status)}; see the log"
    return "Killed", f"its process or worker was killed {times} times; memory may have run out, see the log"


def _signal_name(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _watch(task: Task, alive: Callable[[], bool]) -> int | None:
    """One process, from its start to its end; its exit status, negative where a signal ended it."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(task, os.getpid()))
    started = time.monotonic()
    beat = started
    process.start()
    try:
        while process.is_alive():
            process.join(GLANCE)
            now = time.monotonic()
            if excess := _excess(task.limits, now - started, process.pid):
                process.kill()
                process.join()
                if not task.board.done(task.name):  # it may have come to its end just before
                    task.fail(*excess, seconds=now - started)
            elif now - beat > task.limits.lease / 6:
                beat = now
                if not task.claim.beat():
                    process.kill()
            if not alive():
                process.kill()
    finally:  # also where the worker is told to end, as it is when the last result is there
        _end_group(process.pid)
        process.join()
        if task.board.over(task.name):
            task.claim.release()
    return process.exitcode


def _end_group(leader: int | None) -> None:
    """End a run's process and all that it started, sessions of their own (daemons) aside."""
    if leader:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def _excess(limits: Limits, seconds: float, pid: int | None) -> tuple[str, str] | None:
    """Name and text of the limit that a process exceeds."""
    if limits.seconds is not None and seconds > limits.seconds:
        return "TimeLimit", f"took more than {limits.seconds:g} seconds"
    if limits.memory is not None and (used := resident_memory(pid) or 0) > limits.memory:
        return "MemoryLimit", f"used {used / 2**30:.2f} GiB, more than {limits.memory / 2**30:.2f} GiB"
    return None


def _run(task: Task, parent: int) -> None:
    """In the forked process: run, make the outcome known, and end, whatever threads the experiment left running."""
    os.setpgid(0, 0)  # a group of its own, with all that it starts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with(parent)
    status = 1
    try:
        _log_to(task.board.log(task.name), task.claim.count)
        _answer(task)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _answer(task: Task) -> None:
    started = time.monotonic()
    try:
        text = text_of(record_of(task.experiment, task.config))
        if task.claim.held() and not task.board.publish(task.name, text):
            print("another worker was quicker; this result is dropped", file=sys.stderr)
    except BaseException as error:  # SystemExit too: whatever ends an experiment without a result is its failure
        trace = traceback.format_exc()
        print(trace, file=sys.stderr)
        task.fail(type(error).__name__, str(error), trace, seconds=time.monotonic() - started)


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process sent a signal when the process `parent`, which started it, ends (Linux; elsewhere it runs on)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(1)


def _log_to(path: Path, count: int) -> None:
    """Everything that this process and what it calls print goes to its log from here on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    # Whatever the locale, no text that a run prints may end it.
    sys.stdout, sys.stderr = (
        os.fdopen(stream, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")
        for stream in (1, 2)
    )
    faulthandler.enable()  # where a crash in compiled code happened
    print(f"== attempt {count}, process {os.getpid()} on {os.uname().nodename}", file=sys.stderr)


__all__ = ["Task", "attempt", "die_with"]
