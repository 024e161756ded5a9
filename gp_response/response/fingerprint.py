"""What a result depends on, as one hash: an interrupted computation is taken up only by the same question."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from gp_response.posterior import Posterior

# Fields of a solver that change how long it takes and what it shows, not what it returns.
IDLE = ("progress", "keep")


def fingerprint(*parts: Any) -> str:
    """sha256 (hex) of tensors (by value, dtype and shape), posteriors, plain values, and sequences of them."""
    digest = hashlib.sha256()
    for piece in _pieces(parts):
        digest.update(piece)
        digest.update(b"|")
    return digest.hexdigest()


def _pieces(part: Any) -> Iterator[bytes]:
    if isinstance(part, Tensor):
        yield f"{part.dtype} {tuple(part.shape)}".encode()
        yield part.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(part, Posterior):
        yield from _pieces(_of_posterior(part))
    elif isinstance(part, nn.Module):
        yield from _pieces(
            [[type(m).__qualname__ for m in part.modules()], repr(part), list(part.state_dict().items())]
        )
    elif isinstance(part, list | tuple):
        yield f"{len(part)}".encode()
        for inner in part:
            yield from _pieces(inner)
    else:
        yield repr(part).encode()


def _of_posterior(posterior: Posterior) -> list[Any]:
    return [
        type(posterior).__qualname__,
        posterior.data.fingerprint(),
        posterior.parts,
        _of_solver(posterior.solver),
    ]


def _of_solver(solver: Any) -> Any:
    if not dataclasses.is_dataclass(solver):
        return repr(solver)
    fields = [(f.name, getattr(solver, f.name)) for f in dataclasses.fields(solver) if f.name not in IDLE]
    return [type(solver).__qualname__, *fields]


__all__ = ["fingerprint"]
