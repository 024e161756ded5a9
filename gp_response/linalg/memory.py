"""Refusing what does not fit before it is begun: a process that the system kills says nothing."""

import torch

from gp_response.errors import SolverError

MATRICES = 1.15  # the matrix that becomes its factor, and what passes by


def require_memory_for_factor(n: int, dtype: torch.dtype, device: torch.device, *, copies: int = 1) -> None:
    """Raise SolverError when a dense n x n matrix and its Cholesky factor do not fit into the memory that is free.

    copies: of the matrix that are there at once while it is made and kept.
    """
    need, have = copies * _need(n, dtype), free_bytes(device)
    if have is not None and need > have:
        raise SolverError(
            f"a Cholesky factor of {n} rows needs {need / 2**30:.1f} GiB and {have / 2**30:.1f} GiB are free; "
            "use solver=CG(), fewer rows or float32"
        )


def fits_factor(n: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a dense n x n factor fits into the memory that is free."""
    have = free_bytes(device)
    return have is None or _need(n, dtype) <= have


def _need(n: int, dtype: torch.dtype) -> float:
    return MATRICES * n * n * torch.finfo(dtype).bits / 8


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had, None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as facts:
            found = next(line for line in facts if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) * 1024


__all__ = ["fits_factor", "free_bytes", "require_memory_for_factor"]
