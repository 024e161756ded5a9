"""What a fit did: the objective at each step, and how it ended."""

from dataclasses import dataclass, field

import pandas as pd


@dataclass
class Trace:
    """The record of one `fit`.

    Attributes:
        objective: name of what was minimised, e.g. "negative log evidence per row, all 500 rows".
        steps: one dict a step: stage, step, loss and, where measured, held_out (mean negative log predictive density).
            Steps with gradients by probes (stage "all rows") have the standard error of the loss, the products with the
            matrix, whether the solve reached its tolerance, the seconds and, at the first, the norm of the gradient's
            standard errors; stage "quadrature" has the loss measured again, `below` and `above` enclosing all of its
            error that is not chance.
        converged: whether the optimiser's own criterion, or early stopping, ended the run.
        message: why it ended.
        seconds: wall time.
        train_nll, held_out_nll: mean negative log predictive density on training rows (a sample) and on held-out rows,
            None where there were none; a large gap between them is overfitting (Ober et al. 2021).
    """

    objective: str
    steps: list[dict] = field(default_factory=list)
    converged: bool = False
    message: str = ""
    seconds: float = 0.0
    train_nll: float | None = None
    held_out_nll: float | None = None

    def add(self, stage: str, loss: float, **more: float) -> None:
        self.steps.append({"stage": stage, "step": len(self.steps), "loss": loss, **more})

    @property
    def best(self) -> float:
        """The smallest loss seen in the last stage."""
        last = self.steps[-1]["stage"]
        return min(step["loss"] for step in self.steps if step["stage"] == last)

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.steps)


__all__ = ["Trace"]
