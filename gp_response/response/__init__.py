"""Response: observables, perturbations, and how the first move when the second do."""

from gp_response.response.component import Component, component, component_covariance, components
from gp_response.response.convert import CONVENTIONS
from gp_response.response.energy import Energy
from gp_response.response.finite import finite_response
from gp_response.response.fluctuation import fdt_gap, fluctuation
from gp_response.response.leave_one_out import LeaveOneOut, leave_one_out
from gp_response.response.model_perturbations import (
    GlobalNoise,
    Hyperparameter,
    Mixture,
    Noise,
    ShiftInputs,
    Temperature,
    hyperparameter,
    mixture,
    noise,
    shift_inputs,
    temperature,
)
from gp_response.response.observable import Marginals, Observable
from gp_response.response.observables import (
    Average,
    Contrast,
    Gradient,
    Loss,
    Pointwise,
    Value,
    Variance,
    average,
    contrast,
    gradient,
    loss,
    pointwise,
    value,
    variance,
)
from gp_response.response.perturbation import Perturbation
from gp_response.response.perturbations import Delete, Insert, Relabel, Reweight, delete, insert, relabel, reweight
from gp_response.response.predict import Prediction, predict
from gp_response.response.refit import expectation, refit_response
from gp_response.response.restricted import RestrictedPosterior, restrict
from gp_response.response.result import Modes, Susceptibility
from gp_response.response.stored import StoredSusceptibility
from gp_response.response.structural import TwoChain, first_mode_share, structural, two_chain
from gp_response.response.structure import structure
from gp_response.response.susceptibility import susceptibility
from gp_response.response.whole import (
    Evidence,
    LearningCoefficient,
    Parameter,
    evidence,
    learning_coefficient,
    parameter,
)

__all__ = [
    "Component",
    "RestrictedPosterior",
    "TwoChain",
    "component",
    "component_covariance",
    "components",
    "first_mode_share",
    "restrict",
    "structural",
    "structure",
    "two_chain",
    "CONVENTIONS",
    "Average",
    "Contrast",
    "Delete",
    "Energy",
    "Evidence",
    "GlobalNoise",
    "Gradient",
    "Hyperparameter",
    "LearningCoefficient",
    "Mixture",
    "Noise",
    "Parameter",
    "ShiftInputs",
    "Temperature",
    "evidence",
    "gradient",
    "hyperparameter",
    "learning_coefficient",
    "mixture",
    "noise",
    "parameter",
    "shift_inputs",
    "temperature",
    "Insert",
    "LeaveOneOut",
    "Loss",
    "Marginals",
    "Modes",
    "Pointwise",
    "pointwise",
    "Observable",
    "Perturbation",
    "Prediction",
    "Relabel",
    "Reweight",
    "StoredSusceptibility",
    "Susceptibility",
    "Value",
    "Variance",
    "average",
    "contrast",
    "delete",
    "expectation",
    "fdt_gap",
    "fluctuation",
    "finite_response",
    "insert",
    "leave_one_out",
    "loss",
    "predict",
    "refit_response",
    "relabel",
    "reweight",
    "susceptibility",
    "value",
    "variance",
]
