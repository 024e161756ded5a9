"""One run of a sampler on a network's loss: gradients of all chains at once, draws kept block by block."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from tqdm.auto import tqdm

from gp_response.curvature.loss import Loss
from gp_response.curvature.rows import Rows
from gp_response.heads.sampling.chain_files import Block, ChainFiles
from gp_response.heads.sampling.langevin import Method, State, Target, advance

Outputs: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def mean_loss(call: Outputs, loss: Loss, rows: Rows) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The mean weighted loss of all rows at θ (chains, P), (chains,), and its gradient (chains, P)."""
    both = vmap(grad_and_value(_mean(call, loss)), in_dims=(0, None, None, None))

    def value(theta: Tensor) -> tuple[Tensor, Tensor]:
        gradient, mean = both(theta, rows.x, rows.y, rows.weights)
        return mean, gradient

    return value


def mean_gradient(call: Outputs, loss: Loss, rows: Rows) -> Callable[[Tensor, Tensor | None], Tensor]:
    """∇ of the mean weighted loss at θ (chains, P): of chosen rows (chains, b), or of all where None."""
    every = vmap(grad(_mean(call, loss)), in_dims=(0, None, None, None))
    chosen = vmap(grad(_mean(call, loss)))

    def gradient(theta: Tensor, which: Tensor | None) -> Tensor:
        if which is None:
            return every(theta, rows.x, rows.y, rows.weights)
        return chosen(theta, rows.x[which], rows.y[which], rows.weights[which])

    return gradient


def _mean(call: Outputs, loss: Loss) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda theta, x, y, weights: (weights * loss.rows(call(theta, x), y)).mean()


@dataclass(frozen=True, eq=False)
class Run:
    """Chains on one or more targets, moved by the same random numbers; see `sample` for the settings."""

    targets: tuple[Target, ...]
    calls: tuple[Outputs, ...]
    start: Tensor
    method: Method
    chains: int
    burn_in: int
    thin: int
    seed: int
    at: Tensor | None
    rows: tuple[int, int] | None

    def draws(
        self, count: int, *, files: ChainFiles | None, block: int, progress: bool
    ) -> tuple[list[Tensor], tuple[State, ...]]:
        """So many draws of every target, (chains, draws, …), and where they ended; taken up from files that hold some."""
        blocks = [] if files is None else files.read(self.start.device)
        have = sum(part.kept[0].shape[1] for part in blocks)
        with tqdm(total=count, initial=min(have, count), desc="draws", disable=not progress, leave=False) as bar:
            while have < count:
                blocks.append(self._next(blocks[-1] if blocks else None, min(block, count - have), bar))
                have += blocks[-1].kept[0].shape[1]
                if files is not None:
                    files.write(len(blocks) - 1, blocks[-1])
        kept = [torch.cat([part.kept[k] for part in blocks], dim=1)[:, :count] for k in range(len(self.targets))]
        return kept, blocks[-1].states

    def _next(self, last: Block | None, count: int, bar: tqdm) -> Block:
        generator = torch.Generator().manual_seed(self.seed)
        move = partial(advance, self.method, self.targets, rows=self.rows, generator=generator)
        if last is None:
            first = self.start.expand(self.chains, -1).clone()
            states = move(tuple(State(first, {}, 0) for _ in self.targets), self.burn_in)
        else:
            states = last.states
            generator.set_state(last.random)
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(count):
            states = move(states, self.thin)
            kept.append(tuple(self._read(*both) for both in zip(self.calls, states, strict=True)))
            bar.update(1)
        return Block(tuple(torch.stack(part, dim=1) for part in zip(*kept, strict=True)), states, generator.get_state())

    def _read(self, call: Outputs, state: State) -> Tensor:
        if self.at is None:
            return state.theta
        with torch.no_grad():
            found = vmap(lambda theta: call(theta, self.at))(state.theta)  # type: ignore[arg-type]
        return found[..., 0] if found.shape[-1] == 1 else found


def run_mark(tensors: Sequence[Tensor], settings: Any) -> str:
    """Which run this is, as a hash of everything that its draws depend on."""
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


__all__ = ["Outputs", "Run", "mean_gradient", "mean_loss", "run_mark"]
