"""Widely applicable information criteria of a Gaussian field in closed form: functional variances instead of refits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.data import require_one_label
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_posterior

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class InformationCriteria:
    """Of every training row, (n,), in nats, each with an absolute bound on its error.

    Attributes:
        log_density: `log E[p(y_i | f_i)]`, of the row in the fit (lppd).
        functional_variance: `Var log p(y_i | f_i)`, the diagonal of the influence matrix and what a sparse head leaves out.
        loss: `E[-log p(y_i | f_i)]`, the Gibbs loss.
        correction: `β ρ_i Var log p(y_i | f_i)`, what seeing the row has gained it, to leading order: the row's share of the
            effective number of parameters.
        elpd: `log_density - correction`, which stands for the log density of the row left out (Watanabe 2010).
        pcic: `loss + correction`, which stands for its Gibbs loss left out (Iba & Yano 2023).
    """

    log_density: Tensor
    functional_variance: Tensor
    loss: Tensor
    correction: Tensor
    elpd: Tensor
    pcic: Tensor
    log_density_error: Tensor
    functional_variance_error: Tensor
    loss_error: Tensor
    correction_error: Tensor
    elpd_error: Tensor
    pcic_error: Tensor

    @property
    def waic(self) -> float:
        """`-Σ elpd_i`, in nats; twice that is on the scale of a deviance."""
        return -float(self.elpd.double().sum())

    @property
    def p_waic(self) -> float:
        """Effective number of parameters `β Σ ρ_i Var ℓ_i`."""
        return float(self.correction.double().sum())

    @property
    def standard_error(self) -> float:
        """Of `waic` as a sum over rows drawn independently, `(n Var elpd)^½`."""
        return float((len(self.elpd) * self.elpd.double().var()).sqrt())

    def __repr__(self) -> str:
        return (
            f"InformationCriteria({len(self.elpd)} rows, waic {self.waic:.6g}, effective parameters {self.p_waic:.4g})"
        )


def waic(posterior: Posterior) -> InformationCriteria:
    """WAIC and PCIC of a posterior with a Gaussian likelihood, at fixed hyperparameters.

    With residual r, variance s of the field at the row and σ² of its noise: `log E[p] = log N(r; 0, s + σ²)`,
    `Var log p = r² s/σ⁴ + s²/2σ⁴`, `E[-log p] = ½ log 2πσ² + (r² + s)/2σ²`. Costs the variances of all rows: one more factor by
    Cholesky; where the solver has none, a solve a row.

    Raises:
        InputError: the likelihood is not Gaussian.
    """
    require_posterior(posterior, "waic")
    require_one_label(posterior.data, "waic")
    if hasattr(posterior, "classes") or not posterior.conjugate:
        raise InputError(f"waic is closed for Gaussian likelihoods and this posterior has {posterior.likelihood!r}")
    with torch.no_grad():
        train = posterior.data.train
        seen = torch.nonzero(train.weights > 0).flatten()
        unseen = torch.nonzero(train.weights <= 0).flatten()
        own = [torch.empty(len(train), dtype=torch.float64, device=train.x.device) for _ in range(2)]
        for rows in (seen, unseen):
            if len(rows):
                found, _ = posterior.own_variance(rows)
                own[0][rows], own[1][rows] = found
        rest = posterior.rows_left_out
        variance = Certified(own[0] + rest.value, own[1] + rest.error)
        precision = (1.0 / posterior.row_noise.double()).expand(len(train))
        return _criteria(
            posterior.residuals, variance, precision, posterior.beta * train.weights.double(), train.y.dtype
        )


def _criteria(
    residual: Certified, variance: Certified, precision: Tensor, weight: Tensor, dtype: torch.dtype
) -> InformationCriteria:
    """All of them, with bounds by the largest slope on the intervals of residual and variance."""
    (r, off), (s, loose) = residual, variance
    far, high, low = r.abs() + off, s + loose, (s - loose).clamp_min(0.0)
    total, least = s + 1.0 / precision, low + 1.0 / precision
    log = 0.5 * (2.0 * math.pi * total).log()
    density = -log - 0.5 * r.square() / total
    density_off = far * off / least + 0.5 * loose * (1.0 / least + far.square() / least.square())
    base = 0.5 * (2.0 * math.pi / precision).log()
    loss = base + 0.5 * precision * (r.square() + s)
    loss_off = precision * (far * off + 0.5 * loose)
    spread = precision.square() * s * (r.square() + 0.5 * s)
    spread_off = precision.square() * (2.0 * far * off * high + loose * (far.square() + high))
    parts = {
        "log_density": Certified(density, density_off + 8.0 * EPS * (log.abs() + density.abs())),
        "functional_variance": Certified(spread, spread_off + 8.0 * EPS * spread),
        "loss": Certified(loss, loss_off + 8.0 * EPS * (base.abs() + loss.abs())),
    }
    parts["correction"] = Certified(*(weight * part for part in parts["functional_variance"]))
    gained = parts["correction"]
    for name, of, sign in (("elpd", "log_density", -1.0), ("pcic", "loss", 1.0)):
        value = parts[of].value + sign * gained.value
        parts[name] = Certified(value, parts[of].error + gained.error + 4.0 * EPS * value.abs())
    short = {name: rounded(part, dtype) for name, part in parts.items()}
    return InformationCriteria(
        **{name: part.value for name, part in short.items()},
        **{f"{name}_error": part.error for name, part in short.items()},
    )


__all__ = ["InformationCriteria", "waic"]
