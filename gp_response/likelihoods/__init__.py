"""Likelihoods: one observation given the field."""

from gp_response.likelihoods.base import Likelihood, Slopes
from gp_response.likelihoods.bernoulli import Bernoulli
from gp_response.likelihoods.categorical import Categorical
from gp_response.likelihoods.gaussian import Gaussian, RowGaussian
from gp_response.likelihoods.poisson import Poisson
from gp_response.likelihoods.probit import Probit
from gp_response.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Likelihood",
    "Poisson",
    "Probit",
    "RowGaussian",
    "Slopes",
    "StudentT",
]
