"""Draws on disk, a file a block of draws, so that a killed sampler goes on from the last whole block.

Each file is written atomically and holds the draws of its block and where the chains are after it: θ, what
their method remembers, the state of the random numbers.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gp_response.errors import InputError
from gp_response.files import write_atomically
from gp_response.heads.sampling.langevin import State

FORMAT = "gp_response.draws/2"


class Block(NamedTuple):
    """Draws kept of every target, each (chains, k, …), and the state after them."""

    kept: tuple[Tensor, ...]
    states: tuple[State, ...]
    random: Tensor


class ChainFiles:
    """The folder of one run of a sampler; `mark` says which run, so that another is not continued.

    Raises:
        InputError: the folder holds another run, or something else.
    """

    def __init__(self, folder: Path | str, mark: str):
        self.folder, self.mark = Path(folder), mark

    def write(self, index: int, block: Block) -> None:
        tensors = {"random": block.random}
        for k, (kept, state) in enumerate(zip(block.kept, block.states, strict=True)):
            tensors |= {f"kept{k}": kept, f"theta{k}": state.theta}
            tensors |= {f"memory{k}.{name}": part for name, part in state.memory.items()}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "mark": self.mark, "steps": str(block.states[0].steps)}
        write_atomically(self._path(index), save(plain, metadata=header))

    def read(self, device: torch.device) -> list[Block]:
        """All whole blocks, in order."""
        found: list[Block] = []
        while (path := self._path(len(found))).exists():
            found.append(self._block(path, device))
        if self.folder.exists() and not found and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} holds other files and no draws; choose another folder")
        return found

    def _path(self, index: int) -> Path:
        return self.folder / f"draws-{index:06d}.safetensors"

    def _block(self, path: Path, device: torch.device) -> Block:
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is not a readable file of draws: {error}; delete it to sample it again"
            ) from error
        if (header.get("format"), header.get("mark")) != (FORMAT, self.mark):
            raise InputError(
                f"{path.parent} holds the draws of another network, data or settings; choose another folder"
            )
        count, steps = sum(name.startswith("kept") for name in tensors), int(header["steps"])
        tensors = {name: t if name == "random" else t.to(device) for name, t in tensors.items()}
        states = tuple(State(tensors[f"theta{k}"], _below(f"memory{k}.", tensors), steps) for k in range(count))
        return Block(tuple(tensors[f"kept{k}"] for k in range(count)), states, tensors["random"])


def _below(stem: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(stem) :]: tensor for name, tensor in tensors.items() if name.startswith(stem)}


__all__ = ["Block", "ChainFiles"]
