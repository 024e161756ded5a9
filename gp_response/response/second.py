"""Second-order response: the Hessian of expectations in the amplitudes of a perturbation's columns, with error bounds."""

from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.arguments import as_integer, as_places, as_tensor, shown
from gp_response.errors import InputError
from gp_response.linalg.blocks import block_size, byte_budget, point_bytes
from gp_response.linalg.memory import free_bytes
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.assemble import Answer, assemble, count_observables
from gp_response.response.bend import Bender
from gp_response.response.linear_energy import linear_energy, require_field
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.whole import Whole


@dataclass(frozen=True)
class SecondResponse:
    """Second derivatives of m observables by the amplitudes of pairs of columns.

    Attributes:
        matrix: (m, q) for q pairs, or (m, c, c) for all pairs of c columns; in `unit`.
        error: the same shape, absolute bounds.
        rows, columns: names of observables and of columns.
        pairs: (q, 2) numbers of columns, None where all were asked for.
        kind, observable, unit, beta: as in `Susceptibility`.
        flagged: observables of which a solve did not converge or a bound is not finite; `converged` where there are none.
    """

    matrix: Tensor
    error: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    pairs: Tensor | None
    kind: str
    observable: str
    unit: str
    beta: float
    flagged: tuple[int, ...] = field(default=())

    @property
    def converged(self) -> Tensor:
        return torch.tensor(not self.flagged)

    def along(self, h: Tensor) -> Tensor:
        """`Σ_jk h_j h_k d²⟨O⟩/dh_j dh_k` for amplitudes h (c,), (m,): half of it is the second-order part of a joint change."""
        if self.pairs is not None:
            raise InputError("a direction needs the response to all pairs of columns; leave pairs out")
        c = len(self.columns)
        h = as_tensor(h, "along", f"({c},) amplitudes").to(self.matrix)
        if h.shape != (c,) or not bool(h.isfinite().all()):
            raise InputError(f"along got {shown(h)}; expected ({c},) finite amplitudes, one for each column")
        return torch.einsum("j,mjk,k->m", h, self.matrix, h)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k largest entries of each observable: columns row, rank, first, second, value, error."""
        k = as_integer(k, "top", "at least 1, a whole number", least=1)
        c = len(self.columns)
        pairs = torch.triu_indices(c, c).T if self.pairs is None else self.pairs
        flat = [t[:, pairs[:, 0], pairs[:, 1]] if self.pairs is None else t for t in (self.matrix, self.error)]
        where = flat[0].abs().topk(min(k, len(pairs)), dim=1).indices
        names = [[self.columns[int(j)] for j in pair] for pair in pairs]
        table = [
            {"row": self.rows[a], "rank": r + 1, "first": names[q][0], "second": names[q][1],
             "value": float(flat[0][a, q]), "error": float(flat[1][a, q])}
            for a, best in enumerate(where.tolist()) for r, q in enumerate(best)
        ]  # fmt: skip
        return pd.DataFrame(table)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.matrix.shape)
        flag = "" if self.converged else f", {len(self.flagged)} rows not converged"
        return f"SecondResponse({shape}, {self.kind}, {self.unit}, error <= {float(self.error.max()):.1e}{flag})"


def second_response(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, pairs: Any = None,
    progress: bool = False,
) -> SecondResponse:  # fmt: skip
    """`d²⟨O⟩/dh_j dh_k` of every observable, hyperparameters fixed.

    For reweighting it is `-(β/σ²)² S_jk (S_aj r_k + S_ak r_j)` of a value; see `pairs` for the field and `chain` for the rest.
    Where the energy itself is curved, as by noise and shifts, the first-order response to its second derivative comes on top.
    Beside the solves of the first-order response it takes one for each distinct site on one side of the pairs; of an exact
    posterior, where these are more than a sixteenth of the rows, one factor of the system that fits into memory instead. Shifts,
    new rows and mixtures take one for each row that moves or is new.

    Args:
        posterior: with a Gaussian likelihood.
        observable: m functionals of the field at points.
        perturbation: c columns: reweight, relabel, delete, insert, noise, shift_inputs, rows or groups of them; mixture,
            temperature, and any other whose energy is linear in h. Shifts need a kernel whose field has slopes.
        pairs: (q, 2) numbers of columns; None: all c x c.
        progress: show a bar over points.

    Returns:
        a `SecondResponse`: `.matrix` (m, q), or (m, c, c).

    Raises:
        InputError: another likelihood, hyperparameters, a perturbation with a curved energy that does not say how, columns out of
            range, a result that does not fit into memory.
    """
    require_posterior(posterior, "second_response")
    require_asked(observable, perturbation, "second_response")
    with torch.no_grad():
        if isinstance(observable, Whole):
            raise InputError(f"second_response is of functionals of the field at points; {observable.kind} is none")
        require_field(posterior, "second_response")
        if not perturbation.curved:
            linear_energy(posterior, perturbation, "second_response")
        observable, columns = observable.under(posterior), perturbation.columns_of(posterior)
        asked, every = _pairs(pairs, len(columns)).to(posterior.data.train.x.device), pairs is None
        _refuse_what_does_not_fit(count_observables(observable), len(asked) * (2 if every else 1))
        bender = Bender(posterior, observable, perturbation, asked)
        matrix, error, flagged = _assembled(posterior, observable, bender, len(asked), progress)
        found = SecondResponse(
            matrix, error, tuple(observable.names()), tuple(columns), asked.cpu(),
            perturbation.kind, observable.kind, f"{observable.unit} per ({perturbation.unit})^2", posterior.beta,
            tuple(torch.nonzero(flagged).flatten().tolist()),
        )  # fmt: skip
        return _square(found, asked) if every else found


def _assembled(
    posterior: Posterior, observable: Observable, bender: Bender, count: int, progress: bool
) -> tuple[Tensor, Tensor, Tensor]:
    like, device = posterior.residuals.value, posterior.data.train.x.device
    each = point_bytes(posterior.width, like, columns=2 * bender.width)
    step = block_size(each, byte_budget(None, device), most=len(observable.points))
    with tqdm(total=len(observable.points), desc="second order", disable=not progress, leave=False) as bar:

        def answer(where: Tensor) -> Answer:
            bar.update(len(where))
            return bender.answer(where)

        rows = assemble(observable, 0, count_observables(observable), count, step=step, answer=answer, like=like)
    matrix, error = rounded(Certified(rows.matrix, rows.error), posterior.data.train.x.dtype)
    return matrix, error, rows.flagged


def _square(found: SecondResponse, pairs: Tensor) -> SecondResponse:
    """The upper triangle (m, q) as symmetric (m, c, c)."""
    c = len(found.columns)

    def whole(part: Tensor) -> Tensor:
        out = part.new_empty(len(part), c, c)
        out[:, pairs[:, 0], pairs[:, 1]] = part
        out[:, pairs[:, 1], pairs[:, 0]] = part
        return out

    return replace(found, matrix=whole(found.matrix), error=whole(found.error), pairs=None)


def _pairs(pairs: Any, columns: int) -> Tensor:
    if pairs is None:
        return torch.triu_indices(columns, columns).T
    return as_places(pairs, "second_response's pairs", 2, columns, "columns")


def _refuse_what_does_not_fit(rows: int, entries: int) -> None:
    need, have = 4 * 8 * rows * entries, free_bytes(torch.device("cpu"))
    if have is not None and need > have:
        raise InputError(
            f"the response of {rows} observables to {entries} pairs needs {need / 2**30:.1f} GiB and "
            f"{have / 2**30:.1f} GiB are free; give pairs=, or fewer columns"
        )


__all__ = ["SecondResponse", "second_response"]
