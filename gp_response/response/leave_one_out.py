"""Leave-one-out predictions of every training row, without leaving any out (Rasmussen & Williams 2006, eqs. 5.10-5.12)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from gp_response.arguments import as_integer, as_tensor, shown
from gp_response.errors import InputError
from gp_response.linalg.inverse_diagonal import Enclosure
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_posterior
from gp_response.response.leave_sample_out import leave_sample_out


@dataclass(frozen=True)
class LeaveOneOut:
    """What the other rows say about each training row, all (n,), in the units of `data.train.y` and their square.

    Attributes:
        mean, variance: of the field at the row, given the others; noise excluded.
        residual: `y_i - mean_i`.
        log_density: `log N(y_i; mean_i, variance_i + σ_i²/(β ρ_i))`, with σ_i²/β for rows of weight zero.
        mean_error, variance_error, residual_error, log_density_error: absolute bounds on their errors.
        standard_error: of the estimates relative to 1/(residual or predictive variance), where they are random numbers
            inside the bounds; zero where they are not.
        converged: bool, the bounds are as tight as the solver was asked for; false where a row is only enclosed.
        exact: every row is computed, none estimated.

    Where samples have several labels they are left out whole: mean, variance and residual are those of labels, in the order of
    `data.train`, and log_density, of all labels of a sample together, and converged those of samples, (N,).
    """

    mean: Tensor
    variance: Tensor
    residual: Tensor
    log_density: Tensor
    mean_error: Tensor
    variance_error: Tensor
    residual_error: Tensor
    log_density_error: Tensor
    standard_error: Tensor
    converged: Tensor
    exact: bool

    def __repr__(self) -> str:
        n = len(self.log_density)
        how = "exact" if self.exact else f"{int((~self.converged).sum())} of {n} rows enclosed"
        return f"LeaveOneOut({n} rows, {how}, mean log density {float(self.log_density.mean()):.4g})"


def leave_one_out(
    posterior: Posterior, *, probes: int = 32, rows: Tensor | None = None, seed: int = 0, progress: bool = False
) -> LeaveOneOut:
    """The prediction of every training row from all the others, at fixed hyperparameters.

    With `r` the residuals, `D_i = σ_i²/(β ρ_i)` and `l_i = 1 - S_ii/D_i` one minus the leverage: `y_i - mean_i = r_i/l_i`,
    and the predictive variance is `D_i/l_i`, plus what a sparse head leaves out. By Cholesky l is exact, at the price of one
    more factorisation. Beyond, it is enclosed between rigorous bounds, and estimated inside them. Where samples have several
    labels l is a matrix for each, of S among its labels, by one solve a label.

    Args:
        probes, seed: random right-hand sides of the estimate; 0 for none. Not used by Cholesky, nor of several labels.
        rows: (k,) training rows to be solved for where the rest is enclosed, one solve each.
        progress: show a bar.
    """
    require_posterior(posterior, "leave_one_out")
    probes = as_integer(probes, "leave_one_out's probes", "an integer of 0 or more", least=0)
    if not posterior.conjugate:
        raise InputError(f"leave_one_out needs a Gaussian likelihood and this posterior has {posterior.likelihood!r}")
    train = posterior.data.train
    chosen = None if rows is None else _as_rows(rows, len(train), train.x.device)
    with torch.no_grad():
        if posterior.data.label_shape:
            found, settled = leave_sample_out(posterior, progress=progress)
            return _collected(found, settled, torch.zeros_like(found["mean"].value), train.y.dtype)
        loose = posterior.looseness(probes=probes, rows=chosen, seed=seed, progress=progress)
        seen = train.weights > 0
        ones = torch.ones_like(loose.value)
        noise = posterior.row_noise / (posterior.beta * torch.where(seen, train.weights.double(), ones))
        left_out = posterior.rows_left_out
        found = _formulas(posterior.residuals, loose, noise, left_out)
        found["mean"] = Certified(train.y.double() - found["residual"].value, found["residual"].error)
        settled = loose.settled.clone()
        unseen = torch.nonzero(~seen).flatten()
        if len(unseen):
            settled[unseen] = _predict(posterior, unseen, noise, found, left_out)
        relative = torch.where(seen, loose.standard_error / loose.value, 0.0 * ones)
        return _collected(found, settled, relative, train.y.dtype)


def _collected(found: dict[str, Certified], settled: Tensor, spread: Tensor, dtype: torch.dtype) -> LeaveOneOut:
    short = {name: rounded(_no_nan(part), dtype) for name, part in found.items()}
    return LeaveOneOut(
        **{name: part.value for name, part in short.items()},
        **{f"{name}_error": part.error for name, part in short.items()},
        standard_error=spread.to(dtype), converged=settled, exact=bool(settled.all()),
    )  # fmt: skip


def _formulas(own: Certified, loose: Enclosure, noise: Tensor, left_out: Certified) -> dict[str, Certified]:
    """Each quantity with what it may be off by at the ends of the intervals of residual and looseness: they are monotone
    in both where the residual keeps its sign, and where it does not, zero is an end."""

    rest = left_out.value

    def density(r: Tensor, free: Tensor) -> Tensor:
        total = noise / free + rest
        return -0.5 * (2.0 * math.pi * total).log() - 0.5 * (r / free) ** 2 / total

    ends = [own.value - own.error, own.value + own.error]
    ends.append(torch.where(ends[0] * ends[1] < 0, torch.zeros_like(own.value), ends[0]))
    values = [loose.lower, loose.upper]
    # 1 - l keeps its digits where l is near one only as far as l has them; the bound says so.
    formulas: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "residual": lambda r, free: r / free,
        "variance": lambda r, free: noise * (1.0 - free).clamp_min(0.0) / free + rest,
        "log_density": density,
    }
    found = {}
    for name, formula in formulas.items():
        value = formula(own.value, loose.value)
        off = torch.stack([(formula(r, free) - value).abs() for r, free in product(ends, values)]).amax(dim=0)
        size = value.abs() + (noise / loose.value if name == "variance" else 1.0 if name == "log_density" else 0.0)
        found[name] = Certified(value, off + 16.0 * torch.finfo(value.dtype).eps * size)
    total = noise / loose.value + rest
    found["variance"].error.add_(left_out.error)
    slope = (1.0 + found["residual"].value.square() / total) / (2.0 * total)
    found["log_density"].error.add_(left_out.error * slope)
    return found


def _predict(
    posterior: Posterior, unseen: Tensor, noise: Tensor, found: dict[str, Certified], left_out: Certified
) -> Tensor:
    """Rows of weight zero are left out already: ordinary predictions, written into `found`; which solves converged."""
    variance, converged = posterior.own_variance(unseen)
    variance = Certified(*(part + rest[unseen] for part, rest in zip(variance, left_out, strict=True)))
    residual = Certified(*(part[unseen] for part in posterior.residuals))
    total = variance.value + noise[unseen]
    density = -0.5 * (2.0 * math.pi * total).log() - 0.5 * residual.value**2 / total
    least = (total - variance.error).clamp_min(1e-300)
    far = residual.value.abs() + residual.error
    error = 0.5 * variance.error * (1.0 / least + far**2 / least**2) + far * residual.error / least
    parts = {"residual": residual, "variance": variance, "log_density": Certified(density, error)}
    mean = Certified(posterior.data.train.y[unseen].double() - residual.value, residual.error)
    for name, part in (parts | {"mean": mean}).items():
        for whole, entries in zip(found[name], part, strict=True):
            whole[unseen] = entries
    return converged


def _no_nan(part: Certified) -> Certified:
    """A bound that could not be had is infinite."""
    return Certified(part.value, torch.where(part.error.isnan(), torch.full_like(part.error, float("inf")), part.error))


def _as_rows(rows: Tensor, n: int, device: torch.device) -> Tensor:
    at = as_tensor(rows, "leave_one_out's rows", f"row numbers between 0 and {n - 1}", device=device)
    if (
        at.ndim != 1
        or at.is_floating_point()
        or at.dtype == torch.bool
        or (len(at) and not 0 <= int(at.min()) <= int(at.max()) < n)
    ):
        raise InputError(f"leave_one_out got rows {shown(rows)}; expected row numbers between 0 and {n - 1}")
    return at.long()


__all__ = ["LeaveOneOut", "leave_one_out"]
