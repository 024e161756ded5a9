"""First-order response: `d⟨O⟩/dh = -β Cov(O, V)` in closed form, with an error bound for every entry."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError
from gp_response.heads.sampling import Draws
from gp_response.linalg.blocks import block_size, byte_budget, point_bytes
from gp_response.linalg.memory import free_bytes
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.assemble import Answer, Rows, assemble, count_observables, points_of
from gp_response.response.fingerprint import fingerprint
from gp_response.response.from_sites import viewed
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Source, Susceptibility
from gp_response.response.sampled import sampled_susceptibility
from gp_response.response.shared import shared
from gp_response.response.stored import StoredSusceptibility, store_for
from gp_response.response.whole import Whole

MOST_ROWS = 512  # observables written together: what a killed process loses at most


def susceptibility(
    posterior: Posterior,
    observable: Observable,
    perturbation: Perturbation,
    *,
    budget: float | None = None,
    out: Path | str | None = None,
    share: bool = False,
    progress: bool = False,
) -> Susceptibility | StoredSusceptibility:
    """How each observable moves per unit of each perturbation, at fixed hyperparameters.

    A perturbation adds `h V` to the energy `Σ ρ_i ℓ_i`; by the fluctuation-dissipation theorem the derivative of the
    refitted expectation is a posterior covariance (Kubo 1966; Giordano, Broderick & Jordan 2018, theorem 1). For a
    Gaussian field it is closed: means move by `β S g`, variances by `-β S² a`, with `S` the posterior covariance
    between point and site, `a` the curvature of V and `g` its force at the posterior mean.

    Where the likelihood is not Gaussian the Gaussian approximation itself moves, and its covariance is not its response:
    the stationarity condition of the approximation is differentiated instead, adjoint to each observable (linear-response
    variational Bayes, Giordano, Broderick & Jordan 2018). `fluctuation` has the covariance; `fdt_gap` compares.

    Args:
        posterior: from a head; of `gr.draws`, covariances are estimated and the error is an interval (`SampledSusceptibility`).
        observable: m functionals, e.g. `value(x)`.
        perturbation: c columns, e.g. `reweight()`.
        budget: bytes to work in beside the result; None takes a quarter of what is free. The observable's points are
            taken in blocks that fit, which changes the result by rounding only.
        out: folder of a zarr archive to write to, block by block, instead of keeping the matrix in memory. Called
            again with the same arguments, an interrupted computation goes on from the blocks that are there.
        share: several processes, on several machines that see the folder, call this with the same arguments at once, and each
            computes the blocks that it claims; all return when the last block is there. Blocks of a process that dies are
            taken over: at once on the same machine, else after a minute of silence.
        progress: show a bar over points.

    Returns:
        a `Susceptibility` with `.matrix` (m, c), `.error` (m, c) and names; one solve per observable point, or, where there are
            many and few rows are perturbed, one per row. With `out` a `StoredSusceptibility`, which reads from the archive what is
            asked for.

    Raises:
        InputError: the matrix does not fit into memory and no `out` was given; `out` holds something else; `share` without `out`.
    """
    require_posterior(posterior, "susceptibility")
    require_asked(observable, perturbation, "susceptibility")
    if share and out is None:
        raise InputError("share=True needs out=, the folder of the archive that the processes fill together")
    if isinstance(posterior, Draws):
        if out is not None:
            raise InputError("draws are not taken block by block; leave out= away, or ask for fewer observables")
        return sampled_susceptibility(posterior, observable, perturbation)
    with torch.no_grad():
        if isinstance(observable, Whole):
            return _whole(posterior, observable, perturbation, out)
        asked = FirstOrder(posterior, observable, perturbation)
        room = byte_budget(budget, posterior.data.train.x.device)
        if out is None:
            return asked.in_memory(room, progress)
        return asked.in_store(Path(out), room, progress, share)


class FirstOrder:
    """One posterior, observable and perturbation: answers at any of the observable's points."""

    def __init__(self, posterior: Posterior, observable: Observable, perturbation: Perturbation):
        self.posterior, self.asked, self.perturbation = posterior, observable, perturbation
        self.observable = observable.under(posterior)
        self.look = posterior.look(self.observable.look())
        self.motion = perturbation.motion(posterior)
        self.like = posterior.residuals.value  # what probes compute in; the result is rounded to the data's precision
        self.count = count_observables(self.observable)
        self.probe = viewed(posterior, self.observable, self.motion.energies(), len(self.look))

    def answer(self, where: Tensor) -> Answer:
        """Derivatives of the functional at the points `where` (q,) by every column, (q, c)."""
        probe, motion = self.probe(self.look[where]), self.motion
        at = Marginals(probe.mean.value, probe.variance.value, self.posterior.noise)
        found = motion.answer(probe, self.observable.derivatives(at, where))
        lost = self.observable.rounding_of_derivatives(at) if self.posterior.conjugate else None
        if lost is not None:
            moved = [part.value.abs() for part in motion.marginals(probe)]
            rounding = sum(off[:, None] * part for off, part in zip(lost, moved, strict=True))
            found = found._replace(error=found.error + rounding)
        if motion.noise is None:
            return found
        slope, by_mean, by_variance = self.observable.noise_slope(at, where)
        off = by_mean.abs() * probe.mean.error + by_variance.abs() * probe.variance.error
        value, error = slope[:, None] * motion.noise, off[:, None] * motion.noise.abs()
        return Answer(found.value + value, found.error + error, found.converged)

    def in_memory(self, room: int, progress: bool) -> Susceptibility:
        self._refuse_what_does_not_fit()
        step = self._points_within(room)
        with tqdm(total=len(self.look), desc="susceptibility", disable=not progress, leave=False) as bar:
            rows = self._rows(0, self.count, step, bar)
        return Susceptibility.named(
            self.posterior.data, self.observable, self.perturbation, beta=self.posterior.beta,
            matrix=rows.matrix, error=rows.error, flagged=rows.flagged, order="first",
            source=Source(self.posterior, self.asked, self.perturbation),
            columns=self.perturbation.columns_of(self.posterior),
        )  # fmt: skip

    def in_store(self, path: Path, room: int, progress: bool, share: bool = False) -> StoredSusceptibility:
        empty = self.like.new_zeros(0, self.motion.columns)
        described = Susceptibility.named(
            self.posterior.data, self.observable, self.perturbation, beta=self.posterior.beta, matrix=empty, error=empty,
            flagged=torch.zeros(0, dtype=torch.bool), order="first",
            columns=self.perturbation.columns_of(self.posterior),
        )  # fmt: skip
        facts = [getattr(described, name) for name in Susceptibility.facts()]
        mark = fingerprint(
            "first", self.posterior, type(self.observable).__qualname__, self.look.points, self.look.direction,
            self.observable.weights, self.observable.local_data(), _answers(self.observable), described.rows,
            described.columns, facts, self._marks(),
        )  # fmt: skip
        store = store_for(path, described, mark, block=self._rows_within(room))
        step = self._points_within(room // 2)
        total = sum(len(points_of(self.observable, *store.range(block))) for block in store.pending())
        with tqdm(total=total, desc=f"susceptibility to {path.name}", disable=not progress, leave=False) as bar:
            for block in shared(store) if share else store.pending():
                rows = self._rows(*store.range(block), step, bar)
                matrix, error = rounded(Certified(rows.matrix, rows.error), described.matrix.dtype)
                store.write(block, {"response": matrix, "error": error, "flagged": rows.flagged})
        return StoredSusceptibility.open(path)

    def _marks(self) -> list[Any]:
        """The motion stands for the perturbation. Where its forces come out of an iteration, those under unit noise, which are
        the same to the last bit on any machine."""
        if self.posterior.conjugate:
            return self.motion.marks()
        data = self.posterior.data.to(dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64, device=data.train.x.device)
        return list(vars(self.perturbation.energy(data, one)).values())

    def _rows(self, start: int, stop: int, step: int, bar: tqdm) -> Rows:
        def answer(where: Tensor) -> Answer:
            found = self.answer(where)
            bar.update(len(where))
            return found

        return assemble(
            self.observable, start, stop, self.motion.columns, step=step, answer=answer, like=self.like
        )  # fmt: skip

    def _points_within(self, room: int) -> int:
        each = point_bytes(self.posterior.width, self.like, columns=self.motion.width)
        return block_size(each, room, most=min(len(self.look), self.posterior.together))

    def _rows_within(self, room: int) -> int:
        """Observables in a block: one batch of points when each has its own; what half the budget holds otherwise, so
        that points shared by many are solved as few times as can be."""
        if self.observable.weights is None:
            return min(self._points_within(room // 2), MOST_ROWS)
        each = 3 * self.motion.columns * self.like.element_size()
        return min(block_size(each, room // 2, most=self.count), MOST_ROWS)

    def _refuse_what_does_not_fit(self) -> None:
        need, have = 2 * self.count * self.motion.columns * self.like.element_size(), free_bytes(self.like.device)
        if have is not None and need > have:
            raise InputError(
                f"a response of {self.count} x {self.motion.columns} and its errors need {need / 2**30:.1f} GiB and "
                f'{have / 2**30:.1f} GiB are free; write it to disk by out="chi.zarr"'
            )


def _answers(observable: Observable) -> Tensor:
    """Expectations at a few marginals, which tell functions apart that have the same points and labels."""
    p = len(observable.points)
    grid = torch.tensor([[-1.7, 0.3], [-0.4, 1.0], [0.2, 0.05], [0.9, 2.0], [2.6, 0.6]], dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    data = tuple(part.cpu() for part in observable.local_data())
    values = [observable.local(mean.expand(p), variance.expand(p), one, *data) for mean, variance in grid]
    return torch.stack(values).float()


def _whole(posterior: Posterior, observable: Whole, perturbation: Perturbation, out: Any) -> Susceptibility:
    """Responses of observables that read no points."""
    if out is not None:
        raise InputError(f"{observable.kind} has one row for all columns, which fits into memory; leave out= away")
    shown = observable.under(posterior)
    motion = perturbation.motion(posterior)
    matrix, error = shown.moved(motion)  # type: ignore[attr-defined]
    return Susceptibility.named(
        posterior.data, shown, perturbation, beta=posterior.beta, matrix=matrix, error=error, order="first",
        flagged=~torch.isfinite(error).all(dim=1), columns=perturbation.columns_of(posterior),
        source=Source(posterior, observable, perturbation),
    )  # fmt: skip


__all__ = ["susceptibility"]
