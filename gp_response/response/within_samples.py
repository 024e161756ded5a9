"""Covariances of the labels of one sample with one another, for every sample."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from tqdm.auto import tqdm

from gp_response.data import rows_by_sample
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior

AT_ONCE = 512  # labels


class Within(NamedTuple):
    """Of k samples: their numbers (k,), their rows (k, q), S among those, (k, q, q), and whether all solves converged, (k,)."""

    samples: Tensor
    rows: Tensor
    covariance: Certified
    converged: Tensor


def within_samples(posterior: Posterior, *, progress: bool = False) -> Iterator[Within]:
    """All samples, some at a time, one solve a label.

    Raises:
        InputError: a posterior that adds variance to its predictions of which it does not know how labels share it.
    """
    train = posterior.data.train
    if bool((posterior.rows_left_out.value > 0).any()):
        raise InputError(
            "a sparse head leaves variance out whose correlation between labels is not kept; use gr.Exact or gr.laplace"
        )
    with tqdm(total=train.samples, desc="samples", disable=not progress, leave=False) as bar:
        for samples, rows in rows_by_sample(train):
            q = rows.shape[1]
            step = max(1, min(AT_ONCE, posterior._step()) // q)
            for mine, some in zip(samples.split(step), rows.split(step), strict=True):
                k = len(some)
                covariance, converged = posterior.among(some.flatten())
                blocks = (part.reshape(k, q, k, q).diagonal(dim1=0, dim2=2).movedim(-1, 0) for part in covariance)
                yield Within(mine, some, Certified(*blocks), converged.reshape(k, q).all(dim=1))
                bar.update(k)


def rows_of(part: Certified, rows: Tensor) -> Certified:
    """Numbers of all rows at those of k samples, (k, q)."""
    return Certified(*(entries[rows] for entries in part))


__all__ = ["Within", "rows_of", "within_samples"]
