"""Training by the conjugate-gradient bound, from where Titsias' bound leaves a head after a few joint steps."""

import time
from dataclasses import replace
from typing import Any

import torch

from gp_response.data import Dataset
from gp_response.heads.collapsed_bound import collapsed, residual_of_mean
from gp_response.heads.conjugate_bound import ConjugateBound
from gp_response.heads.held_out import HeldOut
from gp_response.heads.lbfgs import all_parameters, minimise_evidence
from gp_response.heads.sgpr_training import train_sgpr
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

FIRST = 40  # joint steps by Titsias' bound, at a third of the price
STEPS = 80


def train_cglb(head: Any, data: Dataset, training: Training, bound: ConjugateBound, *, chosen: bool) -> Trace:
    """Train a head without features in place.

    Args:
        bound: what is maximised in the end, in `training.steps` (80) joint steps of hyperparameters and points.
        chosen: the points are chosen from the data, not given.
    """
    started, n = time.perf_counter(), len(data.train)
    generator = torch.Generator().manual_seed(training.seed)
    rows = min(n, training.rows or n)
    first = replace(training, steps=min(FIRST, training.steps or FIRST), restarts=0)
    trace = train_sgpr(
        head, data, first, chosen=chosen, bound=lambda part: collapsed(head, part, residual_of_mean(head, part)).bound()
    )
    trace.objective = (
        f"negative conjugate-gradient bound per row, {'all' if rows == n else 'a random subset of'} {rows} rows, lbfgs"
    )
    minimise_evidence(
        head, data, replace(training, steps=training.steps or STEPS), rows, generator, trace, all_parameters(head),
        evidence=lambda part: bound(head, part), stage="conjugate",
    )  # fmt: skip
    trace.train_nll = HeldOut(data, None).train_score(head)
    trace.seconds = time.perf_counter() - started
    return trace


__all__ = ["train_cglb"]
