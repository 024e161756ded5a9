"""The random splits that much of the published literature on Gaussian processes trains and tests on."""

import numpy as np
import torch

from gp_response.data.build import dataset
from gp_response.data.dataset import Dataset
from gp_response.data.load import load


def two_thirds(name: str, rows: int | None, seed: int) -> Dataset:
    """A random two thirds to train on and the rest to test on, standardised by the former."""
    whole = load(name, n=rows, standardise=False)
    x, y = (torch.cat([getattr(whole.train, part), getattr(whole.test, part)]) for part in ("x", "y"))
    at = torch.cat([whole.train.rows, whole.test.rows]).argsort()
    order = at[torch.from_numpy(np.random.default_rng(seed).permutation(len(at)))]
    few, rest = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
    return dataset(x[few], y[few], test_x=x[rest], test_y=y[rest], names=whole.names, target=whole.target)


__all__ = ["two_thirds"]
