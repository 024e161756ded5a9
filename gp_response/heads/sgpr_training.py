"""Training a sparse regression by its collapsed bound.

Where the points lie best depends on the hyperparameters, and the bound's gradient in m d coordinates costs more than it brings
while those are far off. So hyperparameters start from the exact evidence of few rows, and the points are chosen for them;
then the bound moves the hyperparameters and the points are chosen again (Burt, Rasmussen & van der Wilk 2020, section 7), and
at the end all of them learn together.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.exact import Exact
from gp_response.heads.held_out import HeldOut
from gp_response.heads.lbfgs import all_parameters, minimise_evidence
from gp_response.heads.rows import Rows
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

FEW_ROWS = 2000  # in the exact evidence to start with
ROUNDS, STEPS = 2, 10  # of choosing points, and L-BFGS steps of the hyperparameters in each
CHEAP, TOGETHER = 5e10, 80  # n m² beyond which a step takes five seconds, and the steps that are then taken in the end


def train_sgpr(
    head: Any, data: Dataset, training: Training, *, chosen: bool, bound: Callable[[Dataset], Tensor]
) -> Trace:
    """Train a sparse head without features in place.

    Args:
        chosen: its points are chosen from the data, not given.
        bound: Titsias' bound of the head.
    """
    started, n = time.perf_counter(), len(data.train)
    generator = torch.Generator().manual_seed(training.seed)
    rows = min(n, training.rows or n)
    head.floor_noise(min(training.least_noise * float(data.train.y.var()), float(head.noise.detach())))
    trace = Trace(
        f"negative collapsed bound per row, {'all' if rows == n else 'a random subset of'} {rows} rows, lbfgs"
    )
    if chosen and n > FEW_ROWS:
        exact = Exact(head.kernel, mean=head.prior_mean, beta=head.beta)
        exact.raw_noise, exact.raw_noise_floor = head.likelihood.raw_noise, head.raw_noise_floor
        minimise_evidence(exact, data, training, FEW_ROWS, generator, trace, all_parameters(exact))
    brief = replace(training, steps=min(STEPS, training.steps or STEPS), restarts=0)
    for _ in range(ROUNDS if chosen else 1):
        head.place(data, again=chosen)
        if chosen:
            _count_what_is_left_out_as_noise(head, data)
        few = [p for p in all_parameters(head) if p is not head.points]
        minimise_evidence(head, data, brief if chosen else training, rows, generator, trace, few, evidence=bound)
    if training.steps is None and rows * len(head.points) ** 2 > CHEAP:
        training = replace(training, steps=TOGETHER)
    minimise_evidence(head, data, training, rows, generator, trace, all_parameters(head), evidence=bound)
    trace.train_nll = HeldOut(data, None).train_score(head)
    trace.seconds = time.perf_counter() - started
    return trace


@torch.no_grad()
def _count_what_is_left_out_as_noise(head: Any, data: Dataset) -> None:
    """Raise the noise to what the features leave out on average: with less, the bound is all about that."""
    basis = head.basis()
    left_out = basis.diagonal(data.train.x) - Rows(basis, data.train.x.double(), keep=0).norms()
    least = torch.maximum(head.noise, left_out.mean().clamp_min(0.0))
    head.raw_noise.copy_(head.likelihood.noise_constraint.inverse_transform(least))


__all__ = ["train_sgpr"]
