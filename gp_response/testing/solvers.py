"""The law of a solver: the residual it claims is the residual one measures, in every column."""

from typing import Any

import torch

from gp_response.linalg.extended import residual
from gp_response.solvers import Cholesky
from gp_response.testing.report import assert_close


def check_solver(
    solver: Any = None, *, n: int = 60, columns: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> None:
    """Solve well- and ill-conditioned systems and compare residual, value and flag with dense float64.

    Raises:
        AssertionError: naming the law, the condition number and the worst entries.
    """
    solver = Cholesky() if solver is None else solver
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    # Single precision has eight digits: beyond this spread nothing is left to compare.
    spreads = (0.0, 2.0, 6.0) if dtype == torch.float64 else (0.0, 2.0)
    for spread in spreads:
        eigenvalues = torch.logspace(0.0, spread, n, dtype=torch.float64)
        matrix = ((basis * eigenvalues) @ basis.T).to(dtype)
        matrix = 0.5 * (matrix + matrix.T)
        rhs = torch.randn(n, columns, generator=generator, dtype=torch.float64).to(dtype)
        solution = solver.solve(matrix, rhs)
        _check_one(solution, matrix, rhs, f"condition 1e{spread:.0f}, {dtype}")
        single = solver.solve(matrix, rhs[:, 0])
        if single.value.shape != (n,):
            raise AssertionError(f"a vector right-hand side gave a value of shape {tuple(single.value.shape)}")


def _check_one(solution: Any, matrix: torch.Tensor, rhs: torch.Tensor, where: str) -> None:
    exact = matrix.double(), rhs.double()
    measured = (exact[1] - exact[0] @ solution.value.double()).norm(dim=0) / exact[1].norm(dim=0)
    eps = torch.finfo(rhs.dtype).eps
    floor = float(100 * eps * torch.linalg.matrix_norm(exact[0]) * solution.value.double().norm(dim=0).max())
    gap = (solution.residual.double() - measured).abs()
    if bool((gap > floor + 0.5 * measured).any()):
        raise AssertionError(
            f"residual claimed = residual measured ({where}): {solution.residual.tolist()} against {measured.tolist()}"
        )
    if solution.converged.shape != rhs.shape[1:]:
        raise AssertionError(f"converged is one flag a column ({where}): got shape {tuple(solution.converged.shape)}")
    truth = torch.linalg.solve(*exact)
    for _ in range(3):  # the oracle needs more digits than one float64 solve has
        truth = truth + torch.linalg.solve(exact[0], residual(exact[1], exact[0], truth))
    defect = (exact[1] - exact[0] @ solution.value.double()).norm(dim=0)
    # What is measured here is itself a plain float64 sum.
    plain = (
        10 * torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(exact[0]) * solution.value.double().norm(dim=0)
    )
    if bool((defect > solution.defect.double() + plain).any()):
        raise AssertionError(
            f"defect bounds the residual ({where}): {solution.defect.tolist()} against {defect.tolist()}"
        )
    off = (solution.value.double() - truth).norm(dim=0)
    smallest = torch.linalg.eigvalsh(exact[0])[0]
    bound = solution.defect.double() / smallest
    assert_close(
        f"defect / smallest eigenvalue bounds the error ({where})",
        (off - bound).clamp_min(0.0),
        torch.zeros_like(off),
        tolerance=1e-14,
        scale=1.0,
    )


__all__ = ["check_solver"]
