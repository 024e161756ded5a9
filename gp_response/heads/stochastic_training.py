"""Training on all of many rows: a start from few of them, then a few steps with gradients by probes."""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.heads.early_stopping import EarlyStopping
from gp_response.heads.held_out import HeldOut
from gp_response.heads.joint import joint_optimiser, keep_noise_above_floor, score_or_loss
from gp_response.heads.lbfgs import all_parameters, minimise_evidence
from gp_response.heads.pretraining import feature_parameters
from gp_response.heads.stochastic import Effort, StochasticEvidence
from gp_response.heads.stochastic_newton import QuasiNewton, exact_curvature
from gp_response.heads.trace import Trace

FEW_ROWS = 2000  # whose optimum is the start
FEW_STEPS = 100
FEW_PRECISION = 1e-7  # of the loss per row there: what is left is far below the step to all rows
CURVATURE_ROWS = 1000
FEW_NOISE = 1e-2  # least noise there, a fraction of the targets' variance
STEPS = 30  # most gradients on all rows
ADAM_STEPS = 60
CHECK = 5


def stochastic(
    head: Any, held_out: HeldOut, training: Any, rows: int, generator: torch.Generator, trace: Trace
) -> None:
    """Minimise the negative log evidence per row of all rows. A failure leaves the head as the start had it.

    Hyperparameters start from the optimum of few rows and take quasi-Newton steps; trained features, or
    optimiser="adam", take steps of Adam.
    """
    data, features = held_out.train, feature_parameters(head.kernel)
    evidence = StochasticEvidence(head, data, generator, Effort(probes=training.probes))
    _start(head, held_out, training, evidence, generator, trace)
    begun = EarlyStopping(head, patience=1)
    try:
        if features or training.optimiser == "adam":
            _adam(head, evidence, held_out, training, trace)
        else:
            curvature = exact_curvature(head, data.keep(telling_rows(data.train.x, CURVATURE_ROWS, generator)))
            newton = QuasiNewton(head, evidence, curvature, trace)
            newton.run(steps=training.steps or STEPS, progress=training.progress)
        last = evidence.value()
        trace.add("quadrature", last.value, error=last.standard_error, below=last.below, above=last.above)
    except BaseException:
        begun.restore()
        raise


def _start(
    head: Any, held_out: HeldOut, training: Any, evidence: StochasticEvidence, generator: torch.Generator, trace: Trace
) -> None:
    """The optimum of few rows, unless it is worse for all rows than knowing nothing."""
    data, features = held_out.train, feature_parameters(head.kernel)
    few = [p for p in all_parameters(head) if all(p is not f for f in features)]
    # Features look better than they are on the rows they were trained on.
    context = held_out.test if features and held_out.test is not None else data
    context = context.keep(telling_rows(context.train.x, FEW_ROWS, generator))
    variance, floor = float(data.train.y.double().var()), head.raw_noise_floor
    before = EarlyStopping(head, patience=1)
    # Few rows take noise for a kernel too short to reach the next row, and then stay there.
    head.floor_noise(max(FEW_NOISE * variance, training.least_noise * variance))
    keep_noise_above_floor(head)
    short = replace(training, steps=min(training.steps or FEW_STEPS, FEW_STEPS))
    minimise_evidence(head, context, short, len(context.train), generator, trace, few, precision=FEW_PRECISION)
    head.raw_noise_floor = floor
    with torch.no_grad():
        reached = evidence.value()
    trace.add("quadrature", reached.value, error=reached.standard_error, below=reached.below, above=reached.above)
    if reached.value > 0.5 * math.log(2.0 * math.pi * math.e * variance):
        before.restore()


def telling_rows(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of random rows and of their nearest neighbours among all, about `count` together, sorted.

    Few random rows are far apart: noise and a kernel too short to reach the next row then look the same, and where rows
    repeat, the evidence of all of them is ruined by what is best for few. Choosing by inputs alone leaves the evidence of
    the chosen rows what it is.
    """
    if count >= len(x):
        return torch.arange(len(x), device=x.device)
    chosen = torch.randperm(len(x), generator=generator)[: count // 2].to(x.device)
    nearest = []
    for rows in chosen.split(256):
        distance = torch.cdist(x[rows].double(), x.double())
        distance[torch.arange(len(rows), device=x.device), rows] = math.inf
        nearest.append(distance.argmin(dim=1))
    return torch.cat([chosen, *nearest]).unique()


def _adam(head: Any, evidence: StochasticEvidence, held_out: HeldOut, training: Any, trace: Trace) -> None:
    """Adam; the state with the best held-out score (else loss) is kept."""
    features, parameters = feature_parameters(head.kernel), all_parameters(head)
    few = [p for p in parameters if all(p is not f for f in features)]
    optimiser, steps = joint_optimiser(few, features, training, len(held_out.train.train)), training.steps or ADAM_STEPS
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    stopping = EarlyStopping(head, patience=training.patience, score=score_or_loss(head, held_out, math.inf))
    trace.converged, trace.message = False, f"{steps} steps"
    with tqdm(range(steps), desc="fit (all rows)", disable=not training.progress, leave=False) as bar:
        for step in bar:
            started = time.perf_counter()
            optimiser.zero_grad()
            work = evidence.backward(measure=step == 0)
            trace.add("all rows", work.loss, seconds=time.perf_counter() - started, **work.facts())
            bar.set_postfix(loss=f"{work.loss:.5f}", products=work.products)
            if step % CHECK == 0 or step == steps - 1:
                trace.steps[-1]["held_out"] = score = score_or_loss(head, held_out, work.loss)
                if stopping.offer(score):
                    trace.converged = True
                    trace.message = f"held-out score did not improve for {stopping.waited} checks"
                    break
            optimiser.step()
            schedule.step()
            keep_noise_above_floor(head)
    stopping.restore()


__all__ = ["stochastic"]
