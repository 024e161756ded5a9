"""Rows kept from training, and the score on them that stops it."""

from dataclasses import dataclass
from typing import Any

import torch

from gp_response.data import Dataset, row_noise
from gp_response.heads.class_posterior import ClassPosterior

CONTEXT = 2000


@dataclass(frozen=True)
class HeldOut:
    """`train`: what features may see; `test`: rows they may not, None when nothing is held out."""

    train: Dataset
    test: Dataset | None

    @classmethod
    def split(cls, data: Dataset, fraction: float, generator: torch.Generator) -> "HeldOut":
        n = len(data.train)
        held = min(round(fraction * n), 2000)
        order = torch.randperm(n, generator=generator).to(data.train.x.device)
        if not held:
            return cls(data, None)
        return cls(data.keep(order[held:].sort().values), data.keep(order[:held].sort().values))

    def score(self, head: Any) -> float | None:
        """Mean negative log predictive density of the held-out rows given (at most 2,000) training rows."""
        if self.test is None:
            return None
        return negative_log_density(head, self.train, self.test)

    def train_score(self, head: Any) -> float:
        """The same density of training rows themselves, to be read beside `score`."""
        context = _context(self.train)
        return negative_log_density(head, context, context)


def negative_log_density(head: Any, data: Dataset, other: Dataset) -> float:
    """Mean of `-log ∫ p(y | f) N(f; ⟨f(x)⟩, Var f(x)) df` over the training rows of another set."""
    posterior = head.condition(_context(data))
    if isinstance(posterior, ClassPosterior):
        p = posterior.predictive(other.train.x).gather(1, other.train.y.long()[:, None])
        return -float(p.clamp_min(1e-300).log().mean())
    probe = posterior.probe(other.train.x)
    if posterior.likelihood is not None:
        y = other.train.y.double()
        return -float(posterior.likelihood.log_density(probe.mean.value, probe.variance.value, y).mean())
    variance = probe.variance.value + row_noise(other, head.noise.detach().to(probe.variance.value))
    density = torch.log(2.0 * torch.pi * variance) + (other.train.y - probe.mean.value) ** 2 / variance
    return float(0.5 * density.mean())


def _context(data: Dataset) -> Dataset:
    n = len(data.train)
    if n <= CONTEXT:
        return data
    return data.keep(torch.linspace(0, n - 1, CONTEXT).long().to(data.train.x.device))


__all__ = ["HeldOut", "negative_log_density"]
