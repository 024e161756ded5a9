"""Training a head by its log evidence.

Shallow kernels have a handful of hyperparameters: L-BFGS on the evidence of all rows, with restarts, while a Cholesky
factor a step is cheap; beyond, the optimum of few rows, and a few steps with gradients by random probes. Deep kernels have
thousands, and the evidence is then no safe objective (Ober, Rasmussen & van der Wilk 2021: it overfits worse than a
network does). So features are pretrained with a weight-decayed linear readout, the joint training sees the evidence of
random minibatches only, weight decay acts on the features, and rows held out from both stop it.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from gp_response.data import Dataset
from gp_response.errors import InputError, unknown_name
from gp_response.heads.held_out import HeldOut
from gp_response.heads.joint import joint_adam
from gp_response.heads.lbfgs import lbfgs
from gp_response.heads.pretraining import feature_modules, pretrain
from gp_response.heads.stochastic_training import stochastic
from gp_response.heads.trace import Trace

FULL_BATCH_ROWS = 3000  # a gradient by a Cholesky factor takes a second there, and eight times that at twice the rows
STOCHASTIC_ROWS = 50_000  # whose kernel blocks in float32 (5 GB) can be kept; minutes on two cores


@dataclass(frozen=True)
class Training:
    """How `fit` trains. `None` means: chosen by the kernel and the number of rows, and reported in the trace.

    Attributes:
        optimiser: "lbfgs" (full batch), "adam" (full batch or minibatch), or None: "adam" for trained features.
        estimator: "cholesky", exact gradients of `rows` rows, or "stochastic", gradients of all rows by probes. None:
            stochastic for kernels without trained features on more than 3,000 and at most 50,000 rows, where neither
            `rows` nor the optimiser is given. Measured on two cores: a minute at 11,000 rows (elevators), 13
            minutes at 26,666 (kin40k); see `experiments/exact_uci.py`.
        steps: most steps; None: 200 for L-BFGS, 300 for Adam, 30 (60 for Adam) on all rows by probes.
        rows: rows in the evidence of one step. None: all rows up to 3,000; beyond that and where the estimator is
            "cholesky", a random subset of 2,000 for L-BFGS, and minibatches of 1,024 for Adam on trained features.
        probes: random vectors of the stochastic estimator. With t of them the hyperparameters are off by 1/√t of what
            the data leave uncertain about them.
        restarts: further L-BFGS runs from random starting values; the best evidence wins.
        least_noise: the noise variance is not trained below this fraction of the targets' variance (or below where it
            starts): without noise in the data the evidence grows until the system is numerically singular.
        learning_rate: of Adam for hyperparameters; features learn at a fiftieth of it.
        weight_decay: of feature weights (AdamW's), in pretraining and in joint training. None: 1000 / n, so that it matters
            where rows are few and a network could fit them by heart.
        pretrain_steps: Adam steps of features with a linear readout before joint training; 0 for none.
        held_out: fraction of the training rows (at most 2,000) kept from training features, for early stopping. The
            returned posterior is conditioned on all rows again.
        patience: checks of the held-out score without improvement before stopping.
        seed: of every random choice; the global generator is not touched.
        progress: show a progress bar.
    """

    optimiser: str | None = None
    estimator: str | None = None
    steps: int | None = None
    rows: int | None = None
    probes: int = 8
    restarts: int = 0
    least_noise: float = 1e-6
    learning_rate: float = 0.05
    weight_decay: float | None = None
    pretrain_steps: int = 1000
    held_out: float = 0.1
    patience: int = 6
    seed: int = 0
    progress: bool = True

    def __post_init__(self):
        if self.optimiser not in (None, "lbfgs", "adam"):
            raise unknown_name("optimiser", str(self.optimiser), ["lbfgs", "adam"])
        if self.estimator not in (None, "cholesky", "stochastic"):
            raise unknown_name("estimator", str(self.estimator), ["cholesky", "stochastic"])
        if self.estimator == "stochastic" and self.rows is not None:
            raise InputError(f"Training(rows={self.rows}): the stochastic estimator takes all rows; leave rows out")
        if not 0.0 < self.least_noise < 1.0:
            raise InputError(f"Training(least_noise={self.least_noise}): expected a fraction between 0 and 1")
        if not 0.0 <= self.held_out < 1.0:
            raise InputError(f"Training(held_out={self.held_out}): expected a fraction from 0 to below 1")
        least = {"rows": 2, "steps": 1, "probes": 4, "restarts": 0, "pretrain_steps": 0, "patience": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"Training({name}={value}): expected at least {low}")

    def decay(self, n: int) -> float:
        """AdamW's weight decay of features for n rows."""
        return 1000.0 / n if self.weight_decay is None else self.weight_decay


def train(head: Any, data: Dataset, training: Training) -> Trace:
    """Train `head` (kernel, noise, log_evidence) in place."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(training.seed)
    deep = bool(feature_modules(head.kernel))
    optimiser = training.optimiser or ("adam" if deep else "lbfgs")
    held_out = HeldOut.split(data, training.held_out if deep else 0.0, generator)
    head.floor_noise(min(training.least_noise * float(data.train.y.var()), float(head.noise.detach())))
    estimator = training.estimator or _default_estimator(len(held_out.train.train), training, deep)
    n = len(held_out.train.train)
    rows = n if estimator == "stochastic" else min(n, training.rows or _default_rows(len(data.train), optimiser, deep))
    of = "all" if rows == n else ("random minibatches of" if optimiser == "adam" else "a random subset of")
    trace = Trace(f"negative log evidence per row, {of} {rows} rows, {_method(estimator, optimiser, training)}")
    if deep and training.pretrain_steps:
        pretrain(head, held_out, training, generator, trace)
    minimise = stochastic if estimator == "stochastic" else lbfgs if optimiser == "lbfgs" else joint_adam
    minimise(head, held_out, training, rows, generator, trace)
    trace.train_nll, trace.held_out_nll = held_out.train_score(head), held_out.score(head)
    trace.seconds = time.perf_counter() - started
    return trace


def _default_estimator(n: int, training: Training, deep: bool) -> str:
    free = training.rows is None and training.optimiser is None and not deep
    return "stochastic" if free and FULL_BATCH_ROWS < n <= STOCHASTIC_ROWS else "cholesky"


def _method(estimator: str, optimiser: str, training: Training) -> str:
    if estimator == "cholesky":
        return optimiser
    name = "adam" if optimiser == "adam" else "quasi-Newton"
    return f"{name} with gradients by {training.probes} probes"


def _default_rows(n: int, optimiser: str, deep: bool) -> int:
    if deep and optimiser == "adam":
        return 1024
    return n if n <= FULL_BATCH_ROWS else 2000


__all__ = ["Training", "train"]
