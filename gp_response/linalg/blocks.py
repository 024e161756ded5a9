"""Work cut into blocks that fit a budget of bytes."""

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.memory import free_bytes

SHARE = 0.25  # of what is free: others want some too, and temporaries are only estimated
UNKNOWN = 2**30  # where nobody says what is free


def byte_budget(budget: int | float | None, device: torch.device) -> int:
    """The bytes to use: `budget` itself, or a quarter of what is free on the device when None.

    Raises:
        InputError: not a positive number.
    """
    if budget is None:
        free = free_bytes(device)
        return UNKNOWN if free is None else max(1, int(SHARE * free))
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < float("inf"):
        raise InputError(f"budget={budget!r}; expected a positive number of bytes, such as 2e9, or None")
    return int(budget)


def block_size(each: int, budget: int, *, most: int) -> int:
    """How many items of `each` bytes fit the budget: at least one, at most `most`."""
    return max(1, min(most, budget // max(1, each)))


def point_bytes(rows: int, like: Tensor, *, columns: int = 0) -> int:
    """About the bytes that a point costs while it is looked from: its right-hand side and solution over all training
    rows with what refinement needs beside them, and its answers for `columns` columns with theirs."""
    return max(8, like.element_size()) * (8 * rows + 12 * columns)


__all__ = ["block_size", "byte_budget", "point_bytes"]
