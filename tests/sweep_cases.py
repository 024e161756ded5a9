"""A small experiment whose runs leave tracks, a driver to kill, and the processes that a kill may hit."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRACKED = '''
"""Runs write down when they begin and end, and give numbers that any machine must give."""

import os
import time
from pathlib import Path

import torch

GRID = {"n": [0, 1]}
SMOKE = {}


def main(n: int = 0, seconds: float = 0.05, seed: int = 0) -> dict:
    tracks = os.open(Path(__file__).with_name("tracks"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(tracks, f"begin {n}\\n".encode())
    time.sleep(seconds)
    matrix = torch.randn(40, 40, dtype=torch.float64)
    os.write(tracks, f"end {n}\\n".encode())
    return {"number": float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1]) + n + seed, "process": os.getpid()}
'''


def tracked(folder, *, source=TRACKED):
    """The experiment's folder."""
    (folder / "tracked.py").write_text(textwrap.dedent(source).lstrip())
    return folder


def drive(folder, *words):
    """A driver in a process of its own, which can be killed."""
    words = ["sweep", "tracked", "--experiments", str(folder), "--results", str(folder / "results"), *words]
    with open(folder / "driver.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gp_response.cli", *words], stdout=log, stderr=log, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, preexec_fn=_hears_interrupts,
        )  # fmt: skip


def _hears_interrupts():
    """Tests that run in the background have interrupts ignored, and would pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def workers(folder):
    """Process numbers of every worker, and every run forked from one, of sweeps in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"gp_response.sweep.worker" in words and any(str(folder).encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds, *, what="the condition"):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} took more than {seconds} seconds"
        time.sleep(0.05)
    return found


def results_of(folder):
    return sorted((folder / "results").glob("tracked-*.json"))


def tracks(folder):
    """How often each run began and ended."""
    path = folder / "tracks"
    return Counter(path.read_text().splitlines() if path.exists() else [])
