"""Which solver a network's posterior is had by."""

from typing import Any

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.linalg.blocks import byte_budget
from gp_response.solvers import CG, Cholesky, Dense
from gp_response.solvers.choice import FEW

SMALL = 4096  # parameters whose precision is factored in seconds
COPIES = 4  # of the gradients of all rows, which function space keeps


def chosen_solver(solver: Any, count: int, data: Dataset, several: bool) -> Any:
    """The solver asked for, or where none is: `Dense()` for few parameters, `Cholesky()` (function space) where the gradients
    of few rows fit into memory, else `CG()`.

    Raises:
        InputError: function space asked for several outputs, or something that is no solver.
    """
    if solver is not None:
        if several and isinstance(solver, Cholesky):
            raise InputError("Cholesky() is function space, of one output; for several take Dense(), CG() or Lanczos()")
        if isinstance(solver, type) or not hasattr(solver, "factor"):
            got = f"the class {solver.__name__}" if isinstance(solver, type) else f"a {type(solver).__name__}"
            raise InputError(f"laplace got {got} for a solver; expected Dense(), CG() or Lanczos()")
        return solver
    if count <= SMALL:
        return Dense()
    n = len(data.train)
    fits = COPIES * 8 * n * count <= byte_budget(None, data.train.x.device)
    return Cholesky() if not several and n <= FEW and fits else CG()


__all__ = ["chosen_solver"]
