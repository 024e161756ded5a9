"""Solvers: explicit objects that hold the tolerances, and solutions that carry what was measured."""

from gp_response.solvers.choice import default_solver
from gp_response.solvers.deflated import DeflatedCG
from gp_response.solvers.dense import Dense
from gp_response.solvers.direct import Cholesky, FactoredCholesky
from gp_response.solvers.iterative import CG, FactoredCG
from gp_response.solvers.lanczos import FactoredLanczos, Lanczos
from gp_response.solvers.solution import Factor, Solution, Solver

__all__ = [
    "CG", "Cholesky", "DeflatedCG", "Dense", "Factor", "FactoredCG", "FactoredCholesky", "FactoredLanczos", "Lanczos", "Solution",
    "Solver", "default_solver",
]  # fmt: skip
