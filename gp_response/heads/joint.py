"""Joint training of hyperparameters and features by Adam on the evidence of minibatches."""

from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from gp_response.errors import SolverError
from gp_response.heads.early_stopping import EarlyStopping
from gp_response.heads.held_out import HeldOut
from gp_response.heads.lbfgs import all_parameters, minimise_evidence
from gp_response.heads.pretraining import feature_parameters
from gp_response.heads.trace import Trace

CHECK = 20
FEW_ROWS = 2000


def joint_adam(
    head: Any, held_out: HeldOut, training: Any, rows: int, generator: torch.Generator, trace: Trace
) -> None:
    """Adam on the negative log evidence per row; the state with the best held-out score (else loss) is kept.

    Hyperparameters of a deep kernel first meet the features alone, on rows the features were not trained on: on their own
    training rows the features look better than they are, and the noise comes out too small.
    """
    features = feature_parameters(head.kernel)
    few = [p for p in all_parameters(head) if all(p is not f for f in features)]
    if features and held_out.test is not None:
        minimise_evidence(head, held_out.test, training, FEW_ROWS, generator, trace, few)
    optimiser = joint_optimiser(few, features, training, len(held_out.train.train))
    steps, data = training.steps or 300, held_out.train
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    stopping = EarlyStopping(head, patience=training.patience, score=score_or_loss(head, held_out, float("inf")))
    bar = tqdm(range(steps), desc="fit (adam)", disable=not training.progress, leave=False)
    trace.message = f"{steps} steps"
    for step in bar:
        batch = (
            data if rows >= len(data.train) else data.keep(torch.randperm(len(data.train), generator=generator)[:rows])
        )
        loss = _step(head, batch, len(data.train), optimiser)
        schedule.step()
        trace.add("adam", loss)
        if (step + 1) % CHECK and step != steps - 1:
            continue
        score = score_or_loss(head, held_out, loss)
        trace.steps[-1]["held_out"] = score
        bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{score:.4f}")
        if stopping.offer(score):
            trace.converged, trace.message = True, f"held-out score did not improve for {stopping.waited} checks"
            break
    stopping.restore()


def joint_optimiser(
    few: list[nn.Parameter], features: list[nn.Parameter], training: Any, n: int
) -> torch.optim.Optimizer:
    """Adam with a learning rate for hyperparameters and a smaller one, with weight decay, for features."""
    groups = [{"params": few, "lr": training.learning_rate, "weight_decay": 0.0}]
    if features:
        groups.append({"params": features, "lr": 0.02 * training.learning_rate, "weight_decay": training.decay(n)})
    return torch.optim.AdamW(groups)


def _step(head: Any, batch: Any, rows: int, optimiser: torch.optim.Optimizer) -> float:
    # A prior counts once for all rows, whatever the size of the batch.
    loss = -head.log_evidence(batch) / len(batch.train) - head.log_prior() / rows
    if not bool(torch.isfinite(loss)):
        raise SolverError(f"the log evidence became {loss.item()}; lower the learning rate or raise the noise")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    keep_noise_above_floor(head)
    return loss.item()


def keep_noise_above_floor(head: Any) -> None:
    with torch.no_grad():
        head.raw_noise.clamp_(min=head.raw_noise_floor)


def score_or_loss(head: Any, held_out: HeldOut, loss: float) -> float:
    """The held-out score, or the loss where nothing is held out."""
    score = held_out.score(head)
    return loss if score is None else score


__all__ = ["joint_adam", "joint_optimiser", "keep_noise_above_floor", "score_or_loss"]
