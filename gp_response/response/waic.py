"""Widely applicable information criteria of a Gaussian field in closed form: functional variances instead of refits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.data import sample_weights
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_posterior
from gp_response.response.blocks import DefiniteBlocks
from gp_response.response.influence.entries import loss_covariance
from gp_response.response.within_samples import rows_of, within_samples

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class InformationCriteria:
    """Of every training sample, (n,), in nats, each with an absolute bound on its error. Where samples have several labels
    `p(y_i | f_i)` is the density of all of them together.

    Attributes:
        log_density: `log E[p(y_i | f_i)]`, of the sample in the fit (lppd).
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
    Cholesky; where the solver has none, a solve a row. Of several labels a sample the first two take their covariances, too:
    `log N(r; 0, S + σ²)`, and the sum of `Cov(ℓ_a, ℓ_b)` over the labels a and b of the sample; a solve a label.

    Raises:
        InputError: the likelihood is not Gaussian.
    """
    require_posterior(posterior, "waic")
    if hasattr(posterior, "classes") or not posterior.conjugate:
        raise InputError(f"waic is closed for Gaussian likelihoods and this posterior has {posterior.likelihood!r}")
    with torch.no_grad():
        train = posterior.data.train
        if posterior.data.label_shape:
            weight = posterior.beta * sample_weights(train).double()
            return _criteria(_moments_of_samples(posterior), weight, train.y.dtype)
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
        moments = _moments(posterior.residuals, variance, precision)
        return _criteria(moments, posterior.beta * train.weights.double(), train.y.dtype)


def _moments(residual: Certified, variance: Certified, precision: Tensor) -> dict[str, Certified]:
    """What the criteria are made of, with bounds by the largest slope on the intervals of residual and variance."""
    (r, off), (s, loose) = residual, variance
    far, high, low = r.abs() + off, s + loose, (s - loose).clamp_min(0.0)
    total, least = s + 1.0 / precision, low + 1.0 / precision
    log = 0.5 * (2.0 * math.pi * total).log()
    density = -log - 0.5 * r.square() / total
    density_off = far * off / least + 0.5 * loose * (1.0 / least + far.square() / least.square())
    spread = precision.square() * s * (r.square() + 0.5 * s)
    spread_off = precision.square() * (2.0 * far * off * high + loose * (far.square() + high))
    return {
        "log_density": Certified(density, density_off + 8.0 * EPS * (log.abs() + density.abs())),
        "functional_variance": Certified(spread, spread_off + 8.0 * EPS * spread),
        "loss": _loss(residual, variance, precision),
    }


def _loss(residual: Certified, variance: Certified, precision: Tensor) -> Certified:
    """`½ log 2πσ² + (r² + s)/2σ²` of rows."""
    (r, off), (s, loose) = residual, variance
    base = 0.5 * (2.0 * math.pi / precision).log()
    value = base + 0.5 * precision * (r.square() + s)
    error = precision * ((r.abs() + off) * off + 0.5 * loose)
    return Certified(value, error + 8.0 * EPS * (base.abs() + value.abs()))


def _moments_of_samples(posterior: Posterior) -> dict[str, Certified]:
    """The same of samples with several labels, (N,)."""
    train, own = posterior.data.train, posterior.residuals
    precision = (1.0 / posterior.row_noise.double()).expand(len(train))
    force = Certified(*(part * precision for part in own))
    zero = torch.zeros(train.samples, dtype=torch.float64, device=train.x.device)
    found = {name: Certified(zero.clone(), zero.clone()) for name in ("log_density", "functional_variance", "loss")}
    for some in within_samples(posterior):
        rows, residual, each = some.rows, rows_of(own, some.rows), precision[some.rows]
        variance = Certified(*(part.diagonal(dim1=1, dim2=2) for part in some.covariance))
        noise = torch.diag_embed(1.0 / each)
        total = Certified(some.covariance.value + noise, some.covariance.error + EPS * noise)
        spread = loss_covariance(some.covariance, force, precision, rows[:, :, None], rows[:, None, :])
        parts = {
            "log_density": DefiniteBlocks(total).log_density(residual),
            "functional_variance": _summed(Certified(*(part.flatten(1) for part in spread))),
            "loss": _summed(_loss(residual, variance, each)),
        }
        for name, part in parts.items():
            for whole, entries in zip(found[name], part, strict=True):
                whole[some.samples] = entries
    return found


def _summed(part: Certified) -> Certified:
    """Sums of k rows of numbers, (k,)."""
    value, error = part
    return Certified(value.sum(dim=1), error.sum(dim=1) + value.shape[1] * EPS * value.abs().sum(dim=1))


def _criteria(moments: dict[str, Certified], weight: Tensor, dtype: torch.dtype) -> InformationCriteria:
    parts = dict(moments)
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
