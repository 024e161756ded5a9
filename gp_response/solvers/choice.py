"""The solver where nobody names one."""

import torch

from gp_response.linalg.memory import fits_factor
from gp_response.solvers.direct import Cholesky
from gp_response.solvers.iterative import CG

FEW = 16_000  # rows up to which a factor is a matter of seconds, and gives everything after for little


def default_solver(n: int, device: torch.device) -> Cholesky | CG:
    """`Cholesky()` up to 16,000 rows where its factor fits into memory, `CG()` beyond."""
    return Cholesky() if n <= FEW and fits_factor(n, torch.float64, device) else CG()


__all__ = ["default_solver"]
