"""Which backend multiplies, and why."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALL = 2**18  # entries up to which a matrix is one block anyway
FINE = (torch.float32, torch.float64)


class Choice(NamedTuple):
    """The name of a backend, and the reason for it in a few words."""

    backend: str
    reason: str


def choose(kernel: Any, x: Tensor, y: Tensor) -> Choice:
    """The backend for K(x, y) times any number of columns, on the device and in the dtype of the points.

    "blocked" wherever it applies: it holds no more than a block, and compiles nothing. KeOps, which is far slower on
    CPUs (`experiments/kernel_products.py`), is taken only where it is asked for.
    """
    entries, where = x.shape[-2] * y.shape[-2], f"D = {x.shape[-1]}, {_short(x.dtype)} on {x.device.type}"
    if x.dim() > 2 or y.dim() > 2 or len(kernel.batch_shape):
        return Choice("dense", f"a batch of matrices; {where}")
    if x.dtype not in FINE:
        return Choice("dense", f"no fast blocks in this dtype; {where}")
    if entries <= SMALL:
        return Choice("dense", f"{x.shape[-2]} x {y.shape[-2]} entries are one block; {where}")
    return Choice("blocked", f"{x.shape[-2]} x {y.shape[-2]} entries by blocks in cache, none stored; {where}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["Choice", "choose"]
