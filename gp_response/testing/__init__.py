"""The laws of every noun, as functions that raise AssertionError with the failing values in the message."""

from gp_response.testing.curvature import check_curvature
from gp_response.testing.kernels import check_kernel
from gp_response.testing.posteriors import check_head, check_posterior, example_data
from gp_response.testing.responses import check_leave_one_out, check_observable, check_perturbation, example_head
from gp_response.testing.solvers import check_solver

__all__ = [
    "check_curvature",
    "check_head",
    "check_kernel",
    "check_leave_one_out",
    "check_observable",
    "check_perturbation",
    "check_posterior",
    "check_solver",
    "example_data",
    "example_head",
]
