"""Rounds of patterning: invert the response, condition the model on the weights, invert the response there for what is missing.

Newton's method on the conditions "change of O = target" (sequential quadratic programming with the curvature of the least
change alone). Iterates lie within mass and bounds, which are convex, and so do all points between them: a step that does
not come nearer is shortened.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import SolverError
from gp_response.posterior import Certified, Posterior
from gp_response.response.certified_expectation import certified_expectation
from gp_response.response.nearest_weights import Nearest, Strengths, nearest
from gp_response.response.pattern_question import Question
from gp_response.response.pattern_result import Linearisation, Pattern, allowed, predicted_change, shares
from gp_response.response.susceptibility import susceptibility
from gp_response.response.weight_room import WeightRoom

GOOD = 0.25  # of the decrease that the linearisation promises, for the whole way to be taken
PATIENCE = 2  # rounds in which the whole way may fail before it is tried no more
DESCENT = 1e-3  # of it, which any step must bring
SHORTEST = 1.0 / 64  # of the way to the linear solution
STALLED = 1e-6  # relative decrease of the objective from which no more rounds follow


class State(NamedTuple):
    """Weights that the model was conditioned on: change of columns (c,), and of observables (q,) with its bound."""

    change: Tensor
    moved: Tensor
    error: Tensor


class Search:
    """The rounds of one question; `result()` runs them."""

    def __init__(self, asked: Question, strengths: Strengths, progress: bool):
        self.asked, self.strengths, self.progress = asked, strengths, progress
        self.kept: dict[str, Posterior] = {}
        self.notes: list[str] = []
        self.history: list[Linearisation] = []
        self.conditioned = self.failed = 0
        self.combine = _leading(asked, strengths.rank)
        self.first = self._nearest(asked.matrix, asked.target)
        self.feasible = self.first.feasible

    def result(self) -> Pattern:
        asked = self.asked
        change, moved, error = self._exact()
        weights = asked.room.weights(change, asked.dtype)
        predicted, off = predicted_change(asked.matrix, asked.chi.error.double().cpu()[asked.rows], change)
        others = tuple(k for k in range(len(asked.chi.rows)) if k not in set(asked.rows))
        return Pattern(
            weights=weights.to(asked.chi.matrix.device), change=change, columns=asked.chi.columns,
            observables=tuple(asked.chi.rows[k] for k in asked.rows), target=asked.target, predicted=predicted,
            predicted_error=off, exact=moved, exact_error=error, feasible=self.feasible, tolerance=asked.tolerance,
            bounds=(asked.room.lower, asked.room.upper), strengths=self.strengths, history=tuple(self.history),
            notes=tuple(self.notes), source=asked.source, others=others, kept=self.kept,
        )  # fmt: skip

    def _exact(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Change of the columns and, where the model can be conditioned, of the observables with its bound."""
        asked = self.asked
        if asked.chi.flagged:
            self.notes.append(
                f"{len(asked.chi.flagged)} observables of the response had not converged or have no bound"
            )
        if asked.source is None:
            self.notes.append(
                "the response does not know its posterior: linear prediction alone, nothing was linearised again"
            )
            return self.first.change, None, None
        if bool((asked.room.weights(self.first.change, asked.dtype) < 0).any()):
            self.notes.append(
                "some weights are negative, on which no model can be conditioned: linear prediction alone"
            )
            return self.first.change, None, None
        self.before = certified_expectation(asked.source.posterior, asked.source.observable)
        state = self._rounds()
        return state.change, state.moved, state.error

    def _rounds(self) -> State:
        asked, room = self.asked, self.asked.room
        zero = torch.zeros_like(self.first.change)
        state = State(zero, torch.zeros_like(asked.target), 2.0 * self._asked_for(self.before.error))
        low, high = room.box()
        inside = bool(((low <= 0) & (high >= 0)).all())
        found, matrix = self.first, asked.matrix
        for _ in tqdm(range(asked.iterations + 1), desc="patterning", disable=not self.progress, leave=False):
            self.conditioned = 0
            state, step, going = self._step(state, found, matrix, outside=not (inside or self.history))
            self._note(state, step, found)
            if not going or self._done(state) or len(self.history) > asked.iterations:
                break
            matrix = self._response()
            found = self._nearest(matrix, asked.target - state.moved + matrix @ state.change)
        self.feasible = found.feasible or self._reached(state)
        return state

    def _step(
        self, state: State, found: Nearest, matrix: Tensor, *, outside: bool
    ) -> tuple[State, float, bool]:  # fmt: skip
        """As far towards the linear solution as the objective falls, how far that was, and whether to go on.

        outside: the weights before are outside the bounds, so that only the whole way leads inside.
        """
        if not self.asked.iterations:  # a response inverted once is taken at its word
            return self._conditioned(found.change), 1.0, False
        before, way = self._objective(state.change, state.moved), found.change - state.change
        promised = before - self._objective(found.change, state.moved + matrix @ way)
        if not outside and promised <= STALLED * before:
            self.kept.clear()
            return state, 0.0, False
        if outside or self.failed < PATIENCE:
            trial = self._conditioned(found.change) if outside else self._tried(found.change)
            if trial is not None:
                gained = before - self._objective(trial.change, trial.moved)
                if outside or gained >= GOOD * promised:
                    return trial, 1.0, True
            self.failed += 1
        if self.strengths.ridge == 0.0:  # a ridge weighs the change from the weights before
            way = self._shortest(state, matrix)
        return self._shortened(state, way, matrix, before)

    def _shortest(self, state: State, matrix: Tensor) -> Tensor:
        """The least change from the weights there are, not from those before, that the response says meets the target: where
        the response bends much on the way to the least change of all, it leads there by a shorter one."""
        room = replace(self.asked.room, start=self.asked.room.weights(state.change, torch.float64))
        return self._nearest(matrix, self.asked.target - state.moved, room).change

    def _shortened(
        self, state: State, way: Tensor, matrix: Tensor, before: float
    ) -> tuple[State, float, bool]:  # fmt: skip
        """The longest of ever shorter parts of a way that lowers the objective as it should."""
        promised = before - self._objective(state.change + way, state.moved + matrix @ way)
        size = 1.0
        while size >= SHORTEST:
            trial = self._tried(state.change + size * way)
            if trial is None:
                size *= 0.5
                continue
            gained = before - self._objective(trial.change, trial.moved)
            if gained >= DESCENT * size * promised:
                return trial, size, gained > STALLED * before
            size *= self._shorter(state, trial, size * (matrix @ way))
        self.kept.clear()
        return state, 0.0, False

    def _shorter(self, state: State, trial: State, slope: Tensor) -> float:
        """The share of a failed step that a parabola through both ends puts nearest to the target."""
        bend = trial.moved - state.moved - slope
        part = torch.linspace(0.1, 0.7, 61, dtype=slope.dtype)[:, None]
        missed = (state.moved + part * slope + part**2 * bend - self.asked.target) @ self.combine.T
        return float(part[missed.square().sum(dim=1).argmin(), 0])

    def _nearest(self, matrix: Tensor, aim: Tensor, room: WeightRoom | None = None) -> Nearest:
        whole = self.strengths._replace(rank=None, sparsity=self.strengths.sparsity if room is None else 0.0)
        return nearest(room or self.asked.room, self.combine @ matrix, self.combine @ aim, whole)

    def _objective(self, change: Tensor, moved: Tensor) -> float:
        """What rounds lower: half the square of what is missed and, with a ridge, the price of the change."""
        missed = 0.5 * float((self.combine @ (moved - self.asked.target)).square().sum())
        if self.strengths.ridge == 0.0:
            return missed
        room = self.asked.room
        moves = room.moves(change)
        price = (room.sizes * (0.5 * moves.square() + self.strengths.sparsity * moves.abs())).sum()
        return missed + self.strengths.ridge * float(price)

    def _tried(self, change: Tensor) -> State | None:
        try:
            return self._conditioned(change)
        except SolverError:
            return None  # no posterior settles there: a shorter step

    def _conditioned(self, change: Tensor) -> State:
        """The model on new weights: what has moved, and its response."""
        asked, source = self.asked, self.asked.source
        assert source is not None
        self.conditioned += 1
        self.kept.clear()  # one posterior beside the source's own: each may hold a factor
        posterior = source.posterior.reweighted(asked.room.weights(change, asked.dtype).to(asked.chi.matrix))
        now: Certified = certified_expectation(posterior, source.observable)
        self.kept["posterior"] = posterior
        moved, error = self._asked_for(now.value - self.before.value), self._asked_for(now.error + self.before.error)
        return State(change, moved, error)

    def _response(self) -> Tensor:
        """χ of the posterior that was conditioned last, (q, c)."""
        source = self.asked.source
        assert source is not None
        chi = susceptibility(self.kept["posterior"], source.observable, source.perturbation)
        return self._asked_for(chi.matrix)

    def _asked_for(self, every: Tensor) -> Tensor:
        return every.double().cpu()[self.asked.rows]

    def _reached(self, state: State) -> bool:
        target = self.asked.target
        return bool(((state.moved - target).abs() <= allowed(target, self.asked.tolerance)).all())

    def _done(self, state: State) -> bool:
        """Whether the target is met, in the combinations of observables that `rank` leaves. A ridge asks for more rounds."""
        if self.strengths.ridge > 0.0 or self.strengths.rank is None:
            return self.strengths.ridge == 0.0 and self._reached(state)
        missed, wanted = (self.combine @ part for part in (state.moved - self.asked.target, self.asked.target))
        return float(missed.norm()) <= self.asked.tolerance * float(wanted.norm())

    def _note(self, state: State, step: float, found: Nearest) -> None:
        target = self.asked.target
        share = shares(state.moved, target)[target != 0]
        missed = float((state.moved - target).abs().max()) / (float(target.abs().max()) or 1.0)
        least = float(share.min()) if len(share) else 1.0
        self.history.append(Linearisation(step, missed, least, found.feasible, self.conditioned))


def _leading(asked: Question, rank: int | None) -> Tensor:
    """The combinations of observables that the weights are to move, (r, q): all, or those that move most easily."""
    if rank is None:
        return torch.eye(len(asked.target), dtype=torch.float64)
    return torch.linalg.svd(asked.room.by_u(asked.matrix), full_matrices=False)[0][:, :rank].T


__all__ = ["Search"]
