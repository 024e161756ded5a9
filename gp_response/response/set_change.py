"""What a change of site precisions at a set of sites does to points: one symmetric factor a set, with error bounds.

For changes `δ` of the precisions at sites J and `R = |δ|^½`, `D = sign δ`, `T = R S_JJ R`, Woodbury's inverse is symmetric:

    (I + δ S_JJ)⁻¹ δ = R K⁻¹ R,    K = D + T.

Where all δ are positive K is `I + T`, where all are negative `-(I - T)`, both of one Cholesky factor, whose existence is the
condition that the changed precisions leave a Gaussian field. With both signs the condition is that K has as many negative
eigenvalues as D: eliminate the positive sites first, and `I + T_PP` is always definite.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.inverse_diagonal import FACTOR, SAMPLES
from gp_response.linalg.system import ROUNDING
from gp_response.linalg.triangular import inverse_column_squares
from gp_response.posterior import Certified

EPS = torch.finfo(torch.float64).eps
POWER = 4


class Change(NamedTuple):
    """Changes of means and variances at p points, (p,) each."""

    mean: Certified
    variance: Certified


def change_of_set(seen: Certified, block: Certified, delta: Tensor, force: Certified) -> Change:
    """The exact change of a field for changed sites.

    Args:
        seen: covariance of the points with the sites, (p, s).
        block: covariance of the sites, (s, s).
        delta: change of the sites' precisions, (s,).
        force: finite force on each site at the unchanged mean, (s,), in the same unit: β counted in both.

    Raises:
        SolverError: the changed precisions leave no Gaussian field.
    """
    still = delta == 0
    apart = _applied(_take(seen, still), _take(force, still))
    at = torch.nonzero(delta).flatten()
    if not len(at):
        return Change(apart, Certified(*(torch.zeros_like(part) for part in apart)))
    root, sign = delta[at].abs().sqrt(), delta[at].sign()
    rows = Certified(*(part[at] for part in block))
    lost = _applied(_take(rows, still), _take(force, still))
    system = _system(_take(rows, at), root, sign)
    reach = Certified(*((part * root).T for part in _take(seen, at)))
    reach = Certified(reach.value, reach.error + 2.0 * EPS * reach.value.abs())
    moved, variance = _quadratic(system, reach, _right(_take(force, at), lost, root, sign))
    return Change(Certified(apart.value + moved.value, apart.error + moved.error), variance)


class Removed(NamedTuple):
    """By which s sites leave the covariance `S - SMS`: `M = (I + δS)⁻¹δ = R K⁻¹ R` (s, s), `log det(I + δS)`, 0-dim, R (s,), and a
    bound on `‖K⁻¹‖` for every S within its error bounds, infinite where those are too wide to know."""

    value: Tensor
    logdet: Tensor
    root: Tensor
    norm: float


def removed(block: Certified, delta: Tensor) -> Removed:
    """For sites of covariance `block` (s, s) and changes of their precisions `delta` (s,).

    Raises:
        SolverError: the changed precisions leave no Gaussian field.
    """
    lost, at = torch.zeros_like(block.value), torch.nonzero(delta).flatten()
    if not len(at):
        return Removed(lost, delta.new_zeros(()), torch.zeros_like(delta), 0.0)
    root, sign = delta[at].abs().sqrt(), delta[at].sign()
    system = _system(Certified(*(part[at][:, at] for part in block)), root, sign)
    inverse = system.inverse
    lost[at[:, None], at] = root[:, None] * inverse.solve(torch.diag(root))
    if inverse.values is None:
        logdet = 2.0 * inverse.left.diagonal().log().sum()
    else:
        logdet = inverse.values.abs().log().sum()
    return Removed(lost, logdet, delta.abs().sqrt(), system.norm)


class _System(NamedTuple):
    """K (s, s), bounds on the errors of its entries, and its inverse."""

    value: Tensor
    error: Tensor
    inverse: "_Inverse"

    @property
    def norm(self) -> float:
        """A bound on `‖K⁻¹‖` whatever the entries are within their errors; infinite where those may make K singular."""
        wide = min(float(self.error.sum(dim=0).max()), float(torch.linalg.matrix_norm(self.error)))
        loose = 1.0 - self.inverse.norm * wide
        return self.inverse.norm / loose if loose > 0.5 else float("inf")


class _Inverse(NamedTuple):
    """A Cholesky factor of K or -K, or eigenvectors and eigenvalues of K; and a bound on `‖K⁻¹‖`."""

    sign: float
    left: Tensor
    values: Tensor | None
    norm: float

    def solve(self, rhs: Tensor) -> Tensor:
        if self.values is None:
            return self.sign * torch.cholesky_solve(rhs, self.left)
        return self.left @ ((self.left.T @ rhs) / self.values[:, None])


def _take(part: Certified, where: Tensor) -> Certified:
    return Certified(part.value[..., where], part.error[..., where])


def _applied(seen: Certified, force: Certified) -> Certified:
    """`S g`, with what S, g and the sum may be off by."""
    (cov, cov_error), (g, g_error) = seen, force
    size = (cov_error + ROUNDING * EPS * cov.abs()) @ g.abs()
    return Certified(cov @ g, size + (cov.abs() + cov_error) @ g_error)


def _system(block: Certified, root: Tensor, sign: Tensor) -> _System:
    value = 0.5 * (block.value + block.value.T) * root[:, None] * root
    error = torch.maximum(block.error, block.error.T) * root[:, None] * root + 4.0 * EPS * value.abs()
    value.diagonal().add_(sign)
    error.diagonal().add_(EPS)
    return _System(value, error, _inverse(value, sign))


def _inverse(system: Tensor, sign: Tensor) -> _Inverse:
    if bool((sign == sign[0]).all()):
        lower, info = torch.linalg.cholesky_ex(sign[0] * system)
        if bool(info):
            raise _refusal(float(torch.linalg.eigvalsh(sign[0] * system)[0]))
        norm = 1.0 if float(sign[0]) > 0 else _norm_of_inverse(lower)  # I + T is at least one
        return _Inverse(float(sign[0]), lower, None, norm)
    values, vectors = torch.linalg.eigh(system)
    if int((values < 0).sum()) != int((sign < 0).sum()) or bool((values == 0).any()):
        raise _refusal(-float(values.abs().min()))
    return _Inverse(1.0, vectors, values, 1.1 / float(values.abs().min()))


def _norm_of_inverse(lower: Tensor) -> float:
    """A bound on `‖(L Lᵀ)⁻¹‖`: the trace, or by powers `‖A‖ <= ‖Aᵏ‖_F^{1/k}` measured on random vectors, up to chance 1e-11."""
    trace = 1.1 * float(inverse_column_squares(lower).sum())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(len(lower), SAMPLES, generator=generator, dtype=torch.float64).to(lower.device)
    for _ in range(POWER):
        z = torch.cholesky_solve(z, lower)
    return min(trace, 1.1 * (FACTOR * float(z.square().sum().div(SAMPLES).sqrt())) ** (1.0 / POWER))


def _refusal(lowest: float) -> SolverError:
    return SolverError(
        f"the change takes away more precision than the data hold (a set's smallest eigenvalue of 1 + ΔS is {lowest:.3g}); "
        "use a smaller amplitude h, or, where Lanczos() only brackets these covariances, CG() or a higher rank"
    )


def _right(force: Certified, lost: Certified, root: Tensor, sign: Tensor) -> Certified:
    """`D R⁻¹ (g - δ S_JZ g_Z)`, with `lost` what the sites Z whose precisions stay move the means of the others by."""
    value = sign * force.value / root - root * lost.value
    size = force.value.abs() / root + root * lost.value.abs()
    return Certified(value, force.error / root + root * lost.error + 4.0 * EPS * size)


def _quadratic(system: _System, reach: Certified, right: Certified) -> Change:
    """`CᵀK⁻¹b` and `-diag CᵀK⁻¹C` for C (s, p) and b (s,), each corrected by the residual of the one solve.

    With z = K⁻¹b and w = K⁻¹c, errors δ of the inputs move them by `wᵀδb + δcᵀz - wᵀδK z` and by no more than
    `‖δc - δK w‖ ‖(K + δK)⁻¹‖ ‖δb - δK z‖` beyond that.
    """
    both = torch.cat([reach.value, right.value[:, None]], dim=1)
    solved, left, rounding = _solve(system, both)
    beyond = system.norm
    # What the inputs may move each right-hand side by at its solution, (s, p + 1).
    off = torch.cat([reach.error, right.error[:, None]], dim=1) + system.error @ solved.abs()
    rest = off.norm(dim=0) + left.norm(dim=0) + rounding
    (w, z), (w_rest, z_rest) = ((part[..., :-1], part[..., -1]) for part in (solved, rest))
    mean = reach.value.T @ z + w.T @ left[:, -1]
    size = reach.value.abs().T @ z.abs()
    mean_error = w.abs().T @ off[:, -1] + reach.error.T @ z.abs() + ROUNDING * EPS * size + w.norm(dim=0) * rounding[-1]
    drop = (reach.value * w + w * left[:, :-1]).sum(dim=0)
    size = (reach.value.abs() * w.abs()).sum(dim=0)
    drop_error = (
        (w.abs() * (off[:, :-1] + reach.error)).sum(dim=0) + ROUNDING * EPS * size + w.norm(dim=0) * rounding[:-1]
    )
    return Change(
        Certified(mean, mean_error + w_rest * beyond * z_rest),
        Certified(-drop, drop_error + w_rest * beyond * w_rest),
    )


def _solve(system: _System, rhs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`K⁻¹ rhs` refined once, its residual, and what rounding may move the residual by, per column."""
    value = system.inverse.solve(rhs)
    value = value + system.inverse.solve(rhs - system.value @ value)
    left = rhs - system.value @ value
    rounding = (ROUNDING + len(rhs) ** 0.5) * EPS
    size = torch.linalg.matrix_norm(system.value) * value.norm(dim=0) + rhs.norm(dim=0)
    return value, left, rounding * size


__all__ = ["Change", "Removed", "change_of_set", "removed"]
