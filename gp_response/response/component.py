"""Components of an additive field, `f = m₀ + Σ_c f_c` for a kernel `k = Σ_c k_c`, as observables."""

import copy
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_integer
from gp_response.errors import InputError, unknown_name
from gp_response.posterior import Certified
from gp_response.response.observable import Observable, as_points
from gp_response.response.observables import Value


class Component(Value):
    """Components of the field at each point; see `component`."""

    def __init__(self, x: Any, which: int | str | None):
        self.points, self.which, self.labels = as_points(x, "component"), which, [""]

    def look(self) -> Any:
        if self.component is None:
            raise InputError("a component is known by the posterior's kernel only; use observable.under(posterior)")
        return super().look()

    def resolved(self, kernel: Any) -> Observable:
        """The same with components by number, which a kernel's names stand for."""
        if self.component is not None:
            return self
        names, x, found = component_names(kernel), self.points, copy.copy(self)
        chosen = list(range(len(names))) if self.which is None else [component_number(kernel, self.which)]
        found.points = x.repeat(len(chosen), 1)
        found.component = torch.tensor(chosen, device=x.device).repeat_interleave(len(x))
        found.labels = [f"{names[c]}[{a}]" for c in chosen for a in range(len(x))]
        return found

    def under(self, posterior: Any) -> Observable:
        return Observable.under(self.resolved(posterior.kernel), posterior)

    def names(self) -> list[str]:
        return self.labels


def component(x: Any, which: int | str) -> Component:
    """The component f_c of an additive field at x (p, d): one observable a point, in the unit of `data.train.y`.

    With k = Σ_c k_c the posterior of f_c has mean `k_c(x, X)α` and `Cov(f_c, f_d) = δ_cd k_c - k_c A⁻¹ k_d`: data decide how
    components share what they explain, so they covary although they are independent before the data.

    Args:
        which: number of the term in the sum, or the name it was given by `kernel.named(...)`. Sums are seen through features and
            factors; a sum with a factor or columns of its own inside a sum is one term.

    Raises:
        InputError: when asked of a posterior whose kernel is no sum, or has no such term.
    """
    return Component(x, which)


def components(x: Any) -> Component:
    """All components of an additive field at x (p, d), component by component. They and the prior mean add up to `value(x)`."""
    return Component(x, None)


def component_covariance(posterior: Any, x: Any) -> Tensor:
    """Posterior covariances of all components at x (p, d), (C, C, p, p): `[c, d]` is `Cov(f_c(x), f_d(x))`; their sum is `cov(x)`.

    In the unit of y squared, in the data's precision.
    """
    with torch.no_grad():
        probe = posterior.probe(posterior.look(components(posterior.points(x)).under(posterior).look()))
        cov, count = probe.to(probe).value, len(component_names(posterior.kernel))
        size = len(cov) // count
        return cov.view(count, size, count, size).permute(0, 2, 1, 3).to(posterior.data.train.x.dtype)


def rest_of(posterior: Any, which: int, x: Any) -> Certified:
    """The mean of all but one component, prior mean included, at x (p, d), (p,)."""
    x = posterior.points(x)
    look = Component(x, which).under(posterior).look()
    found = []
    for some in torch.arange(len(x), device=x.device).split(posterior._step()):
        whole, part = posterior.probe(x[some]).mean, posterior.probe(look[some]).mean
        rounding = torch.finfo(torch.float64).eps * (whole.value.abs() + part.value.abs())
        found.append(Certified(whole.value - part.value, whole.error + part.error + rounding))
    return Certified.joined(found)


def component_names(kernel: Any) -> list[str]:
    """Names of the terms of a sum of kernels: those given by `named`, else their numbers."""
    if not hasattr(kernel, "component_names"):
        raise InputError(f"a {type(kernel).__name__} has no components; use a head with a sum of kernels")
    names = kernel.component_names()
    if len(set(names)) != len(names):
        raise InputError(f"components named {', '.join(names)}; give each its own name")
    return names


def component_number(kernel: Any, which: int | str) -> int:
    """The number of a term by its name or number."""
    names = component_names(kernel)
    if isinstance(which, str):
        if which not in names:
            raise unknown_name("component", which, names)
        return names.index(which)
    there = f"one of {', '.join(names)}, or a number from 0 to {len(names) - 1}"
    return as_integer(which, "component", there, least=0, most=len(names) - 1)


__all__ = [
    "Component", "component", "component_covariance", "component_names", "component_number", "components", "rest_of",
]  # fmt: skip
