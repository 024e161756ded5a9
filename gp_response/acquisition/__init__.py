"""Bayesian optimisation: a posterior as a BoTorch model, acquisition by response, and what drives a recommendation."""

from gp_response.acquisition.botorch import ExpectedSusceptibility, library, to_botorch
from gp_response.acquisition.drivers import Drivers, drivers

__all__ = ["Drivers", "ExpectedSusceptibility", "drivers", "library", "to_botorch"]
