"""Where a result came from: versions, commit, machine, peak memory."""

import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("gp_response", "torch", "gpytorch", "linear_operator", "numpy")


def versions() -> dict[str, str]:
    """Version of Python and of each package that shapes the numbers ("absent" where one is not installed)."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def commit(folder: Path | str) -> dict[str, str | bool | None]:
    """{"hash", "dirty"} of the git checkout that holds `folder`; both None outside of one.

    `paper/` does not count as dirt: results are written there, so every run after the first would be.
    """
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return {"hash": None, "dirty": None}
    return {"hash": head, "dirty": bool(_git(folder, "status", "--porcelain", "--", ":/", ":(top,exclude)paper"))}


def _git(folder: Path | str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, str | int]:
    """cpu, cores (this process may use), threads (torch uses), system; and gpu where there is CUDA."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    Linux keeps getrusage's figure across exec, so a small child of a large parent would report the parent's; VmHWM
    belongs to this program alone and is preferred where it exists.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory(pid: int | str | None = "self") -> int | None:
    """Resident memory of a process now, in bytes; None where there is no such process or the system does not say."""
    try:
        found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def reset_peak_memory() -> bool:
    """Let `peak_memory` begin again from what is resident now; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


__all__ = ["commit", "machine", "peak_memory", "reset_peak_memory", "resident_memory", "versions"]
