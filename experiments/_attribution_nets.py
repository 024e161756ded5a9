"""Small networks on real data, many trained at once: the ground truth of attribution.

Networks of one shape are one batched module (`torch.func.vmap`), so that hundreds are retrained in the time of a few. Each
minimises `Σ_{i in its rows} ℓ_i(θ) + ½ λ ‖θ‖²` by Adam on all its rows from its own initial values, the same whatever the rows
are: a network without some rows differs from the one with all of them by those rows alone.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import gp_response as gr

Parameters = dict[str, Tensor]  # each (networks, *shape)
ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU}


@dataclass(frozen=True)
class Pair:
    """A data set and the network that learns it. noise: variance of a regression's targets; None where they are classes."""

    dataset: str
    widths: tuple[int, ...]
    activation: str
    precision: float
    noise: float | None = None
    classes: int = 0


@dataclass(frozen=True)
class Case:
    """Rows of a pair, inputs (n, d) and targets (n,) in float64, and points (m, d) with targets (m,) at which outputs are asked."""

    pair: Pair
    x: Tensor
    y: Tensor
    points: Tensor
    targets: Tensor

    @property
    def outputs(self) -> int:
        return self.pair.classes if self.pair.classes > 2 else 1

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood of outputs (..., C) and targets (...)."""
        if self.pair.noise is not None:
            return (out[..., 0] - y).square() / (2.0 * self.pair.noise)
        if self.outputs == 1:
            return nn.functional.softplus((1.0 - 2.0 * y) * out[..., 0])
        return out.logsumexp(dim=-1) - self._own(out, y)

    def asked(self, out: Tensor, y: Tensor) -> Tensor:
        """What is attributed: a regression's value; of classes the log-odds of the true one, `log p/(1 - p)`."""
        if self.pair.noise is not None:
            return out[..., 0]
        if self.outputs == 1:
            return (2.0 * y - 1.0) * out[..., 0]
        return self._own(out, y) - out.masked_fill(self._is(y), -math.inf).logsumexp(dim=-1)

    def _own(self, out: Tensor, y: Tensor) -> Tensor:
        return out.masked_fill(~self._is(y), 0.0).sum(dim=-1)

    def _is(self, y: Tensor) -> Tensor:
        return torch.arange(self.outputs) == y[..., None]

    def network(self, seed: int) -> nn.Sequential:
        """Torch's own initial values under this seed, float64."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [self.x.shape[1], *self.pair.widths]
            layers: list[nn.Module] = []
            for wide, narrow in itertools.pairwise(sizes):
                layers += [nn.Linear(wide, narrow), ACTIVATIONS[self.pair.activation]()]
            return nn.Sequential(*layers, nn.Linear(sizes[-1], self.outputs)).double()

    def load(self, parameters: Parameters, which: int) -> nn.Sequential:
        """One of a batch of networks as a module of its own."""
        net = self.network(0)
        net.load_state_dict({name: value[which] for name, value in parameters.items()})
        return net.eval()


def draw(pair: Pair, rows: int, points: int, seed: int) -> Case:
    """Some rows of the data set, inputs scaled by the statistics of its training part (digits: to at most one)."""
    published = pair.noise is not None
    data = (
        gr.load(pair.dataset, split=seed)
        if published
        else gr.load(pair.dataset, seed=seed, standardise=pair.classes == 2)
    )
    generator = torch.Generator().manual_seed(seed)
    train = data.train.take(torch.randperm(len(data.train), generator=generator)[:rows])
    test = data.test.take(torch.randperm(len(data.test), generator=generator)[:points])
    scale = 1.0 if published or pair.classes == 2 else train.x.abs().max()
    return Case(pair, train.x / scale, train.y, test.x / scale, test.y)


def start(case: Case, seeds: list[int]) -> Parameters:
    parameters, _ = stack_module_state([case.network(seed) for seed in seeds])
    return {name: value.detach() for name, value in parameters.items()}


def train(case: Case, parameters: Parameters, rows: Tensor, steps: int, polish: int, rate: float = 0.02) -> Parameters:
    """Networks trained on their rows (networks, r): by Adam whose rate falls as a cosine, then by L-BFGS to the minimum."""
    net, x, y = case.network(0), case.x[rows], case.y[rows]
    energy = vmap(lambda p, a, b: energy_of(case, net, p, a, b))
    if steps:
        parameters = _adam(energy, parameters, x.float(), y.float(), steps, rate)
    shapes = {name: value.shape for name, value in parameters.items()}
    sizes = [value[0].numel() for value in parameters.values()]

    def tree(flat: Tensor) -> Parameters:
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, flat.split(sizes, dim=1), strict=True)}

    def both(flat: Tensor) -> tuple[Tensor, Tensor]:
        flat = flat.detach().requires_grad_()
        value = energy(tree(flat), x, y)
        return value.detach(), torch.autograd.grad(value.sum(), flat)[0]

    begun = torch.cat([value.flatten(1) for value in parameters.values()], dim=1)
    return tree(lbfgs(both, begun, polish) if polish else begun)


def _adam(
    energy: Callable[..., Tensor], parameters: Parameters, x: Tensor, y: Tensor, steps: int, rate: float
) -> Parameters:
    """In float32: twice as fast, and L-BFGS comes after it where it matters."""
    moving = {name: value.float().requires_grad_() for name, value in parameters.items()}
    optimiser = torch.optim.Adam(moving.values(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        energy(moving, x, y).sum().backward()
        optimiser.step()
        schedule.step()
    return {name: value.detach().double() for name, value in moving.items()}


def lbfgs(both: Callable[[Tensor], tuple[Tensor, Tensor]], at: Tensor, steps: int, memory: int = 20) -> Tensor:
    """Each of many functions minimised at once: `both` gives values (M,) and gradients (M, P) at (M, P); Armijo's backtracking."""
    value, slope = both(at)
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        direction = _two_loops(slope, past)
        fall = (direction * slope).sum(dim=1)
        length = torch.where(fall < 0, 1.0, 0.0) if past else 1.0 / slope.norm(dim=1).clamp_min(1.0)
        for _ in range(12):
            ahead = at + length[:, None] * direction
            new, new_slope = both(ahead)
            high = ~(new <= value + 1e-4 * length * fall)
            if not bool(high.any()):
                break
            length = torch.where(high, 0.3 * length, length)
        ahead, new = torch.where(high[:, None], at, ahead), torch.where(high, value, new)
        new_slope = torch.where(high[:, None], slope, new_slope)
        s, y = ahead - at, new_slope - slope
        product = (s * y).sum(dim=1)
        usable = product > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
        past = [*past, (s, y, torch.where(usable, 1.0 / product, 0.0))][-memory:]
        at, value, slope = ahead, new, new_slope
    return at


def _two_loops(slope: Tensor, past: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian's estimate times the slope (Nocedal 1980); pairs of inverse product 0 do not count."""
    left, shares = slope.clone(), []
    for s, y, inverse in reversed(past):
        share = inverse * (s * left).sum(dim=1)
        left -= share[:, None] * y
        shares.append(share)
    scale = torch.ones(len(slope), dtype=slope.dtype)
    for _, y, inverse in past:
        scale = torch.where(inverse > 0, 1.0 / (inverse * y.square().sum(dim=1)), scale)
    left *= scale[:, None]
    for (s, y, inverse), share in zip(past, reversed(shares), strict=True):
        left += (share - inverse * (y * left).sum(dim=1))[:, None] * s
    return -left


def energy_of(case: Case, net: nn.Module, parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """What one network minimises."""
    size = sum(value.square().sum() for value in parameters.values())
    return case.loss(functional_call(net, parameters, (x,)), y).sum() + 0.5 * case.pair.precision * size


def retrain(
    case: Case, initial: Parameters, sets: list[Tensor], steps: int, polish: int, together: int = 400
) -> Tensor:
    """Outputs asked of networks trained on each set of rows from each network's initial values, (networks, points, sets)."""
    count, rows = len(next(iter(initial.values()))), torch.stack(sets)
    found = []
    for some in rows.split(max(1, together // count)):
        begun = {name: value.repeat_interleave(len(some), dim=0) for name, value in initial.items()}
        ended = train(case, begun, some.repeat(count, 1), steps, polish)
        found.append(asked(case, ended).reshape(count, len(some), -1))
    return torch.cat(found, dim=1).mT


def asked(case: Case, parameters: Parameters) -> Tensor:
    """Outputs asked of each network at the points, (networks, points)."""
    net = case.network(0)
    return vmap(lambda p: case.asked(functional_call(net, p, (case.points,)), case.targets))(parameters)


@dataclass(frozen=True)
class Gradients:
    """Of one network: of the outputs asked (m, P), of the rows' losses (n, P), of its energy (P,)."""

    points: Tensor
    rows: Tensor
    energy: Tensor


def gradients(case: Case, parameters: Parameters, which: int) -> Gradients:
    net, own = case.network(0), {name: value[which] for name, value in parameters.items()}

    def flat(found: Parameters) -> Tensor:
        return torch.cat([part.flatten(1) for part in found.values()], dim=1)

    def one(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return case.asked(functional_call(net, p, (x[None],)), y[None])[0]

    def lost(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return case.loss(functional_call(net, p, (x[None],)), y[None])[0]

    whole = grad(lambda p: energy_of(case, net, p, case.x, case.y))(own)
    return Gradients(
        flat(vmap(grad(one), (None, 0, 0))(own, case.points, case.targets)),
        flat(vmap(grad(lost), (None, 0, 0))(own, case.x, case.y)), flat({k: v[None] for k, v in whole.items()})[0],
    )  # fmt: skip


def slopes(case: Case, net: nn.Module) -> Tensor:
    """Derivatives of the outputs asked by the network's outputs at the points, (m, C)."""
    with torch.no_grad():
        out = net(case.points)
    return vmap(jacrev(lambda o, y: case.asked(o, y)))(out, case.targets)
