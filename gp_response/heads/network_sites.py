"""A linearised network of one output under a likelihood that is not Gaussian: Laplace's approximation around it."""

from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_output import OneOutput
from gp_response.heads.sites import LAPLACE, Coupling, Pull, coupling, pull, pull_by_label
from gp_response.likelihoods import Likelihood
from gp_response.posterior import Certified


class NetworkSites(OneOutput):
    """A linearised network conditioned on labels such as classes or counts; made by `laplace`.

    Each row is a site: the force `g = d log p/df` on the network's output and the precision `h = -d² log p/df²`; how a site
    answers to its output moves variances (`coupling`), as in a `SitePosterior`.
    """

    conjugate = False

    def __init__(self, model: NetworkModel, data: Dataset):
        model.likelihood.check(data.train.y)
        self.law = model.likelihood
        self.problem = SimpleNamespace(y=data.train.y.double())
        self.weight = model.beta * data.train.weights.double()
        self.relative_error = 64.0 * torch.finfo(torch.float64).eps  # of `smear`, the worst so far
        super().__init__(model, data)

    @property
    def likelihood(self) -> Likelihood:
        return self.law

    @property
    def precisions(self) -> Tensor:
        return self.weight * self.row_pull().precision

    @property
    def forces(self) -> Tensor:
        return self.weight * self.row_pull().force

    @property
    def residuals(self) -> Certified:
        """`y_i - f(x_i; θ*)`, (n,)."""
        y = self.problem.y
        error = self.eps * (y.abs() + self.outputs.abs() + self.rows.lengths * self.origin_length)
        return Certified(y - self.outputs, error)

    @cached_property
    def coupling(self) -> Coupling:
        """How the sites answer their marginals, times βρ, (n,) each."""
        parts = coupling(self.law, LAPLACE, self.outputs, torch.zeros_like(self.outputs), self.problem.y)
        return Coupling(*(self.weight * part for part in parts))

    @cached_property
    def fixed(self) -> SimpleNamespace:
        """Marginals of the training rows and what is left of the iteration to the mode: nothing."""
        every = torch.arange(len(self.outputs), device=self.outputs.device)
        return SimpleNamespace(mean=self.outputs, change=0.0, variance=self.own_variance(every)[0].value)

    def smear(self, values: Tensor) -> Tensor:
        """`S v` over training rows, for v (n, t), by one solve."""
        right = self.gather(values)
        solution = self.factor.solve(right)
        size = (right * solution.value).sum(dim=0).clamp_min(0.0).sqrt().clamp_min(1e-300)
        self.relative_error = max(self.relative_error, float((self.energy(solution) / size).max()))
        return self.spread(solution.value)

    def row_pull(self) -> Pull:
        return pull(self.law, LAPLACE, self.outputs, torch.zeros_like(self.outputs), self.problem.y)

    def label_pull(self) -> Pull:
        if self.law.discrete:
            raise InputError(
                f"relabel moves labels by a little, which those of {type(self.law).__name__} cannot; use delete and insert"
            )
        return pull_by_label(self.law, LAPLACE, self.outputs, torch.zeros_like(self.outputs), self.problem.y)

    def new_pull(self, x: Tensor, y: Tensor) -> tuple[Pull, Tensor]:
        """The sites that labels y would be at new points x (k, d), and the outputs there (k,)."""
        self.law.check(y)
        mean = self.model.tangent.value(self.points(x)).detach().double()
        return pull(self.law, LAPLACE, mean, torch.zeros_like(mean), y.to(mean)), mean


__all__ = ["NetworkSites"]
