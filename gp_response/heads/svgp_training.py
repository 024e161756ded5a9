"""Minibatch training of a sparse head: natural gradients for the Gaussian over inducing points, Adam for everything else.

The Gaussian is kept in whitened coordinates by its natural parameters, on which a natural-gradient step of rate γ is an average
of what is there with what the minibatch alone would say (Khan & Lin 2017; Salimbeni, Eleftheriadis & Hensman 2018). At rate
one on all rows it is the fixed point's own step, so training ends near where conditioning goes.
"""

import time
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.data import Dataset, Split
from gp_response.errors import SolverError
from gp_response.heads.early_stopping import EarlyStopping
from gp_response.heads.held_out import HeldOut
from gp_response.heads.joint import joint_optimiser, keep_noise_above_floor
from gp_response.heads.lbfgs import all_parameters
from gp_response.heads.pretraining import feature_modules, feature_parameters, pretrain
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.sites import VARIATIONAL, pull
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training
from gp_response.likelihoods import Gaussian, RowGaussian

BATCH = 1024
FEWEST, MOST_STEPS, EPOCHS = 1000, 6000, 40
CHECK = 50
SETTLING = 10  # steps of the Gaussian alone: seen from the prior mean, all data are noise
RATE = 0.1  # natural-gradient rate that is settled to: an average over ten minibatches


def train_svgp(head: Any, data: Dataset, training: Training) -> Trace:
    """Train a sparse head's hyperparameters, points and features in place."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(training.seed)
    deep = bool(feature_modules(head.kernel))
    held_out = HeldOut.split(data, training.held_out if deep else 0.0, generator)
    if isinstance(head.likelihood, Gaussian):
        head.floor_noise(min(training.least_noise * float(data.train.y.var()), float(head.noise.detach())))
    rows = min(training.rows or BATCH, len(held_out.train.train))
    trace = Trace(f"negative variational bound per row, minibatches of {rows} rows, natural gradients and adam")
    if deep and training.pretrain_steps:
        pretrain(head, held_out, training, generator, trace)
    head.place(held_out.train)
    _Minibatches(head, held_out, training, rows, generator, trace).run()
    trace.seconds = time.perf_counter() - started
    return trace


class _Gaussian:
    """N(m, Λ⁻¹) by its natural parameters Λ (m, m) and θ = Λ m."""

    def __init__(self, size: int, like: Tensor):
        self.precision = torch.eye(size, dtype=torch.float64, device=like.device)
        self.shift = torch.zeros(size, dtype=torch.float64, device=like.device)
        self.refresh()

    def refresh(self) -> None:
        self.lower = torch.linalg.cholesky(self.precision)
        self.mean = torch.cholesky_solve(self.shift[:, None], self.lower)[:, 0]

    def step(self, rate: float, precision: Tensor, shift: Tensor) -> None:
        precision.diagonal().add_(1.0)
        self.precision = (1.0 - rate) * self.precision + rate * precision
        self.shift = (1.0 - rate) * self.shift + rate * shift
        self.refresh()

    def divergence(self) -> float:
        """KL from the prior N(0, 1)."""
        inverse = torch.linalg.solve_triangular(self.lower, torch.eye(len(self.mean)).to(self.lower), upper=False)
        trace, logdet = float(inverse.square().sum()), 2.0 * float(self.lower.diagonal().log().sum())
        return 0.5 * (trace + float(self.mean.square().sum()) - len(self.mean) + logdet)


class _Minibatches:
    def __init__(
        self, head: Any, held_out: HeldOut, training: Training, rows: int, generator: torch.Generator, trace: Trace
    ):
        self.head, self.held_out, self.training, self.trace = head, held_out, training, trace
        self.rows, self.generator, self.data = rows, generator, held_out.train.train
        self.total = len(self.data)
        self.q = _Gaussian(len(head.points), self.data.x)
        epochs = EPOCHS * self.total // rows
        self.steps = training.steps or max(FEWEST, min(MOST_STEPS, epochs))
        features = feature_parameters(head.kernel)
        few = [p for p in all_parameters(head) if all(p is not f for f in features)]
        self.optimiser = joint_optimiser(few, features, training, self.total)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, self.steps)
        self.left = torch.zeros(0, dtype=torch.long)

    def run(self) -> None:
        stopping = EarlyStopping(self.head, patience=self.training.patience)
        self.trace.message, losses = f"{self.steps} steps", []
        bar = tqdm(range(self.steps), desc="fit (svgp)", disable=not self.training.progress, leave=False)
        for step in bar:
            losses.append(self._step(self._batch(), step))
            if (step + 1) % CHECK and step != self.steps - 1:
                continue
            score, loss = self._score(self.held_out.test), sum(losses) / len(losses)
            losses.clear()
            self.trace.add(
                "minibatches", loss + self.q.divergence() / self.total, **({} if score is None else {"held_out": score})
            )
            bar.set_postfix(loss=f"{loss:.4f}", held_out="none" if score is None else f"{score:.4f}")
            if score is not None and stopping.offer(score):
                self.trace.converged = True
                self.trace.message = f"held-out score did not improve for {stopping.waited} checks"
                break
        self.trace.train_nll = self._score(self.held_out.train)
        self.trace.held_out_nll = self._score(self.held_out.test)
        if self.held_out.test is not None:
            stopping.restore()

    def _batch(self) -> Split:
        if self.rows >= self.total:
            return self.data
        if len(self.left) < self.rows:
            self.left = torch.randperm(self.total, generator=self.generator)
        at, self.left = self.left[: self.rows], self.left[self.rows :]
        return self.data.take(at.to(self.data.x.device))

    def _step(self, batch: Split, step: int) -> float:
        head = self.head
        weight = head.beta * batch.weights.double() * (self.total / len(batch))
        features, mean, variance = self._marginals(batch)
        likelihood = self._of_rows(batch)
        loss = (weight * likelihood.expected_loss(mean, variance, batch.y.double())).sum() / self.total
        objective = loss - head.log_prior() / self.total
        if not bool(torch.isfinite(objective)):
            raise SolverError(f"the bound became {objective.item()}; lower the learning rate or raise the noise")
        self.optimiser.zero_grad()
        objective.backward()
        with torch.no_grad():
            at, spread = mean.detach(), variance.detach()
            sites = pull(likelihood, VARIATIONAL, at, spread, batch.y.double())
            curvature = sites.precision if head.likelihood.concave else sites.precision.clamp_min(0.0)
            before = prior_mean_at(head.prior_mean, batch.x.double())
            fixed = features.detach()
            shift = fixed @ (weight * (sites.force + curvature * (at - before)))
            rate = 1.0 if self.rows >= self.total else max(RATE, 1.0 / (step + 1.0))
            self.q.step(rate, (fixed * (weight * curvature)) @ fixed.T, shift)
        if step >= SETTLING:
            self.optimiser.step()
            self.schedule.step()
            keep_noise_above_floor(head)
        return loss.item()

    def _marginals(self, batch: Split) -> tuple[Tensor, Tensor, Tensor]:
        basis = self.head.basis()
        features = basis.at(batch.x)
        left_out = (basis.diagonal(batch.x) - features.square().sum(dim=0)).clamp_min(0.0)
        within = torch.linalg.solve_triangular(self.q.lower, features, upper=False).square().sum(dim=0)
        mean = prior_mean_at(self.head.prior_mean, batch.x.double()) + features.T @ self.q.mean
        return features, mean, left_out + within

    def _of_rows(self, batch: Split) -> Any:
        likelihood = self.head.likelihood
        if batch.noise is None or not isinstance(likelihood, Gaussian):
            return likelihood
        return RowGaussian(batch.noise.double() + likelihood.noise)

    def _score(self, data: Dataset | None) -> float | None:
        """Mean negative log predictive density of (at most 2,000) rows under the present approximation."""
        if data is None:
            return None
        rows = data.train.take(torch.linspace(0, len(data.train) - 1, min(2000, len(data.train))).long())
        with torch.no_grad():
            _, mean, variance = self._marginals(rows)
            return -float(self._of_rows(rows).log_density(mean, variance, rows.y.double()).mean())


__all__ = ["train_svgp"]
