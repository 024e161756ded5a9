"""The influence matrix of samples with several labels: a sample's loss is the sum of its labels', and so are covariances."""

import torch
from torch import Tensor

from gp_response.data import Split, over_samples, rows_by_sample
from gp_response.posterior import Certified
from gp_response.response.influence.operator import STEP, Influence
from gp_response.response.influence.squares import Estimated

EPS = torch.finfo(torch.float64).eps


class SampleInfluence(Influence):
    """`Cov(ℓ_i, ℓ_j) = Σ_ab W_ab` over the labels a of sample i and b of sample j, W the matrix of labels.

    Made by `influence`. What is solved for, and kept, is S of the labels.
    """

    @property
    def train(self) -> Split:
        return self.posterior.data.train

    @property
    def sample(self) -> Tensor:
        """The sample of every label, (n,), -1 for none."""
        found = self.train.sample
        assert found is not None
        return found

    @property
    def n(self) -> int:
        return self.train.samples

    @property
    def step(self) -> int:
        return max(1, STEP * self.n // len(self.force))

    def _product(self, wide: Tensor, bounded: bool) -> Estimated:
        each = torch.where((self.sample >= 0)[:, None], wide[self.sample], 0.0)
        value, error, spread = super()._product(each, bounded)
        total = self._summed(Certified(value.T, error.T))
        # Estimates of one sample's labels come from the same signs: their deviations add up at most.
        return Estimated(total.value.T, total.error.T, over_samples(self.train, spread.T).T)

    def _rows(self, at: Tensor) -> Certified:
        rows, which = self.train.rows_of(at)
        mine = self._summed(super()._rows(rows))
        value, error, size = (
            part.new_zeros(len(at), self.n).index_add(0, which, part) for part in (*mine, mine.value.abs())
        )
        return Certified(value, error + self._rounding * size)

    def _variances(self) -> Certified:
        value = self.force.new_zeros(self.n)
        error = torch.zeros_like(value)
        for samples, rows in rows_by_sample(self.train):
            among = self._entries(self.squares.among(rows), rows[:, :, None], rows[:, None, :])
            value[samples], error[samples] = (part.sum(dim=(1, 2)) for part in among)
            error[samples] += 2.0 * self._rounding * among.value.abs().sum(dim=(1, 2))
        return Certified(value, error)

    def _summed(self, part: Certified) -> Certified:
        """Sums over the labels of every sample along the last dimension."""
        value, error, size = (over_samples(self.train, entries) for entries in (*part, part.value.abs()))
        return Certified(value, error + self._rounding * size)

    @property
    def _rounding(self) -> float:
        """Of a sum over a sample's labels, in units of the sum of sizes."""
        return EPS * float((self.sample + 1).bincount()[1:].max())


__all__ = ["SampleInfluence"]
