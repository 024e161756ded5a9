"""A posterior known by draws: the waist over samples of anywhere."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.sampling.chains import Chains
from gp_response.heads.sampling.covariance import quantile, sampled_covariance
from gp_response.heads.sampling.diagnostics import effective_size, split_rhat
from gp_response.heads.sampling.readings import Call, Called, Losses, Readings, Stored, as_samples, shaped
from gp_response.likelihoods import Categorical, Gaussian, Likelihood
from gp_response.posterior import Certified, Posterior

LEVEL = 0.95


class Draws(Posterior):
    """Samples of a field given data; made by `draws`.

    Means, variances and covariances are those of the draws. It has no solves, so closed forms (finite changes, second order,
    influence operators) refuse it; `gr.susceptibility` and `gr.fluctuation` estimate `-β Cov(O, V)` with an interval for each
    entry, which is statistical: no bound.

    Attributes:
        readings: the draws, (chains, draws, …).
    """

    def __init__(self, data: Dataset, readings: Readings, *, likelihood: Likelihood | None, beta: float):
        self.data, self.readings, self.beta, self.solver = data, readings, beta, "draws"
        self.law = likelihood
        self.noise = torch.full((), float("nan"), dtype=torch.float64)
        if isinstance(likelihood, Gaussian):
            self.noise = likelihood.noise.detach().double()
        if isinstance(likelihood, Categorical):
            self.classes = likelihood.classes

    @property
    def likelihood(self) -> Any:
        return None if isinstance(self.law, Gaussian) else self.law

    @property
    def conjugate(self) -> bool:
        return isinstance(self.law, Gaussian)

    @property
    def size(self) -> tuple[int, int]:
        """Chains, and draws of each."""
        return self.readings.chains, self.readings.draws

    def field(self, x: Tensor) -> Tensor:
        """Draws of the field at points x (q, d), (chains, draws, q) or, of several classes, (chains, draws, q, C), in float64.

        Raises:
            InputError: the samples do not say what the field is there.
        """
        return self.readings.at(self.points(x))

    def losses(self, x: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        """Draws of the losses `-log p(y | f(x))`, (chains, draws, q). known: variances that come on top of the noise, (q,)."""
        x = self.points(x)
        stored = self.readings.losses_at(x, y.to(x))
        if stored is not None:
            return stored
        if isinstance(self.law, Gaussian):
            total = self.noise if known is None else self.noise + known.double()
            return 0.5 * ((2.0 * torch.pi * total).log() + (y.double() - self.readings.at(x)) ** 2 / total)
        assert self.law is not None
        return -self.law.log_prob(self.readings.at(x), y.double())

    def mean(self, x: Tensor) -> Tensor:
        return self._like(self.field(x).mean(dim=(0, 1)))

    def variance(self, x: Tensor) -> Tensor:
        return self._like(self.field(x).flatten(0, 1).var(dim=0))

    def cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        left = self.field(x)
        return self._like(sampled_covariance(left, left if y is None else self.field(y)).value)

    def effective_size(self, x: Tensor) -> Tensor:
        """Independent draws that the field's draws at x (q, d) are worth, (q,)."""
        return effective_size(self.field(x))

    def split_rhat(self, x: Tensor) -> Tensor:
        """Rank-normalised split R-hat of the field at x (q, d), (q,); above 1.05 the chains do not agree."""
        return split_rhat(self.field(x))

    @property
    def residuals(self) -> Certified:
        """`y_i - ⟨f_i⟩` and half the width of its 95 % interval: statistical, no bound."""
        field = self.field(self.data.train.x)
        wide = field.flatten(0, 1).std(dim=0) / effective_size(field).sqrt()
        return Certified(self.data.train.y.double() - field.mean(dim=(0, 1)), quantile(10_000, LEVEL) * wide)

    def probe(self, x: Any) -> NoReturn:
        raise InputError(
            "a posterior of draws has no solves; use gr.susceptibility or gr.fluctuation, or posterior.mean, .variance and .cov at "
            "points where the draws were read"
        )

    def prior_cov(self, x: Tensor, y: Tensor) -> NoReturn:
        raise InputError("draws of a posterior do not tell its prior; use a head, such as gr.Exact or gr.laplace")

    def __repr__(self) -> str:
        chains, draws = self.size
        return f"Draws({chains} chains of {draws}, {self.law!r}, beta={self.beta:g})"


def draws(
    samples: Any,
    data: Dataset,
    *,
    likelihood: Likelihood | None = None,
    beta: float | None = None,
    at: Tensor | None = None,
    labels: Tensor | None = None,
    call: Call | None = None,
    of: str = "values",
) -> Draws:
    """A posterior from samples of anywhere.

    The draws are of the Gibbs measure `p₀(f) exp(-β Σ ρ_i ℓ_i)` of the data; every draw counts alike.

    Args:
        samples: `Chains` of `gr.sample`; or floating (chains, draws, p), of one chain (draws, p), of several classes
            (chains, draws, p, C): values of the field, or losses, at p points; with `call`, (chains, draws, P) parameters.
        data: whose training rows perturbations are about.
        likelihood: what losses are; a Gaussian for `of="values"` when None is refused, since σ² would be a guess.
        beta: inverse temperature that was sampled at; None: 1, or that of `Chains`.
        at: (p, d) where the samples were read; None: the training rows, followed by the test rows where p is the number of both.
        labels: (p,) of the points, for losses; None: the data's own.
        call: call(theta (P,), x (q, d)) -> (q,) or (q, C); the field is then known anywhere.
        of: "values" or "losses".

    Raises:
        InputError: shapes that do not fit, a missing likelihood, numbers that are not finite, draws that are all the same one.
    """
    if isinstance(samples, Chains):
        likelihood, beta = (
            samples.likelihood if likelihood is None else likelihood,
            samples.beta if beta is None else beta,
        )
        call, at = samples.call if call is None else call, samples.at if at is None else at
        samples = samples.theta if samples.at is None else samples.values
    if of not in ("values", "losses") or (of == "losses" and call is not None):
        raise InputError(f"of={of!r} {'with call=' if call else ''}; expected 'values', or 'losses' without call=")
    if of == "values" and not isinstance(likelihood, Likelihood):
        raise InputError(
            f"likelihood={likelihood!r}; losses need one, e.g. gr.Gaussian(noise=0.1): the noise sampled with"
        )
    beta = 1.0 if beta is None else float(beta)
    if not 0.0 < beta < float("inf"):
        raise InputError(f"beta={beta!r}; expected a positive finite number")
    return Draws(data, _readings(samples, data, at, labels, call, of), likelihood=likelihood, beta=beta)


def _readings(samples: Any, data: Dataset, at: Any, labels: Any, call: Call | None, of: str) -> Readings:
    if call is not None and at is None:
        samples = as_samples(samples)
        width = samples.shape[-1] if samples.ndim else 0
        return Called(shaped(samples, width=width, what="parameters"), call)
    samples = as_samples(samples)
    points, own = _points(samples, data, at)
    values = shaped(samples, width=len(points), what="points")
    if of == "values":
        return Stored(values, points)
    given = own if labels is None else torch.as_tensor(labels)
    if given is None or given.shape != (len(points),):
        raise InputError(f"losses at {len(points)} points of your own need labels=, one each")
    return Losses(values, points, given)


def _points(samples: Any, data: Dataset, at: Any) -> tuple[Tensor, Tensor | None]:
    """Where samples were read, and the labels there, where they are the data's."""
    train, test = data.train, data.test
    if at is not None:
        points = torch.as_tensor(at).to(train.x)
        if points.ndim != 2 or points.shape[1] != train.x.shape[1]:
            raise InputError(f"at has shape {tuple(points.shape)}; expected (p, {train.x.shape[1]})")
        return points, None
    if len(test) and len(train) + len(test) in samples.shape[1:]:
        return torch.cat([train.x, test.x]), torch.cat([train.y, test.y])
    return train.x, train.y


__all__ = ["Draws", "draws"]
