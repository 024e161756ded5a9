"""The variance of each training observation: what is known of it plus what the model adds to all."""

from torch import Tensor

from gp_response.data.dataset import Dataset


def row_noise(data: Dataset, noise: Tensor) -> Tensor:
    """`known_i + σ²` of the training rows, (n,), in the precision of `noise`; σ² itself, 0-dim, where nothing is known."""
    known = data.train.noise
    return noise if known is None else known.to(noise) + noise


__all__ = ["row_noise"]
