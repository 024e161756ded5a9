"""Several classes through the softmax, a field for each."""

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """`p(y = c | f) = e^{f_c} / Σ e^{f_k}` of fields f (…, C), labels 0 to C - 1 (Rasmussen & Williams 2006, eq. 3.34).

    Args:
        classes: C, 2 or more.
    """

    discrete = True

    def __init__(self, classes: int):
        super().__init__()
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise InputError(f"Categorical(classes={classes!r}): expected their number, 2 or more")
        self.classes = classes

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        """log p(y | f) for f (…, n, C) and y (n,), (…, n)."""
        chosen = y.long()[..., None].expand(*f.shape[:-1], 1)
        return torch.log_softmax(f, dim=-1).gather(-1, chosen)[..., 0]

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (…, C) of the classes, and the variances of their indicators."""
        p = torch.softmax(f, dim=-1)
        return p, p * (1.0 - p)

    def check(self, y: Tensor) -> None:
        wrong = (y != y.round()) | (y < 0) | (y >= self.classes)
        self.refuse(y, wrong, f"a class, 0 to {self.classes - 1} (make the data set with standardise='x')")

    def indicator(self, y: Tensor) -> Tensor:
        """Labels (n,) as rows with a one at their class, (n, C)."""
        return torch.nn.functional.one_hot(y.long(), self.classes).to(torch.float64)

    def __repr__(self) -> str:
        return f"Categorical({self.classes})"


__all__ = ["Categorical"]
