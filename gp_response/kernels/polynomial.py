"""The polynomial kernel."""

from typing import Any

from gpytorch.constraints import Interval
from gpytorch.priors import Prior

from gp_response.errors import InputError
from gp_response.kernels.dot import DotKernel
from gp_response.kernels.parameters import Value


class Polynomial(DotKernel):
    """(x·y / ℓ² + offset)^degree, Rasmussen & Williams (4.2.2).

    degree: a positive integer. offset: positive; lower powers get weight from it. Other arguments as for Kernel.
    Raises InputError for another degree.
    """

    settings = ("degree",)

    def __init__(
        self,
        *,
        degree: int = 2,
        offset: Value = 1.0,
        offset_prior: Prior | None = None,
        offset_constraint: Interval | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(degree, int) or degree < 1:
            raise InputError(f"degree = {degree!r}; a Polynomial kernel needs a positive integer")
        super().__init__(**options)
        self.degree = degree
        self.register_positive("offset", offset, prior=offset_prior, constraint=offset_constraint)

    def profile(self, s: Any) -> Any:
        return (s + self.offset) ** self.degree


__all__ = ["Polynomial"]
