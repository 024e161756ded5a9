"""The result of a total response: the response, its parts, how hyperparameters move, and the optimum it rests on."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gp_response.response.result import Susceptibility
from gp_response.response.total.optimum import Optimum


@dataclass(frozen=True)
class TotalSusceptibility(Susceptibility):
    """A `Susceptibility` of order "total" with what it is made of. `save` keeps the total alone.

    Attributes:
        parts: "field" (hyperparameters held fixed: `gr.susceptibility`), "hyperparameters" and, where they respond, "features";
            they add up to the total.
        hyperparameters: dθ/dh in natural units, a `Susceptibility` whose rows are the hyperparameters by name, (P, c); zero
            where one is held.
        optimum: the evidence around the hyperparameters: gradient, Newton step, eigenvalues, what was held fixed.
        head: the head in float64 that the response is of: as given, or polished.
    """

    parts: dict[str, Susceptibility] = field(default_factory=dict, repr=False, compare=False)
    hyperparameters: Susceptibility | None = field(default=None, repr=False, compare=False)
    optimum: Optimum | None = field(default=None, repr=False, compare=False)
    head: Any = field(default=None, repr=False, compare=False)

    def plain(self) -> Susceptibility:
        """The total without its parts."""
        return Susceptibility(**{name: getattr(self, name) for name in Susceptibility.__dataclass_fields__})

    def share(self, name: str) -> Tensor:
        """How much of each observable's response a part is, `‖part‖/‖total‖` over the columns, (m,); can exceed one."""
        return self.parts[name].matrix.norm(dim=1) / self.matrix.norm(dim=1)

    def metadata(self) -> dict[str, Any]:
        return self.plain().metadata()

    def __add__(self, other: Any) -> Any:
        return self.plain() + other

    def __repr__(self) -> str:
        said = self.optimum.message if self.optimum else ""
        return f"Total{super().__repr__()[:-1]}; {said})"


__all__ = ["TotalSusceptibility"]
