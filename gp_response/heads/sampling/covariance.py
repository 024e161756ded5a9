"""The covariance of two sets of traces, with a standard error for every entry by batch means."""

from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from gp_response.heads.sampling.diagnostics import effective_size, traces

LONG = 10.0  # autocorrelation times a batch is long: the error's variance is then 5 % short for an AR(1) trace
FEWEST, MOST = 20, 128  # batches


@dataclass(frozen=True)
class SampledCovariance:
    """`Cov(left, right)` from draws, (m, c).

    Attributes:
        value: unbiased for independent draws (divided by their number less one).
        batches: (b, m, c), what each batch of consecutive draws says of `value`; its mean is near it.
        spread: standard deviation of one draw's product of deviations.
        shift: how far `value` was moved on purpose, which its interval takes as bias. bound: of errors that are not chance.
    """

    value: Tensor
    batches: Tensor
    spread: Tensor
    shift: Tensor | float = 0.0
    bound: Tensor | float = 0.0

    @property
    def standard_error(self) -> Tensor:
        return self.batches.std(dim=0) / len(self.batches) ** 0.5

    def half_width(self, level: float) -> Tensor:
        """Of an interval of every entry that covers with this probability, (m, c)."""
        wide = (self.standard_error.square() + torch.as_tensor(self.shift).square()).sqrt()
        return quantile(len(self.batches), level) * wide + self.bound

    @property
    def effective(self) -> Tensor:
        """Independent draws that would leave this standard error."""
        variance = self.standard_error.square()
        return self.spread.square() / torch.where(variance > 0, variance, torch.ones_like(variance))


def sampled_covariance(left: Tensor, right: Tensor, *, length: int | None = None) -> SampledCovariance:
    """Covariances of traces left (chains, draws, m) with right (chains, draws, c), all chains around one mean.

    length: draws in a batch; None: see `batch_length`.
    """
    left, right = (x - x.mean(dim=(0, 1)) for x in (traces(left), traces(right)))
    chains, draws, _ = left.shape
    total = chains * draws
    flat_left, flat_right = left.flatten(0, 1), right.flatten(0, 1)
    value = flat_left.T @ flat_right / (total - 1)
    square = flat_left.square().T @ flat_right.square() / total
    length = batch_length(left, right) if length is None else length
    count = draws // length
    kept = [x[:, draws - count * length :].reshape(chains * count, length, -1) for x in (left, right)]
    batches = kept[0].mT @ kept[1] / length * (total / (total - 1))
    return SampledCovariance(value, batches, (square - value.square()).clamp_min(0.0).sqrt())


def batch_length(left: Tensor, right: Tensor) -> int:
    """Draws in a batch: several autocorrelation times of the slower traces, and batches enough for a standard error."""
    chains, draws, _ = left.shape
    sizes = torch.cat([effective_size(left), effective_size(right)])
    time = chains * draws / float(torch.quantile(sizes[:MANY], 0.05))
    total = chains * draws
    return int(min(max(LONG * time, total / MOST, 1.0), max(1.0, total / FEWEST), draws))


MANY = 2**20  # traces whose quantile torch takes


def quantile(batches: int, level: float) -> float:
    """Multiple of a standard error from so many batches that covers with probability `level` (Student's t)."""
    return float(student.ppf(0.5 + 0.5 * level, max(1, batches - 1)))


__all__ = ["SampledCovariance", "batch_length", "quantile", "sampled_covariance"]
