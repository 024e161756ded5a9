"""Energies that are linear in the amplitude and sit at sites of one kind: what second derivatives are taken of."""

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.posterior import Posterior
from gp_response.response.energy import Energy
from gp_response.response.perturbation import Perturbation

STEP = 0.5  # an amplitude at which an energy that is not linear shows it
CLOSE = 1e-12


def require_field(posterior: Posterior, asker: str) -> None:
    """Refuse a posterior that finite changes leave no Gaussian field of."""
    if not posterior.conjugate:
        raise InputError(
            f"{asker} needs a Gaussian likelihood and this posterior has {posterior.likelihood!r}; use susceptibility, and "
            "refit_response(head, data, ..., h=...) for changes"
        )


def linear_energy(posterior: Posterior, perturbation: Perturbation, asker: str) -> Energy:
    """The energy of a perturbation, `h` times which is what it does at every amplitude.

    Raises:
        InputError: the likelihood is not Gaussian, or the perturbation does something else.
    """
    require_field(posterior, asker)
    energy = perturbation.energy_of(posterior)
    finite = perturbation.finite_energy_of(posterior, STEP)
    moves = not torch.equal(perturbation.finite_noise(posterior.noise, STEP), posterior.noise)
    if moves or not _same(energy.times(STEP), finite):
        raise InputError(
            f"{asker} needs an energy linear in h, which {perturbation.kind}'s is not; use susceptibility for its slope and "
            "finite_response or refit_response for changes"
        )
    return energy


def _same(one: Energy, two: Energy) -> bool:
    if len(one.parts) != len(two.parts) or one.at.shape != two.at.shape:
        return False
    if one.also is not None and two.also is not None and not _same(one.also, two.also):
        return False
    places = torch.equal(one.at, two.at) and torch.equal(one.column, two.column)
    forces = _close(one.pull + one.curvature * one.target, two.pull + two.curvature * two.target)
    return places and _close(one.curvature, two.curvature) and forces


def _close(one: Tensor, two: Tensor) -> bool:
    return bool(((one - two).abs() <= CLOSE * (one.abs() + two.abs())).all())


__all__ = ["linear_energy", "require_field"]
