"""Training on all of many rows: a start from few of them, then a few steps with gradients by probes."""

import time
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from gp_response.heads.early_stopping import EarlyStopping
from gp_response.heads.held_out import HeldOut
from gp_response.heads.joint import joint_optimiser, keep_noise_above_floor, score_or_loss
from gp_response.heads.lbfgs import all_parameters, minimise_evidence
from gp_response.heads.pretraining import feature_parameters
from gp_response.heads.stochastic import Effort, StochasticEvidence
from gp_response.heads.stochastic_newton import QuasiNewton, exact_curvature
from gp_response.heads.trace import Trace
from gp_response.heads.vector import read, read_gradient

FEW_ROWS = 2000  # whose optimum is the start
FEW_STEPS = 100
FEW_PRECISION = 1e-7  # of the loss per row there: what is left is far below the step to all rows
CURVATURE_ROWS = 1000
STEPS = 30  # most gradients on all rows
CHECK = 5


def stochastic(
    head: Any, held_out: HeldOut, training: Any, rows: int, generator: torch.Generator, trace: Trace
) -> None:
    """Minimise the negative log evidence per row of all rows. A failure leaves the head as the start had it.

    Hyperparameters start from the optimum of few rows and take quasi-Newton steps; trained features, or
    optimiser="adam", take steps of Adam.
    """
    data, features = held_out.train, feature_parameters(head.kernel)
    few = [p for p in all_parameters(head) if all(p is not f for f in features)]
    context = held_out.test if features and held_out.test is not None else data
    start = replace(training, steps=min(training.steps or FEW_STEPS, FEW_STEPS))
    minimise_evidence(head, context, start, FEW_ROWS, generator, trace, few, precision=FEW_PRECISION)
    evidence = StochasticEvidence(head, data, generator, Effort(probes=training.probes))
    begun = EarlyStopping(head, patience=1)
    try:
        first = evidence.value()
        trace.add("quadrature", first.value, error=first.standard_error)
        if features or training.optimiser == "adam":
            _adam(head, evidence, held_out, training, trace, first.value)
        else:
            at = torch.randperm(len(data.train), generator=generator)[:CURVATURE_ROWS].sort().values
            curvature = exact_curvature(head, data.keep(at))
            newton = QuasiNewton(head, evidence, curvature, trace)
            newton.run(first.value, steps=training.steps or STEPS, progress=training.progress)
        last = evidence.value()
    except BaseException:
        begun.restore()
        raise
    trace.add("quadrature", last.value, error=last.standard_error)
    # With the same probes the difference is far less uncertain than either value.
    if not features and not last.value < first.value:
        begun.restore()
        trace.message += "; all rows gave nothing over the start, which is kept"


def _adam(head: Any, evidence: StochasticEvidence, held_out: HeldOut, training: Any, trace: Trace, loss: float) -> None:
    """Adam; the state with the best held-out score (else loss) is kept."""
    features, parameters = feature_parameters(head.kernel), all_parameters(head)
    few = [p for p in parameters if all(p is not f for f in features)]
    optimiser, steps = joint_optimiser(few, features, training), training.steps or STEPS
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    stopping = EarlyStopping(head, patience=training.patience, score=score_or_loss(head, held_out, loss))
    trace.converged, trace.message = False, f"{steps} steps"
    before, old = read(parameters), torch.zeros(0)
    for step in tqdm(range(steps), desc="fit (all rows)", disable=not training.progress, leave=False):
        started = time.perf_counter()
        optimiser.zero_grad()
        work = evidence.backward(measure=step == 0)
        at, new = read(parameters), read_gradient(parameters)
        loss += 0.5 * float((old + new).dot(at - before)) if step else 0.0
        before, old = at, new
        trace.add("all rows", loss, seconds=time.perf_counter() - started, **work.facts())
        if step and step % CHECK == 0:
            trace.steps[-1]["held_out"] = score = score_or_loss(head, held_out, loss)
            if stopping.offer(score):
                trace.converged, trace.message = True, f"held-out score did not improve for {stopping.waited} checks"
                break
        optimiser.step()
        schedule.step()
        keep_noise_above_floor(head)
    stopping.offer(score_or_loss(head, held_out, loss))
    stopping.restore()


__all__ = ["stochastic"]
