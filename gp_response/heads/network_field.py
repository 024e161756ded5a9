"""The Gaussian posterior of a linearised network, read in the space of its parameters; its covariance is never formed.

In whitened parameters `u = Λ₀^½ θ` the precision is `B = 1 + G̃`, and readings with gradients g have `S_ab = g_aᵀ B⁻¹ g_b`: one
solve `z = B⁻¹ g_a` a point, then one forward-mode sweep `J z` for its covariance with all training rows. A solve with residual ρ
is off by `g_iᵀ B⁻¹ ρ`, at most `√S_ii √(ρᵀB⁻¹ρ)`, and no row has more variance than its own observation leaves it,
`S_ii <= σ_i²/(βρ_i)`. Products of two solves are corrected by the residual of one, so that their error is the product of two.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.bracket_probe import BracketProbe
from gp_response.heads.groups import Groups, groups_of, layers, masks
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_probe import NetworkProbe
from gp_response.heads.network_rows import NetworkRows
from gp_response.heads.network_system import NetworkSystem
from gp_response.heads.prior_evidence import PriorChoice
from gp_response.heads.tangent_kernel import TangentKernel
from gp_response.heads.tangent_map import require_slopes
from gp_response.kernels.look import Look
from gp_response.linalg.bracket import Coordinates
from gp_response.linalg.system import ROUNDING
from gp_response.posterior import Certified, Posterior
from gp_response.solvers import DeflatedCG, Factor, FactoredLanczos, Solution

TANGENTS = 16  # directions swept together


class NetworkField(Posterior):
    """What posteriors of linearised networks share, whatever the likelihood.

    Args:
        model: network, prior, likelihood, solver.
        data: n training rows.
    """

    full: Any = None  # what `gr.restrict` made it from, the number of its group there, and its name
    which: int | None = None
    name: str = ""
    change = 0.0  # bound on what the whitened mean is off by beside its solve, where it comes out of an iteration

    def __init__(self, model: NetworkModel, data: Dataset):
        self.model, self.data = model, data
        self.beta, self.solver, self.noise = model.beta, model.solver, model.noise
        self.rows: NetworkRows = model.rows(data)
        self.move: Solution | None = None  # of the whitened parameters, where their mean is not θ*
        self.prior_choice: PriorChoice | None = None  # where the evidence chose the prior's precision

    @cached_property
    def groups(self) -> Groups:
        """Groups of parameters, the components of the linearised network: its layers, or those of `grouped`."""
        return layers(self.model.tangent.network)

    def grouped(self, groups: Mapping[str, Any]) -> Any:
        """The same posterior with other components, `{name: parameters}`; see `gr.component`, `gr.restrict`, `gr.structural`."""
        other = copy.copy(self)
        other.groups = groups_of(self.model.tangent.network, groups)
        other.__dict__.pop("kernel", None)
        return other

    @property
    def floor(self) -> float:
        """Lower bound of the eigenvalues of B."""
        return self.system.floor

    @cached_property
    def system(self) -> NetworkSystem:
        """B, by its products."""
        return self.model.system(self.data, float(self._size()), self._start)

    def _start(self, block: int, seed: int) -> Tensor:
        """Random mixtures of the rows' gradients, (P, block): data tell nothing of other directions."""
        generator = torch.Generator().manual_seed(seed)
        shape = len(self.rows), self.model.tangent.outputs, block
        forces = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.rows.x.device)
        roots = self.data.train.weights.double().sqrt().reshape(len(self.rows), -1)
        each = roots.repeat_interleave(shape[1] // roots.shape[1], dim=1)
        return self.rows.gather(forces * each[:, :, None])

    @cached_property
    def factor(self) -> Factor:
        """B, as the solver has prepared it."""
        return self.model.solver.factor(self.system)

    def settled(self) -> Any:
        """Itself, with the solver prepared, so that what cannot be solved is refused now."""
        _ = self.factor
        return self

    def _size(self) -> Tensor:
        """Bound on the trace of the whitened curvature, 0-dim."""
        raise NotImplementedError

    @property
    def eps(self) -> float:
        """Rounding of a gradient or a product with one, relative to its length."""
        return ROUNDING * torch.finfo(self.model.tangent.network.dtype).eps

    @cached_property
    def kernel(self) -> TangentKernel:
        """The tangent kernel; for names of its hyperparameters."""
        tangent = self.model.tangent
        return TangentKernel(
            tangent.network, self.model.precision, inputs=tangent.inputs, groups=self.groups, axes=tangent.axes
        )

    def probe(self, x: Tensor | Look) -> NetworkProbe:
        look = self.look(x)
        require_slopes(self.model.tangent, look)
        return BracketProbe(self, look) if isinstance(self.factor, FactoredLanczos) else NetworkProbe(self, look)

    def from_rows(self, rows: Tensor) -> NetworkProbe | None:
        return self.probe(self.row_points[rows]) if isinstance(self.factor, DeflatedCG) else None

    def gradients(self, look: Look) -> Tensor:
        """Whitened gradients of readings, (P, p) float64; those of a component see its own parameters alone."""
        whole = replace(look.double(), component=None)
        try:
            found = self.rows.whiten(whole.of(lambda z: self.model.tangent.gradient(z).T).detach().double())
        except (RuntimeError, NotImplementedError) as error:
            if look.direction is None or isinstance(error, torch.OutOfMemoryError):
                raise
            raise _no_slope(error) from error
        if look.component is None:
            return found
        return found * masks(self.model.tangent.network, self.groups)[:, look.component.to(found.device)]

    def at_origin(self, look: Look) -> Tensor:
        """Readings of the network at θ*, (p,) float64; components are zero there."""
        return look.double().start(self.model.tangent.value).detach().double()

    def own_variance(self, rows: Tensor, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """`S_jj` of training rows (k,): one solve each, or none where `Lanczos()` brackets them all."""
        if isinstance(self.factor, FactoredLanczos):
            return self._bracketed_variance(self.factor, rows)
        value, error, converged = [], [], []
        for some in tqdm(rows.split(self._step()), desc="own variances", disable=not progress, leave=False):
            probe = self.probe(self.row_points[some])
            value.append(probe.variance.value)
            error.append(probe.variance.error)
            converged.append(probe.converged)
        return Certified(torch.cat(value), torch.cat(error)), torch.cat(converged)

    def _bracketed_variance(self, factor: FactoredLanczos, rows: Tensor) -> tuple[Certified, Tensor]:
        whole = self.row_coordinates
        low, high = factor.bracket.diagonal(Coordinates(whole.low[:, rows], whole.square[rows]))
        high = torch.maximum(low, torch.minimum(high, self.row_roots[rows].square()))
        rounding = 2.0 * self.eps * whole.square[rows] / self.floor
        found = Certified(0.5 * (low + high), 0.5 * (high - low) + rounding)
        return found, found.error <= factor.solver.tolerance * found.value

    def among(self, rows: Tensor, others: Tensor | None = None, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """As for any posterior; among few rows by products of two solves, whose errors are products of two."""
        if others is not None or len(rows) > self._step():
            return super().among(rows, others, progress=progress)
        probe = self.probe(self.row_points[rows])
        return probe.to(probe), probe.converged

    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        one, other = (self.gradients(Look(self.points(part))) for part in (x, y))
        return self._like(one.T @ other)

    @property
    def row_points(self) -> Tensor:
        """The training rows as points."""
        return self.data.train.x

    @cached_property
    def row_roots(self) -> Tensor:
        """Bound on `√S_ii` of every row and output, (n C,)."""
        return self.rows.lengths / self.floor**0.5

    @cached_property
    def row_coordinates(self) -> Coordinates:
        """Coordinates of the gradients of all rows and outputs in the Krylov basis of `Lanczos()`, by one sweep."""
        assert isinstance(self.factor, FactoredLanczos)
        basis = self.factor.bracket.basis
        every = torch.eye(basis.m, dtype=torch.float64, device=self.rows.x.device)
        dtype = self.model.tangent.network.dtype
        some = every.split(min(TANGENTS, self.rows.at_once))
        low = [self.rows.spread(basis.lift(part.T, dtype)).flatten(0, 1).T for part in some]
        return Coordinates(torch.cat(low), self.rows.lengths.square())

    @property
    def parts(self) -> list[Any]:
        model = self.model
        held = [self.kernel.origin, self.kernel.held, repr(model.tangent.network.module), model.tangent.inputs]
        return [self.beta, model.precision, model.likelihood, model.kind, *held]

    def energy(self, solution: Solution) -> Tensor:
        """Bound on `√(ρᵀB⁻¹ρ)` of every column of a solve, (p,)."""
        if solution.energy is not None:
            return solution.energy
        return solution.defect / self.floor**0.5

    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean at x (n, d), (n,), without a solve: the network's own output where it is the mode."""
        return self._like(self.mean_of(self.look(x)).value)

    def mean_of(self, look: Look) -> Certified:
        """Means of readings, (p,), without a solve for each."""
        found = [self._means(some) for some in look.double().split(self._step())]
        return Certified(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _means(self, look: Look) -> Certified:
        value, gradients = self.at_origin(look), self.gradients(look)
        length = gradients.norm(dim=0)
        error = self.eps * (value.abs() + length * self.origin_length)
        if look.component is not None:
            value, error = value - gradients.T @ self.pull, error + self.eps * length * self.pull.norm()
        if self.move is None:
            return Certified(value, error)
        moved, lost = self.move.value[:, 0], self.energy(self.move) + self.eps * self.move.value.norm()
        return Certified(value + gradients.T @ moved, error + length * (lost / self.floor**0.5 + self.change))

    @property
    def prior_mean(self) -> Any:
        """m(x) of the process where noise is Gaussian; elsewhere the prior moves the mode, and no closed form is here."""
        raise InputError(
            "hyperparameters of a network's prior have closed forms under Gaussian noise alone, and this is "
            f"{self.model.likelihood!r}; compare two of gr.laplace(..., prior_precision=...)"
        )

    @property
    def pull(self) -> Tensor:
        """`Λ₀(θ₀ - θ*)` whitened, (P,), where outputs are one; from where components are counted."""
        raise InputError("components are not here for several classes; use restrict(posterior, parameters)")

    @cached_property
    def origin_length(self) -> Tensor:
        """Length of the whitened parameters, 0-dim."""
        network, root = self.model.tangent.network, self.model.root
        roots = network.tree(root.expand(network.count))
        return torch.stack([(roots[name] * part).norm() for name, part in network.parts.items()]).norm()

    @property
    def together(self) -> int:
        """Points that gain by being looked from together: long vectors of a basis share no product."""
        return self.rows.at_once if isinstance(self.factor, FactoredLanczos) else super().together

    @property
    def width(self) -> int:
        """Numbers in a point's gradient and solution, and its covariances with the rows."""
        return self.model.tangent.count + len(self.rows) * self.model.tangent.outputs


def _no_slope(error: Exception) -> InputError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return InputError(f"torch has no slope of this network's gradients ({said}); use value or contrast")


__all__ = ["NetworkField"]
