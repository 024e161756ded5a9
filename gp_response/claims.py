"""Who works on what, among processes that share nothing but a folder: claims with a heartbeat, taken over when it stops.

The n-th claim on a name is the file `<name>.<n>`, and the highest n holds. A claim is made by linking a whole file to its name,
which succeeds for one process only (on NFS too), so a takeover is a race with one winner, and n is also the number of attempts.
A claim is stale when its process is seen to be dead (on the same machine), or when its heartbeat has stood still for a
lease by the watcher's own clock: clocks of different machines are never compared.

What is done must be recorded where every process sees it before its claim is released, and be looked for after a claim was taken.
"""

import contextlib
import json
import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

from gp_response.files import write_once

LEASE = 60.0  # seconds


class Claims:
    """Claims kept in `folder`, each good for `lease` seconds after its last heartbeat.

    Args:
        folder: shared by every process that takes part; made where it is missing.
        lease: seconds of silence after which a process counts as gone. Heartbeats should be several times as frequent.
    """

    def __init__(self, folder: Path | str, *, lease: float = LEASE):
        self.folder, self.lease = Path(folder), lease
        self._seen: dict[Path, tuple[int, float]] = {}

    def take(self, name: str) -> "Claim | None":
        """The claim on `name` if nobody holds one; the next one if whoever held it is gone; else None."""
        count = self.attempts(name)
        if count and not self._stale(self._path(name, count)):
            return None
        claim = Claim(self, name, count + 1)
        return claim if write_once(claim.path, json.dumps(_identity())) else None

    def attempts(self, name: str) -> int:
        """How many claims there have been on `name` since it was last released."""
        count = 0
        while self._path(name, count + 1).exists():
            count += 1
        return count

    def held(self, name: str) -> bool:
        """Whether somebody works on `name` now, as far as can be seen."""
        count = self.attempts(name)
        return count > 0 and not self._stale(self._path(name, count))

    def _path(self, name: str, count: int) -> Path:
        return self.folder / f"{name}.{count}"

    def _stale(self, path: Path) -> bool:
        try:
            beat = path.stat().st_mtime_ns
            owner = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # released, or renewed, just now
        if owner["machine"] == _machine() and _started(owner["pid"]) != owner["started"]:
            return True
        last, since = self._seen.get(path, (None, 0.0))
        if last != beat:
            self._seen[path] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > self.lease


class Claim:
    """One process's hold on `name`; `count` tells the how manyth attempt it is."""

    def __init__(self, claims: Claims, name: str, count: int):
        self.claims, self.name, self.count = claims, name, count
        self.path = claims._path(name, count)

    def beat(self) -> bool:
        """Show that the process lives; False where the claim is lost to another."""
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return self.held()

    def held(self) -> bool:
        return self.path.exists() and not self.claims._path(self.name, self.count + 1).exists()

    def again(self) -> "Claim | None":
        """The next attempt, in the same hands; None where another was quicker."""
        after = Claim(self.claims, self.name, self.count + 1)
        return after if write_once(after.path, json.dumps(_identity())) else None

    def release(self) -> None:
        """Let go of what is done. A claim lost to another is left as it is."""
        if self.held():
            for count in range(self.count, 0, -1):  # the first one last, lest a gap look like no claim at all
                self.claims._path(self.name, count).unlink(missing_ok=True)


def _identity() -> dict[str, Any]:
    return {"machine": _machine(), "host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid())}


@cache
def _machine() -> str:
    """One boot of one kernel and one space of process numbers; the host's name where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} unknown"


def _started(pid: int) -> str | None:
    """When a process of this machine began, so that a number used again is not taken for the process; None if it is gone."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else "unknown"
    return None if facts[0] in "ZX" else facts[19]


__all__ = ["LEASE", "Claim", "Claims"]
