"""Which observations drive a recommendation: response of the best point's value and of its place to every weight."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor

from gp_response.acquisition.field import Field, field_of
from gp_response.errors import InputError, SolverError
from gp_response.posterior import Posterior
from gp_response.response import Susceptibility, relabel, reweight, susceptibility, value

STARTS = 16  # of the search for the maximiser: the best training points by the posterior mean
NEWTON_STEPS = 20


@dataclass(frozen=True)
class Drivers:
    """The recommended point x* = argmax of the posterior mean, and its responses to n observations' weights (or labels).

    Attributes:
        x: (d,), in the units of `data.train.x`.
        mean: the posterior mean there.
        value: `d⟨f(x*)⟩/dh_i`, (1, n), certified. By the envelope theorem also the derivative of the maximum itself.
        place: `dx*/dh_i`, (d, n): `-H⁻¹ d∇⟨f⟩/dh_i`, with H the Hessian of the mean at x*; zero for columns at a bound.
        free: bool (d,), the columns of x* that no bound holds.
        names: of the columns of x.
    """

    x: Tensor
    mean: float
    value: Susceptibility
    place: Tensor
    free: Tensor
    names: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row an observation: its name, `value`, `place <column>` for each column, `distance` = |dx*/dh|."""
        columns = {f"place {name}": self.place[j].cpu().numpy() for j, name in enumerate(self.names)}
        return pd.DataFrame(
            {"observation": self.value.columns, "value": self.value.matrix[0].cpu().numpy()}
            | columns | {"distance": self.place.norm(dim=0).cpu().numpy()}
        )  # fmt: skip

    def top(self, k: int = 5, *, by: str = "distance") -> pd.DataFrame:
        """The k observations that move the recommendation most, by "distance" (the place) or "value"."""
        if by not in ("distance", "value"):
            raise InputError(f"top(by={by!r}): expected 'distance' or 'value'")
        frame = self.to_frame()
        return frame.loc[frame[by].abs().sort_values(ascending=False, kind="stable").index[:k]].reset_index(drop=True)


def drivers(
    posterior: Posterior, bounds: Any, *, x: Any = None, maximise: bool = True, labels: bool = False
) -> Drivers:
    """What moves the maximiser of the posterior mean within a box, to first order, at fixed hyperparameters.

    Args:
        bounds: (2, d), lowest and highest point, as BoTorch has them, in the units of `data.train.x`.
        x: (d,), from which to climb; None climbs from the best observed points and takes the highest end.
        maximise: False for minimisation.
        labels: respond to labels (`relabel`) instead of weights (`reweight`).

    Raises:
        InputError: bounds that are no box, a point outside.
        SolverError: the mean has no curvature at its maximiser, which then has no derivative.
    """
    field, perturbation = field_of(posterior), relabel() if labels else reweight()
    box = _box(posterior, bounds)
    sign = 1.0 if maximise else -1.0
    best = _climb(field, box, _starts(posterior, field, box, x, sign), sign)
    gradient, hessian = _slopes(field, best, sign)
    free = ~(((best <= box[0]) & (gradient < 0)) | ((best >= box[1]) & (gradient > 0)))
    chi = susceptibility(posterior, value(best[None]), perturbation)
    assert isinstance(chi, Susceptibility)
    like = posterior.data.train.x
    with torch.no_grad():
        energy = perturbation.energy(posterior.data.to(dtype=torch.float64), posterior.noise)
        force = energy.curvature * posterior.residuals.value + energy.pull
    across = posterior.beta * _jacobian(field, best) * force  # d∇⟨f⟩/dh, (d, n)
    place = torch.zeros_like(across)
    if bool(free.any()):
        place[free] = _solve(sign * hessian[free][:, free], sign * across[free])
    return Drivers(
        best.to(like), float(field.mean(best[None])), chi, place.to(like), free, posterior.data.names,
    )  # fmt: skip


def _box(posterior: Posterior, bounds: Any) -> Tensor:
    box = torch.as_tensor(bounds, dtype=torch.float64, device=posterior.data.train.x.device)
    if box.shape != (2, posterior.data.dim) or not bool((box[0] < box[1]).all()):
        raise InputError(
            f"bounds of shape {tuple(box.shape)}; expected (2, {posterior.data.dim}), lowest before highest"
        )
    return box


def _starts(posterior: Posterior, field: Field, box: Tensor, x: Any, sign: float) -> Tensor:
    if x is not None:
        start = posterior.points(torch.as_tensor(x).reshape(1, -1)).double()
        if bool(((start < box[0]) | (start > box[1])).any()):
            raise InputError(f"x = {start[0].tolist()} is outside the bounds")
        return start
    inside = field.x[((field.x >= box[0]) & (field.x <= box[1])).all(dim=1)]
    inside = torch.cat([inside, 0.5 * box.sum(dim=0, keepdim=True)])
    with torch.no_grad():
        order = (sign * field.mean(inside)).argsort(descending=True)
    return inside[order[:STARTS]]


def _climb(field: Field, box: Tensor, starts: Tensor, sign: float) -> Tensor:
    """L-BFGS-B from each start, in units of the box; the highest end, sharpened by Newton's method."""
    width = box[1] - box[0]

    def fall(at: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.from_numpy(at).to(box).requires_grad_()
        loss = -sign * _mean(field, box[0] + width * u)
        (slope,) = torch.autograd.grad(loss, u)
        return float(loss.detach()), slope.cpu().numpy()

    inside = [(0.0, 1.0)] * len(width)
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500}
    ends = [
        minimize(
            fall, ((s - box[0]) / width).cpu().numpy(), jac=True, method="L-BFGS-B", bounds=inside, options=options
        )
        for s in starts
    ]
    u = torch.from_numpy(min(ends, key=lambda end: end.fun).x).to(box)
    return _newton(field, box, torch.where(u <= 0, box[0], torch.where(u >= 1, box[1], box[0] + width * u)), sign)


def _newton(field: Field, box: Tensor, x: Tensor, sign: float) -> Tensor:
    for _ in range(NEWTON_STEPS):
        gradient, hessian = _slopes(field, x, sign)
        free = (x > box[0]) & (x < box[1])
        if not bool(free.any()):
            return x
        curvature = sign * hessian[free][:, free]
        if float(torch.linalg.eigvalsh(curvature)[-1]) >= 0.0:
            return x
        step = torch.zeros_like(x)
        step[free] = -torch.linalg.solve(curvature, gradient[free])
        if float((step.abs() / (box[1] - box[0])).max()) > 1e-2:
            return x  # not near enough for Newton's method
        x = torch.minimum(torch.maximum(x + step, box[0]), box[1])
        if float((step.abs() / (box[1] - box[0])).max()) < 1e-14:
            return x
    return x


def _slopes(field: Field, x: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """Gradient of `sign * mean`, and Hessian of the mean, at x (d,)."""
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_mean(field, at), at, create_graph=True)
        rows = [torch.autograd.grad(g, at, retain_graph=True)[0] for g in gradient]
    hessian = torch.stack(rows)
    return sign * gradient.detach(), 0.5 * (hessian + hessian.T)


def _mean(field: Field, x: Tensor) -> Tensor:
    """At one point (d,), with second derivatives also where they are zero."""
    return field.mean(x[None])[0] + 0.0 * x.square().sum()


def _jacobian(field: Field, x: Tensor) -> Tensor:
    """`∇_x S(x, x_i)` for every training row, (d, n), by one derivative of `∇_x Σ_i v_i S(x, x_i)` by v."""
    with torch.enable_grad():
        v = torch.zeros(len(field.x), dtype=x.dtype, device=x.device, requires_grad=True)
        at = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_summed(field, at, v), at, create_graph=True)
        rows = [torch.autograd.grad(g, v, retain_graph=True)[0] for g in gradient]
    return torch.stack(rows)


def _summed(field: Field, x: Tensor, v: Tensor) -> Tensor:
    """`Σ_i v_i S(x, x_i)`, with derivatives also where they are zero."""
    return (field.to_train(x[None])[0] * v).sum() + 0.0 * x.square().sum() * v.sum()


def _solve(hessian: Tensor, across: Tensor) -> Tensor:
    """`-H⁻¹ across` at a maximum."""
    values = torch.linalg.eigvalsh(hessian)
    if float(values[-1]) >= -1e-10 * float(values.abs().max()) or not bool(torch.isfinite(values).all()):
        raise SolverError(
            f"the posterior mean is flat at its maximiser (largest eigenvalue of its Hessian {float(values[-1]):.3g}), so "
            "the maximiser has no derivative; give narrower bounds or a smoother kernel"
        )
    return -torch.linalg.solve(hessian, across)


__all__ = ["Drivers", "drivers"]
